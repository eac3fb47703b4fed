// Carries the repair planner's decisions out: reads what is there, asks the planner, and commits
// entries, moves and operations together; keeps the figures of the operations that run.
//
// Threads: Run from one; everything else from any.
#ifndef TESSERA_SERVICES_MDM_REPAIR_SCHEDULER_H_
#define TESSERA_SERVICES_MDM_REPAIR_SCHEDULER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/learner_board.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/operation_meter.h"
#include "services/mdm/operation_view.h"
#include "services/mdm/repair_reader.h"
#include "tessera/v1/operation.pb.h"

namespace tessera::mdm {

class RepairScheduler {
 public:
  // Figures are gathered this often; so often watchers hear of them.
  static constexpr uint64_t kFiguresMillis = 1'000;
  // What rebalance would still move is counted this often: it costs.
  static constexpr uint64_t kCountMillis = 10'000;

  RepairScheduler(MdmStore* store, const HealthMonitor* health, LearnerBoard* board,
                  const EventLog* events, const MdmTime* time, MetricRegistry* metrics);

  // Everything that is due now: for the maintenance loop.
  void Run();

  // Operations that run, with their figures, as of the last round, in id order.
  [[nodiscard]] std::vector<v1::Operation> Running() const;
  // Called when these changed; it must only hand over. Before Run.
  void SetListener(std::function<void()> listener) { listener_ = std::move(listener); }
  // Puts the figures into a scrub, which others carry out and end. Before Run.
  void SetScrubFigures(std::function<void(v1::Operation*)> fill) {
    scrub_figures_ = std::move(fill);
  }
  [[nodiscard]] uint64_t learner_bytes_per_second() const {
    return learner_bytes_per_second_.load(std::memory_order_relaxed);
  }

 private:
  struct Round {
    RepairSnapshot snapshot;
    std::vector<RepairPlan> plans;  // of snapshot.pools
  };
  [[nodiscard]] absl::Status Read(Round* round);
  [[nodiscard]] absl::Status Carry(const Round& round);
  void CarryOne(WriteTransaction& transaction, const Round& round, const RepairPoolView& view,
                const RepairDecision& decision);
  // The running operation that the decision belongs to, made when there is none.
  [[nodiscard]] uint64_t OperationFor(WriteTransaction& transaction, const Round& round,
                                      const RepairPoolView& view, const RepairDecision& decision);
  void EndMaintenance(WriteTransaction& transaction, const Round& round) const;
  // Figures of the operations that run; ends those that are over.
  [[nodiscard]] absl::Status Account(const Round& round);
  [[nodiscard]] uint32_t MovesNeeded(const RepairSnapshot& snapshot, const RepairPoolView& view);
  // Sets rate and time left; returns the bytes left.
  uint64_t Measure(uint64_t now_boot_ms, const RepairSnapshot& snapshot, const OperationRest& rest,
                   v1::Operation* operation);
  void End(const v1::Operation& operation, v1::OperationState state);

  MdmStore* const store_;
  const HealthMonitor* const health_;
  LearnerBoard* const board_;
  const EventLog* const events_;
  const MdmTime* const time_;
  MetricRegistry* const metrics_;
  std::function<void()> listener_;
  std::function<void(v1::Operation*)> scrub_figures_;
  std::atomic<uint64_t> learner_bytes_per_second_{0};

  // Of Run's thread.
  std::map<uint64_t, OperationMeter> meters_;                       // by operation
  std::map<uint64_t, std::pair<uint64_t, uint32_t>> moves_needed_;  // by pool: counted at, how many

  mutable absl::Mutex mutex_;
  std::vector<v1::Operation> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_REPAIR_SCHEDULER_H_
