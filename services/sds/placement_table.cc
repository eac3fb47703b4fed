#include "services/sds/placement_table.h"

#include <utility>

#include "services/common/status_macros.h"
#include "services/common/wait.h"

namespace tessera::sds {

PlacementTable::Known PlacementTable::Interpret(const v1::PlacementGroup& group,
                                                const Known& before) const {
  Known known{.local = {.placement_group_id = group.placement_group_id(),
                        .membership = {.epoch = group.epoch()}}};
  Membership& membership = known.local.membership;
  for (const v1::Replica& replica : group.replicas()) {
    if (replica.role() == v1::REPLICA_ROLE_IN_SYNC) ++membership.in_sync_count;
    if (replica.sds_id() != sds_id_) continue;
    membership.role = replica.role();
    known.local.device_id = replica.device_id();
  }
  if (known.local.device_id == 0) return known;
  if (membership.role == v1::REPLICA_ROLE_IN_SYNC) {
    known.in_sync_epoch = group.epoch();
    known.in_sync_device_id = known.local.device_id;
  } else if (before.in_sync_device_id == known.local.device_id) {
    known.in_sync_epoch = before.in_sync_epoch;
    known.in_sync_device_id = before.in_sync_device_id;
  }
  membership.is_from_before_loss = group.loss_epoch() > known.in_sync_epoch;
  return known;
}

std::vector<LocalMembership> PlacementTable::Restore(std::span<const PlacementRecord> records) {
  std::vector<LocalMembership> restored;
  absl::MutexLock lock(&mutex_);
  for (const PlacementRecord& record : records) {
    v1::PlacementGroup group;
    if (!group.ParseFromString(record.entry.placement_group())) continue;
    const Known known = Interpret(group, {.in_sync_epoch = record.in_sync_epoch,
                                          .in_sync_device_id = record.in_sync_device_id});
    restored.push_back(known.local);
    groups_[group.placement_group_id()] = known;
  }
  return restored;
}

bool PlacementTable::IsNewer(const v1::SignedPlacementGroup& entry) const {
  v1::PlacementGroup group;
  if (!group.ParseFromString(entry.placement_group())) return false;
  absl::MutexLock lock(&mutex_);
  const auto known = groups_.find(group.placement_group_id());
  return known == groups_.end() || known->second.local.membership.epoch < group.epoch();
}

absl::StatusOr<std::vector<LocalMembership>> PlacementTable::Accept(
    std::span<const v1::SignedPlacementGroup> entries) {
  absl::MutexLock one_at_a_time(&accept_mutex_);
  std::vector<PlacementRecord> newer;
  std::vector<Known> accepted;
  std::vector<LocalMembership> result;
  for (const v1::SignedPlacementGroup& entry : entries) {
    if (!IsNewer(entry)) continue;
    v1::PlacementGroup group;
    if (!group.ParseFromString(entry.placement_group())) continue;
    Known before;
    {
      absl::MutexLock lock(&mutex_);
      const auto found = groups_.find(group.placement_group_id());
      if (found != groups_.end()) before = found->second;
    }
    const Known& known = accepted.emplace_back(Interpret(group, before));
    newer.push_back({.entry = entry,
                     .in_sync_epoch = known.in_sync_epoch,
                     .in_sync_device_id = known.in_sync_device_id});
    result.push_back(known.local);
  }
  if (newer.empty()) return result;
  TESSERA_RETURN_IF_ERROR(persist_(newer));
  absl::MutexLock lock(&mutex_);
  for (const Known& taken : accepted) {
    Known& known = groups_[taken.local.placement_group_id];
    if (known.local.membership.epoch < taken.local.membership.epoch) known = taken;
  }
  return result;
}

void PlacementTable::Forget(uint64_t placement_group_id) {
  absl::MutexLock lock(&mutex_);
  groups_.erase(placement_group_id);
}

LocalMembership PlacementTable::Find(uint64_t placement_group_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = groups_.find(placement_group_id);
  return found == groups_.end() ? LocalMembership{.placement_group_id = placement_group_id}
                                : found->second.local;
}

std::vector<LocalMembership> PlacementTable::All() const {
  absl::MutexLock lock(&mutex_);
  std::vector<LocalMembership> all;
  all.reserve(groups_.size());
  for (const auto& [id, known] : groups_) all.push_back(known.local);
  return all;
}

LocalMembership PlacementTable::WaitForEpoch(uint64_t placement_group_id, uint64_t epoch,
                                             absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = groups_.find(placement_group_id);
    return found != groups_.end() && found->second.local.membership.epoch >= epoch;
  };
  AwaitWithTimeout(&mutex_, absl::Condition(&reached), timeout);
  const auto found = groups_.find(placement_group_id);
  return found == groups_.end() ? LocalMembership{.placement_group_id = placement_group_id}
                                : found->second.local;
}

size_t PlacementTable::BehindCount() const {
  absl::MutexLock lock(&mutex_);
  size_t behind = 0;
  for (const auto& [id, known] : groups_) {
    const LocalMembership& local = known.local;
    if (local.device_id == 0 || local.membership.role == v1::REPLICA_ROLE_IN_SYNC) continue;
    if (known.in_sync_epoch > 0 && known.in_sync_device_id == local.device_id) ++behind;
  }
  return behind;
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
