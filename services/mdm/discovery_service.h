// DiscoveryService: how nodes become members, and come back.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MDM_DISCOVERY_SERVICE_H_
#define TESSERA_SERVICES_MDM_DISCOVERY_SERVICE_H_

#include <functional>
#include <string>

#include "services/common/rpc.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_directory.h"
#include "tessera/v1/discovery.grpc.pb.h"

namespace tessera::mdm {

struct ClusterIdentity {
  std::string cluster_uuid;
  std::string join_token;
  uint32_t heartbeat_interval_ms = 1'000;
};

class DiscoveryService final : public v1::DiscoveryService::CallbackService {
 public:
  // `registered` is called after each registration of a server: its devices may have work waiting.
  DiscoveryService(RpcDispatcher* rpc, const ClusterIdentity& cluster, MdmStore* store,
                   ClusterKeys* keys, NodeDirectory* nodes, HealthMonitor* health,
                   const EventLog* events, const MdmTime* time, std::function<void()> registered)
      : rpc_(rpc),
        cluster_(cluster),
        store_(store),
        keys_(keys),
        nodes_(nodes),
        health_(health),
        events_(events),
        time_(time),
        registered_(std::move(registered)) {}

  grpc::ServerUnaryReactor* RegisterSds(grpc::CallbackServerContext* context,
                                        const v1::RegisterSdsRequest* request,
                                        v1::RegisterSdsResponse* response) override;
  grpc::ServerUnaryReactor* RegisterSdc(grpc::CallbackServerContext* context,
                                        const v1::RegisterSdcRequest* request,
                                        v1::RegisterSdcResponse* response) override;
  grpc::ServerUnaryReactor* GetClusterInfo(grpc::CallbackServerContext* context,
                                           const v1::GetClusterInfoRequest* request,
                                           v1::GetClusterInfoResponse* response) override;

  // The calls without gRPC.
  [[nodiscard]] absl::Status Register(const v1::RegisterSdsRequest& request,
                                      v1::RegisterSdsResponse* response);
  [[nodiscard]] absl::Status Register(const v1::RegisterSdcRequest& request,
                                      v1::RegisterSdcResponse* response);

 private:
  [[nodiscard]] absl::Status CheckFirstContact(const v1::NodeIdentity& identity) const;
  [[nodiscard]] absl::Status CheckReturn(const std::string& kind, uint64_t id, uint64_t incarnation,
                                         const v1::NodeIdentity& identity) const;
  [[nodiscard]] absl::Status StoreDevices(WriteTransaction& transaction, uint64_t sds_id,
                                          const v1::RegisterSdsRequest& request, bool new_life,
                                          v1::RegisterSdsResponse* response) const;
  void RemoveStaleReplicas(WriteTransaction& transaction, uint64_t sds_id,
                           const v1::RegisterSdsRequest& request) const;

  RpcDispatcher* const rpc_;
  const ClusterIdentity cluster_;
  MdmStore* const store_;
  ClusterKeys* const keys_;
  NodeDirectory* const nodes_;
  HealthMonitor* const health_;
  const EventLog* const events_;
  const MdmTime* const time_;
  const std::function<void()> registered_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_DISCOVERY_SERVICE_H_
