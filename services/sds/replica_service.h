// ReplicaService: this server as the source of a learner, and of others that repair and compare.
//
// Threads: gRPC's for synchronous methods, which may block.
#ifndef TESSERA_SERVICES_SDS_REPLICA_SERVICE_H_
#define TESSERA_SERVICES_SDS_REPLICA_SERVICE_H_

#include "services/common/rpc.h"
#include "services/sds/engine_context.h"
#include "services/sds/io_engine.h"
#include "tessera/v1/replica.grpc.pb.h"

namespace tessera::sds {

class ReplicaServiceImpl final : public v1::ReplicaService::Service {
 public:
  // All must outlive the service.
  ReplicaServiceImpl(IoEngine* engine, const EngineContext* context, RpcDispatcher* rpc)
      : engine_(engine), context_(context), rpc_(rpc) {}

  grpc::Status BeginCopy(grpc::ServerContext* context, const v1::BeginCopyRequest* request,
                         v1::BeginCopyResponse* response) override;
  grpc::Status ListChunkVersions(
      grpc::ServerContext* context, const v1::ListChunkVersionsRequest* request,
      grpc::ServerWriter<v1::ListChunkVersionsResponse>* writer) override;
  grpc::Status CopyChunks(grpc::ServerContext* context, const v1::CopyChunksRequest* request,
                          grpc::ServerWriter<v1::CopyChunksResponse>* writer) override;
  grpc::Status FetchBlocks(grpc::ServerContext* context, const v1::FetchBlocksRequest* request,
                           v1::FetchBlocksResponse* response) override;
  grpc::Status ListBlockChecksums(grpc::ServerContext* context,
                                  const v1::ListBlockChecksumsRequest* request,
                                  v1::ListBlockChecksumsResponse* response) override;

  // The calls without gRPC.
  // The worker of the group, when the ticket is good and this server is in sync in its epoch.
  [[nodiscard]] absl::StatusOr<DeviceWorker*> CheckTicket(
      const v1::LearningTicket& ticket, TicketPurpose purpose = TicketPurpose::kLearn) const;
  // The chunk as it is; blocks that no replica has are marked in it, and it is whole then.
  [[nodiscard]] absl::StatusOr<chunk::ChunkImage> ReadForLearner(DeviceWorker* worker,
                                                                 uint64_t placement_group_id,
                                                                 const chunk::ChunkKey& key,
                                                                 chunk::ImageContent content) const;
  [[nodiscard]] absl::Status Fetch(const v1::FetchBlocksRequest& request,
                                   v1::FetchBlocksResponse* response) const;
  [[nodiscard]] absl::Status FetchChunk(DeviceWorker* worker, uint64_t placement_group_id,
                                        const v1::BlockList& wanted, v1::FetchedChunk* out) const;
  [[nodiscard]] absl::Status ListChecksums(const v1::ListBlockChecksumsRequest& request,
                                           v1::ListBlockChecksumsResponse* response) const;
  // BeginCopy: the group's cursors as the worker has them, and the volumes' lowest generations.
  [[nodiscard]] absl::Status ReadCursors(DeviceWorker* worker, const v1::LearningTicket& ticket,
                                         v1::BeginCopyResponse* response) const;
  [[nodiscard]] absl::Status List(const v1::ListChunkVersionsRequest& request,
                                  StreamWriter<v1::ListChunkVersionsResponse>& writer) const;
  [[nodiscard]] absl::Status Copy(const v1::CopyChunksRequest& request,
                                  StreamWriter<v1::CopyChunksResponse>& writer) const;

 private:
  IoEngine* const engine_;
  const EngineContext* const context_;
  RpcDispatcher* const rpc_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_REPLICA_SERVICE_H_
