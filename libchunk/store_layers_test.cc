// Layers: what a volume writes after a snapshot or a clone leaves the others as they are, shares
// what it can, and costs what it should.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libchunk/store_layers_fixture.h"

namespace tessera::chunk {
namespace {

constexpr uint32_t kB = kBlockBytes;

TEST_CASE("a snapshot stays as it was, whatever the volume does") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 4 * kB, 'a');
  const bool base_in_row = GENERATE(true, false);
  if (base_in_row) f.Checkpoint();
  const LayerPath snapshot = volume.Snapshot();
  f.WriteTo(volume, kB, kB, 'b');
  f.TrimOf(volume, 2 * kB, kB);
  f.WriteTo(volume, 8 * kB, kB, 'c');
  InEveryState(f, [&] {
    REQUIRE(f.ReadOf(snapshot, 0, 9 * kB) == "a16384 .20480");
    REQUIRE(f.ReadOf(volume, 0, 9 * kB) == "a4096 b4096 .4096 a4096 .16384 c4096");
    REQUIRE(f.Layers() == "0:4 1<0:2");
    REQUIRE(f.Blocks() == 6);
    f.CheckClosed();
    REQUIRE(f.ReadOf(snapshot, 0, 9 * kB) == "a16384 .20480");
    REQUIRE(f.ReadOf(volume, 0, 9 * kB) == "a4096 b4096 .4096 a4096 .16384 c4096");
  });
}

TEST_CASE("the first write after a snapshot copies no data") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 64 * kB, 'a');  // the whole chunk
  f.Checkpoint();
  const uint64_t blocks = f.Blocks();
  const uint64_t journal_bytes = f.store->stats().journal_used_bytes;
  volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'b');
  // The block, and one page of header.
  REQUIRE(f.store->stats().journal_used_bytes - journal_bytes <= 2 * kB);
  REQUIRE(f.Blocks() == blocks + 1);
  f.CheckClosed();
}

TEST_CASE("a volume with 200 snapshots has them all, and space for the blocks written alone") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 64 * kB, '0');
  std::vector<LayerPath> snapshots;
  for (uint32_t i = 0; i < 200; ++i) {
    snapshots.push_back(volume.Snapshot());
    f.WriteTo(volume, i % 64 * kB, kB, static_cast<char>('A' + i % 50));
    // As the thread in the background does: it is due when the overlay gets deep.
    REQUIRE(f.store->RunBackgroundWork(false).ok());
  }
  const auto check = [&] {
    REQUIRE(f.Blocks() == 264);
    for (uint32_t i = 0; i < 200; ++i) {
      INFO("snapshot " << i);
      // Of block b, snapshot i has what was written after the last snapshot before i that wrote b.
      for (uint32_t block = 0; block < 64; block += 9) {
        char letter = '0';
        for (uint32_t j = block; j < i; j += 64) letter = static_cast<char>('A' + j % 50);
        REQUIRE(f.ReadOf(snapshots[i], block * kB, kB) == std::string(1, letter) + "4096");
      }
    }
  };
  check();
  f.CrashAndOpen();
  check();
  f.CheckClosed();
  check();
}

TEST_CASE("a clone is written at once and shares the rest; so does a clone of the clone") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 4 * kB, 'a');
  const LayerPath snapshot = volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'b');
  Volume clone = CloneOf(snapshot, 1);
  REQUIRE(f.ReadOf(clone, 0, 4 * kB) == "a16384");
  f.WriteTo(clone, kB, kB, 'c');
  Volume second = CloneOf(clone.Snapshot(), 2);
  f.WriteTo(clone, 2 * kB, kB, 'd');
  f.WriteTo(second, 3 * kB, kB, 'e');
  InEveryState(f, [&] {
    REQUIRE(f.ReadOf(snapshot, 0, 4 * kB) == "a16384");
    REQUIRE(f.ReadOf(volume, 0, 4 * kB) == "b4096 a12288");
    REQUIRE(f.ReadOf(clone, 0, 4 * kB) == "a4096 c4096 d4096 a4096");
    REQUIRE(f.ReadOf(second, 0, 4 * kB) == "a4096 c4096 a4096 e4096");
    REQUIRE(f.Blocks() == 8);
    f.CheckClosed();
  });
}

TEST_CASE("changes that cut shared blocks keep the rest of them, and leave the snapshot alone") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 3 * kB, 'a');
  if (GENERATE(true, false)) f.Checkpoint();
  const LayerPath snapshot = volume.Snapshot();
  f.WriteTo(volume, 3584, 1024, 'b');   // cuts blocks 0 and 1
  f.TrimOf(volume, 2 * kB + 512, 512);  // cuts block 2
  InEveryState(f, [&] {
    REQUIRE(f.ReadOf(volume, 0, 3 * kB) == "a3584 b1024 a4096 .512 a3072");
    REQUIRE(f.ReadOf(snapshot, 0, 3 * kB) == "a12288");
    REQUIRE(f.Blocks() == 6);
    f.CheckClosed();
  });
}

TEST_CASE("a trim of shared blocks takes no space and frees none") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 4 * kB, 'a');
  f.Checkpoint();
  const LayerPath snapshot = volume.Snapshot();
  f.TrimOf(volume, 0, 64 * kB);
  REQUIRE(f.Blocks() == 4);
  REQUIRE(f.Layers() == "0:4 1<0:0");
  f.WriteTo(volume, 0, kB, 'b');
  InEveryState(f, [&] {
    REQUIRE(f.ReadOf(volume, 0, 4 * kB) == "b4096 .12288");
    REQUIRE(f.ReadOf(snapshot, 0, 4 * kB) == "a16384");
    f.CheckClosed();
  });
}

TEST_CASE("the newest layer is written in place from the floor on, also when that has fallen") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, kB, 'a');
  volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'b');
  REQUIRE(f.Layers() == "0:1 1<0:1");
  volume.floor = 0;  // the snapshot is deleted
  f.WriteTo(volume, 0, kB, 'c');
  REQUIRE(f.Layers() == "0:1 1<0:1");
  REQUIRE(f.ReadOf(volume, 0, kB) == "c4096");
  volume.floor = 3;  // two more snapshots, nothing written between them
  f.WriteTo(volume, 0, kB, 'd');
  REQUIRE(f.Layers() == "0:1 1<0:1 3<1:1");
}

TEST_CASE("a batch sees the layers that it makes itself") {
  LayersFixture f;
  Volume before, after;
  f.WriteTo(before, 0, 2 * kB, 'a');
  after.floor = 1;
  const std::vector<std::byte> b(kB, std::byte{'b'}), c(512, std::byte{'c'});
  const std::span<const std::byte> slice_b(b), slice_c(c);
  std::vector<Change> changes = {
      f.ChangeOf(before, ChangeKind::kWrite, 0, kB), f.ChangeOf(after, ChangeKind::kWrite, kB, kB),
      f.ChangeOf(after, ChangeKind::kWrite, 512, 512), f.ChangeOf(after, ChangeKind::kTrim, kB, kB),
      f.ChangeOf(after, ChangeKind::kWrite, 2 * kB, kB)};
  for (Change& change : changes) {
    if (change.kind == ChangeKind::kWrite) {
      change.data = std::span(change.length_bytes == kB ? &slice_b : &slice_c, 1);
    }
  }
  std::vector<absl::Status> results(changes.size());
  f.store->Apply(changes, results);
  for (const absl::Status& result : results) REQUIRE(result.ok());
  REQUIRE(f.ReadOf(*LayerPath::Make({{0, 0}}), 0, 3 * kB) == "b4096 a4096 .4096");
  REQUIRE(f.ReadOf(after, 0, 3 * kB) == "b512 c512 b3072 .4096 b4096");
  f.CheckClosed();
}

TEST_CASE("a chunk that has no layer on the path reads as zeros, and is made empty") {
  LayersFixture f;
  Volume other = CloneOf(LayerPath(), 7);
  f.WriteTo(other, 0, kB, 'x');
  REQUIRE(f.ReadOf(LayerPath(), 0, kB) == ".4096");
  Volume volume{.floor = 4};
  f.WriteTo(volume, kB, kB, 'a');
  REQUIRE(f.Layers() == "4:1 30064771072:1");
  REQUIRE(f.ReadOf(volume, 0, 2 * kB) == ".4096 a4096");
  REQUIRE(f.ReadOf(other, 0, 2 * kB) == "x4096 .4096");
  REQUIRE(f.ReadOf(*LayerPath::Make({{0, 3}}), 0, 2 * kB) == ".8192");
}

TEST_CASE("a change that must not be is refused and changes nothing") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 2 * kB, 'a');
  const LayerPath snapshot = volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'b');
  if (GENERATE(true, false)) f.Checkpoint();
  // To a layer that is a base.
  REQUIRE(absl::IsPermissionDenied(f.TryWrite(1, 0, kB, 'x')));
  REQUIRE(absl::IsPermissionDenied(f.TryWriteTo(Volume{.path = snapshot}, 0, kB, 'x')));
  REQUIRE(absl::IsPermissionDenied(f.store->DeleteChunk(f.Layer(0))));
  const auto image = f.store->ReadImage(f.Layer(1), ImageContent::kWhole);
  REQUIRE(image.ok());
  ChunkImage to_base = *image;
  to_base.info.key.layer = 0;
  REQUIRE(absl::IsPermissionDenied(f.store->ApplyImage(to_base, {})));
  // With a path that does not see the floor, or not as its own.
  Volume wrong{.path = *LayerPath::Make({{0, 0}}), .floor = 1};
  REQUIRE(absl::IsInvalidArgument(f.TryWriteTo(wrong, 0, kB, 'x')));
  wrong.path = *LayerPath::Make({{3, LayerPath::kHead}, {0, LayerPath::kHead}});
  Change change = f.ChangeOf(wrong, ChangeKind::kTrim, 0, kB);
  change.key.layer = 1;
  REQUIRE(absl::IsInvalidArgument(f.Put(change)));
  REQUIRE(f.ReadOf(snapshot, 0, 2 * kB) == "a8192");
  REQUIRE(f.ReadOf(volume, 0, 2 * kB) == "b4096 a4096");
  REQUIRE(f.Layers() == "0:2 1<0:1");
}

TEST_CASE("a learner's change makes a layer without a base; others pass on what is incomplete") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 2 * kB, 'a');
  volume.Snapshot();
  REQUIRE(f.TryWriteTo(volume, 0, kB, 'b', /*incomplete=*/true).ok());
  REQUIRE(f.Layers() == "0:2 1:1");
  REQUIRE(f.ReadOf(volume, 0, 2 * kB) == "b4096 .4096");
  volume.Snapshot();
  f.WriteTo(volume, kB, kB, 'c');
  REQUIRE(f.Layers() == "0:2 1:1 2<1:1");
  REQUIRE((*f.store->GetChunk(f.Layer(2)))->incomplete);
  f.CrashAndOpen();
  REQUIRE((*f.store->GetChunk(f.Layer(2)))->incomplete);
}

TEST_CASE("a vtree is deleted with all its layers, however many") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, kB, 'a');
  for (int i = 0; i < 300; ++i) {
    volume.Snapshot();
    f.WriteTo(volume, 0, kB, 'b');
    REQUIRE(f.store->RunBackgroundWork(false).ok());
  }
  f.Write(2, 0, kB, 'c');
  REQUIRE(f.store->DeleteVtree(1, 0).ok());
  REQUIRE(f.Layers().empty());
  REQUIRE(f.Blocks() == 0);
  REQUIRE(f.store->stats().chunks == 0);
  f.CheckClosed();
}

TEST_CASE("on a full device shared blocks can't be overwritten; they can be trimmed and dropped") {
  LayersFixture f;
  f.store.reset();
  f.options.capacity_bytes = f.options.journal_bytes + f.options.reserve_bytes + 1 * kMiB;
  REQUIRE(f.disk.CreateFolder("/e").ok());
  auto opened = Store::Open(&f.disk, "/e/store", f.options);
  REQUIRE(opened.ok());
  f.store = *std::move(opened);
  Volume volume;
  f.WriteTo(volume, 0, 64 * kB, 'a');
  f.Checkpoint();
  for (uint64_t chunk = 2; f.TryWrite(chunk, 0, 16 * kB, 'f').ok(); ++chunk) {
  }
  for (uint64_t chunk = 1000; f.TryWrite(chunk, 0, kB, 'f').ok(); ++chunk) {
  }
  f.Checkpoint();
  const uint64_t blocks = f.Blocks();
  const LayerPath snapshot = volume.Snapshot();
  REQUIRE(absl::IsResourceExhausted(f.TryWriteTo(volume, 0, kB, 'b')));
  REQUIRE(absl::IsResourceExhausted(f.TryWriteTo(volume, 512, 512, 'b')));
  REQUIRE(absl::IsResourceExhausted(f.TryWriteTo(volume, 0, 64 * kB, 'b')));
  REQUIRE(f.ReadOf(volume, 0, 64 * kB) == "a262144");
  REQUIRE(f.Layers() == "0:64");
  f.TrimOf(volume, 0, 60 * kB);
  REQUIRE(f.Layers() == "0:64 1<0:0");
  REQUIRE(absl::IsResourceExhausted(f.TryWriteTo(volume, 0, kB, 'b')));
  f.Drop(0);
  REQUIRE(f.Layers() == "1:4");
  REQUIRE(f.Blocks() == blocks - 60);
  f.Checkpoint();
  f.WriteTo(volume, 0, 2 * kB, 'b');
  f.WriteTo(volume, 60 * kB, 3 * kB, 'c');  // its own by now: needs none
  REQUIRE(f.ReadOf(volume, 0, 64 * kB) == "b8192 .237568 c12288 a4096");
  REQUIRE(f.ReadOf(snapshot, 0, kB) == ".4096");
  REQUIRE(f.store->DeleteChunk(f.Layer(1)).ok());
  REQUIRE(f.Blocks() == blocks - 64);
  f.store.reset();
}

}  // namespace
}  // namespace tessera::chunk
