// Limits of operations and bytes a second (docs/volumes/qos.md): what may be asked for, and what a
// mapping gets.
//
// Threads: pure functions.
#ifndef TESSERA_SERVICES_MDM_VOLUME_LIMITS_H_
#define TESSERA_SERVICES_MDM_VOLUME_LIMITS_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {

// Below these a single request of a program would take seconds.
inline constexpr uint32_t kIopsLimitMin = 10;
inline constexpr uint64_t kBandwidthLimitMin = 64 << 10;
inline constexpr uint32_t kBurstSecondsMax = 3600;

// INVALID_ARGUMENT, naming the field behind `prefix` ("volume.", or empty).
[[nodiscard]] absl::Status CheckLimits(const std::string& prefix, const VolumeLimits& limits);

// The limits that a request or an update asks for; a burst of 0 seconds means 1.
template <typename Message>
[[nodiscard]] VolumeLimits AskedLimits(const Message& asked) {
  return {asked.iops_limit(), asked.bandwidth_limit_bytes(),
          asked.burst_seconds() == 0 ? 1 : asked.burst_seconds()};
}

// What one of `mappings` mappings may do: its own limits, and an equal part of the volume's. Where
// both say something the smaller counts, for the burst as well.
[[nodiscard]] VolumeLimits LimitsInForce(const VolumeLimits& volume, const VolumeLimits& mapping,
                                         size_t mappings);

// For people: "100 operations a second, 1048576 bytes a second, 1 s of it saved up", or "none".
[[nodiscard]] std::string DescribeLimits(const VolumeLimits& limits);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_VOLUME_LIMITS_H_
