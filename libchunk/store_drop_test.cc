// Dropping layers: what nobody shares is free, to the block, and what somebody shares stays his.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libchunk/store_layers_fixture.h"

namespace tessera::chunk {
namespace {

constexpr uint32_t kB = kBlockBytes;

// Layer 0 with blocks 0 to 3; 1 with block 0 written again; 2 with block 1.
struct Three {
  Volume volume;
  std::vector<LayerPath> snapshots;
};
Three MakeThree(LayersFixture& f) {
  Three three;
  f.WriteTo(three.volume, 0, 4 * kB, 'a');
  three.snapshots.push_back(three.volume.Snapshot());
  f.WriteTo(three.volume, 0, kB, 'b');
  three.snapshots.push_back(three.volume.Snapshot());
  f.WriteTo(three.volume, kB, kB, 'c');
  REQUIRE(f.Layers() == "0:4 1<0:1 2<1:1");
  return three;
}

TEST_CASE("the first, the middle and the last of three layers can be dropped, in any order") {
  LayersFixture f;
  Three three = MakeThree(f);
  if (GENERATE(true, false)) f.Checkpoint();
  std::vector<uint64_t> order = {0, 1};
  if (GENERATE(true, false)) std::swap(order[0], order[1]);
  for (const uint64_t layer : order) {
    const uint64_t exclusive = f.Exclusive(layer);
    // Of 1 block 0 is 2's, too; block 1 of 0 is 1's as long as that is there.
    REQUIRE(exclusive == (order[0] == 0 ? 1 : layer == 1 ? 0 : 2));
    const uint64_t blocks = f.Blocks();
    f.Drop(layer);
    REQUIRE(f.Blocks() == blocks - exclusive);
    REQUIRE(f.ReadOf(three.volume, 0, 4 * kB) == "b4096 c4096 a8192");
    if (layer != 0) {
      REQUIRE(f.ReadOf(three.snapshots[0], 0, 4 * kB) == (order[0] == 1 ? "a16384" : ".16384"));
    }
    if (layer == 0 && order[0] == 0) {
      REQUIRE(f.ReadOf(three.snapshots[1], 0, 4 * kB) == "b4096 a12288");
    }
  }
  REQUIRE(f.Layers() == "2:4");
  InEveryState(f, [&] {
    REQUIRE(f.Layers() == "2:4");
    REQUIRE(f.ReadOf(three.volume, 0, 4 * kB) == "b4096 c4096 a8192");
    f.CheckClosed();
  });
}

TEST_CASE("the head can be dropped as any other: a volume is rolled back") {
  LayersFixture f;
  Three three = MakeThree(f);
  f.Drop(2);
  REQUIRE(f.Layers() == "0:4 1<0:1");
  REQUIRE(f.ReadOf(three.volume, 0, 4 * kB) == "b4096 a12288");
  f.CheckClosed();
}

TEST_CASE("a layer that several share with keeps what they share, until one is left") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 4 * kB, 'a');
  const LayerPath snapshot = volume.Snapshot();
  Volume clone = CloneOf(snapshot, 1);
  f.WriteTo(volume, 0, 2 * kB, 'b');
  f.WriteTo(clone, 0, kB, 'c');
  f.WriteTo(clone, 2 * kB, kB, 'd');
  REQUIRE(f.Blocks() == 8);
  REQUIRE(f.Exclusive(0) == 1);
  f.Drop(0);
  REQUIRE(f.Layers() == "0:3p 1<0:2 4294967296<0:2");
  REQUIRE(f.Blocks() == 7);
  const auto blocks = f.store->ReadBlocks(f.Layer(0), 0, 5, BlockRead::kMetadata);
  REQUIRE(blocks.ok());
  std::vector<BlockPresence> presence;
  for (const BlockState& state : blocks->states) presence.push_back(state.presence);
  constexpr BlockPresence kMapped = BlockPresence::kMapped, kGone = BlockPresence::kGone;
  REQUIRE(presence == std::vector<BlockPresence>{kGone, kMapped, kMapped, kMapped, kGone});
  const uint64_t changes = f.disk.changes();
  f.Drop(0);  // nothing more to be had
  REQUIRE(f.disk.changes() == changes);
  REQUIRE(f.Layers() == "0:3p 1<0:2 4294967296<0:2");
  // Nobody may write it, or make a layer from it.
  REQUIRE(absl::IsPermissionDenied(f.TryWriteTo(CloneOf(snapshot, 2), 0, kB, 'x')));
  REQUIRE(f.ReadOf(volume, 0, 4 * kB) == "b8192 a8192");
  REQUIRE(f.ReadOf(clone, 0, 4 * kB) == "c4096 a4096 d4096 a4096");
  f.CheckClosed();
  SECTION("one is dropped") {
    f.Drop(MakeLayer(1, 0));
    REQUIRE(f.Exclusive(0) == 1);
    f.Drop(0);
    REQUIRE(f.Layers() == "1:4");
    REQUIRE(f.ReadOf(volume, 0, 4 * kB) == "b8192 a8192");
  }
  SECTION("one has written everything again") {
    f.WriteTo(volume, 2 * kB, 2 * kB, 'e');
    f.Drop(0);  // its row may still share: then it stays
    f.Checkpoint();
    f.Drop(0);
    REQUIRE(f.Layers() == "1:4 4294967296:4");
    REQUIRE(f.ReadOf(volume, 0, 4 * kB) == "b8192 e8192");
    REQUIRE(f.ReadOf(clone, 0, 4 * kB) == "c4096 a4096 d4096 a4096");
  }
  f.CheckClosed();
}

TEST_CASE("what was written over a shared block, and is not in its place yet, is not disturbed") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 4 * kB, 'a');
  volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'b');
  f.Checkpoint();
  // Over blocks that layer 1 inherits: in the journal, cut, direct, trimmed.
  f.WriteTo(volume, kB, kB, 'c');
  f.WriteTo(volume, 2 * kB, 512, 'd');
  const bool direct = GENERATE(true, false);
  if (direct) f.WriteTo(volume, 3 * kB, 16 * kB, 'e');
  if (!direct) f.TrimOf(volume, 3 * kB, kB);
  const uint64_t checkpoints = f.store->stats().checkpoints;
  f.Drop(0);
  REQUIRE(f.store->stats().checkpoints == checkpoints);
  REQUIRE(f.Layers() == (direct ? "1:19" : "1:3"));
  f.WriteTo(volume, kB, kB, 'f');  // again, now over a block of its own
  const std::string expected =
      direct ? "b4096 f4096 d512 a3584 e65536" : "b4096 f4096 d512 a3584 .65536";
  InEveryState(f, [&] {
    REQUIRE(f.ReadOf(volume, 0, 19 * kB) == expected);
    REQUIRE(f.Blocks() == (direct ? 19 : 3));
    f.CheckClosed();
  });
}

TEST_CASE("a change that the journal still has never names a layer that is gone") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 2 * kB, 'a');
  f.Checkpoint();
  volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'b');  // names layer 0 as base
  f.Drop(0);                      // so a checkpoint comes first
  REQUIRE(f.Layers() == "1:2");
  f.LosePowerAndOpen();
  REQUIRE(f.Layers() == "1:2");
  REQUIRE(f.ReadOf(volume, 0, 2 * kB) == "b4096 a4096");
  f.CheckClosed();
}

TEST_CASE("a layer deleted without a flush comes back with what was dropped under it") {
  LayersFixture f;
  Three three = MakeThree(f);
  f.Checkpoint();
  REQUIRE(f.store->DeleteChunk(f.Layer(2)).ok());
  f.Drop(1);
  f.disk.LosePower(LossStyle::kLoseAll);
  f.Open();
  REQUIRE(f.Layers() == "0:4 2<0:2");
  REQUIRE(f.ReadOf(three.volume, 0, 4 * kB) == "b4096 c4096 a8192");
  f.CheckClosed();
}

TEST_CASE("many layers go in one transaction; none of them, or not there, is no error") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 8 * kB, 'a');
  std::vector<ChunkKey> keys = {f.Layer(999), {7, 7, 7}};
  for (uint64_t i = 0; i < 40; ++i) {
    keys.push_back(f.Layer(i));
    volume.Snapshot();
    f.WriteTo(volume, i % 8 * kB, kB, static_cast<char>('A' + i % 8));
  }
  std::vector<absl::Status> results(keys.size(), absl::UnknownError(""));
  f.store->DropLayers(keys, results);
  for (const absl::Status& result : results) REQUIRE(result.ok());
  REQUIRE(f.Layers() == "40:8");
  REQUIRE(f.Blocks() == 8);
  f.store->DropLayers({}, {});
  f.CheckClosed();
}

TEST_CASE("a drop whose commit fails is the end of the device, and was done or not") {
  LayersFixture f;
  Three three = MakeThree(f);
  f.Checkpoint();
  const bool sync_fails = GENERATE(true, false);
  f.disk.FailCall(sync_fails ? CallKind::kSyncData : CallKind::kWrite, 1,
                  FaultKind::kInputOutputError);
  REQUIRE_FALSE(f.store->DropLayer(f.Layer(1)).ok());
  REQUIRE_FALSE(f.store->failed().ok());
  f.disk.CancelFault();
  REQUIRE(absl::IsFailedPrecondition(f.store->DropLayer(f.Layer(1))));
  REQUIRE(f.ReadOf(three.volume, 0, 4 * kB) == "b4096 c4096 a8192");
  REQUIRE(f.ReadOf(three.snapshots[1], 0, 4 * kB) == "b4096 a12288");
  f.LosePowerAndOpen();
  REQUIRE((f.Layers() == "0:4 1<0:1 2<1:1" || f.Layers() == "0:4 2<0:2"));
  REQUIRE(f.ReadOf(three.volume, 0, 4 * kB) == "b4096 c4096 a8192");
  REQUIRE(f.ReadOf(three.snapshots[0], 0, 4 * kB) == "a16384");
  f.CheckClosed();
}

}  // namespace
}  // namespace tessera::chunk
