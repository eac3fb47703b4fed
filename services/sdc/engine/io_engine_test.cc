// The engine against scripted servers over real gRPC, with an MDM in the test's own hands.
#include "services/sdc/engine/io_engine.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <thread>

#include "libchunk/seeded_random.h"
#include "services/sdc/engine/test_cluster.h"

namespace tessera::sdc {
namespace {

TEST_CASE("what is written is read back and is on all replicas", "[engine]") {
  TestCluster cluster(2);
  const std::string bytes = Pattern(1, 3 * kChunkBytes);
  CHECK(cluster.Write(kChunkBytes / 2, bytes) == 0);
  CHECK(cluster.Read(kChunkBytes / 2, bytes.size()) == bytes);
  CHECK(cluster.Volume(0) == cluster.Volume(1));
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.servers[0]->counts().flushes == 1);
  CHECK(cluster.servers[1]->counts().flushes == 1);
  // Nothing new to flush.
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.servers[0]->counts().flushes == 1);
}

TEST_CASE("each server's answers are counted", "[engine]") {
  TestCluster cluster(2);
  CHECK(cluster.Write(0, Pattern(1, 3 * kChunkBytes)) == 0);
  CHECK(cluster.Read(0, kChunkBytes).size() == kChunkBytes);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Do(TestCluster::Simple(Command::kTrim, 0, kChunkBytes)).error == 0);
  cluster.OnLoop([&] {
    uint64_t reads = 0;
    size_t servers = 0;
    cluster.engine->ForEachStream([&](const SdsStream& stream) {
      ++servers;
      reads += stream.counters().reads.operations;
      CHECK(stream.counters().writes.operations == 4);  // the trim, too
      CHECK(stream.counters().flushes.operations == 1);
    });
    CHECK(servers == 2);
    CHECK(reads == 1);
  });
}

TEST_CASE("unaligned writes, zeroings and reads of any length do what they say", "[engine]") {
  const uint64_t seed = GENERATE(31, 32, 33);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  TestCluster cluster(2);
  std::string model(kVolumeBytes, '\0');
  for (int i = 0; i < 150; ++i) {
    const uint64_t offset = random.Below(kVolumeBytes);
    const uint64_t length = 1 + random.Below(std::min<uint64_t>(kVolumeBytes - offset, 100'000));
    switch (random.Below(4)) {
      case 0: {
        REQUIRE(cluster.Do(TestCluster::Simple(Command::kWriteZeroes, offset, length)).error == 0);
        model.replace(offset, length, length, '\0');
        break;
      }
      case 1: {
        const std::string bytes = Pattern(random.Next(), length);
        REQUIRE(cluster.Write(offset, bytes, random.Chance(1, 8)) == 0);
        model.replace(offset, length, bytes);
        break;
      }
      case 2: {
        const uint64_t small = std::min<uint64_t>(length, 700);
        const std::string bytes = Pattern(random.Next(), small);
        REQUIRE(cluster.Write(offset, bytes) == 0);
        model.replace(offset, small, bytes);
        break;
      }
      default:
        REQUIRE(cluster.Read(offset, length) == model.substr(offset, length));
    }
  }
  CHECK(cluster.Volume(0) == model);
  CHECK(cluster.Volume(1) == model);
}

TEST_CASE("a dead replica is reported and writes go on without it", "[engine]") {
  TestCluster cluster(2);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[1]->Stop();
  const std::string bytes = Pattern(2, kVolumeBytes);
  CHECK(cluster.Write(0, bytes) == 0);
  CHECK(cluster.Read(0, bytes.size()) == bytes);
  CHECK(cluster.Volume(0) == bytes);
  CHECK(cluster.InSync(0) == 1);
  CHECK(cluster.Flush() == 0);
}

TEST_CASE("a silent replica is reported after the detection time", "[engine]") {
  EngineOptions options;
  options.replica_timeout = std::chrono::milliseconds(300);
  TestCluster cluster(2, options);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[1]->Hold(true);
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  CHECK(cluster.InSync(PlacementGroupIndex(7, 0, kGroups)) == 1);
  cluster.servers[1]->Hold(false);
}

TEST_CASE("nothing is acknowledged without a reported replica while the MDM is away", "[engine]") {
  TestCluster cluster(2);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.away = true;
  cluster.servers[1]->Stop();
  std::atomic<bool> answered{false};
  BlockRequest request = TestCluster::WriteRequest(0, Pattern(2, 4096));
  request.done = [&answered](const BlockReply& reply) { answered = reply.error == 0; };
  cluster.Start(std::move(request));
  // The report has failed at least twice, and still no answer.
  while (cluster.reports_seen < 3) std::this_thread::yield();
  CHECK_FALSE(answered);
  cluster.away = false;
  CHECK(cluster.Write(4096, Pattern(3, 4096)) == 0);
  while (!answered) std::this_thread::yield();
  CHECK(cluster.Read(0, 4096) == Pattern(2, 4096));
}

TEST_CASE("the last replica is waited for", "[engine]") {
  TestCluster cluster(1);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[0]->Stop();
  std::atomic<bool> answered{false};
  BlockRequest request = TestCluster::WriteRequest(4096, Pattern(2, 4096));
  request.done = [&answered](const BlockReply& reply) { answered = reply.error == 0; };
  cluster.Start(std::move(request));
  while (cluster.reports_seen < 1) std::this_thread::yield();
  CHECK_FALSE(answered);
  cluster.servers[0]->Start();
  CHECK(cluster.Read(0, 4096) == Pattern(1, 4096));
  while (!answered) std::this_thread::yield();
  CHECK(cluster.Read(4096, 4096) == Pattern(2, 4096));
}

TEST_CASE("a stream that breaks gets the unanswered writes again, in order", "[engine]") {
  TestCluster cluster(2);
  std::atomic<int> answered{0};
  cluster.servers[1]->Hold(true);
  for (int i = 0; i < 64; ++i) {
    BlockRequest request = TestCluster::WriteRequest(0, Pattern(i, 8192));
    request.done = [&answered](const BlockReply& reply) { answered += reply.error == 0 ? 1 : 100; };
    cluster.Start(std::move(request));
  }
  cluster.servers[1]->Stop();
  cluster.servers[1]->Hold(false);
  cluster.servers[1]->Start();
  while (answered < 64) std::this_thread::yield();
  CHECK(answered == 64);
  CHECK(cluster.Read(0, 8192) == Pattern(63, 8192));
}

TEST_CASE("complaints of servers are dealt with", "[engine]") {
  TestCluster cluster(2);
  const auto refuse_some = [](v1::IoStatus status, v1::TokenRefusal refusal) {
    auto left = std::make_shared<int>(5);
    return [left, status, refusal](const v1::IoOperation&) -> std::optional<v1::IoResult> {
      if ((*left)-- <= 0) return std::nullopt;
      v1::IoResult result;
      result.set_status(status);
      result.set_refusal(refusal);
      return result;
    };
  };
  SECTION("overloaded") {
    cluster.servers[0]->SetScript(refuse_some(v1::IO_STATUS_OVERLOADED, {}));
  }
  SECTION("grant expired: renewed") {
    cluster.servers[0]->SetScript(
        refuse_some(v1::IO_STATUS_TOKEN_REFUSED, v1::TOKEN_REFUSAL_EXPIRED));
  }
  SECTION("grant forgotten: shown again") {
    cluster.servers[1]->SetScript(
        refuse_some(v1::IO_STATUS_TOKEN_REFUSED, v1::TOKEN_REFUSAL_NO_TOKEN));
  }
  SECTION("a newer generation: acquired anew, writes numbered anew") { cluster.RaiseGeneration(); }
  SECTION("data damaged on the way: sent again") {
    cluster.servers[1]->SetScript(
        refuse_some(v1::IO_STATUS_TOKEN_REFUSED, v1::TOKEN_REFUSAL_DATA_MISMATCH));
  }
  for (int i = 0; i < 20; ++i) {
    REQUIRE(cluster.Write(static_cast<uint64_t>(i) * 4096, Pattern(i, 4096)) == 0);
    REQUIRE(cluster.Read(static_cast<uint64_t>(i) * 4096, 4096) == Pattern(i, 4096));
  }
  CHECK(cluster.Volume(0) == cluster.Volume(1));
}

TEST_CASE("checksum errors: another replica serves; all of them: EIO", "[engine]") {
  TestCluster cluster(2);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  const auto bad = [](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
    if (operation.type() != v1::IO_OPERATION_TYPE_READ) return std::nullopt;
    v1::IoResult result;
    result.set_status(v1::IO_STATUS_CHECKSUM_ERROR);
    return result;
  };
  cluster.servers[0]->SetScript(bad);
  CHECK(cluster.Read(0, 4096) == Pattern(1, 4096));
  cluster.servers[1]->SetScript(bad);
  CHECK(cluster.Do(TestCluster::Simple(Command::kRead, 0, 4096)).error == EIO);
}

// Whether the operation reads (a part of) the 4 KiB block.
bool Covers(const v1::IoOperation& operation, uint32_t block) {
  return operation.type() == v1::IO_OPERATION_TYPE_READ &&
         operation.offset_bytes() < (block + 1) * 4096 &&
         operation.offset_bytes() + operation.length_bytes() > block * 4096;
}

std::function<std::optional<v1::IoResult>(const v1::IoOperation&)> BadBlocks(
    std::vector<uint32_t> blocks) {
  return [blocks =
              std::move(blocks)](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
    for (const uint32_t block : blocks) {
      if (!Covers(operation, block)) continue;
      v1::IoResult result;
      result.set_status(v1::IO_STATUS_CHECKSUM_ERROR);
      return result;
    }
    return std::nullopt;
  };
}

TEST_CASE(
    "each replica with another bad block: the read is put together; a lost block alone is EIO",
    "[engine]") {
  TestCluster cluster(2);
  CHECK(cluster.Write(0, Pattern(1, kChunkBytes)) == 0);
  cluster.servers[0]->SetScript(BadBlocks({1, 3}));
  cluster.servers[1]->SetScript(BadBlocks({2}));
  CHECK(cluster.Read(0, kChunkBytes) == Pattern(1, kChunkBytes));
  CHECK(cluster.Read(4096 + 512, 8192) == Pattern(1, kChunkBytes).substr(4096 + 512, 8192));
  cluster.servers[1]->SetScript(BadBlocks({2, 3}));
  CHECK(cluster.Do(TestCluster::Simple(Command::kRead, 0, kChunkBytes)).error == EIO);
  CHECK(cluster.Read(0, 2 * 4096) == Pattern(1, kChunkBytes).substr(0, 2 * 4096));
}

TEST_CASE("a write that cuts a bad block: EIO when it is bad everywhere, else the replica leaves",
          "[engine]") {
  TestCluster cluster(2);
  const auto refuse = [](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
    if (operation.type() != v1::IO_OPERATION_TYPE_WRITE) return std::nullopt;
    v1::IoResult result;
    result.set_status(v1::IO_STATUS_CHECKSUM_ERROR);
    return result;
  };
  const uint32_t index = PlacementGroupIndex(7, 0, kGroups);
  cluster.servers[1]->SetScript(refuse);
  SECTION("on one") {
    CHECK(cluster.Write(0, Pattern(1, 512)) == 0);
    CHECK(cluster.InSync(index) == 1);
  }
  SECTION("on both") {
    cluster.servers[0]->SetScript(refuse);
    CHECK(cluster.Write(0, Pattern(1, 512)) == EIO);
    CHECK(cluster.InSync(index) == 2);
  }
}

TEST_CASE("a device that fails is reported; full on all is ENOSPC, full on some is failed",
          "[engine]") {
  TestCluster cluster(2);
  const auto fail = [](v1::IoStatus status) {
    return [status](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
      if (operation.type() != v1::IO_OPERATION_TYPE_WRITE) return std::nullopt;
      v1::IoResult result;
      result.set_status(status);
      return result;
    };
  };
  const uint32_t index = PlacementGroupIndex(7, 0, kGroups);
  SECTION("failed") {
    cluster.servers[1]->SetScript(fail(v1::IO_STATUS_DEVICE_FAILED));
    CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
    CHECK(cluster.InSync(index) == 1);
  }
  SECTION("full here, not there") {
    cluster.servers[1]->SetScript(fail(v1::IO_STATUS_NO_SPACE));
    CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
    CHECK(cluster.InSync(index) == 1);
  }
  SECTION("full everywhere") {
    for (auto& server : cluster.servers) server->SetScript(fail(v1::IO_STATUS_NO_SPACE));
    CHECK(cluster.Write(0, Pattern(1, 4096)) == ENOSPC);
    CHECK(cluster.InSync(index) == 2);
  }
}

TEST_CASE("a store that lost unflushed writes is reported by the flush", "[engine]") {
  TestCluster cluster(2, TestCluster::Forgetful());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[1]->ReopenStore(true);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.InSync(PlacementGroupIndex(7, 0, kGroups)) == 1);
  CHECK(cluster.Read(0, 4096) == Pattern(1, 4096));
}

TEST_CASE("a last replica that was reopened: the flush says whether writes were lost", "[engine]") {
  TestCluster cluster(1, TestCluster::Forgetful());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  SECTION("they were") {
    cluster.servers[0]->ReopenStore(true);
    CHECK(cluster.Flush() == EIO);
  }
  SECTION("they were not") {
    cluster.servers[0]->ReopenStore(false);
    CHECK(cluster.Flush() == 0);
    CHECK(cluster.servers[0]->counts().flushes == 2);
  }
  CHECK(cluster.Write(4 * kChunkBytes, Pattern(2, 4096)) == 0);
}

TEST_CASE("all replicas lost acknowledged writes: IO goes on, and the next flush says so",
          "[engine]") {
  const size_t replicas = GENERATE(1, 2);
  TestCluster cluster(replicas, TestCluster::Forgetful());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Write(4096, Pattern(2, 4096)) == 0);
  CHECK(cluster.Write(4096, Pattern(3, 4096)) == 0);
  for (auto& server : cluster.servers) server->ReopenStore(true);
  CHECK(cluster.Write(8192, Pattern(4, 4096)) == 0);
  CHECK(cluster.grants_seen > 0);
  CHECK(cluster.Flush() == EIO);
  CHECK(cluster.Write(4096, Pattern(5, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Read(0, 4096) == Pattern(1, 4096));
  CHECK(cluster.Read(4096, 8192) == Pattern(5, 4096) + Pattern(4, 4096));
}

TEST_CASE("a flush that waits behind the one that tells of a loss tells of it too", "[engine]") {
  TestCluster cluster(1, TestCluster::Forgetful());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[0]->Stop();
  std::atomic<int> told{0};
  std::atomic<int> answered{0};
  const auto flush = [&] {
    BlockRequest request = TestCluster::Simple(Command::kFlush);
    request.done = [&told, &answered](const BlockReply& reply) {
      told += reply.error == EIO ? 1 : 0;
      ++answered;
    };
    cluster.Start(std::move(request));
  };
  flush();
  while (cluster.reports_seen < 1) std::this_thread::yield();
  flush();
  cluster.OnLoop([] {});
  cluster.servers[0]->ReopenStore(true);
  cluster.servers[0]->Start();
  cluster.PublishAddresses();
  while (answered < 2) std::this_thread::yield();
  CHECK(told == 2);
  CHECK(cluster.Flush() == 0);
}

TEST_CASE("each client is told of a loss once, whatever others were told", "[engine]") {
  TestCluster cluster(1, TestCluster::Forgetful());
  const auto open = [&cluster] {
    std::shared_ptr<LossCursor> cursor;
    cluster.OnLoop([&] { cursor = cluster.engine->Find("test")->OpenCursor(); });
    return cursor;
  };
  const auto flush = [&cluster](const std::shared_ptr<LossCursor>& client) {
    BlockRequest request = TestCluster::Simple(Command::kFlush);
    request.client = client;
    return cluster.Do(std::move(request)).error;
  };
  const auto first = open();
  const auto second = open();
  const auto gone = open();
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(flush(first) == 0);
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  cluster.servers[0]->ReopenStore(true);
  // One that has gone does not hear what it is answered.
  cluster.OnLoop([&gone] { gone->closed = true; });
  CHECK(flush(gone) == EIO);
  const auto before = open();
  CHECK(flush(first) == EIO);
  const auto after = open();
  for (const auto& client : {second, before}) CHECK(flush(client) == EIO);
  for (const auto& client : {first, second, before, after}) CHECK(flush(client) == 0);
  CHECK(cluster.Flush() == 0);
}

TEST_CASE("the first flush covers what an earlier client wrote where this one wrote nothing",
          "[engine]") {
  TestCluster cluster(2);
  CHECK(cluster.Flush() == 0);
  for (auto& server : cluster.servers) CHECK(server->counts().flushes == 1);
  CHECK(cluster.Flush() == 0);
  for (auto& server : cluster.servers) CHECK(server->counts().flushes == 1);
}

TEST_CASE("a replica that learned from one without its unflushed writes hides no loss",
          "[engine]") {
  TestCluster cluster(2, TestCluster::Forgetful());
  const uint32_t index = PlacementGroupIndex(7, 0, kGroups);
  const std::string flushed = Pattern(1, 4096);
  CHECK(cluster.Write(0, flushed) == 0);
  CHECK(cluster.Flush() == 0);
  // The second server leaves; the first one answers a write, and loses it with its power.
  cluster.Change(index, [](v1::PlacementGroup& entry) {
    entry.mutable_replicas(1)->set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
    entry.set_epoch(entry.epoch() + 1);
  });
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  cluster.servers[0]->ReopenStore(true);
  // The second one learns from it, and takes its place before the client hears of anything.
  cluster.servers[1]->CopyGroup(*cluster.servers[0], PlacementGroupId(kPool, index), {0});
  cluster.Change(index, [](v1::PlacementGroup& entry) {
    entry.set_loss_epoch(entry.epoch() + 1);
    entry.set_epoch(entry.epoch() + 4);
    entry.mutable_replicas(0)->set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
    entry.mutable_replicas(1)->set_role(v1::REPLICA_ROLE_IN_SYNC);
  });
  CHECK(cluster.Flush() == EIO);
  CHECK(cluster.Read(0, 4096) == flushed);
  // Told once; an entry of later that still names it is no other loss.
  CHECK(cluster.Write(0, Pattern(3, 4096)) == 0);
  cluster.Change(index, [](v1::PlacementGroup& entry) { entry.set_epoch(entry.epoch() + 1); });
  CHECK(cluster.Flush() == 0);
  // With nothing uncovered there is nothing to lose.
  cluster.Change(index, [](v1::PlacementGroup& entry) {
    entry.set_epoch(entry.epoch() + 1);
    entry.set_loss_epoch(entry.epoch());
  });
  CHECK(cluster.Flush() == 0);
}

TEST_CASE("a write of which a part is lost before the rest is done is not answered OK",
          "[engine]") {
  TestCluster cluster(1, TestCluster::Forgetful());
  const uint32_t index = PlacementGroupIndex(7, 0, kGroups);
  REQUIRE(PlacementGroupIndex(7, 1, kGroups) != index);
  std::atomic<bool> hold{true};
  std::atomic<bool> seen{false};
  cluster.servers[0]->SetScript(
      [&](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
        if (!hold || operation.chunk_index() != 1) return std::nullopt;
        seen = true;
        v1::IoResult result;
        result.set_status(v1::IO_STATUS_OVERLOADED);
        return result;
      });
  BlockRequest request = TestCluster::WriteRequest(kChunkBytes - 4096, Pattern(1, 8192));
  std::atomic<int> error{-1};
  request.done = [&error](const BlockReply& reply) { error = reply.error; };
  cluster.Start(std::move(request));
  while (!seen) std::this_thread::yield();
  // Acknowledged in order: the first part is, when this is.
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  cluster.servers[0]->ReopenStore(true);
  cluster.Change(index, [](v1::PlacementGroup& entry) {
    entry.set_epoch(entry.epoch() + 1);
    entry.set_loss_epoch(entry.epoch());
  });
  hold = false;
  while (error < 0) std::this_thread::yield();
  CHECK(error == EIO);
  CHECK(cluster.Flush() == EIO);
  CHECK(cluster.Flush() == 0);
}

TEST_CASE("a volume that was dropped sends nothing more, whoever still holds it", "[engine]") {
  TestCluster cluster(1);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[0]->Stop();
  std::atomic<int> error{0};
  BlockRequest request = TestCluster::Simple(Command::kRead, 0, 4096);
  request.done = [&error](const BlockReply& reply) { error = reply.error; };
  std::shared_ptr<VolumeEngine> held;
  std::atomic<bool> detached{false};
  cluster.OnLoop([&] {
    held = cluster.engine->FindVolume(7);
    held->Submit(std::move(request));
  });
  cluster.OnLoop([&] { cluster.engine->Detach(7, true, [&detached] { detached = true; }); });
  while (!detached) std::this_thread::yield();
  CHECK(error == ESHUTDOWN);
  // The server is back, and another volume's engine has a stream to it.
  cluster.servers[0]->Start();
  cluster.PublishAddresses();
  const uint64_t before = cluster.servers[0]->counts().reads;
  cluster.OnLoop([&] { cluster.engine->SetGrant("test", cluster.MakeGrant()); });
  CHECK(cluster.Read(0, 4096) == Pattern(1, 4096));
  cluster.PassTime(std::chrono::milliseconds(50));  // more than it waits between tries
  CHECK(cluster.servers[0]->counts().reads == before + 1);
  cluster.OnLoop([&held] { held.reset(); });
}

TEST_CASE("a flush that waits for the last replica reports it at a measured pace", "[engine]") {
  TestCluster cluster(1);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[0]->Stop();
  std::atomic<bool> answered{false};
  BlockRequest request = TestCluster::Simple(Command::kFlush);
  request.done = [&answered](const BlockReply& reply) { answered = reply.error == 0; };
  const auto began = std::chrono::steady_clock::now();
  cluster.Start(std::move(request));
  while (cluster.reports_seen < 6) std::this_thread::yield();
  // At the pace of new connections (50, 100, 200, 400 ms ..), not at that of the flush's retries.
  CHECK(std::chrono::steady_clock::now() - began > std::chrono::milliseconds(600));
  cluster.servers[0]->Start();
  cluster.PublishAddresses();
  while (!answered) std::this_thread::yield();
}

TEST_CASE("a flush does not hang when the report of a lost replica gets lost", "[engine]") {
  TestCluster cluster(1, TestCluster::Forgetful());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[0]->ReopenStore(true);
  cluster.away = true;
  std::atomic<int> error{-1};
  BlockRequest request = TestCluster::Simple(Command::kFlush);
  request.done = [&error](const BlockReply& reply) { error = reply.error; };
  cluster.Start(std::move(request));
  while (cluster.reports_seen < 1) std::this_thread::yield();
  cluster.away = false;
  while (error == -1) std::this_thread::yield();
  CHECK(error == EIO);
}

TEST_CASE("a server that says nothing any more is given up for all that waits for it, at once",
          "[engine]") {
  EngineOptions options = TestCluster::PatientOptions();
  options.replica_timeout = std::chrono::seconds(1);
  TestCluster cluster(2, options);
  for (uint64_t chunk = 0; chunk < 8; ++chunk) {
    CHECK(cluster.Write(chunk * kChunkBytes, Pattern(chunk, 4096)) == 0);
  }
  cluster.servers[1]->Hold(true);
  CHECK(cluster.Write(0, Pattern(9, 4096)) == 0);
  // What is written now, to whatever group, does not wait for the time-out once more.
  const auto began = std::chrono::steady_clock::now();
  for (uint64_t chunk = 1; chunk < 8; ++chunk) {
    CHECK(cluster.Write(chunk * kChunkBytes, Pattern(10 + chunk, 4096)) == 0);
  }
  const auto took = std::chrono::steady_clock::now() - began;
  CHECK(cluster.engine->reconnects() > 0);
  INFO("took " << std::chrono::duration_cast<std::chrono::milliseconds>(took).count() << " ms");
  cluster.servers[1]->Hold(false);
  for (uint32_t index = 0; index < kGroups; ++index) CHECK(cluster.InSync(index) == 1);
}

TEST_CASE("block status, trim, cache, rate limit and detach", "[engine]") {
  TestCluster cluster(2);
  CHECK(cluster.Write(kChunkBytes, Pattern(1, 4096)) == 0);
  const BlockReply status =
      cluster.Do(TestCluster::Simple(Command::kBlockStatus, 100, 3 * kChunkBytes - 100));
  REQUIRE(status.error == 0);
  REQUIRE(status.extents.size() == 3);
  CHECK(status.extents[0].hole);
  CHECK(status.extents[0].length_bytes == kChunkBytes - 100);
  CHECK_FALSE(status.extents[1].hole);
  CHECK(status.extents[2].zero);
  CHECK(cluster.Do(TestCluster::Simple(Command::kTrim, 0, kVolumeBytes)).error == 0);
  CHECK(cluster.Do(TestCluster::Simple(Command::kTrim, 10, 100)).error == 0);
  CHECK(cluster.Read(kChunkBytes, 4096) == std::string(4096, '\0'));
  CHECK(cluster.Do(TestCluster::Simple(Command::kCache, 0, kVolumeBytes)).error == 0);
  CHECK(cluster.Do(TestCluster::Simple(Command::kRead, kVolumeBytes, 1)).error == EINVAL);
  const BlockReply empty = cluster.Do(TestCluster::Simple(Command::kRead, 0, 0));
  CHECK(empty.error == 0);

  std::atomic<bool> gone{false};
  CHECK(cluster.Write(0, Pattern(5, 4096)) == 0);
  const uint64_t flushes = cluster.servers[0]->counts().flushes;
  cluster.OnLoop([&] { cluster.engine->Detach(7, false, [&gone] { gone = true; }); });
  while (!gone) std::this_thread::yield();
  CHECK(cluster.servers[0]->counts().flushes == flushes + 1);
  cluster.OnLoop([&] { CHECK(cluster.engine->Find("test") == nullptr); });
}

TEST_CASE("changes against a base come from any replica in sync, merged", "[engine]") {
  EngineOptions options;
  options.replica_timeout = std::chrono::milliseconds(300);
  TestCluster cluster(2, options);
  CHECK(cluster.Write(kChunkBytes, Pattern(1, 2 * kChunkBytes)) == 0);
  const auto compare = [&](std::vector<token::PathPart> base) {
    BlockRequest request = TestCluster::Simple(Command::kChanges, 0, 4 * kChunkBytes);
    if (!base.empty()) request.base = std::make_shared<ComparisonBase>(std::move(base));
    BlockReply reply = cluster.Do(std::move(request));
    CHECK(reply.message.empty());
    REQUIRE(reply.error == 0);
    std::string text;
    for (const StatusExtent& extent : reply.extents) {
      text += std::string(extent.changed ? "+" : "=") + (extent.hole ? "." : "") +
              std::to_string(extent.length_bytes / kChunkBytes) + " ";
    }
    return text;
  };
  CHECK(compare({}) == "=.1 +2 =.1 ");
  CHECK(compare({{.branch = 0, .ordinal_max = 3}}) == "=.1 =2 =.1 ");
  CHECK(compare({{.branch = 2, .ordinal_max = 3}, {.branch = 0, .ordinal_max = 1}}) ==
        "=.1 +2 =.1 ");
  // A server that does not answer is passed over, as for reads; what one says nothing of differs.
  cluster.servers[0]->Hold(true);
  CHECK(compare({{.branch = 0, .ordinal_max = 3}}) == "=.1 =2 =.1 ");
  cluster.servers[0]->Hold(false);
  for (auto& server : cluster.servers) {
    server->SetScript([](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
      if (operation.type() != v1::IO_OPERATION_TYPE_CHANGES) return std::nullopt;
      v1::IoResult result;
      result.set_tag(operation.tag());
      result.set_status(v1::IO_STATUS_OK);
      v1::ChunkExtent* extent = result.add_extents();
      extent->set_length_bytes(operation.chunk_index() == 1 ? 4096 : 2 * kChunkBytes);
      return result;
    });
  }
  CHECK(compare({{.branch = 0, .ordinal_max = 3}}) == "=.1 +0 =.2 ");
  for (auto& server : cluster.servers) server->SetScript(nullptr);
}

TEST_CASE("requests in flight are dropped with ESHUTDOWN by a forced detach", "[engine]") {
  TestCluster cluster(1);
  cluster.servers[0]->Hold(true);
  std::atomic<int> error{-1};
  BlockRequest request = TestCluster::WriteRequest(0, Pattern(1, 4096));
  request.done = [&error](const BlockReply& reply) { error = reply.error; };
  cluster.Start(std::move(request));
  std::atomic<bool> gone{false};
  cluster.OnLoop([&] { cluster.engine->Detach(7, true, [&gone] { gone = true; }); });
  while (!gone) std::this_thread::yield();
  CHECK(error == ESHUTDOWN);
  cluster.servers[0]->Hold(false);
}

TEST_CASE("with an io timeout a request fails instead of waiting", "[engine]") {
  EngineOptions options;
  options.io_timeout = std::chrono::milliseconds(300);
  TestCluster cluster(1, options);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[0]->Stop();
  CHECK(cluster.Write(0, Pattern(2, 4096)) == EIO);
  CHECK(cluster.Do(TestCluster::Simple(Command::kRead, 0, 4096)).error == EIO);
}

// Writers at many offsets at once while servers stop, come back, forget the stream's state, hold
// back and refuse. Each sector is written by one request at a time, so what must be there is known.
TEST_CASE("random faults: every acknowledged write is on every member, reads see the last one",
          "[engine]") {
  const uint64_t seed = GENERATE(41, 42, 43, 44, 45, 46);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  TestCluster cluster(2);
  constexpr uint64_t kSlot = 4096;
  constexpr size_t kSlots = kVolumeBytes / kSlot;
  struct Slot {
    std::string content = std::string(kSlot, '\0');
    std::string next;
    std::atomic<bool> busy{false};
  };
  std::vector<Slot> slots(kSlots);
  std::atomic<int> errors{0};
  size_t down = SIZE_MAX;  // the server that is out
  for (int round = 0; round < 25; ++round) {
    for (int i = 0; i < 40; ++i) {
      Slot& slot = slots[random.Below(kSlots)];
      if (slot.busy) continue;
      slot.busy = true;
      slot.next = Pattern(random.Next(), kSlot);
      BlockRequest request = TestCluster::WriteRequest(
          static_cast<uint64_t>(&slot - slots.data()) * kSlot, slot.next, random.Chance(1, 10));
      request.done = [&slot, &errors](const BlockReply& reply) {
        errors += reply.error != 0 ? 1 : 0;
        slot.content = slot.next;
        slot.busy = false;
      };
      cluster.Start(std::move(request));
    }
    const size_t victim = random.Below(2);
    switch (random.Below(6)) {
      case 0:  // a crash and a quick restart
        if (down == SIZE_MAX) {
          cluster.servers[victim]->Stop();
          cluster.servers[victim]->Start();
          cluster.servers[victim]->ReopenStore(false);
          cluster.PublishAddresses();
        }
        break;
      case 1:
        if (down == SIZE_MAX) {
          cluster.servers[victim]->Stop();
          down = victim;
        }
        break;
      case 2:
        cluster.RaiseGeneration();
        break;
      case 3:
        CHECK(cluster.Flush() == 0);
        break;
      default:
        break;
    }
    // Quiet: everything completes, and members agree.
    for (const Slot& slot : slots) {
      while (slot.busy) std::this_thread::yield();
    }
    REQUIRE(errors == 0);
    for (int i = 0; i < 5; ++i) {
      const size_t which = random.Below(kSlots);
      REQUIRE(cluster.Read(which * kSlot, kSlot) == slots[which].content);
    }
    std::string expected;
    for (const Slot& slot : slots) expected += slot.content;
    for (size_t server = 0; server < 2; ++server) {
      if (server == down ||
          cluster.InSync(0) + cluster.InSync(1) + cluster.InSync(2) + cluster.InSync(3) <
              2 * kGroups) {
        continue;
      }
      REQUIRE(cluster.Volume(server) == expected);
    }
    // Bring both back as members, equal.
    if (down != SIZE_MAX) cluster.servers[down]->Start();
    down = SIZE_MAX;
    CHECK(cluster.Flush() == 0);
    // Until the client has found the restarted one: before that it would report it again.
    do {
      cluster.RestoreMembers();
      REQUIRE(cluster.Write(0, expected) == 0);
    } while (cluster.InSync(0) + cluster.InSync(1) + cluster.InSync(2) + cluster.InSync(3) <
             2 * kGroups);
  }
}

}  // namespace
}  // namespace tessera::sdc
