// ReplicaService of another server, for a learner: calls and streams over the simulated network to
// the server's own ReplicaServiceImpl.
//
// Threads: one; the calls block the fiber.
#ifndef TESSERA_INTEGRATION_SIM_REPLICA_STUB_H_
#define TESSERA_INTEGRATION_SIM_REPLICA_STUB_H_

#include "integration/sim/cluster.h"
#include "tessera/v1/replica.grpc.pb.h"

namespace tessera::sim {

class ReplicaStub final : public v1::ReplicaService::StubInterface {
 public:
  ReplicaStub(Cluster* cluster, NodeId source) : cluster_(cluster), source_(source) {}

  grpc::Status BeginCopy(grpc::ClientContext*, const v1::BeginCopyRequest& request,
                         v1::BeginCopyResponse* response) override;
  // Repair of bad blocks is not simulated.
  grpc::Status FetchBlocks(grpc::ClientContext*, const v1::FetchBlocksRequest&,
                           v1::FetchBlocksResponse*) override {
    return {grpc::StatusCode::UNAVAILABLE, "not simulated"};
  }
  grpc::Status ListBlockChecksums(grpc::ClientContext*, const v1::ListBlockChecksumsRequest&,
                                  v1::ListBlockChecksumsResponse*) override {
    return {grpc::StatusCode::UNAVAILABLE, "not simulated"};
  }

 private:
  template <typename Response>
  using Reader = grpc::ClientReaderInterface<Response>;
  template <typename Response>
  using AsyncReader = grpc::ClientAsyncReaderInterface<Response>;

  Reader<v1::ListChunkVersionsResponse>* ListChunkVersionsRaw(
      grpc::ClientContext*, const v1::ListChunkVersionsRequest& request) override;
  Reader<v1::CopyChunksResponse>* CopyChunksRaw(grpc::ClientContext*,
                                                const v1::CopyChunksRequest& request) override;

  // Nobody uses these.
  grpc::ClientAsyncResponseReaderInterface<v1::FetchBlocksResponse>* AsyncFetchBlocksRaw(
      grpc::ClientContext*, const v1::FetchBlocksRequest&, grpc::CompletionQueue*) override {
    return nullptr;
  }
  grpc::ClientAsyncResponseReaderInterface<v1::FetchBlocksResponse>* PrepareAsyncFetchBlocksRaw(
      grpc::ClientContext*, const v1::FetchBlocksRequest&, grpc::CompletionQueue*) override {
    return nullptr;
  }
  grpc::ClientAsyncResponseReaderInterface<v1::ListBlockChecksumsResponse>*
  AsyncListBlockChecksumsRaw(grpc::ClientContext*, const v1::ListBlockChecksumsRequest&,
                             grpc::CompletionQueue*) override {
    return nullptr;
  }
  grpc::ClientAsyncResponseReaderInterface<v1::ListBlockChecksumsResponse>*
  PrepareAsyncListBlockChecksumsRaw(grpc::ClientContext*, const v1::ListBlockChecksumsRequest&,
                                    grpc::CompletionQueue*) override {
    return nullptr;
  }
  grpc::ClientAsyncResponseReaderInterface<v1::BeginCopyResponse>* AsyncBeginCopyRaw(
      grpc::ClientContext*, const v1::BeginCopyRequest&, grpc::CompletionQueue*) override {
    return nullptr;
  }
  grpc::ClientAsyncResponseReaderInterface<v1::BeginCopyResponse>* PrepareAsyncBeginCopyRaw(
      grpc::ClientContext*, const v1::BeginCopyRequest&, grpc::CompletionQueue*) override {
    return nullptr;
  }
  AsyncReader<v1::ListChunkVersionsResponse>* AsyncListChunkVersionsRaw(
      grpc::ClientContext*, const v1::ListChunkVersionsRequest&, grpc::CompletionQueue*,
      void*) override {
    return nullptr;
  }
  AsyncReader<v1::ListChunkVersionsResponse>* PrepareAsyncListChunkVersionsRaw(
      grpc::ClientContext*, const v1::ListChunkVersionsRequest&, grpc::CompletionQueue*) override {
    return nullptr;
  }
  AsyncReader<v1::CopyChunksResponse>* AsyncCopyChunksRaw(grpc::ClientContext*,
                                                          const v1::CopyChunksRequest&,
                                                          grpc::CompletionQueue*, void*) override {
    return nullptr;
  }
  AsyncReader<v1::CopyChunksResponse>* PrepareAsyncCopyChunksRaw(grpc::ClientContext*,
                                                                 const v1::CopyChunksRequest&,
                                                                 grpc::CompletionQueue*) override {
    return nullptr;
  }

  Cluster* const cluster_;
  const NodeId source_;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_REPLICA_STUB_H_
