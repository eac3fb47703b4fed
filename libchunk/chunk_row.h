// A chunk's row of metadata: where each of its blocks lies and what its checksum is, as of the last
// checkpoint. Rows in use are immutable and shared; a checkpoint makes new ones.
//
// Threads: a value.
#ifndef TESSERA_LIBCHUNK_CHUNK_ROW_H_
#define TESSERA_LIBCHUNK_CHUNK_ROW_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "libchunk/block_bits.h"
#include "libchunk/types.h"

namespace tessera::chunk {

// Where a block lies. Nine bytes: a full device has hundreds of thousands of them in the cache.
#pragma pack(push, 1)
class BlockPlace {
 public:
  static constexpr uint64_t kUnmapped = (uint64_t{1} << 40) - 1;

  BlockPlace() = default;
  BlockPlace(uint64_t device_block, uint32_t checksum)
      : low_(static_cast<uint32_t>(device_block)),
        high_(static_cast<uint8_t>(device_block >> 32)),
        checksum_(checksum) {}

  bool mapped() const { return device_block() != kUnmapped; }
  uint64_t device_block() const { return uint64_t{high_} << 32 | low_; }
  uint32_t checksum() const { return checksum_; }

 private:
  uint32_t low_ = 0xffffffff;
  uint8_t high_ = 0xff;
  uint32_t checksum_ = 0;
};
#pragma pack(pop)
static_assert(sizeof(BlockPlace) == 9);

// What is known of a chunk besides its blocks.
struct ChunkSummary {
  bool exists = false;
  bool incomplete = false;
  bool pruned = false;         // see ChunkInfo::pruned
  uint32_t mapped_blocks = 0;  // shared with the base or not
  uint32_t own_blocks = 0;     // of these, not shared with the base
  uint64_t placement_group_id = 0;
  Version version;
  std::optional<uint64_t> base;  // the layer whose blocks this one shares
};

struct ChunkRow {
  ChunkSummary summary;
  std::vector<BlockPlace> blocks;  // empty when the chunk does not exist, else one a block
  // Mapped blocks that lie where the base has them. What is not inherited is this layer's own: it
  // alone frees it, or writes it in place.
  BlockBits inherited;

  // The place of a block; unmapped when the chunk does not exist.
  BlockPlace At(uint32_t block) const { return blocks.empty() ? BlockPlace() : blocks[block]; }
  bool Owns(uint32_t block) const { return At(block).mapped() && !inherited[block]; }
  // Sets the numbers of the summary by the blocks.
  void Count();
};

// The `map` column of FORMAT.md, with the checksum that also covers key and summary.
std::vector<std::byte> EncodeMap(const ChunkKey& key, const ChunkRow& row);

// The reverse; `row->summary` but for blocks, base and pruned is the caller's, from the other
// columns. DATA_LOSS when anything does not fit.
absl::Status DecodeMap(const ChunkKey& key, uint32_t block_count, std::span<const std::byte> map,
                       ChunkRow* row);

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_CHUNK_ROW_H_
