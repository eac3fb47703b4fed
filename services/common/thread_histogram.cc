#include "services/common/thread_histogram.h"

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera {
namespace {

void Add(std::atomic<uint64_t>* counter, uint64_t amount) {
  counter->store(counter->load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

class Exported {
 public:
  Exported(prometheus::Histogram* histogram, std::vector<const ThreadHistogram*> of_threads)
      : histogram_(histogram), of_threads_(std::move(of_threads)) {}

  void Collect() {
    absl::MutexLock lock(&mutex_);
    ThreadHistogram::Totals now;
    for (const ThreadHistogram* thread : of_threads_) {
      const ThreadHistogram::Totals one = thread->Get();
      for (size_t i = 0; i < now.counts.size(); ++i) now.counts[i] += one.counts[i];
      now.sum_micros += one.sum_micros;
    }
    std::vector<double> increments;
    increments.reserve(now.counts.size());
    for (size_t i = 0; i < now.counts.size(); ++i) {
      increments.push_back(static_cast<double>(now.counts[i] - shown_.counts[i]));
    }
    histogram_->ObserveMultiple(increments,
                                static_cast<double>(now.sum_micros - shown_.sum_micros) * 1e-6);
    shown_ = now;
  }

 private:
  absl::Mutex mutex_;
  prometheus::Histogram* const histogram_;
  const std::vector<const ThreadHistogram*> of_threads_;
  ThreadHistogram::Totals shown_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

void ThreadHistogram::Observe(uint64_t micros, uint64_t times) {
  size_t bucket = 0;
  while (bucket < kBoundsMicros.size() && micros > kBoundsMicros[bucket]) ++bucket;
  // The sum first: a scrape in between shows no operation without its time.
  Add(&sum_micros_, micros * times);
  Add(&counts_[bucket], times);
}

ThreadHistogram::Totals ThreadHistogram::Get() const {
  Totals totals;
  for (size_t i = 0; i < kBuckets; ++i) {
    totals.counts[i] = counts_[i].load(std::memory_order_relaxed);
  }
  totals.sum_micros = sum_micros_.load(std::memory_order_relaxed);
  return totals;
}

void ExportHistogram(MetricRegistry* registry, const std::string& name, const std::string& help,
                     const MetricRegistry::Labels& labels,
                     std::vector<const ThreadHistogram*> of_threads) {
  const auto exported =
      std::make_shared<Exported>(&registry->Histogram(name, help, labels), std::move(of_threads));
  registry->AddCollector([exported] { exported->Collect(); });
}

}  // namespace tessera
