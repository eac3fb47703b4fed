// Whom to believe when a client reports servers.
#include "services/mdm/isolation_rules.h"

#include <catch2/catch.hpp>

namespace tessera::mdm {
namespace {

struct Pool {
  explicit Pool(size_t servers) : count(servers) {}
  std::map<uint64_t, uint64_t> heard;         // by server: boot time
  std::map<uint64_t, uint64_t> incarnations;  // 1 unless said otherwise
  size_t count;
  IsolationJudge judge{IsolationRules()};

  IsolationVerdict Report(const std::string& reporter, uint64_t sds_id, uint64_t now) {
    const IsolationJudge::Servers servers{
        .heard_since = [this](uint64_t id, uint64_t since) { return heard[id] >= since; },
        .incarnation =
            [this](uint64_t id) { return incarnations.contains(id) ? incarnations[id] : 1; }};
    const IsolationJudge::Report report{
        .reporter = reporter, .sds_id = sds_id, .pool_servers = count};
    judge.Note(report, now, servers);
    return judge.Judge(report, now, servers);
  }
};

constexpr auto kBelieve = IsolationVerdict::kBelieve;
constexpr auto kWait = IsolationVerdict::kWait;
constexpr auto kAtFault = IsolationVerdict::kReporterAtFault;

TEST_CASE("one server of several is believed at once") {
  Pool pool(3);
  pool.heard[1] = 5'000;
  CHECK(pool.Report("c", 1, 1'000) == kBelieve);
  CHECK(pool.Report("c", 1, 1'100) == kBelieve);
}

TEST_CASE("a client that loses most servers is not believed while these are heard") {
  Pool pool(3);
  CHECK(pool.Report("c", 1, 1'000) == kBelieve);
  CHECK(pool.Report("c", 2, 1'010) == kWait);
  pool.heard[2] = 1'500;
  CHECK(pool.Report("c", 2, 2'000) == kAtFault);
  CHECK(pool.Report("c", 3, 2'010) == kWait);
  SECTION("another client is judged by its own reports") {
    CHECK(pool.Report("d", 2, 2'020) == kBelieve);
  }
}

TEST_CASE("servers that are silent for everybody go, a little later") {
  Pool pool(3);
  CHECK(pool.Report("c", 1, 1'000) == kBelieve);
  CHECK(pool.Report("c", 2, 1'010) == kWait);
  CHECK(pool.Report("c", 2, 2'500) == kWait);
  CHECK(pool.Report("c", 2, 3'510) == kBelieve);
}

TEST_CASE("a server that came back in a new life was rightly reported") {
  Pool pool(3);
  CHECK(pool.Report("c", 1, 1'000) == kBelieve);
  pool.incarnations[1] = 2;
  CHECK(pool.Report("c", 2, 1'500) == kBelieve);
}

TEST_CASE("old reports say nothing any more") {
  Pool pool(3);
  CHECK(pool.Report("c", 1, 1'000) == kBelieve);
  CHECK(pool.Report("c", 2, 7'000) == kBelieve);
}

TEST_CASE("in a pool of two, both at once are doubted, in one of five, three") {
  Pool two(2);
  CHECK(two.Report("c", 1, 1'000) == kBelieve);
  CHECK(two.Report("c", 2, 1'001) == kWait);
  Pool five(5);
  CHECK(five.Report("c", 1, 1'000) == kBelieve);
  CHECK(five.Report("c", 2, 1'001) == kBelieve);
  CHECK(five.Report("c", 3, 1'002) == kWait);
}

}  // namespace
}  // namespace tessera::mdm
