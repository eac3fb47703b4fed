// A bound on the bytes that all streams together hold. A stream that finds it exceeded stops
// reading and is told when there is room again; nothing is refused, the network's flow control
// passes the wait on.
//
// Threads: any. Waiters are called without the lock, on the thread that released.
#ifndef TESSERA_SERVICES_SDS_IO_BUDGET_H_
#define TESSERA_SERVICES_SDS_IO_BUDGET_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera::sds {

class IoBudget {
 public:
  explicit IoBudget(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  void Take(uint64_t bytes) { used_bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  void Release(uint64_t bytes) {
    const uint64_t before = used_bytes_.fetch_sub(bytes, std::memory_order_acq_rel);
    if (waiting_.load(std::memory_order_acquire) && before - bytes < limit_bytes_) WakeAll();
  }
  [[nodiscard]] bool HasRoom() const {
    return used_bytes_.load(std::memory_order_acquire) < limit_bytes_;
  }
  // Calls `wake` once, when there is room: at once if there is now.
  void OnRoom(std::function<void()> wake) {
    {
      absl::MutexLock lock(&mutex_);
      waiters_.push_back(std::move(wake));
      waiting_.store(true, std::memory_order_release);
    }
    if (HasRoom()) WakeAll();
  }
  [[nodiscard]] uint64_t used_bytes() const { return used_bytes_.load(std::memory_order_relaxed); }

 private:
  void WakeAll() {
    std::vector<std::function<void()>> waiters;
    {
      absl::MutexLock lock(&mutex_);
      waiters.swap(waiters_);
      waiting_.store(false, std::memory_order_release);
    }
    for (const auto& wake : waiters) wake();
  }

  const uint64_t limit_bytes_;
  std::atomic<uint64_t> used_bytes_{0};
  std::atomic<bool> waiting_{false};
  absl::Mutex mutex_;
  std::vector<std::function<void()>> waiters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_IO_BUDGET_H_
