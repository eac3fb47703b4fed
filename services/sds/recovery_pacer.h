// How fast this server copies chunks, as source and as learner, beside its clients: as fast as it
// can while there are none, and with them what they leave, but never less than a floor, so that
// redundancy comes back whatever they do. What it gives and what it takes have the same rate and a
// queue each: a source hands out whole chunks, a learner writes small pieces, and in one queue each
// piece would wait for the chunks of all who copy from here.
//
// What clients notice is the slowest hundredth of their operations, and a mean does not show it: a
// chunk that is copied holds up the two operations that come just then, and leaves hundreds alone.
// So the measure is the time that 99 of 100 operations stay below while nothing is copied, from
// arrival to answer. Beside copying, an operation that takes more than twice that is *slow*. What
// is wanted is that of 1,000 operations not more than five are slow that would not be so anyway:
// then the slowest hundredth is well below twice what it was. That is judged every other second,
// and the rate falls, stays or rises by little, so that it is a steady one and the time left that
// is told from it holds; until clients felt something for the first time it rises fast, and where
// very many are slow it falls at once. Slow disks and full processors show in that time alike.
//
// Pure: time is passed in (boot time, nanoseconds). Threads: any.
#ifndef TESSERA_SERVICES_SDS_RECOVERY_PACER_H_
#define TESSERA_SERVICES_SDS_RECOVERY_PACER_H_

#include <array>
#include <cstdint>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera::sds {

struct RecoveryPaceRules {
  uint64_t floor_bytes_per_second = 6u << 20;
  uint64_t start_bytes_per_second = 6u << 20;
  uint64_t ceiling_bytes_per_second = 4ull << 30;
  uint64_t window_nanos = 100'000'000;
  // An operation is slow above twice the measure and this more.
  uint64_t tolerance_nanos = 100'000;
};

class RecoveryPacer {
 public:
  enum class Direction : uint8_t { kOut, kIn };

  explicit RecoveryPacer(const RecoveryPaceRules& rules = {})
      : rules_(rules),
        rate_(static_cast<double>(rules.start_bytes_per_second)),
        rate_beside_(rate_) {}

  // Client reads and writes that were answered just now: when each arrived. Without those that
  // waited for a sync of the device, which takes its time by itself.
  void Observe(std::span<const uint64_t> arrived_nanos, uint64_t now_nanos);
  // `bytes` are about to be copied: how long to wait before.
  [[nodiscard]] uint64_t Reserve(Direction direction, uint64_t bytes, uint64_t now_nanos);
  // In each direction.
  [[nodiscard]] uint64_t bytes_per_second() const;
  // Above which an operation is slow.
  [[nodiscard]] uint64_t slow_nanos() const;

 private:
  void CloseWindow(uint64_t now_nanos) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Judge(uint64_t now_nanos) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Scale(double factor) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Measure(uint64_t nanos) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] uint64_t SlowNanos() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RecoveryPaceRules rules_;
  mutable absl::Mutex mutex_;
  double rate_ ABSL_GUARDED_BY(mutex_);
  double rate_beside_ ABSL_GUARDED_BY(mutex_);  // the last one beside clients
  // The 99th percentile alone. Clients that were never seen alone: what a server on a disk that is
  // not a bottleneck takes.
  double measure_nanos_ ABSL_GUARDED_BY(mutex_) = 500'000;
  double slow_alone_ ABSL_GUARDED_BY(mutex_) = 0;  // the share that is slow alone

  // The window, a tenth of a second.
  uint64_t window_began_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t operations_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t slow_ ABSL_GUARDED_BY(mutex_) = 0;           // of these
  bool copied_ ABSL_GUARDED_BY(mutex_) = false;         // in this window
  bool copied_before_ ABSL_GUARDED_BY(mutex_) = false;  // in the one before

  // What is judged: windows in which something was copied.
  uint64_t judged_at_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t judge_operations_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t judge_slow_ ABSL_GUARDED_BY(mutex_) = 0;

  bool searching_ ABSL_GUARDED_BY(mutex_) = true;  // nothing was felt yet
  uint64_t last_client_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_copied_ ABSL_GUARDED_BY(mutex_) = 0;
  // By direction: when what was reserved is paid for.
  std::array<uint64_t, 2> free_at_ ABSL_GUARDED_BY(mutex_) = {0, 0};
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_RECOVERY_PACER_H_
