// Durations of the stages of IO, added up by the one thread that does the work, and shown in
// Prometheus' histograms at each scrape.
//
// Threads: Observe by one thread; everything else by any. No locks on the way of the data.
#ifndef TESSERA_SERVICES_COMMON_STAGE_HISTOGRAMS_H_
#define TESSERA_SERVICES_COMMON_STAGE_HISTOGRAMS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "services/common/metrics.h"
#include "tessera/v1/latency.pb.h"

namespace tessera {

inline constexpr size_t kLatencyStages = v1::LatencyStage_ARRAYSIZE;

class StageHistograms {
 public:
  // Those of DurationBuckets().
  static constexpr std::array<uint32_t, 17> kBoundsMicros = {
      50,     100,     200,     500,     1'000,     2'000,     5'000,     10'000,    20'000,
      50'000, 100'000, 200'000, 500'000, 1'000'000, 2'000'000, 5'000'000, 10'000'000};
  static constexpr size_t kBuckets = kBoundsMicros.size() + 1;

  // `times` operations had this.
  void Observe(v1::LatencyStage stage, uint64_t micros, uint64_t times = 1);

  struct Totals {
    std::array<uint64_t, kBuckets> counts{};
    uint64_t sum_micros = 0;
  };
  [[nodiscard]] Totals Get(v1::LatencyStage stage) const;

 private:
  struct Stage {
    std::array<std::atomic<uint64_t>, kBuckets> counts{};
    std::atomic<uint64_t> sum_micros{0};
  };
  std::array<Stage, kLatencyStages> stages_;
};

// "LATENCY_STAGE_QOS_WAIT" is "qos_wait".
[[nodiscard]] std::string StageLabel(v1::LatencyStage stage);

// The sums of several threads' histograms as the metric `name` with the label `stage`. They must
// outlive the registry's last scrape.
void ExportStages(MetricRegistry* registry, const std::string& name, const std::string& help,
                  std::span<const v1::LatencyStage> stages,
                  std::vector<const StageHistograms*> of_threads);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_STAGE_HISTOGRAMS_H_
