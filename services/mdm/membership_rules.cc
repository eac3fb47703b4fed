#include "services/mdm/membership_rules.h"

#include <algorithm>

namespace tessera::mdm {
namespace {

v1::Replica* FindMutable(v1::PlacementGroup* group, uint64_t device_id) {
  for (v1::Replica& replica : *group->mutable_replicas()) {
    if (replica.device_id() == device_id) return &replica;
  }
  return nullptr;
}

void Erase(v1::PlacementGroup* group, uint64_t device_id) {
  auto* replicas = group->mutable_replicas();
  replicas->erase(
      std::remove_if(replicas->begin(), replicas->end(),
                     [&](const v1::Replica& replica) { return replica.device_id() == device_id; }),
      replicas->end());
}

void NextEpoch(v1::PlacementGroup* group) { group->set_epoch(group->epoch() + 1); }

bool Counts(const v1::Replica& replica) {
  return replica.role() == v1::REPLICA_ROLE_IN_SYNC || replica.role() == v1::REPLICA_ROLE_LEARNER;
}

// Marks members for which `leaves` is true as out of sync, unless no in-sync one would remain.
template <typename Leaves>
bool RemoveWhere(v1::PlacementGroup* group, const Leaves& leaves) {
  uint32_t remaining = 0;
  for (const v1::Replica& replica : group->replicas()) {
    if (replica.role() == v1::REPLICA_ROLE_IN_SYNC && !leaves(replica)) ++remaining;
  }
  bool changed = false;
  for (v1::Replica& replica : *group->mutable_replicas()) {
    if (!Counts(replica) || !leaves(replica)) continue;
    if (replica.role() == v1::REPLICA_ROLE_IN_SYNC && remaining == 0) {
      ++remaining;  // the first of them stays
      continue;
    }
    replica.set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
    changed = true;
  }
  if (changed) NextEpoch(group);
  return changed;
}

}  // namespace

uint32_t InSyncCount(const v1::PlacementGroup& group) {
  return static_cast<uint32_t>(std::count_if(
      group.replicas().begin(), group.replicas().end(),
      [](const v1::Replica& replica) { return replica.role() == v1::REPLICA_ROLE_IN_SYNC; }));
}

const v1::Replica* FindReplica(const v1::PlacementGroup& group, uint64_t device_id) {
  for (const v1::Replica& replica : group.replicas()) {
    if (replica.device_id() == device_id) return &replica;
  }
  return nullptr;
}

MembershipOutcome RemoveFailed(v1::PlacementGroup* group, uint64_t epoch, uint64_t device_id) {
  if (group->epoch() != epoch) return MembershipOutcome::kStaleEpoch;
  v1::Replica* replica = FindMutable(group, device_id);
  if (replica == nullptr || !Counts(*replica)) return MembershipOutcome::kNotMember;
  if (replica->role() == v1::REPLICA_ROLE_IN_SYNC && InSyncCount(*group) == 1) {
    return MembershipOutcome::kLastInSync;
  }
  replica->set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
  NextEpoch(group);
  return MembershipOutcome::kChanged;
}

bool RemoveDevices(v1::PlacementGroup* group, const DeviceSet& devices) {
  return RemoveWhere(
      group, [&](const v1::Replica& replica) { return devices.contains(replica.device_id()); });
}

bool RestartLearners(v1::PlacementGroup* group, const DeviceSet& devices) {
  return RemoveWhere(group, [&](const v1::Replica& replica) {
    return replica.role() == v1::REPLICA_ROLE_LEARNER && devices.contains(replica.device_id());
  });
}

bool HasInSyncOn(const v1::PlacementGroup& group, const DeviceSet& devices) {
  return std::any_of(
      group.replicas().begin(), group.replicas().end(), [&](const v1::Replica& replica) {
        return replica.role() == v1::REPLICA_ROLE_IN_SYNC && devices.contains(replica.device_id());
      });
}

MembershipOutcome MakeLearner(v1::PlacementGroup* group, uint64_t device_id) {
  v1::Replica* replica = FindMutable(group, device_id);
  if (replica == nullptr || replica->role() != v1::REPLICA_ROLE_OUT_OF_SYNC) {
    return MembershipOutcome::kNotMember;
  }
  replica->set_role(v1::REPLICA_ROLE_LEARNER);
  NextEpoch(group);
  return MembershipOutcome::kChanged;
}

MembershipOutcome Promote(v1::PlacementGroup* group, uint64_t epoch, uint64_t device_id) {
  if (group->epoch() != epoch) return MembershipOutcome::kStaleEpoch;
  v1::Replica* replica = FindMutable(group, device_id);
  if (replica == nullptr || replica->role() != v1::REPLICA_ROLE_LEARNER) {
    return MembershipOutcome::kNotMember;
  }
  replica->set_role(v1::REPLICA_ROLE_IN_SYNC);
  NextEpoch(group);
  return MembershipOutcome::kChanged;
}

MembershipOutcome AddLearner(v1::PlacementGroup* group, const Newcomer& newcomer) {
  v1::Replica* swapped = nullptr;
  for (v1::Replica& replica : *group->mutable_replicas()) {
    if (replica.device_id() == newcomer.device_id) return MembershipOutcome::kNotMember;
    const bool leaves = replica.device_id() == newcomer.swapped_device_id;
    if (leaves) swapped = &replica;
    if (replica.sds_id() == newcomer.sds_id && !leaves) return MembershipOutcome::kNotMember;
  }
  if (swapped == nullptr) {
    if (newcomer.swapped_device_id != 0) return MembershipOutcome::kNotMember;
    swapped = group->add_replicas();
  } else if (swapped->role() != v1::REPLICA_ROLE_OUT_OF_SYNC) {
    return MembershipOutcome::kNotMember;
  }
  swapped->set_device_id(newcomer.device_id);
  swapped->set_sds_id(newcomer.sds_id);
  swapped->set_role(v1::REPLICA_ROLE_LEARNER);
  NextEpoch(group);
  return MembershipOutcome::kChanged;
}

MembershipOutcome DropMember(v1::PlacementGroup* group, uint64_t device_id) {
  const v1::Replica* replica = FindReplica(*group, device_id);
  if (replica == nullptr) return MembershipOutcome::kNotMember;
  if (replica->role() == v1::REPLICA_ROLE_IN_SYNC) return MembershipOutcome::kLastInSync;
  Erase(group, device_id);
  NextEpoch(group);
  return MembershipOutcome::kChanged;
}

MembershipOutcome DropSurplus(v1::PlacementGroup* group, uint64_t device_id,
                              uint32_t replica_count) {
  const v1::Replica* replica = FindReplica(*group, device_id);
  if (replica == nullptr || replica->role() != v1::REPLICA_ROLE_IN_SYNC) {
    return MembershipOutcome::kNotMember;
  }
  if (InSyncCount(*group) <= std::max(replica_count, 1u)) return MembershipOutcome::kLastInSync;
  Erase(group, device_id);
  NextEpoch(group);
  return MembershipOutcome::kChanged;
}

Settlement PromoteAndSettle(v1::PlacementGroup* group, uint64_t epoch, uint64_t device_id,
                            uint32_t replica_count, RepairMove* move) {
  Settlement result;
  result.outcome = Promote(group, epoch, device_id);
  if (result.outcome != MembershipOutcome::kChanged || move == nullptr) return result;
  if (device_id == move->to_device_id) {
    result.move_over = true;
    result.dropped_device_id = move->from_device_id;
  } else if (device_id == move->from_device_id && move->kind == MoveKind::kRebuild) {
    // It returned first. Where another member is still lost, the newcomer serves for that one.
    const auto lost = std::find_if(group->replicas().begin(), group->replicas().end(),
                                   [&](const v1::Replica& replica) {
                                     return replica.role() == v1::REPLICA_ROLE_OUT_OF_SYNC &&
                                            replica.device_id() != move->to_device_id;
                                   });
    if (InSyncCount(*group) < replica_count && lost != group->replicas().end()) {
      move->from_device_id = lost->device_id();
      return result;
    }
    result.move_over = true;
    result.dropped_device_id = move->to_device_id;
  }
  const v1::Replica* dropped = FindReplica(*group, result.dropped_device_id);
  if (dropped == nullptr) {
    result.dropped_device_id = 0;
    return result;
  }
  result.dropped_sds_id = dropped->sds_id();
  Erase(group, result.dropped_device_id);
  return result;
}

bool RemoveUnconfirmed(v1::PlacementGroup* group, const ServerSet& confirmed) {
  const bool witness = std::any_of(
      group->replicas().begin(), group->replicas().end(), [&](const v1::Replica& replica) {
        return replica.role() == v1::REPLICA_ROLE_IN_SYNC && confirmed.contains(replica.sds_id());
      });
  return RemoveWhere(group, [&](const v1::Replica& replica) {
    if (confirmed.contains(replica.sds_id())) return false;
    // Without a witness the in-sync ones stay as they are; learners start over in any case.
    return witness || replica.role() == v1::REPLICA_ROLE_LEARNER;
  });
}

ServerSet UnconfirmedHolders(const v1::PlacementGroup& group, const ServerSet& confirmed) {
  ServerSet holders;
  for (const v1::Replica& replica : group.replicas()) {
    if (replica.role() == v1::REPLICA_ROLE_IN_SYNC && !confirmed.contains(replica.sds_id())) {
      holders.insert(replica.sds_id());
    }
  }
  return holders;
}

bool RemoveShorter(v1::PlacementGroup* group, const std::map<uint64_t, CursorVersion>& cursors) {
  CursorVersion highest{0, 0};
  for (const v1::Replica& replica : group->replicas()) {
    const auto cursor = cursors.find(replica.sds_id());
    if (cursor == cursors.end() || replica.role() != v1::REPLICA_ROLE_IN_SYNC) continue;
    highest = std::max(highest, cursor->second);
  }
  return RemoveWhere(group, [&](const v1::Replica& replica) {
    const auto cursor = cursors.find(replica.sds_id());
    if (cursor == cursors.end()) return false;
    // A learner ahead of every in-sync replica has a write that nobody acknowledged: it starts over
    // too.
    return replica.role() == v1::REPLICA_ROLE_LEARNER ? cursor->second != highest
                                                      : cursor->second < highest;
  });
}

}  // namespace tessera::mdm
