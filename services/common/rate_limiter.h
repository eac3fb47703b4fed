// Limits operations and bytes a second by two token buckets (docs/volumes/qos.md).
//
// A request passes when neither bucket is in debt, then takes what it costs, going into debt if it
// must: so a request larger than a bucket passes too, and the average holds. Buckets are full at
// the first configuration only. Time is passed in (boot time, nanoseconds).
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_COMMON_RATE_LIMITER_H_
#define TESSERA_SERVICES_COMMON_RATE_LIMITER_H_

#include <algorithm>
#include <cstdint>

#include "services/common/io_cost.h"

namespace tessera {

struct RateLimits {
  double operations_per_second = 0;  // 0: none
  double bytes_per_second = 0;       // 0: none
  double burst_seconds = 1;          // how much may be saved up
  double new_seconds = 0;            // what a limit that is new, or rose by so much, begins with

  [[nodiscard]] bool unlimited() const {
    return operations_per_second == 0 && bytes_per_second == 0;
  }
  friend bool operator==(const RateLimits&, const RateLimits&) = default;
};

class RateLimiter {
 public:
  // The first time buckets are full. Later nothing is given away but `new_seconds`: what was saved
  // up stays, up to the new limits; a limit that was not there before begins with nothing saved; a
  // debt stays, in what it was made of or in the time until it is paid, whichever is over sooner.
  void Configure(const RateLimits& limits, uint64_t now_nanos);
  [[nodiscard]] const RateLimits& limits() const { return limits_; }
  [[nodiscard]] bool unlimited() const { return limits_.unlimited(); }

  // 0: the request passes and is counted. Else the nanoseconds until it is worth asking again.
  [[nodiscard]] uint64_t Pass(const IoCost& cost, uint64_t now_nanos);
  // Nanoseconds until neither bucket is in debt.
  [[nodiscard]] uint64_t Wait(uint64_t now_nanos);
  // Counts a request in any case: for one that begins after `Wait`.
  void Take(const IoCost& cost);
  // Nothing is known of its past that a new one would not assume as well.
  [[nodiscard]] bool Full(uint64_t now_nanos);

 private:
  struct Bucket {
    double level = 0;  // below 0: in debt
    double rate = 0;   // a second; 0: no limit
    double most = 0;

    void Configure(double new_rate, const RateLimits& limits, bool first);
    void Fill(double seconds) { level = std::min(most, level + rate * seconds); }
    [[nodiscard]] double SecondsInDebt() const { return rate > 0 && level < 0 ? -level / rate : 0; }
  };
  void Fill(uint64_t now_nanos);

  RateLimits limits_;
  Bucket operations_;
  Bucket bytes_;
  bool configured_ = false;
  uint64_t filled_nanos_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_RATE_LIMITER_H_
