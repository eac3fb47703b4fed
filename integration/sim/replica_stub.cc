#include "integration/sim/replica_stub.h"

#include <deque>
#include <memory>
#include <utility>

#include "integration/sim/sds_node.h"
#include "services/common/errors.h"

namespace tessera::sim {
namespace {

constexpr Nanos kCopyCallTimeout = 10 * kSecond;
// Messages on their way before the source waits.
constexpr size_t kMessagesAhead = 2;

// A server stream: filled by a fiber of the source, read by one of the learner.
template <typename Response>
struct CopyStream : std::enable_shared_from_this<CopyStream<Response>> {
  Life* reader = nullptr;
  Life* source = nullptr;
  std::shared_ptr<Pipe> down;
  std::deque<Response> arrived;
  size_t ahead = 0;
  bool cancelled = false;
  bool over = false;
  absl::Status status;
  World::Wait reader_wait;
  World::Wait source_wait;
  bool reader_waits = false;
  bool source_waits = false;

  void WakeReader() {
    if (std::exchange(reader_waits, false)) World::Get().Unpark(reader_wait);
  }
  void WakeSource() {
    if (std::exchange(source_waits, false)) World::Get().Unpark(source_wait);
  }
  void End(absl::Status why) {
    if (std::exchange(over, true)) return;
    status = std::move(why);
    WakeReader();
  }
};

template <typename Response>
class CopyWriter final : public StreamWriter<Response> {
 public:
  explicit CopyWriter(std::shared_ptr<CopyStream<Response>> stream) : stream_(std::move(stream)) {}
  bool Write(const Response& response) override {
    while (stream_->ahead >= kMessagesAhead && !stream_->cancelled && !stream_->over) {
      stream_->source_wait = World::Get().NewWait();
      stream_->source_waits = true;
      World::Get().Park(stream_->source_wait);
    }
    if (stream_->cancelled || stream_->over) return false;
    if (stream_->source->muted && stream_->source->muted()) return false;
    ++stream_->ahead;
    stream_->down->Send([stream = stream_, response] {
      if (stream->over) return;
      stream->arrived.push_back(response);
      stream->WakeReader();
    });
    return true;
  }

 private:
  const std::shared_ptr<CopyStream<Response>> stream_;
};

template <typename Response>
class CopyReader final : public grpc::ClientReaderInterface<Response> {
 public:
  explicit CopyReader(std::shared_ptr<CopyStream<Response>> stream) : stream_(std::move(stream)) {}
  ~CopyReader() override { Cancel(); }
  bool Read(Response* response) override {
    while (stream_->arrived.empty() && !stream_->over) {
      stream_->reader_wait = World::Get().NewWait();
      stream_->reader_waits = true;
      World::Get().Park(stream_->reader_wait);
    }
    if (stream_->arrived.empty()) return false;
    *response = std::move(stream_->arrived.front());
    stream_->arrived.pop_front();
    --stream_->ahead;
    stream_->WakeSource();
    return true;
  }
  bool NextMessageSize(uint32_t*) override { return false; }
  void WaitForInitialMetadata() override {}
  // A learner reads to the end, or has given up.
  grpc::Status Finish() override {
    if (!stream_->over) {
      Cancel();
      stream_->End(absl::CancelledError("cancelled"));
    }
    return ToGrpcStatus(stream_->status);
  }

 private:
  void Cancel() {
    stream_->cancelled = true;
    stream_->WakeSource();
  }
  const std::shared_ptr<CopyStream<Response>> stream_;
};

template <typename Response, typename Serve>
CopyReader<Response>* OpenStream(Cluster* cluster, NodeId source, Serve serve) {
  auto stream = std::make_shared<CopyStream<Response>>();
  stream->reader = World::Get().current();
  const NodeId reader = stream->reader->node;
  Network& network = cluster->network();
  stream->down = std::make_shared<Pipe>(&network, source, reader, [stream] {
    stream->End(absl::UnavailableError("keepalive timed out"));
  });
  network.Send(reader, source, Network::kBreakAfter, [=, &network](bool through) {
    stream->source = network.machine(source).life;
    if (!through || stream->source == nullptr) {
      return stream->End(absl::UnavailableError("no connection"));
    }
    stream->source->IfKilled(std::make_shared<bool>(false), [stream] {
      stream->down->Send([stream] { stream->End(absl::UnavailableError("connection reset")); });
    });
    World::Get().Spawn(stream->source, [=] {
      SdsNode* sds = cluster->sds(source);
      absl::Status status = absl::UnavailableError("the server is not up yet");
      CopyWriter<Response> writer(stream);
      if (sds != nullptr && sds->source() != nullptr) status = serve(*sds, writer);
      stream->down->Send([stream, status] { stream->End(status); });
    });
  });
  // A source that lost its power says nothing.
  const std::shared_ptr<std::function<void()>> watch = std::make_shared<std::function<void()>>();
  *watch = [stream, &network, source, watch] {
    if (stream->over) {
      *watch = nullptr;
      return;
    }
    if (!network.machine(source).powered ||
        (stream->source != nullptr && !stream->source->running)) {
      return stream->End(absl::UnavailableError("keepalive timed out"));
    }
    World::Get().After(Network::kBreakAfter, nullptr, [watch] {
      if (*watch) (*watch)();
    });
  };
  World::Get().After(Network::kBreakAfter, nullptr, [watch] {
    if (*watch) (*watch)();
  });
  return new CopyReader<Response>(stream);
}

}  // namespace

grpc::Status ReplicaStub::BeginCopy(grpc::ClientContext*, const v1::BeginCopyRequest& request,
                                    v1::BeginCopyResponse* response) {
  absl::StatusOr<v1::BeginCopyResponse> answer =
      cluster_->network().CallAndWait<v1::BeginCopyResponse>(
          source_, kCopyCallTimeout,
          [request, cluster = cluster_,
           source = source_](v1::BeginCopyResponse* out) -> absl::Status {
            SdsNode* sds = cluster->sds(source);
            if (sds == nullptr || sds->source() == nullptr) {
              return absl::UnavailableError("the server is not up yet");
            }
            const auto worker = sds->source()->CheckTicket(request.ticket());
            if (!worker.ok()) return worker.status();
            return sds->source()->ReadCursors(*worker, request.ticket(), out);
          });
  if (!answer.ok()) return ToGrpcStatus(answer.status());
  *response = std::move(*answer);
  return grpc::Status::OK;
}

ReplicaStub::Reader<v1::ListChunkVersionsResponse>* ReplicaStub::ListChunkVersionsRaw(
    grpc::ClientContext*, const v1::ListChunkVersionsRequest& request) {
  return OpenStream<v1::ListChunkVersionsResponse>(
      cluster_, source_,
      [request](SdsNode& sds, StreamWriter<v1::ListChunkVersionsResponse>& writer) {
        return sds.source()->List(request, writer);
      });
}

ReplicaStub::Reader<v1::CopyChunksResponse>* ReplicaStub::CopyChunksRaw(
    grpc::ClientContext*, const v1::CopyChunksRequest& request) {
  return OpenStream<v1::CopyChunksResponse>(
      cluster_, source_, [request](SdsNode& sds, StreamWriter<v1::CopyChunksResponse>& writer) {
        return sds.source()->Copy(request, writer);
      });
}

}  // namespace tessera::sim
