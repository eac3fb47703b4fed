// One thread that runs tasks in the order posted, in cycles: all that has gathered, then the
// end-of-cycle hook. Under load cycles grow by themselves, and what the hook does once serves them
// all.
//
// It can wait in a gRPC completion queue and run that queue's tags as well (QueueTag): then what
// arrives from the network is worked on by the thread that received it.
//
// Bounded by its users: stream windows bound the IO that can be queued, control tasks are waited
// for.
//
// Threads: Post and RunAndWait from any; RunAndWait not from the thread itself.
#ifndef TESSERA_SERVICES_SDS_WORKER_THREAD_H_
#define TESSERA_SERVICES_SDS_WORKER_THREAD_H_

#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/grpc_queue.h"

namespace tessera::sds {

class WorkerThread {
 public:
  using Task = absl::AnyInvocable<void()>;

  WorkerThread() = default;
  ~WorkerThread() { Stop(); }
  WorkerThread(const WorkerThread&) = delete;
  WorkerThread& operator=(const WorkerThread&) = delete;

  // `end_of_cycle` runs on the thread after each cycle's tasks.
  void Start(const std::string& name, std::function<void()> end_of_cycle);
  // False once stopped: the task was not taken.
  bool Post(Task task);
  // On the thread itself: runs `task` after `delay`; dropped when it is stopped before.
  void PostAfter(absl::Duration delay, Task task);
  // Posts and waits until the task has run; false once stopped.
  bool RunAndWait(Task task);
  // Runs what is queued, ends the thread. Idempotent. The queue must have been left.
  void Stop();

  // From now on the thread polls `queue`.
  void EnterQueue(grpc::CompletionQueue* queue);
  // Shuts the queue down, runs its last tags, and waits as before. Nothing begins operations on the
  // queue any more, and its server has been shut down. Nothing to do when there is none.
  void LeaveQueue();

  [[nodiscard]] size_t queued() const;
  // CPU time that the thread has used so far; 0 when it does not run.
  [[nodiscard]] double CpuSeconds() const;
  [[nodiscard]] bool IsCurrent() const;

 private:
  void Run();
  // Waits for tasks or tags and runs the tags. False: stopped, and nothing is left.
  bool NextTasks(std::vector<Task>* tasks);
  bool AwaitTasks(std::vector<Task>* tasks);
  // Adds what is due to `tasks`.
  void TakeDue(std::vector<Task>* tasks);
  // Runs one tag, waiting for it as long as no task is posted or due.
  void AwaitTag();
  void Woken(bool ok);

  std::function<void()> end_of_cycle_;
  mutable absl::Mutex mutex_;
  std::vector<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = true;
  bool sleeps_in_grpc_ ABSL_GUARDED_BY(mutex_) = false;  // a task needs an alarm to be seen
  bool alarm_set_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Alarm alarm_;  // set under the mutex; free again when its tag has come
  MemberTag<WorkerThread, &WorkerThread::Woken> woken_{this};
  grpc::CompletionQueue* grpc_queue_ = nullptr;                       // the thread's
  std::multimap<std::chrono::steady_clock::time_point, Task> timed_;  // the thread's
  std::thread thread_;                                                // Start and Stop only
  std::atomic<clockid_t> cpu_clock_{CLOCK_REALTIME};  // of the thread; CLOCK_REALTIME: it never ran
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_WORKER_THREAD_H_
