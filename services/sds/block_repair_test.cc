// Two servers over real gRPC, and bytes flipped in the files of one: what a read, a write, a
// learner and scrub make of it.
#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "services/sds/replica_messages.h"
#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kGroup = kTestPool * 65536;
constexpr uint32_t kBlock = chunk::kBlockBytes;

// Content that names its block, so that it is found in the files.
std::string Content(uint64_t chunk, uint32_t block, char letter = 'x') {
  std::string content = "chunk " + std::to_string(chunk) + " block " + std::to_string(block) + "|";
  content.resize(kBlock, letter);
  return content;
}

// Flips a bit after each place where the device's files have the text. How many there were.
int FlipOn(TestSds* sds, const std::string& text) {
  int count = 0;
  const std::string folder = sds->server()->engine()->workers()[0]->device()->path();
  for (const char* name : {"/journal", "/data"}) {
    std::fstream file(folder + name, std::ios::in | std::ios::out | std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    file.clear();
    for (size_t at = bytes.find(text); at != std::string::npos; at = bytes.find(text, at + 1)) {
      const size_t place = at + 1'000;
      file.seekp(static_cast<std::streamoff>(place));
      file.put(static_cast<char>(bytes[place] ^ 0x10));
      ++count;
    }
  }
  return count;
}

// Two replicas in sync and a writer to both.
struct Pair {
  Pair()
      : a(&mdm, "sds-a"),
        b(&mdm, "sds-b"),
        to_a(&mdm, &a, NewGrant(mdm, 1, 5)),
        to_b(&mdm, &b, NewGrant(mdm, 1, 5)) {
    mdm.Commit(GroupOf(kGroup, {{&a, v1::REPLICA_ROLE_IN_SYNC}, {&b, v1::REPLICA_ROLE_IN_SYNC}}));
    Await();
  }
  void Await() {
    const uint64_t epoch = mdm.Group(kGroup).epoch();
    REQUIRE(a.AwaitEpoch(kGroup, epoch));
    REQUIRE(b.AwaitEpoch(kGroup, epoch));
    to_a.epoch = to_b.epoch = epoch;
  }
  void SetRole(const TestSds& sds, v1::ReplicaRole role) {
    mdm.SetRole(kGroup, sds.device_id(), role);
    Await();
  }
  void Write(uint64_t chunk, uint32_t offset, const std::string& data) {
    REQUIRE(to_a.Write(kGroup, chunk, offset, data) == v1::IO_STATUS_OK);
    to_b.next[kGroup] = to_a.next[kGroup] - 1;
    REQUIRE(to_b.Write(kGroup, chunk, offset, data) == v1::IO_STATUS_OK);
  }
  void WriteBlocks(uint64_t chunk, uint32_t blocks) {
    for (uint32_t block = 0; block < blocks; ++block) {
      Write(chunk, block * kBlock, Content(chunk, block));
    }
  }
  static std::string ReadOf(TestClient& client, uint64_t chunk, uint32_t block) {
    const auto [status, data] = client.Read(kGroup, chunk, block * kBlock, kBlock);
    return status == v1::IO_STATUS_OK ? data : v1::IoStatus_Name(status);
  }
  chunk::ChunkKey Key(uint64_t chunk) const {
    return {.vtree_id = to_a.grant.vtree_id, .chunk_index = chunk};
  }
  v1::ScrubOrder Order(const TestSds& sds, uint64_t operation_id) const {
    v1::ScrubOrder order;
    order.set_device_id(sds.device_id());
    order.set_bytes_per_second(1 << 30);
    order.set_operation_id(operation_id);
    return order;
  }

  FakeMdm mdm;
  TestSds a;
  TestSds b;
  TestClient to_a;
  TestClient to_b;
};

TEST_CASE("A bad block that is read is repaired from the other replica, counted and told of") {
  Pair pair;
  pair.WriteBlocks(1, 4);
  const chunk::Version version = (*pair.a.store()->GetChunk(pair.Key(1)))->version;
  REQUIRE(FlipOn(&pair.a, "chunk 1 block 2|") > 0);
  CHECK(Pair::ReadOf(pair.to_a, 1, 2) == "IO_STATUS_CHECKSUM_ERROR");
  CHECK(Pair::ReadOf(pair.to_b, 1, 2) == Content(1, 2));
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_REPAIRED, 1));
  CHECK(Pair::ReadOf(pair.to_a, 1, 2) == Content(1, 2));
  CHECK((*pair.a.store()->GetChunk(pair.Key(1)))->version == version);
  const SdsMetrics& metrics = *pair.a.server()->metrics();
  CHECK(metrics.blocks_found[v1::CORRUPT_BLOCK_FINDER_READ]->Value() == 1);
  CHECK(metrics.blocks_repaired->Value() == 1);
  const auto changes = pair.mdm.CorruptChanges();
  REQUIRE(changes.size() == 2);
  CHECK(changes[0].change() == v1::CORRUPT_BLOCK_CHANGE_FOUND);
  CHECK(changes[0].device_id() == pair.a.device_id());
  CHECK(changes[0].first_block() == 2);
  CHECK(changes[0].key().chunk_index() == 1);
  CHECK(changes[1].other_device_id() == pair.b.device_id());
  // It takes the next write of its order.
  pair.Write(1, 0, Content(1, 0, 'y'));
}

TEST_CASE(
    "A block that is bad everywhere fails alone, is told of as lost, and heals when written") {
  Pair pair;
  pair.WriteBlocks(1, 4);
  REQUIRE(FlipOn(&pair.a, "chunk 1 block 2|") > 0);
  REQUIRE(FlipOn(&pair.b, "chunk 1 block 2|") > 0);
  CHECK(Pair::ReadOf(pair.to_a, 1, 2) == "IO_STATUS_CHECKSUM_ERROR");
  // The other one finds its own when it is asked.
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE, 2));
  for (TestClient* client : {&pair.to_a, &pair.to_b}) {
    CHECK(Pair::ReadOf(*client, 1, 1) == Content(1, 1));
    CHECK(Pair::ReadOf(*client, 1, 2) == "IO_STATUS_CHECKSUM_ERROR");
    CHECK(Pair::ReadOf(*client, 1, 3) == Content(1, 3));
  }
  SECTION("also after a restart it is known as lost") {
    pair.a.Restart();
    v1::HeartbeatRequest told;
    pair.a.server()->FillHeartbeat(&told);
    REQUIRE(told.unreadable_blocks_size() == 1);
    CHECK(told.unreadable_blocks(0).first_block() == 2);
    CHECK(told.unreadable_blocks(0).reason() == "it is bad on every replica in sync");
  }
  SECTION("written whole it is good") {
    pair.Write(1, 2 * kBlock, Content(1, 2, 'z'));
    REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_HEALED, 2));
    CHECK(Pair::ReadOf(pair.to_a, 1, 2) == Content(1, 2, 'z'));
  }
}

TEST_CASE("Nothing is repaired from a replica that is not in sync") {
  Pair pair;
  pair.WriteBlocks(1, 4);
  pair.SetRole(pair.b, v1::REPLICA_ROLE_OUT_OF_SYNC);
  REQUIRE(FlipOn(&pair.a, "chunk 1 block 2|") > 0);
  CHECK(Pair::ReadOf(pair.to_a, 1, 2) == "IO_STATUS_CHECKSUM_ERROR");
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE, 1));
  CHECK(pair.mdm.CorruptChanges().back().reason() == "this is the only copy in sync");
  // As a learner it equals its source chunk by chunk; in sync again, it gives the block.
  pair.SetRole(pair.b, v1::REPLICA_ROLE_LEARNER);
  REQUIRE(pair.mdm.AwaitRole(kGroup, pair.b.device_id(), v1::REPLICA_ROLE_IN_SYNC));
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_REPAIRED, 1));
  pair.Await();
  CHECK(Pair::ReadOf(pair.to_a, 1, 2) == Content(1, 2));
}

TEST_CASE("A learner gets a chunk whose source has lost a block, and lacks just that block") {
  Pair pair;
  pair.SetRole(pair.b, v1::REPLICA_ROLE_OUT_OF_SYNC);
  for (uint32_t block = 0; block < 4; ++block) {
    REQUIRE(pair.to_a.Write(kGroup, 1, block * kBlock, Content(1, block)) == v1::IO_STATUS_OK);
  }
  REQUIRE(FlipOn(&pair.a, "chunk 1 block 2|") > 0);
  pair.SetRole(pair.b, v1::REPLICA_ROLE_LEARNER);
  REQUIRE(pair.mdm.AwaitRole(kGroup, pair.b.device_id(), v1::REPLICA_ROLE_IN_SYNC));
  pair.Await();
  CHECK(Pair::ReadOf(pair.to_b, 1, 1) == Content(1, 1));
  CHECK(Pair::ReadOf(pair.to_b, 1, 2) == "IO_STATUS_CHECKSUM_ERROR");
  CHECK(Pair::ReadOf(pair.to_b, 1, 3) == Content(1, 3));
}

TEST_CASE("A write that cuts a bad block is missed, and the order goes on") {
  Pair pair;
  pair.WriteBlocks(1, 4);
  pair.SetRole(pair.b, v1::REPLICA_ROLE_OUT_OF_SYNC);
  REQUIRE(FlipOn(&pair.a, "chunk 1 block 2|") > 0);
  CHECK(pair.to_a.Write(kGroup, 1, 2 * kBlock + 512, std::string(512, 'w')) ==
        v1::IO_STATUS_CHECKSUM_ERROR);
  CHECK((*pair.a.store()->GetChunk(pair.Key(1)))->incomplete);
  CHECK(pair.to_a.Write(kGroup, 1, 0, Content(1, 0, 'n')) == v1::IO_STATUS_OK);
  CHECK(Pair::ReadOf(pair.to_a, 1, 0) == Content(1, 0, 'n'));
  CHECK(Pair::ReadOf(pair.to_a, 1, 2) == "IO_STATUS_CHECKSUM_ERROR");
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_FOUND, 1));
}

TEST_CASE("Repair beside a writer of the same chunk: both replicas end equal") {
  Pair pair;
  pair.WriteBlocks(1, 8);
  for (int round = 0; round < 20; ++round) {
    FlipOn(&pair.a, "chunk 1 block 2|");
    (void)Pair::ReadOf(pair.to_a, 1, 2);
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t block = round % 4 == 3 ? i : (i == 2 ? 3 : i);
      pair.Write(1, block * kBlock, Content(1, block, static_cast<char>('a' + round)));
    }
  }
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_FOUND, 1));
  (void)Pair::ReadOf(pair.to_a, 1, 2);
  const auto settled = [&](TestSds* sds) {
    return sds->server()->context().settle_bad_blocks({.device_id = sds->device_id(),
                                                       .placement_group_id = kGroup,
                                                       .key = pair.Key(1),
                                                       .block_count = 8,
                                                       .finder = v1::CORRUPT_BLOCK_FINDER_READ});
  };
  REQUIRE(settled(&pair.a));
  for (uint32_t block = 0; block < 8; ++block) {
    CHECK(Pair::ReadOf(pair.to_a, 1, block) == Pair::ReadOf(pair.to_b, 1, block));
    CHECK(Pair::ReadOf(pair.to_a, 1, block).size() == kBlock);
  }
}

TEST_CASE("Scrub finds and repairs what nobody reads, and says how far it is") {
  Pair pair;
  for (uint64_t chunk = 0; chunk < 20; ++chunk) pair.WriteBlocks(chunk, 2);
  REQUIRE(FlipOn(&pair.a, "chunk 7 block 1|") > 0);
  REQUIRE(FlipOn(&pair.a, "chunk 13 block 0|") > 0);
  pair.mdm.SetScrubOrders({pair.Order(pair.a, 8)});
  REQUIRE(pair.mdm.AwaitScrub(pair.a.device_id(), [](const v1::ScrubStatus& status) {
    return status.completed_operation_id() == 8;
  }));
  const v1::ScrubStatus status = pair.mdm.ScrubOf(pair.a.device_id());
  CHECK_FALSE(status.running());
  CHECK(status.chunks_done() == 20);
  CHECK(status.chunks_compared() == 20);
  CHECK(status.bytes_done() == 20 * 2 * kBlock);
  CHECK(status.blocks_found() == 2);
  CHECK(status.blocks_repaired() == 2);
  CHECK(status.blocks_different() == 0);
  CHECK(Pair::ReadOf(pair.to_a, 7, 1) == Content(7, 1));
  CHECK(pair.a.server()->metrics()->blocks_found[v1::CORRUPT_BLOCK_FINDER_SCRUB]->Value() == 2);
}

TEST_CASE("Scrub tells of replicas that differ at one version, and changes neither") {
  Pair pair;
  pair.WriteBlocks(1, 4);
  auto image = pair.b.store()->ReadImage(pair.Key(1), chunk::ImageContent::kWhole);
  REQUIRE(image.ok());
  image->blocks[2 * kBlock + 50] ^= std::byte{1};
  REQUIRE(pair.b.store()->ApplyImage(*image, {}).ok());
  pair.mdm.SetScrubOrders({pair.Order(pair.a, 8)});
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_DIFFERENT, 1));
  REQUIRE(pair.mdm.AwaitScrub(pair.a.device_id(), [](const v1::ScrubStatus& status) {
    return status.completed_operation_id() == 8;
  }));
  CHECK(pair.mdm.ScrubOf(pair.a.device_id()).blocks_different() == 1);
  const auto changes = pair.mdm.CorruptChanges();
  REQUIRE(changes.size() == 1);
  CHECK(changes[0].first_block() == 2);
  CHECK(changes[0].other_device_id() == pair.b.device_id());
  CHECK(Pair::ReadOf(pair.to_a, 1, 2) == Content(1, 2));
  CHECK(Pair::ReadOf(pair.to_b, 1, 2) != Content(1, 2));
  // One of the two goes bad: it is not "repaired" with what it never was.
  REQUIRE(FlipOn(&pair.a, "chunk 1 block 2|") > 0);
  CHECK(Pair::ReadOf(pair.to_a, 1, 2) == "IO_STATUS_CHECKSUM_ERROR");
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE, 1));
  CHECK(Pair::ReadOf(pair.to_a, 1, 2) == "IO_STATUS_CHECKSUM_ERROR");
}

TEST_CASE("A scrub that is not ordered any more ends; after a restart it goes on where it was") {
  Pair pair;
  for (uint64_t chunk = 0; chunk < 40; ++chunk) pair.WriteBlocks(chunk, 1);
  v1::ScrubOrder slow = pair.Order(pair.a, 8);
  slow.set_operation_bytes_per_second(40 * kBlock);  // half a second and more
  pair.mdm.SetScrubOrders({slow});
  REQUIRE(pair.mdm.AwaitScrub(pair.a.device_id(), [](const v1::ScrubStatus& status) {
    return status.running() && status.operation_id() == 8 && status.bytes_done() > 0;
  }));
  SECTION("cancelled") {
    pair.mdm.SetScrubOrders({});
    REQUIRE(pair.mdm.AwaitScrub(pair.a.device_id(),
                                [](const v1::ScrubStatus& status) { return !status.running(); }));
    CHECK(pair.mdm.ScrubOf(pair.a.device_id()).completed_operation_id() != 8);
    CHECK(pair.mdm.ScrubOf(pair.a.device_id()).bytes_done() < 40 * kBlock);
  }
  SECTION("restarted") {
    REQUIRE(pair.mdm.AwaitScrub(pair.a.device_id(), [](const v1::ScrubStatus& status) {
      return status.bytes_done() > 17 * kBlock;
    }));
    pair.a.Restart();
    REQUIRE(pair.mdm.AwaitScrub(pair.a.device_id(), [](const v1::ScrubStatus& status) {
      return status.completed_operation_id() == 8;
    }));
    const v1::ScrubStatus status = pair.mdm.ScrubOf(pair.a.device_id());
    CHECK(status.chunks_done() < 40);
    CHECK(status.bytes_done() >= 40 * kBlock);
  }
}

}  // namespace
}  // namespace tessera::sds
