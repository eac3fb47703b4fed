// How one IO of a transaction token is cut into chunk operations.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_TRANSACTION_PLAN_H_
#define TESSERA_SERVICES_MDM_TRANSACTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace tessera::mdm {

inline constexpr uint64_t kTransactionBytesMax = 16ull << 20;
inline constexpr uint64_t kSectorBytes = 512;

// What is needed of a volume and its pool.
struct VolumeShape {
  uint64_t size_bytes = 0;
  uint64_t vtree_id = 0;
  uint64_t pool_id = 0;
  uint32_t chunk_bytes = 0;
  uint32_t placement_group_count = 0;
};

struct ByteRange {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
};

// A piece inside one chunk.
struct PlannedPiece {
  uint64_t volume_offset_bytes = 0;
  uint64_t chunk_index = 0;
  uint64_t placement_group_id = 0;
  uint32_t offset_in_chunk_bytes = 0;
  uint32_t length_bytes = 0;
  // Its number among the pieces of its placement group: 1, 2, 3, … in volume order.
  uint64_t sequence = 0;
};

// INVALID_ARGUMENT: empty, not aligned, or too long; OUT_OF_RANGE: past the volume's end.
[[nodiscard]] absl::Status CheckRange(const VolumeShape& volume, const ByteRange& range);
// REQUIRES: CheckRange is OK.
[[nodiscard]] std::vector<PlannedPiece> SplitByChunk(const VolumeShape& volume,
                                                     const ByteRange& range);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_TRANSACTION_PLAN_H_
