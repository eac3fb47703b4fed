#include "services/common/latency_explainer.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/common/errors.h"
#include "services/common/latency_buckets.h"

namespace tessera {
namespace {

using Row = v1::LatencyRow;

constexpr double kShareMin = 0.001;

std::tuple<int, int, uint64_t, uint64_t> KeyOf(const Row& row) {
  return {row.operation(), row.stage(), row.sds_id(), row.device_id()};
}

void AddRow(const Row& from, Row* to) {
  std::map<uint32_t, uint64_t> buckets;
  for (const Row* row : {&from, static_cast<const Row*>(to)}) {
    for (int i = 0; i < std::min(row->buckets_size(), row->bucket_counts_size()); ++i) {
      buckets[row->buckets(i)] += row->bucket_counts(i);
    }
  }
  to->clear_buckets();
  to->clear_bucket_counts();
  for (const auto& [bucket, count] : buckets) {
    to->add_buckets(bucket);
    to->add_bucket_counts(count);
  }
  to->set_count(to->count() + from.count());
  to->set_sum_micros(to->sum_micros() + from.sum_micros());
  to->set_least_micros(std::min(to->least_micros(), from.least_micros()));
  to->set_max_micros(std::max(to->max_micros(), from.max_micros()));
}

void MergeRows(const google::protobuf::RepeatedPtrField<Row>& from,
               google::protobuf::RepeatedPtrField<Row>* into) {
  std::map<std::tuple<int, int, uint64_t, uint64_t>, int> places;
  for (int i = 0; i < into->size(); ++i) places.emplace(KeyOf(into->Get(i)), i);
  for (const Row& row : from) {
    const auto [place, is_new] = places.emplace(KeyOf(row), into->size());
    if (is_new) {
      *into->Add() = row;
    } else {
      AddRow(row, into->Mutable(place->second));
    }
  }
}

// So that `part` of the row's times are at most this.
uint64_t Percentile(const Row& row, double part) {
  uint64_t seen = 0;
  for (int i = 0; i < row.buckets_size(); ++i) {
    seen += row.bucket_counts(i);
    if (static_cast<double>(seen) >= part * static_cast<double>(row.count())) {
      return std::min(LatencyBucketEnd(row.buckets(i)), row.max_micros());
    }
  }
  return row.max_micros();
}

double MeanOf(const Row& row) {
  return row.count() == 0
             ? 0
             : static_cast<double>(row.sum_micros()) / static_cast<double>(row.count());
}

// At best nobody waits: what a stage of waiting took at least says nothing.
bool IsWaiting(v1::LatencyStage stage) {
  switch (stage) {
    case v1::LATENCY_STAGE_QOS_WAIT:
    case v1::LATENCY_STAGE_SNAPSHOT_HOLD:
    case v1::LATENCY_STAGE_ORDER_WAIT:
    case v1::LATENCY_STAGE_FLUSH_ROUND:
    case v1::LATENCY_STAGE_RETRY:
    case v1::LATENCY_STAGE_SERVER_QUEUE:
    case v1::LATENCY_STAGE_LIMIT_HELD:
    case v1::LATENCY_STAGE_FLUSH_WAIT:
    case v1::LATENCY_STAGE_SLOWEST_REPLICA:
      return true;
    default:
      return false;
  }
}

uint64_t LeastOf(const Row& row) { return IsWaiting(row.stage()) ? 0 : row.least_micros(); }

// What the row's requests would have taken at best, all together.
double BestOf(const Row& row) {
  return std::min(static_cast<double>(row.sum_micros()),
                  static_cast<double>(row.count()) * static_cast<double>(LeastOf(row)));
}

struct StageWords {
  const char* what;  // "writes <what> .."
  const char* advice;
};

StageWords WordsOf(v1::LatencyStage stage) {
  switch (stage) {
    case v1::LATENCY_STAGE_QOS_WAIT:
      return {
          "waiting for the limits of the volume",
          "raise the limits of the volume or the mapping (tessera volume update, volume map), or "
          "ask for less at a time"};
    case v1::LATENCY_STAGE_SNAPSHOT_HOLD:
      return {"waiting while a snapshot was made",
              "make snapshots less often, or of fewer volumes at once"};
    case v1::LATENCY_STAGE_ORDER_WAIT:
      return {"waiting for other requests of the same range, or earlier writes of the same order",
              "look at what those waited for: the other causes; requests that overlap are the "
              "application's"};
    case v1::LATENCY_STAGE_FLUSH_ROUND:
      return {"waiting for a flush that was under way",
              "flush less often, or make syncs faster: see the causes with a device"};
    case v1::LATENCY_STAGE_READ_CACHE:
      return {"reading from the client's own cache",
              "put the cache on a faster disk, or map without one"};
    case v1::LATENCY_STAGE_RETRY:
      return {"being sent again, after a replica did not answer or refused",
              "look at tessera event list and tessera status for what failed or changed"};
    case v1::LATENCY_STAGE_CLIENT_QUEUE:
      return {"at the client: its queue and its own work",
              "give the client's host more processor time, or ask for less at a time; a part of "
              "this is the work itself"};
    case v1::LATENCY_STAGE_NETWORK:
      return {"on the way to and from", "look at the network and the load of both hosts"};
    case v1::LATENCY_STAGE_SERVER_QUEUE:
      return {
          "queued for",
          "the device or its server has more to do than it can: look at the other causes of the "
          "same device, at rebuild and scrub, and spread the load over more devices"};
    case v1::LATENCY_STAGE_TOKEN_CHECK:
      return {"having their tokens checked for", "give the server more processor time"};
    case v1::LATENCY_STAGE_LIMIT_HELD:
      return {"held back because the client exceeds its limits, for",
              "raise the limits, or look why the client takes no notice of them"};
    case v1::LATENCY_STAGE_JOURNAL:
      return {"being written to the journal of",
              "the device takes long to write: look at its health and load (tessera device list, "
              "tessera scrub), and drain or replace it"};
    case v1::LATENCY_STAGE_MEMORY_READ:
      return {"being read from memory for", "give the server more processor time"};
    case v1::LATENCY_STAGE_DISK_READ:
      return {"being read from",
              "the device takes long to read: look at its health and load, give the server more "
              "memory, or drain or replace it"};
    case v1::LATENCY_STAGE_FLUSH_WAIT:
      return {"waiting for an earlier sync of",
              "flush less often, or give the volume's pool faster devices"};
    case v1::LATENCY_STAGE_FLUSH_SYNC:
      return {
          "being synced by",
          "the device takes long to sync: look at its health and load, and drain or replace it"};
    case v1::LATENCY_STAGE_REPLY_QUEUE:
      return {"waiting for their reply to leave, of", "look at the network and the server's load"};
    case v1::LATENCY_STAGE_SLOWEST_REPLICA:
      return {"waiting for the last replica", "look at the causes of the same device"};
    default:
      return {"in an unknown stage", "use a newer tessera"};
  }
}

const char* Requests(v1::LatencyOperation operation) {
  switch (operation) {
    case v1::LATENCY_OPERATION_READ:
      return "reads";
    case v1::LATENCY_OPERATION_WRITE:
      return "writes";
    case v1::LATENCY_OPERATION_FLUSH:
      return "flushes";
    default:
      return "requests";
  }
}

// "device /data/1 of server sds2"; empty for the client.
std::string Where(const v1::LatencyCause& cause) {
  if (cause.sds_id() == 0) return "";
  const std::string server =
      cause.sds_name().empty() ? absl::StrCat(cause.sds_id()) : cause.sds_name();
  if (cause.device_id() == 0) return absl::StrCat("server ", server);
  return absl::StrCat(
      "device ",
      cause.device_path().empty() ? absl::StrCat(cause.device_id()) : cause.device_path(),
      " of server ", server);
}

std::string Sentence(const v1::LatencyCause& cause) {
  const std::string where = Where(cause);
  const std::string mean = FormatMicros(cause.mean_micros());
  if (cause.stage() == v1::LATENCY_STAGE_SLOWEST_REPLICA) {
    return absl::StrFormat(
        "Writes waited %s on average for %s after the other replicas had answered.", mean, where);
  }
  return absl::StrFormat(
      "%.0f %% of all time beyond the best case: %s %s%s%s, %s on average, %s at best.",
      cause.share() * 100, Requests(cause.operation()), WordsOf(cause.stage()).what,
      where.empty() ? "" : " ", where, mean,
      FormatMicros(static_cast<double>(cause.best_case_micros())));
}

v1::LatencyCause CauseOf(const Row& row, double share, const LatencyNames& names) {
  v1::LatencyCause cause;
  cause.set_operation(row.operation());
  cause.set_stage(row.stage());
  cause.set_sds_id(row.sds_id());
  cause.set_device_id(row.device_id());
  if (const auto name = names.sds.find(row.sds_id()); name != names.sds.end()) {
    cause.set_sds_name(name->second);
  }
  if (const auto path = names.device_paths.find(row.device_id());
      path != names.device_paths.end()) {
    cause.set_device_path(path->second);
  }
  cause.set_share(share);
  cause.set_samples(row.count());
  cause.set_mean_micros(MeanOf(row));
  cause.set_p50_micros(Percentile(row, 0.5));
  cause.set_p99_micros(Percentile(row, 0.99));
  cause.set_best_case_micros(LeastOf(row));
  cause.set_sentence(Sentence(cause));
  cause.set_advice(WordsOf(row.stage()).advice);
  return cause;
}

void SortByShare(google::protobuf::RepeatedPtrField<v1::LatencyCause>* causes) {
  std::stable_sort(
      causes->begin(), causes->end(),
      [](const v1::LatencyCause& a, const v1::LatencyCause& b) { return a.share() > b.share(); });
}

void AddSummary(const Row& requests, const v1::LatencyFigures& figures,
                v1::ExplainLatencyResponse* response) {
  double best = 0;
  for (const Row& row : figures.rows()) {
    const bool counts =
        row.operation() == requests.operation() && row.stage() != v1::LATENCY_STAGE_SLOWEST_REPLICA;
    if (counts) best += BestOf(row);
  }
  v1::LatencySummary* summary = response->add_summaries();
  summary->set_operation(requests.operation());
  summary->set_samples(requests.count());
  summary->set_mean_micros(MeanOf(requests));
  summary->set_p50_micros(Percentile(requests, 0.5));
  summary->set_p99_micros(Percentile(requests, 0.99));
  summary->set_max_micros(requests.max_micros());
  if (requests.count() > 0) {
    summary->set_best_case_micros(best / static_cast<double>(requests.count()));
  }
}

}  // namespace

absl::StatusOr<uint32_t> CheckLatencyWindow(uint32_t window_s) {
  if (window_s == 0) return kLatencyWindowDefaultSeconds;
  if (window_s >= 10 && window_s <= 600) return window_s;
  return InvalidField("window_s",
                      absl::StrCat("is ", window_s, ": must be 10 to 600 seconds, or 0 for 300"));
}

void MergeLatency(const v1::LatencyFigures& from, v1::LatencyFigures* into) {
  into->set_covered_ms(std::max(into->covered_ms(), from.covered_ms()));
  MergeRows(from.requests(), into->mutable_requests());
  MergeRows(from.rows(), into->mutable_rows());
  // The best case is that of all clients.
  std::map<std::pair<int, int>, uint64_t> least;
  for (const Row& row : into->rows()) {
    const auto [place, is_new] =
        least.emplace(std::pair<int, int>(row.operation(), row.stage()), row.least_micros());
    if (!is_new) place->second = std::min(place->second, row.least_micros());
  }
  for (Row& row : *into->mutable_rows()) {
    row.set_least_micros(least.at({row.operation(), row.stage()}));
  }
  into->mutable_slowest()->MergeFrom(from.slowest());
  SortSlowest(into);
}

void SortSlowest(v1::LatencyFigures* figures) {
  auto* slowest = figures->mutable_slowest();
  std::stable_sort(slowest->begin(), slowest->end(),
                   [](const v1::LatencyExample& a, const v1::LatencyExample& b) {
                     return a.total_micros() > b.total_micros();
                   });
  while (slowest->size() > static_cast<int>(kLatencyExamples)) slowest->RemoveLast();
}

v1::ExplainLatencyResponse ExplainLatency(const v1::LatencyFigures& figures,
                                          const LatencyNames& names) {
  v1::ExplainLatencyResponse response;
  response.set_covered_ms(figures.covered_ms());
  *response.mutable_slowest() = figures.slowest();
  double total = 0;
  for (const Row& row : figures.requests()) {
    total += static_cast<double>(row.sum_micros());
    AddSummary(row, figures, &response);
  }
  double beyond_best = 0;
  for (const Row& row : figures.rows()) {
    if (row.stage() == v1::LATENCY_STAGE_SLOWEST_REPLICA) continue;
    beyond_best += static_cast<double>(row.sum_micros()) - BestOf(row);
  }
  for (const Row& row : figures.rows()) {
    const bool lag = row.stage() == v1::LATENCY_STAGE_SLOWEST_REPLICA;
    const double part = lag ? static_cast<double>(row.sum_micros())
                            : static_cast<double>(row.sum_micros()) - BestOf(row);
    const double whole = lag ? total : beyond_best;
    if (whole <= 0 || part / whole < kShareMin) continue;
    *(lag ? response.add_replica_lags() : response.add_causes()) =
        CauseOf(row, part / whole, names);
  }
  SortByShare(response.mutable_causes());
  SortByShare(response.mutable_replica_lags());
  return response;
}

std::string FormatMicros(double micros) {
  if (micros < 1e3) return absl::StrFormat("%.0f µs", micros);
  if (micros < 1e6) return absl::StrFormat("%.1f ms", micros / 1e3);
  return absl::StrFormat("%.1f s", micros / 1e6);
}

}  // namespace tessera
