#include "services/mdm/volume_fence.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/errors.h"
#include "services/common/placement_hash.h"
#include "services/common/status_macros.h"
#include "services/common/wait.h"
#include "services/mdm/fence_receipt_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/token_table.h"

namespace tessera::mdm {

using std::chrono::milliseconds;

// Epochs of a pool's placement groups, by id.
using Epochs = std::map<uint64_t, uint64_t>;

struct VolumeFence::Round {
  std::vector<SdsTarget> servers;  // of the pool
  uint64_t deadline_ms = 0;        // boot time, as is the next
  uint64_t grace_end_ms = 0;
  ServerSet confirmed;                            // and their cursors count
  std::map<uint64_t, v1::FenceReceipt> receipts;  // of those that confirmed
  // By server, then placement group: the last version taken.
  std::map<uint64_t, std::map<uint64_t, CursorVersion>> cursors;
  // By server: the entries as they were before it was asked.
  std::map<uint64_t, std::shared_ptr<const Epochs>> asked_at;
  // Servers to ask again before anything else: what they said of their order may have changed.
  ServerSet outdated;
  uint64_t old_grants_end_ms = 0;  // MDM time, clock error included; 0: there are none
  // Servers that hold an in-sync replica which nobody who confirmed has.
  ServerSet waiting_for;
  // In-sync replicas of one placement group whose order nobody has told: they may differ.
  bool must_answer = false;
};

absl::StatusOr<std::shared_ptr<const Epochs>> VolumeFence::LoadPool(const VolumeRow& volume,
                                                                    Round* round) {
  auto epochs = std::make_shared<Epochs>();
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    round->servers.clear();
    for (const SdsRow& row : ListSdsRowsOfPool(db, volume.pool_id)) {
      round->servers.push_back(TargetOf(row));
    }
    for (const v1::PlacementGroup& group : ListPlacementGroupRows(db, volume.pool_id)) {
      epochs->emplace(group.placement_group_id(), group.epoch());
    }
    const uint64_t end = LatestOutageExpiry(db, volume.volume_id, volume.generation);
    round->old_grants_end_ms = end == 0 ? 0 : end + rules_.clock_error_ms;
    return absl::OkStatus();
  }));
  return epochs;
}

absl::Status VolumeFence::HandleNewer(const VolumeRow& volume, uint64_t sds_id,
                                      uint64_t generation) {
  // The server has seen a generation that we have no record of: this database is older than the
  // cluster.
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) {
    std::optional<VolumeRow> row = FindVolume(transaction.db, volume.volume_id);
    if (!row.has_value() || row->generation >= generation) return absl::OkStatus();
    row->generation = generation;
    UpdateVolumeGenerations(transaction.db, *row);
    events_->Record(transaction, v1::EVENT_SEVERITY_ERROR, "generation_behind",
                    {v1::COMPONENT_KIND_SDS, sds_id},
                    absl::StrCat("server ", sds_id, " knows generation ", generation, " of volume ",
                                 volume.volume_id, ", the database only ", volume.generation,
                                 ": was an old backup restored?"));
    return absl::OkStatus();
  }));
  return absl::AbortedError(absl::StrCat("server ", sds_id, " knows generation ", generation,
                                         " of volume ", volume.volume_id, ": try again"));
}

absl::Status VolumeFence::Ask(const VolumeRow& volume, FencePurpose purpose, Round* round) {
  TESSERA_ASSIGN_OR_RETURN(const std::shared_ptr<const Epochs> epochs, LoadPool(volume, round));
  std::vector<SdsTarget> targets;
  for (const SdsTarget& server : round->servers) {
    const bool wanted = round->outdated.empty() ? !round->confirmed.contains(server.sds_id)
                                                : round->outdated.contains(server.sds_id);
    if (wanted) targets.push_back(server);
  }
  // One that does not answer this time is like any that is silent.
  for (const uint64_t sds_id : round->outdated) {
    round->confirmed.erase(sds_id);
    round->asked_at.erase(sds_id);
  }
  round->outdated.clear();
  v1::RaiseGenerationRequest request;
  request.set_volume_id(volume.volume_id);
  request.set_generation(volume.generation);
  request.set_with_cursors(purpose == FencePurpose::kReconcile);
  const uint64_t now = clock_->BootMillis();
  const milliseconds left(round->deadline_ms - std::min(round->deadline_ms, now));
  const milliseconds timeout = std::clamp(left, milliseconds(1), rules_.call_timeout);
  for (const auto& [sds_id, answer] : control_->RaiseGeneration(targets, request, timeout)) {
    if (!answer.ok()) continue;
    if (answer->generation() > volume.generation) {
      return HandleNewer(volume, sds_id, answer->generation());
    }
    if (answer->generation() < volume.generation) continue;
    round->confirmed.insert(sds_id);
    v1::FenceReceipt& receipt = round->receipts[sds_id];
    receipt.set_proof(v1::FENCE_PROOF_CONFIRMED);
    receipt.set_sds_incarnation(answer->incarnation());
    receipt.set_signature(answer->receipt());
    receipt.set_key_id(answer->receipt_key_id());
    round->asked_at[sds_id] = epochs;
    auto& cursors = round->cursors[sds_id];
    cursors.clear();
    for (const v1::StreamCursor& cursor : answer->cursors()) {
      if (cursor.volume_id() != volume.volume_id) continue;
      cursors[cursor.placement_group_id()] = {cursor.last().generation(), cursor.last().sequence()};
    }
  }
  return absl::OkStatus();
}

// Cursors of a group are compared only when nothing happened to it since they were asked for: a
// replica that left and learned meanwhile, from one that has not confirmed, may have fewer writes
// now. Of a single replica in sync nothing is compared.
ServerSet VolumeFence::OutdatedAnswers(const std::vector<v1::PlacementGroup>& groups,
                                       const Round& round) {
  ServerSet outdated;
  for (v1::PlacementGroup group : groups) {
    const uint64_t id = group.placement_group_id();
    const uint64_t epoch = group.epoch();
    RemoveUnconfirmed(&group, round.confirmed);
    if (InSyncCount(group) < 2) continue;
    for (const v1::Replica& replica : group.replicas()) {
      const auto asked = round.asked_at.find(replica.sds_id());
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC || asked == round.asked_at.end()) continue;
      const auto then = asked->second->find(id);
      if (then == asked->second->end() || then->second != epoch) outdated.insert(replica.sds_id());
    }
  }
  return outdated;
}

absl::Status VolumeFence::Settle(const VolumeRow& volume, FencePurpose purpose, Round* round) {
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    round->waiting_for.clear();
    round->must_answer = false;
    std::optional<VolumeRow> row = FindVolume(db, volume.volume_id);
    if (!row.has_value() || row->generation != volume.generation) {
      return absl::AbortedError(absl::StrCat("volume ", volume.volume_id,
                                             " has moved on from generation ", volume.generation));
    }
    std::vector<v1::PlacementGroup> groups = ListPlacementGroupRows(db, volume.pool_id);
    if (purpose == FencePurpose::kReconcile) {
      round->outdated = OutdatedAnswers(groups, *round);
      if (!round->outdated.empty()) return absl::OkStatus();
    }
    uint32_t changed = 0;
    for (v1::PlacementGroup& group : groups) {
      const uint64_t id = group.placement_group_id();
      const uint64_t epoch = group.epoch();
      bool differs = RemoveUnconfirmed(&group, round->confirmed);
      for (const v1::Replica& replica : group.replicas()) {
        if (differs && !round->confirmed.contains(replica.sds_id())) {
          board_->LearnerFailed(replica.device_id());
        }
      }
      if (purpose == FencePurpose::kReconcile) {
        std::map<uint64_t, CursorVersion> cursors;
        for (uint64_t sds_id : round->confirmed) cursors[sds_id] = round->cursors[sds_id][id];
        differs = RemoveShorter(&group, cursors) || differs;
      }
      const ServerSet holders = UnconfirmedHolders(group, round->confirmed);
      round->waiting_for.insert(holders.begin(), holders.end());
      if (purpose == FencePurpose::kReconcile && holders.size() > 1) round->must_answer = true;
      if (!differs) continue;
      group.set_epoch(epoch + 1);  // both rules at once are one change
      PutPlacementGroup(db, group);
      transaction.changes.placement_group_ids.insert(id);
      ++changed;
    }
    if (changed > 0) {
      events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "replicas_removed", {},
                      absl::StrCat("volume ", volume.volume_id, " at generation ",
                                   volume.generation, ": replicas of ", changed,
                                   " placement groups did not answer or were behind"));
      transaction.changes.topology = true;
    }
    const bool over =
        round->old_grants_end_ms == 0 || time_->NowMillis() > round->old_grants_end_ms;
    if (!round->waiting_for.empty() && (!over || round->must_answer)) return absl::OkStatus();
    row->fenced_generation = volume.generation;
    if (purpose == FencePurpose::kReconcile) row->reconciled_generation = volume.generation;
    UpdateVolumeGenerations(db, *row);
    PutFenceReceipts(db, ReceiptsOf(volume, *round));
    ForgetCacheLeases(db, volume.volume_id, volume.generation);
    round->waiting_for.clear();
    return absl::OkStatus();
  });
}

std::vector<v1::FenceReceipt> VolumeFence::ReceiptsOf(const VolumeRow& volume,
                                                      const Round& round) const {
  std::vector<v1::FenceReceipt> receipts;
  for (const auto& [sds_id, receipt] : round.receipts) {
    receipts.push_back(receipt);
    receipts.back().set_sds_id(sds_id);
  }
  for (const SdsTarget& target : round.servers) {
    if (round.receipts.contains(target.sds_id)) continue;
    v1::FenceReceipt& receipt = receipts.emplace_back();
    receipt.set_sds_id(target.sds_id);
    receipt.set_proof(v1::FENCE_PROOF_EXPIRED);
  }
  for (v1::FenceReceipt& receipt : receipts) {
    receipt.set_volume_id(volume.volume_id);
    receipt.set_generation(volume.generation);
    receipt.set_recorded_ms(time_->NowMillis());
  }
  return receipts;
}

absl::StatusOr<FenceReceipt> VolumeFence::Run(const VolumeRow& volume, FencePurpose purpose,
                                              milliseconds time_left) {
  Round round;
  round.deadline_ms = clock_->BootMillis() + static_cast<uint64_t>(time_left.count());
  round.grace_end_ms = clock_->BootMillis() + static_cast<uint64_t>(rules_.grace.count());
  while (true) {
    TESSERA_RETURN_IF_ERROR(Ask(volume, purpose, &round));
    const bool hopeful =
        std::any_of(round.servers.begin(), round.servers.end(), [&](const SdsTarget& target) {
          return !round.confirmed.contains(target.sds_id) &&
                 health_->Reachable({v1::COMPONENT_KIND_SDS, target.sds_id});
        });
    const bool cached = leases_->EndMillis(volume.volume_id, volume.generation) > 0;
    if (!cached && (!hopeful || clock_->BootMillis() >= round.grace_end_ms)) {
      TESSERA_RETURN_IF_ERROR(Settle(volume, purpose, &round));
      if (round.outdated.empty() && round.waiting_for.empty()) break;
    }
    const milliseconds pause = round.outdated.empty() ? rules_.retry_pause : milliseconds(0);
    if (clock_->BootMillis() + static_cast<uint64_t>(pause.count()) >= round.deadline_ms ||
        AwaitNotification(stop_, absl::FromChrono(pause))) {
      if (cached) {
        return WithReason(absl::UnavailableError(absl::StrCat(
                              "waiting for a client that may still read volume ", volume.volume_id,
                              " from its cache under a generation before ", volume.generation)),
                          "CACHE_LEASE_OUT");
      }
      return WithReason(
          absl::UnavailableError(absl::StrCat(
              "waiting for servers ",
              absl::StrJoin(round.outdated.empty() ? round.waiting_for : round.outdated, ", "),
              " to confirm generation ", volume.generation, " of volume ", volume.volume_id,
              round.must_answer ? ": none of a placement group's replicas answers"
                                : " or for older grants to run out")),
          "SERVERS_SILENT");
    }
  }
  FenceReceipt receipt;
  receipt.generation = volume.generation;
  for (const auto& [sds_id, proof] : round.receipts) receipt.confirmed_sds_ids.insert(sds_id);
  for (const SdsTarget& server : round.servers) {
    if (!round.receipts.contains(server.sds_id)) receipt.expired_sds_ids.insert(server.sds_id);
  }
  return receipt;
}

}  // namespace tessera::mdm
