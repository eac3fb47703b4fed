// Buckets, stages for Prometheus, and the explanation by itself, from figures made by hand.
#include "services/common/latency_explainer.h"

#include <catch2/catch.hpp>
#include <map>

#include "services/common/latency_buckets.h"
#include "services/common/stage_histograms.h"

namespace tessera {
namespace {

v1::LatencyRow RowOf(v1::LatencyOperation operation, v1::LatencyStage stage, uint64_t device,
                     const std::vector<uint64_t>& micros, uint64_t least) {
  v1::LatencyRow row;
  row.set_operation(operation);
  row.set_stage(stage);
  row.set_device_id(device);
  row.set_sds_id(device / 10);
  row.set_least_micros(least);
  std::map<uint32_t, uint64_t> buckets;
  for (const uint64_t value : micros) {
    row.set_count(row.count() + 1);
    row.set_sum_micros(row.sum_micros() + value);
    row.set_max_micros(std::max(row.max_micros(), value));
    ++buckets[static_cast<uint32_t>(LatencyBucketOf(value))];
  }
  for (const auto& [bucket, count] : buckets) {
    row.add_buckets(bucket);
    row.add_bucket_counts(count);
  }
  return row;
}

constexpr auto kWrite = v1::LATENCY_OPERATION_WRITE;
constexpr auto kRead = v1::LATENCY_OPERATION_READ;

TEST_CASE("each duration lies in its bucket, and buckets leave no gap", "[latency]") {
  size_t last = 0;
  for (uint64_t micros = 0; micros < 70'000'000; micros += 1 + micros / 1000) {
    const size_t bucket = LatencyBucketOf(micros);
    REQUIRE(bucket < kLatencyBuckets);
    REQUIRE(bucket >= last);
    REQUIRE(micros <= LatencyBucketEnd(bucket));
    if (bucket > 0) REQUIRE(micros > LatencyBucketEnd(bucket - 1));
    // A percentile that is read from it is at most a quarter too high.
    if (bucket + 1 < kLatencyBuckets) REQUIRE(LatencyBucketEnd(bucket) <= micros + micros / 4);
    last = bucket;
  }
  CHECK(LatencyBucketOf(UINT64_MAX) == kLatencyBuckets - 1);
}

TEST_CASE("the cause with the most time beyond the best case comes first", "[latency]") {
  v1::LatencyFigures figures;
  // Ten writes of 5.1 ms, of which the journal of device 21 took 5 and 0.02 would have done.
  *figures.add_requests() =
      RowOf(kWrite, v1::LATENCY_STAGE_UNSPECIFIED, 0, std::vector<uint64_t>(10, 5'100), 0);
  *figures.add_rows() =
      RowOf(kWrite, v1::LATENCY_STAGE_CLIENT_QUEUE, 0, std::vector<uint64_t>(10, 40), 30);
  *figures.add_rows() =
      RowOf(kWrite, v1::LATENCY_STAGE_NETWORK, 21, std::vector<uint64_t>(10, 60), 60);
  *figures.add_rows() =
      RowOf(kWrite, v1::LATENCY_STAGE_JOURNAL, 21, std::vector<uint64_t>(10, 5'000), 20);
  *figures.add_rows() =
      RowOf(kWrite, v1::LATENCY_STAGE_SLOWEST_REPLICA, 21, std::vector<uint64_t>(10, 4'900), 0);
  LatencyNames names;
  names.sds[2] = "sds-b";
  names.device_paths[21] = "/data/1";
  const v1::ExplainLatencyResponse response = ExplainLatency(figures, names);

  REQUIRE(response.causes_size() == 2);  // the network is at its best
  const v1::LatencyCause& first = response.causes(0);
  CHECK(first.stage() == v1::LATENCY_STAGE_JOURNAL);
  CHECK(first.sds_name() == "sds-b");
  CHECK(first.device_path() == "/data/1");
  CHECK(first.share() == Approx(49'800.0 / 49'900));
  CHECK(first.samples() == 10);
  CHECK(first.mean_micros() == 5'000);
  CHECK(first.p50_micros() == 5'000);
  CHECK(first.best_case_micros() == 20);
  CHECK(first.sentence() ==
        "100 % of all time beyond the best case: writes being written to the journal of device "
        "/data/1 of server sds-b, 5.0 ms on average, 20 µs at best.");
  CHECK(first.advice().find("drain or replace it") != std::string::npos);
  CHECK(response.causes(1).stage() == v1::LATENCY_STAGE_CLIENT_QUEUE);
  CHECK(response.causes(1).share() == Approx(100.0 / 49'900));

  REQUIRE(response.summaries_size() == 1);
  CHECK(response.summaries(0).samples() == 10);
  CHECK(response.summaries(0).best_case_micros() == 30 + 60 + 20);
  REQUIRE(response.replica_lags_size() == 1);
  CHECK(response.replica_lags(0).share() == Approx(49'000.0 / 51'000));
  CHECK(response.replica_lags(0).sentence() ==
        "Writes waited 4.9 ms on average for device /data/1 of server sds-b after the other "
        "replicas had answered.");
}

TEST_CASE("waiting has no best case, however evenly all wait", "[latency]") {
  v1::LatencyFigures figures;
  *figures.add_rows() =
      RowOf(kWrite, v1::LATENCY_STAGE_QOS_WAIT, 0, std::vector<uint64_t>(10, 50'000), 50'000);
  *figures.add_rows() =
      RowOf(kWrite, v1::LATENCY_STAGE_CLIENT_QUEUE, 0, std::vector<uint64_t>(10, 200), 100);
  const v1::ExplainLatencyResponse response = ExplainLatency(figures, {});
  CHECK(response.causes(0).stage() == v1::LATENCY_STAGE_QOS_WAIT);
  CHECK(response.causes(0).best_case_micros() == 0);
  CHECK(response.causes(0).share() > 0.99);
}

TEST_CASE("what nothing is known of is explained by nothing", "[latency]") {
  const v1::ExplainLatencyResponse response = ExplainLatency({}, {});
  CHECK(response.causes().empty());
  CHECK(response.summaries().empty());
}

TEST_CASE("percentiles are those of the samples, at most a quarter too high", "[latency]") {
  std::vector<uint64_t> samples;
  for (uint64_t i = 1; i <= 1'000; ++i) samples.push_back(i * 10);
  v1::LatencyFigures figures;
  *figures.add_requests() = RowOf(kRead, v1::LATENCY_STAGE_UNSPECIFIED, 0, samples, 0);
  const v1::ExplainLatencyResponse response = ExplainLatency(figures, {});
  const v1::LatencySummary& summary = response.summaries(0);
  CHECK(summary.p50_micros() >= 5'000);
  CHECK(summary.p50_micros() <= 6'250);
  CHECK(summary.p99_micros() >= 9'900);
  CHECK(summary.p99_micros() <= 10'000);  // never above the largest
  CHECK(summary.max_micros() == 10'000);
}

TEST_CASE("figures of two clients are those of all their requests", "[latency]") {
  const auto client = [](const std::vector<uint64_t>& micros, uint64_t least, uint64_t covered_ms) {
    v1::LatencyFigures figures;
    *figures.add_requests() = RowOf(kRead, v1::LATENCY_STAGE_UNSPECIFIED, 0, micros, 0);
    *figures.add_rows() = RowOf(kRead, v1::LATENCY_STAGE_DISK_READ, 11, micros, least);
    figures.set_covered_ms(covered_ms);
    for (const uint64_t value : micros) figures.add_slowest()->set_total_micros(value);
    SortSlowest(&figures);
    return figures;
  };
  v1::LatencyFigures sum;
  MergeLatency(client({10, 20, 900}, 10, 40'000), &sum);
  MergeLatency(client({7, 5'000}, 7, 60'000), &sum);
  const v1::LatencyFigures together = client({10, 20, 900, 7, 5'000}, 7, 60'000);
  CHECK(sum.SerializeAsString() == together.SerializeAsString());

  // A row that only one of them has is judged by the best of both.
  v1::LatencyFigures other;
  *other.add_rows() = RowOf(kRead, v1::LATENCY_STAGE_DISK_READ, 12, {3, 4}, 3);
  MergeLatency(other, &sum);
  for (const v1::LatencyRow& row : sum.rows()) CHECK(row.least_micros() == 3);
}

TEST_CASE("only the slowest requests are kept", "[latency]") {
  v1::LatencyFigures sum;
  for (uint64_t i = 0; i < 20; ++i) {
    v1::LatencyFigures one;
    one.add_slowest()->set_total_micros(i * 7 % 20);
    MergeLatency(one, &sum);
  }
  REQUIRE(sum.slowest_size() == static_cast<int>(kLatencyExamples));
  for (int i = 0; i < sum.slowest_size(); ++i) {
    CHECK(sum.slowest(i).total_micros() == static_cast<uint64_t>(19 - i));
  }
}

TEST_CASE("a window that can't be is refused with what can", "[latency]") {
  CHECK(*CheckLatencyWindow(0) == 300);
  CHECK(*CheckLatencyWindow(10) == 10);
  CHECK(*CheckLatencyWindow(600) == 600);
  for (const uint32_t window : {1u, 9u, 601u, UINT32_MAX}) {
    const auto checked = CheckLatencyWindow(window);
    REQUIRE(absl::IsInvalidArgument(checked.status()));
    CHECK(checked.status().message().find("10 to 600") != std::string::npos);
  }
}

TEST_CASE("each stage has words of its own", "[latency]") {
  std::map<std::string, v1::LatencyStage> seen;
  for (size_t i = 1; i < kLatencyStages; ++i) {
    const auto stage = static_cast<v1::LatencyStage>(i);
    if (stage == v1::LATENCY_STAGE_SLOWEST_REPLICA) continue;
    v1::LatencyFigures figures;
    *figures.add_rows() = RowOf(kRead, stage, 11, {100}, 0);
    const v1::ExplainLatencyResponse response = ExplainLatency(figures, {});
    REQUIRE(response.causes_size() == 1);
    INFO(response.causes(0).sentence());
    CHECK(response.causes(0).sentence().find("unknown") == std::string::npos);
    CHECK_FALSE(response.causes(0).advice().empty());
    CHECK(seen.emplace(response.causes(0).sentence(), stage).second);
  }
}

TEST_CASE("stages of two threads are one histogram, each operation counted once", "[latency]") {
  MetricRegistry registry("sds");
  StageHistograms one;
  StageHistograms two;
  const v1::LatencyStage stages[] = {v1::LATENCY_STAGE_JOURNAL};
  ExportStages(&registry, "tessera_sds_stage_duration_seconds", "Stages.", stages, {&one, &two});
  one.Observe(v1::LATENCY_STAGE_JOURNAL, 40, 3);
  two.Observe(v1::LATENCY_STAGE_JOURNAL, 1'500);
  for (int scrape = 0; scrape < 2; ++scrape) {
    const std::string text = registry.Text();
    INFO(text);
    const std::string name = "tessera_sds_stage_duration_seconds";
    CHECK(text.find(name + "_count{stage=\"journal\"} 4") != std::string::npos);
    CHECK(text.find(name + "_bucket{stage=\"journal\",le=\"5e-05\"} 3") != std::string::npos);
    CHECK(text.find(name + "_bucket{stage=\"journal\",le=\"0.001\"} 3") != std::string::npos);
    CHECK(text.find(name + "_bucket{stage=\"journal\",le=\"0.002\"} 4") != std::string::npos);
    CHECK(text.find(name + "_sum{stage=\"journal\"} 0.00162") != std::string::npos);
  }
  for (size_t i = 0; i < ThreadHistogram::kBoundsMicros.size(); ++i) {
    CHECK(ThreadHistogram::kBoundsMicros[i] * 1e-6 == Approx(DurationBuckets()[i]));
  }
}

}  // namespace
}  // namespace tessera
