#include "services/sds/recovery_pacer.h"

#include <algorithm>

namespace tessera::sds {
namespace {

constexpr double kRiseAlone = 1.5;  // a window without clients
constexpr uint64_t kAloneNanos = 1'000'000'000;
constexpr uint64_t kForgottenNanos = 10'000'000'000;  // without copying: what is felt is found anew

// Judging: of the share of slow operations that is more than alone.
constexpr uint64_t kJudgeNanos = 2'000'000'000;
constexpr uint64_t kSearchNanos = 1'000'000'000;
constexpr double kShare = 0.005;
constexpr double kRiseSearch = 1.3;  // before clients have felt anything
constexpr double kRise = 1.06;       // below half of it
constexpr double kFall = 0.92;       // above it
constexpr double kFallFar = 0.8;     // above twice of it
// At once: where there are so many in a window, and they are such a part of all.
constexpr uint64_t kAlarmSlow = 10;
constexpr double kAlarmShare = 0.1;
constexpr double kAlarmFall = 0.7;

// Steps of the measure: at the 99th percentile they balance.
constexpr double kMeasureUp = 0.099;
constexpr double kMeasureDown = 0.001;
constexpr double kMeasureLeastNanos = 20'000;
constexpr double kMeasureMostNanos = 10e9;
constexpr double kSlowAloneStep = 0.0005;
constexpr double kSlowAloneMost = 0.01;

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

void RecoveryPacer::Judge(uint64_t now_nanos) {
  judge_operations_ += operations_;
  judge_slow_ += slow_;
  const double share =
      judge_operations_ == 0
          ? 0
          : static_cast<double>(judge_slow_) / static_cast<double>(judge_operations_) - slow_alone_;
  const bool alarm = slow_ >= kAlarmSlow &&
                     static_cast<double>(slow_) > kAlarmShare * static_cast<double>(operations_);
  if (!alarm && now_nanos - judged_at_ < (searching_ ? kSearchNanos : kJudgeNanos)) return;
  if (alarm) {
    searching_ = false;
    Scale(kAlarmFall);
  } else if (share > kShare && judge_slow_ > 1) {  // one may be chance
    searching_ = false;
    Scale(share > 2 * kShare ? kFallFar : kFall);
  } else if (share < kShare / 2) {
    Scale(searching_ ? kRiseSearch : kRise);
  }
  judged_at_ = now_nanos;
  judge_operations_ = judge_slow_ = 0;
}

void RecoveryPacer::CloseWindow(uint64_t now_nanos) {
  if (now_nanos - window_began_ < rules_.window_nanos) return;
  if (operations_ > 0) last_client_ = now_nanos;
  const bool alone = last_client_ == 0 || now_nanos - last_client_ > kAloneNanos;
  if (!copied_ && now_nanos - last_copied_ > kForgottenNanos) searching_ = true;
  if (copied_) last_copied_ = now_nanos;
  if (alone) {
    if (copied_) Scale(kRiseAlone);
    judged_at_ = now_nanos;
    judge_operations_ = judge_slow_ = 0;
  } else {
    // After a time alone it goes on where it was beside clients.
    rate_ = std::min(rate_, rate_beside_);
    if (copied_) Judge(now_nanos);
    rate_beside_ = rate_;
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
    if (alone) {
      Measure(took);
      slow_alone_ = std::min(kSlowAloneMost,
                             slow_alone_ + kSlowAloneStep * ((took > slow ? 1 : 0) - slow_alone_));
    }
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
