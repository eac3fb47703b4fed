// The model's layers: which one a change goes to, what a store must refuse, and what dropping does.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libchunk/store_model.h"

namespace tessera::chunk {
namespace {

bool IsSameChunk(const ChunkKey& a, const ChunkKey& b) {
  return a.vtree_id == b.vtree_id && a.chunk_index == b.chunk_index;
}

ChunkKey LayerOf(ChunkKey key, uint64_t layer) {
  key.layer = layer;
  return key;
}

// What a dropped layer leaves to one that was made from it.
ModelChunkPointer Inherit(const ModelChunk& heir, const ModelChunk& dropped) {
  auto after = std::make_shared<ModelChunk>(heir);
  after->base = dropped.base;
  for (size_t block = 0; block < after->inherited.size(); ++block) {
    after->inherited[block] = heir.inherited[block] && dropped.inherited[block];
  }
  return after;
}

}  // namespace

std::vector<ChunkKey> StoreModel::Layers(const ChunkKey& key) const {
  std::vector<ChunkKey> layers;
  for (auto chunk = state_.chunks.lower_bound(LayerOf(key, 0));
       chunk != state_.chunks.end() && IsSameChunk(chunk->first, key); ++chunk) {
    layers.push_back(chunk->first);
  }
  return layers;
}

std::optional<uint64_t> StoreModel::Newest(const LayerPath& path, uint64_t vtree_id,
                                           uint64_t chunk_index) const {
  std::optional<uint64_t> newest;
  for (const ChunkKey& key : Layers({vtree_id, chunk_index, 0})) {
    if (path.Sees(key.layer)) newest = key.layer;
  }
  return newest;
}

bool StoreModel::IsBase(const ChunkKey& key) const {
  const std::vector<ChunkKey> layers = Layers(key);
  return std::any_of(layers.begin(), layers.end(), [&](const ChunkKey& layer) {
    return state_.chunks.at(layer)->base == key.layer;
  });
}

StoreModel::Target StoreModel::TargetOf(const Change& change) const {
  Target target{.key = change.key, .base = std::nullopt};
  if (change.path == nullptr) return target;
  const std::optional<uint64_t> newest =
      Newest(*change.path, change.key.vtree_id, change.key.chunk_index);
  const bool adopts = change.kind == ChangeKind::kAdopt && !change.incomplete;
  if (!newest) {
    target.nothing = adopts;
    return target;
  }
  const bool own_branch = BranchOf(*newest) == BranchOf(change.key.layer);
  if (own_branch && *newest >= change.key.layer) {
    target.key.layer = *newest;
  } else if (own_branch && adopts) {
    target.nothing = true;
  } else if (!change.incomplete) {
    target.base = newest;
  }
  return target;
}

bool StoreModel::MustRefuse(const Change& change) const {
  const Target target = TargetOf(change);
  if (target.nothing) return false;
  const ModelChunkPointer present =
      Find(target.base ? LayerOf(target.key, *target.base) : target.key);
  return IsBase(target.key) || (present != nullptr && present->pruned);
}

bool StoreModel::MustRefuse(const ChunkKey& key, const ModelChunk& image,
                            const std::vector<bool>& taken) const {
  if (IsBase(key)) return true;
  if (!image.base) return false;
  const ModelChunkPointer base = Find(LayerOf(key, *image.base));
  if (base == nullptr || base->incomplete) return true;
  for (size_t block = 0; block < image.inherited.size(); ++block) {
    if (taken[block] && image.inherited[block] && !base->mapped[block]) return true;
  }
  return false;
}

bool StoreModel::CutsInherited(const Change& change) const {
  if (change.kind == ChangeKind::kAdopt) return false;
  const Target target = TargetOf(change);
  const ModelChunkPointer chunk =
      Find(target.base ? LayerOf(target.key, *target.base) : target.key);
  if (chunk == nullptr) return false;
  const uint32_t end = change.offset_bytes + change.length_bytes;
  for (const uint32_t edge : {change.offset_bytes, end}) {
    if (edge % kBlockBytes == 0) continue;
    const uint32_t block = edge / kBlockBytes;
    if (target.base ? chunk->mapped[block] : chunk->inherited[block]) return true;
  }
  return false;
}

uint64_t StoreModel::BlocksSeenBy(std::span<const ChunkKey> layers) const {
  std::set<std::pair<ChunkKey, size_t>> owners;
  for (const ChunkKey& layer : layers) {
    for (size_t block = 0; block < Find(layer)->mapped.size(); ++block) {
      if (!Find(layer)->mapped[block]) continue;
      ChunkKey owner = layer;
      while (Find(owner)->inherited[block]) owner.layer = *Find(owner)->base;
      owners.emplace(owner, block);
    }
  }
  return owners.size();
}

void StoreModel::ForEachState(
    const ChunkKey& key, const std::function<void(const ChunkKey&, ModelChunkPointer*)>& visit) {
  for (auto& [other, chunk] : state_.chunks) {
    if (IsSameChunk(other, key)) visit(other, &chunk);
  }
  for (Step& step : steps_) {
    for (ChunkStep& part : step.chunks) {
      if (!IsSameChunk(part.key, key)) continue;
      if (part.before != nullptr) visit(part.key, &part.before);
      if (part.after != nullptr) visit(part.key, &part.after);
    }
  }
}

absl::Status StoreModel::DropLayer(const ChunkKey& key, const ModelChunkPointer& found) {
  const ModelChunkPointer before = Find(key);
  if (before == nullptr) {
    if (found == nullptr) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(Describe(key), " was dropped and came to be"));
  }
  std::vector<bool> shared(before->mapped.size());
  size_t sharers = 0;
  for (const ChunkKey& layer : Layers(key)) {
    const ModelChunkPointer other = Find(layer);
    if (other->base != key.layer) continue;
    const bool shares =
        std::find(other->inherited.begin(), other->inherited.end(), true) != other->inherited.end();
    sharers += shares ? 1 : 0;
    for (size_t block = 0; block < shared.size(); ++block) {
      shared[block] = shared[block] || other->inherited[block];
    }
  }
  if (found == nullptr) {
    if (sharers > 1) {
      return absl::DataLossError(
          absl::StrCat(Describe(key), " is gone, and ", sharers, " layers shared with it"));
    }
    ForEachState(key, [&](const ChunkKey& other, ModelChunkPointer* chunk) {
      if ((*chunk)->base == key.layer) *chunk = Inherit(**chunk, *before);
      if (other == key) *chunk = nullptr;
    });
    state_.chunks.erase(key);
  } else {
    // A layer that is deleted, but not yet on the device, may still count as one that shares.
    bool right = found->pruned && found->base == before->base &&
                 found->version == before->version && found->incomplete == before->incomplete;
    constexpr size_t kSectorsInBlock = kBlockBytes / kSectorBytes;
    for (size_t block = 0; block < shared.size(); ++block) {
      right = right && (!shared[block] || found->mapped[block]) &&
              (!found->mapped[block] || before->mapped[block]) &&
              found->inherited[block] == (found->mapped[block] && before->inherited[block]);
      for (size_t i = block * kSectorsInBlock; i < (block + 1) * kSectorsInBlock; ++i) {
        right = right && found->stamps[i] == (found->mapped[block] ? before->stamps[i] : 0);
      }
    }
    if (!right) return absl::DataLossError(absl::StrCat(Describe(key), " was pruned wrongly"));
    ForEachState(key, [&](const ChunkKey& other, ModelChunkPointer* chunk) {
      if (other == key && **chunk == *before) *chunk = found;
    });
  }
  own_blocks_ = 0;
  for (const auto& [other, chunk] : state_.chunks) own_blocks_ += chunk->own_blocks();
  return absl::OkStatus();
}

}  // namespace tessera::chunk
