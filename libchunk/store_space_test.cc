// Space: what trims give back, how a full store refuses and recovers, how the journal goes round.
#include <atomic>
#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "libchunk/allocator.h"
#include "libchunk/store_test_fixture.h"

namespace tessera::chunk {
namespace {

// What the data file occupies.
uint64_t DataBytes(Fixture& f) {
  auto data = f.disk.OpenFile("/d/store/data", OpenMode::kMustExist);
  REQUIRE(data.ok());
  return (*data)->AllocatedBytes().value();
}

TEST_CASE("A trim gives space back and keeps the version") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 128 * kKiB, 'a');
  f.Checkpoint();
  REQUIRE(DataBytes(f) == 128 * kKiB);
  f.Trim(1, 0, 256 * kKiB);
  // Kept for a while for the next writes, then given back.
  for (uint64_t interval = 0; interval < kWarmAgeMax; ++interval) f.Checkpoint();
  REQUIRE(DataBytes(f) == 0);
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

TEST_CASE("Overwrites of whole blocks go round on the same space, and no hole is punched") {
  Fixture f;
  f.Open();
  for (int round = 0; round < 40; ++round) {
    for (uint64_t chunk = 0; chunk < 4; ++chunk) {
      f.Write(chunk, 0, 256 * kKiB, static_cast<char>('a' + round % 26));
    }
    f.Checkpoint();
  }
  REQUIRE(DataBytes(f) == 2 * 4 * 256 * kKiB);  // what is mapped, and what it was before
  REQUIRE(f.disk.calls(CallKind::kPunchHole) == 0);
  REQUIRE(f.Read(3, 0, 256 * kKiB) == "n262144");
  REQUIRE(f.BadBlocks() == 0);
  f.Close();
  REQUIRE(DataBytes(f) == 4 * 256 * kKiB);
  f.LosePowerAndOpen(LossStyle::kLoseAll);
  REQUIRE(DataBytes(f) == 4 * 256 * kKiB);
  REQUIRE(f.Read(3, 0, 256 * kKiB) == "n262144");
}

TEST_CASE("A block is not written again before the change that freed it is durable") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 64 * kKiB, 'a');
  const bool in_row = GENERATE(true, false);
  const bool data_reaches_medium = GENERATE(true, false);
  CAPTURE(in_row, data_reaches_medium);
  if (in_row) f.Checkpoint();
  f.Flush();
  // Replaced, and as much written elsewhere; of this nothing reaches the medium but, perhaps, the
  // content of blocks.
  f.Write(1, 0, 64 * kKiB, 'b');
  for (uint64_t chunk = 2; chunk < 6; ++chunk) f.Write(chunk, 0, 64 * kKiB, 'c');
  if (data_reaches_medium) {
    auto data = f.disk.OpenFile("/d/store/data", OpenMode::kMustExist);
    REQUIRE(data.ok());
    REQUIRE((*data)->SyncData().ok());
  }
  f.LosePowerAndOpen(LossStyle::kLoseAll);
  REQUIRE(f.Read(1, 0, 64 * kKiB) == "a65536");
  REQUIRE(f.BadBlocks() == 0);
}

TEST_CASE("The space that free blocks held at a crash is found and given back") {
  Fixture f;
  f.Open();
  for (uint64_t chunk = 0; chunk < 6; ++chunk) f.Write(chunk, 0, 256 * kKiB, 'a');
  f.Checkpoint();
  for (uint64_t chunk = 0; chunk < 6; chunk += 2) f.Write(chunk, 0, 256 * kKiB, 'b');
  f.Trim(5, 0, 128 * kKiB);
  f.Checkpoint();
  const uint64_t mapped_bytes = f.store->stats().data_bytes;
  REQUIRE(mapped_bytes == 6 * 256 * kKiB - 128 * kKiB);
  REQUIRE(DataBytes(f) == mapped_bytes + 3 * 256 * kKiB + 128 * kKiB);
  f.CrashAndOpen();
  REQUIRE(DataBytes(f) > mapped_bytes);
  REQUIRE(f.store->RunBackgroundWork(/*force=*/false).ok());
  REQUIRE(DataBytes(f) == mapped_bytes);
  REQUIRE(f.Read(4, 0, 256 * kKiB) == "b262144");
  REQUIRE(f.Read(5, 0, 256 * kKiB) == ".131072 a131072");
  REQUIRE(f.BadBlocks() == 0);
}

TEST_CASE("A full file system gets the space of free blocks before a write is refused") {
  Fixture f;
  f.Open();
  // Every second piece of 64 KiB becomes free: no run for a larger write.
  for (uint64_t chunk = 0; chunk < 8; ++chunk) f.Write(chunk, 0, 256 * kKiB, 'a');
  for (uint64_t chunk = 0; chunk < 8; ++chunk) {
    f.Trim(chunk, 0, 64 * kKiB);
    f.Trim(chunk, 128 * kKiB, 64 * kKiB);
  }
  f.Checkpoint();
  REQUIRE(DataBytes(f) == 8 * 256 * kKiB);
  f.disk.set_capacity_bytes(f.disk.used_bytes());
  f.Write(100, 0, 256 * kKiB, 'b');
  REQUIRE(f.Read(100, 0, 256 * kKiB) == "b262144");
  REQUIRE(DataBytes(f) == 5 * 256 * kKiB);
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

// Writes directly to fresh space until there is none; returns how many chunks are full. Their
// blocks are in no row yet: there was no checkpoint.
uint64_t FillWithDirectWrites(Fixture& f) {
  f.options.capacity_bytes = 8 * kMiB;
  f.options.direct_write_bytes = 4 * kKiB;
  f.Open();
  uint64_t chunk = 0;
  while (f.TryWrite(chunk, 0, 256 * kKiB, 'a').ok()) ++chunk;
  for (uint32_t block = 0; f.TryWrite(chunk, block * 4096, 4096, 'b').ok();) ++block;
  REQUIRE(chunk >= 12);
  REQUIRE(f.store->stats().checkpoints == 0);
  return chunk;
}

TEST_CASE("Trims, zeroes and overwrites that cut blocks work on a full store") {
  Fixture f;
  const uint64_t chunks = FillWithDirectWrites(f);
  SECTION("each alone") {
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) f.Trim(chunk, 512, 8192);
  }
  SECTION("all at once, twice") {
    for (const ChangeKind kind : {ChangeKind::kTrim, ChangeKind::kWriteZeroes}) {
      std::vector<Change> changes;
      for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
        changes.push_back(f.MakeChange(kind, chunk, 512, 8192));
      }
      std::vector<absl::Status> results(changes.size(), absl::UnknownError("no result"));
      f.store->Apply(changes, results);
      for (const absl::Status& result : results) {
        INFO(result);
        REQUIRE(result.ok());
      }
    }
  }
  SECTION("after a crash of the process") {
    f.CrashAndOpen();
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) f.Trim(chunk, 512, 8192);
  }
  f.Write(1, 1024, 512, 'c');
  f.Write(2, 64 * kKiB, 4096, 'd');
  f.Write(3, 128 * kKiB, 64 * kKiB, 'e');
  const auto check = [&] {
    REQUIRE(f.Read(0, 0, 12288) == "a512 .8192 a3584");
    REQUIRE(f.Read(1, 0, 12288) == "a512 .512 c512 .7168 a3584");
    REQUIRE(f.Read(2, 60 * kKiB, 12288) == "a4096 d4096 a4096");
    REQUIRE(f.Read(3, 124 * kKiB, 72 * kKiB) == "a4096 e65536 a4096");
    REQUIRE(f.Read(chunks - 1, 0, 12288) == "a512 .8192 a3584");
    REQUIRE(f.BadBlocks() == 0);
    REQUIRE(f.store->stats().used_bytes <= f.options.capacity_bytes);
  };
  check();
  f.CrashAndOpen();
  check();
  f.Checkpoint();
  check();
}

TEST_CASE("Deletes work on a full store and make room at once") {
  Fixture f;
  const uint64_t chunks = FillWithDirectWrites(f);
  REQUIRE(absl::IsResourceExhausted(f.TryWrite(1000, 0, 64 * kKiB, 'z')));
  REQUIRE(absl::IsResourceExhausted(f.TryWrite(1000, 512, 512, 'z')));
  SECTION("of one chunk") { REQUIRE(f.store->DeleteChunk(Fixture::Key(0)).ok()); }
  SECTION("of a vtree") { REQUIRE(f.store->DeleteVtree(1, 4).ok()); }
  f.Write(1000, 0, 128 * kKiB, 'z');
  REQUIRE(f.Read(1000, 0, 128 * kKiB) == "z131072");
  REQUIRE(f.Read(0, 0, 4096) == ".4096");
  REQUIRE(chunks > 0);
}

TEST_CASE("On a full store no trim is refused while others write and checkpoints run") {
  Fixture f;
  const uint64_t chunks = FillWithDirectWrites(f);
  f.Close();
  f.options.background_threads = true;
  f.Open();
  constexpr uint64_t kThreads = 3;
  constexpr uint64_t kRounds = 400;
  std::atomic<uint64_t> refused_trims = 0, failed_writes = 0;
  const auto work = [&](uint64_t thread) {
    const std::vector<std::byte> bytes(64 * kKiB, static_cast<std::byte>('p' + thread));
    const std::span<const std::byte> slice(bytes);
    for (uint64_t round = 0; round < kRounds; ++round) {
      Change change{.key = Fixture::Key((round * kThreads + thread) % (chunks - chunks % kThreads)),
                    .stream = {.volume_id = 100 + thread, .placement_group_id = 4},
                    .version = {1, 2 * round + 1}};
      change.kind = round % 4 == 3 ? ChangeKind::kTrim : ChangeKind::kWrite;
      change.offset_bytes = 64 * kKiB;
      change.length_bytes = 64 * kKiB;
      if (change.kind == ChangeKind::kWrite) change.data = std::span(&slice, 1);
      absl::Status result;
      f.store->Apply(std::span(&change, 1), std::span(&result, 1));
      if (!result.ok() && !absl::IsResourceExhausted(result)) ++failed_writes;
      change.version.sequence = 2 * round + 2;
      change.kind = ChangeKind::kTrim;
      change.data = {};
      change.offset_bytes += 512;
      change.length_bytes = 20 * kKiB;
      f.store->Apply(std::span(&change, 1), std::span(&result, 1));
      if (!result.ok()) ++refused_trims;
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) threads.emplace_back(work, thread);
  for (std::thread& thread : threads) thread.join();
  REQUIRE(refused_trims == 0);
  REQUIRE(failed_writes == 0);
  REQUIRE(f.BadBlocks() == 0);
  f.Close();
}

}  // namespace
}  // namespace tessera::chunk
