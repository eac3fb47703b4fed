// Metrics: one registry for a process, named tessera_<part>_<what>_<unit>, served as Prometheus
// text.
//
// References that Counter, Gauge and Histogram return stay valid for the registry's life: look them
// up once, not for each event. A histogram costs a mutex: the data path adds up in its own thread
// and observes in batches.
//
// Threads: any.
#ifndef TESSERA_SERVICES_COMMON_METRICS_H_
#define TESSERA_SERVICES_COMMON_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

namespace v1 {
class GetStatusResponse;
}

// Upper bounds in seconds for IO and RPC durations: 50 us to 10 s.
[[nodiscard]] const std::vector<double>& DurationBuckets();

class MetricRegistry {
 public:
  // `component` ("mdm", "sds", …) labels tessera_build_info; process_* figures are added at each
  // scrape.
  explicit MetricRegistry(const std::string& component);
  ~MetricRegistry();

  using Labels = std::map<std::string, std::string>;
  prometheus::Counter& Counter(const std::string& name, const std::string& help,
                               const Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help,
                           const Labels& labels = {});
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   const Labels& labels = {},
                                   const std::vector<double>& buckets = DurationBuckets());
  // Called before each scrape, to set gauges from other counters.
  void AddCollector(std::function<void()> collect);

  // Prometheus text format 0.0.4.
  [[nodiscard]] std::string Text();
  // Name (with labels) and value of every counter and gauge, and of histograms' sums and counts.
  [[nodiscard]] std::vector<std::pair<std::string, double>> Figures();

  // How a histogram's observations are distributed.
  struct Distribution {
    std::string name;            // with labels
    std::vector<double> bounds;  // growing; one more bucket takes the rest
    std::vector<uint64_t> cumulative_counts;
  };
  // The histograms of these families, in name order. Collectors don't run: what they set is as
  // Figures() or Text() found it last.
  [[nodiscard]] std::vector<Distribution> Histograms(const std::vector<std::string>& families);

 private:
  [[nodiscard]] std::vector<prometheus::MetricFamily> Collect();

  absl::Mutex mutex_;
  prometheus::Registry registry_;
  std::map<std::string, prometheus::Family<prometheus::Counter>*> counters_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, prometheus::Family<prometheus::Gauge>*> gauges_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, prometheus::Family<prometheus::Histogram>*> histograms_
      ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> collectors_ ABSL_GUARDED_BY(mutex_);
};

// Figures(), in name order, and Histograms(families) as an answer of MonitoringService has them.
void AddFigures(MetricRegistry* registry, const std::vector<std::string>& families,
                v1::GetStatusResponse* response);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_METRICS_H_
