#include "services/mdm/health_rules.h"

namespace tessera::mdm {

v1::ComponentState Judge(const HealthRules& rules, const VitalSigns& signs) {
  if (signs.failed) return v1::COMPONENT_STATE_FAILED;
  if (signs.left) return v1::COMPONENT_STATE_OFFLINE;
  if (signs.silence_ms >= rules.stale_after_ms * (1 + HealthRules::kOfflineFactor)) {
    return v1::COMPONENT_STATE_OFFLINE;
  }
  if (signs.silence_ms >= rules.stale_after_ms) return v1::COMPONENT_STATE_STALE;
  return signs.has_problems ? v1::COMPONENT_STATE_DEGRADED : v1::COMPONENT_STATE_ONLINE;
}

v1::ComponentState JudgeDevice(v1::ComponentState server_state, bool failed) {
  if (failed) return v1::COMPONENT_STATE_FAILED;
  // The server's own problems are not the device's.
  return server_state == v1::COMPONENT_STATE_DEGRADED ? v1::COMPONENT_STATE_ONLINE : server_state;
}

SpaceLevel JudgeSpace(SpaceLevel before, uint64_t used_bytes, uint64_t capacity_bytes,
                      uint32_t full_percent) {
  constexpr double kFullMark = 95;
  constexpr double kMargin = 3;
  if (capacity_bytes == 0) return SpaceLevel::kEnough;
  const double percent =
      100 * static_cast<double>(used_bytes) / static_cast<double>(capacity_bytes);
  const auto at_least = [&](double mark, SpaceLevel level) {
    return percent >= (before >= level ? mark - kMargin : mark);
  };
  if (at_least(kFullMark, SpaceLevel::kFull)) return SpaceLevel::kFull;
  return at_least(full_percent, SpaceLevel::kNearlyFull) ? SpaceLevel::kNearlyFull
                                                         : SpaceLevel::kEnough;
}

v1::EventSeverity SeverityOf(v1::ComponentState state) {
  switch (state) {
    case v1::COMPONENT_STATE_ONLINE:
      return v1::EVENT_SEVERITY_INFO;
    case v1::COMPONENT_STATE_DEGRADED:
    case v1::COMPONENT_STATE_STALE:
      return v1::EVENT_SEVERITY_WARNING;
    default:
      return v1::EVENT_SEVERITY_ERROR;
  }
}

const char* StateName(v1::ComponentState state) {
  switch (state) {
    case v1::COMPONENT_STATE_ONLINE:
      return "online";
    case v1::COMPONENT_STATE_DEGRADED:
      return "degraded";
    case v1::COMPONENT_STATE_STALE:
      return "stale";
    case v1::COMPONENT_STATE_OFFLINE:
      return "offline";
    case v1::COMPONENT_STATE_FAILED:
      return "failed";
    default:
      return "unknown";
  }
}

}  // namespace tessera::mdm
