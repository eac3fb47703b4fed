// A histogram of durations that the thread that does the work adds up, without locks on the way of
// the data, and that is shown in Prometheus' at each scrape.
//
// Threads: Observe by one thread; everything else by any.
#ifndef TESSERA_SERVICES_COMMON_THREAD_HISTOGRAM_H_
#define TESSERA_SERVICES_COMMON_THREAD_HISTOGRAM_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "services/common/metrics.h"

namespace tessera {

class ThreadHistogram {
 public:
  // Those of DurationBuckets().
  static constexpr std::array<uint32_t, 17> kBoundsMicros = {
      50,     100,     200,     500,     1'000,     2'000,     5'000,     10'000,    20'000,
      50'000, 100'000, 200'000, 500'000, 1'000'000, 2'000'000, 5'000'000, 10'000'000};
  static constexpr size_t kBuckets = kBoundsMicros.size() + 1;

  // `times` operations took this.
  void Observe(uint64_t micros, uint64_t times = 1);

  struct Totals {
    std::array<uint64_t, kBuckets> counts{};
    uint64_t sum_micros = 0;
  };
  [[nodiscard]] Totals Get() const;

 private:
  std::array<std::atomic<uint64_t>, kBuckets> counts_{};
  std::atomic<uint64_t> sum_micros_{0};
};

// The sum of several threads' histograms as the metric `name`. They must outlive the registry's
// last scrape.
void ExportHistogram(MetricRegistry* registry, const std::string& name, const std::string& help,
                     const MetricRegistry::Labels& labels,
                     std::vector<const ThreadHistogram*> of_threads);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_THREAD_HISTOGRAM_H_
