#include "libchunk/layer_lists.h"

#include <algorithm>

namespace tessera::chunk {
namespace {

// List node, hash slot and allocator overhead of one list, rounded up.
constexpr uint64_t kFixedCostBytes = 160;

bool IsBefore(const LayerEntry& entry, uint64_t layer) { return entry.layer < layer; }

}  // namespace

std::optional<uint64_t> NewestOn(const LayerPath& path, const LayerList& list) {
  // Branches fall along the path: the first part that has a layer has the greatest.
  for (const LayerPath::Part& part : path.parts()) {
    const auto after = std::upper_bound(
        list.begin(), list.end(), MakeLayer(part.branch, part.ordinal_max),
        [](uint64_t layer, const LayerEntry& entry) { return layer < entry.layer; });
    if (after != list.begin() && BranchOf(std::prev(after)->layer) == part.branch) {
      return std::prev(after)->layer;
    }
  }
  return std::nullopt;
}

bool Contains(const LayerList& list, uint64_t layer) {
  const auto place = std::lower_bound(list.begin(), list.end(), layer, IsBefore);
  return place != list.end() && place->layer == layer;
}

void PutLayer(LayerList* list, const LayerEntry& entry) {
  const auto place = std::lower_bound(list->begin(), list->end(), entry.layer, IsBefore);
  if (place != list->end() && place->layer == entry.layer) {
    *place = entry;
  } else {
    list->insert(place, entry);
  }
}

void RemoveLayer(LayerList* list, uint64_t layer) {
  const auto place = std::lower_bound(list->begin(), list->end(), layer, IsBefore);
  if (place != list->end() && place->layer == layer) list->erase(place);
}

uint64_t LayerLists::CostBytes(const LayerList& list) {
  return kFixedCostBytes + list.capacity() * sizeof(LayerEntry);
}

const LayerList* LayerLists::Find(const ChunkId& chunk) {
  const auto found = places_.find(chunk);
  if (found == places_.end()) return nullptr;
  if (found->second != order_.begin()) order_.splice(order_.begin(), order_, found->second);
  return found->second->second.get();
}

LayerLists::Pin LayerLists::Put(const ChunkId& chunk, LayerList list) {
  if (Find(chunk) == nullptr) {
    size_bytes_ += CostBytes(list);
    order_.emplace_front(chunk, std::make_shared<LayerList>(std::move(list)));
    places_[chunk] = order_.begin();
  }
  Pin pin = order_.front().second;
  Shrink();
  return pin;
}

void LayerLists::Set(const ChunkKey& key, uint64_t base) {
  const auto found = places_.find(ChunkId(key));
  if (found == places_.end()) return;
  LayerList* list = found->second->second.get();
  size_bytes_ -= CostBytes(*list);
  PutLayer(list, {.layer = key.layer, .base = base});
  size_bytes_ += CostBytes(*list);
}

void LayerLists::Remove(const ChunkKey& key) {
  const auto found = places_.find(ChunkId(key));
  if (found != places_.end()) RemoveLayer(found->second->second.get(), key.layer);
}

void LayerLists::Shrink() {
  for (auto place = order_.end(); size_bytes_ > limit_bytes_ && place != order_.begin();) {
    --place;
    if (place->second.use_count() > 1) continue;
    size_bytes_ -= CostBytes(*place->second);
    places_.erase(place->first);
    place = order_.erase(place);
  }
}

}  // namespace tessera::chunk
