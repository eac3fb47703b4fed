// Asynchronous client calls of one thread: started, answered and given up on it, however many there
// are. Nothing here waits for a single one.
//
// Threads: one, that of Next; Wake from any.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_CALL_QUEUE_H_
#define TESSERA_SERVICES_MGMT_MONITOR_CALL_QUEUE_H_

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "services/common/errors.h"

namespace tessera::mgmt {

class CallQueue {
 public:
  // Something that the queue tells of events.
  class Tag {
   public:
    virtual ~Tag() = default;
    // False: nothing more comes, it is destroyed.
    [[nodiscard]] virtual bool Done(bool ok) = 0;
    virtual void Cancel() = 0;
  };

  CallQueue() = default;
  // Gives up what is open: no callback of a call runs any more.
  ~CallQueue();

  // Waits for one event and handles it. False: `timeout` went by, or Wake was called.
  bool Next(std::chrono::milliseconds timeout);
  // Ends a wait, or the next one. At most once.
  void Wake();

  // A unary call. `begin(context, queue)` prepares it: stub.PrepareAsyncX(context, request, queue).
  // `done(status, response)` runs in Next, once.
  template <typename Response, typename Begin, typename Callback>
  void Call(std::chrono::milliseconds timeout, Begin begin, Callback done);
  // A server stream. `message(response)` runs for each message, then `end(status)` once.
  template <typename Response, typename Begin, typename Callback, typename End>
  void Watch(Begin begin, Callback message, End end);

 private:
  template <typename Response, typename Callback>
  class UnaryTag;
  template <typename Response, typename Callback, typename End>
  class StreamTag;
  class WakeTag final : public Tag {
    bool Done(bool) override { return true; }
    void Cancel() override {}
  };

  grpc::CompletionQueue queue_;
  absl::flat_hash_map<Tag*, std::unique_ptr<Tag>> open_;
  WakeTag wake_tag_;
  grpc::Alarm wake_;
};

template <typename Response, typename Callback>
class CallQueue::UnaryTag final : public Tag {
 public:
  explicit UnaryTag(Callback done) : done_(std::move(done)) {}
  bool Done(bool) override {
    done_(FromGrpcStatus(status_), response_);
    return false;
  }
  void Cancel() override { context.TryCancel(); }

  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<Response>> reader;
  void Start() {
    reader->StartCall();
    reader->Finish(&response_, &status_, static_cast<Tag*>(this));
  }

 private:
  Callback done_;
  Response response_;
  grpc::Status status_;
};

template <typename Response, typename Callback, typename End>
class CallQueue::StreamTag final : public Tag {
 public:
  StreamTag(Callback message, End end) : on_message_(std::move(message)), on_end_(std::move(end)) {}
  bool Done(bool ok) override {
    if (state_ == State::kFinishing) {
      on_end_(FromGrpcStatus(status_));
      return false;
    }
    if (!ok) {
      state_ = State::kFinishing;
      reader->Finish(&status_, static_cast<Tag*>(this));
      return true;
    }
    if (state_ == State::kReading) on_message_(message_);
    state_ = State::kReading;
    reader->Read(&message_, static_cast<Tag*>(this));
    return true;
  }
  void Cancel() override { context.TryCancel(); }

  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncReader<Response>> reader;
  void Start() { reader->StartCall(static_cast<Tag*>(this)); }

 private:
  enum class State { kStarting, kReading, kFinishing };
  State state_ = State::kStarting;
  Callback on_message_;
  End on_end_;
  Response message_;
  grpc::Status status_;
};

template <typename Response, typename Begin, typename Callback>
void CallQueue::Call(std::chrono::milliseconds timeout, Begin begin, Callback done) {
  auto tag = std::make_unique<UnaryTag<Response, Callback>>(std::move(done));
  tag->context.set_deadline(std::chrono::system_clock::now() + timeout);
  tag->reader = begin(&tag->context, &queue_);
  auto* const raw = tag.get();
  open_[raw] = std::move(tag);
  raw->Start();
}

template <typename Response, typename Begin, typename Callback, typename End>
void CallQueue::Watch(Begin begin, Callback message, End end) {
  auto tag =
      std::make_unique<StreamTag<Response, Callback, End>>(std::move(message), std::move(end));
  tag->reader = begin(&tag->context, &queue_);
  auto* const raw = tag.get();
  open_[raw] = std::move(tag);
  raw->Start();
}

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_CALL_QUEUE_H_
