#include "services/mdm/placement_service.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libtoken/bytes.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/placement_hash.h"
#include "services/common/status_macros.h"
#include "services/mdm/membership_rules.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/repair_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/snapshot_table.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {
namespace {

absl::Status EpochMoved(const v1::PlacementGroup& group, uint64_t epoch) {
  return WithReason(absl::AbortedError(absl::StrCat("placement group ", group.placement_group_id(),
                                                    " is at epoch ", group.epoch(), ", not ", epoch,
                                                    ", or the replica no learner in it")),
                    "EPOCH_MOVED", {{"epoch", absl::StrCat(group.epoch())}});
}

// The replica, if it is a learner of this epoch on a device of the caller.
absl::StatusOr<v1::Replica> CheckLearner(const CallContext& call, const v1::PlacementGroup& group,
                                         uint64_t epoch, uint64_t device_id) {
  const v1::Replica* replica = FindReplica(group, device_id);
  if (replica == nullptr || group.epoch() != epoch || replica->role() != v1::REPLICA_ROLE_LEARNER) {
    return EpochMoved(group, epoch);
  }
  if (replica->sds_id() != call.caller().node_id) {
    return absl::PermissionDeniedError(
        absl::StrCat("device ", device_id, " is not one of server ", call.caller().node_id));
  }
  return *replica;
}

// The operation that a learner works for; 0: none.
uint64_t LearningOperation(SQLite::Database& db, uint64_t placement_group_id, uint64_t device_id,
                           uint64_t sds_id) {
  const std::optional<RepairMove> move = FindMove(db, placement_group_id);
  if (move.has_value() && move->to_device_id == device_id) return move->operation_id;
  const auto resync = FindRunning(
      db, {v1::OPERATION_KIND_RESYNC, PoolOfPlacementGroup(placement_group_id), sds_id, device_id});
  return resync.has_value() ? resync->operation_id() : 0;
}

std::string TicketBytes(const v1::LearningTicket& ticket) {
  std::string bytes(4 * sizeof(uint64_t), '\0');
  token::PutField<uint64_t>(bytes.data(), 0, ticket.placement_group_id());
  token::PutField<uint64_t>(bytes.data(), 8, ticket.epoch());
  token::PutField<uint64_t>(bytes.data(), 16, ticket.learner_sds_id());
  token::PutField<uint64_t>(bytes.data(), 24, ticket.expiry_ms());
  return bytes;
}

// Only what a client says of its connection can be the client's own fault. A replica that answers
// and lacks writes, or whose device failed, has to leave whoever says so.
bool SpeaksOfConnection(const v1::ReplicaFailure& failure) {
  return absl::StartsWith(failure.reason(), "no answer") ||
         absl::StartsWith(failure.reason(), "the server is not reachable");
}

}  // namespace

grpc::ServerWriteReactor<v1::WatchPlacementGroupsResponse>* PlacementService::WatchPlacementGroups(
    grpc::CallbackServerContext* context, const v1::WatchPlacementGroupsRequest* request) {
  return rpc_->Push<v1::WatchPlacementGroupsRequest, v1::WatchPlacementGroupsResponse>(
      context, request,
      [this](const CallContext& call, const auto& message, std::shared_ptr<MapStream> stream) {
        MapWatcher watcher;
        watcher.stream = std::move(stream);
        watcher.pool_ids.insert(message.pool_ids().begin(), message.pool_ids().end());
        if (call.caller().Has(v1::ROLE_SDS)) {
          watcher.sds_id = call.caller().node_id;
          watcher.with_records = message.with_records();
          watcher.records_revision = message.records_after_revision();
        }
        return publisher_->Watch(std::move(watcher));
      });
}

absl::Status PlacementService::Do(const CallContext&, const v1::ListPlacementGroupsRequest& request,
                                  v1::ListPlacementGroupsResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const Page page,
                           ParsePage(request.page_size(), request.page_token(), kPageSizeMax));
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    if (!FindPool(db, request.pool_id()).has_value()) return NoSuch("pool", request.pool_id());
    uint64_t last = 0;
    for (v1::PlacementGroup& group : ListPlacementGroupRows(db, request.pool_id(), page)) {
      last = group.placement_group_id();
      *response->add_placement_groups() = std::move(group);
    }
    response->set_next_page_token(
        NextPageToken(page, static_cast<size_t>(response->placement_groups_size()), last));
    return absl::OkStatus();
  });
}

std::set<uint64_t> PlacementService::DoubtedServers(
    SQLite::Database& db, const CallContext& call,
    const v1::ReportReplicaFailuresRequest& request) {
  std::set<uint64_t> doubted;
  // A server speaks of its own replicas: it knows.
  if (!call.caller().Has(v1::ROLE_SDC)) return doubted;
  std::map<uint64_t, IsolationJudge::Report> reports;  // by server
  for (const v1::ReplicaFailure& failure : request.failures()) {
    if (!SpeaksOfConnection(failure)) continue;
    const auto group = FindPlacementGroup(db, failure.placement_group_id());
    if (!group.has_value() || group->epoch() != failure.epoch()) continue;
    const v1::Replica* replica = FindReplica(*group, failure.device_id());
    if (replica == nullptr || reports.contains(replica->sds_id())) continue;
    reports[replica->sds_id()] = {
        .reporter = call.caller().name,
        .sds_id = replica->sds_id(),
        .pool_servers =
            ListSdsRowsOfPool(db, PoolOfPlacementGroup(failure.placement_group_id())).size()};
  }
  const uint64_t now = time_->clock().BootMillis();
  const IsolationJudge::Servers servers{
      .heard_since =
          [this](uint64_t sds_id, uint64_t boot_ms) {
            return health_->HeardSince({v1::COMPONENT_KIND_SDS, sds_id}, boot_ms);
          },
      .incarnation =
          [this](uint64_t sds_id) {
            return health_->IncarnationOf({v1::COMPONENT_KIND_SDS, sds_id});
          }};
  for (const auto& [sds_id, report] : reports) isolation_.Note(report, now, servers);
  for (const auto& [sds_id, report] : reports) {
    const IsolationVerdict verdict = isolation_.Judge(report, now, servers);
    if (verdict == IsolationVerdict::kBelieve) continue;
    doubted.insert(sds_id);
    LogWarning("a client that lost most servers is not believed",
               {{"client", report.reporter},
                {"sds", sds_id},
                {"server_was_heard", verdict == IsolationVerdict::kReporterAtFault}});
  }
  return doubted;
}

absl::Status PlacementService::Do(const CallContext& call,
                                  const v1::ReportReplicaFailuresRequest& request,
                                  v1::ReportReplicaFailuresResponse* response) {
  if (request.failures_size() > kFailuresMax) {
    return InvalidField("failures", absl::StrCat("names more than ", kFailuresMax));
  }
  std::map<uint64_t, v1::PlacementGroup> groups;
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    groups.clear();
    // Failures of one group are about one epoch, though each of them makes a new one.
    std::map<uint64_t, uint64_t> epochs;
    std::set<uint64_t> changed;
    std::string first_reason;
    const std::set<uint64_t> doubted = DoubtedServers(db, call, request);
    for (const v1::ReplicaFailure& failure : request.failures()) {
      const uint64_t id = failure.placement_group_id();
      if (!groups.contains(id)) {
        const auto group = FindPlacementGroup(db, id);
        if (!group.has_value()) return NoSuch("placement group", id);
        groups[id] = *group;
        epochs[id] = group->epoch();
      }
      if (failure.epoch() != epochs[id]) continue;
      const v1::Replica* replica = FindReplica(groups[id], failure.device_id());
      const bool learner = replica != nullptr && replica->role() == v1::REPLICA_ROLE_LEARNER;
      const uint64_t sds_id = replica == nullptr ? 0 : replica->sds_id();
      if (doubted.contains(sds_id) && SpeaksOfConnection(failure)) continue;
      const auto outcome = RemoveFailed(&groups[id], groups[id].epoch(), failure.device_id());
      if (outcome != MembershipOutcome::kChanged) continue;
      changed.insert(id);
      board_->LearnerFailed(failure.device_id());
      const uint64_t operation_id =
          learner ? LearningOperation(db, id, failure.device_id(), sds_id) : 0;
      if (operation_id != 0) CountRetry(db, operation_id, failure.reason());
      if (first_reason.empty()) first_reason = failure.reason();
    }
    for (uint64_t id : changed) {
      groups[id].set_epoch(epochs[id] + 1);
      PutPlacementGroup(db, groups[id]);
    }
    if (changed.empty()) return absl::OkStatus();
    transaction.changes.placement_group_ids = changed;
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "replicas_removed", {},
                    absl::StrCat("replicas of ", changed.size(), " placement groups, reported by ",
                                 call.caller().name, ": ", first_reason.substr(0, 200)));
    return absl::OkStatus();
  });
  TESSERA_RETURN_IF_ERROR(status);
  for (const v1::ReplicaFailure& failure : request.failures()) {
    *response->add_placement_groups() = keys_->SignGroup(groups[failure.placement_group_id()]);
  }
  return absl::OkStatus();
}

absl::Status PlacementService::Do(const CallContext& call, const v1::BeginLearningRequest& request,
                                  v1::BeginLearningResponse* response) {
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    const auto group = FindPlacementGroup(db, request.placement_group_id());
    if (!group.has_value()) return NoSuch("placement group", request.placement_group_id());
    TESSERA_RETURN_IF_ERROR(
        CheckLearner(call, *group, request.epoch(), request.device_id()).status());
    // Whom the planner chose comes first, if it still can be asked.
    std::vector<v1::Replica> candidates(group->replicas().begin(), group->replicas().end());
    const uint64_t chosen = board_->SourceOf(request.placement_group_id(), request.device_id());
    std::stable_partition(candidates.begin(), candidates.end(), [&](const v1::Replica& replica) {
      return replica.device_id() == chosen;
    });
    for (const v1::Replica& replica : candidates) {
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC) continue;
      const ComponentId component{v1::COMPONENT_KIND_SDS, replica.sds_id()};
      const auto sds = FindSds(db, replica.sds_id());
      if (!sds.has_value() || !health_->Reachable(component)) continue;
      v1::SdsAddress* source = response->mutable_source();
      source->set_sds_id(sds->sds_id);
      *source->mutable_endpoints() = sds->endpoints;
      source->set_incarnation(sds->incarnation);
      source->set_state(health_->StateOf(component));
      response->set_source_device_id(replica.device_id());
      TESSERA_ASSIGN_OR_RETURN(*response->mutable_ticket(),
                               TicketFor(call, *group, sds->sds_id, "learn"));
      return absl::OkStatus();
    }
    return WithReason(
        absl::UnavailableError(absl::StrCat("no in-sync member of placement group ",
                                            request.placement_group_id(), " can be reached now")),
        "NO_SOURCE");
  });
}

absl::StatusOr<v1::LearningTicket> PlacementService::TicketFor(const CallContext& call,
                                                               const v1::PlacementGroup& group,
                                                               uint64_t source_sds_id,
                                                               const char* purpose) const {
  v1::LearningTicket ticket;
  ticket.set_placement_group_id(group.placement_group_id());
  ticket.set_epoch(group.epoch());
  ticket.set_learner_sds_id(call.caller().node_id);
  ticket.set_expiry_ms(time_->NowMillis() + kTicketLifetimeMillis);
  ticket.set_key_id(keys_->SigningKeyFor({source_sds_id}));
  const auto key = keys_->SdsKey(ticket.key_id(), source_sds_id);
  if (!key.has_value()) return absl::UnavailableError("the source's key was just revoked");
  const token::Key signature = token::SignMessage(*key, purpose, TicketBytes(ticket));
  ticket.set_signature(signature.data(), signature.size());
  return ticket;
}

absl::Status PlacementService::Do(const CallContext& call, const v1::BeginRepairRequest& request,
                                  v1::BeginRepairResponse* response) {
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    const auto group = FindPlacementGroup(db, request.placement_group_id());
    if (!group.has_value()) return NoSuch("placement group", request.placement_group_id());
    const v1::Replica* own = FindReplica(*group, request.device_id());
    if (own != nullptr && own->sds_id() != call.caller().node_id) {
      return absl::PermissionDeniedError(absl::StrCat(
          "device ", request.device_id(), " is not one of server ", call.caller().node_id));
    }
    if (own == nullptr || group->epoch() != request.epoch() ||
        own->role() != v1::REPLICA_ROLE_IN_SYNC) {
      return WithReason(
          absl::AbortedError(absl::StrCat(
              "placement group ", group->placement_group_id(), " is at epoch ", group->epoch(),
              ", not ", request.epoch(), ", or the replica is not in sync in it")),
          "EPOCH_MOVED", {{"epoch", absl::StrCat(group->epoch())}});
    }
    for (const v1::Replica& replica : group->replicas()) {
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC) continue;
      if (replica.device_id() == request.device_id()) continue;
      const ComponentId component{v1::COMPONENT_KIND_SDS, replica.sds_id()};
      const auto sds = FindSds(db, replica.sds_id());
      if (!sds.has_value() || !health_->Reachable(component)) {
        response->set_unreachable(response->unreachable() + 1);
        continue;
      }
      v1::RepairSource* source = response->add_sources();
      source->set_device_id(replica.device_id());
      source->mutable_address()->set_sds_id(sds->sds_id);
      *source->mutable_address()->mutable_endpoints() = sds->endpoints;
      source->mutable_address()->set_incarnation(sds->incarnation);
      source->mutable_address()->set_state(health_->StateOf(component));
      TESSERA_ASSIGN_OR_RETURN(*source->mutable_ticket(),
                               TicketFor(call, *group, sds->sds_id, "repair"));
    }
    return absl::OkStatus();
  });
}

absl::Status PlacementService::SettleLearner(WriteTransaction& transaction,
                                             const v1::CompleteLearningRequest& request,
                                             uint64_t sds_id, v1::PlacementGroup* group) const {
  SQLite::Database& db = transaction.db;
  const uint64_t id = group->placement_group_id();
  const auto pool = FindPool(db, PoolOfPlacementGroup(id));
  std::optional<RepairMove> move = FindMove(db, id);
  const std::optional<RepairMove> before = move;
  const Settlement settled =
      PromoteAndSettle(group, request.epoch(), request.device_id(),
                       pool.has_value() ? pool->replica_count() : 1, move ? &*move : nullptr);
  if (settled.outcome != MembershipOutcome::kChanged) return EpochMoved(*group, request.epoch());
  const uint64_t operation_id = LearningOperation(db, id, request.device_id(), sds_id);
  if (operation_id != 0) CountGroupDone(db, operation_id, request.bytes_copied());
  if (settled.move_over) {
    DeleteMove(db, id);
  } else if (move != before) {
    PutMove(db, id, *move);
  }
  PutPlacementGroup(db, *group);
  // Its source may not have dropped everything yet that it said it would.
  MarkLayerDropsOfServer(db, PoolOfPlacementGroup(id), sds_id);
  transaction.changes.placement_group_ids.insert(id);
  transaction.changes.topology = true;
  if (settled.dropped_device_id == 0) return absl::OkStatus();
  transaction.changes.former_sds_ids[id].insert(settled.dropped_sds_id);
  events_->Record(
      transaction, v1::EVENT_SEVERITY_INFO, "replica_replaced",
      {v1::COMPONENT_KIND_DEVICE, settled.dropped_device_id},
      absl::StrCat("placement group ", id, ": device ", request.device_id(), " is in sync, device ",
                   settled.dropped_device_id, " is no member any more"));
  return absl::OkStatus();
}

absl::Status PlacementService::Do(const CallContext& call,
                                  const v1::CompleteLearningRequest& request,
                                  v1::CompleteLearningResponse* response) {
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    std::optional<v1::PlacementGroup> group = FindPlacementGroup(db, request.placement_group_id());
    if (!group.has_value()) return NoSuch("placement group", request.placement_group_id());
    // The answer to an earlier call may have been lost.
    const v1::Replica* replica = FindReplica(*group, request.device_id());
    if (replica != nullptr && replica->role() == v1::REPLICA_ROLE_IN_SYNC &&
        replica->sds_id() == call.caller().node_id && group->epoch() == request.epoch() + 1) {
      *response->mutable_placement_group() = keys_->SignGroup(*group);
      return absl::OkStatus();
    }
    TESSERA_RETURN_IF_ERROR(
        CheckLearner(call, *group, request.epoch(), request.device_id()).status());
    TESSERA_RETURN_IF_ERROR(SettleLearner(transaction, request, call.caller().node_id, &*group));
    events_->Record(
        transaction, v1::EVENT_SEVERITY_INFO, "replica_in_sync",
        {v1::COMPONENT_KIND_SDS, call.caller().node_id},
        absl::StrCat("placement group ", request.placement_group_id(), " on device ",
                     request.device_id(), ": ", request.chunks_compared(), " chunks compared, ",
                     request.chunks_copied(), " copied (", request.bytes_copied(), " bytes)"));
    *response->mutable_placement_group() = keys_->SignGroup(*group);
    return absl::OkStatus();
  }));
  board_->LearnerDone(request.placement_group_id(), request.device_id());
  return absl::OkStatus();
}

}  // namespace tessera::mdm
