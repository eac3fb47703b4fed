#include "services/mdm/recovery_groups.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera::mdm {
namespace {

bool SameMembers(const v1::PlacementGroup& a, const v1::PlacementGroup& b) {
  const auto roles = [](const v1::PlacementGroup& group) {
    std::map<uint64_t, std::pair<uint64_t, int>> by_device;
    for (const v1::Replica& replica : group.replicas()) {
      by_device[replica.device_id()] = {replica.sds_id(), replica.role()};
    }
    return by_device;
  };
  return roles(a) == roles(b);
}

// The server's own word, and its device's state, are for it.
bool IsTrusted(uint64_t placement_group_id, const v1::Replica& replica,
               const EntriesByServer& servers) {
  const auto server = servers.find(replica.sds_id());
  if (server == servers.end()) return false;
  if (!server->second.good_device_ids.contains(replica.device_id())) return false;
  const auto own = server->second.entries.find(placement_group_id);
  if (own == server->second.entries.end()) return false;
  const auto& replicas = own->second.replicas();
  return std::any_of(replicas.begin(), replicas.end(), [&](const v1::Replica& candidate) {
    return candidate.device_id() == replica.device_id() &&
           candidate.role() == v1::REPLICA_ROLE_IN_SYNC;
  });
}

}  // namespace

RecoveredGroup RecoverGroup(uint64_t placement_group_id, const EntriesByServer& servers) {
  RecoveredGroup result;
  const v1::PlacementGroup* winner = nullptr;
  uint64_t winner_sds_id = 0;
  for (const auto& [sds_id, server] : servers) {
    const auto entry = server.entries.find(placement_group_id);
    if (entry == server.entries.end()) continue;
    if (winner == nullptr || entry->second.epoch() > winner->epoch()) {
      winner = &entry->second;
      winner_sds_id = sds_id;
      result.conflict.clear();
    } else if (entry->second.epoch() == winner->epoch() && !SameMembers(entry->second, *winner)) {
      result.conflict = absl::StrCat("servers ", winner_sds_id, " and ", sds_id,
                                     " have different entries of epoch ", winner->epoch(),
                                     " of placement group ", placement_group_id);
    }
  }
  if (winner == nullptr) return result;
  bool any_trusted = false;
  bool any_here = false;
  for (const v1::Replica& replica : winner->replicas()) {
    const bool here = servers.contains(replica.sds_id());
    const bool in_sync = replica.role() == v1::REPLICA_ROLE_IN_SYNC;
    any_here |= here && in_sync;
    any_trusted |= in_sync && IsTrusted(placement_group_id, replica, servers);
    // A later entry is on a server that can have taken part in every decision since: one that was
    // in sync, or a learner that was made in sync next.
    if (!here && (in_sync || replica.role() == v1::REPLICA_ROLE_LEARNER)) {
      result.could_know_more.insert(replica.sds_id());
    }
  }
  result.waits = !any_here;
  result.entry = *winner;
  result.entry->set_epoch(winner->epoch() + kRecoveryStep);
  for (v1::Replica& replica : *result.entry->mutable_replicas()) {
    const bool stays = replica.role() == v1::REPLICA_ROLE_IN_SYNC &&
                       (any_trusted ? IsTrusted(placement_group_id, replica, servers)
                                    : !any_here || servers.contains(replica.sds_id()));
    if (!stays) replica.set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
  }
  // What an untrusted one lost nobody else has. One that is not here says so when it comes.
  if (any_here && !any_trusted) result.entry->set_loss_epoch(result.entry->epoch());
  return result;
}

}  // namespace tessera::mdm
