// What an operation counts for limits. Client and servers count alike, operation by operation, so
// that a client that keeps to its limits is never found to exceed them (docs/volumes/qos.md).
//
// Threads: pure functions and values.
#ifndef TESSERA_SERVICES_COMMON_IO_COST_H_
#define TESSERA_SERVICES_COMMON_IO_COST_H_

#include <cstdint>

#include "tessera/v1/chunk.pb.h"

namespace tessera {

// What moves no data counts as this much of an operation.
inline constexpr double kDatalessOperations = 1.0 / 64;

struct IoCost {
  double operations = 0;
  uint64_t bytes = 0;

  IoCost& operator+=(const IoCost& other) {
    operations += other.operations;
    bytes += other.bytes;
    return *this;
  }
  friend bool operator==(const IoCost&, const IoCost&) = default;
};

// The cost of one operation on one chunk.
[[nodiscard]] inline IoCost CostOf(v1::IoOperationType type, uint64_t length_bytes) {
  switch (type) {
    case v1::IO_OPERATION_TYPE_READ:
    case v1::IO_OPERATION_TYPE_WRITE:
      return {1, length_bytes};
    case v1::IO_OPERATION_TYPE_WRITE_ZEROES:
    case v1::IO_OPERATION_TYPE_TRIM:
    case v1::IO_OPERATION_TYPE_MAP:
    case v1::IO_OPERATION_TYPE_ADOPT:
    case v1::IO_OPERATION_TYPE_CHANGES:
      return {kDatalessOperations, 0};
    default:
      // Flushes serve all who wait for one; what keeps the replicas in order is no load of the
      // client's.
      return {};
  }
}

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_IO_COST_H_
