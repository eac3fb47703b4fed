// The one way in for every RPC: authentication, the proto's access option, deadline, metrics, our
// own threads, and the mapping of absl::Status to gRPC. A service method is one line:
//
//   grpc::ServerUnaryReactor* GetVolume(grpc::CallbackServerContext* context,
//       const v1::GetVolumeRequest* request, v1::GetVolumeResponse* response) override {
//     return rpc_->Unary(context, request, response,
//                        [this](const CallContext& call, const auto& request, auto* response) {
//                          return GetVolume(call, request, response); });
//   }
//
// Which method it is follows from the request's type, which buf's STANDARD rules make unique. A
// method without the access option, or of a service not named in the options, can't be made to
// answer.
//
// Threads: RpcDispatcher's methods are called from gRPC's threads; handlers run on its executors.
// Handlers may block on disk and on other RPCs with deadlines.
#ifndef TESSERA_SERVICES_COMMON_RPC_H_
#define TESSERA_SERVICES_COMMON_RPC_H_

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/auth.h"
#include "services/common/errors.h"
#include "services/common/executor.h"
#include "services/common/metrics.h"

namespace tessera {

// What a handler knows of its call.
class CallContext {
 public:
  CallContext(Caller caller, std::chrono::system_clock::time_point deadline,
              std::shared_ptr<std::atomic<bool>> cancelled)
      : caller_(std::move(caller)), deadline_(deadline), cancelled_(std::move(cancelled)) {}
  // Of a synchronous method: `context` is asked whether the call was cancelled, and must outlive
  // it.
  CallContext(Caller caller, std::chrono::system_clock::time_point deadline,
              const grpc::ServerContext* context)
      : caller_(std::move(caller)), deadline_(deadline), context_(context) {}
  [[nodiscard]] const Caller& caller() const { return caller_; }
  [[nodiscard]] std::chrono::system_clock::time_point deadline() const { return deadline_; }
  // Time left, at most `most`.
  [[nodiscard]] std::chrono::milliseconds TimeLeft(std::chrono::milliseconds most) const;
  [[nodiscard]] bool cancelled() const {
    return context_ != nullptr ? context_->IsCancelled()
                               : cancelled_->load(std::memory_order_relaxed);
  }

 private:
  Caller caller_;
  std::chrono::system_clock::time_point deadline_;
  std::shared_ptr<std::atomic<bool>> cancelled_;  // shared with the reactor, which may end first
  const grpc::ServerContext* context_ = nullptr;
};

// Blocking writes to a server stream, for finite answers.
template <typename Response>
class StreamWriter {
 public:
  virtual ~StreamWriter() = default;
  // False when the caller is gone: stop.
  [[nodiscard]] virtual bool Write(const Response& response) = 0;
};

// Blocking reads from a client stream.
template <typename Request>
class StreamReader {
 public:
  virtual ~StreamReader() = default;
  // False at the end of the stream.
  [[nodiscard]] virtual bool Read(Request* request) = 0;
};

// A server stream that is pushed to from outside, with a bounded queue: for watches.
template <typename Response>
class PushStream : public grpc::ServerWriteReactor<Response>,
                   public std::enable_shared_from_this<PushStream<Response>> {
 public:
  static constexpr size_t kQueueLimit = 256;

  // Queues a message. False when the stream is over; a reader that lags by kQueueLimit messages is
  // ended with RESOURCE_EXHAUSTED and starts over.
  bool Send(Response response) {
    std::shared_ptr<PushStream> keep;
    absl::MutexLock lock(&mutex_);
    if (finished_) return false;
    if (queue_.size() >= kQueueLimit) {
      FinishLocked(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                "the watcher is too slow: watch again for a fresh snapshot"));
      return false;
    }
    queue_.push_back(std::move(response));
    WriteNextLocked();
    return true;
  }
  void Close(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (!finished_) FinishLocked(ToGrpcStatus(status));
  }
  [[nodiscard]] bool closed() const {
    absl::MutexLock lock(&mutex_);
    return finished_;
  }

  // Messages that wait for the reader.
  [[nodiscard]] size_t queued() const {
    absl::MutexLock lock(&mutex_);
    return queue_.size();
  }

  // For the dispatcher.
  void HoldSelf() { self_ = this->shared_from_this(); }
  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!queue_.empty()) queue_.pop_front();
    if (finished_) return;
    if (!ok) {
      FinishLocked(grpc::Status::CANCELLED);
      return;
    }
    WriteNextLocked();
  }
  void OnCancel() override { Close(absl::CancelledError("cancelled by the caller")); }
  void OnDone() override {
    std::shared_ptr<PushStream> last = std::move(self_);  // destroyed here unless somebody holds it
  }

 private:
  void WriteNextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || queue_.empty()) return;
    writing_ = true;
    this->StartWrite(&queue_.front());
  }
  void FinishLocked(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    finished_ = true;
    this->Finish(status);
  }

  mutable absl::Mutex mutex_;
  std::deque<Response> queue_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<PushStream> self_;  // set before the call starts, cleared by OnDone
};

// Told of every unary call that was answered, refused ones included, on the thread that answers it.
// `method` is "tessera.v1.VolumeService/DeleteVolume".
using CallObserver =
    std::function<void(const Caller& caller, const std::string& method,
                       const google::protobuf::Message& request, const absl::Status& status)>;

struct RpcDispatcherOptions {
  std::vector<std::string> services;  // full names: "tessera.v1.VolumeService"
  size_t unary_threads = 8;
  size_t stream_threads = 16;  // each finite stream occupies one while it runs
  std::chrono::milliseconds default_deadline{30'000};  // for calls without one
  CallObserver observer = nullptr;                     // of unary callback methods
};

class RpcDispatcher {
 public:
  // FAILED_PRECONDITION naming the method, when one of the services has a method without the access
  // option; NOT_FOUND for a service that is not linked in.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RpcDispatcher>> Create(
      const RpcDispatcherOptions& options, std::shared_ptr<const Authenticator> authenticator,
      MetricRegistry* metrics);
  ~RpcDispatcher();

  template <typename Request, typename Response, typename Handler>
  grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context, const Request* request,
                                  Response* response, Handler handler);

  // handler(const CallContext&, const Request&, StreamWriter<Response>&) -> absl::Status
  template <typename Request, typename Response, typename Handler>
  grpc::ServerWriteReactor<Response>* ServerStream(grpc::CallbackServerContext* context,
                                                   const Request* request, Handler handler);

  // handler(const CallContext&, StreamReader<Request>&, Response*) -> absl::Status
  template <typename Request, typename Response, typename Handler>
  grpc::ServerReadReactor<Request>* ClientStream(grpc::CallbackServerContext* context,
                                                 Response* response, Handler handler);

  // handler(const CallContext&, const Request&, std::shared_ptr<PushStream<Response>>) ->
  // absl::Status, called once; an error ends the stream, OK leaves it open for whoever kept the
  // pointer.
  template <typename Request, typename Response, typename Handler>
  grpc::ServerWriteReactor<Response>* Push(grpc::CallbackServerContext* context,
                                           const Request* request, Handler handler);

  // The same for services with synchronous methods, which gRPC calls on threads that may block. The
  // handlers are as above and run on the calling thread. Servers with queues of their own
  // (GrpcServerOptions::queues) have such services: callback methods would add gRPC's own polling
  // threads to them.
  template <typename Request, typename Response, typename Handler>
  [[nodiscard]] grpc::Status RunUnary(grpc::ServerContext* context, const Request& request,
                                      Response* response, Handler handler);
  template <typename Request, typename Response, typename Handler>
  [[nodiscard]] grpc::Status RunServerStream(grpc::ServerContext* context, const Request& request,
                                             grpc::ServerWriter<Response>* writer, Handler handler);
  template <typename Request, typename Response, typename Handler>
  [[nodiscard]] grpc::Status RunClientStream(grpc::ServerContext* context,
                                             grpc::ServerReader<Request>* reader,
                                             Response* response, Handler handler);

  // The steps that the methods above are made of, for a proxy, which has bytes and no types. Admit
  // on gRPC's thread, then Post the rest: Authorize authenticates and checks the roles, Count and
  // Tell are for the end of the call.
  struct Method;
  struct Admission {
    const Method* method = nullptr;  // null: not served here
    std::string authorization;
    std::vector<std::string> certificate_names;  // of a verified client certificate
    std::string on_behalf_of;                    // as the caller sent it
    std::string peer;
    bool over_gateway = false;
    std::string user_agent;
    std::chrono::system_clock::time_point deadline;
    std::chrono::steady_clock::time_point started;
  };
  // Metadata that the gateway sends and that is believed over GrpcServer::InProcessChannel alone.
  static constexpr char kGatewayPeer[] = "x-gw-peer";
  static constexpr char kGatewayUserAgent[] = "x-gw-user-agent";
  [[nodiscard]] Admission Admit(const grpc::ServerContextBase& context,
                                const std::string& request_type) const;
  [[nodiscard]] absl::StatusOr<Caller> Authorize(const Admission& admission) const;
  void Count(const Admission& admission, const absl::Status& status) const;
  void Tell(const Admission& admission, const absl::StatusOr<Caller>& caller,
            const google::protobuf::Message& request, const absl::Status& status) const;
  // False: too many calls wait (Overloaded says so), or Shutdown was called.
  [[nodiscard]] bool Post(Executor::Task task) { return unary_.Post(std::move(task)); }
  [[nodiscard]] static absl::Status Overloaded();

  // Takes no more calls, waits for running handlers.
  void Shutdown();

 private:
  RpcDispatcher(const RpcDispatcherOptions& options,
                std::shared_ptr<const Authenticator> authenticator, MetricRegistry* metrics);
  // Who the caller is by what it proved; UNAUTHENTICATED when that is nothing.
  [[nodiscard]] absl::StatusOr<Caller> Identify(const Admission& admission) const;
  // Admits, authorizes, runs `handle(call)` here, counts.
  template <typename Handle>
  [[nodiscard]] grpc::Status Run(grpc::ServerContext* context, const std::string& request_type,
                                 Handle handle);

  template <typename Response>
  class WriteReactor;
  template <typename Request>
  class ReadReactor;

  const RpcDispatcherOptions options_;
  const std::shared_ptr<const Authenticator> authenticator_;  // shared with other dispatchers
  absl::flat_hash_map<std::string, std::unique_ptr<Method>> methods_;  // by request type
  Executor unary_;
  Executor streams_;
};

}  // namespace tessera

#include "services/common/rpc_internal.h"  // template bodies

#endif  // TESSERA_SERVICES_COMMON_RPC_H_
