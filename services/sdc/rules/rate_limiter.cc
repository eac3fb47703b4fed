#include "services/sdc/rules/rate_limiter.h"

namespace tessera::sdc {

void RateLimiter::Configure(const RateLimits& limits, uint64_t now_nanos) {
  if (limits == limits_) return;
  limits_ = limits;
  const double burst = std::max<uint32_t>(1, limits.burst_seconds);
  const auto make = [burst](uint64_t rate) {
    const auto per_second = static_cast<double>(rate);
    return Bucket{per_second * burst, per_second, per_second * burst};
  };
  operations_ = make(limits.operations_per_second);
  bytes_ = make(limits.bytes_per_second);
  filled_nanos_ = now_nanos;
}

uint64_t RateLimiter::Pass(uint64_t size_bytes, uint64_t now_nanos) {
  if (unlimited()) return 0;
  if (now_nanos > filled_nanos_) {
    const double seconds = static_cast<double>(now_nanos - filled_nanos_) * 1e-9;
    operations_.Fill(seconds);
    bytes_.Fill(seconds);
    filled_nanos_ = now_nanos;
  }
  const double wait = std::max(operations_.SecondsInDebt(), bytes_.SecondsInDebt());
  if (wait > 0) return static_cast<uint64_t>(wait * 1e9) + 1;
  if (operations_.rate > 0) operations_.level -= 1;
  if (bytes_.rate > 0) bytes_.level -= static_cast<double>(size_bytes);
  return 0;
}

}  // namespace tessera::sdc
