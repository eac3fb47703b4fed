#include "services/mdm/operation_view.h"

#include <algorithm>
#include <utility>

#include "services/mdm/target_chooser.h"

namespace tessera::mdm {
namespace {

const RepairDevice* FindDeviceOf(const RepairPool& pool, uint64_t device_id) {
  for (const RepairDevice& device : pool.devices) {
    if (device.device_id == device_id) return &device;
  }
  return nullptr;
}

bool Learns(const RepairGroup& group, uint64_t device_id) {
  const v1::Replica* replica = FindReplica(group.entry, device_id);
  return replica != nullptr && replica->role() == v1::REPLICA_ROLE_LEARNER;
}

// For more groups than this nobody is helped by knowing where each will go.
constexpr uint32_t kForeseenMax = 1'000;

void AddFlow(uint64_t from, uint64_t to, uint64_t bytes, OperationRest* rest) {
  if (to != 0) rest->left_by_flow[{.device_id = to}] += bytes;
  if (from != 0) rest->left_by_flow[{.device_id = from, .out = true}] += bytes;
}

void AddRunning(const RepairGroup& group, uint64_t device_id, const StatusOfLearner& status,
                const SourceOfLearner& source, OperationRest* rest) {
  const uint64_t id = group.entry.placement_group_id();
  RunningLearner learner{.placement_group_id = id,
                         .device_id = device_id,
                         .source_device_id = source(id, device_id),
                         .left = group.bytes};
  const auto now = status(id, device_id, group.entry.epoch());
  if (now.has_value()) {
    learner.copied = now->bytes_copied();
    // Before the listing is over more may come: at least the estimate.
    const uint64_t estimate = group.bytes > learner.copied ? group.bytes - learner.copied : 0;
    learner.left = now->listing_done() ? now->bytes_left() : std::max(now->bytes_left(), estimate);
    rest->interruptions += now->interruptions();
    if (!now->last_error().empty()) rest->last_error = now->last_error();
  }
  ++rest->running;
  rest->running_done += learner.copied;
  rest->running_left += learner.left;
  AddFlow(learner.source_device_id, device_id, learner.left, rest);
  rest->learners.push_back(learner);
}

// `to`: 0: not known.
void AddWaiting(const RepairGroup& group, uint64_t bytes, uint64_t to, OperationRest* rest) {
  ++rest->waiting;
  rest->waiting_bytes += bytes;
  if (to == 0) return;
  // The source will be the one that has the least to do.
  uint64_t from = 0;
  uint64_t least = 0;
  for (const v1::Replica& replica : group.entry.replicas()) {
    if (replica.role() != v1::REPLICA_ROLE_IN_SYNC) continue;
    const auto flow = rest->left_by_flow.find({.device_id = replica.device_id(), .out = true});
    const uint64_t left = flow == rest->left_by_flow.end() ? 0 : flow->second;
    if (from != 0 && left >= least) continue;
    from = replica.device_id();
    least = left;
  }
  AddFlow(from, to, bytes, rest);
}

// A member of the operation's devices that is to go, or 0.
uint64_t LeavingMember(const v1::Operation& operation, const RepairGroup& group) {
  for (const v1::Replica& replica : group.entry.replicas()) {
    const bool ours = operation.device_id() != 0 ? replica.device_id() == operation.device_id()
                                                 : replica.sds_id() == operation.sds_id();
    if (ours) return replica.device_id();
  }
  return 0;
}

}  // namespace

void OperationRest::Add(OperationRest other) {
  waiting += other.waiting;
  waiting_bytes += other.waiting_bytes;
  running += other.running;
  running_done += other.running_done;
  running_left += other.running_left;
  learners.insert(learners.end(), other.learners.begin(), other.learners.end());
  for (const auto& [flow, left] : other.left_by_flow) left_by_flow[flow] += left;
  interruptions += other.interruptions;
  if (!other.last_error.empty()) last_error = std::move(other.last_error);
  obstacle = std::max(obstacle, other.obstacle);
}

OperationRest RestOfOperation(const v1::Operation& operation, const RepairRules& rules,
                              const RepairPool& pool, const RepairPlan& plan, uint32_t moves_needed,
                              const StatusOfLearner& status, const SourceOfLearner& source) {
  OperationRest rest;
  TargetChooser chooser(rules, pool);
  uint64_t bytes = 0;
  for (const RepairGroup& group : pool.groups) {
    bytes += group.bytes;
    if (operation.kind() == v1::OPERATION_KIND_RESYNC) {
      if (group.move && group.move->to_device_id == operation.device_id()) continue;
      const v1::Replica* replica = FindReplica(group.entry, operation.device_id());
      if (replica == nullptr || replica->role() == v1::REPLICA_ROLE_IN_SYNC) continue;
      if (replica->role() == v1::REPLICA_ROLE_LEARNER) {
        AddRunning(group, operation.device_id(), status, source, &rest);
      } else {
        AddWaiting(group, 0, operation.device_id(), &rest);  // by difference: nobody knows how much
      }
      continue;
    }
    if (group.move && group.move->operation_id == operation.operation_id()) {
      if (Learns(group, group.move->to_device_id)) {
        AddRunning(group, group.move->to_device_id, status, source, &rest);
      } else {
        AddWaiting(group, group.bytes, group.move->to_device_id, &rest);
      }
      continue;
    }
    if (operation.kind() == v1::OPERATION_KIND_REBALANCE) continue;
    const uint64_t member =
        operation.device_id() == 0 && operation.sds_id() == 0 ? 0 : LeavingMember(operation, group);
    if (member == 0) continue;
    const RepairDevice* device = FindDeviceOf(pool, member);
    const bool away = device == nullptr || device->condition == DeviceCondition::kAway ||
                      device->condition == DeviceCondition::kFailed;
    const bool drains = device != nullptr && device->draining;
    const bool left = operation.kind() == v1::OPERATION_KIND_DRAIN ? drains : away && !drains;
    if (!left) continue;
    const RepairDevice* to =
        rest.waiting < kForeseenMax ? chooser.Choose(group, member, true).device : nullptr;
    if (to != nullptr) chooser.AddIncoming(group, member, to->device_id);
    AddWaiting(group, group.bytes, to == nullptr ? 0 : to->device_id, &rest);
  }
  if (operation.kind() == v1::OPERATION_KIND_REBALANCE) {
    rest.waiting += moves_needed;
    if (!pool.groups.empty()) rest.waiting_bytes += moves_needed * (bytes / pool.groups.size());
  }
  for (const auto& [device_id, obstacles] : plan.waiting) {
    const RepairDevice* device = FindDeviceOf(pool, device_id);
    const bool ours =
        device != nullptr && (operation.device_id() == device_id ||
                              (operation.device_id() == 0 && operation.sds_id() == device->sds_id));
    if (!ours || operation.kind() == v1::OPERATION_KIND_RESYNC) continue;
    for (const auto& [obstacle, count] : obstacles)
      rest.obstacle = std::max(rest.obstacle, obstacle);
  }
  return rest;
}

void FillProgress(const OperationRest& rest, bool paused, v1::Operation* operation) {
  operation->set_placement_groups_running(rest.running);
  operation->set_placement_groups_total(operation->placement_groups_done() + rest.running +
                                        rest.waiting);
  operation->set_bytes_done(operation->bytes_done() + rest.running_done);
  operation->set_bytes_total(operation->bytes_done() + rest.running_left + rest.waiting_bytes);
  operation->set_retries(operation->retries() + rest.interruptions);
  if (!rest.last_error.empty()) operation->set_last_error(rest.last_error);
  operation->set_state(v1::OPERATION_STATE_RUNNING);
  if (rest.running > 0) return;
  if (paused) {
    operation->set_state(v1::OPERATION_STATE_PAUSED);
  } else if (rest.obstacle > Obstacle::kPaused) {
    operation->set_state(v1::OPERATION_STATE_BLOCKED);
    operation->set_last_error(ObstacleText(rest.obstacle));
  }
}

}  // namespace tessera::mdm
