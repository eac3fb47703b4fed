// Two servers over real gRPC: a replica that fell behind, and everything that may happen while it
// catches up. At the end of each case both hold the same chunks, with the same versions and bytes.
#include <atomic>
#include <catch2/catch.hpp>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "services/sds/replica_messages.h"
#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kGroup = kTestPool * 65536;

// A source, a replica that is out of sync, and a writer to both.
struct Pair {
  Pair()
      : source(&mdm, "sds-a"),
        learner(&mdm, "sds-b"),
        to_source(&mdm, &source, NewGrant(mdm, 1, 5)),
        to_learner(&mdm, &learner, NewGrant(mdm, 1, 5)) {
    mdm.Commit(GroupOf(
        kGroup, {{&source, v1::REPLICA_ROLE_IN_SYNC}, {&learner, v1::REPLICA_ROLE_IN_SYNC}}));
    Await(1);
  }
  void Await(uint64_t epoch) {
    REQUIRE(source.AwaitEpoch(kGroup, epoch));
    REQUIRE(learner.AwaitEpoch(kGroup, epoch));
    to_source.epoch = to_learner.epoch = epoch;
  }
  void SetLearnerRole(v1::ReplicaRole role) {
    mdm.SetRole(kGroup, learner.device_id(), role);
    Await(mdm.Group(kGroup).epoch());
  }
  void WriteSource(uint64_t chunk, uint32_t offset, const std::string& data) {
    REQUIRE(to_source.Write(kGroup, chunk, offset, data) == v1::IO_STATUS_OK);
  }
  // To both, as a writer does: the learner's answer counts too.
  void WriteBoth(uint64_t chunk, uint32_t offset, const std::string& data) {
    WriteSource(chunk, offset, data);
    to_learner.next[kGroup] = to_source.next[kGroup] - 1;
    REQUIRE(to_learner.Write(kGroup, chunk, offset, data) == v1::IO_STATUS_OK);
  }
  void RequireEqual() {
    const auto contents = [](TestSds* sds) {
      std::map<uint64_t, std::tuple<uint64_t, uint64_t, bool, std::optional<uint32_t>>> chunks;
      const auto list = sds->store()->ListChunks(kGroup, std::nullopt, 10'000);
      for (const chunk::ChunkInfo& info : *list) {
        const auto image = sds->store()->ReadImage(info.key, chunk::ImageContent::kWhole);
        chunks[info.key.chunk_index] = {image->info.version.generation,
                                        image->info.version.sequence, image->info.incomplete,
                                        ContentCrc32c(*image, kTestChunkBytes)};
      }
      return chunks;
    };
    CHECK(contents(&learner) == contents(&source));
    CHECK(learner.store()->Cursor({1, kGroup}) == source.store()->Cursor({1, kGroup}));
  }
  void RequireCaughtUp() {
    REQUIRE(mdm.AwaitRole(kGroup, learner.device_id(), v1::REPLICA_ROLE_IN_SYNC));
    RequireEqual();
  }

  FakeMdm mdm;
  TestSds source;
  TestSds learner;
  TestClient to_source;
  TestClient to_learner;
};

TEST_CASE("A replica that missed writes copies just the chunks that differ") {
  Pair pair;
  for (uint64_t chunk = 0; chunk < 8; ++chunk) pair.WriteBoth(chunk, 0, std::string(8192, 'a'));
  pair.SetLearnerRole(v1::REPLICA_ROLE_OUT_OF_SYNC);
  pair.WriteSource(2, 4096, std::string(4096, 'b'));
  pair.WriteSource(9, 512, std::string(512, 'c'));
  pair.SetLearnerRole(v1::REPLICA_ROLE_LEARNER);
  pair.RequireCaughtUp();
  REQUIRE(pair.mdm.Completions().size() == 1);
  CHECK(pair.mdm.Completions()[0].chunks_copied() == 2);
  CHECK(pair.mdm.Completions()[0].chunks_compared() == 8);
  // In sync, it serves.
  pair.Await(pair.mdm.Group(kGroup).epoch());
  CHECK(pair.to_learner.Read(kGroup, 2, 4096, 4096).second == std::string(4096, 'b'));
}

TEST_CASE("Chunks that look newer here, and chunks that the source lacks, do not survive") {
  Pair pair;
  pair.WriteBoth(0, 0, std::string(4096, 'a'));
  // Writes that nobody acknowledged: they reached the learner alone.
  for (const uint64_t chunk : {uint64_t{0}, uint64_t{7}}) {
    pair.to_learner.next[kGroup] = 1 + (chunk == 7 ? 1 : 0);
    REQUIRE(pair.to_learner.Write(kGroup, chunk, 0, std::string(4096, 'x')) == v1::IO_STATUS_OK);
  }
  pair.SetLearnerRole(v1::REPLICA_ROLE_OUT_OF_SYNC);
  pair.SetLearnerRole(v1::REPLICA_ROLE_LEARNER);
  pair.RequireCaughtUp();
  CHECK_FALSE(pair.learner.store()->GetChunk({.vtree_id = 11, .chunk_index = 7})->has_value());
}

TEST_CASE("What is from before a loss is compared by content, not by version alone") {
  Pair pair;
  for (uint64_t chunk = 0; chunk < 4; ++chunk) pair.WriteBoth(chunk, 0, std::string(8192, 'a'));
  // The end of what an earlier writer wrote is here; its source has lost it.
  pair.to_learner.next[kGroup] = pair.to_source.next[kGroup];
  REQUIRE(pair.to_learner.Write(kGroup, 2, 0, std::string(512, 'x')) == v1::IO_STATUS_OK);
  // The writer after it gave its own writes again to the source, under the same versions.
  for (TestClient* client : {&pair.to_source, &pair.to_learner}) {
    client->grant = NewGrant(pair.mdm, 1, 6);
    client->Show();
    client->next[kGroup] = 0;
    REQUIRE(client->Write(kGroup, 2, 4096, std::string(512, 'y')) == v1::IO_STATUS_OK);
    REQUIRE(client->Write(kGroup, 3, 4096, std::string(512, 'z')) == v1::IO_STATUS_OK);
  }
  REQUIRE(pair.source.store()->GetChunk({.vtree_id = 11, .chunk_index = 2})->value().version ==
          pair.learner.store()->GetChunk({.vtree_id = 11, .chunk_index = 2})->value().version);
  v1::PlacementGroup group = pair.mdm.Group(kGroup);
  for (v1::Replica& replica : *group.mutable_replicas()) {
    if (replica.device_id() == pair.learner.device_id()) {
      replica.set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
    }
  }
  group.set_loss_epoch(group.epoch() + 1);
  pair.mdm.Commit(group);
  pair.Await(pair.mdm.Group(kGroup).epoch());
  pair.SetLearnerRole(v1::REPLICA_ROLE_LEARNER);
  pair.RequireCaughtUp();
  REQUIRE(pair.mdm.Completions().size() == 1);
  CHECK(pair.mdm.Completions()[0].chunks_copied() == 1);
  CHECK(pair.mdm.Completions()[0].chunks_compared() == 4);
}

TEST_CASE("Writes go on while it learns, aligned and not, and none is lost or undone") {
  const uint64_t seed = GENERATE(11u, 12u, 13u);
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  Pair pair;
  const auto random_write = [&](const auto& write) {
    const auto offset = static_cast<uint32_t>(random() % (kTestChunkBytes / 512 - 32)) * 512;
    const size_t length = (1 + random() % 32) * 512;
    write(random() % 48, offset, std::string(length, static_cast<char>(random())));
  };
  for (int i = 0; i < 150; ++i) {
    random_write([&](auto... args) { pair.WriteBoth(args...); });
  }
  pair.SetLearnerRole(v1::REPLICA_ROLE_OUT_OF_SYNC);
  for (int i = 0; i < 100; ++i) {
    random_write([&](auto... args) { pair.WriteSource(args...); });
  }
  pair.SetLearnerRole(v1::REPLICA_ROLE_LEARNER);
  const uint64_t epoch = pair.mdm.Group(kGroup).epoch();
  int during = 0;
  for (; pair.mdm.Group(kGroup).epoch() == epoch && during < 5'000; ++during) {
    random_write([&](uint64_t chunk, uint32_t offset, const std::string& data) {
      const v1::IoStatus at_source = pair.to_source.Write(kGroup, chunk, offset, data);
      if (at_source == v1::IO_STATUS_STALE_EPOCH) {
        --pair.to_source.next[kGroup];
        return;
      }
      REQUIRE(at_source == v1::IO_STATUS_OK);
      pair.to_learner.next[kGroup] = pair.to_source.next[kGroup] - 1;
      const v1::IoOperation operation = pair.to_learner.NewWrite(kGroup, chunk, offset, data);
      v1::IoStatus here = pair.to_learner.SendOne(operation, data).status();
      if (here == v1::IO_STATUS_STALE_EPOCH) {
        // It was promoted meanwhile: the writer sends it again under the new epoch.
        pair.Await(pair.mdm.Group(kGroup).epoch());
        --pair.to_learner.next[kGroup];
        here = pair.to_learner.Write(kGroup, chunk, offset, data);
      }
      REQUIRE((here == v1::IO_STATUS_OK || here == v1::IO_STATUS_DUPLICATE));
    });
  }
  INFO("writes while learning: " << during);
  REQUIRE(pair.mdm.AwaitRole(kGroup, pair.learner.device_id(), v1::REPLICA_ROLE_IN_SYNC));
  CHECK(pair.mdm.Failures().empty());
  pair.RequireEqual();
}

TEST_CASE("What its source refuses, a learner refuses, too") {
  Pair pair;
  pair.WriteBoth(0, 0, std::string(4096, 'a'));
  pair.SetLearnerRole(v1::REPLICA_ROLE_OUT_OF_SYNC);
  // A fence that the learner's server did not hear of.
  REQUIRE(pair.source.RaiseGeneration(1, 6).ok());
  pair.SetLearnerRole(v1::REPLICA_ROLE_LEARNER);
  pair.RequireCaughtUp();
  pair.Await(pair.mdm.Group(kGroup).epoch());
  CHECK(pair.to_learner.Write(kGroup, 0, 0, std::string(4096, 'x')) ==
        v1::IO_STATUS_STALE_GENERATION);
  CHECK(pair.learner.RaiseGeneration(1, 1)->generation() == 6);
  pair.RequireEqual();
}

TEST_CASE("A learner that is restarted starts over in a new epoch") {
  Pair pair;
  pair.WriteBoth(0, 0, std::string(4096, 'a'));
  pair.SetLearnerRole(v1::REPLICA_ROLE_OUT_OF_SYNC);
  pair.WriteSource(1, 0, std::string(4096, 'b'));
  // A member that stays away keeps the learner from completing.
  pair.source.Stop();
  pair.mdm.SetRole(kGroup, pair.learner.device_id(), v1::REPLICA_ROLE_LEARNER);
  const uint64_t epoch = pair.mdm.Group(kGroup).epoch();
  REQUIRE(pair.learner.AwaitEpoch(kGroup, epoch));
  pair.learner.Restart();
  REQUIRE(pair.mdm.AwaitRole(kGroup, pair.learner.device_id(), v1::REPLICA_ROLE_OUT_OF_SYNC));
  REQUIRE(pair.mdm.Failures().size() == 1);
  CHECK(pair.mdm.Failures()[0].reason() == "the server was restarted while learning");
  pair.source.Restart();
  pair.SetLearnerRole(v1::REPLICA_ROLE_LEARNER);
  pair.RequireCaughtUp();
}

TEST_CASE("A learner waits for a source that is away, and goes on when it is back") {
  Pair pair;
  pair.WriteBoth(0, 0, std::string(4096, 'a'));
  pair.SetLearnerRole(v1::REPLICA_ROLE_OUT_OF_SYNC);
  pair.source.Stop();
  pair.mdm.SetRole(kGroup, pair.learner.device_id(), v1::REPLICA_ROLE_LEARNER);
  pair.source.Restart();
  pair.Await(pair.mdm.Group(kGroup).epoch());
  pair.RequireCaughtUp();
  CHECK(pair.mdm.Failures().empty());
}

TEST_CASE("Only the MDM's ticket for this server opens a source") {
  Pair pair;
  pair.WriteBoth(0, 0, std::string(4096, 'a'));
  const auto stub = v1::ReplicaService::NewStub(
      NewChannel(pair.source.server()->endpoints().data(), grpc::InsecureChannelCredentials()));
  v1::ListChunkVersionsRequest request;
  request.mutable_ticket()->set_placement_group_id(kGroup);
  request.mutable_ticket()->set_epoch(1);
  request.mutable_ticket()->set_learner_sds_id(2);
  request.mutable_ticket()->set_expiry_ms(pair.mdm.NowMillis() + 60'000);
  request.mutable_ticket()->set_key_id(1);
  request.mutable_ticket()->set_signature(std::string(32, 'x'));
  grpc::ClientContext call;
  const auto reader = stub->ListChunkVersions(&call, request);
  v1::ListChunkVersionsResponse response;
  CHECK_FALSE(reader->Read(&response));
  CHECK(reader->Finish().error_code() == grpc::StatusCode::PERMISSION_DENIED);
}

}  // namespace
}  // namespace tessera::sds
