// An LRU cache of decoded chunk rows, bounded in bytes.
//
// Threads: needs the caller's lock (the store's state lock). The rows handed out are immutable and
// shared between the cache and whoever reads one without that lock.
#ifndef TESSERA_LIBCHUNK_METADATA_CACHE_H_
#define TESSERA_LIBCHUNK_METADATA_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "libchunk/chunk_row.h"
#include "libchunk/key_hash.h"

namespace tessera::chunk {

using SharedRow = std::shared_ptr<const ChunkRow>;

class MetadataCache {
 public:
  explicit MetadataCache(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // Null when the row is not here. Makes it the most recently used.
  const SharedRow* Find(const ChunkKey& key);
  // Takes the place of an older row. The newest row stays even when it alone exceeds the limit.
  void Put(const ChunkKey& key, SharedRow row);
  void Clear();

  uint64_t size_bytes() const { return size_bytes_; }

 private:
  using Order = std::list<std::pair<ChunkKey, SharedRow>>;

  static uint64_t CostBytes(const ChunkRow& row);
  void Remove(Order::iterator place);

  const uint64_t limit_bytes_;
  uint64_t size_bytes_ = 0;
  Order order_;  // most recently used first
  absl::flat_hash_map<ChunkKey, Order::iterator, ChunkKeyHash> places_;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_METADATA_CACHE_H_
