#include "libchunk/store_crash_run.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libchunk/seeded_random.h"
#include "libchunk/sim_disk.h"
#include "libchunk/status_macros.h"
#include "libchunk/store.h"
#include "libchunk/store_model.h"

namespace tessera::chunk {
namespace {

constexpr char kFolder[] = "/device";
constexpr uint32_t kChunkBytes = 256u << 10;
constexpr uint32_t kSectorsInChunk = kChunkBytes / kSectorBytes;
constexpr uint32_t kBlocksInChunk = kChunkBytes / kBlockBytes;
constexpr uint64_t kPlacementGroups = 2;
constexpr uint64_t kVtrees = 3;
constexpr uint64_t kChunksOfVtree = 4;
constexpr uint64_t kSnapshots = 2;
constexpr size_t kBatchMax = 8;
constexpr uint64_t kOperationsBetweenTroublesMax = 400;

// What a change in a batch was made of; outlives the call.
struct PlannedChange {
  Change change;
  std::vector<uint64_t> stamps;
  std::vector<std::byte> bytes;
  std::vector<std::span<const std::byte>> slices;
  bool valid = true;
};

absl::Status Violation(const std::string& text) { return absl::FailedPreconditionError(text); }

class CrashRun {
 public:
  CrashRun(const CrashRunOptions& options, CrashRunStatistics& statistics)
      : options_(options),
        statistics_(statistics),
        random_(options.seed),
        disk_({.seed = options.seed ^ 0x5deece66du}),
        model_(kChunkBytes) {}

  absl::Status Run();

 private:
  // ---- Operations (store_crash_run.cc, first half). Each returns OK or the promise that it saw
  // broken.
  absl::Status Operate();
  absl::Status DoApply();
  absl::Status DoRead();
  absl::Status DoReadCached();
  absl::Status DoMap();
  absl::Status DoFlush();
  absl::Status DoBackgroundWork();
  absl::Status DoCopyImage();
  absl::Status DoDelete();
  absl::Status DoCursor();
  absl::Status DoDropAll();
  absl::Status DoObserve();

  PlannedChange PlanChange();
  void PlanRange(PlannedChange& planned);
  ChunkKey PickKey();
  StreamId StreamOf(const ChunkKey& key) const;
  Version NextVersion() { return {1 + sequence_ / 1000, ++sequence_}; }
  uint64_t Stamp(uint32_t sector) { return (stamp_ << 16) | (sector + 1); }

  // After a change to the model and a call for it: keeps, takes back or leaves the model's steps
  // from `before` on as in flight, by what the call returned.
  absl::Status Settle(const std::string& what, size_t before, const absl::Status& status,
                      bool may_be_exhausted);
  // A failed read-like call is excused while trouble is at work.
  absl::Status Excuse(const std::string& what, const absl::Status& status);
  bool TroubleStruck() { return disk_.off() || disk_.fault_struck(); }
  bool StoreIsFailed() { return !store_->failed().ok(); }
  absl::Status CompareRange(const ChunkKey& key, uint32_t offset_bytes,
                            std::span<const std::byte> bytes);

  // ---- Troubles.
  Trouble PickTrouble();
  void Plan(Trouble trouble);
  absl::Status Endure(Trouble trouble);
  absl::Status CheckFailedStore();
  absl::Status Restart(bool close);
  absl::Status FlipAndRead();
  absl::Status Recover(bool lose_power, bool faults_struck);
  absl::Status OpenAndCheck(bool power_lost, size_t least, bool faults_struck, bool clean);
  void Stop(bool lose_power);
  void Trace(const std::string& line);

  const CrashRunOptions options_;
  CrashRunStatistics& statistics_;
  SeededRandom random_;
  SimulatedDisk disk_;
  StoreModel model_;
  StoreOptions store_options_;
  std::unique_ptr<Store> store_;
  uint64_t incarnation_ = 0;
  uint64_t sequence_ = 0;
  uint64_t stamp_ = 0;
  bool device_is_tight_ = false;
  bool loss_told_ = false;  // by the last Open, and nothing flushed since
  bool ended_ = false;
};

void CrashRun::Trace(const std::string& line) {
  if (options_.trace) std::fprintf(stderr, "%6lu %s\n", statistics_.operations, line.c_str());
}

// ---- Planning of changes ---------------------------------------------------------------------

ChunkKey CrashRun::PickKey() {
  if (random_.Chance(1, 3)) return {1, 0, 0};  // hot
  return {random_.Between(1, kVtrees), random_.Below(kChunksOfVtree), random_.Below(kSnapshots)};
}

StreamId CrashRun::StreamOf(const ChunkKey& key) const {
  return {key.vtree_id, 1 + key.chunk_index % kPlacementGroups};
}

void CrashRun::PlanRange(PlannedChange& planned) {
  Change& change = planned.change;
  uint32_t first = 0;
  uint32_t count = 0;  // both in sectors
  constexpr uint32_t kSectorsInBlock = kBlockBytes / kSectorBytes;
  const uint64_t shape = random_.Below(16);
  if (shape < 7) {  // any sectors
    count = static_cast<uint32_t>(random_.Between(1, 24));
    first = static_cast<uint32_t>(random_.Below(kSectorsInChunk - count + 1));
  } else {
    const uint64_t blocks = shape < 12   ? random_.Between(1, 4)
                            : shape < 15 ? random_.Between(8, 24)
                                         : random_.Between(24, kBlocksInChunk);
    count = static_cast<uint32_t>(blocks) * kSectorsInBlock;
    first = static_cast<uint32_t>(random_.Below(kBlocksInChunk - blocks + 1)) * kSectorsInBlock;
  }
  change.offset_bytes = first * kSectorBytes;
  change.length_bytes = count * kSectorBytes;
}

PlannedChange CrashRun::PlanChange() {
  PlannedChange planned;
  Change& change = planned.change;
  change.key = PickKey();
  change.stream = StreamOf(change.key);
  change.version = NextVersion();
  change.incomplete = random_.Chance(1, 32);
  change.keep_cursor = random_.Chance(1, 16);
  const uint64_t kind = random_.Below(8);
  change.kind = kind < 6   ? ChangeKind::kWrite
                : kind < 7 ? ChangeKind::kWriteZeroes
                           : ChangeKind::kTrim;
  PlanRange(planned);
  if (change.kind == ChangeKind::kWrite) {
    ++stamp_;
    const bool zeros = random_.Chance(1, 32);
    const uint32_t sectors = change.length_bytes / kSectorBytes;
    planned.bytes.resize(change.length_bytes);
    for (uint32_t i = 0; i < sectors; ++i) {
      planned.stamps.push_back(zeros ? 0 : Stamp(change.offset_bytes / kSectorBytes + i));
      FillSector(planned.stamps.back(),
                 std::span(planned.bytes).subspan(i * kSectorBytes).first<kSectorBytes>());
    }
    std::span<const std::byte> rest = planned.bytes;
    while (!rest.empty()) {
      const size_t length = random_.Chance(1, 2) ? rest.size() : random_.Between(1, rest.size());
      planned.slices.push_back(rest.first(length));
      rest = rest.subspan(length);
    }
  }
  if (random_.Chance(1, 64)) {
    planned.valid = false;
    switch (random_.Below(3)) {
      case 0:
        change.offset_bytes += 256;
        break;
      case 1:
        change.offset_bytes = kChunkBytes - change.length_bytes + kSectorBytes;
        break;
      default:
        change.offset_bytes = 0xfffffe00u;  // offset + length wraps
        break;
    }
  }
  return planned;
}

// ---- Operations ------------------------------------------------------------------------------

absl::Status CrashRun::Settle(const std::string& what, size_t before, const absl::Status& status,
                              bool may_be_exhausted) {
  Trace(absl::StrCat(what, ": ", status.ToString()));
  if (status.ok()) {
    model_.AcknowledgeAll();
    return absl::OkStatus();
  }
  if (absl::IsResourceExhausted(status) && !disk_.off()) {
    ++statistics_.exhausted;
    model_.GoBackTo(before);
    if (may_be_exhausted || device_is_tight_ || disk_.fault_struck()) return absl::OkStatus();
    return Violation(absl::StrCat(what, " needs no space but got: ", status.ToString()));
  }
  if (!TroubleStruck() && !(device_is_tight_ && StoreIsFailed())) {
    return Violation(absl::StrCat(what, " failed for no reason: ", status.ToString()));
  }
  // Without a failed store nothing may have happened; else it may be in or out.
  if (!disk_.off() && !StoreIsFailed()) model_.GoBackTo(before);
  return absl::OkStatus();
}

absl::Status CrashRun::Excuse(const std::string& what, const absl::Status& status) {
  Trace(absl::StrCat(what, ": ", status.ToString()));
  if (status.ok() || TroubleStruck() || device_is_tight_) return absl::OkStatus();
  return Violation(absl::StrCat(what, " failed for no reason: ", status.ToString()));
}

absl::Status CrashRun::DoApply() {
  const size_t count = random_.Chance(1, 2) ? 1 : random_.Between(2, kBatchMax);
  std::vector<PlannedChange> planned;
  std::vector<Change> changes;
  for (size_t i = 0; i < count; ++i) planned.push_back(PlanChange());
  for (PlannedChange& plan : planned) {
    plan.change.data = plan.slices;
    changes.push_back(plan.change);
  }
  std::vector<absl::Status> results(count);
  store_->Apply(changes, results);
  std::set<StreamId> broken;     // streams with a refused change: what follows is not applied
  std::set<StreamId> uncertain;  // streams with a change in flight: so is what follows
  std::vector<size_t> in_flight;
  for (size_t i = 0; i < count; ++i) {
    const Change& change = changes[i];
    const std::string what = absl::StrCat(
        "apply ", i + 1, " of ", count, " kind ", static_cast<int>(change.kind), " to ",
        Describe(change.key), " at ", change.offset_bytes, "+", change.length_bytes);
    const absl::Status& result = results[i];
    const bool excused = TroubleStruck() && !result.ok();  // off or failed, any error does
    if (broken.contains(change.stream) || uncertain.contains(change.stream)) {
      Trace(absl::StrCat(what, ": ", result.ToString()));
      if (!absl::IsAborted(result) && !excused) {
        return Violation(absl::StrCat(what, " follows a failed one but got ", result.ToString()));
      }
      // One record may hold them all, and be on the device though its write failed.
      if (!broken.contains(change.stream)) in_flight.push_back(i);
      continue;
    }
    if (!planned[i].valid) {
      Trace(absl::StrCat(what, ": ", result.ToString()));
      broken.insert(change.stream);
      if (absl::IsInvalidArgument(result) || excused) continue;
      return Violation(absl::StrCat(what, " is invalid but got ", result.ToString()));
    }
    const size_t before = model_.steps();
    if (result.ok()) {
      model_.Apply(change, planned[i].stamps);
      ++statistics_.changes;
    } else if (absl::IsResourceExhausted(result)) {
      broken.insert(change.stream);
    } else {
      uncertain.insert(change.stream);
      in_flight.push_back(i);
    }
    CHUNK_RETURN_IF_ERROR(Settle(what, before, result, change.kind == ChangeKind::kWrite));
  }
  if (!in_flight.empty() && (disk_.off() || StoreIsFailed())) {
    for (const size_t i : in_flight) {
      if (planned[i].valid) model_.Apply(changes[i], planned[i].stamps);
    }
  }
  return absl::OkStatus();
}

absl::Status CrashRun::CompareRange(const ChunkKey& key, uint32_t offset_bytes,
                                    std::span<const std::byte> bytes) {
  const ModelChunkPointer chunk = model_.Find(key);
  for (size_t i = 0; i * kSectorBytes < bytes.size(); ++i) {
    const size_t sector = offset_bytes / kSectorBytes + i;
    const uint64_t expected = chunk == nullptr ? 0 : chunk->stamps[sector];
    const auto found = StampOfSector(bytes.subspan(i * kSectorBytes).first<kSectorBytes>());
    if (found == expected) continue;
    return Violation(absl::StrCat(
        "read of ", Describe(key), " sector ", sector, " gave ",
        found.has_value() ? absl::StrCat("stamp ", absl::Hex(*found)) : "bytes nobody wrote",
        ", expected stamp ", absl::Hex(expected)));
  }
  return absl::OkStatus();
}

absl::Status CrashRun::DoRead() {
  PlannedChange planned;
  PlanRange(planned);
  const ChunkKey key = PickKey();
  std::vector<std::byte> out(planned.change.length_bytes, std::byte{0xee});
  ++statistics_.reads;
  const absl::Status status = store_->Read(key, planned.change.offset_bytes, out);
  if (!status.ok()) return Excuse(absl::StrCat("read of ", Describe(key)), status);
  return CompareRange(key, planned.change.offset_bytes, out);
}

absl::Status CrashRun::DoReadCached() {
  PlannedChange planned;
  PlanRange(planned);
  const ChunkKey key = PickKey();
  std::vector<std::byte> out(planned.change.length_bytes, std::byte{0xee});
  ++statistics_.reads;
  const absl::Status status = store_->ReadCached(key, planned.change.offset_bytes, out);
  if (absl::IsUnavailable(status)) return absl::OkStatus();
  if (!status.ok()) return Excuse(absl::StrCat("cached read of ", Describe(key)), status);
  return CompareRange(key, planned.change.offset_bytes, out);
}

absl::Status CrashRun::DoMap() {
  const ChunkKey key = PickKey();
  const uint32_t first = static_cast<uint32_t>(random_.Below(kBlocksInChunk));
  const uint32_t count = static_cast<uint32_t>(random_.Between(1, kBlocksInChunk - first));
  const auto extents = store_->Map(key, first * kBlockBytes, count * kBlockBytes);
  if (!extents.ok()) return Excuse(absl::StrCat("map of ", Describe(key)), extents.status());
  const ModelChunkPointer chunk = model_.Find(key);
  uint32_t at = first * kBlockBytes;
  std::optional<bool> last;
  for (const Extent& extent : *extents) {
    if (extent.offset_bytes != at || extent.length_bytes == 0 || last == extent.mapped) {
      return Violation(absl::StrCat("map of ", Describe(key), " is not a list of merged extents"));
    }
    last = extent.mapped;
    for (; at < extent.offset_bytes + extent.length_bytes; at += kBlockBytes) {
      const bool mapped = chunk != nullptr && chunk->mapped[at / kBlockBytes];
      if (mapped == extent.mapped) continue;
      return Violation(absl::StrCat("map of ", Describe(key), " block ", at / kBlockBytes, " says ",
                                    extent.mapped, ", expected ", mapped));
    }
  }
  if (at == (first + count) * kBlockBytes) return absl::OkStatus();
  return Violation(absl::StrCat("map of ", Describe(key), " does not cover the range"));
}

absl::Status CrashRun::DoFlush() {
  ++statistics_.flushes;
  absl::Status status = absl::UnknownError("FlushAsync did not call back");
  if (random_.Chance(1, 2)) {
    status = store_->Flush();
  } else {
    store_->FlushAsync([&](absl::Status result) { status = std::move(result); });
  }
  if (status.ok()) {
    Trace("flush: OK");
    model_.Flushed();
    loss_told_ = false;
    return absl::OkStatus();
  }
  CHUNK_RETURN_IF_ERROR(Excuse("flush", status));
  if (!disk_.off() && !StoreIsFailed()) {
    return Violation(absl::StrCat("a flush failed, the store did not: ", status.ToString()));
  }
  return absl::OkStatus();
}

absl::Status CrashRun::DoBackgroundWork() {
  ++statistics_.checkpoints;
  return Excuse("background work", store_->RunBackgroundWork(random_.Chance(1, 2)));
}

absl::Status CrashRun::DoCopyImage() {
  const ChunkKey from = PickKey();
  ChunkKey to = PickKey();
  to.chunk_index = from.chunk_index;  // the same placement group
  const ModelChunkPointer source = model_.Find(from);
  auto image = store_->ReadImage(from);
  if (!image.ok()) {
    if (source == nullptr && absl::IsNotFound(image.status())) return absl::OkStatus();
    return Excuse(absl::StrCat("image of ", Describe(from)), image.status());
  }
  if (source == nullptr) return Violation(absl::StrCat(Describe(from), " should not exist"));
  image->info.key = to;
  image->info.incomplete = false;  // only trusted copies are sources
  if (random_.Chance(1, 4)) image->info.version = NextVersion();
  ModelChunk content = *source;
  content.version = image->info.version;
  std::vector<uint64_t> keep;
  if (random_.Chance(1, 2)) keep.assign((kBlocksInChunk + 63) / 64, random_.Next());
  const size_t before = model_.steps();
  const absl::Status status = store_->ApplyImage(*image, keep);
  model_.ApplyImage(to, content, keep);
  return Settle(absl::StrCat("image of ", Describe(from), " to ", Describe(to)), before, status,
                /*may_be_exhausted=*/true);
}

absl::Status CrashRun::DoDelete() {
  const ChunkKey key = PickKey();
  const size_t before = model_.steps();
  const absl::Status status = store_->DeleteChunk(key);
  model_.DeleteChunk(key);
  return Settle(absl::StrCat("delete of ", Describe(key)), before, status,
                /*may_be_exhausted=*/false);
}

absl::Status CrashRun::DoCursor() {
  const StreamId stream = StreamOf(PickKey());
  const size_t before = model_.steps();
  const Version version = NextVersion();
  const absl::Status status = store_->SetCursor(stream, version);
  model_.SetCursor(stream, version);
  return Settle("set cursor", before, status, /*may_be_exhausted=*/false);
}

absl::Status CrashRun::DoDropAll() {
  const size_t before = model_.steps();
  if (random_.Chance(1, 2)) {
    const uint64_t group = random_.Between(1, kPlacementGroups);
    const absl::Status status = store_->DropPlacementGroup(group);
    model_.DropPlacementGroup(group);
    return Settle(absl::StrCat("drop placement group ", group), before, status,
                  /*may_be_exhausted=*/false);
  }
  const uint64_t vtree = random_.Between(1, kVtrees);
  const uint64_t group = random_.Below(kPlacementGroups + 1);
  const absl::Status status = store_->DeleteVtree(vtree, group);
  model_.DeleteVtree(vtree, group);
  if (!status.ok() && !disk_.off() && !StoreIsFailed()) {
    // Several records: an error may leave a part done, and says so by being an error.
    CHUNK_RETURN_IF_ERROR(Excuse("delete vtree", status));
    const auto found = ObserveStore(*store_, kPlacementGroups, model_.state(),
                                    [](const ChunkKey&) { return false; });
    if (!found.ok()) return Excuse("observation", found.status());
    return model_.AdoptPrefix(*found, before).status();
  }
  return Settle(absl::StrCat("delete vtree ", vtree, " group ", group), before, status,
                /*may_be_exhausted=*/false);
}

absl::Status CrashRun::DoObserve() {
  const auto found = ObserveStore(*store_, kPlacementGroups, model_.state(),
                                  [&](const ChunkKey&) { return random_.Chance(1, 4); });
  if (!found.ok()) return Excuse("observation", found.status());
  // Nothing was lost: the state after all steps, none less.
  CHUNK_RETURN_IF_ERROR(model_.AdoptPrefix(*found, model_.steps()).status());
  const StoreStats stats = store_->stats();
  if (stats.chunks != model_.state().chunks.size()) {
    return Violation(
        absl::StrCat("stats: ", stats.chunks, " chunks, expected ", model_.state().chunks.size()));
  }
  if (stats.data_bytes != model_.mapped_blocks() * kBlockBytes) {
    return Violation(absl::StrCat("stats: ", stats.data_bytes, " data bytes, expected ",
                                  model_.mapped_blocks() * kBlockBytes));
  }
  if (stats.checksum_errors != 0) return Violation("stats: checksum errors");
  return absl::OkStatus();
}

absl::Status CrashRun::Operate() {
  ++statistics_.operations;
  const uint64_t draw = random_.Below(256);
  if (draw < 110) return DoApply();
  if (draw < 170) return DoRead();
  if (draw < 190) return DoReadCached();
  if (draw < 200) return DoMap();
  if (draw < 222) return DoFlush();
  if (draw < 230) return DoBackgroundWork();
  if (draw < 238) return DoCopyImage();
  if (draw < 246) return DoDelete();
  if (draw < 251) return DoCursor();
  if (draw < 254) return DoObserve();
  return DoDropAll();
}

// ---- Troubles --------------------------------------------------------------------------------

Trouble CrashRun::PickTrouble() {
  while (true) {
    // Crashes most of all; flipped bits end the run, so they are rare.
    const uint64_t draw = random_.Below(64);
    const Trouble trouble = draw < 18   ? Trouble::kProcessCrash
                            : draw < 44 ? Trouble::kPowerLoss
                            : draw < 46 ? Trouble::kCleanRestart
                            : draw < 48 ? Trouble::kAbandon
                            : draw < 51 ? Trouble::kReadError
                            : draw < 56 ? Trouble::kWriteError
                            : draw < 60 ? Trouble::kSyncError
                            : draw < 63 ? Trouble::kNoSpace
                                        : Trouble::kFlippedBits;
    if ((options_.troubles & (1u << static_cast<int>(trouble))) != 0) return trouble;
  }
}

void CrashRun::Plan(Trouble trouble) {
  Trace(absl::StrCat("plan ", TroubleName(trouble)));
  // Small numbers often: the trouble then falls early after the last one.
  const uint64_t nth = random_.Between(1, uint64_t{1} << random_.Between(1, 9));
  const auto any_of = [&](std::initializer_list<CallKind> kinds) {
    return kinds.begin()[random_.Below(kinds.size())];
  };
  switch (trouble) {
    case Trouble::kProcessCrash:
    case Trouble::kPowerLoss:
      disk_.CrashAtChange(nth);
      break;
    case Trouble::kReadError:
      disk_.FailCall(
          any_of({CallKind::kRead, CallKind::kRead, CallKind::kReadCached, CallKind::kQuery}), nth,
          FaultKind::kInputOutputError);
      break;
    case Trouble::kWriteError:
      disk_.FailCall(any_of({CallKind::kWrite, CallKind::kWrite, CallKind::kPunchHole,
                             CallKind::kAllocate, CallKind::kTruncate, CallKind::kSyncFolder}),
                     nth,
                     random_.Chance(1, 2) ? FaultKind::kInputOutputError : FaultKind::kShortWrite,
                     random_.Chance(1, 2));
      break;
    case Trouble::kSyncError:
      disk_.FailCall(CallKind::kSyncData, 1 + nth / 16, FaultKind::kInputOutputError,
                     random_.Chance(1, 4));
      break;
    case Trouble::kNoSpace:
      if (random_.Chance(1, 2)) {
        disk_.FailCall(any_of({CallKind::kWrite, CallKind::kAllocate}), nth, FaultKind::kNoSpace);
      } else {
        device_is_tight_ = true;
        disk_.set_capacity_bytes(disk_.used_bytes() + random_.Below(1u << 20));
      }
      break;
    case Trouble::kCleanRestart:
    case Trouble::kAbandon:
    case Trouble::kFlippedBits:
      break;
  }
}

// A failed store: no change is taken, no wrong byte read.
absl::Status CrashRun::CheckFailedStore() {
  disk_.CancelFault();
  if (!StoreIsFailed()) return absl::OkStatus();
  for (int i = 0; i < 4; ++i) {
    PlannedChange planned = PlanChange();
    if (!planned.valid) continue;
    planned.change.data = planned.slices;
    absl::Status result;
    store_->Apply({&planned.change, 1}, {&result, 1});
    if (!absl::IsFailedPrecondition(result)) {
      return Violation(absl::StrCat("a failed store answers a change with ", result.ToString()));
    }
    result = store_->Flush();
    if (!absl::IsFailedPrecondition(result)) {
      return Violation(absl::StrCat("a failed store answers a flush with ", result.ToString()));
    }
    // What was in flight may be seen or not; the chunks it did not touch must be right.
    const ChunkKey key = PickKey();
    std::vector<std::byte> out(kChunkBytes);
    if (!store_->Read(key, 0, out).ok()) continue;
    const size_t steps = model_.steps();
    absl::Status same = CompareRange(key, 0, out);
    if (!same.ok() && steps > model_.acknowledged() && model_.TouchedSinceFlush(key)) continue;
    CHUNK_RETURN_IF_ERROR(same);
  }
  return absl::OkStatus();
}

absl::Status CrashRun::FlipAndRead() {
  CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/true));
  const std::string path = absl::StrCat(kFolder, "/data");
  const auto file = disk_.OpenFile(path, OpenMode::kMustExist);
  CHUNK_RETURN_IF_ERROR(file.status());
  const auto size = (*file)->Size();
  CHUNK_RETURN_IF_ERROR(size.status());
  const uint64_t flips = *size == 0 ? 0 : random_.Between(1, 8);
  for (uint64_t i = 0; i < flips; ++i) {
    const auto mask = static_cast<std::byte>(1u << random_.Below(8));
    CHUNK_RETURN_IF_ERROR(disk_.FlipBits(path, random_.Below(*size), mask));
  }
  uint64_t lost_blocks = 0;
  for (const auto& [key, chunk] : model_.state().chunks) {
    for (uint32_t block = 0; block < kBlocksInChunk; ++block) {
      std::vector<std::byte> out(kBlockBytes);
      const absl::Status status = store_->Read(key, block * kBlockBytes, out);
      if (status.ok()) {
        CHUNK_RETURN_IF_ERROR(CompareRange(key, block * kBlockBytes, out));
      } else if (absl::IsDataLoss(status)) {
        ++lost_blocks;
      } else {
        return Violation(absl::StrCat("read after flipped bits: ", status.ToString()));
      }
    }
  }
  uint64_t reported = 0;
  CHUNK_RETURN_IF_ERROR(
      store_->VerifyAll([&](const ChunkKey&, uint32_t, const absl::Status&) { ++reported; }));
  if (lost_blocks > flips) return Violation("more blocks lost than bits flipped");
  if (reported != lost_blocks) {
    return Violation(
        absl::StrCat("VerifyAll reports ", reported, " bad blocks, reads ", lost_blocks));
  }
  statistics_.data_losses += lost_blocks;
  ended_ = true;
  return absl::OkStatus();
}

void CrashRun::Stop(bool lose_power) {
  store_.reset();
  device_is_tight_ = false;
  disk_.set_capacity_bytes(uint64_t{1} << 40);
  Trace(lose_power ? "power lost" : "process ended");
  if (lose_power) {
    disk_.LosePower();
  } else {
    disk_.CrashProcess();
  }
  disk_.CancelFault();
}

absl::Status CrashRun::Restart(bool close) {
  if (!close) return Recover(/*lose_power=*/false, /*faults_struck=*/false);
  CHUNK_RETURN_IF_ERROR(store_->Close());
  model_.AcknowledgeAll();
  model_.Flushed();
  const bool power_lost = random_.Chance(1, 2);
  Stop(power_lost);
  return OpenAndCheck(power_lost, model_.steps(), /*faults_struck=*/false, /*clean=*/true);
}

absl::Status CrashRun::Recover(bool lose_power, bool faults_struck) {
  size_t least = lose_power ? 0 : model_.acknowledged();
  bool power_lost = lose_power;
  Stop(lose_power);
  while (random_.Chance(1, 4)) {  // crash in the middle of recovery
    disk_.CrashAtChange(random_.Between(1, uint64_t{1} << random_.Between(1, 6)));
    auto opened = Store::Open(&disk_, kFolder, store_options_);
    if (opened.ok()) incarnation_ = std::max(incarnation_, (*opened)->open_report().incarnation);
    if (!opened.ok() && !disk_.off()) {
      return Violation(absl::StrCat("cannot be opened again: ", opened.status().ToString()));
    }
    statistics_.crashes_in_open += disk_.off() ? 1 : 0;
    if (opened.ok()) opened->reset();
    const bool again = random_.Chance(1, 2);
    Trace(absl::StrCat("crash while opening", again ? ", power lost" : ""));
    if (again) {
      power_lost = true;
      least = 0;
    }
    Stop(again);
  }
  return OpenAndCheck(power_lost, least, faults_struck, /*clean=*/false);
}

absl::Status CrashRun::OpenAndCheck(bool power_lost, size_t least, bool faults_struck, bool clean) {
  auto opened = Store::Open(&disk_, kFolder, store_options_);
  if (!opened.ok()) {
    return Violation(absl::StrCat("cannot be opened again: ", opened.status().ToString()));
  }
  store_ = *std::move(opened);
  ++statistics_.opens;
  const OpenReport& report = store_->open_report();
  Trace(absl::StrCat("opened: incarnation ", report.incarnation, ", replayed ",
                     report.records_replayed, ", volatile state lost ",
                     report.volatile_state_lost));
  if (report.incarnation <= incarnation_) return Violation("the incarnation did not grow");
  incarnation_ = report.incarnation;
  if (clean && (!report.clean || report.volatile_state_lost)) {
    return Violation("closed cleanly, but the report says otherwise");
  }
  // A loss may be told again as long as nothing was flushed since it was told.
  if (!clean && !power_lost && !faults_struck && !loss_told_ && report.volatile_state_lost) {
    return Violation("volatile_state_lost after a mere crash of the process");
  }
  const auto found = ObserveStore(
      *store_, kPlacementGroups, model_.state(),
      [&](const ChunkKey& key) { return model_.TouchedSinceFlush(key) || random_.Chance(1, 8); });
  if (!found.ok()) {
    return Violation(absl::StrCat("after recovery: ", found.status().ToString()));
  }
  const size_t acknowledged = model_.acknowledged();
  const auto prefix = model_.AdoptPrefix(*found, least);
  if (!prefix.ok()) return Violation(std::string(prefix.status().message()));
  if (*prefix < acknowledged) {
    statistics_.steps_lost += acknowledged - *prefix;
    if (!report.volatile_state_lost) {
      return Violation("acknowledged changes are gone, volatile_state_lost is false");
    }
  }
  // What came through the loss of power is on the medium.
  if (power_lost) model_.Flushed();
  return absl::OkStatus();
}

absl::Status CrashRun::Endure(Trouble trouble) {
  switch (trouble) {
    case Trouble::kProcessCrash:
    case Trouble::kPowerLoss: {
      // Where the crash has not come yet, it comes between two calls.
      ++statistics_.troubles[static_cast<size_t>(trouble)];
      return Recover(trouble == Trouble::kPowerLoss, /*faults_struck=*/false);
    }
    case Trouble::kCleanRestart:
    case Trouble::kAbandon:
      ++statistics_.troubles[static_cast<size_t>(trouble)];
      return Restart(trouble == Trouble::kCleanRestart);
    case Trouble::kFlippedBits:
      ++statistics_.troubles[static_cast<size_t>(trouble)];
      return FlipAndRead();
    case Trouble::kReadError:
    case Trouble::kWriteError:
    case Trouble::kSyncError:
    case Trouble::kNoSpace: {
      const bool struck = disk_.fault_struck() || device_is_tight_;
      statistics_.troubles[static_cast<size_t>(trouble)] += struck ? 1 : 0;
      CHUNK_RETURN_IF_ERROR(CheckFailedStore());
      // Steps in flight may be in or out, and a failed store must be opened again.
      const bool must_restart = struck && (StoreIsFailed() || random_.Chance(1, 2));
      if (must_restart) return Recover(random_.Chance(1, 2), /*faults_struck=*/true);
      device_is_tight_ = false;
      disk_.set_capacity_bytes(uint64_t{1} << 40);
      disk_.FailCall(std::nullopt, 0,
                     FaultKind::kInputOutputError);  // nothing planned, none struck
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::Status CrashRun::Run() {
  store_options_.chunk_bytes = kChunkBytes;
  store_options_.background_threads = false;
  store_options_.journal_bytes = uint64_t{8 * kChunkBytes} << random_.Below(2);
  store_options_.reserve_bytes = 1u << 20;
  store_options_.capacity_bytes = store_options_.journal_bytes + store_options_.reserve_bytes +
                                  (random_.Chance(1, 2) ? 64u << 20 : 3u << 20);
  store_options_.metadata_cache_bytes = random_.Chance(1, 2) ? 4u << 10 : 1u << 20;
  if (random_.Chance(1, 2)) {  // else Open makes the folder
    CHUNK_RETURN_IF_ERROR(disk_.CreateFolder(kFolder));
    CHUNK_RETURN_IF_ERROR(disk_.SyncFolder("/"));
  }
  // Crash while the store is made: nothing is in it, and it must come out usable.
  CHUNK_RETURN_IF_ERROR(Recover(/*lose_power=*/true, /*faults_struck=*/false));
  while (!ended_ && statistics_.operations < options_.operations) {
    const Trouble trouble = PickTrouble();
    Plan(trouble);
    const uint64_t limit = random_.Between(1, kOperationsBetweenTroublesMax);
    for (uint64_t i = 0; i < limit; ++i) {
      CHUNK_RETURN_IF_ERROR(Operate());
      if (TroubleStruck() || StoreIsFailed()) break;
    }
    CHUNK_RETURN_IF_ERROR(Endure(trouble));
  }
  return ended_ ? absl::OkStatus() : Restart(/*close=*/true);
}

}  // namespace

const char* TroubleName(Trouble trouble) {
  static constexpr std::array<const char*, kTroubleCount> kNames = {
      "process crash", "power loss", "clean restart", "abandoned store", "read error",
      "write error",   "sync error", "no space",      "flipped bits"};
  return kNames[static_cast<size_t>(trouble)];
}

void CrashRunStatistics::Add(const CrashRunStatistics& other) {
  operations += other.operations;
  changes += other.changes;
  reads += other.reads;
  flushes += other.flushes;
  checkpoints += other.checkpoints;
  exhausted += other.exhausted;
  opens += other.opens;
  crashes_in_open += other.crashes_in_open;
  steps_lost += other.steps_lost;
  data_losses += other.data_losses;
  for (size_t i = 0; i < troubles.size(); ++i) troubles[i] += other.troubles[i];
}

uint64_t CrashRunStatistics::points() const {
  uint64_t sum = crashes_in_open;
  for (const uint64_t count : troubles) sum += count;
  return sum;
}

absl::Status RunCrashSeed(const CrashRunOptions& options, CrashRunStatistics& statistics) {
  CrashRunStatistics own;
  absl::Status status = CrashRun(options, own).Run();
  statistics.Add(own);
  if (status.ok()) return status;
  return absl::DataLossError(
      absl::StrCat("after operation ", own.operations, ": ", status.ToString()));
}

}  // namespace tessera::chunk
