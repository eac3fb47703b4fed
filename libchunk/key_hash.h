// Hash functors for the keys of types.h, and the name of a chunk without its layer.
#ifndef TESSERA_LIBCHUNK_KEY_HASH_H_
#define TESSERA_LIBCHUNK_KEY_HASH_H_

#include <cstddef>
#include <cstdint>

#include "libchunk/types.h"

namespace tessera::chunk {

// The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): every input bit moves every output
// bit.
inline uint64_t MixBits(uint64_t word) {
  word ^= word >> 30;
  word *= 0xbf58476d1ce4e5b9;
  word ^= word >> 27;
  word *= 0x94d049bb133111eb;
  return word ^ word >> 31;
}

// A chunk with all its layers.
struct ChunkId {
  uint64_t vtree_id = 0;
  uint64_t chunk_index = 0;
  ChunkId() = default;
  explicit ChunkId(const ChunkKey& key) : vtree_id(key.vtree_id), chunk_index(key.chunk_index) {}
  friend auto operator<=>(const ChunkId&, const ChunkId&) = default;
};

struct ChunkIdHash {
  size_t operator()(const ChunkId& id) const {
    return MixBits(id.chunk_index + MixBits(id.vtree_id + 1));
  }
};

struct ChunkKeyHash {
  size_t operator()(const ChunkKey& key) const {
    return MixBits(key.chunk_index + MixBits(key.vtree_id + MixBits(key.layer + 1)));
  }
};

struct StreamIdHash {
  size_t operator()(const StreamId& stream) const {
    return MixBits(stream.placement_group_id + MixBits(stream.volume_id + 1));
  }
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_KEY_HASH_H_
