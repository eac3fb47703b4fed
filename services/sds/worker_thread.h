// One thread that runs tasks in the order posted, in cycles: all tasks that have gathered, then the
// end-of- cycle hook. Under load cycles grow by themselves, and what the hook does once serves them
// all.
//
// Bounded by its users: stream windows bound the IO that can be queued, control tasks are waited
// for.
//
// Threads: Post and RunAndWait from any; RunAndWait not from the thread itself.
#ifndef TESSERA_SERVICES_SDS_WORKER_THREAD_H_
#define TESSERA_SERVICES_SDS_WORKER_THREAD_H_

#include <cstddef>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"

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
  // Posts and waits until the task has run; false once stopped.
  bool RunAndWait(Task task);
  // Runs what is queued, ends the thread. Idempotent.
  void Stop();

  [[nodiscard]] size_t queued() const;
  [[nodiscard]] bool IsCurrent() const { return std::this_thread::get_id() == thread_.get_id(); }

 private:
  void Run();

  std::function<void()> end_of_cycle_;
  mutable absl::Mutex mutex_;
  std::vector<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = true;
  std::thread thread_;  // Start and Stop only
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_WORKER_THREAD_H_
