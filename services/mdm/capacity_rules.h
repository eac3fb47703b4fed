// How full a pool is, and how much of it is promised (docs/volumes/space.md).
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_CAPACITY_RULES_H_
#define TESSERA_SERVICES_MDM_CAPACITY_RULES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "tessera/v1/topology.pb.h"

namespace tessera::mdm {

// With what 0 stands for.
[[nodiscard]] v1::CapacityPolicy WithDefaults(v1::CapacityPolicy policy);
// INVALID_ARGUMENT, naming the field behind `prefix`. REQUIRES: with defaults.
[[nodiscard]] absl::Status CheckPolicy(const std::string& prefix, const v1::CapacityPolicy& policy);

// 100 * part / whole, rounded up; the greatest number when the whole is 0 and the part is not.
[[nodiscard]] uint32_t PercentOf(uint64_t part, uint64_t whole);

// A threshold that was reached counts until the pool has fallen three percent below it, so that
// nothing flaps.
[[nodiscard]] v1::CapacityState JudgeCapacity(v1::CapacityState before, uint64_t used_bytes,
                                              uint64_t capacity_bytes,
                                              const v1::CapacityPolicy& policy);

// "normal", "warning", "critical", "unknown".
[[nodiscard]] const char* CapacityStateName(v1::CapacityState state);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_CAPACITY_RULES_H_
