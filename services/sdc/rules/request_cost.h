// What a request of an application costs under the volume's limits: the sum of what its operations
// at one replica cost (services/common/io_cost.h). Known before the request begins.
//
// Threads: pure functions.
#ifndef TESSERA_SERVICES_SDC_RULES_REQUEST_COST_H_
#define TESSERA_SERVICES_SDC_RULES_REQUEST_COST_H_

#include <cstdint>

#include "services/common/io_cost.h"
#include "services/sdc/block_device.h"
#include "services/sdc/rules/request_splitter.h"

namespace tessera::sdc {

// A block status answer covers at most this much; the client asks on from there.
inline constexpr uint64_t kBlockStatusBytes = 64 << 20;
// Zeroings of up to this length are written as data when they are not aligned.
inline constexpr uint64_t kZeroesAsDataBytes = 64 << 10;

// REQUIRES: chunk_bytes > 0; the range is not empty, but for flushes.
[[nodiscard]] IoCost RequestCost(Command command, const ByteRange& range, uint32_t chunk_bytes);

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RULES_REQUEST_COST_H_
