// Durations of the stages of IO, added up by the one thread that does the work.
//
// Threads: Observe by one thread; everything else by any. No locks on the way of the data.
#ifndef TESSERA_SERVICES_COMMON_STAGE_HISTOGRAMS_H_
#define TESSERA_SERVICES_COMMON_STAGE_HISTOGRAMS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "services/common/metrics.h"
#include "services/common/thread_histogram.h"
#include "tessera/v1/latency.pb.h"

namespace tessera {

inline constexpr size_t kLatencyStages = v1::LatencyStage_ARRAYSIZE;

class StageHistograms {
 public:
  // `times` operations had this.
  void Observe(v1::LatencyStage stage, uint64_t micros, uint64_t times = 1) {
    stages_[static_cast<size_t>(stage)].Observe(micros, times);
  }
  [[nodiscard]] const ThreadHistogram& Of(v1::LatencyStage stage) const {
    return stages_[static_cast<size_t>(stage)];
  }

 private:
  std::array<ThreadHistogram, kLatencyStages> stages_;
};

// "LATENCY_STAGE_QOS_WAIT" is "qos_wait".
[[nodiscard]] std::string StageLabel(v1::LatencyStage stage);

// The sums of several threads' histograms as the metric `name` with the label `stage`. They must
// outlive the registry's last scrape.
void ExportStages(MetricRegistry* registry, const std::string& name, const std::string& help,
                  std::span<const v1::LatencyStage> stages,
                  const std::vector<const StageHistograms*>& of_threads);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_STAGE_HISTOGRAMS_H_
