// Hash functors for the keys of types.h.
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

struct ChunkKeyHash {
  size_t operator()(const ChunkKey& key) const {
    return MixBits(key.chunk_index + MixBits(key.vtree_id + MixBits(key.snapshot_sequence + 1)));
  }
};

struct StreamIdHash {
  size_t operator()(const StreamId& stream) const {
    return MixBits(stream.placement_group_id + MixBits(stream.volume_id + 1));
  }
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_KEY_HASH_H_
