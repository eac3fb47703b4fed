#include "services/mdm/capacity_rules.h"

#include <algorithm>
#include <limits>

#include "absl/numeric/int128.h"
#include "absl/strings/str_cat.h"
#include "services/common/errors.h"

namespace tessera::mdm {
namespace {

constexpr uint32_t kWarnPercent = 80;
constexpr uint32_t kCriticalPercent = 90;
constexpr uint32_t kMarginPercent = 3;
constexpr uint32_t kOvercommitMin = 100;

}  // namespace

v1::CapacityPolicy WithDefaults(v1::CapacityPolicy policy) {
  if (policy.warn_percent() == 0) policy.set_warn_percent(kWarnPercent);
  if (policy.critical_percent() == 0) policy.set_critical_percent(kCriticalPercent);
  return policy;
}

absl::Status CheckPolicy(const std::string& prefix, const v1::CapacityPolicy& policy) {
  if (policy.critical_percent() > 100) {
    return InvalidField(prefix + "critical_percent",
                        absl::StrCat(policy.critical_percent(), " is not from 1 to 100"));
  }
  if (policy.warn_percent() > policy.critical_percent()) {
    return InvalidField(prefix + "warn_percent",
                        absl::StrCat(policy.warn_percent(), " is not from 1 to critical_percent, ",
                                     policy.critical_percent()));
  }
  if (policy.overcommit_limit_percent() != 0 &&
      policy.overcommit_limit_percent() < kOvercommitMin) {
    return InvalidField(
        prefix + "overcommit_limit_percent",
        absl::StrCat(policy.overcommit_limit_percent(), " is less than 100; 0 means no limit"));
  }
  return absl::OkStatus();
}

uint32_t PercentOf(uint64_t part, uint64_t whole) {
  constexpr uint32_t kMost = std::numeric_limits<uint32_t>::max();
  if (part == 0) return 0;
  if (whole == 0) return kMost;
  const absl::uint128 percent = (absl::uint128(part) * 100 + whole - 1) / whole;
  return static_cast<uint32_t>(std::min<absl::uint128>(percent, kMost));
}

v1::CapacityState JudgeCapacity(v1::CapacityState before, uint64_t used_bytes,
                                uint64_t capacity_bytes, const v1::CapacityPolicy& policy) {
  if (capacity_bytes == 0) return v1::CAPACITY_STATE_UNSPECIFIED;
  const uint32_t percent = PercentOf(used_bytes, capacity_bytes);
  const auto reached = [&](uint32_t threshold, v1::CapacityState state) {
    return percent + (before >= state ? kMarginPercent : 0) >= threshold;
  };
  if (reached(policy.critical_percent(), v1::CAPACITY_STATE_CRITICAL)) {
    return v1::CAPACITY_STATE_CRITICAL;
  }
  return reached(policy.warn_percent(), v1::CAPACITY_STATE_WARNING) ? v1::CAPACITY_STATE_WARNING
                                                                    : v1::CAPACITY_STATE_NORMAL;
}

const char* CapacityStateName(v1::CapacityState state) {
  switch (state) {
    case v1::CAPACITY_STATE_NORMAL:
      return "normal";
    case v1::CAPACITY_STATE_WARNING:
      return "warning";
    case v1::CAPACITY_STATE_CRITICAL:
      return "critical";
    default:
      return "unknown";
  }
}

}  // namespace tessera::mdm
