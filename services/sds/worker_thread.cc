#include "services/sds/worker_thread.h"

#include <grpc/support/time.h>
#include <pthread.h>

#include <utility>

#include "absl/synchronization/notification.h"
#include "services/common/thread_priority.h"

namespace tessera::sds {
namespace {

// The thread's queue is its own to poll.
[[maybe_unused]] const bool kPolling = PollQueuesByThemselves();
// Tags of one cycle: the hook must not wait for a flood to end.
constexpr int kTagsOfACycle = 64;

}  // namespace

void WorkerThread::Start(const std::string& name, std::function<void()> end_of_cycle) {
  end_of_cycle_ = std::move(end_of_cycle);
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = false;
  }
  thread_ = std::thread([this] {
    PreferShortSlices();
    Run();
  });
  pthread_setname_np(thread_.native_handle(), name.substr(0, 15).c_str());
  clockid_t cpu_clock;
  if (pthread_getcpuclockid(thread_.native_handle(), &cpu_clock) == 0) cpu_clock_ = cpu_clock;
}

bool WorkerThread::Post(Task task) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return false;
  queue_.push_back(std::move(task));
  if (sleeps_in_grpc_ && !std::exchange(alarm_set_, true)) {
    alarm_.Set(grpc_queue_, gpr_inf_past(GPR_CLOCK_MONOTONIC), static_cast<QueueTag*>(&woken_));
  }
  return true;
}

void WorkerThread::PostAfter(absl::Duration delay, Task task) {
  timed_.emplace(std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(delay),
                 std::move(task));
}

void WorkerThread::TakeDue(std::vector<Task>* tasks) {
  if (timed_.empty()) return;
  const auto now = std::chrono::steady_clock::now();
  while (!timed_.empty() && timed_.begin()->first <= now) {
    tasks->push_back(std::move(timed_.extract(timed_.begin()).mapped()));
  }
}

bool WorkerThread::RunAndWait(Task task) {
  absl::Notification done;
  if (!Post([&task, &done] {
        task();
        done.Notify();
      })) {
    return false;
  }
  done.WaitForNotification();
  return true;
}

void WorkerThread::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void WorkerThread::EnterQueue(grpc::CompletionQueue* queue) {
  RunAndWait([this, queue] { grpc_queue_ = queue; });
}

void WorkerThread::LeaveQueue() {
  RunAndWait([this] {
    if (grpc_queue_ == nullptr) return;
    DrainQueue(grpc_queue_);
    grpc_queue_ = nullptr;
  });
}

size_t WorkerThread::queued() const {
  absl::MutexLock lock(&mutex_);
  return queue_.size();
}

double WorkerThread::CpuSeconds() const {
  const clockid_t clock = cpu_clock_;
  timespec used{};
  if (clock == CLOCK_REALTIME || ::clock_gettime(clock, &used) != 0) return 0;
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

bool WorkerThread::IsCurrent() const { return std::this_thread::get_id() == thread_.get_id(); }

void WorkerThread::Woken(bool) {
  absl::MutexLock lock(&mutex_);
  alarm_set_ = false;
}

bool WorkerThread::AwaitTasks(std::vector<Task>* tasks) {
  absl::MutexLock lock(&mutex_);
  const auto awake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !queue_.empty() || stopping_;
  };
  if (timed_.empty()) {
    mutex_.Await(absl::Condition(&awake));
  } else {
    mutex_.AwaitWithTimeout(
        absl::Condition(&awake),
        absl::FromChrono(timed_.begin()->first - std::chrono::steady_clock::now()));
  }
  tasks->swap(queue_);
  TakeDue(tasks);
  return !tasks->empty() || !stopping_;
}

void WorkerThread::AwaitTag() {
  {
    absl::MutexLock lock(&mutex_);
    if (!queue_.empty()) return;
    sleeps_in_grpc_ = true;
  }
  void* tag = nullptr;
  bool ok = false;
  bool got = false;
  if (timed_.empty()) {
    got = grpc_queue_->Next(&tag, &ok);
  } else {
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(
        timed_.begin()->first - std::chrono::steady_clock::now());
    const gpr_timespec until =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(left.count(), GPR_TIMESPAN));
    got = grpc_queue_->AsyncNext(&tag, &ok, until) == grpc::CompletionQueue::GOT_EVENT;
  }
  {
    absl::MutexLock lock(&mutex_);
    sleeps_in_grpc_ = false;
  }
  if (got) static_cast<QueueTag*>(tag)->Done(ok);
}

bool WorkerThread::NextTasks(std::vector<Task>* tasks) {
  if (grpc_queue_ == nullptr) return AwaitTasks(tasks);
  AwaitTag();
  RunReadyTags(grpc_queue_, kTagsOfACycle);
  absl::MutexLock lock(&mutex_);
  tasks->swap(queue_);
  TakeDue(tasks);
  return true;
}

void WorkerThread::Run() {
  std::vector<Task> tasks;
  while (NextTasks(&tasks)) {
    for (Task& task : tasks) task();
    tasks.clear();
    end_of_cycle_();
  }
}

}  // namespace tessera::sds
