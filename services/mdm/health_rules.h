// The state of a part or device as its heartbeats, or their absence, show it.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_HEALTH_RULES_H_
#define TESSERA_SERVICES_MDM_HEALTH_RULES_H_

#include <cstdint>
#include <vector>

#include "tessera/v1/health.pb.h"
#include "tessera/v1/types.pb.h"

namespace tessera::mdm {

struct HealthRules {
  uint64_t stale_after_ms = 30'000;
  // Stale for this many times the stale time means offline.
  static constexpr uint64_t kOfflineFactor = 4;
};

// What is known of a part.
struct VitalSigns {
  uint64_t silence_ms = 0;    // since the last heartbeat, or since the MDM began to listen
  bool left = false;          // it said goodbye and has not come back
  bool has_problems = false;  // its last heartbeat named some
  bool failed = false;        // a device: it does not work
};

[[nodiscard]] v1::ComponentState Judge(const HealthRules& rules, const VitalSigns& signs);

// A device is as well as its server, unless it failed.
[[nodiscard]] v1::ComponentState JudgeDevice(v1::ComponentState server_state, bool failed);

// How full a device is: from the full mark of rebuild and rebalance on, and from 95 % on. It has to
// fall three percent below a mark to be better again, so that nothing flaps.
enum class SpaceLevel : uint8_t { kEnough, kNearlyFull, kFull };
[[nodiscard]] SpaceLevel JudgeSpace(SpaceLevel before, uint64_t used_bytes, uint64_t capacity_bytes,
                                    uint32_t full_percent);

// A part in this state can be expected to answer.
[[nodiscard]] constexpr bool IsReachable(v1::ComponentState state) {
  return state == v1::COMPONENT_STATE_ONLINE || state == v1::COMPONENT_STATE_DEGRADED;
}

[[nodiscard]] v1::EventSeverity SeverityOf(v1::ComponentState state);
// "online", "degraded", …
[[nodiscard]] const char* StateName(v1::ComponentState state);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_HEALTH_RULES_H_
