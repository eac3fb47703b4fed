// One attempt at a stream of ChunkService.Io: connection, call, messages, and its end.
//
// In plain text to a numeric address or a unix socket the connection is a socket of ours, so that
// the loop can watch it (see stream_queue.h); otherwise gRPC makes the connection. Each attempt
// uses a fresh connection, so gRPC's own back-off never adds to ours.
//
// Threads: as StreamQueue.
#ifndef TESSERA_SERVICES_SDC_ENGINE_STREAM_CALL_H_
#define TESSERA_SERVICES_SDC_ENGINE_STREAM_CALL_H_

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "services/common/grpc_queue.h"
#include "services/sdc/engine/stream_queue.h"

namespace tessera::sdc {

class StreamCall final : public std::enable_shared_from_this<StreamCall> {
 public:
  // Told of everything until Detach. May release the call from inside.
  class Listener {
   public:
    virtual ~Listener() = default;
    // Whether another message is expected before the next Write. A read that waits makes gRPC open
    // its flow-control window at once, in a packet of its own that wakes the server for nothing; so
    // without one expected the read goes along with the next Write.
    virtual bool CallReceived(StreamCall& call, const grpc::ByteBuffer& message) = 0;
    // The message of Write was taken: the next may follow.
    virtual void CallWrote(StreamCall& call) = 0;
    // Nothing more comes. Also after Release.
    virtual void CallEnded(StreamCall& call, const std::string& why) = 0;
  };

  // `queue` must outlive the call, and so must `listener` until Detach.
  StreamCall(EventLoop& loop, StreamQueue& queue, Listener* listener);
  ~StreamCall();
  StreamCall(const StreamCall&) = delete;
  StreamCall& operator=(const StreamCall&) = delete;

  // Connects and begins to read. Once. `credentials` null: plain text.
  void Start(const std::string& target, std::shared_ptr<grpc::ChannelCredentials> credentials);
  // After Start, or the CallWrote of the one before.
  void Write(const grpc::ByteBuffer& message);
  // While a write is not confirmed: asks for it soon, since nothing else may bring the news.
  void ExpectWritten();
  // Cancels: no message is delivered any more, CallEnded follows unless it was.
  void Release();
  // The listener hears nothing more.
  void Detach() { listener_ = nullptr; }
  [[nodiscard]] bool over() const { return over_; }
  // For the queue: an idle stream reads again, so that its end is noticed.
  void ReadWhenIdle();
  // Of a released call. For destructors.
  void WaitUntilOver();

 private:
  // Makes the socket; empty, or why not.
  std::string OpenSocket(const std::string& target);
  void AwaitConnection();
  void Begin(std::shared_ptr<grpc::Channel> channel, grpc::CompletionQueue* queue);
  void FailSoon(const std::string& why);
  void OnStarted(bool ok);
  void OnRead(bool ok);
  void OnWritten(bool ok);
  void OnFinished(bool ok);
  void OperationEnded();
  void End(const std::string& why);
  void Read();
  void WatchWritable();
  void CloseDescriptors();

  EventLoop& loop_;
  StreamQueue& queue_;
  Listener* listener_;
  std::shared_ptr<StreamCall> self_;  // from Start until it is over
  grpc::CompletionQueue* completions_ = nullptr;
  std::unique_ptr<grpc::GenericStub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> rpc_;
  MemberTag<StreamCall, &StreamCall::OnStarted> started_{this};
  MemberTag<StreamCall, &StreamCall::OnRead> read_{this};
  MemberTag<StreamCall, &StreamCall::OnWritten> written_{this};
  MemberTag<StreamCall, &StreamCall::OnFinished> finished_{this};
  grpc::ByteBuffer incoming_;
  grpc::Status status_;
  int operations_ = 0;  // that gRPC will give a tag back for
  bool started_call_ = false;
  bool reading_ = false;
  bool idle_told_ = false;  // the queue will call ReadWhenIdle
  bool writing_ = false;
  bool asked_ = false;  // ExpectWritten is under way
  bool released_ = false;
  bool finishing_ = false;
  bool over_ = false;

  int connecting_ = -1;  // a socket on its way
  int readable_ = -1;    // our copies of the connected one, watched
  int writable_ = -1;    // only while a message waits for the socket
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_STREAM_CALL_H_
