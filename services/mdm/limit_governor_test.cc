// Who is found to exceed its limits over all servers, what it gets, and who never is.
#include "services/mdm/limit_governor.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <vector>

namespace tessera::mdm {
namespace {

constexpr VolumeLimits kLimits{100, 10'000'000, 2};

// Servers of one pool that report once a second, each at its own time, what a client does: at each
// server no more than its cap there.
class World {
 public:
  explicit World(size_t servers, uint32_t replicas = 1) : servers_(servers), replicas_(replicas) {}

  VolumeLimits limits = kLimits;
  uint64_t operation_bytes = 4096;
  std::vector<LimitGovernor::Change> changes;

  // For a second, the client wants `reads` and `writes` operations a second at each server. What it
  // did, all together.
  double Second(const std::vector<double>& reads, const std::vector<double>& writes = {}) {
    double done = 0;
    governor.Granted(1, 2, limits, servers_, now_ms_);  // changed or not
    for (size_t sds = 0; sds < servers_; ++sds) {
      now_ms_ += 1000 / servers_;
      double read = reads[sds];
      double write = writes.empty() ? 0 : writes[sds];
      if (const auto cap = caps_.find(sds); cap != caps_.end()) {
        double most = 1e9;
        if (const double cap_here = cap->second.operations_per_second(); cap_here > 0) {
          most = cap_here;
        }
        if (const double cap_here = cap->second.bytes_per_second(); cap_here > 0) {
          most = std::min(most, cap_here / static_cast<double>(operation_bytes));
        }
        const double scale = std::min(1.0, most / std::max(1e-9, read + write));
        read *= scale;
        write *= scale;
      }
      const double client = read + write / replicas_;
      done += client;
      const auto bytes = static_cast<double>(operation_bytes);
      governor.Report(sds, 1000,
                      {{.volume_id = 1,
                        .sdc_id = 2,
                        .operations = read + write,
                        .bytes = (read + write) * bytes,
                        .client_operations = client,
                        .client_bytes = client * bytes}},
                      now_ms_);
      for (const auto& change : governor.Judge(now_ms_)) changes.push_back(change);
      caps_.erase(sds);
      for (const v1::ClientCap& cap : governor.CapsFor(sds, now_ms_)) caps_[sds] = cap;
    }
    return done;
  }
  double Average(int seconds, const std::vector<double>& reads,
                 const std::vector<double>& writes = {}) {
    double sum = 0;
    for (int i = 0; i < seconds; ++i) sum += Second(reads, writes);
    return sum / seconds;
  }
  [[nodiscard]] const std::map<size_t, v1::ClientCap>& caps() const { return caps_; }
  [[nodiscard]] uint64_t now_ms() const { return now_ms_; }

  LimitGovernor governor;

 private:
  const size_t servers_;
  const uint32_t replicas_;
  uint64_t now_ms_ = 1'000'000;
  std::map<size_t, v1::ClientCap> caps_;
};

TEST_CASE("a client at its limit, also after a burst, is never capped", "[governor]") {
  World world(3);
  // All that was saved up, all at one server, then evenly.
  world.Second({300, 0, 0});
  world.Average(60, {33, 33, 34});
  world.Average(60, {100, 0, 0});
  CHECK(world.changes.empty());
  CHECK(world.governor.capped() == 0);
}

TEST_CASE("writes count once, whatever the number of their replicas", "[governor]") {
  World world(3, 3);
  world.Average(60, {0, 0, 0}, {100, 100, 100});
  CHECK(world.changes.empty());
}

TEST_CASE("who takes its whole limit at each of several servers is brought down to it",
          "[governor]") {
  const size_t servers = GENERATE(2, 3, 10);
  World world(servers);
  const std::vector<double> greedy(servers, 110);
  world.Average(8, greedy);
  REQUIRE(world.changes.size() == 1);
  CHECK(world.changes[0].exceeds);
  CHECK(world.changes[0].operations_per_second > 110);
  CHECK(world.changes[0].limits == kLimits);
  const double rate = world.Average(60, greedy);
  CHECK(rate < 1.25 * 100);
  CHECK(rate > 0.9 * 100);
  CHECK(world.changes.size() == 1);  // told once
}

TEST_CASE("a greedy writer is brought down as well, and by bytes", "[governor]") {
  World world(3, 2);
  world.limits = {0, 4'096'000, 1};  // 1,000 a second
  world.Average(14, {0, 0, 0}, {1'100, 1'100, 1'100});
  REQUIRE(world.changes.size() == 1);
  const double rate = world.Average(30, {0, 0, 0}, {1'100, 1'100, 1'100});
  CHECK(rate < 1.25 * 1'000);
  CHECK(rate > 0.9 * 1'000);
}

TEST_CASE("caps follow the load, and leave room for it to move", "[governor]") {
  World world(3);
  world.Average(8, {110, 110, 110});
  world.Average(10, {110, 0, 0});
  CHECK(world.caps().at(0).operations_per_second() > 90);
  CHECK(world.caps().at(1).operations_per_second() > 0);
  CHECK(world.caps().at(1).operations_per_second() < 10);
  world.Average(8, {0, 110, 0});
  CHECK(world.Average(3, {0, 110, 0}) > 90);
}

TEST_CASE("a client that moves from server to server gets no more by it", "[governor]") {
  World world(3);
  world.Average(8, {110, 110, 110});
  double sum = 0;
  for (int i = 0; i < 60; ++i) {
    std::vector<double> reads(3, 0);
    reads[static_cast<size_t>(i % 3)] = 330;
    sum += world.Second(reads);
  }
  CHECK(sum / 60 < 1.25 * 100);
}

TEST_CASE("caps end when the client does less than it may", "[governor]") {
  World world(3);
  world.Average(8, {110, 110, 110});
  REQUIRE(world.governor.capped() == 1);
  world.Average(40, {20, 20, 20});
  REQUIRE(world.changes.size() == 2);
  CHECK_FALSE(world.changes[1].exceeds);
  CHECK(world.governor.capped() == 0);
  CHECK(world.caps().empty());
}

TEST_CASE("caps end when nothing is done any more, or the limits are taken away", "[governor]") {
  World world(3);
  world.Average(8, {110, 110, 110});
  REQUIRE(world.governor.capped() == 1);
  SECTION("no reports") {
    const uint64_t later = 1'008'000 + 60'000;
    const auto changes = world.governor.Judge(later);
    REQUIRE(changes.size() == 1);
    CHECK_FALSE(changes[0].exceeds);
    CHECK(world.governor.capped() == 0);
  }
  SECTION("no limits") {
    world.limits = {};
    world.Second({110, 110, 110});
    CHECK(world.governor.capped() == 0);
  }
}

TEST_CASE("what could not be reported for a minute is no excess of now", "[governor]") {
  LimitGovernor governor;
  governor.Granted(1, 2, kLimits, 3, 900'000);
  for (uint64_t sds = 0; sds < 3; ++sds) {
    governor.Report(
        sds, 60'000,
        {{.volume_id = 1, .sdc_id = 2, .operations = 2'000, .client_operations = 2'000}},
        1'000'000 + sds);
  }
  CHECK(governor.Judge(1'000'100).empty());
  CHECK(governor.capped() == 0);
}

TEST_CASE("what was done under other limits is no excess of the present ones", "[governor]") {
  World world(3);
  world.limits = {10'000, 0, 1};
  world.Average(10, {3'000, 3'000, 3'000});
  world.limits = {100, 1'000'000, 1};
  // Reported after the change, done before.
  world.governor.Granted(1, 2, world.limits, 3, world.now_ms());
  world.governor.Report(2, 1'000,
                        {{.volume_id = 1,
                          .sdc_id = 2,
                          .operations = 3'000,
                          .bytes = 12e6,
                          .client_operations = 3'000,
                          .client_bytes = 12e6}},
                        world.now_ms() + 900);
  world.Average(10, {33, 33, 33});
  CHECK(world.changes.empty());
  // A client that was not given them yet.
  LimitGovernor& governor = world.governor;
  governor.Report(1, 1'000,
                  {{.volume_id = 7,
                    .sdc_id = 8,
                    .operations = 1e6,
                    .bytes = 0,
                    .client_operations = 1e6,
                    .client_bytes = 0}},
                  2'000'000);
  CHECK(governor.Judge(2'000'000).empty());
}

TEST_CASE("new limits are judged by from the grant on that has them", "[governor]") {
  World world(3);
  world.Average(30, {33, 33, 33});
  world.limits = {20, 0, 1};
  world.Average(20, {33, 33, 33});
  REQUIRE(world.changes.size() == 1);
  CHECK(world.Average(30, {33, 33, 33}) < 1.25 * 20);
}

}  // namespace
}  // namespace tessera::mdm
