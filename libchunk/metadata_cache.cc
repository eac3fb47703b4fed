#include "libchunk/metadata_cache.h"

namespace tessera::chunk {
namespace {

// List node, hash slot, control block and allocator overhead of one row, rounded up.
constexpr uint64_t kFixedCostBytes = 320;

}  // namespace

uint64_t MetadataCache::CostBytes(const ChunkRow& row) {
  return kFixedCostBytes + row.blocks.size() * sizeof(BlockPlace);
}

const SharedRow* MetadataCache::Find(const ChunkKey& key) {
  const auto found = places_.find(key);
  if (found == places_.end()) return nullptr;
  if (found->second != order_.begin()) order_.splice(order_.begin(), order_, found->second);
  return &found->second->second;
}

void MetadataCache::Put(const ChunkKey& key, SharedRow row) {
  if (const auto found = places_.find(key); found != places_.end()) Remove(found->second);
  size_bytes_ += CostBytes(*row);
  order_.emplace_front(key, std::move(row));
  places_[key] = order_.begin();
  while (size_bytes_ > limit_bytes_ && order_.size() > 1) Remove(std::prev(order_.end()));
}

void MetadataCache::Remove(Order::iterator place) {
  size_bytes_ -= CostBytes(*place->second);
  places_.erase(place->first);
  order_.erase(place);
}

void MetadataCache::Clear() {
  places_.clear();
  order_.clear();
  size_bytes_ = 0;
}

}  // namespace tessera::chunk
