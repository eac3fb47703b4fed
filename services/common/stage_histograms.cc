#include "services/common/stage_histograms.h"

#include <utility>

#include "absl/strings/ascii.h"

namespace tessera {

std::string StageLabel(v1::LatencyStage stage) {
  return absl::AsciiStrToLower(v1::LatencyStage_Name(stage).substr(sizeof("LATENCY_STAGE_") - 1));
}

void ExportStages(MetricRegistry* registry, const std::string& name, const std::string& help,
                  std::span<const v1::LatencyStage> stages,
                  const std::vector<const StageHistograms*>& of_threads) {
  for (const v1::LatencyStage stage : stages) {
    std::vector<const ThreadHistogram*> of_stage;
    of_stage.reserve(of_threads.size());
    for (const StageHistograms* thread : of_threads) of_stage.push_back(&thread->Of(stage));
    ExportHistogram(registry, name, help, {{"stage", StageLabel(stage)}}, std::move(of_stage));
  }
}

}  // namespace tessera
