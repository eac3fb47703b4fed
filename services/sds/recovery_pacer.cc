#include "services/sds/recovery_pacer.h"

#include <algorithm>

namespace tessera::sds {
namespace {

constexpr double kRise = 1.15;      // with clients that do not suffer
constexpr double kRiseAlone = 1.5;  // without clients
constexpr double kFall = 0.7;
constexpr double kSuffering = 1.5;
constexpr double kMeasureShare = 0.2;  // of a new window in the measure
// Clients that were never seen alone: what a server on a disk that is not a bottleneck takes.
constexpr double kUnknownMeasureNanos = 500'000;

}  // namespace

void RecoveryPacer::CloseWindow(uint64_t now_nanos) {
  if (now_nanos - window_began_ < rules_.window_nanos) return;
  const double mean =
      operations_ == 0 ? 0 : static_cast<double>(sum_nanos_) / static_cast<double>(operations_);
  // Copying takes a moment to be felt, and to be over.
  const bool beside = copied_ || copied_before_;
  if (!beside && operations_ > 0) {
    measure_nanos_ =
        measure_nanos_ == 0 ? mean : measure_nanos_ + (mean - measure_nanos_) * kMeasureShare;
  }
  if (copied_) {
    const double measure = measure_nanos_ == 0 ? kUnknownMeasureNanos : measure_nanos_;
    const bool suffering =
        mean > measure * kSuffering + static_cast<double>(rules_.tolerance_nanos);
    rate_ *= operations_ == 0 ? kRiseAlone : suffering ? kFall : kRise;
    rate_ = std::clamp(rate_, static_cast<double>(rules_.floor_bytes_per_second),
                       static_cast<double>(rules_.ceiling_bytes_per_second));
  }
  copied_before_ = copied_;
  copied_ = false;
  operations_ = sum_nanos_ = 0;
  window_began_ = now_nanos;
}

void RecoveryPacer::Observe(uint64_t operations, uint64_t sum_nanos, uint64_t now_nanos) {
  absl::MutexLock lock(&mutex_);
  operations_ += operations;
  sum_nanos_ += sum_nanos;
  CloseWindow(now_nanos);
}

uint64_t RecoveryPacer::Reserve(uint64_t bytes, uint64_t now_nanos) {
  absl::MutexLock lock(&mutex_);
  CloseWindow(now_nanos);
  copied_ = true;
  const uint64_t begin = std::max(free_at_, now_nanos);
  free_at_ = begin + static_cast<uint64_t>(1e9 * static_cast<double>(bytes) / rate_);
  return begin - now_nanos;
}

uint64_t RecoveryPacer::bytes_per_second() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<uint64_t>(rate_);
}

}  // namespace tessera::sds
