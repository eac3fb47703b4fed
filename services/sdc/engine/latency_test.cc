// Where the engine says that time went: against scripted servers. Times are the machine's; what is
// asserted is to whom they are put down, and that nothing is missing.
#include <atomic>
#include <catch2/catch.hpp>
#include <string>

#include "services/sdc/engine/test_cluster.h"

namespace tessera::sdc {
namespace {

constexpr auto kAll = v1::LATENCY_OPERATION_UNSPECIFIED;
constexpr auto kRead = v1::LATENCY_OPERATION_READ;
constexpr auto kWrite = v1::LATENCY_OPERATION_WRITE;
constexpr auto kFlush = v1::LATENCY_OPERATION_FLUSH;

v1::LatencyFigures Figures(TestCluster* cluster, v1::LatencyOperation operation = kAll) {
  v1::LatencyFigures figures;
  cluster->OnLoop([&] { figures = cluster->engine->FindVolume(7)->Latency(600, operation); });
  return figures;
}

uint64_t Sum(const v1::LatencyFigures& figures, v1::LatencyOperation operation,
             v1::LatencyStage stage, uint64_t device = 0) {
  uint64_t sum = 0;
  for (const v1::LatencyRow& row : figures.rows()) {
    const bool counts = row.operation() == operation && row.stage() == stage &&
                        (device == 0 || row.device_id() == device);
    sum += counts ? row.sum_micros() : 0;
  }
  return sum;
}

uint64_t Count(const v1::LatencyFigures& figures, v1::LatencyOperation operation) {
  for (const v1::LatencyRow& row : figures.requests()) {
    if (row.operation() == operation) return row.count();
  }
  return 0;
}

// A server whose whole round trip is this stage: it says more than there was.
v1::StageTimes All(void (v1::StageTimes::*set)(uint32_t)) {
  v1::StageTimes times;
  (times.*set)(1'000'000'000);
  return times;
}

void WaitForWrites(const FakeSds& server, uint64_t writes) {
  while (server.counts().writes < writes) std::this_thread::yield();
}

TEST_CASE("all time is put down to a stage", "[engine][latency]") {
  TestCluster cluster(2);
  for (uint64_t i = 0; i < 10; ++i) {
    REQUIRE(cluster.Write(i * 4096, std::string(4096, 'x')) == 0);
    REQUIRE(cluster.Write(i * 4096 + 100, std::string(700, 'y')) == 0);  // reads its edges
    (void)cluster.Read(i * 4096, 4096);
    REQUIRE(cluster.Flush() == 0);
  }
  // In several pieces, at once and one after another.
  REQUIRE(cluster.Write(kChunkBytes / 2, Pattern(1, 3 * kChunkBytes)) == 0);
  const v1::LatencyFigures figures = Figures(&cluster);
  CHECK(Count(figures, kWrite) == 21);
  CHECK(Count(figures, kRead) == 10);
  CHECK(Count(figures, kFlush) == 10);
  for (const v1::LatencyRow& requests : figures.requests()) {
    uint64_t sum = 0;
    for (const v1::LatencyRow& row : figures.rows()) {
      const bool counts = row.operation() == requests.operation() &&
                          row.stage() != v1::LATENCY_STAGE_SLOWEST_REPLICA;
      sum += counts ? row.sum_micros() : 0;
    }
    CHECK(sum == requests.sum_micros());
  }
  CHECK(Count(Figures(&cluster, kRead), kWrite) == 0);
  CHECK_FALSE(figures.slowest().empty());
}

TEST_CASE("a write has the stages of the replica that was last, and waited for it",
          "[engine][latency]") {
  TestCluster cluster(2);
  cluster.servers[1]->SayTimes(All(&v1::StageTimes::set_journal_micros));
  REQUIRE(cluster.Write(0, std::string(4096, 'x')) == 0);
  // Whose answer comes last is for the machine to say, as a rule the one that is held.
  int attempts = 0;
  while (Sum(Figures(&cluster), kWrite, v1::LATENCY_STAGE_SLOWEST_REPLICA, 101) == 0) {
    REQUIRE(++attempts < 100);
    const uint64_t before = cluster.servers[0]->counts().writes;
    cluster.servers[1]->Hold(true);
    std::atomic<bool> done{false};
    BlockRequest request = TestCluster::WriteRequest(4096, std::string(4096, 'y'));
    request.done = [&done](const BlockReply&) { done = true; };
    cluster.Start(std::move(request));
    WaitForWrites(*cluster.servers[0], before + 1);
    cluster.PassTime(std::chrono::milliseconds(5));
    cluster.servers[1]->Hold(false);
    while (!done) std::this_thread::yield();
  }
  const v1::LatencyFigures figures = Figures(&cluster);
  CHECK(Sum(figures, kWrite, v1::LATENCY_STAGE_JOURNAL, 101) > 0);
  CHECK(Sum(figures, kWrite, v1::LATENCY_STAGE_JOURNAL, 100) == 0);
  // The other one says nothing: all its time is on the way, and the best case of a journal is none.
  for (const v1::LatencyRow& row : figures.rows()) {
    if (row.stage() == v1::LATENCY_STAGE_JOURNAL) CHECK(row.least_micros() == 0);
  }
}

TEST_CASE("a read has the stages of the replica that was asked", "[engine][latency]") {
  TestCluster cluster(1);
  REQUIRE(cluster.Write(0, std::string(4096, 'x')) == 0);
  cluster.servers[0]->SayTimes(All(&v1::StageTimes::set_disk_micros));
  (void)cluster.Read(0, 4096);
  const v1::LatencyFigures figures = Figures(&cluster);
  CHECK(Sum(figures, kRead, v1::LATENCY_STAGE_DISK_READ, 100) > 0);
  CHECK(Sum(figures, kRead, v1::LATENCY_STAGE_NETWORK) == 0);
  CHECK(Sum(figures, kWrite, v1::LATENCY_STAGE_DISK_READ) == 0);
}

TEST_CASE("a flush has the stages of the device that was last", "[engine][latency]") {
  TestCluster cluster(1);
  REQUIRE(cluster.Write(0, std::string(4096, 'x')) == 0);
  cluster.servers[0]->SayTimes(All(&v1::StageTimes::set_flush_sync_micros));
  REQUIRE(cluster.Flush() == 0);
  const v1::LatencyFigures figures = Figures(&cluster);
  CHECK(Sum(figures, kFlush, v1::LATENCY_STAGE_FLUSH_SYNC, 100) > 0);
  CHECK(Sum(figures, kFlush, v1::LATENCY_STAGE_NETWORK) == 0);
}

TEST_CASE("a request that overlaps another waits for its turn, and is told so",
          "[engine][latency]") {
  TestCluster cluster(1);
  REQUIRE(cluster.Write(0, std::string(4096, 'x')) == 0);
  CHECK(Sum(Figures(&cluster), kRead, v1::LATENCY_STAGE_ORDER_WAIT) == 0);
  cluster.servers[0]->Hold(true);
  std::atomic<int> done{0};
  for (const Command command : {Command::kWrite, Command::kRead}) {
    BlockRequest request = command == Command::kWrite
                               ? TestCluster::WriteRequest(0, std::string(4096, 'y'))
                               : TestCluster::Simple(Command::kRead, 0, 4096);
    request.done = [&done](const BlockReply&) { ++done; };
    cluster.Start(std::move(request));
  }
  cluster.PassTime(std::chrono::milliseconds(2));
  cluster.servers[0]->Hold(false);
  while (done < 2) std::this_thread::yield();
  CHECK(Sum(Figures(&cluster), kRead, v1::LATENCY_STAGE_ORDER_WAIT) >= 2'000);
}

TEST_CASE("waiting for the volume's limits is told, and only that", "[engine][latency]") {
  TestCluster cluster(1);
  cluster.OnLoop([&] {
    cluster.iops_limit = 100;
    cluster.engine->SetGrant("test", cluster.MakeGrant());
  });
  for (uint64_t i = 0; i < 11; ++i) REQUIRE(cluster.Write(i * 4096, std::string(4096, 'x')) == 0);
  const v1::LatencyFigures figures = Figures(&cluster);
  const uint64_t waited = cluster.engine->FindVolume(7)->stats().limited_wait_micros.Get();
  CHECK(waited > 0);
  // Each wait is cut to whole microseconds by itself.
  CHECK(Sum(figures, kWrite, v1::LATENCY_STAGE_QOS_WAIT) >= waited);
  CHECK(Sum(figures, kWrite, v1::LATENCY_STAGE_QOS_WAIT) <= waited + 11);
}

TEST_CASE("a read that another replica had to answer was sent again", "[engine][latency]") {
  TestCluster cluster(2);
  REQUIRE(cluster.Write(0, std::string(4096, 'x')) == 0);
  std::atomic<bool> failed{false};
  for (auto& server : cluster.servers) {
    server->SetScript([&failed](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
      if (operation.type() != v1::IO_OPERATION_TYPE_READ || failed.exchange(true)) {
        return std::nullopt;
      }
      v1::IoResult result;
      result.set_status(v1::IO_STATUS_CHECKSUM_ERROR);
      return result;
    });
  }
  CHECK(cluster.Read(0, 4096) == std::string(4096, 'x'));
  CHECK(failed);
  CHECK(Sum(Figures(&cluster), kRead, v1::LATENCY_STAGE_RETRY) > 0);
  for (auto& server : cluster.servers) server->SetScript(nullptr);
}

TEST_CASE("what the engine does by itself is no request", "[engine][latency]") {
  EngineOptions options = TestCluster::PatientOptions();
  options.flush_after = std::chrono::milliseconds(1);
  TestCluster cluster(1, options);
  REQUIRE(cluster.Write(0, std::string(4096, 'x')) == 0);
  while (cluster.servers[0]->counts().flushes == 0) std::this_thread::yield();
  (void)cluster.Read(0, 4096);  // its answer comes behind the flush's
  CHECK(Count(Figures(&cluster), kFlush) == 0);
  CHECK(Count(Figures(&cluster), kRead) == 1);
}

}  // namespace
}  // namespace tessera::sdc
