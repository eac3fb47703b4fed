// ChunkService: the IO stream, and the simple calls for people and scripts, which take the same
// way.
//
// Threads: streams are their home workers'; the simple calls come on gRPC's threads, which may
// block. All end before the service does (CloseStreams, then the server's shutdown).
#ifndef TESSERA_SERVICES_SDS_CHUNK_SERVICE_H_
#define TESSERA_SERVICES_SDS_CHUNK_SERVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "services/common/rpc.h"
#include "services/sds/io_budget.h"
#include "services/sds/io_engine.h"
#include "services/sds/io_stream.h"
#include "tessera/v1/chunk.grpc.pb.h"

namespace tessera::sds {

// The gRPC error that says what an operation's result says; OK for IO_STATUS_OK.
[[nodiscard]] absl::Status StatusOfResult(const v1::IoResult& result);

class ChunkServiceImpl final
    : public v1::ChunkService::WithRawMethod_Io<v1::ChunkService::Service> {
 public:
  // `hello` makes the greeting of a new stream. All must outlive the service.
  ChunkServiceImpl(IoEngine* engine, IoBudget* budget, SdsMetrics* metrics, const Clock* clock,
                   RpcDispatcher* rpc, std::function<v1::SdsHello()> hello)
      : engine_(engine),
        budget_(budget),
        metrics_(metrics),
        clock_(clock),
        rpc_(rpc),
        hello_(std::move(hello)) {}

  // Waits for streams on each worker's queue, which the worker polls. Once, when the server runs.
  void AcceptStreams(std::vector<grpc::ServerCompletionQueue*> queue_of_worker);
  // Takes no new streams and ends those there are.
  void CloseStreams();

  grpc::Status ReadChunk(grpc::ServerContext* context, const v1::ReadChunkRequest* request,
                         grpc::ServerWriter<v1::ReadChunkResponse>* writer) override;
  grpc::Status WriteChunk(grpc::ServerContext* context,
                          grpc::ServerReader<v1::WriteChunkRequest>* reader,
                          v1::WriteChunkResponse* response) override;

 private:
  // Passes one operation through the engine and waits for its result, as far as the deadline
  // allows.
  [[nodiscard]] absl::StatusOr<IoResponseFrame> Perform(const CallContext& call,
                                                        const v1::SignedOperation& operation,
                                                        std::vector<grpc::Slice> payload);
  [[nodiscard]] absl::Status Read(const CallContext& call, const v1::ReadChunkRequest& request,
                                  StreamWriter<v1::ReadChunkResponse>& writer);
  [[nodiscard]] absl::Status Write(const CallContext& call,
                                   StreamReader<v1::WriteChunkRequest>& reader,
                                   v1::WriteChunkResponse* response);

  void AcceptNext(size_t home);
  void OnAccepted(const std::shared_ptr<IoStream>& stream, size_t home);

  IoEngine* const engine_;
  IoBudget* const budget_;
  SdsMetrics* const metrics_;
  const Clock* const clock_;
  RpcDispatcher* const rpc_;
  const std::function<v1::SdsHello()> hello_;
  std::vector<grpc::ServerCompletionQueue*> queues_;  // set by AcceptStreams
  absl::Mutex mutex_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<IoStream*, std::weak_ptr<IoStream>> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_CHUNK_SERVICE_H_
