#include "services/common/clock.h"

#include <time.h>

namespace tessera {
namespace {

constexpr uint64_t kDriftPartsPerMillion = 500;

uint64_t Nanos(clockid_t id) {
  timespec now{};
  clock_gettime(id, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

uint64_t SystemClock::WallMillis() const { return Nanos(CLOCK_REALTIME) / 1'000'000; }
uint64_t SystemClock::BootNanos() const { return Nanos(CLOCK_BOOTTIME); }

void MdmTimeEstimator::AddSample(uint64_t mdm_time_ms, uint64_t sent_boot_nanos,
                                 uint64_t received_boot_nanos) {
  sequence_.fetch_add(1, std::memory_order_acq_rel);
  mdm_time_ms_.store(mdm_time_ms, std::memory_order_release);
  sent_nanos_.store(sent_boot_nanos, std::memory_order_release);
  received_nanos_.store(received_boot_nanos, std::memory_order_release);
  sequence_.fetch_add(1, std::memory_order_acq_rel);
}

MdmTimeEstimator::Estimate MdmTimeEstimator::Now() const {
  for (;;) {
    const uint64_t before = sequence_.load(std::memory_order_acquire);
    if (before % 2 != 0) continue;
    const uint64_t mdm_ms = mdm_time_ms_.load(std::memory_order_acquire);
    const uint64_t sent = sent_nanos_.load(std::memory_order_acquire);
    const uint64_t received = received_nanos_.load(std::memory_order_acquire);
    if (sequence_.load(std::memory_order_acquire) != before) continue;
    if (before == 0) return {};
    const uint64_t now = clock_->BootNanos();
    const uint64_t since_sent = now > sent ? now - sent : 0;
    const uint64_t since_received = now > received ? now - received : 0;
    const uint64_t drift_ms = since_sent * kDriftPartsPerMillion / 1'000'000 / 1'000'000;
    Estimate estimate;
    estimate.known = true;
    estimate.age_ms = since_received / 1'000'000;
    const uint64_t earliest = mdm_ms + since_received / 1'000'000;
    estimate.earliest_ms = earliest > drift_ms ? earliest - drift_ms : 0;
    estimate.latest_ms = mdm_ms + since_sent / 1'000'000 + drift_ms + 1;
    return estimate;
  }
}

}  // namespace tessera
