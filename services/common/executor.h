// A pool of our own threads with a bounded queue. gRPC callbacks hand their work to one of these
// and return, so no logic runs on, and nothing blocks, a gRPC thread.
//
// Threads: Post from any. The destructor runs what is queued, then joins.
#ifndef TESSERA_SERVICES_COMMON_EXECUTOR_H_
#define TESSERA_SERVICES_COMMON_EXECUTOR_H_

#include <cstddef>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

struct ExecutorOptions {
  std::string name = "worker";  // of the threads, at most 15 bytes
  size_t threads = 4;
  size_t queue_limit = 4096;
  bool background = false;  // nobody waits: see thread_priority.h
};

class Executor {
 public:
  using Task = absl::AnyInvocable<void()>;

  explicit Executor(const ExecutorOptions& options);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // False when the queue is full or Shutdown was called: the task was not taken.
  [[nodiscard]] bool Post(Task task);
  // Takes no more, runs what is queued, joins. Idempotent.
  void Shutdown();
  [[nodiscard]] size_t queued() const;

 private:
  void Work();

  const ExecutorOptions options_;
  mutable absl::Mutex mutex_;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  // constructor and Shutdown only
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_EXECUTOR_H_
