// Sizes of the read cache, and names of what is in it.
#ifndef TESSERA_SERVICES_SDC_CACHE_CACHE_GEOMETRY_H_
#define TESSERA_SERVICES_SDC_CACHE_CACHE_GEOMETRY_H_

#include <cstdint>
#include <utility>

namespace tessera::sdc {

// What is admitted, evicted and named: big enough that its entry in memory is small against it.
inline constexpr uint32_t kCacheLineBytes = 64 << 10;
// What is valid or not, and has a checksum: the unit of file systems, so that a small read never
// makes a larger one.
inline constexpr uint32_t kCacheBlockBytes = 4 << 10;
inline constexpr uint32_t kCacheBlocksInLine = kCacheLineBytes / kCacheBlockBytes;
// Larger reads go by the cache: they are sequential, and servers are good at these.
inline constexpr uint32_t kCachedReadBytesMax = 256 << 10;

// Blocks of one line, a bit each.
using BlockMask = uint16_t;
static_assert(sizeof(BlockMask) * 8 == kCacheBlocksInLine);

// The content of one volume under one generation. Never used twice: what is dropped stays dropped.
using CacheSpace = uint64_t;

struct CacheLineKey {
  CacheSpace space = 0;
  uint64_t line = 0;  // offset in the volume divided by kCacheLineBytes

  friend bool operator==(const CacheLineKey&, const CacheLineKey&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const CacheLineKey& key) {
    return H::combine(std::move(h), key.space, key.line);
  }
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CACHE_CACHE_GEOMETRY_H_
