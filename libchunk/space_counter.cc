#include "libchunk/space_counter.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "libchunk/layer_lists.h"

namespace tessera::chunk {
namespace {

// Sets of layers that are remembered; each holds every path once at most.
constexpr size_t kViewersMax = 1'024;

// What is known of a block on the device.
constexpr uint8_t kSeenByOne = 1;
constexpr uint8_t kSeenByMore = 2;
constexpr uint8_t kSeenByHead = 4;

// visit(block) for each bit that is set.
template <typename Visit>
void ForEachBit(std::span<const uint64_t> words, const Visit& visit) {
  for (size_t i = 0; i < words.size(); ++i) {
    for (uint64_t word = words[i]; word != 0; word &= word - 1) {
      visit(static_cast<uint32_t>(i * 64) + static_cast<uint32_t>(std::countr_zero(word)));
    }
  }
}

}  // namespace

SpaceCounter::SpaceCounter(std::span<const LayerPath> paths) : paths_(paths.begin(), paths.end()) {
  space_.views.resize(paths_.size());
}

SpaceCounter::Viewers& SpaceCounter::ViewersOf(const ChunkLayers& chunk) {
  std::vector<uint64_t> key;
  key.reserve(chunk.layers.size());
  for (const LayerBlocks& layer : chunk.layers) key.push_back(layer.layer);
  if (const auto found = viewers_.find(key); found != viewers_.end()) return found->second;
  if (viewers_.size() >= kViewersMax) Settle();
  LayerList list;
  for (const uint64_t layer : key) list.push_back({.layer = layer});
  Viewers viewers;
  viewers.layers.resize(list.size());
  for (size_t i = 0; i < paths_.size(); ++i) {
    const std::optional<uint64_t> newest = NewestOn(paths_[i], list);
    if (!newest) continue;
    const auto at = std::lower_bound(key.begin(), key.end(), *newest) - key.begin();
    Viewers::Layer& layer = viewers.layers[static_cast<size_t>(at)];
    layer.paths.push_back(static_cast<uint32_t>(i));
    layer.has_head |= paths_[i].parts()[0].ordinal_max == LayerPath::kHead;
  }
  return viewers_.emplace(std::move(key), std::move(viewers)).first->second;
}

void SpaceCounter::Add(const ChunkLayers& chunk) {
  if (chunk.layers.empty()) return;
  Viewers& viewers = ViewersOf(chunk);
  for (size_t i = 0; i < chunk.layers.size(); ++i) {
    viewers.layers[i].logical_blocks += chunk.layers[i].mapped_blocks;
    space_.data_blocks += chunk.layers[i].own_blocks;
  }
  if (chunk.layers.size() > 1) {
    CountShared(chunk, &viewers);
    return;
  }
  const uint64_t blocks = chunk.layers[0].own_blocks;
  Viewers::Layer& layer = viewers.layers[0];
  if (layer.paths.empty()) space_.unseen_blocks += blocks;
  if (layer.paths.size() == 1) layer.unique_blocks += blocks;
  if (!layer.paths.empty() && !layer.has_head) space_.snapshot_only_blocks += blocks;
}

void SpaceCounter::CountShared(const ChunkLayers& chunk, Viewers* viewers) {
  const size_t layer_count = chunk.layers.size();
  const size_t blocks = chunk.layers[0].mapped.size() * 64;
  owners_.resize(layer_count * blocks);
  seen_.assign(layer_count * blocks, 0);
  // A base comes before what was made from it, so its owners are known.
  for (size_t i = 0; i < layer_count; ++i) {
    const LayerBlocks& layer = chunk.layers[i];
    size_t base = i;
    if (layer.base) {
      const auto found = std::lower_bound(
          chunk.layers.begin(), chunk.layers.begin() + static_cast<std::ptrdiff_t>(i), *layer.base,
          [](const LayerBlocks& other, uint64_t number) { return other.layer < number; });
      base = static_cast<size_t>(found - chunk.layers.begin());
    }
    ForEachBit(layer.mapped, [&](uint32_t block) {
      const bool inherited = (layer.inherited[block / 64] >> (block % 64) & 1) != 0;
      owners_[i * blocks + block] =
          inherited && base < i ? owners_[base * blocks + block] : static_cast<uint32_t>(i);
    });
  }
  for (size_t i = 0; i < layer_count; ++i) {
    const Viewers::Layer& seen_by = viewers->layers[i];
    if (seen_by.paths.empty()) continue;
    const uint8_t as_first = seen_by.paths.size() > 1 ? kSeenByMore : kSeenByOne;
    ForEachBit(chunk.layers[i].mapped, [&](uint32_t block) {
      uint8_t& seen = seen_[size_t{owners_[i * blocks + block]} * blocks + block];
      seen |= (seen & (kSeenByOne | kSeenByMore)) != 0 ? kSeenByMore : as_first;
      if (seen_by.has_head) seen |= kSeenByHead;
    });
  }
  for (size_t i = 0; i < layer_count; ++i) {
    Viewers::Layer& seen_by = viewers->layers[i];
    ForEachBit(chunk.layers[i].mapped, [&](uint32_t block) {
      const size_t owner = owners_[i * blocks + block];
      const uint8_t seen = seen_[owner * blocks + block];
      if (seen_by.paths.size() == 1 && (seen & kSeenByMore) == 0) ++seen_by.unique_blocks;
      if (owner != i) return;
      if (seen == 0) ++space_.unseen_blocks;
      if (seen != 0 && (seen & kSeenByHead) == 0) ++space_.snapshot_only_blocks;
    });
  }
}

void SpaceCounter::Settle() {
  for (const auto& [layers, viewers] : viewers_) {
    for (const Viewers::Layer& layer : viewers.layers) {
      for (const uint32_t path : layer.paths) {
        space_.views[path].logical_blocks += layer.logical_blocks;
        space_.views[path].unique_blocks += layer.unique_blocks;
      }
    }
  }
  viewers_.clear();
}

VtreeSpace SpaceCounter::Result() {
  Settle();
  return space_;
}

}  // namespace tessera::chunk
