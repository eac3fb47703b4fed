#include "services/sds/worker_thread.h"

#include <pthread.h>

#include <utility>

#include "absl/synchronization/notification.h"

namespace tessera::sds {

void WorkerThread::Start(const std::string& name, std::function<void()> end_of_cycle) {
  end_of_cycle_ = std::move(end_of_cycle);
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = false;
  }
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), name.substr(0, 15).c_str());
}

bool WorkerThread::Post(Task task) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return false;
  queue_.push_back(std::move(task));
  return true;
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

size_t WorkerThread::queued() const {
  absl::MutexLock lock(&mutex_);
  return queue_.size();
}

void WorkerThread::Run() {
  std::vector<Task> tasks;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      const auto awake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return !queue_.empty() || stopping_;
      };
      mutex_.Await(absl::Condition(&awake));
      if (queue_.empty()) return;
      tasks.swap(queue_);
    }
    for (Task& task : tasks) task();
    tasks.clear();
    end_of_cycle_();
  }
}

}  // namespace tessera::sds
