#include "services/common/metrics.h"

#include <dirent.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "services/common/version.h"
#include "tessera/v1/monitoring.pb.h"

namespace tessera {
namespace {

double OpenDescriptors() {
  double count = 0;
  if (DIR* folder = opendir("/proc/self/fd"); folder != nullptr) {
    while (readdir(folder) != nullptr) ++count;
    closedir(folder);
  }
  return std::max(0.0, count - 3);  // ".", ".." and the folder itself
}

// The names that Prometheus' client libraries have for these.
void SetProcessFigures(MetricRegistry* registry) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  prometheus::Counter& cpu =
      registry->Counter("process_cpu_seconds_total", "User and system CPU time used.");
  cpu.Increment(std::max(0.0, seconds(usage.ru_utime) + seconds(usage.ru_stime) - cpu.Value()));
  std::ifstream statm("/proc/self/statm");
  uint64_t total = 0;
  uint64_t resident = 0;
  statm >> total >> resident;
  const auto page_bytes = static_cast<double>(sysconf(_SC_PAGESIZE));
  registry->Gauge("process_resident_memory_bytes", "Resident memory.")
      .Set(static_cast<double>(resident) * page_bytes);
  registry->Gauge("process_virtual_memory_bytes", "Address space in use.")
      .Set(static_cast<double>(total) * page_bytes);
  registry->Gauge("process_open_fds", "Open file descriptors.").Set(OpenDescriptors());
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    registry->Gauge("process_max_fds", "How many file descriptors may be open.")
        .Set(static_cast<double>(limit.rlim_cur));
  }
}

std::string LabelText(const std::vector<prometheus::ClientMetric::Label>& labels) {
  if (labels.empty()) return "";
  std::string text = "{";
  for (const auto& label : labels) {
    if (text.size() > 1) text += ",";
    absl::StrAppend(&text, label.name, "=\"", label.value, "\"");
  }
  return text + "}";
}

}  // namespace

const std::vector<double>& DurationBuckets() {
  static const std::vector<double>* const buckets =
      new std::vector<double>{50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3,
                              50e-3, 100e-3, 200e-3, 500e-3, 1,    2,    5,    10};
  return *buckets;
}

MetricRegistry::MetricRegistry(const std::string& component) {
  Gauge("tessera_build_info", "Always 1; the labels say what runs.",
        {{"version", kVersion}, {"component", component}})
      .Set(1);
  Gauge("tessera_process_start_time_seconds", "Start of the process, seconds since the Unix epoch.")
      .Set(static_cast<double>(::time(nullptr)));
}

MetricRegistry::~MetricRegistry() = default;

prometheus::Counter& MetricRegistry::Counter(const std::string& name, const std::string& help,
                                             const Labels& labels) {
  absl::MutexLock lock(&mutex_);
  auto& family = counters_[name];
  if (family == nullptr) {
    family = &prometheus::BuildCounter().Name(name).Help(help).Register(registry_);
  }
  return family->Add(labels);
}

prometheus::Gauge& MetricRegistry::Gauge(const std::string& name, const std::string& help,
                                         const Labels& labels) {
  absl::MutexLock lock(&mutex_);
  auto& family = gauges_[name];
  if (family == nullptr) {
    family = &prometheus::BuildGauge().Name(name).Help(help).Register(registry_);
  }
  return family->Add(labels);
}

prometheus::Histogram& MetricRegistry::Histogram(const std::string& name, const std::string& help,
                                                 const Labels& labels,
                                                 const std::vector<double>& buckets) {
  absl::MutexLock lock(&mutex_);
  auto& family = histograms_[name];
  if (family == nullptr) {
    family = &prometheus::BuildHistogram().Name(name).Help(help).Register(registry_);
  }
  return family->Add(labels, buckets);
}

void MetricRegistry::AddCollector(std::function<void()> collect) {
  absl::MutexLock lock(&mutex_);
  collectors_.push_back(std::move(collect));
}

std::vector<prometheus::MetricFamily> MetricRegistry::Collect() {
  std::vector<std::function<void()>> collectors;
  {
    absl::MutexLock lock(&mutex_);
    collectors = collectors_;
  }
  for (const auto& collect : collectors) collect();
  SetProcessFigures(this);
  return registry_.Collect();
}

std::string MetricRegistry::Text() {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, Collect());
  return out.str();
}

std::vector<std::pair<std::string, double>> MetricRegistry::Figures() {
  std::vector<std::pair<std::string, double>> figures;
  for (const auto& family : Collect()) {
    for (const auto& metric : family.metric) {
      const std::string labels = LabelText(metric.label);
      switch (family.type) {
        case prometheus::MetricType::Counter:
          figures.emplace_back(family.name + labels, metric.counter.value);
          break;
        case prometheus::MetricType::Gauge:
          figures.emplace_back(family.name + labels, metric.gauge.value);
          break;
        case prometheus::MetricType::Histogram:
          figures.emplace_back(family.name + "_sum" + labels, metric.histogram.sample_sum);
          figures.emplace_back(family.name + "_count" + labels,
                               static_cast<double>(metric.histogram.sample_count));
          break;
        default:
          break;
      }
    }
  }
  return figures;
}

std::vector<MetricRegistry::Distribution> MetricRegistry::Histograms(
    const std::vector<std::string>& families) {
  std::vector<prometheus::Family<prometheus::Histogram>*> wanted;
  {
    absl::MutexLock lock(&mutex_);
    for (const std::string& name : families) {
      const auto found = histograms_.find(name);
      if (found != histograms_.end()) wanted.push_back(found->second);
    }
  }
  std::vector<Distribution> distributions;
  for (prometheus::Family<prometheus::Histogram>* histograms : wanted) {
    for (const prometheus::MetricFamily& family : histograms->Collect()) {
      for (const prometheus::ClientMetric& metric : family.metric) {
        Distribution distribution;
        distribution.name = family.name + LabelText(metric.label);
        for (const auto& bucket : metric.histogram.bucket) {
          distribution.cumulative_counts.push_back(bucket.cumulative_count);
          if (distribution.cumulative_counts.size() < metric.histogram.bucket.size()) {
            distribution.bounds.push_back(bucket.upper_bound);
          }
        }
        distributions.push_back(std::move(distribution));
      }
    }
  }
  std::sort(distributions.begin(), distributions.end(),
            [](const Distribution& a, const Distribution& b) { return a.name < b.name; });
  return distributions;
}

void AddFigures(MetricRegistry* registry, const std::vector<std::string>& families,
                v1::GetStatusResponse* response) {
  auto figures = registry->Figures();
  std::sort(figures.begin(), figures.end());
  for (auto& [name, value] : figures) {
    v1::Figure* figure = response->add_figures();
    figure->set_name(std::move(name));
    figure->set_value(value);
  }
  for (MetricRegistry::Distribution& from : registry->Histograms(families)) {
    v1::Histogram* histogram = response->add_histograms();
    histogram->set_name(std::move(from.name));
    histogram->mutable_bounds_seconds()->Add(from.bounds.begin(), from.bounds.end());
    histogram->mutable_cumulative_counts()->Add(from.cumulative_counts.begin(),
                                                from.cumulative_counts.end());
  }
}

}  // namespace tessera
