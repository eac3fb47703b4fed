// Where applications write: three regions of 8 KiB, each across the end of a chunk, seen as one row
// of cells.
#ifndef TESSERA_INTEGRATION_SIM_ADDRESSES_H_
#define TESSERA_INTEGRATION_SIM_ADDRESSES_H_

#include <cstdint>

#include "integration/sim/history.h"
#include "services/common/placement_hash.h"

namespace tessera::sim {

inline constexpr uint64_t kChunkBytes = 256u << 10;
inline constexpr uint64_t kVolumeBytes = 4 * kChunkBytes;
inline constexpr uint64_t kRegions = 3;
inline constexpr uint64_t kRegionBytes = 8'192;
inline constexpr uint64_t kCellsOfRegion = kRegionBytes / kCellBytes;
inline constexpr uint64_t kCells = kRegions * kCellsOfRegion;
inline constexpr uint64_t kPoolId = 1;

[[nodiscard]] inline uint64_t OffsetOfCell(uint64_t cell) {
  const uint64_t region = cell / kCellsOfRegion;
  return (region + 1) * kChunkBytes - kRegionBytes / 2 + cell % kCellsOfRegion * kCellBytes;
}

[[nodiscard]] inline uint64_t GroupOfCell(uint64_t vtree_id, uint64_t cell, uint32_t groups) {
  return PlacementGroupId(kPoolId,
                          PlacementGroupIndex(vtree_id, OffsetOfCell(cell) / kChunkBytes, groups));
}

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_ADDRESSES_H_
