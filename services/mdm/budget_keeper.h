// Measures what volumes with a budget take, and tells their clients when they are over it, or no
// longer (docs/volumes/space.md). And has servers say how much of what they use are blocks.
//
// Threads: Run from one thread.
#ifndef TESSERA_SERVICES_MDM_BUDGET_KEEPER_H_
#define TESSERA_SERVICES_MDM_BUDGET_KEEPER_H_

#include <atomic>
#include <chrono>
#include <set>
#include <string>

#include "services/common/clock.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_control.h"
#include "services/mdm/space_measurer.h"

namespace tessera::mdm {

class BudgetKeeper {
 public:
  static constexpr std::chrono::milliseconds kMeasureTimeout{60'000};
  static constexpr std::chrono::milliseconds kTellTimeout{2'000};

  // Of the time, measuring takes at most this part.
  static constexpr uint64_t kShare = 10;

  // `clock` is of waits for others.
  BudgetKeeper(MdmStore* store, SpaceMeasurer* measurer, NodeControl* control,
               const HealthMonitor* health, const EventLog* events, const Clock* clock)
      : store_(store),
        measurer_(measurer),
        control_(control),
        health_(health),
        events_(events),
        clock_(clock) {}

  // One round, unless the last one took so long that it is too early for another.
  void Run();
  // Ends the round that runs soon. From any thread.
  void Stop() { stopped_ = true; }

 private:
  [[nodiscard]] absl::Status MeasurePool(uint64_t pool_id);
  // Keeps what was measured; clients of volumes for which that changes something are told.
  [[nodiscard]] absl::Status Judge(const v1::GetUsageResponse& usage);

  MdmStore* const store_;
  SpaceMeasurer* const measurer_;
  NodeControl* const control_;
  const HealthMonitor* const health_;
  const EventLog* const events_;
  const Clock* const clock_;
  uint64_t not_before_boot_ms_ = 0;
  std::atomic<bool> stopped_ = false;
  std::set<uint64_t> not_measured_;  // pools of which that was said
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_BUDGET_KEEPER_H_
