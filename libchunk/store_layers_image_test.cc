// Layers copied from store to store, and their bad blocks.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libchunk/checksum.h"
#include "libchunk/store_layers_fixture.h"

namespace tessera::chunk {
namespace {

constexpr uint32_t kB = kBlockBytes;

ChunkImage ImageOf(LayersFixture& f, uint64_t layer, ImageContent content = ImageContent::kOwn) {
  auto image = f.store->ReadImage(f.Layer(layer), content);
  REQUIRE(image.ok());
  return *std::move(image);
}

void Apply(LayersFixture& f, ChunkImage image, std::vector<uint64_t> keep = {}) {
  const absl::Status status = f.store->ApplyImage(std::move(image), keep);
  INFO(status);
  REQUIRE(status.ok());
}

// Layers 0 with blocks 0 to 3 and 1 with block 1 written again, and 2 cut off.
Volume MakeSource(LayersFixture& f) {
  Volume volume;
  f.WriteTo(volume, 0, 4 * kB, 'a');
  volume.Snapshot();
  f.WriteTo(volume, kB, kB, 'b');
  f.TrimOf(volume, 2 * kB, kB);
  return volume;
}

TEST_CASE("the image of a layer has its own blocks, and which ones it inherits") {
  LayersFixture f;
  MakeSource(f);
  if (GENERATE(true, false)) f.Checkpoint();
  const ChunkImage own = ImageOf(f, 1);
  REQUIRE(own.info.base == 0);
  REQUIRE(own.info.mapped_bytes == 3 * kB);
  REQUIRE(own.info.own_bytes == kB);
  REQUIRE(own.mapped == std::vector<uint64_t>{0b0010});
  REQUIRE(own.inherited == std::vector<uint64_t>{0b1001});
  REQUIRE(Fixture::Runs(own.blocks) == "b4096");
  const ChunkImage whole = ImageOf(f, 1, ImageContent::kWhole);
  REQUIRE_FALSE(whole.info.base.has_value());
  REQUIRE(whole.mapped == std::vector<uint64_t>{0b1011});
  REQUIRE(whole.inherited.empty());
  REQUIRE(Fixture::Runs(whole.blocks) == "a4096 b4096 a4096");
}

TEST_CASE("copied base first, the layers share in the new store, too") {
  LayersFixture from, to;
  Volume volume = MakeSource(from);
  Apply(to, ImageOf(from, 0));
  if (GENERATE(true, false)) to.Checkpoint();
  Apply(to, ImageOf(from, 1));
  InEveryState(to, [&] {
    REQUIRE(to.Layers() == "0:4 1<0:1");
    REQUIRE(to.Blocks() == 5);
    REQUIRE(to.ReadOf(volume, 0, 4 * kB) == "a4096 b4096 .4096 a4096");
    to.WriteTo(volume, 0, kB, 'c');
    REQUIRE(to.ReadOf(*LayerPath::Make({{0, 0}}), 0, 4 * kB) == "a16384");
    to.CheckClosed();
    // The same again changes nothing; what was written since may be kept.
    Apply(to, ImageOf(from, 1), {0b0001});
    REQUIRE(to.ReadOf(volume, 0, 4 * kB) == "c4096 b4096 .4096 a4096");
    Apply(to, ImageOf(from, 1));
    REQUIRE(to.ReadOf(volume, 0, 4 * kB) == "a4096 b4096 .4096 a4096");
    REQUIRE(to.Layers() == "0:4 1<0:1");
    to.CheckClosed();
  });
}

TEST_CASE("an image needs its base, whole, and a number above it") {
  LayersFixture from, to;
  MakeSource(from);
  REQUIRE(absl::IsNotFound(to.store->ApplyImage(ImageOf(from, 1), {})));
  ChunkImage part = ImageOf(from, 0);
  part.mapped = {0b0111};
  part.blocks.resize(3 * kB);
  Apply(to, part);
  REQUIRE(absl::IsNotFound(to.store->ApplyImage(ImageOf(from, 1), {})));
  REQUIRE(to.TryWrite(1, 3 * kB, kB, 'a').ok());
  Change incomplete = to.MakeChange(ChangeKind::kTrim, 1, 40 * kB, kB);
  incomplete.incomplete = true;
  REQUIRE(to.Put(incomplete).ok());
  REQUIRE(absl::IsNotFound(to.store->ApplyImage(ImageOf(from, 1), {})));
  Apply(to, ImageOf(from, 0));
  Apply(to, ImageOf(from, 1));
  REQUIRE(to.Layers() == "0:4 1<0:1");

  ChunkImage wrong = ImageOf(from, 1);
  wrong.info.base.reset();
  REQUIRE(absl::IsInvalidArgument(to.store->ApplyImage(wrong, {})));
  wrong = ImageOf(from, 1);
  wrong.info.base = 1;
  REQUIRE(absl::IsInvalidArgument(to.store->ApplyImage(wrong, {})));
  wrong = ImageOf(from, 1);
  wrong.inherited = {0b1011};
  REQUIRE(absl::IsInvalidArgument(to.store->ApplyImage(wrong, {})));
  wrong.inherited = {0, 1};
  REQUIRE(absl::IsInvalidArgument(to.store->ApplyImage(wrong, {})));
}

TEST_CASE("with an image a layer may change its base; what it keeps it then owns") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 4 * kB, 'a');
  volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'b');
  volume.Snapshot();
  f.WriteTo(volume, kB, kB, 'c');  // 2 is made from 1, which is made from 0
  REQUIRE(f.Layers() == "0:4 1<0:1 2<1:1");
  const bool in_row = GENERATE(true, false);
  if (in_row) f.Checkpoint();
  ChunkImage image = ImageOf(f, 2, ImageContent::kWhole);
  SECTION("another base") {
    image.info.base = 0;
    image.mapped = {0b0010};
    image.blocks.assign(kB, std::byte{'d'});
    image.inherited = {0b1000};
    Apply(f, image, {0b0001});  // block 0 is the one that 1 owns
    InEveryState(f, [&] {
      REQUIRE(f.Layers() == "0:4 1<0:1 2<0:2");
      REQUIRE(f.ReadOf(volume, 0, 4 * kB) == "b4096 d4096 .4096 a4096");
      REQUIRE(f.store->DeleteChunk(f.Layer(1)).ok());
      f.CheckClosed();
      REQUIRE(f.ReadOf(volume, 0, 4 * kB) == "b4096 d4096 .4096 a4096");
    });
  }
  SECTION("none") {
    image.mapped = {0b0010};
    image.blocks.assign(kB, std::byte{'d'});
    Apply(f, image, {0b1001});
    InEveryState(f, [&] {
      REQUIRE(f.Layers() == "0:4 1<0:1 2:3");
      REQUIRE(f.ReadOf(volume, 0, 4 * kB) == "b4096 d4096 .4096 a4096");
      f.CheckClosed();
    });
  }
}

TEST_CASE("a pruned layer is copied as what is left of it") {
  LayersFixture from, to;
  Volume volume;
  from.WriteTo(volume, 0, 4 * kB, 'a');
  const LayerPath snapshot = volume.Snapshot();
  Volume clone = CloneOf(snapshot, 1);
  from.WriteTo(volume, 0, 2 * kB, 'b');
  from.WriteTo(clone, 0, kB, 'c');
  from.Drop(0);
  for (const uint64_t layer : {uint64_t{0}, uint64_t{1}, MakeLayer(1, 0)}) {
    Apply(to, ImageOf(from, layer));
  }
  REQUIRE(to.Layers() == from.Layers());
  REQUIRE(to.ReadOf(volume, 0, 4 * kB) == "b8192 a8192");
  to.Drop(1);
  to.Drop(0);
  REQUIRE(to.Layers() == "4294967296:4");
  to.CheckClosed();
}

// Flips a bit of the one block of `letter` in the data file.
void Spoil(LayersFixture& f, char letter) {
  auto file = f.disk.OpenFile("/d/store/data", OpenMode::kMustExist);
  REQUIRE(file.ok());
  std::vector<std::byte> bytes(*(*file)->Size());
  REQUIRE((*file)->Read(0, bytes).ok());
  const std::vector<std::byte> block(kB, static_cast<std::byte>(letter));
  int spoiled = 0;
  for (size_t at = 0; at + kB <= bytes.size(); at += kB) {
    if (!std::equal(block.begin(), block.end(), bytes.begin() + at)) continue;
    REQUIRE(f.disk.FlipBits("/d/store/data", at + 77, std::byte{4}).ok());
    ++spoiled;
  }
  REQUIRE(spoiled == 1);
}

TEST_CASE("a bad block that layers share is put back for all, by way of any of them") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, kB, 'a');
  f.WriteTo(volume, kB, kB, 'x');
  const LayerPath snapshot = volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'b');
  volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'c');
  const bool head_in_row = GENERATE(true, false);
  if (head_in_row) f.Checkpoint();
  volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'd');
  if (!head_in_row) f.Checkpoint();
  Spoil(f, 'x');
  REQUIRE(f.BadBlocks() == 1);
  REQUIRE(f.ReadOf(volume, kB, kB) == "DATA_LOSS");
  REQUIRE(f.ReadOf(snapshot, kB, kB) == "DATA_LOSS");
  REQUIRE(absl::IsDataLoss(f.TryWriteTo(volume, kB, 512, 'y')));
  const uint64_t by = GENERATE(0, 1, 3);
  const Version version = (*f.store->GetChunk(f.Layer(by)))->version;
  const std::vector<std::byte> right(kB, std::byte{'x'}), wrong(kB, std::byte{'y'});
  REQUIRE(absl::IsInvalidArgument(f.store->RepairBlock(f.Layer(by), version, 1, wrong)));
  REQUIRE(f.store->RepairBlock(f.Layer(by), version, 1, right).ok());
  const std::string layers = f.Layers();
  const auto check = [&] {
    REQUIRE(f.ReadOf(volume, 0, 2 * kB) == "d4096 x4096");
    REQUIRE(f.ReadOf(snapshot, 0, 2 * kB) == "a4096 x4096");
    REQUIRE(f.BadBlocks() == 0);
    REQUIRE(f.Layers() == layers);
    const auto blocks = f.store->ReadBlocks(f.Layer(2), 1, 1, BlockRead::kVerify);
    REQUIRE(blocks->states[0].readable);
    // To cut it is possible again, too.
    f.WriteTo(volume, kB, 512, 'y');
    REQUIRE(f.ReadOf(volume, 0, 2 * kB) == "d4096 y512 x3584");
    f.CheckClosed();
  };
  InEveryState(f, check);
}

TEST_CASE("a block without content is repaired for all layers that share it") {
  LayersFixture from, f;
  Volume volume;
  from.WriteTo(volume, 0, 2 * kB, 'a');
  ChunkImage image = ImageOf(from, 0);
  image.unreadable = {0b10};
  Apply(f, image);
  volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'b');
  volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'c');
  if (GENERATE(true, false)) f.Checkpoint();
  REQUIRE(f.ReadOf(volume, kB, kB) == "DATA_LOSS");
  const Version version = (*f.store->GetChunk(f.Layer(2)))->version;
  const std::vector<std::byte> content(kB, std::byte{'z'});
  REQUIRE(f.store->RepairBlock(f.Layer(2), version, 1, content).ok());
  InEveryState(f, [&] {
    REQUIRE(f.ReadOf(volume, 0, 2 * kB) == "c4096 z4096");
    REQUIRE(f.ReadOf(*LayerPath::Make({{0, 1}}), 0, 2 * kB) == "b4096 z4096");
    f.CheckClosed();
    // What a list says is what the block has now, in each of them.
    const BlockChecksum checksum(f.Layer(0));
    for (const uint64_t layer : {0, 1, 2}) {
      const auto blocks = f.store->ReadBlocks(f.Layer(layer), 1, 1, BlockRead::kMetadata);
      REQUIRE(blocks->states[0].checksum == checksum.Of(1, content));
    }
    f.Drop(0);
    REQUIRE(f.ReadOf(volume, 0, 2 * kB) == "c4096 z4096");
  });
}

}  // namespace
}  // namespace tessera::chunk
