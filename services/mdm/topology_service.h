// TopologyService: domains, fault sets, pools, servers, devices, clients, and the tree of it all.
//
// Threads: handlers run on the dispatcher's threads; watchers are served by a thread of the
// service.
#ifndef TESSERA_SERVICES_MDM_TOPOLOGY_SERVICE_H_
#define TESSERA_SERVICES_MDM_TOPOLOGY_SERVICE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/rpc.h"
#include "services/mdm/background_loop.h"
#include "services/mdm/device_assigner.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_directory.h"
#include "tessera/v1/topology.grpc.pb.h"

namespace tessera::mdm {

class TopologyService final : public v1::TopologyService::CallbackService {
 public:
  static constexpr size_t kWatchersMax = 256;

  TopologyService(RpcDispatcher* rpc, MdmStore* store, DeviceAssigner* assigner,
                  NodeDirectory* nodes, HealthMonitor* health, const EventLog* events,
                  const MdmTime* time);
  ~TopologyService() override;

  // Watchers get the new tree soon. From any thread; hands over.
  void Changed() { watch_loop_.Wake(); }
  // Ends all watches. Idempotent.
  void Stop();

#define TESSERA_UNARY(Method)                                                          \
  grpc::ServerUnaryReactor* Method(grpc::CallbackServerContext* context,               \
                                   const v1::Method##Request* request,                 \
                                   v1::Method##Response* response) override {          \
    return rpc_->Unary(context, request, response,                                     \
                       [this](const CallContext&, const auto& message, auto* answer) { \
                         return Do(message, answer);                                   \
                       });                                                             \
  }
  TESSERA_UNARY(GetTopology)
  TESSERA_UNARY(CreateProtectionDomain)
  TESSERA_UNARY(ListProtectionDomains)
  TESSERA_UNARY(DeleteProtectionDomain)
  TESSERA_UNARY(CreateFaultSet)
  TESSERA_UNARY(DeleteFaultSet)
  TESSERA_UNARY(CreateStoragePool)
  TESSERA_UNARY(GetStoragePool)
  TESSERA_UNARY(ListStoragePools)
  TESSERA_UNARY(UpdateStoragePool)
  TESSERA_UNARY(DeleteStoragePool)
  TESSERA_UNARY(ListSdss)
  TESSERA_UNARY(AssignSds)
  TESSERA_UNARY(DeleteSds)
  TESSERA_UNARY(AssignDevice)
  TESSERA_UNARY(UnassignDevice)
  TESSERA_UNARY(ListSdcs)
  TESSERA_UNARY(DeleteSdc)
#undef TESSERA_UNARY
  grpc::ServerWriteReactor<v1::WatchTopologyResponse>* WatchTopology(
      grpc::CallbackServerContext* context, const v1::WatchTopologyRequest* request) override;

 private:
  using Stream = PushStream<v1::WatchTopologyResponse>;

  absl::Status Do(const v1::GetTopologyRequest&, v1::GetTopologyResponse*);
  absl::Status Do(const v1::CreateProtectionDomainRequest&, v1::CreateProtectionDomainResponse*);
  absl::Status Do(const v1::ListProtectionDomainsRequest&, v1::ListProtectionDomainsResponse*);
  absl::Status Do(const v1::DeleteProtectionDomainRequest&, v1::DeleteProtectionDomainResponse*);
  absl::Status Do(const v1::CreateFaultSetRequest&, v1::CreateFaultSetResponse*);
  absl::Status Do(const v1::DeleteFaultSetRequest&, v1::DeleteFaultSetResponse*);
  absl::Status Do(const v1::CreateStoragePoolRequest&, v1::CreateStoragePoolResponse*);
  absl::Status Do(const v1::GetStoragePoolRequest&, v1::GetStoragePoolResponse*);
  absl::Status Do(const v1::ListStoragePoolsRequest&, v1::ListStoragePoolsResponse*);
  absl::Status Do(const v1::UpdateStoragePoolRequest&, v1::UpdateStoragePoolResponse*);
  absl::Status Do(const v1::DeleteStoragePoolRequest&, v1::DeleteStoragePoolResponse*);
  absl::Status Do(const v1::ListSdssRequest&, v1::ListSdssResponse*);
  absl::Status Do(const v1::AssignSdsRequest&, v1::AssignSdsResponse*);
  absl::Status Do(const v1::DeleteSdsRequest&, v1::DeleteSdsResponse*);
  absl::Status Do(const v1::AssignDeviceRequest&, v1::AssignDeviceResponse*);
  absl::Status Do(const v1::UnassignDeviceRequest&, v1::UnassignDeviceResponse*);
  absl::Status Do(const v1::ListSdcsRequest&, v1::ListSdcsResponse*);
  absl::Status Do(const v1::DeleteSdcRequest&, v1::DeleteSdcResponse*);
  void SendTree();
  [[nodiscard]] absl::StatusOr<v1::Device> ReadDevice(uint64_t device_id) const;

  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  DeviceAssigner* const assigner_;
  NodeDirectory* const nodes_;
  HealthMonitor* const health_;
  const EventLog* const events_;
  const MdmTime* const time_;
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<Stream>> watchers_ ABSL_GUARDED_BY(mutex_);  // shared with gRPC
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  BackgroundLoop watch_loop_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_TOPOLOGY_SERVICE_H_
