// The store with its threads: writers, readers, flushers and checkpoints at once. Its main diet is
// the thread sanitizer.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/seeded_random.h"
#include "libchunk/sim_disk.h"
#include "libchunk/store.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kSeed = 31;
constexpr uint32_t kChunkBytes = 256u << 10;
constexpr uint32_t kBlocks = kChunkBytes / kBlockBytes;
constexpr int kWriters = 3;
constexpr uint64_t kWritesPerWriter = 2500;

// What a block says of itself: who wrote it, which write of his it was.
struct Stamp {
  uint64_t writer = 0;
  uint64_t number = 0;
};

std::unique_ptr<Store> OpenStore(SimulatedDisk* disk) {
  StoreOptions options;
  options.chunk_bytes = kChunkBytes;
  options.capacity_bytes = 256u << 20;
  options.reserve_bytes = 4u << 20;
  options.journal_bytes = 2u << 20;
  options.metadata_cache_bytes = 8u << 10;  // so that rows come and go
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(disk, "/store", options);
  INFO(store.status());
  REQUIRE(store.ok());
  return *std::move(store);
}

absl::Status WriteStamp(Store* store, uint64_t writer, uint64_t number, uint64_t chunk,
                        uint32_t first_block, uint32_t count) {
  std::vector<std::byte> bytes(size_t{count} * kBlockBytes);
  const Stamp stamp{writer, number};
  for (uint32_t i = 0; i < count; ++i) {
    std::memcpy(bytes.data() + size_t{i} * kBlockBytes, &stamp, sizeof(stamp));
  }
  const std::span<const std::byte> slice(bytes);
  const Change change{.key = {writer, chunk, 0},
                      .stream = {.volume_id = writer, .placement_group_id = 1},
                      .version = {1, number},
                      .offset_bytes = first_block * kBlockBytes,
                      .length_bytes = count * kBlockBytes,
                      .data = std::span(&slice, 1)};
  absl::Status result;
  store->Apply(std::span(&change, 1), std::span(&result, 1));
  return result;
}

TEST_CASE("Under concurrent load a block is always one of its writes, and never goes back") {
  INFO("seed " << kSeed);
  SimulatedDisk disk({.seed = kSeed});
  std::unique_ptr<Store> store = OpenStore(&disk);
  constexpr uint64_t kChunks = 6;
  std::atomic<bool> stop = false;
  std::atomic<int> failures = 0;
  std::vector<std::atomic<uint64_t>> written(kWriters * kChunks * kBlocks);
  const auto slot = [](uint64_t writer, uint64_t chunk, uint32_t block) {
    return ((writer - 1) * kChunks + chunk) * kBlocks + block;
  };
  std::vector<std::thread> threads;
  for (uint64_t writer = 1; writer <= kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      SeededRandom random(kSeed + writer);
      for (uint64_t number = 1; number <= kWritesPerWriter; ++number) {
        const uint64_t chunk = random.Below(kChunks);
        const uint32_t count = random.Below(8) == 0 ? 10 : 1;
        const auto block = static_cast<uint32_t>(random.Below(kBlocks - count + 1));
        if (!WriteStamp(store.get(), writer, number, chunk, block, count).ok()) ++failures;
        for (uint32_t i = 0; i < count; ++i) written[slot(writer, chunk, block + i)] = number;
        if (number % 64 == 0 && !store->Flush().ok()) ++failures;
      }
    });
  }
  std::vector<std::thread> readers;
  for (uint64_t reader = 1; reader <= 2; ++reader) {
    readers.emplace_back([&, reader] {
      SeededRandom random(kSeed * 100 + reader);
      std::vector<std::byte> bytes(kBlockBytes);
      while (!stop) {
        const uint64_t writer = 1 + random.Below(kWriters);
        const uint64_t chunk = random.Below(kChunks);
        const auto block = static_cast<uint32_t>(random.Below(kBlocks));
        const uint64_t least = written[slot(writer, chunk, block)];
        if (!store->Read({writer, chunk, 0}, block * kBlockBytes, bytes).ok()) ++failures;
        Stamp stamp;
        std::memcpy(&stamp, bytes.data(), sizeof(stamp));
        if (stamp.number < least || (stamp.number > 0 && stamp.writer != writer)) ++failures;
        if (random.Below(64) == 0 && !store->ListChunks(1, std::nullopt, 10).ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  stop = true;
  for (std::thread& thread : readers) thread.join();
  REQUIRE(failures == 0);
  REQUIRE(store->stats().checkpoints > 0);
  REQUIRE(store->stats().checksum_errors == 0);
  REQUIRE(store->stats().writes == kWriters * kWritesPerWriter);
  for (uint64_t writer = 1; writer <= kWriters; ++writer) {
    REQUIRE(store->Cursor({.volume_id = writer, .placement_group_id = 1}) ==
            Version{1, kWritesPerWriter});
  }
  REQUIRE(store->Close().ok());
  store.reset();
  store = OpenStore(&disk);
  uint64_t bad = 0;
  REQUIRE(store->VerifyAll([&](const ChunkKey&, uint32_t, const absl::Status&) { ++bad; }).ok());
  REQUIRE(bad == 0);
  std::vector<std::byte> bytes(kBlockBytes);
  for (uint64_t writer = 1; writer <= kWriters; ++writer) {
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      for (uint32_t block = 0; block < kBlocks; ++block) {
        REQUIRE(store->Read({writer, chunk, 0}, block * kBlockBytes, bytes).ok());
        Stamp stamp;
        std::memcpy(&stamp, bytes.data(), sizeof(stamp));
        REQUIRE(stamp.number == written[slot(writer, chunk, block)]);
      }
    }
  }
}

TEST_CASE("Writers that cut one block between them lose nothing") {
  SimulatedDisk disk({.seed = kSeed});
  std::unique_ptr<Store> store = OpenStore(&disk);
  constexpr int kRounds = 300;
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (uint32_t sector = 0; sector < 4; ++sector) {
    threads.emplace_back([&, sector] {
      for (int round = 1; round <= kRounds; ++round) {
        const std::vector<std::byte> bytes(kSectorBytes, static_cast<std::byte>(round & 0xff));
        const std::span<const std::byte> slice(bytes);
        const Change change{.key = {1, 1, 0},
                            .stream = {.volume_id = sector + 1, .placement_group_id = 1},
                            .version = {1, static_cast<uint64_t>(round)},
                            .offset_bytes = sector * kSectorBytes,
                            .length_bytes = kSectorBytes,
                            .data = std::span(&slice, 1)};
        absl::Status result;
        store->Apply(std::span(&change, 1), std::span(&result, 1));
        std::vector<std::byte> back(kSectorBytes);
        if (!result.ok() || !store->Read({1, 1, 0}, sector * kSectorBytes, back).ok() ||
            back != bytes) {
          ++failures;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(failures == 0);
}

TEST_CASE("Every FlushAsync is answered once, and few syncs serve many") {
  SimulatedDisk disk({.seed = kSeed});
  std::unique_ptr<Store> store = OpenStore(&disk);
  constexpr int kFlushes = 200;
  absl::BlockingCounter answered(kFlushes);
  std::atomic<int> failures = 0;
  for (int i = 0; i < kFlushes; ++i) {
    REQUIRE(WriteStamp(store.get(), 1, i + 1, 1, i % kBlocks, 1).ok());
    store->FlushAsync([&](absl::Status status) {
      if (!status.ok()) ++failures;
      answered.DecrementCount();
    });
  }
  answered.Wait();
  REQUIRE(failures == 0);
  REQUIRE(store->stats().flushes == kFlushes);
  disk.LosePower();
  store.reset();
  store = OpenStore(&disk);
  REQUIRE(store->Cursor({.volume_id = 1, .placement_group_id = 1}) == Version{1, kFlushes});
}

}  // namespace
}  // namespace tessera::chunk
