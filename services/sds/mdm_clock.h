// MDM time for judging tokens, and whether the MDM can be reached.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_MDM_CLOCK_H_
#define TESSERA_SERVICES_SDS_MDM_CLOCK_H_

#include <atomic>
#include <cstdint>

#include "libtoken/token.h"
#include "services/common/clock.h"

namespace tessera::sds {

class MdmClock {
 public:
  // Heartbeats that may be missed before the MDM counts as unreachable.
  static constexpr uint64_t kMissedHeartbeats = 3;
  // Heartbeats after its return for which grants are still judged as while it was unreachable:
  // clients renew theirs within that time (they try at least every 5 s), and none is refused only
  // because this server heard of the MDM before its client did. Nobody relies on an earlier end: a
  // fence asks this server itself, or waits for the grants' outage expiry.
  static constexpr uint64_t kReturnHeartbeats = 15;

  explicit MdmClock(const Clock* clock) : clock_(clock), estimator_(clock) {}

  // An answer of the MDM to a call sent and received at these boot times.
  void OnAnswer(uint64_t mdm_time_ms, uint64_t sent_boot_nanos, uint64_t received_boot_nanos) {
    estimator_.AddSample(mdm_time_ms, sent_boot_nanos, received_boot_nanos);
    const uint64_t last = last_answer_nanos_.load(std::memory_order_acquire);
    if (last != 0 && received_boot_nanos > last &&
        received_boot_nanos - last > Heartbeats(kMissedHeartbeats)) {
      returned_nanos_.store(received_boot_nanos, std::memory_order_release);
    }
    last_answer_nanos_.store(received_boot_nanos, std::memory_order_release);
  }
  // An answer that an earlier life of this server got, in the same boot of the host: from now on
  // the MDM counts as unreachable, not as never heard of.
  void Restore(const MdmTimeSample& sample, uint64_t heartbeat_interval_ms) {
    if (heartbeat_interval_ms > 0) SetHeartbeatInterval(heartbeat_interval_ms);
    OnAnswer(sample.mdm_time_ms, sample.sent_boot_nanos, sample.received_boot_nanos);
  }
  void SetHeartbeatInterval(uint64_t interval_ms) { interval_ms_ = interval_ms; }

  [[nodiscard]] bool reachable() const {
    const uint64_t last = last_answer_nanos_.load(std::memory_order_acquire);
    if (last == 0) return false;
    return clock_->BootNanos() - last <= Heartbeats(kMissedHeartbeats);
  }
  // How long ago the last answer came.
  [[nodiscard]] uint64_t AgeMillis() const { return estimator_.Now().age_ms; }
  // Before the first answer: time 0, at which no token is valid yet.
  [[nodiscard]] token::MdmTime Now() const {
    const MdmTimeEstimator::Estimate estimate = estimator_.Now();
    if (!estimate.known) return {.earliest_ms = 0, .latest_ms = 0, .mdm_reachable = true};
    return {.earliest_ms = estimate.earliest_ms,
            .latest_ms = estimate.latest_ms,
            .mdm_reachable = reachable() && !returned_lately()};
  }

 private:
  [[nodiscard]] uint64_t Heartbeats(uint64_t count) const {
    return count * interval_ms_.load(std::memory_order_relaxed) * 1'000'000;
  }
  [[nodiscard]] bool returned_lately() const {
    const uint64_t returned = returned_nanos_.load(std::memory_order_acquire);
    return returned != 0 && clock_->BootNanos() - returned < Heartbeats(kReturnHeartbeats);
  }

  const Clock* const clock_;
  MdmTimeEstimator estimator_;
  std::atomic<uint64_t> last_answer_nanos_{0};
  std::atomic<uint64_t> returned_nanos_{0};  // when the first answer after an outage came
  std::atomic<uint64_t> interval_ms_{1000};
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_MDM_CLOCK_H_
