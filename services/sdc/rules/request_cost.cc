#include "services/sdc/rules/request_cost.h"

#include <algorithm>

namespace tessera::sdc {
namespace {

// One kind of operation over a range of whole sectors.
IoCost SegmentCost(v1::IoOperationType type, const ByteRange& range, uint32_t chunk_bytes) {
  if (range.empty()) return {};
  const uint64_t pieces = (range.end - 1) / chunk_bytes - range.begin / chunk_bytes + 1;
  const IoCost one = CostOf(type, 0);
  const uint64_t bytes = CostOf(type, range.size()).bytes;
  return {one.operations * static_cast<double>(pieces), bytes};
}

// A write that does not begin or end with a sector reads what is there first.
IoCost UnalignedCost(Command command, const ByteRange& range, uint32_t chunk_bytes) {
  const ByteRange wide = WidenToSectors(range);
  const bool head = range.begin != wide.begin;
  const bool tail = range.end != wide.end;
  const IoCost edge_read = CostOf(v1::IO_OPERATION_TYPE_READ, kSectorBytes);
  const IoCost edge_write = CostOf(v1::IO_OPERATION_TYPE_WRITE, kSectorBytes);
  const bool one_sector = wide.size() == kSectorBytes;
  IoCost cost;
  if (head || one_sector) cost += edge_read;
  if (tail && !one_sector) cost += edge_read;
  if (command == Command::kWrite || wide.size() <= kZeroesAsDataBytes) {
    cost += SegmentCost(v1::IO_OPERATION_TYPE_WRITE, wide, chunk_bytes);
    return cost;
  }
  if (head) cost += edge_write;
  if (tail) cost += edge_write;
  cost += SegmentCost(v1::IO_OPERATION_TYPE_WRITE_ZEROES, NarrowToSectors(range), chunk_bytes);
  return cost;
}

}  // namespace

IoCost RequestCost(Command command, const ByteRange& range, uint32_t chunk_bytes) {
  ByteRange wide = WidenToSectors(range);
  switch (command) {
    case Command::kRead:
    case Command::kCache:
      return SegmentCost(v1::IO_OPERATION_TYPE_READ, wide, chunk_bytes);
    case Command::kTrim:
      return SegmentCost(v1::IO_OPERATION_TYPE_TRIM, NarrowToSectors(range), chunk_bytes);
    case Command::kBlockStatus:
    case Command::kChanges:
      wide.end = std::min(wide.end, wide.begin + kBlockStatusBytes);
      return SegmentCost(v1::IO_OPERATION_TYPE_MAP, wide, chunk_bytes);
    case Command::kWrite:
      if (!IsSectorAligned(range)) return UnalignedCost(command, range, chunk_bytes);
      return SegmentCost(v1::IO_OPERATION_TYPE_WRITE, range, chunk_bytes);
    case Command::kWriteZeroes:
      if (!IsSectorAligned(range)) return UnalignedCost(command, range, chunk_bytes);
      return SegmentCost(v1::IO_OPERATION_TYPE_WRITE_ZEROES, range, chunk_bytes);
    default:
      return {};
  }
}

}  // namespace tessera::sdc
