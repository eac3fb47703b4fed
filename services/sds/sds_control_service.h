// SdsControlService: what the MDM tells this server, and what administrators ask.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_SDS_SDS_CONTROL_SERVICE_H_
#define TESSERA_SERVICES_SDS_SDS_CONTROL_SERVICE_H_

#include <memory>
#include <vector>

#include "services/common/rpc.h"
#include "services/sds/cluster_copy.h"
#include "services/sds/engine_context.h"
#include "services/sds/io_engine.h"
#include "services/sds/janitor.h"
#include "services/sds/layer_dropper.h"
#include "services/sds/space_meter.h"
#include "tessera/v1/sds_control.grpc.pb.h"

namespace tessera::sds {

class SdsControlServiceImpl final : public v1::SdsControlService::CallbackService {
 public:
  // All must outlive the service.
  SdsControlServiceImpl(IoEngine* engine, const EngineContext* context, Janitor* janitor,
                        const ClusterCopy* copy, RpcDispatcher* rpc)
      : engine_(engine),
        context_(context),
        janitor_(janitor),
        copy_(copy),
        rpc_(rpc),
        dropper_(engine, context),
        meter_(engine) {}

  grpc::ServerUnaryReactor* RaiseGeneration(grpc::CallbackServerContext* context,
                                            const v1::RaiseGenerationRequest* request,
                                            v1::RaiseGenerationResponse* response) override;
  grpc::ServerUnaryReactor* ApplyPlacementGroups(
      grpc::CallbackServerContext* context, const v1::ApplyPlacementGroupsRequest* request,
      v1::ApplyPlacementGroupsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteVtree(grpc::CallbackServerContext* context,
                                        const v1::DeleteVtreeRequest* request,
                                        v1::DeleteVtreeResponse* response) override;
  grpc::ServerUnaryReactor* DropLayers(grpc::CallbackServerContext* context,
                                       const v1::DropLayersRequest* request,
                                       v1::DropLayersResponse* response) override;
  grpc::ServerUnaryReactor* ConfigureDevice(grpc::CallbackServerContext* context,
                                            const v1::ConfigureDeviceRequest* request,
                                            v1::ConfigureDeviceResponse* response) override;
  grpc::ServerWriteReactor<v1::ListChunkDigestsResponse>* ListChunkDigests(
      grpc::CallbackServerContext* context, const v1::ListChunkDigestsRequest* request) override;
  grpc::ServerUnaryReactor* ListReplicas(grpc::CallbackServerContext* context,
                                         const v1::ListReplicasRequest* request,
                                         v1::ListReplicasResponse* response) override;
  grpc::ServerWriteReactor<v1::MeasureVtreesResponse>* MeasureVtrees(
      grpc::CallbackServerContext* context, const v1::MeasureVtreesRequest* request) override;
  grpc::ServerUnaryReactor* GetServerIdentity(grpc::CallbackServerContext* context,
                                              const v1::GetServerIdentityRequest* request,
                                              v1::GetServerIdentityResponse* response) override;
  grpc::ServerWriteReactor<v1::ReadClusterCopyResponse>* ReadClusterCopy(
      grpc::CallbackServerContext* context, const v1::ReadClusterCopyRequest* request) override;

 private:
  [[nodiscard]] absl::Status Raise(const v1::RaiseGenerationRequest& request,
                                   v1::RaiseGenerationResponse* response);
  [[nodiscard]] absl::Status Configure(const v1::ConfigureDeviceRequest& request);
  [[nodiscard]] absl::Status Digest(const CallContext& call,
                                    const v1::ListChunkDigestsRequest& request,
                                    StreamWriter<v1::ListChunkDigestsResponse>& writer) const;
  [[nodiscard]] absl::Status DigestGroup(const CallContext& call, DeviceWorker* worker,
                                         uint64_t placement_group_id, uint64_t vtree_id,
                                         StreamWriter<v1::ListChunkDigestsResponse>& writer) const;
  void List(v1::ListReplicasResponse* response) const;

  IoEngine* const engine_;
  const EngineContext* const context_;
  Janitor* const janitor_;
  const ClusterCopy* const copy_;
  RpcDispatcher* const rpc_;
  LayerDropper dropper_;
  SpaceMeter meter_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_SDS_CONTROL_SERVICE_H_
