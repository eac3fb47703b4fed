// What the MDM does by the clock without asking anybody: judging health, and who exceeds its
// limits, ending tokens that ran out, forgetting old requests, persisting the time, and the gauges.
//
// Threads: Run from one thread.
#ifndef TESSERA_SERVICES_MDM_UPKEEP_H_
#define TESSERA_SERVICES_MDM_UPKEEP_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/limit_governor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_directory.h"

namespace tessera::mdm {

class Upkeep {
 public:
  static constexpr uint64_t kSlowPeriodMillis = 5'000;  // of what need not be quick
  static constexpr uint64_t kRequestMemoryMillis = 86'400'000;
  static constexpr uint64_t kTokenMemoryMillis = 7 * 86'400'000ull;
  static constexpr uint64_t kReceiptMemoryMillis = 30 * 86'400'000ull;  // of deleted volumes
  // A layer falls out of sight when what replaces it is first written, long after its snapshot
  // went.
  static constexpr uint64_t kLayerDropMillis = 6 * 3'600'000ull;
  static constexpr int64_t kClockJumpMillis = 1'000;

  Upkeep(MdmStore* store, HealthMonitor* health, LimitGovernor* governor, const EventLog* events,
         const MdmTime* time, MetricRegistry* metrics);

  // Puts all registered nodes into the directory and the monitor, at start.
  [[nodiscard]] absl::Status ExpectNodes(NodeDirectory* nodes);
  // One round. True when a part changed its state.
  [[nodiscard]] bool Run();

 private:
  [[nodiscard]] bool JudgeHealth();
  // Events of clients that exceed their limits.
  void JudgeLimits();
  void Housekeep();
  void CheckWallClock();
  void SetGauges();
  void SetComponentGauges();

  MdmStore* const store_;
  HealthMonitor* const health_;
  LimitGovernor* const governor_;
  const EventLog* const events_;
  const MdmTime* const time_;
  MetricRegistry* const metrics_;
  uint64_t next_slow_boot_ms_ = 0;
  int64_t wall_clock_error_ms_ = 0;  // as last logged
  std::set<std::string> pools_with_gauges_;
  std::set<std::pair<std::string, std::string>> parts_with_gauges_;  // kind, name
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_UPKEEP_H_
