#include "services/sds/recovery_pacer.h"

#include <algorithm>

namespace tessera::sds {
namespace {

constexpr double kRiseAlone = 1.5;    // a window without clients
constexpr double kRiseQuiet = 1.006;  // a window without slow operations, however few there were
constexpr double kRiseSearch = 1.05;  // a window before clients have felt anything
constexpr uint64_t kForgottenNanos = 10'000'000'000;  // without copying: what is felt is found anew
constexpr double kFall = 0.97;                        // a slow operation
constexpr double kFallMost = 0.7;  // a window: one stall meets all that are under way
constexpr double kSlowShare = 0.001;
constexpr double kRise = 1 + (1 - kFall) * kSlowShare / (1 - kSlowShare);  // another operation
// Steps of the measure: at the 99th percentile they balance.
constexpr double kMeasureUp = 0.099;
constexpr double kMeasureDown = 0.001;
constexpr double kMeasureLeastNanos = 20'000;
constexpr double kMeasureMostNanos = 10e9;

}  // namespace

void RecoveryPacer::Scale(double factor) {
  rate_ = std::clamp(rate_ * factor, static_cast<double>(rules_.floor_bytes_per_second),
                     static_cast<double>(rules_.ceiling_bytes_per_second));
}

void RecoveryPacer::Measure(uint64_t nanos) {
  const bool above = static_cast<double>(nanos) > measure_nanos_;
  measure_nanos_ = std::clamp(measure_nanos_ * (above ? 1 + kMeasureUp : 1 - kMeasureDown),
                              kMeasureLeastNanos, kMeasureMostNanos);
}

uint64_t RecoveryPacer::SlowNanos() const {
  return static_cast<uint64_t>(measure_nanos_ * 2) + rules_.tolerance_nanos;
}

void RecoveryPacer::CloseWindow(uint64_t now_nanos) {
  if (now_nanos - window_began_ < rules_.window_nanos) return;
  if (!copied_ && now_nanos - last_copied_ > kForgottenNanos) searching_ = true;
  if (copied_) {
    last_copied_ = now_nanos;
    // One slow operation may be chance.
    if (slow_ > 1) searching_ = false;
    double factor = kRiseAlone;
    if (operations_ > 0) {
      factor = slow_ == 0 ? (searching_ ? kRiseSearch : kRiseQuiet) : 1;
      for (uint64_t i = 0; i < operations_ - slow_; ++i) factor *= kRise;
      for (uint64_t i = 0; i < slow_ && factor > kFallMost; ++i) factor *= kFall;
    }
    Scale(std::clamp(factor, kFallMost, kRiseAlone));
  }
  copied_before_ = copied_;
  copied_ = false;
  operations_ = slow_ = 0;
  window_began_ = now_nanos;
}

void RecoveryPacer::Observe(std::span<const uint64_t> arrived_nanos, uint64_t now_nanos) {
  absl::MutexLock lock(&mutex_);
  CloseWindow(now_nanos);
  // Copying takes a moment to be felt, and to be over.
  const bool alone = !copied_ && !copied_before_;
  const uint64_t slow = SlowNanos();
  for (const uint64_t arrived : arrived_nanos) {
    const uint64_t took = now_nanos > arrived ? now_nanos - arrived : 0;
    if (alone) Measure(took);
    if (took > slow) ++slow_;
  }
  operations_ += arrived_nanos.size();
}

uint64_t RecoveryPacer::Reserve(Direction direction, uint64_t bytes, uint64_t now_nanos) {
  absl::MutexLock lock(&mutex_);
  CloseWindow(now_nanos);
  copied_ = true;
  uint64_t& free_at = free_at_[static_cast<size_t>(direction)];
  const uint64_t begin = std::max(free_at, now_nanos);
  free_at = begin + static_cast<uint64_t>(1e9 * static_cast<double>(bytes) / rate_);
  return begin - now_nanos;
}

uint64_t RecoveryPacer::bytes_per_second() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<uint64_t>(rate_);
}

uint64_t RecoveryPacer::slow_nanos() const {
  absl::MutexLock lock(&mutex_);
  return SlowNanos();
}

}  // namespace tessera::sds
