// Which placement group a chunk belongs to. Every part computes it alike: the function is part of
// the format and never changes (docs/REPLICATION.md, Words).
#ifndef TESSERA_SERVICES_COMMON_PLACEMENT_HASH_H_
#define TESSERA_SERVICES_COMMON_PLACEMENT_HASH_H_

#include <cstdint>

namespace tessera {

// The finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
constexpr uint64_t MixBits(uint64_t value) {
  value ^= value >> 30;
  value *= 0xBF58476D1CE4E5B9ull;
  value ^= value >> 27;
  value *= 0x94D049BB133111EBull;
  value ^= value >> 31;
  return value;
}

// REQUIRES: placement_group_count is a power of two, at most 65,536.
constexpr uint32_t PlacementGroupIndex(uint64_t vtree_id, uint64_t chunk_index,
                                       uint32_t placement_group_count) {
  const uint64_t hash = MixBits(vtree_id * 0x9E3779B97F4A7C15ull + MixBits(chunk_index));
  return static_cast<uint32_t>(hash & (placement_group_count - 1));
}

constexpr uint64_t PlacementGroupId(uint64_t pool_id, uint32_t index) {
  return pool_id * 65536 + index;
}
constexpr uint64_t PoolOfPlacementGroup(uint64_t placement_group_id) {
  return placement_group_id / 65536;
}

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_PLACEMENT_HASH_H_
