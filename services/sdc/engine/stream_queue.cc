#include "services/sdc/engine/stream_queue.h"

#include <pthread.h>

#include <utility>

#include "services/common/thread_priority.h"
#include "services/sdc/engine/stream_call.h"

namespace tessera::sdc {
namespace {

// The loop polls its queue's sockets by itself.
[[maybe_unused]] const bool kPolling = PollQueuesByThemselves();
// Tags run before the loop looks at its other descriptors again.
constexpr int kTagsOfAPoll = 256;

}  // namespace

StreamQueue::~StreamQueue() {
  if (tick_set_) loop_.Cancel(tick_);
  DrainQueue(&watched_);
  threaded_.Shutdown();
  if (thread_.joinable()) {
    thread_.join();
    RunArrived();
  } else {
    DrainQueue(&threaded_);
  }
}

grpc::CompletionQueue* StreamQueue::threaded() {
  if (!thread_.joinable()) {
    thread_ = std::thread([this] {
      PreferShortSlices();
      WaitInThread();
    });
    pthread_setname_np(thread_.native_handle(), "stream-queue");
  }
  return &threaded_;
}

void StreamQueue::CallBegan() {
  ++calls_;
  if (!std::exchange(tick_set_, true)) tick_ = loop_.After(kTick, [this] { Tick(); });
}

void StreamQueue::Tick() {
  tick_set_ = calls_ > 0;
  if (tick_set_) tick_ = loop_.After(kTick, [this] { Tick(); });
  for (const std::weak_ptr<StreamCall>& weak : std::exchange(idle_, {})) {
    if (const std::shared_ptr<StreamCall> call = weak.lock(); call != nullptr) call->ReadWhenIdle();
  }
  Poll();
}

void StreamQueue::ReadAtNextTick(std::weak_ptr<StreamCall> call) {
  idle_.push_back(std::move(call));
}

void StreamQueue::Poll() { RunReadyTags(&watched_, kTagsOfAPoll); }

void StreamQueue::RunOne(grpc::CompletionQueue* queue) {
  if (queue == &threaded_) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](std::vector<Arrived>* arrived) { return !arrived->empty(); }, &arrived_));
    }
    RunArrived();
    return;
  }
  void* tag = nullptr;
  bool ok = false;
  if (queue->Next(&tag, &ok)) static_cast<QueueTag*>(tag)->Done(ok);
}

void StreamQueue::WaitInThread() {
  void* tag = nullptr;
  bool ok = false;
  while (threaded_.Next(&tag, &ok)) {
    bool post = false;
    {
      absl::MutexLock lock(&mutex_);
      arrived_.push_back({static_cast<QueueTag*>(tag), ok});
      post = !std::exchange(posted_, true);
    }
    if (post) loop_.Post([this] { RunArrived(); });
  }
}

void StreamQueue::RunArrived() {
  std::vector<Arrived> arrived;
  {
    absl::MutexLock lock(&mutex_);
    arrived.swap(arrived_);
    posted_ = false;
  }
  for (const Arrived& event : arrived) event.tag->Done(event.ok);
}

}  // namespace tessera::sdc
