// What the caller of the crash test asks about differences between paths, and the truth of it: the
// model knows who owns each block, and the stamps say independently of that who wrote each sector.
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libchunk/store_crash_history.h"

namespace tessera::chunk {
namespace {

constexpr uint32_t kSectorsInBlock = kBlockBytes / kSectorBytes;

struct SeenBlock {
  bool mapped = false;
  bool gone = false;              // nobody knows what it was
  std::optional<uint64_t> owner;  // the layer whose device block it is
  std::vector<uint64_t> stamps = std::vector<uint64_t>(kSectorsInBlock);
};

SeenBlock BlockOf(const StoreModel& model, const std::optional<ChunkKey>& layer, uint32_t block) {
  SeenBlock seen;
  const ModelChunkPointer chunk = layer ? model.Find(*layer) : nullptr;
  if (chunk == nullptr) return seen;
  seen.mapped = chunk->mapped[block];
  seen.gone = chunk->pruned && !seen.mapped;
  if (!seen.mapped) return seen;
  const auto first = chunk->stamps.begin() + size_t{block} * kSectorsInBlock;
  seen.stamps.assign(first, first + kSectorsInBlock);
  ChunkKey owner = *layer;
  while (model.Find(owner)->inherited[block]) owner.layer = *model.Find(owner)->base;
  seen.owner = owner.layer;
  return seen;
}

}  // namespace

absl::Status CrashRun::CheckChanges(const ChunkKey& key, const LayerPath* base_path,
                                    const LayerPath& path) {
  const uint32_t first = static_cast<uint32_t>(random_.Below(kBlocksInChunk));
  const uint32_t count = static_cast<uint32_t>(random_.Between(1, kBlocksInChunk - first));
  const std::string what = absl::StrCat("changes of ", Describe(key));
  const auto extents =
      store_->Changes(key, base_path, path, first * kBlockBytes, count * kBlockBytes);
  if (!extents.ok()) return Excuse(what, extents.status());
  const std::optional<ChunkKey> base = base_path == nullptr ? std::nullopt : Seen(key, base_path);
  const std::optional<ChunkKey> target = Seen(key, &path);
  uint32_t at = first * kBlockBytes;
  std::optional<std::pair<bool, bool>> last;
  for (const ChangedExtent& extent : *extents) {
    const std::pair<bool, bool> kind(extent.mapped, extent.changed);
    if (extent.offset_bytes != at || extent.length_bytes == 0 || last == kind) {
      return Violation(absl::StrCat(what, " is not a list of merged extents"));
    }
    last = kind;
    for (; at < extent.offset_bytes + extent.length_bytes; at += kBlockBytes) {
      const uint32_t block = at / kBlockBytes;
      const SeenBlock before = BlockOf(model_, base, block), after = BlockOf(model_, target, block);
      const bool same_layer = base && target && *base == *target;
      const bool changed =
          !same_layer && (before.owner != after.owner || before.gone || after.gone);
      if (extent.mapped != after.mapped || extent.changed != changed) {
        return Violation(absl::StrCat(what, " block ", block, " says mapped ", extent.mapped,
                                      " changed ", extent.changed, ", expected ", after.mapped, " ",
                                      changed));
      }
      if (!extent.changed && before.stamps != after.stamps) {
        return Violation(absl::StrCat(what, " block ", block, " differs and is not listed"));
      }
    }
  }
  ++statistics_.comparisons;
  if (at == (first + count) * kBlockBytes) return absl::OkStatus();
  return Violation(absl::StrCat(what, " does not cover the range"));
}

LayerPath CrashRun::PathTo(const ChunkKey& layer) {
  return *LayerPath::Make(
      {{.branch = BranchOf(layer.layer), .ordinal_max = OrdinalOf(layer.layer)}});
}

absl::Status CrashRun::DoChanges() {
  const ChunkKey key = PickKey();
  const std::vector<ChunkKey> layers = model_.Layers(key);
  // Paths as volumes have them, or to any layer at all.
  const auto pick = [&] {
    if (layers.empty() || random_.Chance(1, 2)) return PickPath(key.vtree_id);
    return PathTo(layers[random_.Below(layers.size())]);
  };
  const LayerPath path = pick(), base_path = pick();
  return CheckChanges(key, random_.Chance(1, 8) ? nullptr : &base_path, path);
}

}  // namespace tessera::chunk
