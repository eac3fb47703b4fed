#include "services/common/rate_limiter.h"

#include <utility>

namespace tessera {

void RateLimiter::Bucket::Configure(double new_rate, const RateLimits& limits, bool first) {
  const double old_rate = std::exchange(rate, new_rate);
  most = new_rate * limits.burst_seconds;
  if (first) {
    level = most;
    return;
  }
  if (old_rate == 0 || new_rate == 0) {
    level = 0;
  } else if (level < 0) {
    level = std::max(level, level / old_rate * new_rate);
  } else {
    level = std::min(level, most);
  }
  level = std::min(most, level + std::max(0.0, new_rate - old_rate) * limits.new_seconds);
}

void RateLimiter::Configure(const RateLimits& limits, uint64_t now_nanos) {
  const bool first = !std::exchange(configured_, true);
  if (!first && limits == limits_) return;
  if (first) {
    filled_nanos_ = now_nanos;
  } else {
    Fill(now_nanos);
  }
  limits_ = limits;
  operations_.Configure(limits.operations_per_second, limits, first);
  bytes_.Configure(limits.bytes_per_second, limits, first);
}

void RateLimiter::Fill(uint64_t now_nanos) {
  if (now_nanos <= filled_nanos_) return;
  const double seconds = static_cast<double>(now_nanos - filled_nanos_) * 1e-9;
  operations_.Fill(seconds);
  bytes_.Fill(seconds);
  filled_nanos_ = now_nanos;
}

uint64_t RateLimiter::Wait(uint64_t now_nanos) {
  if (unlimited()) return 0;
  Fill(now_nanos);
  const double wait = std::max(operations_.SecondsInDebt(), bytes_.SecondsInDebt());
  return wait > 0 ? static_cast<uint64_t>(wait * 1e9) + 1 : 0;
}

void RateLimiter::Take(const IoCost& cost) {
  if (operations_.rate > 0) operations_.level -= cost.operations;
  if (bytes_.rate > 0) bytes_.level -= static_cast<double>(cost.bytes);
}

uint64_t RateLimiter::Pass(const IoCost& cost, uint64_t now_nanos) {
  const uint64_t wait = Wait(now_nanos);
  if (wait == 0) Take(cost);
  return wait;
}

bool RateLimiter::Full(uint64_t now_nanos) {
  Fill(now_nanos);
  return operations_.level >= operations_.most && bytes_.level >= bytes_.most;
}

}  // namespace tessera
