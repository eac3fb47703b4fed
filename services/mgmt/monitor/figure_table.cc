#include "services/mgmt/monitor/figure_table.h"

namespace tessera::mgmt {
namespace {

constexpr v1::ComponentKind kAny = v1::COMPONENT_KIND_UNSPECIFIED;
constexpr v1::ComponentKind kMdm = v1::COMPONENT_KIND_MDM;
constexpr v1::ComponentKind kSds = v1::COMPONENT_KIND_SDS;
constexpr v1::ComponentKind kSdc = v1::COMPONENT_KIND_SDC;
constexpr v1::ComponentKind kMgmt = v1::COMPONENT_KIND_MGMT;
constexpr FigureUse kRate = FigureUse::kRate;
constexpr FigureUse kGauge = FigureUse::kGauge;

}  // namespace

const std::vector<FigureRule>& FigureRules() {
  static const std::vector<FigureRule>* const rules = new std::vector<FigureRule>{
      {kAny, "process_cpu_seconds_total", "", kRate, "cpu_cores", kCores},
      {kAny, "process_resident_memory_bytes", "", kGauge, "resident_bytes", kBytes},

      {kSdc, "tessera_sdc_io_requests_total", "op=\"read\"", kRate, "reads_per_second",
       kOperationsPerSecond},
      {kSdc, "tessera_sdc_io_requests_total", "op=\"write\"", kRate, "writes_per_second",
       kOperationsPerSecond},
      {kSdc, "tessera_sdc_io_requests_total", "op=\"flush\"", kRate, "flushes_per_second",
       kOperationsPerSecond},
      {kSdc, "tessera_sdc_io_requests_total", "op=\"trim\"", kRate, "trims_per_second",
       kOperationsPerSecond},
      {kSdc, "tessera_sdc_io_bytes_total", "op=\"read\"", kRate, "read_bytes_per_second",
       kBytesPerSecond},
      {kSdc, "tessera_sdc_io_bytes_total", "op=\"write\"", kRate, "write_bytes_per_second",
       kBytesPerSecond},
      {kSdc, "tessera_sdc_io_errors_total", "", kRate, "errors_per_second", kOperationsPerSecond},
      {kSdc, "tessera_sdc_io_in_flight", "", kGauge, "operations_in_flight", kCount},
      {kSdc, "tessera_sdc_unflushed_bytes", "", kGauge, "unflushed_bytes", kBytes},
      {kSdc, "tessera_sdc_read_retries_total", "", kRate, "read_retries_per_second",
       kOperationsPerSecond},
      {kSdc, "tessera_sdc_limited_requests_total", "", kRate, "limited_per_second",
       kOperationsPerSecond},
      {kSdc, "tessera_sdc_read_cache_used_bytes", "", kGauge, "cache_used_bytes", kBytes},
      {kSdc, "tessera_sdc_read_cache_hits_total", "", kRate, "cache_hits_per_second",
       kOperationsPerSecond},
      {kSdc, "tessera_sdc_read_cache_misses_total", "", kRate, "cache_misses_per_second",
       kOperationsPerSecond},
      {kSdc, "tessera_sdc_nbd_connections", "", kGauge, "connections", kCount},

      {kSds, "tessera_sds_io_requests_total", "op=\"read\"", kRate, "reads_per_second",
       kOperationsPerSecond},
      {kSds, "tessera_sds_io_requests_total", "op=\"write\"", kRate, "writes_per_second",
       kOperationsPerSecond},
      {kSds, "tessera_sds_read_bytes_total", "", kRate, "read_bytes_per_second", kBytesPerSecond},
      {kSds, "tessera_sds_write_bytes_total", "", kRate, "write_bytes_per_second", kBytesPerSecond},
      {kSds, "tessera_sds_token_refused_total", "", kRate, "tokens_refused_per_second",
       kOperationsPerSecond},
      {kSds, "tessera_sds_learner_copied_bytes_total", "", kRate, "copied_bytes_per_second",
       kBytesPerSecond},
      {kSds, "tessera_sds_scrubbed_bytes_total", "", kRate, "scrubbed_bytes_per_second",
       kBytesPerSecond},
      {kSds, "tessera_sds_corrupt_blocks_found_total", "", kGauge, "corrupt_blocks_found", kCount},
      {kSds, "tessera_sds_corrupt_blocks_unrepairable_total", "", kGauge,
       "corrupt_blocks_unrepairable", kCount},
      {kSds, "tessera_device_capacity_bytes", "", kGauge, "capacity_bytes", kBytes},
      {kSds, "tessera_device_used_bytes", "", kGauge, "used_bytes", kBytes},
      {kSds, "tessera_device_failed", "", kGauge, "devices_failed", kCount},
      {kSds, "tessera_device_queue_depth", "", kGauge, "queue_depth", kCount},
      {kSds, "tessera_sds_open_streams", "", kGauge, "connections", kCount},
      {kSds, "tessera_sds_in_flight_bytes", "", kGauge, "in_flight_bytes", kBytes},

      {kMdm, "tessera_mdm_commits_total", "", kRate, "commits_per_second", kOperationsPerSecond},
      {kMdm, "tessera_mdm_tokens_issued_total", "", kRate, "tokens_per_second",
       kOperationsPerSecond},
      {kMdm, "tessera_mdm_grants_renewed_total", "", kRate, "grants_renewed_per_second",
       kOperationsPerSecond},
      {kMdm, "tessera_mdm_heartbeats_total", "", kRate, "heartbeats_per_second",
       kOperationsPerSecond},
      {kMdm, "tessera_mdm_clients_over_limit", "", kGauge, "clients_over_limit", kCount},
      {kMdm, "tessera_mdm_corrupt_blocks_total", "", kGauge, "corrupt_blocks", kCount},

      {kMgmt, "tessera_mgmt_database_bytes", "", kGauge, "database_bytes", kBytes},
      {kMgmt, "tessera_mgmt_event_subscribers", "", kGauge, "watchers", kCount},
  };
  return *rules;
}

const std::vector<PercentileRule>& PercentileRules() {
  static const std::vector<PercentileRule>* const rules = new std::vector<PercentileRule>{
      {kSdc, "tessera_sdc_io_duration_seconds", "op=\"read\"", "read_latency_p50_micros",
       "read_latency_p99_micros"},
      {kSdc, "tessera_sdc_io_duration_seconds", "op=\"write\"", "write_latency_p50_micros",
       "write_latency_p99_micros"},
      {kSdc, "tessera_sdc_io_duration_seconds", "op=\"flush\"", "flush_latency_p50_micros",
       "flush_latency_p99_micros"},
      {kSds, "tessera_sds_io_duration_seconds", "op=\"read\"", "read_latency_p50_micros",
       "read_latency_p99_micros"},
      {kSds, "tessera_sds_io_duration_seconds", "op=\"write\"", "write_latency_p50_micros",
       "write_latency_p99_micros"},
      {kSds, "tessera_sds_apply_duration_seconds", "", "apply_latency_p50_micros",
       "apply_latency_p99_micros"},
      {kSds, "tessera_sds_flush_duration_seconds", "", "flush_latency_p50_micros",
       "flush_latency_p99_micros"},
      {kSds, "tessera_sds_cold_read_duration_seconds", "", "cold_read_latency_p50_micros",
       "cold_read_latency_p99_micros"},
      {kSds, "tessera_sds_queue_duration_seconds", "", "queue_latency_p50_micros",
       "queue_latency_p99_micros"},
      {kMdm, "tessera_mdm_commit_duration_seconds", "", "commit_latency_p50_micros",
       "commit_latency_p99_micros"},
  };
  return *rules;
}

const std::vector<VolumeRule>& VolumeRules() {
  static const std::vector<VolumeRule>* const rules = new std::vector<VolumeRule>{
      {"tessera_volume_io_requests_total", "read", "reads_per_second", kOperationsPerSecond},
      {"tessera_volume_io_requests_total", "write", "writes_per_second", kOperationsPerSecond},
      {"tessera_volume_io_bytes_total", "read", "read_bytes_per_second", kBytesPerSecond},
      {"tessera_volume_io_bytes_total", "write", "write_bytes_per_second", kBytesPerSecond},
  };
  return *rules;
}

FigureName SplitName(std::string_view name) {
  const size_t brace = name.find('{');
  if (brace == std::string_view::npos || name.back() != '}') return {name, ""};
  return {name.substr(0, brace), name.substr(brace + 1, name.size() - brace - 2)};
}

std::string_view LabelValue(std::string_view labels, std::string_view label) {
  size_t at = 0;
  while (at < labels.size()) {
    const size_t equals = labels.find("=\"", at);
    if (equals == std::string_view::npos) return "";
    const size_t end = labels.find('"', equals + 2);
    if (end == std::string_view::npos) return "";
    if (labels.substr(at, equals - at) == label) return labels.substr(equals + 2, end - equals - 2);
    at = end + 2;  // the comma, too
  }
  return "";
}

bool IsForRules(std::string_view metric) {
  return !metric.starts_with("tessera_grpc_server_") && !metric.starts_with("tessera_volume_") &&
         metric != "tessera_build_info";
}

}  // namespace tessera::mgmt
