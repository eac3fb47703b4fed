// Limits operations and bytes a second by two token buckets (the mapping's limits, from the grant).
//
// A request passes when neither bucket is in debt, then takes what it needs, going into debt if it
// must: so a request larger than a bucket passes too, and the average holds. Time is passed in
// (boot time, nanoseconds).
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_RULES_RATE_LIMITER_H_
#define TESSERA_SERVICES_SDC_RULES_RATE_LIMITER_H_

#include <algorithm>
#include <cstdint>

namespace tessera::sdc {

struct RateLimits {
  uint64_t operations_per_second = 0;  // 0: none
  uint64_t bytes_per_second = 0;       // 0: none
  uint32_t burst_seconds = 1;          // how much may be saved up; 0 means 1

  friend bool operator==(const RateLimits&, const RateLimits&) = default;
};

class RateLimiter {
 public:
  // Starts with full buckets.
  void Configure(const RateLimits& limits, uint64_t now_nanos);
  [[nodiscard]] bool unlimited() const {
    return limits_.operations_per_second == 0 && limits_.bytes_per_second == 0;
  }
  // 0: the request passes and is counted. Else the nanoseconds until it is worth asking again.
  [[nodiscard]] uint64_t Pass(uint64_t size_bytes, uint64_t now_nanos);

 private:
  struct Bucket {
    double level = 0;  // below 0: in debt
    double rate = 0;   // a second; 0: no limit
    double most = 0;

    void Fill(double seconds) { level = std::min(most, level + rate * seconds); }
    [[nodiscard]] double SecondsInDebt() const { return rate > 0 && level < 0 ? -level / rate : 0; }
  };

  RateLimits limits_;
  Bucket operations_;
  Bucket bytes_;
  uint64_t filled_nanos_ = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RULES_RATE_LIMITER_H_
