// What the caller does with layers in the crash test: volumes that write along their paths,
// snapshots and clones of them, and layers dropped at random, seen or not: the model says what is
// left.
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_crash_history.h"

namespace tessera::chunk {

CrashVolume& CrashRun::PickVolume(uint64_t vtree_id) {
  std::vector<CrashVolume>& volumes = volumes_[vtree_id - 1];
  return volumes[random_.Below(volumes.size())];
}

LayerPath CrashRun::PickPath(uint64_t vtree_id) {
  const CrashVolume& volume = PickVolume(vtree_id);
  if (volume.floor == 0 || random_.Chance(1, 2)) return volume.path;
  std::vector<LayerPath::Part> parts(volume.path.parts().begin(), volume.path.parts().end());
  parts[0].ordinal_max = static_cast<uint32_t>(random_.Below(volume.floor));
  return *LayerPath::Make(parts);
}

void CrashRun::PlanPath(PlannedChange& planned) {
  const CrashVolume& volume = PickVolume(planned.change.key.vtree_id);
  planned.path = volume.path;
  uint32_t floor = volume.floor;
  // Its snapshots may be gone: then it falls.
  if (random_.Chance(1, 16)) floor = static_cast<uint32_t>(random_.Below(floor + 1));
  planned.change.key.layer = MakeLayer(volume.path.branch(), floor);
}

std::optional<ChunkKey> CrashRun::Seen(const ChunkKey& key, const LayerPath* path) const {
  if (path == nullptr) return key;
  const std::optional<uint64_t> layer = model_.Newest(*path, key.vtree_id, key.chunk_index);
  if (!layer) return std::nullopt;
  return ChunkKey{key.vtree_id, key.chunk_index, *layer};
}

void CrashRun::MakeSnapshotOrClone() {
  const uint64_t vtree_id = random_.Between(1, kVtrees);
  CrashVolume& volume = PickVolume(vtree_id);
  if (random_.Chance(2, 3)) {
    ++volume.floor;
    ++statistics_.snapshots;
    Trace(absl::StrCat("snapshot of vtree ", vtree_id, " branch ", volume.path.branch()));
    return;
  }
  // Of the volume as it is: what it writes from now on is above.
  std::vector<LayerPath::Part> parts = {
      {.branch = next_branch_++, .ordinal_max = LayerPath::kHead}};
  for (LayerPath::Part part : volume.path.parts()) {
    if (part.branch == volume.path.branch()) part.ordinal_max = volume.floor;
    if (parts.size() < LayerPath::kPartsMax) parts.push_back(part);
  }
  ++volume.floor;
  ++statistics_.clones;
  Trace(absl::StrCat("clone of vtree ", vtree_id, " branch ", parts[1].branch, ": branch ",
                     parts[0].branch));
  std::vector<CrashVolume>& volumes = volumes_[vtree_id - 1];
  if (volumes.size() == kVolumesOfVtree) volumes.erase(volumes.begin() + random_.Below(3));
  volumes.push_back({.path = *LayerPath::Make(parts)});
}

absl::Status CrashRun::FollowDrop(std::vector<ChunkKey> keys) {
  std::sort(keys.begin(), keys.end(), std::greater<>());
  std::vector<std::pair<ChunkKey, ModelChunkPointer>> left;
  for (const ChunkKey& key : keys) {
    absl::StatusOr<ModelChunkPointer> observed = ObserveChunk(*store_, key);
    // A fault strikes once.
    if (!observed.ok() && TroubleStruck()) observed = ObserveChunk(*store_, key);
    CHUNK_ASSIGN_OR_RETURN(ModelChunkPointer found, std::move(observed));
    if (found != nullptr) {
      left.emplace_back(key, std::move(found));
      continue;
    }
    ++statistics_.layers_gone;
    CHUNK_RETURN_IF_ERROR(model_.DropLayer(key, nullptr));
  }
  for (const auto& [key, found] : left) {
    if (!found->pruned) continue;
    ++statistics_.layers_pruned;
    CHUNK_RETURN_IF_ERROR(model_.DropLayer(key, found));
  }
  return absl::OkStatus();
}

absl::Status CrashRun::DropLayers(const std::vector<ChunkKey>& keys) {
  std::vector<absl::Status> results(keys.size());
  store_->DropLayers(keys, results);
  for (size_t i = 0; i < keys.size(); ++i) {
    const std::string what = absl::StrCat("drop of ", Describe(keys[i]));
    Trace(absl::StrCat(what, ": ", results[i].ToString()));
    if (results[i].ok()) continue;
    // One transaction: all of them or none.
    if (disk_.off() || StoreIsFailed()) {
      drops_in_flight_ = keys;
      return absl::OkStatus();
    }
    return Excuse(what, results[i]);
  }
  // On a device, whose sync fails as a whole, also where SQLite works off its log after the commit
  // and keeps errors to itself.
  if (options_.block_device && disk_.off()) {
    drops_in_flight_ = keys;
    return absl::OkStatus();
  }
  CHUNK_RETURN_IF_ERROR(FollowDrop(keys));
  for (const ChunkKey& key : keys) {
    const ModelChunkPointer left = model_.Find(key);
    if (left != nullptr && !left->pruned) {
      return Violation(absl::StrCat(Describe(key), " was dropped, and is there as before"));
    }
  }
  return absl::OkStatus();
}

absl::Status CrashRun::CheckDataBytes() {
  const uint64_t data_bytes = store_->stats().data_bytes;
  const uint64_t expected_bytes = model_.own_blocks() * kBlockBytes;
  if (data_bytes == expected_bytes) return absl::OkStatus();
  return Violation(absl::StrCat("stats: ", data_bytes, " data bytes, expected ", expected_bytes));
}

absl::Status CrashRun::DropSome() {
  const std::vector<ChunkKey> layers = model_.Layers(PickKey());
  std::vector<ChunkKey> keys;
  for (const ChunkKey& layer : layers) {
    if (random_.Chance(1, 3)) keys.push_back(layer);
  }
  if (keys.empty()) return absl::OkStatus();
  CHUNK_RETURN_IF_ERROR(DropLayers(keys));
  return drops_in_flight_.empty() ? CheckDataBytes() : absl::OkStatus();
}

absl::Status CrashRun::DropOneExactly(const ChunkKey& key) {
  // Rows and what is seen are the same after a checkpoint; so the answer is exact.
  absl::Status status = store_->RunBackgroundWork(/*force=*/true);
  if (!status.ok()) return Excuse("background work", status);
  const absl::StatusOr<uint64_t> exclusive_bytes = store_->ExclusiveBytes(key);
  if (!exclusive_bytes.ok()) return Excuse("exclusive bytes", exclusive_bytes.status());
  const uint64_t before = model_.own_blocks();
  CHUNK_RETURN_IF_ERROR(DropLayers({key}));
  if (TroubleStruck() || StoreIsFailed() || device_is_tight_) return absl::OkStatus();
  CHUNK_RETURN_IF_ERROR(CheckDataBytes());
  const uint64_t freed_bytes = (before - model_.own_blocks()) * kBlockBytes;
  if (freed_bytes == *exclusive_bytes) return absl::OkStatus();
  return Violation(absl::StrCat("dropping ", Describe(key), " freed ", freed_bytes,
                                " bytes, foretold were ", *exclusive_bytes));
}

absl::Status CrashRun::DropAllBut() {
  const ChunkKey chunk = PickKey();
  const std::vector<ChunkKey> layers = model_.Layers(chunk);
  std::vector<ChunkKey> seen, unseen;
  for (const ChunkKey& layer : layers) {
    const bool is_seen = random_.Chance(1, 3) && !model_.Find(layer)->pruned;
    (is_seen ? seen : unseen).push_back(layer);
  }
  absl::Status status = store_->RunBackgroundWork(/*force=*/true);
  if (!status.ok()) return Excuse("background work", status);
  const uint64_t needed = model_.BlocksSeenBy(seen);
  CHUNK_RETURN_IF_ERROR(DropLayers(unseen));
  if (TroubleStruck() || StoreIsFailed() || device_is_tight_) return absl::OkStatus();
  uint64_t left = 0;
  for (const ChunkKey& layer : model_.Layers(chunk)) {
    left += model_.Find(layer)->own_blocks();
  }
  if (left == needed) return CheckDataBytes();
  return Violation(
      absl::StrCat("layers left after a drop hold ", left, " blocks, those seen have ", needed));
}

absl::Status CrashRun::DoLayers() {
  const uint64_t draw = random_.Below(8);
  if (draw < 3) {
    MakeSnapshotOrClone();
    return absl::OkStatus();
  }
  if (draw < 6) return DropSome();
  if (draw < 7) return DropAllBut();
  const ChunkKey key = PickKey();
  return model_.Find(key) == nullptr ? absl::OkStatus() : DropOneExactly(key);
}

}  // namespace tessera::chunk
