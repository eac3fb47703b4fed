// What befalls the store in the crash test: crashes, losses of power, faults, and the questions
// asked of the store that comes back.
#include "libchunk/store_crash_run.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libchunk/device_directory.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_crash_history.h"

namespace tessera::chunk {

void CrashRun::Trace(const std::string& line) {
  if (options_.trace) std::fprintf(stderr, "%6lu %s\n", statistics_.operations, line.c_str());
}

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
      if (options_.block_device || random_.Chance(1, 2)) {
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
    if (planned.path) planned.change.path = &*planned.path;
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
    const bool may_be_dropped =
        std::any_of(drops_in_flight_.begin(), drops_in_flight_.end(), [&](const ChunkKey& dropped) {
          return dropped.vtree_id == key.vtree_id && dropped.chunk_index == key.chunk_index;
        });
    if (may_be_dropped) continue;
    const size_t steps = model_.steps();
    absl::Status same = CompareRange(key, 0, out);
    if (!same.ok() && steps > model_.acknowledged() && model_.TouchedSinceFlush(key)) continue;
    CHUNK_RETURN_IF_ERROR(same);
  }
  return absl::OkStatus();
}

absl::StatusOr<CrashRun::DataPlace> CrashRun::FindData() {
  const bool device = options_.block_device;
  const std::string path = absl::StrCat(kFolder, device ? "" : "/data");
  CHUNK_ASSIGN_OR_RETURN(const auto file, disk_.OpenFile(path, OpenMode::kMustExist));
  if (!device) {
    CHUNK_ASSIGN_OR_RETURN(const uint64_t size_bytes, file->Size());
    return DataPlace{path, 0, size_bytes};
  }
  std::vector<std::byte> head(kDeviceHeadBytes);
  CHUNK_RETURN_IF_ERROR(file->Read(0, head));
  CHUNK_ASSIGN_OR_RETURN(const DeviceDirectory directory, NewestDirectory(head));
  return DataPlace{path, directory.layout.data.offset, directory.layout.data.size_bytes};
}

absl::Status CrashRun::FlipAndRead() {
  CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/true));
  CHUNK_ASSIGN_OR_RETURN(const DataPlace data, FindData());
  const uint64_t flips = data.size_bytes == 0 ? 0 : random_.Between(1, 8);
  for (uint64_t i = 0; i < flips; ++i) {
    const auto mask = static_cast<std::byte>(1u << random_.Below(8));
    CHUNK_RETURN_IF_ERROR(
        disk_.FlipBits(data.path, data.offset + random_.Below(data.size_bytes), mask));
  }
  std::vector<std::pair<ChunkKey, uint32_t>> bad;
  for (const auto& [key, chunk] : model_.state().chunks) {
    for (uint32_t block = 0; block < kBlocksInChunk; ++block) {
      std::vector<std::byte> out(kBlockBytes);
      const absl::Status status = store_->Read(key, block * kBlockBytes, out);
      if (status.ok()) {
        CHUNK_RETURN_IF_ERROR(CompareRange(key, block * kBlockBytes, out));
      } else if (absl::IsDataLoss(status)) {
        // What layers share is lost to all of them, and counted once.
        if (!chunk->inherited[block]) bad.emplace_back(key, block);
      } else {
        return Violation(absl::StrCat("read after flipped bits: ", status.ToString()));
      }
    }
  }
  uint64_t reported = 0;
  CHUNK_RETURN_IF_ERROR(
      store_->VerifyAll([&](const ChunkKey&, uint32_t, const absl::Status&) { ++reported; }));
  if (bad.size() > flips) return Violation("more blocks lost than bits flipped");
  if (reported != bad.size()) {
    return Violation(
        absl::StrCat("VerifyAll reports ", reported, " bad blocks, reads ", bad.size()));
  }
  statistics_.data_losses += bad.size();
  if (random_.Chance(1, 4)) {
    ended_ = true;
    return absl::OkStatus();
  }
  CHUNK_RETURN_IF_ERROR(RepairAll(bad));
  // Like any change: there after a crash of the process, and after a loss of power once flushed.
  // A repair that a loss of power takes leaves a bad block, which the model does not know: so none
  // comes before the flush.
  if (random_.Chance(1, 2)) {
    if (random_.Chance(1, 2)) CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/true));
    const size_t least = model_.acknowledged();
    Stop(/*lose_power=*/false);
    CHUNK_RETURN_IF_ERROR(OpenAndCheck(/*power_lost=*/false, least, /*faults_struck=*/false,
                                       /*clean=*/false));
  }
  CHUNK_RETURN_IF_ERROR(store_->Flush());
  model_.AcknowledgeAll();
  model_.Flushed();
  if (random_.Chance(1, 2)) CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/true));
  return Recover(random_.Chance(1, 2), /*faults_struck=*/false);
}

// Puts back what the model says, after trying what must be refused.
absl::Status CrashRun::RepairAll(std::span<const std::pair<ChunkKey, uint32_t>> bad) {
  for (const auto& [owner, block] : bad) {
    // By way of any layer that shares it: it comes back for all.
    std::vector<ChunkKey> sharers;
    for (const ChunkKey& layer : model_.Layers(owner)) {
      ChunkKey at = layer;
      while (model_.Find(at)->inherited[block]) at.layer = *model_.Find(at)->base;
      if (at == owner) sharers.push_back(layer);
    }
    const ChunkKey key = sharers[random_.Below(sharers.size())];
    const ModelChunkPointer chunk = model_.Find(key);
    std::vector<std::byte> content(kBlockBytes);
    constexpr uint32_t kSectorsInBlock = kBlockBytes / kSectorBytes;
    for (uint32_t i = 0; i < kSectorsInBlock; ++i) {
      FillSector(chunk->stamps[block * kSectorsInBlock + i],
                 std::span(content).subspan(size_t{i} * kSectorBytes).first<kSectorBytes>());
    }
    const std::string what = absl::StrCat("repair of block ", block, " of ", Describe(key));
    std::vector<std::byte> other = content;
    other[random_.Below(kBlockBytes)] ^= std::byte{1};
    Version earlier = chunk->version;
    earlier.sequence ^= 1;
    const absl::Status wrong = store_->RepairBlock(key, chunk->version, block, other);
    if (!absl::IsInvalidArgument(wrong)) {
      return Violation(absl::StrCat(what, " with other content: ", wrong.ToString()));
    }
    const absl::Status stale = store_->RepairBlock(key, earlier, block, content);
    if (!absl::IsAborted(stale)) {
      return Violation(absl::StrCat(what, " at another version: ", stale.ToString()));
    }
    const absl::Status repaired = store_->RepairBlock(key, chunk->version, block, content);
    if (!repaired.ok()) return Violation(absl::StrCat(what, ": ", repaired.ToString()));
    ++statistics_.repairs;
    for (const ChunkKey& sharer : sharers) {
      std::vector<std::byte> out(kBlockBytes);
      CHUNK_RETURN_IF_ERROR(store_->Read(sharer, block * kBlockBytes, out));
      CHUNK_RETURN_IF_ERROR(CompareRange(sharer, block * kBlockBytes, out));
      // Put back is not changed.
      const LayerPath base_path = PathTo(sharers[random_.Below(sharers.size())]);
      CHUNK_RETURN_IF_ERROR(CheckChanges(sharer, &base_path, PathTo(sharer)));
    }
  }
  return absl::OkStatus();
}

void CrashRun::Stop(bool lose_power) {
  staged_.reset();
  store_.reset();
  device_is_tight_ = false;
  disk_.set_capacity_bytes(uint64_t{1} << 40);
  Trace(lose_power ? "power lost" : "process ended");
  if (lose_power) {
    sync_failed_since_boot_ = false;
    disk_.LosePower();
  } else {
    disk_.CrashProcess();
  }
  disk_.CancelFault();
}

// The data file holds space for the blocks that are mapped, and for no others.
absl::Status CrashRun::CheckSpaceGivenBack(const std::string& when) {
  if (options_.block_device) return absl::OkStatus();  // its space is the store's in any case
  const auto file = disk_.OpenFile(absl::StrCat(kFolder, "/data"), OpenMode::kMustExist);
  CHUNK_RETURN_IF_ERROR(file.status());
  const auto allocated_bytes = (*file)->AllocatedBytes();
  CHUNK_RETURN_IF_ERROR(allocated_bytes.status());
  const uint64_t mapped_bytes = model_.own_blocks() * kBlockBytes;
  if (*allocated_bytes == mapped_bytes) return absl::OkStatus();
  return Violation(absl::StrCat(when, ": the data file occupies ", *allocated_bytes, " bytes, ",
                                mapped_bytes, " are mapped"));
}

// Rows, bitmaps and blocks fit together, of a store that is closed.
absl::Status CrashRun::Inspect() {
  std::string problem;
  CHUNK_RETURN_IF_ERROR(
      InspectStore(&disk_, kFolder, InspectDepth::kVerify, [&](const std::string& line) {
        if (line.starts_with("problem") && problem.empty()) problem = line;
      }));
  return problem.empty() ? absl::OkStatus() : Violation(problem);
}

absl::Status CrashRun::Restart(bool close) {
  if (!close) return Recover(/*lose_power=*/false, /*faults_struck=*/false);
  staged_.reset();
  CHUNK_RETURN_IF_ERROR(store_->Close());
  model_.AcknowledgeAll();
  model_.Flushed();
  const bool power_lost = random_.Chance(1, 2);
  // Holes of before a failed sync may be in memory only, marked clean: these come back.
  const bool holes_are_durable = !sync_failed_since_boot_;
  Stop(power_lost);
  if (holes_are_durable) CHUNK_RETURN_IF_ERROR(CheckSpaceGivenBack("closed"));
  CHUNK_RETURN_IF_ERROR(Inspect());
  CHUNK_RETURN_IF_ERROR(
      OpenAndCheck(power_lost, model_.steps(), /*faults_struck=*/false, /*clean=*/true));
  CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/false));
  return CheckSpaceGivenBack("closed, opened and swept");
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
  if (clean && !report.clean) return Violation("closed cleanly, but the report says otherwise");
  if (loss_ == Loss::kUntold && !report.volatile_state_lost) {
    return Violation("lost volatile state was forgotten before it was acknowledged");
  }
  if ((clean || (!power_lost && !faults_struck)) && loss_ == Loss::kNone &&
      report.volatile_state_lost) {
    return Violation("volatile_state_lost after a mere end of the process");
  }
  loss_ = report.volatile_state_lost ? Loss::kUntold : Loss::kNone;
  CHUNK_RETURN_IF_ERROR(FollowDrop(std::exchange(drops_in_flight_, {})));
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
      sync_failed_since_boot_ |= struck && trouble == Trouble::kSyncError;
      statistics_.troubles[static_cast<size_t>(trouble)] += struck ? 1 : 0;
      CHUNK_RETURN_IF_ERROR(CheckFailedStore());
      // Steps in flight may be in or out, and a failed store must be opened again.
      // A device whose sync failed is failed, though SQLite kept it to itself: where it works off
      // its log, an error costs it nothing. The store hears of it at the next sync.
      const bool device_failed = options_.block_device && trouble == Trouble::kSyncError;
      const bool must_restart =
          struck && (StoreIsFailed() || random_.Chance(1, 2) || device_failed);
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

absl::Status CrashRun::PrepareDisk() {
  if (options_.block_device) {
    // Some are larger than the store may use, some smaller.
    const bool large = random_.Chance(1, 2);
    disk_.AddBlockDevice(kFolder, large ? 96u << 20 : 20u << 20);
    if (random_.Chance(1, 2)) store_options_.capacity_bytes = 0;
    return absl::OkStatus();
  }
  if (!random_.Chance(1, 2)) return absl::OkStatus();  // Open makes the folder
  CHUNK_RETURN_IF_ERROR(disk_.CreateFolder(kFolder));
  return disk_.SyncFolder("/");
}

absl::Status CrashRun::Run() {
  store_options_.chunk_bytes = kChunkBytes;
  store_options_.background_threads = false;
  store_options_.journal_bytes = uint64_t{8} * kChunkBytes << random_.Below(2);
  store_options_.reserve_bytes = 1u << 20;
  store_options_.capacity_bytes = store_options_.journal_bytes + store_options_.reserve_bytes +
                                  (random_.Chance(1, 2) ? 64u << 20 : 3u << 20);
  store_options_.metadata_cache_bytes = random_.Chance(1, 2) ? 4u << 10 : 1u << 20;
  CHUNK_RETURN_IF_ERROR(PrepareDisk());
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
  refused += other.refused;
  snapshots += other.snapshots;
  clones += other.clones;
  adopted += other.adopted;
  layers_gone += other.layers_gone;
  layers_pruned += other.layers_pruned;
  opens += other.opens;
  crashes_in_open += other.crashes_in_open;
  steps_lost += other.steps_lost;
  data_losses += other.data_losses;
  repairs += other.repairs;
  comparisons += other.comparisons;
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
