// The words that libchunk and its users share: which chunk, which place in a writer's order.
#ifndef TESSERA_LIBCHUNK_TYPES_H_
#define TESSERA_LIBCHUNK_TYPES_H_

#include <compare>
#include <cstdint>

namespace tessera::chunk {

// The native block: unit of checksums, of mapping and of space.
inline constexpr uint32_t kBlockBytes = 4096;
// The unit of addressing: every offset and length is a multiple of it.
inline constexpr uint32_t kSectorBytes = 512;

// Names one chunk. A vtree is a volume with its snapshots and clones; chunks of `snapshot_sequence`
// s hold the blocks written while the vtree's newest snapshot was s (0: before any snapshot).
struct ChunkKey {
  uint64_t vtree_id = 0;
  uint64_t chunk_index = 0;
  uint64_t snapshot_sequence = 0;
  friend auto operator<=>(const ChunkKey&, const ChunkKey&) = default;
};

// A place in a volume's order of writes within one placement group: the writer's generation, then
// its sequence. Equal versions of a chunk mean equal bytes.
struct Version {
  uint64_t generation = 0;
  uint64_t sequence = 0;
  friend auto operator<=>(const Version&, const Version&) = default;
};

// A stream of writes that a replica takes strictly in order.
struct StreamId {
  uint64_t volume_id = 0;
  uint64_t placement_group_id = 0;
  friend auto operator<=>(const StreamId&, const StreamId&) = default;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_TYPES_H_
