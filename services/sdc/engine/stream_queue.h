// The completion queues of a loop's gRPC streams, and how the loop learns that one has something.
//
// - A call over a socket that we made (plain text): the loop watches the socket and polls the queue
//   when the socket has news. Nothing changes threads between the network and the engine.
// - Any other call (TLS, names to be resolved: gRPC makes the connection): a thread waits in a
//   second queue and hands over. That costs a change of threads for each message.
//
// gRPC completes operations from its timers, too (a keepalive that got no answer), with no news on
// the socket: while there are calls, the first queue is polled every kTick as well.
//
// Threads: the loop thread, or any when the loop does not run.
#ifndef TESSERA_SERVICES_SDC_ENGINE_STREAM_QUEUE_H_
#define TESSERA_SERVICES_SDC_ENGINE_STREAM_QUEUE_H_

#include <grpcpp/completion_queue.h>

#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/grpc_queue.h"
#include "services/sdc/event_loop.h"

namespace tessera::sdc {

class StreamCall;

class StreamQueue {
 public:
  static constexpr EventLoop::Duration kTick = std::chrono::milliseconds(50);

  // `loop` must outlive the queue.
  explicit StreamQueue(EventLoop& loop) : loop_(loop) {}
  // All calls must be over.
  ~StreamQueue();
  StreamQueue(const StreamQueue&) = delete;
  StreamQueue& operator=(const StreamQueue&) = delete;

  // For calls whose sockets the caller watches.
  [[nodiscard]] grpc::CompletionQueue* watched() { return &watched_; }
  // For the others.
  [[nodiscard]] grpc::CompletionQueue* threaded();

  // A call began, or is over.
  void CallBegan();
  void CallEnded() { --calls_; }

  // Calls StreamCall::ReadWhenIdle then.
  void ReadAtNextTick(std::weak_ptr<StreamCall> call);

  // Runs the watched queue's tags that are there.
  void Poll();
  // Waits for a tag of the queue and runs it: for a destructor that waits for its calls' ends.
  void RunOne(grpc::CompletionQueue* queue);

 private:
  struct Arrived {
    QueueTag* tag = nullptr;
    bool ok = false;
  };

  void Tick();
  void WaitInThread();
  void RunArrived();

  EventLoop& loop_;
  grpc::CompletionQueue watched_;
  grpc::CompletionQueue threaded_;
  std::thread thread_;  // of the second queue, once it was asked for
  int calls_ = 0;
  std::vector<std::weak_ptr<StreamCall>> idle_;  // each call at most once
  bool tick_set_ = false;
  EventLoop::TimerId tick_ = 0;

  absl::Mutex mutex_;
  std::vector<Arrived> arrived_ ABSL_GUARDED_BY(mutex_);  // bounded by operations begun
  bool posted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_STREAM_QUEUE_H_
