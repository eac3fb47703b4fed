// The promises of store.h, case by case, on the simulated disk. What a bad or full device does to
// them is in store_fault_test.cc and store_space_test.cc; random histories against a model are
// store_model_test.cc's, crashes at every call store_crash_test.cc's.
#include "libchunk/store.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libchunk/store_test_fixture.h"

namespace tessera::chunk {
namespace {

TEST_CASE("A new store is empty, and its incarnation grows with every open") {
  Fixture f;
  f.Open();
  REQUIRE(f.store->open_report().created);
  REQUIRE_FALSE(f.store->open_report().volatile_state_lost);
  const uint64_t first = f.store->open_report().incarnation;
  REQUIRE(f.store->stats().chunks == 0);
  REQUIRE(f.Read(1, 0, 8192) == ".8192");
  f.Close();
  f.Open();
  REQUIRE_FALSE(f.store->open_report().created);
  REQUIRE(f.store->open_report().clean);
  REQUIRE(f.store->open_report().incarnation > first);
  const uint64_t second = f.store->open_report().incarnation;
  f.CrashAndOpen();
  REQUIRE_FALSE(f.store->open_report().clean);
  REQUIRE_FALSE(f.store->open_report().volatile_state_lost);
  REQUIRE(f.store->open_report().incarnation > second);
  f.LosePowerAndOpen();
  REQUIRE(f.store->open_report().volatile_state_lost);
}

TEST_CASE("What was written is read back, wherever it lies") {
  Fixture f;
  f.Open();
  f.Write(1, 4096, 4096, 'a');
  f.Write(1, 12288, 8192, 'b');
  f.Write(2, 0, 64 * kKiB, 'c');
  f.Write(2, 8192, 4096, 'd');
  InEveryState(f, [&] {
    REQUIRE(f.Read(1, 0, 20480) == ".4096 a4096 .4096 b8192");
    REQUIRE(f.Read(2, 4096, 12288) == "c4096 d4096 c4096");
    REQUIRE(f.Read(2, 60 * kKiB, 8192) == "c4096 .4096");
    REQUIRE(f.Read(3, 0, 512) == ".512");
    REQUIRE(f.store->stats().chunks == 2);
    REQUIRE(f.store->stats().data_bytes == 3 * 4096 + 64 * kKiB);
    REQUIRE(f.BadBlocks() == 0);
  });
}

TEST_CASE("Writes and trims that cut a block keep the rest of it") {
  Fixture f;
  f.Open();
  f.Write(1, 512, 512, 'a');
  f.Write(1, 3584, 5120, 'b');
  f.Write(1, 1024, 512, 'c');
  f.Write(1, 16384, 40 * kKiB + 1024, 'd');
  f.Trim(1, 4608, 512);
  f.Trim(1, 17 * kKiB, 512);
  InEveryState(f, [&] {
    REQUIRE(f.Read(1, 0, 12288) == ".512 a512 c512 .2048 b1024 .512 b3584 .3584");
    REQUIRE(f.Read(1, 16384, 4096) == "d1024 .512 d2560");
    REQUIRE(f.Read(1, 56 * kKiB, 4096) == "d1024 .3072");
    REQUIRE(f.Read(1, 57 * kKiB - 512, 1024) == "d512 .512");
  });
}

TEST_CASE("The place of a block is told by Map") {
  Fixture f;
  f.Open();
  f.Write(1, 8192, 4096, 'a');
  f.Write(1, 12288, 64 * kKiB, 'b');
  InEveryState(f, [&] {
    const auto extents = f.store->Map(Fixture::Key(1), 4096, 128 * kKiB);
    REQUIRE(extents.ok());
    REQUIRE(extents->size() == 3);
    REQUIRE_FALSE((*extents)[0].mapped);
    REQUIRE((*extents)[0].length_bytes == 4096);
    REQUIRE((*extents)[1].mapped);
    REQUIRE((*extents)[1].offset_bytes == 8192);
    REQUIRE((*extents)[1].length_bytes == 68 * kKiB);
    REQUIRE_FALSE((*extents)[2].mapped);
  });
}

TEST_CASE("A deleted chunk is gone, and a new one in its place starts empty") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 64 * kKiB, 'a');
  f.Write(2, 0, 4096, 'b');
  SECTION("deleted in the journal") {}
  SECTION("deleted after a checkpoint") { f.Checkpoint(); }
  REQUIRE(f.store->DeleteChunk(Fixture::Key(1)).ok());
  REQUIRE(f.store->DeleteChunk(Fixture::Key(7)).ok());
  REQUIRE(f.store->GetChunk(Fixture::Key(1))->has_value() == false);
  REQUIRE(f.store->ReadImage(Fixture::Key(1), ImageContent::kWhole).status().code() ==
          absl::StatusCode::kNotFound);
  f.Write(1, 4096, 4096, 'c');
  const auto check = [&] {
    REQUIRE(f.Read(1, 0, 12288) == ".4096 c4096 .4096");
    REQUIRE(f.store->stats().chunks == 2);
    REQUIRE(f.store->stats().data_bytes == 8192);
    REQUIRE(f.BadBlocks() == 0);
  };
  check();
  f.CrashAndOpen();
  check();
  f.Checkpoint();
  check();
  f.Close();
  f.Open();
  check();
}

TEST_CASE("A vtree is deleted with its cursors, another one stays") {
  Fixture f;
  f.Open();
  for (uint64_t chunk = 0; chunk < 300; ++chunk) f.Write(chunk, 0, 4096, 'a');
  Change other = f.MakeChange(ChangeKind::kTrim, 5, 0, 4096);
  other.key.vtree_id = 2;
  other.stream = {.volume_id = 10, .placement_group_id = 4};
  REQUIRE(f.Put(other).ok());
  f.Checkpoint();
  f.Write(300, 0, 4096, 'b');
  REQUIRE(f.store->DeleteVtree(1, 5).ok());
  REQUIRE(f.store->stats().chunks == 302);
  REQUIRE(f.store->DeleteVtree(1, 4).ok());
  InEveryState(f, [&] {
    REQUIRE(f.store->stats().chunks == 1);
    REQUIRE(f.store->stats().data_bytes == 0);
    REQUIRE(f.store->Cursor(Fixture::Stream()) == Version{});
    REQUIRE(f.store->Cursors(4).size() == 1);
    const auto chunks = f.store->ListChunks(4, std::nullopt, 10);
    REQUIRE(chunks.ok());
    REQUIRE(chunks->size() == 1);
    REQUIRE(chunks->front().key.vtree_id == 2);
  });
}

TEST_CASE("Chunks are listed in key order, page by page") {
  Fixture f;
  f.Open();
  for (uint64_t chunk : {7, 3, 5, 1}) f.Write(chunk, 0, 4096, 'a');
  f.Checkpoint();
  for (uint64_t chunk : {2, 6, 3}) f.Write(chunk, 0, 4096, 'b');
  REQUIRE(f.store->DeleteChunk(Fixture::Key(5)).ok());
  InEveryState(f, [&] {
    std::string listed;
    std::optional<ChunkKey> after;
    for (;;) {
      const auto page = f.store->ListChunks(4, after, 2);
      REQUIRE(page.ok());
      if (page->empty()) break;
      REQUIRE(page->size() <= 2);
      for (const ChunkInfo& chunk : *page) listed += std::to_string(chunk.key.chunk_index);
      after = page->back().key;
    }
    REQUIRE(listed == "12367");
    REQUIRE(f.store->ListChunks(3, std::nullopt, 10)->empty());
  });
}

TEST_CASE("Cursors follow the changes, and are set and dropped") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  Change quiet = f.MakeChange(ChangeKind::kTrim, 1, 0, 4096);
  quiet.keep_cursor = true;
  REQUIRE(f.Put(quiet).ok());
  const StreamId other{.volume_id = 11, .placement_group_id = 5};
  REQUIRE(f.store->SetCursor(other, {3, 8}).ok());
  REQUIRE(f.store->SetCursor({.volume_id = 12, .placement_group_id = 6}, {3, 9}).ok());
  f.Checkpoint();
  REQUIRE(f.store->DropPlacementGroup(6).ok());
  InEveryState(f, [&] {
    REQUIRE(f.store->Cursor(Fixture::Stream()) == Version{1, 1});
    REQUIRE(f.store->Cursor(other) == Version{3, 8});
    REQUIRE(f.store->Cursors(5).size() == 1);
    REQUIRE(f.store->Cursors(6).empty());
  });
}

TEST_CASE("An image makes a chunk equal, but for the blocks to keep") {
  Fixture f;
  f.Open();
  f.Write(1, 4096, 8192, 'a');
  f.Write(1, 64 * kKiB, 64 * kKiB, 'b');
  const auto image = f.store->ReadImage(Fixture::Key(1), ImageContent::kWhole);
  REQUIRE(image.ok());
  REQUIRE(image->info.mapped_bytes == 72 * kKiB);

  Change incomplete = f.MakeChange(ChangeKind::kTrim, 2, 128 * kKiB, 4096);
  ChunkImage copy = *image;
  copy.info.key = Fixture::Key(2);
  copy.info.incomplete = true;  // the source's business, not the copy's
  incomplete.incomplete = true;
  REQUIRE(f.Put(incomplete).ok());
  f.Write(2, 0, 8192, 'x');
  REQUIRE((*f.store->GetChunk(Fixture::Key(2)))->incomplete);
  const std::vector<uint64_t> keep = {0b10};
  REQUIRE(f.store->ApplyImage(copy, keep).ok());
  InEveryState(f, [&] {
    REQUIRE(f.Read(2, 0, 16384) == ".4096 x4096 a4096 .4096");
    REQUIRE(f.Read(2, 60 * kKiB, 72 * kKiB) == ".4096 b65536 .4096");
    const auto chunk = f.store->GetChunk(Fixture::Key(2));
    REQUIRE_FALSE((*chunk)->incomplete);
    REQUIRE((*chunk)->version == Version{1, 4});
    REQUIRE(f.BadBlocks() == 0);
  });
}

TEST_CASE("A batch is applied in order, and a failure stops its stream only") {
  Fixture f;
  f.Open();
  const std::vector<std::byte> a(4096, std::byte{'a'}), b(512, std::byte{'b'});
  const std::span<const std::byte> slices_a[] = {a}, slices_b[] = {b};
  std::vector<Change> changes;
  changes.push_back(f.MakeChange(ChangeKind::kWrite, 1, 0, 4096));
  changes.back().data = slices_a;
  changes.push_back(f.MakeChange(ChangeKind::kWrite, 1, 512, 512));
  changes.back().data = slices_b;
  changes.push_back(f.MakeChange(ChangeKind::kWrite, 1, 8192, 4096));
  changes.back().data = slices_b;  // too short
  changes.push_back(f.MakeChange(ChangeKind::kTrim, 1, 0, 4096));
  changes.push_back(f.MakeChange(ChangeKind::kWrite, 2, 0, 4096));
  changes.back().data = slices_a;
  changes.back().stream.volume_id = 77;
  std::vector<absl::Status> results(changes.size());
  f.store->Apply(changes, results);
  REQUIRE(results[0].ok());
  REQUIRE(results[1].ok());
  REQUIRE(absl::IsInvalidArgument(results[2]));
  REQUIRE(absl::IsAborted(results[3]));
  REQUIRE(results[4].ok());
  REQUIRE(f.Read(1, 0, 12288) == "a512 b512 a3072 .8192");
  REQUIRE(f.Read(2, 0, 4096) == "a4096");
  REQUIRE(f.store->Cursor(Fixture::Stream()) == Version{1, 2});
}

TEST_CASE("A bad range or bad data is refused and changes nothing") {
  Fixture f;
  f.Open();
  REQUIRE(absl::IsInvalidArgument(f.TryWrite(1, 100, 512, 'a')));
  REQUIRE(absl::IsInvalidArgument(f.TryWrite(1, 0, 100, 'a')));
  REQUIRE(absl::IsInvalidArgument(f.TryWrite(1, 0, 0, 'a')));
  REQUIRE(absl::IsInvalidArgument(f.TryWrite(1, 252 * kKiB, 8192, 'a')));
  REQUIRE(absl::IsInvalidArgument(f.TryWrite(1, 0xfffffe00, 512, 'a')));
  REQUIRE(f.Read(1, 1, 512) == "INVALID_ARGUMENT");
  REQUIRE(f.store->stats().chunks == 0);
  REQUIRE(f.store->Cursor(Fixture::Stream()) == Version{});
}

TEST_CASE("A store in use, or made otherwise, is refused") {
  Fixture f;
  f.Open();
  REQUIRE(absl::IsFailedPrecondition(Store::Open(&f.disk, "/d/store", f.options).status()));
  f.Close();
  f.options.chunk_bytes = 512 * kKiB;
  f.options.journal_bytes = 8 * kMiB;
  REQUIRE(absl::IsFailedPrecondition(f.TryOpen()));
  f.options.chunk_bytes = 100;
  REQUIRE(absl::IsInvalidArgument(f.TryOpen()));
}

TEST_CASE("ReadCached gives the bytes or says UNAVAILABLE") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 8192, 'a');
  f.Checkpoint();
  std::vector<std::byte> bytes(8192);
  bool found = false;
  for (int i = 0; i < 100 && !found; ++i) {
    const absl::Status status = f.store->ReadCached(Fixture::Key(1), 0, bytes);
    REQUIRE((status.ok() || absl::IsUnavailable(status)));
    found = status.ok();
  }
  REQUIRE(found);
  REQUIRE(Fixture::Runs(bytes) == "a8192");
  REQUIRE(absl::IsUnavailable(f.store->ReadCached(Fixture::Key(99), 0, bytes)));
}

TEST_CASE("InspectStore tells what is there and changes nothing") {
  Fixture f;
  REQUIRE(absl::IsNotFound(
      InspectStore(&f.disk, "/d/store", InspectDepth::kSummary, [](const std::string&) {})));
  f.Open();
  f.Write(1, 0, 64 * kKiB, 'a');
  f.Write(2, 0, 4096, 'b');
  f.Checkpoint();
  f.Write(2, 4096, 4096, 'c');
  REQUIRE(absl::IsFailedPrecondition(
      InspectStore(&f.disk, "/d/store", InspectDepth::kSummary, [](const std::string&) {})));
  f.disk.CrashProcess();
  f.store.reset();
  const auto inspect = [&](InspectDepth depth) {
    std::string text;
    const absl::Status status = InspectStore(&f.disk, "/d/store", depth,
                                             [&](const std::string& line) { text += line + "\n"; });
    INFO(status);
    REQUIRE(status.ok());
    return text;
  };
  REQUIRE_THAT(inspect(InspectDepth::kSummary), Catch::Contains("clean=0"));
  REQUIRE_THAT(inspect(InspectDepth::kRecords),
               Catch::Contains("journal-blocks chunk=1/2/0 blocks=1+1 stream=9/4 version=1.3"));
  REQUIRE_THAT(
      inspect(InspectDepth::kChunks),
      Catch::Contains("chunk 1/1/0 placement_group=4 version=1.1 incomplete=0 mapped_blocks=16"));
  REQUIRE_THAT(inspect(InspectDepth::kVerify), Catch::Contains("verified problems=0"));
  REQUIRE(f.disk.FlipBits("/d/store/data", 5000, std::byte{1}).ok());
  REQUIRE_THAT(inspect(InspectDepth::kVerify), Catch::Contains("problem: chunk 1/1/0 block 1"));
  f.Open();
  REQUIRE(f.Read(2, 0, 8192) == "b4096 c4096");
}

}  // namespace
}  // namespace tessera::chunk
