// Has the servers count what a plan names, all at once, and adds up what they say.
//
// Threads: any. Measure waits for servers.
#ifndef TESSERA_SERVICES_MDM_SPACE_MEASURER_H_
#define TESSERA_SERVICES_MDM_SPACE_MEASURER_H_

#include <chrono>
#include <functional>
#include <set>

#include "absl/status/statusor.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/node_control.h"
#include "services/mdm/space_plan.h"
#include "tessera/v1/usage.pb.h"

namespace tessera::mdm {

class SpaceMeasurer {
 public:
  // A server that falls silent is passed over in the next attempt.
  static constexpr int kAttemptsMax = 3;

  SpaceMeasurer(NodeControl* control, HealthMonitor* health) : control_(control), health_(health) {}

  // UNAVAILABLE: a placement group has no replica in sync on a server that answers. CANCELLED:
  // `cancelled`, which is asked now and then, said so.
  [[nodiscard]] absl::StatusOr<v1::GetUsageResponse> Measure(
      const SpacePlan& plan, std::chrono::milliseconds timeout,
      const std::function<bool()>& cancelled);

 private:
  // Asks for all pieces. Servers that fail in one of them go to *failed, and have no answer.
  [[nodiscard]] SpaceAnswers Ask(const SpacePlan& plan, const CountedReplicas& counted,
                                 const std::set<uint64_t>& silent,
                                 std::chrono::system_clock::time_point until,
                                 const std::function<bool()>& cancelled,
                                 std::set<uint64_t>* failed);

  NodeControl* const control_;
  HealthMonitor* const health_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SPACE_MEASURER_H_
