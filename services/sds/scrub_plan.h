// When a device is scrubbed, for whom, and how fast: decisions without disk, network or clock.
//
// Threads: values and pure functions.
#ifndef TESSERA_SERVICES_SDS_SCRUB_PLAN_H_
#define TESSERA_SERVICES_SDS_SCRUB_PLAN_H_

#include <cstdint>
#include <optional>

#include "services/sds/local_state.h"
#include "tessera/v1/scrub.pb.h"

namespace tessera::sds {

// A pass that should run.
struct ScrubWish {
  uint64_t operation_id = 0;  // 0: by schedule
  uint64_t vtree_id = 0;      // 0: all
  friend bool operator==(const ScrubWish&, const ScrubWish&) = default;
};

// What should run now; nullopt: nothing. `record`: what ran last, or began. What was asked for
// comes first; a pass by schedule that has begun goes on while there is a schedule.
[[nodiscard]] std::optional<ScrubWish> WishOf(const v1::ScrubOrder& order,
                                              const ScrubRecord& record, uint64_t now_ms);
// True when the pass that began is the one that is wanted.
[[nodiscard]] bool GoesOn(const ScrubRecord& record, const ScrubWish& wish);

// A pass of nobody in particular is slow enough to take half of its interval; at least this.
inline constexpr uint64_t kScrubRateMin = 1u << 20;
[[nodiscard]] uint64_t ScrubRate(const v1::ScrubOrder& order, const ScrubWish& wish,
                                 uint64_t bytes_total);

// Spreads reads over time: after `bytes` at a rate, when the next may begin.
class ScrubPace {
 public:
  // How long from `now_ms` until the next read.
  [[nodiscard]] uint64_t WaitMillis(uint64_t now_ms) const {
    return next_ms_ > now_ms ? next_ms_ - now_ms : 0;
  }
  void Spend(uint64_t bytes, uint64_t bytes_per_second, uint64_t now_ms);

 private:
  uint64_t next_ms_ = 0;
  uint64_t rest_ = 0;  // bytes * 1,000 not yet worth a millisecond
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_SCRUB_PLAN_H_
