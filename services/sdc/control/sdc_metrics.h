// The client's Prometheus figures, brought up to date at each scrape from counters that the event
// loop keeps without locks.
//
// Threads: Collect from the registry's scrapes, one at a time.
#ifndef TESSERA_SERVICES_SDC_CONTROL_SDC_METRICS_H_
#define TESSERA_SERVICES_SDC_CONTROL_SDC_METRICS_H_

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
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
  SdcMetrics(MetricRegistry& registry, EventLoop& loop, const Clock& clock, const IoEngine& engine,
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
  // A Prometheus histogram that follows one of ours.
  struct HistogramFollower {
    prometheus::Histogram* histogram = nullptr;
    std::array<uint64_t, kDurationBoundsMicros.size() + 1> seen{};
    uint64_t micros_seen = 0;
    void Set(const DurationCounters& from);
  };
  struct PerCommand {
    Follower requests, errors, bytes;
    HistogramFollower durations;
  };
  struct VolumeSample {
    std::string id, name;
    uint64_t reads, writes, read_bytes, write_bytes, read_micros, write_micros, limited_micros,
        errors, in_flight;
  };
  struct ServerSample {
    std::string id;
    bool connected;
    uint64_t in_flight;
    SdsStream::Counters counters;
  };
  // What only the loop thread may read.
  struct LoopSample {
    std::vector<VolumeSample> volumes;
    std::vector<ServerSample> servers;
  };

  void Collect();
  void CollectCommands() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectClock() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectGrants() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectNbd() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectReadCache(const ReadCache& cache) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] LoopSample SampleLoop() const;
  void CollectVolumes(const std::vector<VolumeSample>& volumes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectServer(const ServerSample& server) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  MetricRegistry& registry_;
  EventLoop& loop_;
  const Clock& clock_;
  const IoEngine& engine_;
  const Attachments& attachments_;
  const MdmLink& link_;
  const NbdServer& nbd_;
  absl::Mutex mutex_;
  std::array<PerCommand, kCommandCount> commands_ ABSL_GUARDED_BY(mutex_);
  // Volumes of which tessera_volume_info says that they are attached, id and name.
  std::set<std::pair<std::string, std::string>> attached_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Follower> followers_ ABSL_GUARDED_BY(mutex_);  // by name and labels
  // `unit`: of the value, in that of the metric.
  void Follow(const std::string& name, const std::string& help, uint64_t value,
              const MetricRegistry::Labels& labels = {}, double unit = 1)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_SDC_METRICS_H_
