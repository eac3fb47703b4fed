#include "services/mgmt/monitor/part_meter.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>

#include "libchunk/seeded_random.h"

namespace tessera::mgmt {
namespace {

constexpr char kReads[] = "tessera_sdc_io_requests_total{op=\"read\"}";

v1::GetStatusResponse Client(uint64_t incarnation) {
  v1::GetStatusResponse answer;
  answer.set_kind(v1::COMPONENT_KIND_SDC);
  answer.set_incarnation(incarnation);
  return answer;
}

void AddFigure(const std::string& name, double value, v1::GetStatusResponse* answer) {
  v1::Figure* figure = answer->add_figures();
  figure->set_name(name);
  figure->set_value(value);
}

v1::GetStatusResponse WithReads(uint64_t incarnation, double reads) {
  v1::GetStatusResponse answer = Client(incarnation);
  AddFigure(kReads, reads, &answer);
  return answer;
}

v1::Histogram* AddHistogram(const std::vector<double>& bounds, const std::vector<uint64_t>& counts,
                            v1::GetStatusResponse* answer) {
  v1::Histogram* histogram = answer->add_histograms();
  histogram->set_name("tessera_sdc_io_duration_seconds{op=\"read\"}");
  histogram->mutable_bounds_seconds()->Add(bounds.begin(), bounds.end());
  histogram->mutable_cumulative_counts()->Add(counts.begin(), counts.end());
  return histogram;
}

bool Has(const PartMeter& meter, const std::string& name) { return meter.figures().contains(name); }

}  // namespace

TEST_CASE("a rate is what a counter grew by between two answers, in a second") {
  PartMeter meter;
  meter.Take(WithReads(1, 1'000), 50'000);
  CHECK_FALSE(Has(meter, "reads_per_second"));
  meter.Take(WithReads(1, 3'000), 60'000);
  CHECK(meter.figures().at("reads_per_second") == Approx(200));
  CHECK(meter.figures().at(kReads) == 3'000);
  meter.Take(WithReads(1, 3'000), 70'000);
  CHECK(meter.figures().at("reads_per_second") == 0);
}

TEST_CASE("a part that was started anew has no rates until its second answer") {
  PartMeter meter;
  meter.Take(WithReads(1, 1'000), 50'000);
  meter.Take(WithReads(1, 2'000), 60'000);
  // More than before, and yet of another life: 90 a second would be a lie.
  meter.Take(WithReads(2, 2'900), 70'000);
  CHECK_FALSE(Has(meter, "reads_per_second"));
  meter.Take(WithReads(2, 3'400), 80'000);
  CHECK(meter.figures().at("reads_per_second") == Approx(50));
}

TEST_CASE("a counter that went back within one life gives no rate, never a negative one") {
  PartMeter meter;
  meter.Take(WithReads(1, 1'000), 50'000);
  meter.Take(WithReads(1, 400), 60'000);
  CHECK_FALSE(Has(meter, "reads_per_second"));
  meter.Take(WithReads(1, 500), 70'000);
  CHECK(meter.figures().at("reads_per_second") == Approx(10));
}

TEST_CASE("answers close together leave the rates of the interval before") {
  PartMeter meter;
  meter.Take(WithReads(1, 0), 50'000);
  meter.Take(WithReads(1, 1'000), 60'000);
  meter.Take(WithReads(1, 1'900), 60'100);
  CHECK(meter.figures().at("reads_per_second") == Approx(100));
  // The next one that is far enough counts from the last that counted.
  meter.Take(WithReads(1, 3'000), 70'000);
  CHECK(meter.figures().at("reads_per_second") == Approx(200));
}

TEST_CASE("figures with different labels are summed where the table says so") {
  PartMeter meter;
  v1::GetStatusResponse answer;
  answer.set_kind(v1::COMPONENT_KIND_SDS);
  AddFigure("tessera_device_used_bytes{device=\"a\"}", 10, &answer);
  AddFigure("tessera_device_used_bytes{device=\"b\"}", 32, &answer);
  AddFigure("tessera_grpc_server_handled_total{method=\"X\"}", 5, &answer);
  AddFigure("tessera_device_failed{device=\"a\"}", std::numeric_limits<double>::quiet_NaN(),
            &answer);
  meter.Take(answer, 50'000);
  CHECK(meter.figures().at("used_bytes") == 42);
  CHECK(meter.figures().at("tessera_device_used_bytes{device=\"b\"}") == 32);
  CHECK_FALSE(Has(meter, "tessera_grpc_server_handled_total{method=\"X\"}"));
  CHECK_FALSE(Has(meter, "devices_failed"));
}

TEST_CASE("rates of volumes are kept by volume") {
  PartMeter meter;
  const auto answer = [](double reads, double bytes) {
    v1::GetStatusResponse status = Client(1);
    AddFigure("tessera_volume_io_requests_total{op=\"read\",volume=\"7\"}", reads, &status);
    AddFigure("tessera_volume_io_bytes_total{op=\"write\",volume=\"7\"}", bytes, &status);
    AddFigure("tessera_volume_io_bytes_total{op=\"write\",volume=\"x\"}", bytes, &status);
    return status;
  };
  meter.Take(answer(100, 0), 50'000);
  CHECK(meter.volumes().empty());
  meter.Take(answer(300, 4'096'000), 60'000);
  REQUIRE(meter.volumes().size() == 1);
  CHECK(meter.volumes().at(7)[0] == Approx(20));
  CHECK(meter.volumes().at(7)[3] == Approx(409'600));
}

TEST_CASE("a histogram that is not well formed is left out") {
  const std::vector<double> bounds = {0.1, 0.2};
  const auto seen = [&](const std::function<void(v1::Histogram*)>& spoil) {
    PartMeter meter;
    for (const uint64_t count : {10, 20}) {
      v1::GetStatusResponse answer = Client(1);
      spoil(AddHistogram(bounds, {count, count + 1, count + 2}, &answer));
      meter.Take(answer, count * 1'000);
    }
    return Has(meter, "read_latency_p50_micros");
  };
  CHECK(seen([](v1::Histogram*) {}));
  CHECK_FALSE(seen([](v1::Histogram* histogram) { histogram->add_bounds_seconds(0.3); }));
  CHECK_FALSE(seen([](v1::Histogram* histogram) { histogram->set_bounds_seconds(1, 0.1); }));
  CHECK_FALSE(seen([](v1::Histogram* histogram) { histogram->set_cumulative_counts(1, 1); }));
  CHECK_FALSE(seen([](v1::Histogram* histogram) { histogram->clear_cumulative_counts(); }));
}

TEST_CASE("percentiles are of the interval alone, not of all since the part's start") {
  PartMeter meter;
  v1::GetStatusResponse first = Client(1);
  AddHistogram({0.001, 0.01, 0.1}, {0, 0, 1'000'000, 1'000'000}, &first);
  meter.Take(first, 50'000);
  v1::GetStatusResponse second = Client(1);
  AddHistogram({0.001, 0.01, 0.1}, {100, 100, 1'000'100, 1'000'100}, &second);
  meter.Take(second, 60'000);
  CHECK(meter.figures().at("read_latency_p50_micros") == Approx(500));
  CHECK(meter.figures().at("read_latency_p99_micros") == Approx(990));
}

// The true percentile and the estimate lie in one bucket, whatever is observed: that is all that
// buckets can tell. Between a bucket's ends the estimate is even, so it is exact for even values.
TEST_CASE("a percentile is in the bucket in which the true one is") {
  const std::vector<double> bounds = {50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 5e-3, 50e-3, 1};
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    chunk::SeededRandom random(seed);
    const size_t count = 1 + random.Below(400);
    const uint64_t scale = uint64_t{1} << random.Below(21);
    std::vector<double> values;
    Distribution distribution{bounds, std::vector<uint64_t>(bounds.size() + 1)};
    for (size_t i = 0; i < count; ++i) {
      values.push_back(static_cast<double>(1 + random.Below(scale)) * 1e-6);
      const auto bucket = std::lower_bound(bounds.begin(), bounds.end(), values.back());
      ++distribution.counts[static_cast<size_t>(bucket - bounds.begin())];
    }
    std::sort(values.begin(), values.end());
    for (const double fraction : {0.01, 0.5, 0.9, 0.99, 1.0}) {
      INFO("seed " << seed << " fraction " << fraction);
      const auto rank = static_cast<size_t>(std::ceil(fraction * static_cast<double>(count)));
      const double truth = values[std::max<size_t>(rank, 1) - 1];
      const double estimate = *distribution.Percentile(fraction);
      const auto above = std::lower_bound(bounds.begin(), bounds.end(), truth);
      if (above == bounds.end()) {
        CHECK(estimate == bounds.back());
      } else {
        CHECK(estimate <= *above);
        CHECK(estimate >= (above == bounds.begin() ? 0 : *(above - 1)));
      }
    }
  }
}

TEST_CASE("distributions of several parts add up, those with other buckets are left out") {
  Distribution sum;
  CHECK_FALSE(sum.Percentile(0.5).has_value());
  CHECK(sum.Add({{1, 2}, {1, 0, 0}}));
  CHECK(sum.Add({{1, 2}, {0, 3, 0}}));
  CHECK_FALSE(sum.Add({{1, 3}, {0, 100, 0}}));
  CHECK(sum.Total() == 4);
  CHECK(*sum.Percentile(1) == Approx(2));
}

TEST_CASE("labels are read by name") {
  const FigureName name = SplitName("m{a=\"1\",volume=\"22\"}");
  CHECK(name.metric == "m");
  CHECK(LabelValue(name.labels, "volume") == "22");
  CHECK(LabelValue(name.labels, "a") == "1");
  CHECK(LabelValue(name.labels, "lume").empty());
  CHECK(SplitName("plain").metric == "plain");
  CHECK(SplitName("broken{").metric == "broken{");
}

}  // namespace tessera::mgmt
