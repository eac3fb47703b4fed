// PlacementService: who holds what, and every change of it. The rules are in membership_rules.h.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MDM_PLACEMENT_SERVICE_H_
#define TESSERA_SERVICES_MDM_PLACEMENT_SERVICE_H_

#include <functional>

#include "services/mdm/cluster_keys.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/learner_scheduler.h"
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
                   MapPublisher* publisher, LearnerScheduler* learners, const HealthMonitor* health,
                   const EventLog* events, const MdmTime* time)
      : rpc_(rpc),
        store_(store),
        keys_(keys),
        publisher_(publisher),
        learners_(learners),
        health_(health),
        events_(events),
        time_(time) {}

  grpc::ServerWriteReactor<v1::WatchPlacementGroupsResponse>* WatchPlacementGroups(
      grpc::CallbackServerContext* context,
      const v1::WatchPlacementGroupsRequest* request) override;
  TESSERA_MDM_UNARY(ListPlacementGroups);
  TESSERA_MDM_UNARY(ReportReplicaFailures);
  TESSERA_MDM_UNARY(BeginLearning);
  TESSERA_MDM_UNARY(CompleteLearning);

 private:
  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  const ClusterKeys* const keys_;
  MapPublisher* const publisher_;
  LearnerScheduler* const learners_;
  const HealthMonitor* const health_;
  const EventLog* const events_;
  const MdmTime* const time_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_PLACEMENT_SERVICE_H_
