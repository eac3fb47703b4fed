#include "services/mdm/volume_limits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"

namespace tessera::mdm {
namespace {

template <typename Number>
Number Smaller(Number own, Number volume, size_t mappings) {
  if (volume == 0) return own;
  const auto part =
      std::max<Number>(1, static_cast<Number>(volume / std::max<size_t>(1, mappings)));
  return own == 0 ? part : std::min(own, part);
}

}  // namespace

absl::Status CheckLimits(const std::string& prefix, const VolumeLimits& limits) {
  if (limits.iops != 0 && limits.iops < kIopsLimitMin) {
    return InvalidField(prefix + "iops_limit",
                        absl::StrCat(limits.iops, " is less than ", kIopsLimitMin,
                                     " operations a second; 0 means no limit"));
  }
  if (limits.bandwidth_bytes != 0 && limits.bandwidth_bytes < kBandwidthLimitMin) {
    return InvalidField(prefix + "bandwidth_limit_bytes",
                        absl::StrCat(limits.bandwidth_bytes, " is less than ", kBandwidthLimitMin,
                                     " bytes a second; 0 means no limit"));
  }
  if (limits.burst_seconds > kBurstSecondsMax) {
    return InvalidField(
        prefix + "burst_seconds",
        absl::StrCat(limits.burst_seconds, " is more than ", kBurstSecondsMax, " seconds"));
  }
  return absl::OkStatus();
}

VolumeLimits LimitsInForce(const VolumeLimits& volume, const VolumeLimits& mapping,
                           size_t mappings) {
  VolumeLimits limits;
  limits.iops = Smaller(mapping.iops, volume.iops, mappings);
  limits.bandwidth_bytes = Smaller(mapping.bandwidth_bytes, volume.bandwidth_bytes, mappings);
  if (volume.any() && mapping.any()) {
    limits.burst_seconds = std::min(volume.burst_seconds, mapping.burst_seconds);
  } else {
    limits.burst_seconds = volume.any() ? volume.burst_seconds : mapping.burst_seconds;
  }
  return limits;
}

std::string DescribeLimits(const VolumeLimits& limits) {
  if (!limits.any()) return "none";
  std::string text;
  if (limits.iops != 0) absl::StrAppend(&text, limits.iops, " operations a second, ");
  if (limits.bandwidth_bytes != 0) {
    absl::StrAppend(&text, limits.bandwidth_bytes, " bytes a second, ");
  }
  absl::StrAppend(&text, limits.burst_seconds, " s of it saved up at most");
  return text;
}

}  // namespace tessera::mdm
