// PlacementService: who holds what, and every change of it. The rules are in membership_rules.h.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MDM_PLACEMENT_SERVICE_H_
#define TESSERA_SERVICES_MDM_PLACEMENT_SERVICE_H_

#include <functional>
#include <set>

#include "services/mdm/cluster_keys.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/isolation_rules.h"
#include "services/mdm/learner_board.h"
#include "services/mdm/map_publisher.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/rpc_methods.h"
#include "tessera/v1/placement.grpc.pb.h"

namespace tessera::mdm {

class PlacementService final : public v1::PlacementService::CallbackService {
 public:
  static constexpr int kFailuresMax = 4'096;
  static constexpr uint64_t kTicketLifetimeMillis = 3'600'000;

  PlacementService(RpcDispatcher* rpc, MdmStore* store, const ClusterKeys* keys,
                   MapPublisher* publisher, LearnerBoard* board, const HealthMonitor* health,
                   const EventLog* events, const MdmTime* time)
      : rpc_(rpc),
        store_(store),
        keys_(keys),
        publisher_(publisher),
        board_(board),
        health_(health),
        events_(events),
        time_(time),
        isolation_(IsolationRules()) {}

  grpc::ServerWriteReactor<v1::WatchPlacementGroupsResponse>* WatchPlacementGroups(
      grpc::CallbackServerContext* context,
      const v1::WatchPlacementGroupsRequest* request) override;
  TESSERA_MDM_UNARY(ListPlacementGroups);
  TESSERA_MDM_UNARY(ReportReplicaFailures);
  TESSERA_MDM_UNARY(BeginLearning);
  TESSERA_MDM_UNARY(CompleteLearning);
  TESSERA_MDM_UNARY(BeginRepair);

 private:
  // Servers that the report blames and that keep their replicas all the same: see
  // isolation_rules.h.
  [[nodiscard]] std::set<uint64_t> DoubtedServers(SQLite::Database& db, const CallContext& call,
                                                  const v1::ReportReplicaFailuresRequest& request);
  // The right of the caller to read the group at that server. UNAVAILABLE: its key is being
  // revoked.
  [[nodiscard]] absl::StatusOr<v1::LearningTicket> TicketFor(const CallContext& call,
                                                             const v1::PlacementGroup& group,
                                                             uint64_t source_sds_id,
                                                             const char* purpose) const;
  // The learner is complete: promotes it and settles the group's move, both stored.
  [[nodiscard]] absl::Status SettleLearner(WriteTransaction& transaction,
                                           const v1::CompleteLearningRequest& request,
                                           uint64_t sds_id, v1::PlacementGroup* group) const;

  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  const ClusterKeys* const keys_;
  MapPublisher* const publisher_;
  LearnerBoard* const board_;
  const HealthMonitor* const health_;
  const EventLog* const events_;
  const MdmTime* const time_;
  IsolationJudge isolation_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_PLACEMENT_SERVICE_H_
