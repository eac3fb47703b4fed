// The limits of a volume in the engine: what is counted, and what a change does. Where real time
// passes, only that no less passes than must is asserted.
#include <atomic>
#include <catch2/catch.hpp>
#include <string>

#include "libchunk/seeded_random.h"
#include "services/common/io_cost.h"
#include "services/sdc/engine/test_cluster.h"
#include "services/sdc/rules/request_cost.h"

namespace tessera::sdc {
namespace {

// Limits that are new begin with nothing saved.
void SetLimits(TestCluster* cluster, uint32_t iops, uint64_t bandwidth) {
  cluster->OnLoop([&] {
    cluster->iops_limit = iops;
    cluster->bandwidth_limit_bytes = bandwidth;
    cluster->engine->SetGrant("test", cluster->MakeGrant());
  });
}

double SecondsSince(std::chrono::steady_clock::time_point began) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

TEST_CASE("servers count exactly what the client takes from its limits", "[engine][limits]") {
  TestCluster cluster(1, TestCluster::Forgetful());
  IoCost counted;
  cluster.servers[0]->SetScript([&](const v1::IoOperation& operation) {
    counted += CostOf(operation.type(), operation.length_bytes());
    return std::nullopt;
  });
  const uint64_t seed = GENERATE(41, 42);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  constexpr Command kCommands[] = {Command::kRead,        Command::kWrite,       Command::kTrim,
                                   Command::kWriteZeroes, Command::kBlockStatus, Command::kCache,
                                   Command::kFlush,       Command::kChanges};
  for (int i = 0; i < 300; ++i) {
    const Command command = kCommands[random.Below(std::size(kCommands))];
    const uint64_t unit = random.Below(2) == 0 ? 512 : 1;
    uint64_t length = unit * (1 + random.Below((random.Below(2) == 0 ? 2'000 : 150'000) / unit));
    const uint64_t offset = unit * random.Below((kVolumeBytes - length) / unit + 1);
    if (command == Command::kFlush) length = 0;
    const IoCost before = counted;
    const BlockReply reply =
        command == Command::kWrite
            ? cluster.Do(TestCluster::WriteRequest(offset, std::string(length, 'x')))
            : cluster.Do(
                  TestCluster::Simple(command, command == Command::kFlush ? 0 : offset, length));
    REQUIRE(reply.error == 0);
    const IoCost cost = RequestCost(command, {offset, offset + length}, kChunkBytes);
    INFO("command " << static_cast<int>(command) << " offset " << offset << " length " << length);
    REQUIRE(counted.operations - before.operations == Approx(cost.operations));
    REQUIRE(counted.bytes - before.bytes == cost.bytes);
  }
  cluster.servers[0]->SetScript(nullptr);
}

TEST_CASE("a limit holds from the grant on that has it", "[engine][limits]") {
  TestCluster cluster(1);
  REQUIRE(cluster.Write(0, std::string(4096, 'x')) == 0);
  const auto began = std::chrono::steady_clock::now();
  SetLimits(&cluster, 40, 0);
  for (uint64_t i = 0; i < 21; ++i) CHECK(cluster.Write(4096 * i, std::string(4096, 'y')) == 0);
  CHECK(SecondsSince(began) >= 20 / 40.0);
  // A flush waits for nothing.
  CHECK(cluster.Flush() == 0);
  cluster.OnLoop([&] {
    const VolumeStats& stats = cluster.engine->FindVolume(7)->stats();
    CHECK(stats.limited.Get() >= 15);
    CHECK(stats.limited_wait_micros.Get() > 0);
  });
}

TEST_CASE("better limits free at once what waits for the old ones", "[engine][limits]") {
  TestCluster cluster(1);
  SetLimits(&cluster, 0, 100);
  CHECK(cluster.Write(0, std::string(65'536, 'x')) == 0);  // and 655 s of debt
  std::atomic<int> error{-1};
  BlockRequest request = TestCluster::WriteRequest(0, std::string(4096, 'y'));
  request.done = [&error](const BlockReply& reply) { error = reply.error; };
  cluster.Start(std::move(request));
  cluster.OnLoop([&] {
    CHECK(cluster.engine->FindVolume(7)->WaitingFor().find("limit") != std::string::npos);
  });
  CHECK(error == -1);
  SECTION("higher ones") { SetLimits(&cluster, 0, 100'000'000); }
  SECTION("none") { SetLimits(&cluster, 0, 0); }
  CHECK(cluster.Read(0, 4096) == std::string(4096, 'y'));  // behind it
  CHECK(error == 0);
}

TEST_CASE("waiting for a limit is no time-out", "[engine][limits]") {
  EngineOptions options = TestCluster::PatientOptions();
  options.io_timeout = std::chrono::milliseconds(300);
  TestCluster cluster(1, options);
  SetLimits(&cluster, 0, 65'536);
  CHECK(cluster.Write(0, std::string(65'536, 'x')) == 0);
  const auto began = std::chrono::steady_clock::now();
  CHECK(cluster.Write(0, std::string(512, 'y')) == 0);
  CHECK(SecondsSince(began) > 0.5);
}

TEST_CASE("a client that ignores its limits can be made for tests", "[engine][limits]") {
  EngineOptions options = TestCluster::PatientOptions();
  options.ignore_limits = true;
  TestCluster cluster(1, options);
  SetLimits(&cluster, 1, 1);
  for (uint64_t i = 0; i < 50; ++i) CHECK(cluster.Write(0, std::string(4096, 'x')) == 0);
}

}  // namespace
}  // namespace tessera::sdc
