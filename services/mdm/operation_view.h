// Operations as callers see them: what is stored, with what the map and the learners say of the
// rest.
//
// Pure: RepairScheduler gathers the input. Threads: any.
#ifndef TESSERA_SERVICES_MDM_OPERATION_VIEW_H_
#define TESSERA_SERVICES_MDM_OPERATION_VIEW_H_

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "services/mdm/repair_view.h"
#include "tessera/v1/health.pb.h"
#include "tessera/v1/operation.pb.h"

namespace tessera::mdm {

// Of one learner.
struct RunningLearner {
  uint64_t placement_group_id = 0;
  uint64_t device_id = 0;
  uint64_t source_device_id = 0;  // 0: not known
  uint64_t copied = 0;            // bytes
  uint64_t left = 0;
};

// What goes into a device, or comes out of it.
struct CopyFlow {
  uint64_t device_id = 0;
  bool out = false;

  friend auto operator<=>(const CopyFlow&, const CopyFlow&) = default;
};

// What is left of an operation.
struct OperationRest {
  uint32_t waiting = 0;        // placement groups that have not begun
  uint64_t waiting_bytes = 0;  // of these, estimated
  uint32_t running = 0;        // learners
  uint64_t running_done = 0;   // bytes copied by these
  uint64_t running_left = 0;   // bytes left to these
  std::vector<RunningLearner> learners;
  // Bytes left by where they come from and go to: of learners, and of those waiting groups whose
  // target is known or can be told by the planner's own rule.
  std::map<CopyFlow, uint64_t> left_by_flow;
  uint32_t interruptions = 0;           // of these, in their present epoch
  std::string last_error;               // of one of these
  Obstacle obstacle = Obstacle::kNone;  // what the waiting ones wait for
  [[nodiscard]] bool over() const { return waiting == 0 && running == 0; }
  // Of another pool.
  void Add(OperationRest other);
};

// nullopt: its server has not told of it yet.
using StatusOfLearner = std::function<std::optional<v1::LearnerStatus>(
    uint64_t placement_group_id, uint64_t device_id, uint64_t epoch)>;
// 0: not known.
using SourceOfLearner = std::function<uint64_t(uint64_t placement_group_id, uint64_t device_id)>;

// By operation. `moves_needed`: what rebalance would still begin in the pool.
[[nodiscard]] OperationRest RestOfOperation(const v1::Operation& operation,
                                            const RepairRules& rules, const RepairPool& pool,
                                            const RepairPlan& plan, uint32_t moves_needed,
                                            const StatusOfLearner& status,
                                            const SourceOfLearner& source);

// Puts what is left into an operation that runs; rate and time are the caller's.
void FillProgress(const OperationRest& rest, bool paused, v1::Operation* operation);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_OPERATION_VIEW_H_
