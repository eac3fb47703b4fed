// Every promise of store.h, case by case, on the simulated disk. Random histories against a model
// are store_model_test.cc's, crashes at every call store_crash_test.cc's.
#include "libchunk/store.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <map>
#include <string>

#include "libchunk/sim_disk.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kSeed = 20;
constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;

// A store in a small language: chunks by number, content by letter.
class Fixture {
 public:
  Fixture() : disk({.seed = kSeed}) {
    INFO("seed " << kSeed);
    options.chunk_bytes = 256 * kKiB;
    options.capacity_bytes = 64 * kMiB;
    options.reserve_bytes = 1 * kMiB;
    options.journal_bytes = 2 * kMiB;
    options.metadata_cache_bytes = 64 * kKiB;
    options.background_threads = false;
    REQUIRE(disk.CreateFolder("/d").ok());
    REQUIRE(disk.SyncFolder("/").ok());
  }

  absl::Status TryOpen() {
    store.reset();
    absl::StatusOr<std::unique_ptr<Store>> opened = Store::Open(&disk, "/d/store", options);
    if (opened.ok()) store = *std::move(opened);
    return opened.status();
  }
  void Open() {
    const absl::Status status = TryOpen();
    INFO(status);
    REQUIRE(status.ok());
  }
  void Close() {
    const absl::Status status = store->Close();
    INFO(status);
    REQUIRE(status.ok());
    store.reset();
  }
  void CrashAndOpen() {
    disk.CrashProcess();
    Open();
  }
  void LosePowerAndOpen(std::optional<LossStyle> style = std::nullopt) {
    disk.LosePower(style);
    Open();
  }
  void Checkpoint() {
    const absl::Status status = store->RunBackgroundWork(true);
    INFO(status);
    REQUIRE(status.ok());
  }
  void Flush() { REQUIRE(store->Flush().ok()); }

  static ChunkKey Key(uint64_t chunk, uint64_t vtree = 1) { return {vtree, chunk, 0}; }
  static StreamId Stream() { return {.volume_id = 9, .placement_group_id = 4}; }

  Change MakeChange(ChangeKind kind, uint64_t chunk, uint32_t offset, uint32_t length) {
    return {.key = Key(chunk),
            .stream = Stream(),
            .version = {1, ++sequence},
            .kind = kind,
            .offset_bytes = offset,
            .length_bytes = length};
  }
  absl::Status Put(const Change& change) {
    absl::Status result = absl::UnknownError("no result");
    store->Apply(std::span(&change, 1), std::span(&result, 1));
    return result;
  }
  absl::Status TryWrite(uint64_t chunk, uint32_t offset, uint32_t length, char letter) {
    const std::vector<std::byte> bytes(length, static_cast<std::byte>(letter));
    const std::span<const std::byte> slice(bytes);
    Change change = MakeChange(ChangeKind::kWrite, chunk, offset, length);
    change.data = std::span(&slice, 1);
    return Put(change);
  }
  void Write(uint64_t chunk, uint32_t offset, uint32_t length, char letter) {
    const absl::Status status = TryWrite(chunk, offset, length, letter);
    INFO(status);
    REQUIRE(status.ok());
  }
  void Trim(uint64_t chunk, uint32_t offset, uint32_t length) {
    const absl::Status status = Put(MakeChange(ChangeKind::kTrim, chunk, offset, length));
    INFO(status);
    REQUIRE(status.ok());
  }
  // The content in runs, for example "a4096 .8192": a letter or '.' for zero, and how many bytes.
  std::string Read(uint64_t chunk, uint32_t offset, uint32_t length) {
    std::vector<std::byte> bytes(length, std::byte{'?'});
    const absl::Status status = store->Read(Key(chunk), offset, bytes);
    if (!status.ok()) return std::string(absl::StatusCodeToString(status.code()));
    return Runs(bytes);
  }
  static std::string Runs(const std::vector<std::byte>& bytes) {
    std::string runs;
    for (size_t i = 0; i < bytes.size();) {
      size_t end = i;
      while (end < bytes.size() && bytes[end] == bytes[i]) ++end;
      const char letter = bytes[i] == std::byte{0} ? '.' : static_cast<char>(bytes[i]);
      runs += (runs.empty() ? "" : " ") + std::string(1, letter) + std::to_string(end - i);
      i = end;
    }
    return runs;
  }
  uint64_t BadBlocks() {
    uint64_t bad = 0;
    REQUIRE(store->VerifyAll([&](const ChunkKey&, uint32_t, const absl::Status&) { ++bad; }).ok());
    return bad;
  }

  SimulatedDisk disk;
  StoreOptions options;
  std::unique_ptr<Store> store;
  uint64_t sequence = 0;
};

// Runs `check` on the store as it is, after a checkpoint, after a crash of the process, and after a
// clean stop: where the content lies differs each time, what it is does not.
void InEveryState(Fixture& f, const std::function<void()>& check) {
  SECTION("in the journal") { check(); }
  SECTION("after a checkpoint") {
    f.Checkpoint();
    check();
  }
  SECTION("after a crash of the process") {
    f.CrashAndOpen();
    check();
  }
  SECTION("after a checkpoint and a crash") {
    f.Checkpoint();
    f.CrashAndOpen();
    check();
  }
  SECTION("after a flush and a power loss") {
    f.Flush();
    f.LosePowerAndOpen();
    check();
  }
  SECTION("after a clean stop") {
    f.Close();
    f.Open();
    REQUIRE(f.store->open_report().clean);
    check();
  }
}

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

TEST_CASE("A trim gives space back and keeps the version") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 128 * kKiB, 'a');
  f.Checkpoint();
  const auto data_bytes = [&] {
    auto data = f.disk.OpenFile("/d/store/data", OpenMode::kMustExist);
    REQUIRE(data.ok());
    return (*data)->AllocatedBytes().value();
  };
  REQUIRE(data_bytes() == 128 * kKiB);
  f.Trim(1, 0, 256 * kKiB);
  f.Checkpoint();
  REQUIRE(data_bytes() == 0);
  InEveryState(f, [&] {
    REQUIRE(f.Read(1, 0, 8192) == ".8192");
    const auto chunk = f.store->GetChunk(Fixture::Key(1));
    REQUIRE(chunk.ok());
    REQUIRE(chunk->has_value());
    REQUIRE((*chunk)->version == Version{1, 2});
    REQUIRE((*chunk)->mapped_bytes == 0);
    REQUIRE((*chunk)->placement_group_id == 4);
    REQUIRE(f.store->stats().data_bytes == 0);
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
  REQUIRE(f.store->ReadImage(Fixture::Key(1)).status().code() == absl::StatusCode::kNotFound);
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
  const auto image = f.store->ReadImage(Fixture::Key(1));
  REQUIRE(image.ok());
  REQUIRE(image->info.mapped_bytes == 72 * kKiB);

  Change incomplete = f.MakeChange(ChangeKind::kTrim, 2, 128 * kKiB, 4096);
  ChunkImage copy = *image;
  copy.info.key = Fixture::Key(2);
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

TEST_CASE("Flipped bits are DATA_LOSS, never wrong bytes") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.Write(1, 4096, 4096, 'b');
  std::string path = "/d/store/data";
  uint64_t offset = 100;
  SECTION("in the data file") { f.Checkpoint(); }
  SECTION("in the journal") {
    path = "/d/store/journal";
    // After the Opened record and this record's header.
    offset = 512 + 64 + 72 + 4 + 100;
  }
  REQUIRE(f.disk.FlipBits(path, offset, std::byte{1}).ok());
  REQUIRE(f.Read(1, 0, 4096) == "DATA_LOSS");
  REQUIRE(f.Read(1, 4096, 4096) == "b4096");
  REQUIRE(absl::IsDataLoss(f.TryWrite(1, 512, 512, 'c')));
  REQUIRE(f.BadBlocks() == 1);
  REQUIRE(f.store->stats().checksum_errors > 0);
  f.Checkpoint();
  REQUIRE(f.Read(1, 0, 4096) == "DATA_LOSS");
  f.Write(1, 0, 4096, 'd');
  REQUIRE(f.Read(1, 0, 4096) == "d4096");
}

TEST_CASE("Damage in the flushed part of the journal is told, not taken for its end") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.Write(2, 0, 4096, 'b');
  f.Flush();
  f.Write(3, 0, 4096, 'c');
  f.Flush();
  SECTION("in a header: the store does not open") {
    REQUIRE(f.disk.FlipBits("/d/store/journal", 512 + 20, std::byte{1}).ok());
    f.disk.CrashProcess();
    REQUIRE(absl::IsDataLoss(f.TryOpen()));
  }
  SECTION("in the content: one block is lost") {
    REQUIRE(f.disk.FlipBits("/d/store/journal", 512 + 64 + 72 + 4 + 100, std::byte{1}).ok());
    f.CrashAndOpen();
    REQUIRE(f.Read(1, 0, 4096) == "DATA_LOSS");
    REQUIRE(f.Read(2, 0, 4096) == "b4096");
    REQUIRE(f.Read(3, 0, 4096) == "c4096");
  }
}

TEST_CASE("A failed sync fails the store for good") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.disk.FailCall(CallKind::kSyncData, 1, FaultKind::kInputOutputError);
  REQUIRE(absl::IsFailedPrecondition(f.store->Flush()));
  REQUIRE_FALSE(f.store->failed().ok());
  REQUIRE(absl::IsFailedPrecondition(f.store->Flush()));
  REQUIRE(absl::IsFailedPrecondition(f.TryWrite(1, 0, 4096, 'b')));
  REQUIRE(absl::IsFailedPrecondition(f.store->RunBackgroundWork(true)));
  REQUIRE(f.Read(1, 0, 4096) == "a4096");
}

TEST_CASE("A full store refuses new data cleanly, takes overwrites and trims, and recovers") {
  Fixture f;
  f.options.capacity_bytes = 8 * kMiB;
  f.Open();
  uint64_t chunk = 0;
  uint32_t block = 0;
  absl::Status status;
  while ((status = f.TryWrite(chunk, block * 4096, 4096, 'a')).ok()) {
    if (++block == 64) {
      block = 0;
      ++chunk;
    }
  }
  INFO(status);
  REQUIRE(absl::IsResourceExhausted(status));
  REQUIRE(f.store->failed().ok());
  REQUIRE(chunk >= 12);
  REQUIRE(f.store->stats().used_bytes <= f.options.capacity_bytes);
  for (int round = 0; round < 10; ++round) {
    f.Write(0, 0, 128 * kKiB, static_cast<char>('b' + round));
    f.Write(1, 4096, 4096, static_cast<char>('b' + round));
  }
  REQUIRE(absl::IsResourceExhausted(f.TryWrite(1000, 0, 64 * kKiB, 'z')));
  f.Trim(2, 0, 256 * kKiB);
  f.Write(1000, 0, 64 * kKiB, 'z');
  REQUIRE(f.store->DeleteChunk(Fixture::Key(3)).ok());
  f.Write(1001, 0, 128 * kKiB, 'y');
  f.CrashAndOpen();
  f.Checkpoint();
  REQUIRE(f.Read(0, 0, 128 * kKiB) == "k131072");
  REQUIRE(f.Read(1000, 0, 64 * kKiB) == "z65536");
  REQUIRE(f.Read(1001, 0, 128 * kKiB) == "y131072");
  REQUIRE(f.BadBlocks() == 0);
  REQUIRE(f.store->stats().used_bytes <= f.options.capacity_bytes);
}

TEST_CASE("The journal goes round many times") {
  Fixture f;
  f.Open();
  std::map<std::pair<uint64_t, uint32_t>, char> expected;
  for (uint32_t i = 0; i < 4000; ++i) {
    const uint64_t chunk = i * 7 % 13;
    const uint32_t block = i * 31 % 64;
    const char letter = static_cast<char>('a' + i % 26);
    f.Write(chunk, block * 4096, 4096, letter);
    expected[{chunk, block}] = letter;
    if (i % 500 == 499) f.CrashAndOpen();
  }
  REQUIRE(f.store->stats().journal_used_bytes <= f.options.journal_bytes);
  for (const auto& [where, letter] : expected) {
    REQUIRE(f.Read(where.first, where.second * 4096, 4096) == letter + std::string("4096"));
  }
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

TEST_CASE("A store without its superblock is not overwritten") {
  Fixture f;
  f.Open();
  f.Close();
  REQUIRE(f.disk.Delete("/d/store/superblock").ok());
  REQUIRE(absl::IsDataLoss(f.TryOpen()));
}

TEST_CASE("With the nth call failing, then the next, every step fails cleanly or passes") {
  const auto script = [](Fixture& f, uint32_t* acknowledged) -> absl::Status {
    if (absl::Status status = f.TryOpen(); !status.ok()) return status;
    for (uint32_t i = 0; i < 6; ++i) {
      const char letter = static_cast<char>('a' + i);
      absl::Status status = f.TryWrite(i % 2, 0, i % 3 == 0 ? 64 * kKiB : 4096, letter);
      if (!status.ok()) return status;
      if (status = f.store->Flush(); !status.ok()) return status;
      *acknowledged = i + 1;
      if (i % 2 == 1) {
        if (status = f.store->RunBackgroundWork(true); !status.ok()) return status;
      }
    }
    return f.store->Close();
  };
  const FaultKind fault = GENERATE(FaultKind::kInputOutputError, FaultKind::kNoSpace);
  const CallKind kind =
      GENERATE(CallKind::kWrite, CallKind::kSyncData, CallKind::kPunchHole, CallKind::kAllocate,
               CallKind::kOpenFile, CallKind::kRename, CallKind::kSyncFolder, CallKind::kRead);
  bool struck = true;
  for (uint64_t nth = 1; struck; ++nth) {
    Fixture f;
    INFO(CallKindName(kind) << " number " << nth << " fails");
    f.disk.FailCall(kind, nth, fault);
    uint32_t acknowledged = 0;
    const absl::Status status = script(f, &acknowledged);
    struck = f.disk.fault_struck();
    if (!struck) REQUIRE(status.ok());
    f.disk.CancelFault();
    f.store.reset();
    f.LosePowerAndOpen();
    for (uint64_t chunk = 0; chunk < 2; ++chunk) {
      // The last acknowledged letter of the chunk, or the one that was under way.
      std::vector<std::byte> bytes(4096);
      REQUIRE(f.store->Read(Fixture::Key(chunk), 0, bytes).ok());
      uint32_t last = 0;
      for (uint32_t i = 0; i < acknowledged; ++i) last = i % 2 == chunk ? i + 1 : last;
      const char got = static_cast<char>(bytes[0]);
      const char least = last == 0 ? '\0' : static_cast<char>('a' + last - 1);
      const uint32_t next = acknowledged;
      const bool next_here = next < 6 && next % 2 == chunk;
      INFO("chunk " << chunk << " has " << static_cast<int>(got) << ", not less than "
                    << static_cast<int>(least));
      REQUIRE((got == least || (next_here && got == static_cast<char>('a' + next))));
    }
    REQUIRE(f.BadBlocks() == 0);
    f.Checkpoint();
    REQUIRE(f.BadBlocks() == 0);
    f.Close();
  }
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

TEST_CASE("After lost volatile state every Open says so until its caller has gone on") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.LosePowerAndOpen();
  REQUIRE(f.store->open_report().volatile_state_lost);
  f.CrashAndOpen();
  REQUIRE(f.store->open_report().volatile_state_lost);
  f.Flush();
  f.CrashAndOpen();
  REQUIRE_FALSE(f.store->open_report().volatile_state_lost);
}

TEST_CASE("What a failed sync left in memory only is not taken for durable after a restart") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.Write(2, 0, 64 * kKiB, 'b');
  f.disk.FailCall(CallKind::kSyncData, 1, FaultKind::kInputOutputError);
  REQUIRE_FALSE(f.store->Flush().ok());
  f.CrashAndOpen();
  REQUIRE(f.store->open_report().volatile_state_lost);
  const std::string first = f.Read(1, 0, 4096);
  const std::string second = f.Read(2, 0, 64 * kKiB);
  REQUIRE((first == "a4096" || first == ".4096"));
  REQUIRE((second == "b65536" || second == ".65536"));
  f.Flush();
  f.LosePowerAndOpen();
  REQUIRE(f.Read(1, 0, 4096) == first);
  REQUIRE(f.Read(2, 0, 64 * kKiB) == second);
}

}  // namespace
}  // namespace tessera::chunk
