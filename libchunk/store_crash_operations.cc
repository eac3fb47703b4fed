// What the caller does in the crash test: changes, reads and questions drawn at random, each answer
// compared with the model's.
#include <algorithm>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_crash_history.h"

namespace tessera::chunk {

// ---- Planning of changes ---------------------------------------------------------------------

ChunkKey CrashRun::PickKey() {
  if (random_.Chance(1, 3)) return {1, 0, 0};  // hot
  ChunkKey key = {random_.Between(1, kVtrees), random_.Below(kChunksOfVtree), random_.Below(2)};
  const std::vector<ChunkKey> layers = model_.Layers(key);
  return layers.empty() || random_.Chance(1, 4) ? key : layers[random_.Below(layers.size())];
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
  if (random_.Chance(1, 64)) change.kind = ChangeKind::kMissed;
  PlanRange(planned);
  if (random_.Chance(3, 4)) PlanPath(planned);
  if (planned.path && random_.Chance(1, 12)) {
    change.kind = ChangeKind::kAdopt;
    change.keep_cursor = false;
  }
  if (change.kind == ChangeKind::kWrite) {
    ++stamp_;
    const bool zeros = random_.Chance(1, 32);
    const uint32_t sectors = change.length_bytes / kSectorBytes;
    planned.bytes.resize(change.length_bytes);
    for (uint32_t i = 0; i < sectors; ++i) {
      planned.stamps.push_back(zeros ? 0 : Stamp(change.offset_bytes / kSectorBytes + i));
      FillSector(planned.stamps.back(),
                 std::span(planned.bytes).subspan(size_t{i} * kSectorBytes).first<kSectorBytes>());
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
    if (plan.path) plan.change.path = &*plan.path;
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
    // Off or failed, any error does; a full device fails the store when a commit finds no space.
    const bool excused = !result.ok() && (TroubleStruck() || (device_is_tight_ && StoreIsFailed()));
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
    if (model_.MustRefuse(change)) {
      Trace(absl::StrCat(what, ": ", result.ToString()));
      broken.insert(change.stream);
      ++statistics_.refused;
      // Space is asked for first.
      const bool exhausted = absl::IsResourceExhausted(result) &&
                             (change.kind == ChangeKind::kWrite || device_is_tight_);
      const bool store_filled_up = device_is_tight_ && StoreIsFailed();
      if (absl::IsPermissionDenied(result) || exhausted || excused || store_filled_up) continue;
      return Violation(
          absl::StrCat(what, " goes to a base, or a pruned layer, but got ", result.ToString()));
    }
    const bool needs_space = change.kind == ChangeKind::kWrite || model_.CutsInherited(change);
    const size_t before = model_.steps();
    if (result.ok()) {
      if (change.kind == ChangeKind::kAdopt && model_.TargetOf(change).base) ++statistics_.adopted;
      model_.Apply(change, planned[i].stamps);
      ++statistics_.changes;
    } else if (absl::IsResourceExhausted(result)) {
      broken.insert(change.stream);
    } else {
      uncertain.insert(change.stream);
      in_flight.push_back(i);
    }
    CHUNK_RETURN_IF_ERROR(Settle(what, before, result, needs_space));
  }
  if (!in_flight.empty() && (disk_.off() || StoreIsFailed())) {
    std::set<StreamId> refused;
    for (const size_t i : in_flight) {
      if (refused.contains(changes[i].stream)) continue;
      if (!planned[i].valid || model_.MustRefuse(changes[i])) {
        refused.insert(changes[i].stream);
      } else {
        model_.Apply(changes[i], planned[i].stamps);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CrashRun::CompareRange(const std::optional<ChunkKey>& key, uint32_t offset_bytes,
                                    std::span<const std::byte> bytes) {
  const ModelChunkPointer chunk = key ? model_.Find(*key) : nullptr;
  for (size_t i = 0; i * kSectorBytes < bytes.size(); ++i) {
    const size_t sector = offset_bytes / kSectorBytes + i;
    const uint64_t expected = chunk == nullptr ? 0 : chunk->stamps[sector];
    const auto found = StampOfSector(bytes.subspan(size_t{i} * kSectorBytes).first<kSectorBytes>());
    if (found == expected) continue;
    return Violation(absl::StrCat(
        "read of ", key ? Describe(*key) : "no layer", " sector ", sector, " gave ",
        found.has_value() ? absl::StrCat("stamp ", absl::Hex(*found)) : "bytes nobody wrote",
        ", expected stamp ", absl::Hex(expected)));
  }
  return absl::OkStatus();
}

absl::Status CrashRun::DoRead() {
  PlannedChange planned;
  PlanRange(planned);
  const ChunkKey key = PickKey();
  if (random_.Chance(1, 2)) planned.path = PickPath(key.vtree_id);
  const LayerPath* path = planned.path ? &*planned.path : nullptr;
  std::vector<std::byte> out(planned.change.length_bytes, std::byte{0xee});
  ++statistics_.reads;
  const absl::Status status = store_->Read(key, path, planned.change.offset_bytes, out);
  if (!status.ok()) return Excuse(absl::StrCat("read of ", Describe(key)), status);
  return CompareRange(Seen(key, path), planned.change.offset_bytes, out);
}

absl::Status CrashRun::DoReadCached() {
  PlannedChange planned;
  PlanRange(planned);
  const ChunkKey key = PickKey();
  if (random_.Chance(1, 2)) planned.path = PickPath(key.vtree_id);
  const LayerPath* path = planned.path ? &*planned.path : nullptr;
  std::vector<std::byte> out(planned.change.length_bytes, std::byte{0xee});
  ++statistics_.reads;
  const absl::Status status = store_->ReadCached(key, path, planned.change.offset_bytes, out);
  if (absl::IsUnavailable(status)) return absl::OkStatus();
  if (!status.ok()) return Excuse(absl::StrCat("cached read of ", Describe(key)), status);
  return CompareRange(Seen(key, path), planned.change.offset_bytes, out);
}

absl::Status CrashRun::DoMap() {
  const ChunkKey key = PickKey();
  const uint32_t first = static_cast<uint32_t>(random_.Below(kBlocksInChunk));
  const uint32_t count = static_cast<uint32_t>(random_.Between(1, kBlocksInChunk - first));
  std::optional<LayerPath> path;
  if (random_.Chance(1, 2)) path = PickPath(key.vtree_id);
  const auto extents =
      store_->Map(key, path ? &*path : nullptr, first * kBlockBytes, count * kBlockBytes);
  if (!extents.ok()) return Excuse(absl::StrCat("map of ", Describe(key)), extents.status());
  const std::optional<ChunkKey> seen = Seen(key, path ? &*path : nullptr);
  const ModelChunkPointer chunk = seen ? model_.Find(*seen) : nullptr;
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

absl::Status CrashRun::DoAcknowledgeLoss() {
  const absl::Status status = store_->AcknowledgeLoss();
  if (status.ok()) {
    Trace("loss acknowledged");
    loss_ = Loss::kNone;
    return absl::OkStatus();
  }
  if (loss_ == Loss::kUntold) loss_ = Loss::kUnknown;
  return Excuse("acknowledge loss", status);
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
  if (staged_ != nullptr) return random_.Chance(1, 8) ? DropStaged() : ApplyStagedImage();
  CHUNK_RETURN_IF_ERROR(StageImage());
  // Else other operations come in between.
  return staged_ != nullptr && random_.Chance(1, 2) ? ApplyStagedImage() : absl::OkStatus();
}

absl::Status CrashRun::DropStaged() {
  staged_.reset();
  return absl::OkStatus();
}

absl::Status CrashRun::StageImage() {
  const ChunkKey from = PickKey();
  ChunkKey to = PickKey();
  to.chunk_index = from.chunk_index;  // the same placement group
  const ModelChunkPointer source = model_.Find(from);
  // With its base where that is one for the target, too; or whole.
  const bool with_base = source != nullptr && source->base && *source->base < to.layer &&
                         from.vtree_id == to.vtree_id && random_.Chance(7, 8);
  auto image = store_->ReadImage(from, with_base ? ImageContent::kOwn : ImageContent::kWhole);
  if (!image.ok()) {
    if (source == nullptr && absl::IsNotFound(image.status())) return absl::OkStatus();
    return Excuse(absl::StrCat("image of ", Describe(from)), image.status());
  }
  if (source == nullptr) return Violation(absl::StrCat(Describe(from), " should not exist"));
  image->info.key = to;
  if (random_.Chance(1, 4)) image->info.version = NextVersion();
  staged_content_ = *source;
  if (!with_base) {
    staged_content_.base.reset();
    staged_content_.inherited.assign(kBlocksInChunk, false);
  }
  staged_content_.version = image->info.version;
  const std::string what = absl::StrCat("staging of ", Describe(from), " to ", Describe(to));
  auto staged = store_->StageImage(*std::move(image), nullptr);
  if (staged.ok()) {
    staged_ = *std::move(staged);
    return absl::OkStatus();
  }
  if (absl::IsResourceExhausted(staged.status())) {
    ++statistics_.exhausted;
    return absl::OkStatus();
  }
  return Excuse(what, staged.status());
}

absl::Status CrashRun::ApplyStagedImage() {
  const ChunkKey to = staged_->image().info.key;
  const ChunkImage& image = staged_->image();
  ModelChunk content = staged_content_;
  ImageMerge merge{.version = content.version};
  if (random_.Chance(1, 2)) merge.keep.assign((kBlocksInChunk + 63) / 64, random_.Next());
  size_t ordinal = 0;
  std::vector<bool> taken(kBlocksInChunk);
  for (uint32_t block = 0; block < kBlocksInChunk; ++block) {
    const bool mapped = content.mapped[block] && !content.inherited[block];
    const std::span<const std::byte> bytes =
        std::span(image.blocks).subspan(ordinal * kBlockBytes, mapped ? kBlockBytes : 0);
    ordinal += mapped ? 1 : 0;
    const bool kept = !merge.keep.empty() && (merge.keep[block / 64] >> (block % 64) & 1) != 0;
    taken[block] = !kept;
    if (kept || !random_.Chance(1, 16)) continue;
    ImageMerge::Block& replaced = merge.replaced.emplace_back();
    replaced.block = block;
    if (mapped && random_.Chance(1, 2)) {
      replaced.content.assign(bytes.begin(), bytes.end());
    } else {
      content.mapped[block] = false;
      content.inherited[block] = false;
      std::fill_n(content.stamps.begin() + size_t{block} * (kBlockBytes / kSectorBytes),
                  kBlockBytes / kSectorBytes, 0);
    }
  }
  const size_t before = model_.steps();
  const bool must_refuse = model_.MustRefuse(to, content, taken);
  const absl::Status status = store_->ApplyStaged(std::move(staged_), merge);
  if (must_refuse) {
    ++statistics_.refused;
    if (absl::IsPermissionDenied(status) || absl::IsNotFound(status)) return absl::OkStatus();
    return status.ok() ? Violation(absl::StrCat("image to ", Describe(to), " was taken"))
                       : Excuse(absl::StrCat("image to ", Describe(to)), status);
  }
  model_.ApplyImage(to, content, merge.keep);
  return Settle(absl::StrCat("image to ", Describe(to)), before, status,
                /*may_be_exhausted=*/true);
}

absl::Status CrashRun::DoDelete() {
  const ChunkKey key = PickKey();
  const size_t before = model_.steps();
  const bool must_refuse = model_.IsBase(key);
  const absl::Status status = store_->DeleteChunk(key);
  if (must_refuse) {
    ++statistics_.refused;
    if (absl::IsPermissionDenied(status)) return absl::OkStatus();
    return status.ok() ? Violation(absl::StrCat("delete of ", Describe(key), ", a base, was done"))
                       : Excuse(absl::StrCat("delete of ", Describe(key)), status);
  }
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
  CHUNK_RETURN_IF_ERROR(CheckDataBytes());
  if (stats.checksum_errors != 0) return Violation("stats: checksum errors");
  return absl::OkStatus();
}

absl::Status CrashRun::Operate() {
  ++statistics_.operations;
  const uint64_t draw = random_.Below(256);
  if (draw < 110) return DoApply();
  if (draw < 168) return DoRead();
  if (draw < 170) return DoAcknowledgeLoss();
  if (draw < 190) return DoReadCached();
  if (draw < 195) return DoMap();
  if (draw < 200) return DoChanges();
  if (draw < 222) return DoFlush();
  if (draw < 230) return DoBackgroundWork();
  if (draw < 236) return DoCopyImage();
  if (draw < 243) return DoLayers();
  if (draw < 247) return DoDelete();
  if (draw < 251) return DoCursor();
  if (draw < 254) return DoObserve();
  return DoDropAll();
}

}  // namespace tessera::chunk
