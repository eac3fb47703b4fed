// Acknowledged writes survive power loss of all replicas while the client lives.
#include <catch2/catch.hpp>

#include "services/sdc/engine/test_cluster.h"

namespace tessera::sdc {
namespace {

EngineOptions Keeping() {
  EngineOptions options = TestCluster::PatientOptions();
  options.unflushed_bytes = 64u << 20;
  return options;
}

// No flush is done, by nobody.
std::optional<v1::IoResult> RefuseFlush(const v1::IoOperation& operation) {
  if (operation.type() != v1::IO_OPERATION_TYPE_FLUSH) return std::nullopt;
  v1::IoResult result;
  result.set_status(v1::IO_STATUS_OVERLOADED);
  return result;
}

TEST_CASE("replicas that lost acknowledged writes get them again", "[engine]") {
  const size_t replicas = GENERATE(1, 2);
  TestCluster cluster(replicas, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Write(4096, Pattern(2, 4096)) == 0);
  CHECK(cluster.Write(4096, Pattern(3, 4096)) == 0);
  CHECK(cluster.Do(TestCluster::Simple(Command::kWriteZeroes, 0, 512)).error == 0);
  for (auto& server : cluster.servers) server->ReopenStore(true);
  SECTION("with the next write") { CHECK(cluster.Write(8192, Pattern(4, 4096)) == 0); }
  SECTION("with the flush") {}
  CHECK(cluster.Flush() == 0);
  const std::string expected =
      std::string(512, '\0') + Pattern(1, 4096).substr(512) + Pattern(3, 4096);
  CHECK(cluster.Read(0, 8192) == expected);
  for (auto& server : cluster.servers) CHECK(server->Chunk(0).substr(0, 8192) == expected);
  CHECK(cluster.grants_seen == 0);
  CHECK(cluster.reports_seen == 0);
  CHECK(cluster.engine->metrics().replicas_caught_up.Get() > 0);
  CHECK(cluster.engine->metrics().unflushed_bytes.Get() == 0);
}

TEST_CASE("one replica that lost its tail catches up without leaving the set", "[engine]") {
  TestCluster cluster(2, Keeping());
  CHECK(cluster.Write(4096, Pattern(1, 4096)) == 0);
  // Covers what an earlier client may have left: nobody could give that again.
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[1]->ReopenStore(true);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.InSync(PlacementGroupIndex(7, 0, kGroups)) == 2);
  CHECK(cluster.servers[1]->Chunk(0).substr(0, 4096) == Pattern(1, 4096));
}

// What is kept makes the loss that the map tells of none, until a new generation drops it. The
// replica that has lost it goes then, and the one that learned from it has never answered anything.
TEST_CASE("kept writes that a new generation drops are lost if the last replica was", "[engine]") {
  TestCluster cluster(2, Keeping());
  const auto group = static_cast<uint32_t>(PlacementGroupIndex(7, 0, kGroups));
  cluster.Change(group, [](v1::PlacementGroup& entry) {
    entry.set_epoch(entry.epoch() + 1);
    entry.mutable_replicas(1)->set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
  });
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  cluster.servers[0]->Stop();
  cluster.servers[0]->ReopenStore(true);
  cluster.Change(group, [](v1::PlacementGroup& entry) {
    entry.set_epoch(entry.epoch() + 1);
    entry.set_loss_epoch(entry.epoch());
  });
  int told = 0;
  std::atomic<int> waited = 0;
  SECTION("dropped") {
    told = EIO;
    const auto drop = [&cluster] {
      cluster.RaiseGeneration();
      cluster.OnLoop([&cluster] { cluster.engine->SetGrant("test", cluster.MakeGrant()); });
    };
    SECTION("while a flush waits") {
      // Nothing but the grant tells that its round is over.
      cluster.RestoreMembers();
      waited = -1;
      BlockRequest flush = TestCluster::Simple(Command::kFlush);
      flush.done = [&waited](const BlockReply& reply) { waited = reply.error; };
      cluster.Start(std::move(flush));
      // The round has begun once the loop has turned twice.
      for (int turn = 0; turn < 2; ++turn) cluster.OnLoop([] {});
      drop();
      while (waited == -1) std::this_thread::yield();
    }
    SECTION("while none waits") {
      drop();
      cluster.RestoreMembers();
    }
  }
  SECTION("given again") {}
  cluster.servers[0]->Start();
  cluster.PublishAddresses();
  if (waited == 0) CHECK(cluster.Flush() == told);
  CHECK((waited == 0 || waited == EIO));
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Read(0, 4096) == Pattern(told == 0 ? 2 : 1, 4096));
}

// What an earlier client wrote, and nothing covers, may be lost with it: that is told. What this
// one has kept is given again all the same, whether a flush waits meanwhile or not.
TEST_CASE("kept writes survive a loss of what came before them", "[engine]") {
  TestCluster cluster(1, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[0]->Stop();
  cluster.servers[0]->ReopenStore(true);
  std::atomic<int> told = -1;
  const bool waits = GENERATE(false, true);
  CAPTURE(waits);
  if (waits) {
    BlockRequest flush = TestCluster::Simple(Command::kFlush);
    flush.done = [&told](const BlockReply& reply) { told = reply.error; };
    cluster.Start(std::move(flush));
    // The round has begun once the loop has turned twice.
    for (int turn = 0; turn < 2; ++turn) cluster.OnLoop([] {});
  }
  // The map tells of the loss before the server can be asked: nothing is left to ask for.
  for (uint32_t group = 0; group < kGroups; ++group) {
    cluster.Change(group, [](v1::PlacementGroup& entry) {
      entry.set_epoch(entry.epoch() + 1);
      entry.set_loss_epoch(entry.epoch());
    });
  }
  cluster.OnLoop([] {});
  cluster.servers[0]->Start();
  cluster.PublishAddresses();
  CHECK(cluster.Read(0, 4096) == Pattern(1, 4096));
  if (waits) {
    while (told == -1) std::this_thread::yield();
    CHECK(told == EIO);
  } else {
    CHECK(cluster.Flush() == EIO);
  }
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.servers[0]->Chunk(0).substr(0, 4096) == Pattern(1, 4096));
  CHECK(cluster.grants_seen == 0);
}

TEST_CASE("a process that came back with all it had keeps its place", "[engine]") {
  TestCluster cluster(1, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.servers[0]->ReopenStore(false);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.reports_seen == 0);
  CHECK(cluster.engine->metrics().replicas_caught_up.Get() == 0);
}

TEST_CASE("nothing is read from a replica before it has its writes again", "[engine]") {
  TestCluster cluster(1, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  FakeSds& server = *cluster.servers[0];
  server.Stop();
  server.ReopenStore(true);
  // Writes are not taken yet.
  std::atomic<int> refused{0};
  server.SetScript([&refused](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
    if (operation.type() != v1::IO_OPERATION_TYPE_WRITE) return std::nullopt;
    ++refused;
    v1::IoResult result;
    result.set_status(v1::IO_STATUS_OVERLOADED);
    return result;
  });
  std::atomic<bool> answered{false};
  std::string text;
  BlockRequest read = TestCluster::Simple(Command::kRead, 0, 4096);
  read.done = [&](const BlockReply& reply) {
    text = TestCluster::Text(reply.data);
    answered = true;
  };
  server.Start();
  cluster.Start(std::move(read));
  cluster.PublishAddresses();
  while (refused < 3) std::this_thread::yield();
  CHECK_FALSE(answered);
  server.SetScript(nullptr);
  while (!answered) std::this_thread::yield();
  CHECK(text == Pattern(2, 4096));
}

TEST_CASE("one that learned from a replica without its unflushed writes is given them, too",
          "[engine]") {
  EngineOptions options = Keeping();
  const bool enough = GENERATE(true, false);
  // Nothing is kept once the next write is there.
  if (!enough) options.unflushed_bytes = 1;
  TestCluster cluster(2, options);
  const uint32_t index = PlacementGroupIndex(7, 0, kGroups);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  cluster.Change(index, [](v1::PlacementGroup& entry) {
    entry.mutable_replicas(1)->set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
    entry.set_epoch(entry.epoch() + 1);
  });
  if (!enough) {
    // A flush of the engine's own must not make it durable before it is lost.
    cluster.servers[0]->SetScript(RefuseFlush);
  }
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  cluster.servers[0]->ReopenStore(true);
  cluster.servers[1]->CopyGroup(*cluster.servers[0], PlacementGroupId(kPool, index), {0});
  cluster.Change(index, [](v1::PlacementGroup& entry) {
    entry.set_loss_epoch(entry.epoch() + 1);
    entry.set_epoch(entry.epoch() + 4);
    entry.mutable_replicas(0)->set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
    entry.mutable_replicas(1)->set_role(v1::REPLICA_ROLE_IN_SYNC);
  });
  cluster.servers[0]->SetScript(nullptr);
  CHECK(cluster.Flush() == (enough ? 0 : EIO));
  CHECK(cluster.Read(0, 4096) == Pattern(enough ? 2 : 1, 4096));
  // And it is durable there.
  cluster.servers[1]->ReopenStore(true);
  CHECK(cluster.servers[1]->Chunk(0).substr(0, 4096) == Pattern(enough ? 2 : 1, 4096));
}

TEST_CASE("a learner begins again when its source lacked writes while it copied", "[engine]") {
  TestCluster cluster(2, Keeping());
  const uint32_t index = PlacementGroupIndex(7, 0, kGroups);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  const bool joins_later = GENERATE(true, false);
  const auto become = [&](v1::ReplicaRole role) {
    cluster.Change(index, [role](v1::PlacementGroup& entry) {
      entry.mutable_replicas(1)->set_role(role);
      entry.set_epoch(entry.epoch() + 1);
    });
  };
  become(joins_later ? v1::REPLICA_ROLE_OUT_OF_SYNC : v1::REPLICA_ROLE_LEARNER);
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  FakeSds& source = *cluster.servers[0];
  const bool source_first = GENERATE(true, false);
  cluster.away = source_first;
  source.ReopenStore(true);
  // It is known to lack something, and does not get it yet.
  std::atomic<int> refused{0};
  source.SetScript([&refused](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
    if (operation.type() != v1::IO_OPERATION_TYPE_WRITE) return std::nullopt;
    ++refused;
    v1::IoResult result;
    result.set_status(v1::IO_STATUS_OVERLOADED);
    return result;
  });
  std::atomic<int> flushed{-1};
  BlockRequest flush = TestCluster::Simple(Command::kFlush);
  flush.done = [&flushed](const BlockReply& reply) { flushed = reply.error; };
  cluster.Start(std::move(flush));
  while (refused < 2) std::this_thread::yield();
  if (joins_later) become(v1::REPLICA_ROLE_LEARNER);
  if (source_first) {
    source.SetScript(nullptr);
    while (source.Chunk(0).substr(0, 4096) != Pattern(2, 4096)) std::this_thread::yield();
    // The learner is one still, and may come in sync without them: nothing is promised.
    cluster.PassTime(std::chrono::milliseconds(200));
    CHECK(flushed == -1);
    cluster.away = false;
  }
  while (cluster.Role(index, 1) != v1::REPLICA_ROLE_OUT_OF_SYNC) std::this_thread::yield();
  source.SetScript(nullptr);
  while (flushed == -1) std::this_thread::yield();
  CHECK(flushed == 0);
  CHECK(source.Chunk(0).substr(0, 4096) == Pattern(2, 4096));
}

TEST_CASE("what is kept is bounded: the volume flushes by itself", "[engine]") {
  EngineOptions options = TestCluster::PatientOptions();
  options.unflushed_bytes = 64 << 10;
  TestCluster cluster(2, options);
  for (int i = 0; i < 100; ++i) {
    CHECK(cluster.Write(static_cast<uint64_t>(i % 64) * 4096, Pattern(i, 4096)) == 0);
  }
  CHECK(cluster.servers[0]->counts().flushes >= 1);
  CHECK(cluster.engine->metrics().unflushed_bytes.Get() <= options.unflushed_bytes);
  // An application's flush still tells of a loss that no keeping could prevent.
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.engine->metrics().unflushed_bytes.Get() == 0);
}

// Both replicas are reported under one epoch, and one of them leaves. The report of the other comes
// too late for that epoch: it is asked again under the next.
TEST_CASE("a flush ends when both replicas lack what is not kept any more", "[engine]") {
  EngineOptions options = TestCluster::PatientOptions();
  options.unflushed_bytes = 6000;
  TestCluster cluster(2, options);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  for (auto& server : cluster.servers) server->SetScript(RefuseFlush);
  // The second is one too many.
  CHECK(cluster.Write(4096, Pattern(2, 4096)) == 0);
  CHECK(cluster.Write(8192, Pattern(3, 4096)) == 0);
  for (auto& server : cluster.servers) {
    server->ReopenStore(true);
    server->SetScript(nullptr);
  }
  CHECK(cluster.Flush() == EIO);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Write(4096, Pattern(4, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Read(0, 8192) == Pattern(1, 4096) + Pattern(4, 4096));
}

TEST_CASE("what is kept is made durable soon also when nobody flushes", "[engine]") {
  EngineOptions options = Keeping();
  options.flush_after = std::chrono::milliseconds(20);
  TestCluster cluster(2, options);
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  while (cluster.engine->metrics().unflushed_bytes.Get() > 0) std::this_thread::yield();
  for (auto& server : cluster.servers) {
    server->ReopenStore(true);
    CHECK(server->Chunk(0).substr(0, 4096) == Pattern(1, 4096));
  }
  // Also what is acknowledged while such a flush is under way for longer than that.
  std::atomic<int> held{0};
  cluster.servers[0]->SetScript([&held](const v1::IoOperation& operation) {
    auto refused = RefuseFlush(operation);
    held += refused.has_value() ? 1 : 0;
    return refused;
  });
  CHECK(cluster.Write(0, Pattern(2, 4096)) == 0);
  while (held < 1) std::this_thread::yield();
  CHECK(cluster.Write(4096, Pattern(3, 4096)) == 0);
  cluster.PassTime(3 * options.flush_after);
  cluster.servers[0]->SetScript(nullptr);
  while (cluster.engine->metrics().unflushed_bytes.Get() > 0) std::this_thread::yield();
}

TEST_CASE("a write that finds the pool full waits as long as it was told to", "[engine]") {
  EngineOptions options = Keeping();
  options.full_wait = std::chrono::seconds(20);
  TestCluster cluster(2, options);
  std::atomic<bool> full{true};
  for (auto& server : cluster.servers) {
    server->SetScript([&full](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
      if (!full || operation.type() != v1::IO_OPERATION_TYPE_WRITE) return std::nullopt;
      v1::IoResult result;
      result.set_status(v1::IO_STATUS_NO_SPACE);
      return result;
    });
  }
  std::atomic<int> error{-1};
  BlockRequest request = TestCluster::WriteRequest(0, Pattern(1, 4096));
  request.done = [&error](const BlockReply& reply) { error = reply.error; };
  cluster.Start(std::move(request));
  while (cluster.engine->metrics().waits_for_space.Get() < 2) std::this_thread::yield();
  CHECK(error == -1);
  full = false;
  while (error == -1) std::this_thread::yield();
  CHECK(error == 0);
  CHECK(cluster.Read(0, 4096) == Pattern(1, 4096));
}

TEST_CASE("a new generation lets go of what has no place in the new order", "[engine]") {
  TestCluster cluster(1, Keeping());
  CHECK(cluster.Write(0, Pattern(1, 4096)) == 0);
  cluster.RaiseGeneration();
  CHECK(cluster.Write(4096, Pattern(2, 4096)) == 0);
  cluster.servers[0]->ReopenStore(true);
  // The write of the new generation is given again; the older one can't be proved.
  CHECK(cluster.Flush() == EIO);
  CHECK(cluster.Write(0, Pattern(3, 4096)) == 0);
  CHECK(cluster.Flush() == 0);
}

}  // namespace
}  // namespace tessera::sdc
