// What a cycle's counts become.
#include "services/sds/sds_metrics.h"

#include <catch2/catch.hpp>
#include <map>
#include <string>

#include "services/common/clock.h"

namespace tessera::sds {
namespace {

std::map<std::string, double> FiguresOf(MetricRegistry* registry) {
  std::map<std::string, double> figures;
  for (const auto& [name, value] : registry->Figures()) figures[name] = value;
  return figures;
}

TEST_CASE("Durations are from each operation's arrival, by its kind, and are counted once") {
  MetricRegistry registry("sds");
  SdsMetrics metrics(&registry);
  ManualClock clock;
  IoTally tally;
  ExportIoDurations(&registry, {&tally});
  const uint64_t begin = clock.BootNanos();
  tally.Count(v1::IO_OPERATION_TYPE_WRITE, v1::IO_STATUS_OK, 4096, begin);
  clock.AdvanceMillis(30);
  tally.Count(v1::IO_OPERATION_TYPE_WRITE, v1::IO_STATUS_NO_SPACE, 512, clock.BootNanos());
  tally.Count(v1::IO_OPERATION_TYPE_READ, v1::IO_STATUS_OK, 8192, begin);
  clock.AdvanceMillis(10);
  tally.PublishAndClear(clock.BootNanos(), &metrics);
  tally.PublishAndClear(clock.BootNanos(), &metrics);

  auto figures = FiguresOf(&registry);
  CHECK(figures["tessera_sds_io_duration_seconds_count{op=\"write\"}"] == 2);
  CHECK(figures["tessera_sds_io_duration_seconds_sum{op=\"write\"}"] == Approx(0.050));
  CHECK(figures["tessera_sds_io_duration_seconds_count{op=\"read\"}"] == 1);
  CHECK(figures["tessera_sds_io_duration_seconds_sum{op=\"read\"}"] == Approx(0.040));
  CHECK(figures["tessera_sds_io_duration_seconds_count{op=\"flush\"}"] == 0);
  CHECK(figures["tessera_sds_io_requests_total{op=\"write\"}"] == 2);
  CHECK(figures["tessera_sds_io_results_total{status=\"no_space\"}"] == 1);
  CHECK(figures["tessera_sds_write_bytes_total"] == 4096);
  CHECK(figures["tessera_sds_read_bytes_total"] == 8192);

  // The first bound that is no smaller: 10 ms and 50 ms.
  size_t seen = 0;
  for (const MetricRegistry::Distribution& shown :
       registry.Histograms({"tessera_sds_io_duration_seconds"})) {
    if (shown.name.find("\"write\"") == std::string::npos) continue;
    ++seen;
    REQUIRE(shown.cumulative_counts.size() >= shown.bounds.size());
    for (size_t i = 0; i < shown.bounds.size(); ++i) {
      const double bound = shown.bounds[i];
      const uint64_t below = bound < 0.010 ? 0 : bound < 0.040 ? 1 : 2;
      CHECK(shown.cumulative_counts[i] == below);
    }
  }
  CHECK(seen == 1);

  tally.Count(v1::IO_OPERATION_TYPE_READ, v1::IO_STATUS_OK, 1, clock.BootNanos() + 5);
  tally.PublishAndClear(clock.BootNanos(), &metrics);
  figures = FiguresOf(&registry);
  CHECK(figures["tessera_sds_io_requests_total{op=\"read\"}"] == 2);
  CHECK(figures["tessera_sds_io_duration_seconds_sum{op=\"read\"}"] == Approx(0.040));
}

}  // namespace
}  // namespace tessera::sds
