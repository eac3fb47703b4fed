// Bad blocks: they are told from good ones, and come back only as what they were.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libchunk/checksum.h"
#include "libchunk/store_test_fixture.h"

namespace tessera::chunk {
namespace {

std::vector<std::byte> Filled(char letter) {
  return std::vector<std::byte>(kBlockBytes, static_cast<std::byte>(letter));
}

Version VersionOf(Fixture& f, uint64_t chunk) {
  const auto info = f.store->GetChunk(Fixture::Key(chunk));
  REQUIRE(info.ok());
  REQUIRE(info->has_value());
  return (*info)->version;
}

absl::Status Repair(Fixture& f, uint64_t chunk, uint32_t block, char letter) {
  return f.store->RepairBlock(Fixture::Key(chunk), VersionOf(f, chunk), block, Filled(letter));
}

// Flips a bit of every block of `letter`, wherever the store keeps it.
void FlipWhereEver(Fixture& f, char letter) {
  uint64_t flipped = 0;
  for (const char* path : {"/d/store/journal", "/d/store/data"}) {
    auto file = f.disk.OpenFile(path, OpenMode::kMustExist);
    REQUIRE(file.ok());
    const auto size = (*file)->Size();
    REQUIRE(size.ok());
    std::vector<std::byte> bytes(*size);
    REQUIRE((*file)->Read(0, bytes).ok());
    const auto run = Filled(letter);
    for (uint64_t at = 0; at + run.size() <= bytes.size(); at += kSectorBytes) {
      // The payload begins where its record's header ends: look a little further than aligned.
      for (uint64_t shift = 0; shift < kSectorBytes && at + shift + 1024 <= bytes.size();
           shift += 4) {
        if (!std::equal(run.begin(), run.begin() + 1024, bytes.begin() + at + shift)) continue;
        REQUIRE(f.disk.FlipBits(path, at + shift + 512, std::byte{1}).ok());
        bytes[at + shift + 512] ^= std::byte{1};
        ++flipped;
        break;
      }
    }
  }
  REQUIRE(flipped > 0);
}

// Blocks 0 to 2 of chunk 1 with a, b, c; b is bad.
void MakeBad(Fixture& f) {
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.Write(1, 4096, 4096, 'b');
  f.Write(1, 8192, 4096, 'c');
  f.Flush();
  const bool in_journal = GENERATE(true, false);
  INFO("bad in the journal: " << in_journal);
  if (!in_journal) f.Checkpoint();
  FlipWhereEver(f, 'b');
  REQUIRE(f.Read(1, 4096, 4096) == "DATA_LOSS");
}

TEST_CASE("ReadBlocks says of each block how it is, and gives the good ones") {
  Fixture f;
  MakeBad(f);
  const auto blocks = f.store->ReadBlocks(Fixture::Key(1), 0, 4, BlockRead::kVerify);
  REQUIRE(blocks.ok());
  REQUIRE(blocks->states.size() == 4);
  REQUIRE(blocks->states[0].readable);
  REQUIRE_FALSE(blocks->states[1].readable);
  REQUIRE(blocks->states[1].presence == BlockPresence::kMapped);
  REQUIRE(blocks->states[2].readable);
  REQUIRE(blocks->states[3].presence == BlockPresence::kZeros);
  REQUIRE(blocks->states[1].checksum == BlockChecksum(Fixture::Key(1)).Of(1, Filled('b')));
  REQUIRE(Fixture::Runs(blocks->content) == "a4096 .4096 c4096 .4096");
  REQUIRE(blocks->info.version == VersionOf(f, 1));
  // The metadata alone knows nothing of the device.
  const auto kept = f.store->ReadBlocks(Fixture::Key(1), 0, 4, BlockRead::kMetadata);
  REQUIRE(kept.ok());
  REQUIRE(kept->states[1].readable);
  REQUIRE(kept->content.empty());
  REQUIRE(
      absl::IsNotFound(f.store->ReadBlocks(Fixture::Key(2), 0, 1, BlockRead::kVerify).status()));
  REQUIRE(absl::IsInvalidArgument(
      f.store->ReadBlocks(Fixture::Key(1), 63, 2, BlockRead::kVerify).status()));
}

TEST_CASE("A repaired block reads well in every state, and nothing else has changed") {
  Fixture f;
  MakeBad(f);
  const Version version = VersionOf(f, 1);
  const Version cursor = f.store->Cursor(Fixture::Stream());
  REQUIRE(Repair(f, 1, 1, 'b').ok());
  SECTION("at once") {}
  SECTION("after a crash of the process") { f.CrashAndOpen(); }
  SECTION("after a checkpoint and a power loss") {
    f.Checkpoint();
    f.LosePowerAndOpen();
  }
  SECTION("after a flush and a power loss") {
    f.Flush();
    f.LosePowerAndOpen(LossStyle::kLoseAll);
  }
  REQUIRE(f.Read(1, 0, 12288) == "a4096 b4096 c4096");
  REQUIRE(f.BadBlocks() == 0);
  REQUIRE(VersionOf(f, 1) == version);
  REQUIRE(f.store->Cursor(Fixture::Stream()) == cursor);
  REQUIRE_FALSE((*f.store->GetChunk(Fixture::Key(1)))->incomplete);
}

TEST_CASE("A repair with anything but what was written there changes nothing") {
  Fixture f;
  MakeBad(f);
  REQUIRE(absl::IsInvalidArgument(Repair(f, 1, 1, 'x')));
  REQUIRE(f.Read(1, 4096, 4096) == "DATA_LOSS");
  const Version stale = VersionOf(f, 1);
  SECTION("a later write to another block") { f.Write(1, 8192, 4096, 'd'); }
  SECTION("a later write to this block") {
    f.Write(1, 4096, 4096, 'd');
    REQUIRE(f.Read(1, 4096, 4096) == "d4096");
  }
  REQUIRE(absl::IsAborted(f.store->RepairBlock(Fixture::Key(1), stale, 1, Filled('b'))));
  const std::string now = f.Read(1, 4096, 4096);
  REQUIRE((now == "DATA_LOSS" || now == "d4096"));
  REQUIRE(absl::IsNotFound(f.store->RepairBlock(Fixture::Key(2), stale, 1, Filled('b'))));
  REQUIRE(absl::IsInvalidArgument(
      f.store->RepairBlock(Fixture::Key(1), VersionOf(f, 1), 64, Filled('b'))));
}

TEST_CASE("A block that reads well is left alone by a repair") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  REQUIRE(Repair(f, 1, 0, 'z').ok());
  REQUIRE(Repair(f, 1, 5, 'z').ok());
  REQUIRE(f.Read(1, 0, 8192) == "a4096 .4096");
}

TEST_CASE("A write that cuts a bad block is refused; as missed, it leaves the content and a mark") {
  Fixture f;
  MakeBad(f);
  const Version before = VersionOf(f, 1);
  REQUIRE(absl::IsDataLoss(f.TryWrite(1, 4096 + 512, 512, 'x')));
  REQUIRE(VersionOf(f, 1) == before);
  REQUIRE(f.Put(f.MakeChange(ChangeKind::kMissed, 1, 4096 + 512, 512)).ok());
  InEveryState(f, [&] {
    REQUIRE((*f.store->GetChunk(Fixture::Key(1)))->incomplete);
    REQUIRE(VersionOf(f, 1) == Version{1, f.sequence});
    REQUIRE(f.store->Cursor(Fixture::Stream()) == Version{1, f.sequence});
    REQUIRE(f.Read(1, 0, 4096) == "a4096");
    REQUIRE(f.Read(1, 4096, 4096) == "DATA_LOSS");
    REQUIRE(f.Read(1, 8192, 4096) == "c4096");
  });
}

TEST_CASE(
    "An unreadable block of an image is unreadable here, too, until it is repaired or written") {
  Fixture f;
  f.Open();
  ChunkImage image;
  image.info = {.key = Fixture::Key(3), .placement_group_id = 4, .version = {1, 7}};
  image.mapped = {0b111};
  image.unreadable = {0b010};
  for (const char letter : {'a', '\0', 'c'}) {
    const auto block = Filled(letter);
    image.blocks.insert(image.blocks.end(), block.begin(), block.end());
  }
  REQUIRE(f.store->ApplyImage(image, {}).ok());
  InEveryState(f, [&] {
    REQUIRE(f.Read(3, 0, 4096) == "a4096");
    REQUIRE(f.Read(3, 4096, 4096) == "DATA_LOSS");
    REQUIRE(f.Read(3, 8192, 4096) == "c4096");
    REQUIRE(f.BadBlocks() == 1);
    const auto blocks = f.store->ReadBlocks(Fixture::Key(3), 1, 1, BlockRead::kMetadata);
    REQUIRE(blocks.ok());
    REQUIRE(blocks->states[0].checksum == BlockChecksum(Fixture::Key(3)).OfUnreadable(1));
    REQUIRE(Repair(f, 3, 1, 'b').ok());
    REQUIRE(f.Read(3, 0, 12288) == "a4096 b4096 c4096");
  });
}

TEST_CASE("Unreadable blocks that were not flushed do not end the journal's prefix") {
  Fixture f;
  f.Open();
  ChunkImage image;
  image.info = {.key = Fixture::Key(3), .placement_group_id = 4, .version = {1, 7}};
  image.mapped = {1};
  image.unreadable = {1};
  image.blocks.resize(kBlockBytes);
  REQUIRE(f.store->ApplyImage(image, {}).ok());
  f.Write(1, 0, 4096, 'a');
  f.CrashAndOpen();
  REQUIRE(f.Read(1, 0, 4096) == "a4096");
  REQUIRE(f.Read(3, 0, 4096) == "DATA_LOSS");
}

TEST_CASE("A device that can't read a block has a bad block, not a failed repair") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.Checkpoint();
  f.disk.FailCall(CallKind::kRead, 1, FaultKind::kInputOutputError, true);
  const auto blocks = f.store->ReadBlocks(Fixture::Key(1), 0, 1, BlockRead::kVerify);
  REQUIRE(blocks.ok());
  REQUIRE_FALSE(blocks->states[0].readable);
  REQUIRE(Repair(f, 1, 0, 'a').ok());
  f.disk.CancelFault();
  f.Checkpoint();
  REQUIRE(f.Read(1, 0, 4096) == "a4096");
}

}  // namespace
}  // namespace tessera::chunk
