// A client that is killed and started again goes on as if it had been paused.
#include <catch2/catch.hpp>

#include "services/sdc/engine/test_cluster.h"

namespace tessera::sdc {
namespace {

EngineOptions Keeping() { return TestCluster::PatientOptions(); }

uint64_t Writes(const TestCluster& cluster) {
  uint64_t count = 0;
  for (const auto& server : cluster.servers) count += server->counts().writes;
  return count;
}
uint64_t Refused(const TestCluster& cluster) {
  uint64_t count = 0;
  for (const auto& server : cluster.servers) count += server->counts().refused;
  return count;
}
uint64_t FirstGroup() { return PlacementGroupIndex(7, 0, kGroups); }

// Everything is taken, no flush is done.
std::optional<v1::IoResult> RefuseFlush(const v1::IoOperation& operation) {
  if (operation.type() != v1::IO_OPERATION_TYPE_FLUSH) return std::nullopt;
  v1::IoResult result;
  result.set_status(v1::IO_STATUS_OVERLOADED);
  return result;
}

void LosePower(TestCluster& cluster) {
  for (auto& server : cluster.servers) server->ReopenStore(true);
}

TEST_CASE("a restarted client goes on without the MDM", "[engine]") {
  TestCluster cluster(2, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 8192)) == 0);
  CHECK(cluster.Read(0, 8192) == Pattern(1, 8192));
  cluster.away = true;
  cluster.Kill();
  REQUIRE(cluster.StartAgain() == 1);
  CHECK(cluster.Read(0, 8192) == Pattern(1, 8192));
  CHECK(cluster.Write(4096, Pattern(2, 4096)) == 0);
  CHECK(cluster.Do(TestCluster::Simple(Command::kTrim, 0, 512)).error == 0);
  CHECK(cluster.Flush() == 0);
  const std::string expected =
      std::string(512, '\0') + Pattern(1, 8192).substr(512, 3584) + Pattern(2, 4096);
  CHECK(cluster.Read(0, 8192) == expected);
  for (auto& server : cluster.servers) CHECK(server->Chunk(0).substr(0, 8192) == expected);
  CHECK(cluster.grants_seen == 0);
  // No counter was used twice, no sequence left out.
  CHECK(Refused(cluster) == 0);
}

TEST_CASE("what was not answered is sent again by the next life, once", "[engine]") {
  TestCluster cluster(2, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  // One has taken it when the client dies, one has not.
  cluster.servers[1]->Hold(true);
  const uint64_t before = Writes(cluster);
  cluster.Start(TestCluster::WriteRequest(0, Pattern(2, 4096)));
  cluster.Start(TestCluster::Simple(Command::kWriteZeroes, 4096, 512));
  while (Writes(cluster) < before + 2) cluster.PassTime(std::chrono::milliseconds(1));
  cluster.Kill();
  cluster.servers[1]->Hold(false);
  cluster.away = true;
  REQUIRE(cluster.StartAgain() == 1);
  CHECK(cluster.Read(0, 4096) == Pattern(2, 4096));
  CHECK(cluster.Flush() == 0);
  for (auto& server : cluster.servers) CHECK(server->Chunk(0).substr(0, 4096) == Pattern(2, 4096));
  CHECK(Writes(cluster) == before + 4);
}

TEST_CASE("a read waits for an earlier life's write of the same place", "[engine]") {
  TestCluster cluster(2, Keeping());
  cluster.servers[1]->Hold(true);
  cluster.Start(TestCluster::WriteRequest(0, Pattern(2, 4096)));
  while (cluster.servers[0]->counts().writes == 0) {
    cluster.PassTime(std::chrono::milliseconds(1));
  }
  cluster.Kill();
  REQUIRE(cluster.StartAgain() == 1);
  std::atomic<bool> read{false};
  BlockRequest request = TestCluster::Simple(Command::kRead, 0, 4096);
  request.done = [&read](const BlockReply&) { read = true; };
  cluster.Start(std::move(request));
  cluster.PassTime(std::chrono::milliseconds(300));
  CHECK_FALSE(read);
  cluster.servers[1]->Hold(false);
  while (!read) cluster.PassTime(std::chrono::milliseconds(1));
  CHECK(cluster.servers[1]->Chunk(0).substr(0, 4096) == Pattern(2, 4096));
}

TEST_CASE("what an earlier life had answered survives power loss of all servers", "[engine]") {
  const size_t replicas = GENERATE(1, 2);
  TestCluster cluster(replicas, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  CHECK(cluster.Write(4096, Pattern(3, 4096), true) == 0);
  CHECK(cluster.Write(512, Pattern(4, 512)) == 0);
  cluster.away = true;
  cluster.Kill([&cluster] { LosePower(cluster); });
  REQUIRE(cluster.StartAgain() == 1);
  const std::string expected = Pattern(2, 4096).replace(512, 512, Pattern(4, 512));
  SECTION("read at once") { CHECK(cluster.Read(0, 4096) == expected); }
  SECTION("flushed at once") {}
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Read(0, 4096) == expected);
  LosePower(cluster);
  for (auto& server : cluster.servers) CHECK(server->Chunk(0).substr(0, 4096) == expected);
  CHECK(cluster.engine->metrics().unflushed_bytes.Get() == 0);
  CHECK(cluster.reports_seen == 0);
}

// Reads of a replica that left would show what it has missed since.
TEST_CASE("a restarted client acts on the newest map that its earlier life knew", "[engine]") {
  TestCluster cluster(2, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.Change(FirstGroup(), [](v1::PlacementGroup& entry) {
    entry.set_epoch(entry.epoch() + 1);
    entry.mutable_replicas(1)->set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
  });
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  const uint64_t asked = cluster.servers[1]->counts().reads;
  cluster.away = true;
  cluster.Kill();
  REQUIRE(cluster.StartAgain() == 1);
  for (int i = 0; i < 8; ++i) CHECK(cluster.Read(0, 4096) == Pattern(2, 4096));
  CHECK(cluster.servers[1]->counts().reads == asked);
  CHECK(Refused(cluster) == 0);
}

TEST_CASE("what was flushed is not kept for the next life", "[engine]") {
  TestCluster cluster(1, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  cluster.Kill();
  REQUIRE(cluster.StartAgain() == 1);
  CHECK(cluster.engine->metrics().writes_resumed.Get() == 0);
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  CHECK(cluster.servers[0]->counts().duplicates == 0);
}

// The map tells of the loss only after the restart.
TEST_CASE("a loss of what an earlier life had answered and not kept is told", "[engine]") {
  EngineOptions options = TestCluster::Forgetful();
  bool lost = true;
  SECTION("nothing is kept") {}
  SECTION("not all is kept") { options.unflushed_bytes = 5'000; }
  SECTION("it was flushed") { lost = false; }
  TestCluster cluster(1, options);
  CHECK(cluster.Flush() == 0);
  if (lost) cluster.servers[0]->SetScript(RefuseFlush);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  if (!lost) CHECK(cluster.Flush() == 0);
  cluster.Kill([&cluster] { LosePower(cluster); });
  cluster.servers[0]->SetScript(nullptr);
  REQUIRE(cluster.StartAgain() == 1);
  cluster.Change(FirstGroup(), [](v1::PlacementGroup& entry) {
    entry.set_epoch(entry.epoch() + 1);
    entry.set_loss_epoch(entry.epoch());
  });
  CHECK(cluster.Flush() == (lost ? EIO : 0));
  CHECK(cluster.Flush() == 0);
}

TEST_CASE("a loss is told to those who had not heard of it when the client died", "[engine]") {
  TestCluster cluster(1, TestCluster::Forgetful());
  CHECK(cluster.Flush() == 0);
  std::shared_ptr<LossCursor> first;
  std::shared_ptr<LossCursor> second;
  cluster.OnLoop([&] {
    first = cluster.engine->Find("test")->OpenCursor();
    second = cluster.engine->Find("test")->OpenCursor();
  });
  const auto flush = [&cluster](const std::shared_ptr<LossCursor>& client) {
    BlockRequest request = TestCluster::Simple(Command::kFlush);
    request.client = client;
    return cluster.Do(std::move(request)).error;
  };
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  LosePower(cluster);
  cluster.Change(FirstGroup(), [](v1::PlacementGroup& entry) {
    entry.set_epoch(entry.epoch() + 1);
    entry.set_loss_epoch(entry.epoch());
  });
  int again = EIO;
  SECTION("nobody has heard") {}
  SECTION("one has heard") { CHECK(flush(first) == EIO); }
  SECTION("all have heard") {
    CHECK(flush(first) == EIO);
    CHECK(flush(second) == EIO);
    again = 0;
  }
  SECTION("one has heard, the other is gone") {
    second->closed = true;
    CHECK(flush(first) == EIO);
    again = 0;
  }
  cluster.Kill();
  REQUIRE(cluster.StartAgain() == 1);
  CHECK(cluster.Flush() == again);
  CHECK(cluster.Flush() == 0);
}

TEST_CASE("a client whose generation moved on meanwhile numbers its writes anew", "[engine]") {
  TestCluster cluster(2, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  for (auto& server : cluster.servers) server->Hold(true);
  cluster.Start(TestCluster::WriteRequest(0, Pattern(2, 4096)));
  cluster.Start(TestCluster::WriteRequest(4096, Pattern(3, 4096)));
  cluster.PassTime(std::chrono::milliseconds(20));
  cluster.Kill([&cluster] {
    for (auto& server : cluster.servers) server->Stop();
    for (auto& server : cluster.servers) server->Hold(false);
  });
  cluster.RaiseGenerationMeanwhile();
  for (auto& server : cluster.servers) server->Start();
  SECTION("once") { REQUIRE(cluster.StartAgain() == 1); }
  SECTION("and is killed once more") {
    REQUIRE(cluster.StartAgain() == 1);
    CHECK(cluster.Read(0, 4096) == Pattern(2, 4096));
    cluster.Kill();
    cluster.away = true;
    REQUIRE(cluster.StartAgain() == 1);
  }
  cluster.PublishAddresses();
  CHECK(cluster.Read(0, 8192) == Pattern(2, 4096) + Pattern(3, 4096));
  CHECK(cluster.Write(8192, Pattern(4, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.grants_seen > 0);
}

TEST_CASE("a volume that was detached is not gone on with", "[engine]") {
  TestCluster cluster(1, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  size_t resumed = 0;
  SECTION("by an administrator") {}
  SECTION("unless the process ends in good order") {
    resumed = 1;
    cluster.OnLoop([&cluster] { cluster.engine->KeepRecords(); });
  }
  REQUIRE(AskLoop<bool>(cluster.loop(), kPatience, [&cluster](auto answer) {
            cluster.engine->Detach(7, false,
                                   [answer = std::move(answer)]() mutable { answer(true); });
          }).ok());
  cluster.Kill();
  REQUIRE(cluster.StartAgain() == resumed);
  if (resumed == 1) CHECK(cluster.Read(0, 4096) == Pattern(1, 4096));
}

TEST_CASE("writes for which the file has no room go on, and end the resuming meanwhile",
          "[engine]") {
  TestCluster cluster(1, Keeping());
  cluster.servers[0]->SetScript(RefuseFlush);
  cluster.memory().set_full(true);
  // In a place that was not touched yet.
  for (uint64_t offset = 0; offset < kVolumeBytes; offset += kChunkBytes) {
    CHECK(cluster.Write(offset, Pattern(offset, kChunkBytes)) == 0);
  }
  CHECK(cluster.engine->metrics().writes_outside.Get() > 0);
  size_t resumed = 0;
  SECTION("while they are kept") {}
  SECTION("until they are durable") {
    cluster.servers[0]->SetScript(nullptr);
    CHECK(cluster.Flush() == 0);
    resumed = 1;
  }
  cluster.Kill();
  CHECK(cluster.StartAgain() == resumed);
}

TEST_CASE("the grant of another client is not used", "[engine]") {
  TestCluster cluster(1, Keeping());
  cluster.Kill();
  CHECK(cluster.StartAgain(2) == 0);
  CHECK(cluster.StartAgain() == 0);  // it was forgotten
}

}  // namespace
}  // namespace tessera::sdc
