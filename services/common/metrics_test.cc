#include "services/common/metrics.h"

#include <catch2/catch.hpp>

#include "tessera/v1/monitoring.pb.h"

namespace tessera {

TEST_CASE("a histogram's distribution has a bucket more than bounds, and counts that only grow") {
  MetricRegistry metrics("test");
  auto& reads = metrics.Histogram("io_seconds", "Help.", {{"op", "read"}}, {0.1, 1});
  metrics.Histogram("io_seconds", "Help.", {{"op", "flush"}}, {0.1, 1});
  metrics.Histogram("other_seconds", "Help.");
  for (const double seconds : {0.05, 0.5, 0.6, 7.0}) reads.Observe(seconds);
  const auto found = metrics.Histograms({"io_seconds", "no_such_seconds"});
  REQUIRE(found.size() == 2);
  CHECK(found[0].name == "io_seconds{op=\"flush\"}");
  CHECK(found[1].name == "io_seconds{op=\"read\"}");
  CHECK(found[1].bounds == std::vector<double>{0.1, 1});
  CHECK(found[1].cumulative_counts == std::vector<uint64_t>{1, 3, 4});
}

TEST_CASE(
    "an answer of MonitoringService has all figures in name order, and the histograms named") {
  MetricRegistry metrics("test");
  metrics.Counter("z_total", "Help.").Increment(3);
  metrics.Histogram("a_seconds", "Help.", {}, {1}).Observe(0.5);
  metrics.Histogram("b_seconds", "Help.", {}, {1}).Observe(0.5);
  int collected = 0;
  metrics.AddCollector([&collected] { ++collected; });
  v1::GetStatusResponse answer;
  AddFigures(&metrics, {"b_seconds"}, &answer);
  CHECK(collected == 1);
  for (int i = 1; i < answer.figures_size(); ++i) {
    CHECK(answer.figures(i - 1).name() < answer.figures(i).name());
  }
  CHECK(answer.figures(answer.figures_size() - 1).name() == "z_total");
  CHECK(answer.figures(answer.figures_size() - 1).value() == 3);
  REQUIRE(answer.histograms_size() == 1);
  CHECK(answer.histograms(0).name() == "b_seconds");
  CHECK(answer.histograms(0).bounds_seconds_size() == 1);
  CHECK(answer.histograms(0).cumulative_counts(1) == 1);
}

}  // namespace tessera
