// The figures of the data path, looked up once.
//
// Threads: any; workers add up a cycle's work and call here once a cycle.
#ifndef TESSERA_SERVICES_SDS_SDS_METRICS_H_
#define TESSERA_SERVICES_SDS_SDS_METRICS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "libtoken/token.h"
#include "services/common/metrics.h"
#include "services/common/thread_histogram.h"
#include "tessera/v1/chunk.pb.h"
#include "tessera/v1/health.pb.h"

namespace tessera::sds {

class SdsMetrics {
 public:
  static constexpr size_t kRefusals = static_cast<size_t>(token::Refusal::kDataMismatch) + 1;
  static constexpr size_t kTypes = v1::IoOperationType_ARRAYSIZE;
  static constexpr size_t kStatuses = v1::IoStatus_ARRAYSIZE;

  explicit SdsMetrics(MetricRegistry* registry);

  // tessera_sds_io_requests_total by operation, _results_total by status.
  std::array<prometheus::Counter*, kTypes> requests{};
  std::array<prometheus::Counter*, kStatuses> results{};
  std::array<prometheus::Counter*, kRefusals> refused{};  // tessera_sds_token_refused_total{reason}
  prometheus::Counter* read_bytes = nullptr;
  prometheus::Counter* write_bytes = nullptr;
  prometheus::Counter* requests_malformed = nullptr;
  prometheus::Counter* apply_calls = nullptr;
  prometheus::Counter* cold_reads = nullptr;
  prometheus::Counter* map_refused = nullptr;
  prometheus::Counter* chunks_copied = nullptr;
  prometheus::Counter* bytes_copied = nullptr;
  prometheus::Counter* learnings_completed = nullptr;
  prometheus::Counter* learnings_failed = nullptr;
  // tessera_sds_corrupt_blocks_found_total by finder (CorruptBlockFinder), and what became of them.
  std::array<prometheus::Counter*, v1::CorruptBlockFinder_ARRAYSIZE> blocks_found{};
  prometheus::Counter* blocks_repaired = nullptr;
  prometheus::Counter* blocks_unrepairable = nullptr;
  prometheus::Counter* blocks_different = nullptr;
  prometheus::Counter* scrub_bytes = nullptr;
  prometheus::Counter* scrub_chunks = nullptr;
  prometheus::Counter* limit_refused = nullptr;
  prometheus::Histogram* limit_held_seconds = nullptr;
  prometheus::Histogram* apply_seconds = nullptr;
  prometheus::Histogram* flush_seconds = nullptr;
  prometheus::Histogram* cold_read_seconds = nullptr;
  prometheus::Histogram* queue_seconds = nullptr;
  prometheus::Gauge* open_streams = nullptr;
  prometheus::Gauge* in_flight_bytes = nullptr;

  [[nodiscard]] uint64_t TotalRefused() const;
};

// A cycle's counts, published at once.
//
// Threads: one at a time; Durations by any.
class IoTally {
 public:
  // An operation that arrived at this boot time is answered.
  void Count(v1::IoOperationType type, v1::IoStatus status, uint64_t bytes, uint64_t arrived_nanos);
  [[nodiscard]] bool empty() const { return arrivals_.empty(); }
  // All that was counted was answered now.
  void PublishAndClear(uint64_t now_nanos, SdsMetrics* metrics);
  // From arrival to answer.
  [[nodiscard]] const ThreadHistogram& Durations(v1::IoOperationType type) const {
    return durations_[static_cast<size_t>(type)];
  }

 private:
  // Of operations that follow each other.
  struct Arrival {
    size_t type;
    uint64_t nanos;
    uint64_t operations;
  };

  std::array<uint64_t, SdsMetrics::kTypes> requests_{};
  std::array<uint64_t, SdsMetrics::kStatuses> results_{};
  uint64_t read_bytes_ = 0;
  uint64_t write_bytes_ = 0;
  std::vector<Arrival> arrivals_;  // bounded by the operations of a cycle
  std::array<ThreadHistogram, SdsMetrics::kTypes> durations_;
};

// tessera_sds_io_duration_seconds by operation. The tallies must outlive the registry's last
// scrape.
void ExportIoDurations(MetricRegistry* registry, const std::vector<const IoTally*>& of_threads);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_SDS_METRICS_H_
