// How fast this server copies chunks, as source and as learner, beside its clients: as fast as it
// can while there are none, and with them what they leave, but never less than a floor, so that
// redundancy comes back whatever they do.
//
// A control loop over windows of time. Without copying, the clients' mean time from arrival to
// answer becomes the measure. With copying, a window whose mean is clearly above the measure makes
// the rate fall, any other makes it rise. Slow disks and full processors show in that time alike.
//
// Pure: time is passed in (boot time, nanoseconds). Threads: any.
#ifndef TESSERA_SERVICES_SDS_RECOVERY_PACER_H_
#define TESSERA_SERVICES_SDS_RECOVERY_PACER_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera::sds {

struct RecoveryPaceRules {
  uint64_t floor_bytes_per_second = 16u << 20;
  uint64_t start_bytes_per_second = 64u << 20;
  uint64_t ceiling_bytes_per_second = 4ull << 30;
  uint64_t window_nanos = 100'000'000;
  // A window is bad when the mean is above measure * 1.5 + this.
  uint64_t tolerance_nanos = 150'000;
};

class RecoveryPacer {
 public:
  explicit RecoveryPacer(const RecoveryPaceRules& rules = {})
      : rules_(rules), rate_(static_cast<double>(rules.start_bytes_per_second)) {}

  // Client operations that were answered just now, and the sum of their times in this server.
  void Observe(uint64_t operations, uint64_t sum_nanos, uint64_t now_nanos);
  // `bytes` are about to be copied: how long to wait before.
  [[nodiscard]] uint64_t Reserve(uint64_t bytes, uint64_t now_nanos);
  [[nodiscard]] uint64_t bytes_per_second() const;

 private:
  void CloseWindow(uint64_t now_nanos) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RecoveryPaceRules rules_;
  mutable absl::Mutex mutex_;
  double rate_ ABSL_GUARDED_BY(mutex_);
  double measure_nanos_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: clients have not been seen alone
  uint64_t window_began_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t operations_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t sum_nanos_ ABSL_GUARDED_BY(mutex_) = 0;
  bool copied_ ABSL_GUARDED_BY(mutex_) = false;         // in this window
  bool copied_before_ ABSL_GUARDED_BY(mutex_) = false;  // in the one before
  uint64_t free_at_ ABSL_GUARDED_BY(mutex_) = 0;        // when what was reserved is paid for
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_RECOVERY_PACER_H_
