#include "services/sds/sds_metrics.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"

namespace tessera::sds {
namespace {

// "IO_STATUS_STALE_EPOCH" without its prefix, lower case.
std::string Label(const std::string& enum_name, size_t prefix_bytes) {
  return absl::AsciiStrToLower(enum_name.substr(prefix_bytes));
}

}  // namespace

SdsMetrics::SdsMetrics(MetricRegistry* registry) {
  for (size_t i = 0; i < kTypes; ++i) {
    const std::string name = v1::IoOperationType_Name(static_cast<v1::IoOperationType>(i));
    requests[i] = &registry->Counter("tessera_sds_io_requests_total", "IO operations answered.",
                                     {{"op", Label(name, sizeof("IO_OPERATION_TYPE_") - 1)}});
  }
  for (size_t i = 0; i < kStatuses; ++i) {
    const std::string name = v1::IoStatus_Name(static_cast<v1::IoStatus>(i));
    results[i] = &registry->Counter("tessera_sds_io_results_total", "IO operations by result.",
                                    {{"status", Label(name, sizeof("IO_STATUS_") - 1)}});
  }
  for (size_t i = 0; i < kRefusals; ++i) {
    const std::string reason(token::RefusalName(static_cast<token::Refusal>(i)));
    refused[i] =
        &registry->Counter("tessera_sds_token_refused_total",
                           "Operations refused because of their token.", {{"reason", reason}});
  }
  read_bytes = &registry->Counter("tessera_sds_read_bytes_total", "Bytes read by clients.");
  write_bytes = &registry->Counter("tessera_sds_write_bytes_total",
                                   "Bytes written, zeroed and trimmed by clients.");
  requests_malformed = &registry->Counter("tessera_sds_requests_malformed_total",
                                          "Messages of the data plane that were no requests.");
  apply_calls =
      &registry->Counter("tessera_sds_store_applies_total", "Batches of changes given to a store.");
  cold_reads = &registry->Counter("tessera_sds_cold_reads_total", "Reads that waited for a disk.");
  map_refused = &registry->Counter("tessera_sds_map_entries_refused_total",
                                   "Map entries with a wrong signature.");
  chunks_copied = &registry->Counter("tessera_sds_learner_chunks_copied_total",
                                     "Chunks copied from other servers.");
  bytes_copied = &registry->Counter("tessera_sds_learner_copied_bytes_total",
                                    "Bytes copied from other servers.");
  learnings_completed =
      &registry->Counter("tessera_sds_learnings_completed_total", "Replicas brought up to date.");
  learnings_failed = &registry->Counter("tessera_sds_learnings_failed_total",
                                        "Replicas that have to learn again in a new epoch.");
  for (size_t i = 0; i < blocks_found.size(); ++i) {
    const std::string name = v1::CorruptBlockFinder_Name(static_cast<v1::CorruptBlockFinder>(i));
    blocks_found[i] =
        &registry->Counter("tessera_sds_corrupt_blocks_found_total", "Bad blocks found.",
                           {{"by", Label(name, sizeof("CORRUPT_BLOCK_FINDER_") - 1)}});
  }
  blocks_repaired = &registry->Counter("tessera_sds_corrupt_blocks_repaired_total",
                                       "Bad blocks written anew from another replica.");
  blocks_unrepairable = &registry->Counter("tessera_sds_corrupt_blocks_unrepairable_total",
                                           "Bad blocks of which no good copy was found.");
  blocks_different =
      &registry->Counter("tessera_sds_blocks_different_total",
                         "Blocks that differ between replicas at one version of their chunk.");
  scrub_bytes = &registry->Counter("tessera_sds_scrubbed_bytes_total", "Bytes read by scrub.");
  scrub_chunks = &registry->Counter("tessera_sds_scrubbed_chunks_total", "Chunks read by scrub.");
  limit_refused =
      &registry->Counter("tessera_sds_limit_refused_total",
                         "Operations refused because their client exceeds its limits by far.");
  limit_held_seconds =
      &registry->Histogram("tessera_sds_limit_held_seconds",
                           "Time that operations of clients that exceed their limits waited.");
  apply_seconds = &registry->Histogram("tessera_sds_apply_duration_seconds",
                                       "Time of one batch of changes in the store.");
  flush_seconds =
      &registry->Histogram("tessera_sds_flush_duration_seconds", "Time of one shared flush.");
  cold_read_seconds = &registry->Histogram("tessera_sds_cold_read_duration_seconds",
                                           "Time of one read that waited for a disk.");
  queue_seconds = &registry->Histogram("tessera_sds_queue_duration_seconds",
                                       "Time from a message's arrival until a worker took it.");
  open_streams = &registry->Gauge("tessera_sds_open_streams", "Data streams open.");
  in_flight_bytes = &registry->Gauge("tessera_sds_in_flight_bytes",
                                     "Request and reply bytes held for all streams.");
}

uint64_t SdsMetrics::TotalRefused() const {
  double total = 0;
  for (const prometheus::Counter* counter : refused) total += counter->Value();
  return static_cast<uint64_t>(total);
}

void IoTally::Count(v1::IoOperationType type, v1::IoStatus status, uint64_t bytes,
                    uint64_t arrived_nanos) {
  const size_t index = static_cast<size_t>(type) < requests_.size() ? static_cast<size_t>(type) : 0;
  ++requests_[index];
  ++results_[static_cast<size_t>(status)];
  if (!arrivals_.empty() && arrivals_.back().type == index &&
      arrivals_.back().nanos == arrived_nanos) {
    ++arrivals_.back().operations;
  } else {
    arrivals_.push_back({index, arrived_nanos, 1});
  }
  if (status != v1::IO_STATUS_OK) return;
  if (type == v1::IO_OPERATION_TYPE_READ) read_bytes_ += bytes;
  if (type == v1::IO_OPERATION_TYPE_WRITE || type == v1::IO_OPERATION_TYPE_WRITE_ZEROES ||
      type == v1::IO_OPERATION_TYPE_TRIM) {
    write_bytes_ += bytes;
  }
}

void IoTally::PublishAndClear(uint64_t now_nanos, SdsMetrics* metrics) {
  if (empty()) return;
  const auto publish = [](uint64_t count, prometheus::Counter* counter) {
    if (count > 0) counter->Increment(static_cast<double>(count));
  };
  for (size_t i = 0; i < requests_.size(); ++i) publish(requests_[i], metrics->requests[i]);
  for (size_t i = 0; i < results_.size(); ++i) publish(results_[i], metrics->results[i]);
  publish(read_bytes_, metrics->read_bytes);
  publish(write_bytes_, metrics->write_bytes);
  for (const Arrival& arrival : arrivals_) {
    const uint64_t nanos = now_nanos - std::min(now_nanos, arrival.nanos);
    durations_[arrival.type].Observe(nanos / 1000, arrival.operations);
  }
  requests_.fill(0);
  results_.fill(0);
  read_bytes_ = write_bytes_ = 0;
  arrivals_.clear();
}

void ExportIoDurations(MetricRegistry* registry, const std::vector<const IoTally*>& of_threads) {
  for (size_t i = 0; i < SdsMetrics::kTypes; ++i) {
    const auto type = static_cast<v1::IoOperationType>(i);
    std::vector<const ThreadHistogram*> of_type;
    of_type.reserve(of_threads.size());
    for (const IoTally* thread : of_threads) of_type.push_back(&thread->Durations(type));
    ExportHistogram(
        registry, "tessera_sds_io_duration_seconds", "From an operation's arrival to its answer.",
        {{"op", Label(v1::IoOperationType_Name(type), sizeof("IO_OPERATION_TYPE_") - 1)}},
        std::move(of_type));
  }
}

}  // namespace tessera::sds
