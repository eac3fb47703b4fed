#include "services/sds/placement_table.h"

#include <utility>

#include "services/common/status_macros.h"
#include "services/common/wait.h"

namespace tessera::sds {

LocalMembership PlacementTable::Interpret(const v1::PlacementGroup& group) const {
  LocalMembership local{.placement_group_id = group.placement_group_id(),
                        .membership = {.epoch = group.epoch()}};
  for (const v1::Replica& replica : group.replicas()) {
    if (replica.role() == v1::REPLICA_ROLE_IN_SYNC) ++local.membership.in_sync_count;
    if (replica.sds_id() != sds_id_) continue;
    local.membership.role = replica.role();
    local.device_id = replica.device_id();
  }
  return local;
}

std::vector<LocalMembership> PlacementTable::Restore(
    std::span<const v1::SignedPlacementGroup> entries) {
  std::vector<LocalMembership> restored;
  absl::MutexLock lock(&mutex_);
  for (const v1::SignedPlacementGroup& entry : entries) {
    v1::PlacementGroup group;
    if (!group.ParseFromString(entry.placement_group())) continue;
    restored.push_back(Interpret(group));
    groups_[group.placement_group_id()] = restored.back();
  }
  return restored;
}

bool PlacementTable::IsNewer(const v1::SignedPlacementGroup& entry) const {
  v1::PlacementGroup group;
  if (!group.ParseFromString(entry.placement_group())) return false;
  absl::MutexLock lock(&mutex_);
  const auto known = groups_.find(group.placement_group_id());
  return known == groups_.end() || known->second.membership.epoch < group.epoch();
}

absl::StatusOr<std::vector<LocalMembership>> PlacementTable::Accept(
    std::span<const v1::SignedPlacementGroup> entries) {
  absl::MutexLock one_at_a_time(&accept_mutex_);
  std::vector<v1::SignedPlacementGroup> newer;
  std::vector<LocalMembership> accepted;
  for (const v1::SignedPlacementGroup& entry : entries) {
    if (!IsNewer(entry)) continue;
    v1::PlacementGroup group;
    if (!group.ParseFromString(entry.placement_group())) continue;
    newer.push_back(entry);
    accepted.push_back(Interpret(group));
  }
  if (newer.empty()) return accepted;
  TESSERA_RETURN_IF_ERROR(persist_(newer));
  absl::MutexLock lock(&mutex_);
  for (const LocalMembership& local : accepted) {
    LocalMembership& known = groups_[local.placement_group_id];
    if (known.membership.epoch < local.membership.epoch) known = local;
  }
  return accepted;
}

void PlacementTable::Forget(uint64_t placement_group_id) {
  absl::MutexLock lock(&mutex_);
  groups_.erase(placement_group_id);
}

LocalMembership PlacementTable::Find(uint64_t placement_group_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = groups_.find(placement_group_id);
  return found == groups_.end() ? LocalMembership{.placement_group_id = placement_group_id}
                                : found->second;
}

std::vector<LocalMembership> PlacementTable::All() const {
  absl::MutexLock lock(&mutex_);
  std::vector<LocalMembership> all;
  all.reserve(groups_.size());
  for (const auto& [id, local] : groups_) all.push_back(local);
  return all;
}

LocalMembership PlacementTable::WaitForEpoch(uint64_t placement_group_id, uint64_t epoch,
                                             absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = groups_.find(placement_group_id);
    return found != groups_.end() && found->second.membership.epoch >= epoch;
  };
  AwaitWithTimeout(&mutex_, absl::Condition(&reached), timeout);
  const auto found = groups_.find(placement_group_id);
  return found == groups_.end() ? LocalMembership{.placement_group_id = placement_group_id}
                                : found->second;
}

void PlacementTable::SetPool(const v1::PoolLayout& layout) {
  absl::MutexLock lock(&mutex_);
  pools_[layout.pool_id()] = layout.placement_group_count();
}

uint32_t PlacementTable::PlacementGroupCount(uint64_t pool_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = pools_.find(pool_id);
  return found == pools_.end() ? 0 : found->second;
}

}  // namespace tessera::sds
