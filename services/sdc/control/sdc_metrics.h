// The client's Prometheus figures, brought up to date at each scrape from counters that the event
// loop keeps without locks.
//
// Threads: Collect from the registry's scrapes, one at a time.
#ifndef TESSERA_SERVICES_SDC_CONTROL_SDC_METRICS_H_
#define TESSERA_SERVICES_SDC_CONTROL_SDC_METRICS_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/metrics.h"
#include "services/sdc/control/attachments.h"
#include "services/sdc/control/mdm_link.h"
#include "services/sdc/engine/io_engine.h"
#include "services/sdc/nbd/nbd_server.h"

namespace tessera::sdc {

// The label of a command: "read", "write_zeroes", …
[[nodiscard]] std::string_view CommandName(Command command);

class SdcMetrics {
 public:
  // Volumes beyond this many, in id order, have no figures of their own.
  static constexpr size_t kVolumesShown = 256;

  // All must outlive the registry's last scrape.
  SdcMetrics(MetricRegistry& registry, EventLoop& loop, const IoEngine& engine,
             const Attachments& attachments, const MdmLink& link, const NbdServer& nbd);

 private:
  // A Prometheus counter that follows one of ours.
  struct Follower {
    prometheus::Counter* counter = nullptr;
    uint64_t seen = 0;
    void Set(uint64_t value, double unit = 1) {
      if (value > seen) counter->Increment(static_cast<double>(value - seen) * unit);
      seen = value;
    }
  };
  struct PerCommand {
    Follower requests, errors, bytes;
    prometheus::Histogram* durations = nullptr;
    std::vector<double> buckets_seen;
    uint64_t micros_seen = 0;
  };
  struct VolumeSample {
    std::string id;
    uint64_t reads, writes, read_bytes, write_bytes, errors, in_flight;
  };

  void Collect();
  void CollectCommands();
  void CollectVolumes();
  void CollectNbd();
  void CollectReadCache(const ReadCache& cache);

  MetricRegistry& registry_;
  EventLoop& loop_;
  const IoEngine& engine_;
  const Attachments& attachments_;
  const MdmLink& link_;
  const NbdServer& nbd_;
  absl::Mutex mutex_;
  std::array<PerCommand, kCommandCount> commands_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Follower> followers_ ABSL_GUARDED_BY(mutex_);  // by name and labels
  // `unit`: of the value, in that of the metric.
  void Follow(const std::string& name, const std::string& help, uint64_t value,
              const MetricRegistry::Labels& labels = {}, double unit = 1)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_SDC_METRICS_H_
