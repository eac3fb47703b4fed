#include "services/mdm/operation_view.h"

#include <algorithm>

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

void AddRunning(const RepairGroup& group, uint64_t device_id, const StatusOfLearner& status,
                OperationRest* rest) {
  ++rest->running;
  const auto now = status(group.entry.placement_group_id(), device_id, group.entry.epoch());
  if (!now.has_value()) {
    rest->running_left += group.bytes;
    return;
  }
  rest->running_done += now->bytes_copied();
  // Before the listing is over more may come: at least the estimate.
  const uint64_t estimate =
      group.bytes > now->bytes_copied() ? group.bytes - now->bytes_copied() : 0;
  rest->running_left +=
      now->listing_done() ? now->bytes_left() : std::max(now->bytes_left(), estimate);
  rest->interruptions += now->interruptions();
  if (!now->last_error().empty()) rest->last_error = now->last_error();
}

void AddWaiting(const RepairGroup& group, uint64_t bytes, OperationRest* rest) {
  (void)group;
  ++rest->waiting;
  rest->waiting_bytes += bytes;
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

OperationRest RestOfOperation(const v1::Operation& operation, const RepairPool& pool,
                              const RepairPlan& plan, uint32_t moves_needed,
                              const StatusOfLearner& status) {
  OperationRest rest;
  uint64_t bytes = 0;
  for (const RepairGroup& group : pool.groups) {
    bytes += group.bytes;
    if (operation.kind() == v1::OPERATION_KIND_RESYNC) {
      if (group.move && group.move->to_device_id == operation.device_id()) continue;
      const v1::Replica* replica = FindReplica(group.entry, operation.device_id());
      if (replica == nullptr || replica->role() == v1::REPLICA_ROLE_IN_SYNC) continue;
      if (replica->role() == v1::REPLICA_ROLE_LEARNER) {
        AddRunning(group, operation.device_id(), status, &rest);
      } else {
        AddWaiting(group, 0, &rest);  // by difference: nobody knows how much
      }
      continue;
    }
    if (group.move && group.move->operation_id == operation.operation_id()) {
      if (Learns(group, group.move->to_device_id)) {
        AddRunning(group, group.move->to_device_id, status, &rest);
      } else {
        AddWaiting(group, group.bytes, &rest);
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
    if (left) AddWaiting(group, group.bytes, &rest);
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
