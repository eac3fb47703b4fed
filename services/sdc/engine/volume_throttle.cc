// The limits of a volume: requests wait here, before anything is done for them, in the order in
// which they came (docs/volumes/qos.md).
#include <algorithm>
#include <utility>

#include "services/sdc/engine/volume_engine.h"
#include "services/sdc/rules/request_cost.h"

namespace tessera::sdc {

void VolumeEngine::AdoptLimits() {
  if (context_.options().ignore_limits) return;
  limiter_.Configure({static_cast<double>(grant_.fields.iops_limit),
                      static_cast<double>(grant_.fields.bandwidth_limit_bytes),
                      static_cast<double>(std::max<uint32_t>(1, grant_.fields.burst_seconds))},
                     context_.NowNanos());
  // What waits may wait less now.
  if (std::exchange(throttle_timer_set_, false)) context_.loop().Cancel(throttle_timer_);
  AdmitThrottled();
}

void VolumeEngine::Throttle(Request* request) {
  throttled_.push_back(request);
  AdmitThrottled();
  if (throttled_.empty() || throttled_.back() != request) return;
  request->limited = true;
  context_.counters().limited.Add();
  stats_.limited.Add();
}

void VolumeEngine::AdmitThrottled() {
  while (!throttled_.empty()) {
    Request* request = throttled_.front();
    const uint64_t now = context_.NowNanos();
    const IoCost cost =
        RequestCost(request->block.command, request->range, grant_.fields.chunk_bytes);
    const uint64_t wait = limiter_.Pass(cost, now);
    if (wait > 0) {
      if (!std::exchange(throttle_timer_set_, true)) {
        throttle_timer_ = context_.loop().After(std::chrono::nanoseconds(wait), [this] {
          throttle_timer_set_ = false;
          AdmitThrottled();
        });
      }
      return;
    }
    throttled_.pop_front();
    request->admitted_nanos = now;
    WaitEnded(request, v1::LATENCY_STAGE_QOS_WAIT, now);
    if (std::exchange(request->limited, false)) {
      const uint64_t micros = (now - request->started_nanos) / 1000;
      context_.counters().limited_wait_micros.Add(micros);
      stats_.limited_wait_micros.Add(micros);
    }
    EnterGate(request);
  }
}

}  // namespace tessera::sdc
