// Log-spaced buckets of durations: below 4 one for each microsecond, then four an octave, up to
// about a minute. A percentile that is read from them is at most 25 % too high.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_COMMON_LATENCY_BUCKETS_H_
#define TESSERA_SERVICES_COMMON_LATENCY_BUCKETS_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace tessera {

inline constexpr size_t kLatencyBuckets = 104;

[[nodiscard]] constexpr size_t LatencyBucketOf(uint64_t micros) {
  if (micros < 4) return static_cast<size_t>(micros);
  const auto octave = static_cast<size_t>(std::bit_width(micros)) - 1;
  const auto quarter = static_cast<size_t>(micros >> (octave - 2)) & 3;
  return std::min((octave - 1) * 4 + quarter, kLatencyBuckets - 1);
}

// The largest duration of a bucket; of the last one there is none.
[[nodiscard]] constexpr uint64_t LatencyBucketEnd(size_t bucket) {
  if (bucket + 1 >= kLatencyBuckets) return UINT64_MAX;
  if (bucket < 4) return bucket;
  const size_t octave = bucket / 4 + 1;
  const size_t quarter = bucket % 4;
  return ((uint64_t{5} + quarter) << (octave - 2)) - 1;
}

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_LATENCY_BUCKETS_H_
