#include "libchunk/layer_lists.h"

#include <algorithm>
#include <utility>

namespace tessera::chunk {
namespace {

// List node, hash slot and allocator overhead of one list, rounded up.
constexpr uint64_t kFixedCostBytes = 160;
// Lists that are passed over, because they were used, when one is put here.
constexpr size_t kSparedMax = 64;

bool IsBefore(const LayerEntry& entry, uint64_t layer) { return entry.layer < layer; }

}  // namespace

std::optional<uint64_t> NewestOn(const LayerPath& path, const LayerList& list) {
  if (list.empty()) return std::nullopt;
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

uint64_t LayerLists::CostBytes(const Cached& cached) {
  return kFixedCostBytes +
         (cached.list == nullptr ? 0 : cached.list->capacity() * sizeof(LayerEntry));
}

LayerLists::Newest LayerLists::FindNewest(const ChunkId& chunk, const LayerPath& path) {
  const auto found = places_.find(chunk);
  if (found == places_.end()) return {};
  Place& place = found->second;
  place.is_used = true;
  // The head's, most of the time.
  if (!place.greatest || path.Sees(*place.greatest)) {
    return {.is_known = true, .layer = place.greatest};
  }
  const LayerList* list = place.cached->list.get();
  if (list == nullptr) return {};
  return {.is_known = true, .layer = NewestOn(path, *list)};
}

const LayerList* LayerLists::Find(const ChunkId& chunk) {
  const auto found = places_.find(chunk);
  if (found == places_.end()) return nullptr;
  found->second.is_used = true;
  return found->second.cached->list.get();
}

LayerLists::Place* LayerLists::FindOrAdd(const ChunkId& chunk, bool* added) {
  const auto [place, is_new] = places_.try_emplace(chunk);
  *added = is_new;
  if (is_new) {
    order_.push_front({.chunk = chunk});
    place->second.cached = order_.begin();
    size_bytes_ += CostBytes(order_.front());
  }
  return &place->second;
}

LayerLists::Pin LayerLists::Put(const ChunkId& chunk, LayerList list) {
  bool added = false;
  Place* place = FindOrAdd(chunk, &added);
  Cached& cached = *place->cached;
  if (cached.list == nullptr) {
    size_bytes_ -= CostBytes(cached);
    place->greatest = list.empty() ? std::nullopt : std::optional(list.back().layer);
    cached.list = std::make_shared<LayerList>(std::move(list));
    size_bytes_ += CostBytes(cached);
  }
  Pin pin = cached.list;
  Shrink();
  return pin;
}

void LayerLists::PutGreatest(const ChunkId& chunk, std::optional<uint64_t> greatest) {
  bool added = false;
  Place* place = FindOrAdd(chunk, &added);
  if (!added) return;
  place->greatest = greatest;
  Shrink();
}

void LayerLists::Set(const ChunkKey& key, uint64_t base) {
  const auto found = places_.find(ChunkId(key));
  if (found == places_.end()) return;
  Place& place = found->second;
  if (!place.greatest || *place.greatest < key.layer) place.greatest = key.layer;
  if (place.cached->list == nullptr) return;
  size_bytes_ -= CostBytes(*place.cached);
  PutLayer(place.cached->list.get(), {.layer = key.layer, .base = base});
  size_bytes_ += CostBytes(*place.cached);
}

void LayerLists::Remove(const ChunkKey& key) {
  const auto found = places_.find(ChunkId(key));
  if (found == places_.end()) return;
  Place& place = found->second;
  LayerList* list = place.cached->list.get();
  if (list != nullptr) {
    RemoveLayer(list, key.layer);
    place.greatest = list->empty() ? std::nullopt : std::optional(list->back().layer);
  } else if (place.greatest == key.layer) {
    Forget(found);  // which one is the greatest now only the list would tell
  }
}

void LayerLists::Forget(Places::iterator place) {
  const Order::iterator cached = place->second.cached;
  size_bytes_ -= CostBytes(*cached);
  places_.erase(place);
  order_.erase(cached);
}

void LayerLists::Shrink() {
  // Each is passed over twice at most: once as used, once as pinned; and few as used, whatever was
  // used: the lock is others', too.
  size_t spared = 0;
  for (size_t left = 2 * order_.size(); size_bytes_ > limit_bytes_ && left > 0; --left) {
    const auto last = std::prev(order_.end());
    const auto place = places_.find(last->chunk);
    const bool is_spared = std::exchange(place->second.is_used, false) && spared++ < kSparedMax;
    if (is_spared || last->list.use_count() > 1) {
      order_.splice(order_.begin(), order_, last);
      continue;
    }
    Forget(place);
  }
}

}  // namespace tessera::chunk
