#include "libchunk/layer_lists.h"

#include <algorithm>
#include <utility>

namespace tessera::chunk {
namespace {

// List node, hash slot and allocator overhead of one list, rounded up.
constexpr uint64_t kFixedCostBytes = 160;

bool IsBefore(const LayerEntry& entry, uint64_t layer) { return entry.layer < layer; }

}  // namespace

std::optional<uint64_t> NewestOn(const LayerPath& path, const LayerList& list) {
  if (list.empty()) return std::nullopt;
  // The head's, most of the time.
  if (path.Sees(list.back().layer)) return list.back().layer;
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
  found->second->is_used = true;
  return found->second->list.get();
}

LayerLists::Pin LayerLists::Put(const ChunkId& chunk, LayerList list) {
  auto [place, added] = places_.try_emplace(chunk);
  if (added) {
    size_bytes_ += CostBytes(list);
    order_.push_front({.chunk = chunk, .list = std::make_shared<LayerList>(std::move(list))});
    place->second = order_.begin();
  }
  Pin pin = place->second->list;
  Shrink();
  return pin;
}

void LayerLists::Set(const ChunkKey& key, uint64_t base) {
  const auto found = places_.find(ChunkId(key));
  if (found == places_.end()) return;
  LayerList* list = found->second->list.get();
  size_bytes_ -= CostBytes(*list);
  PutLayer(list, {.layer = key.layer, .base = base});
  size_bytes_ += CostBytes(*list);
}

void LayerLists::Remove(const ChunkKey& key) {
  const auto found = places_.find(ChunkId(key));
  if (found != places_.end()) RemoveLayer(found->second->list.get(), key.layer);
}

void LayerLists::Shrink() {
  // Each list is passed over twice at most: once as used, once as pinned.
  for (size_t left = 2 * order_.size(); size_bytes_ > limit_bytes_ && left > 0; --left) {
    const auto last = std::prev(order_.end());
    if (std::exchange(last->is_used, false) || last->list.use_count() > 1) {
      order_.splice(order_.begin(), order_, last);
      continue;
    }
    size_bytes_ -= CostBytes(*last->list);
    places_.erase(last->chunk);
    order_.pop_back();
  }
}

}  // namespace tessera::chunk
