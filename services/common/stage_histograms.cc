#include "services/common/stage_histograms.h"

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/synchronization/mutex.h"

namespace tessera {
namespace {

// There is one writer.
void Add(std::atomic<uint64_t>* counter, uint64_t amount) {
  counter->store(counter->load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

// What a scrape has shown of a stage.
struct Shown {
  v1::LatencyStage stage = v1::LATENCY_STAGE_UNSPECIFIED;
  prometheus::Histogram* histogram = nullptr;
  StageHistograms::Totals totals;
};

struct Exported {
  absl::Mutex mutex;
  std::vector<const StageHistograms*> of_threads;
  std::vector<Shown> stages ABSL_GUARDED_BY(mutex);

  void Collect() {
    absl::MutexLock lock(&mutex);
    for (Shown& shown : stages) {
      StageHistograms::Totals now;
      for (const StageHistograms* thread : of_threads) {
        const StageHistograms::Totals one = thread->Get(shown.stage);
        for (size_t i = 0; i < now.counts.size(); ++i) now.counts[i] += one.counts[i];
        now.sum_micros += one.sum_micros;
      }
      std::vector<double> increments;
      for (size_t i = 0; i < now.counts.size(); ++i) {
        increments.push_back(static_cast<double>(now.counts[i] - shown.totals.counts[i]));
      }
      shown.histogram->ObserveMultiple(
          increments, static_cast<double>(now.sum_micros - shown.totals.sum_micros) * 1e-6);
      shown.totals = now;
    }
  }
};

}  // namespace

void StageHistograms::Observe(v1::LatencyStage stage, uint64_t micros, uint64_t times) {
  Stage& to = stages_[static_cast<size_t>(stage)];
  size_t bucket = 0;
  while (bucket < kBoundsMicros.size() && micros > kBoundsMicros[bucket]) ++bucket;
  // The sum first: a scrape in between shows no operation without its time.
  Add(&to.sum_micros, micros * times);
  Add(&to.counts[bucket], times);
}

StageHistograms::Totals StageHistograms::Get(v1::LatencyStage stage) const {
  const Stage& from = stages_[static_cast<size_t>(stage)];
  Totals totals;
  for (size_t i = 0; i < kBuckets; ++i) {
    totals.counts[i] = from.counts[i].load(std::memory_order_relaxed);
  }
  totals.sum_micros = from.sum_micros.load(std::memory_order_relaxed);
  return totals;
}

std::string StageLabel(v1::LatencyStage stage) {
  return absl::AsciiStrToLower(v1::LatencyStage_Name(stage).substr(sizeof("LATENCY_STAGE_") - 1));
}

void ExportStages(MetricRegistry* registry, const std::string& name, const std::string& help,
                  std::span<const v1::LatencyStage> stages,
                  std::vector<const StageHistograms*> of_threads) {
  auto exported = std::make_shared<Exported>();
  exported->of_threads = std::move(of_threads);
  {
    absl::MutexLock lock(&exported->mutex);
    for (const v1::LatencyStage stage : stages) {
      Shown& shown = exported->stages.emplace_back();
      shown.stage = stage;
      shown.histogram = &registry->Histogram(name, help, {{"stage", StageLabel(stage)}});
    }
  }
  registry->AddCollector([exported] { exported->Collect(); });
}

}  // namespace tessera
