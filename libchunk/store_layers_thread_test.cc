// Layers with threads: a volume is written and has snapshots made, read and deleted at once. Its
// main diet is the thread sanitizer.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "libchunk/seeded_random.h"
#include "libchunk/sim_disk.h"
#include "libchunk/store.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kSeed = 37;
constexpr uint32_t kChunkBytes = 256u << 10;
constexpr uint32_t kBlocks = kChunkBytes / kBlockBytes;
constexpr uint64_t kChunks = 4;
constexpr uint64_t kWrites = 6000;
constexpr uint64_t kWritesPerSnapshot = 40;
constexpr size_t kSnapshotsMax = 6;

std::unique_ptr<Store> OpenStore(SimulatedDisk* disk) {
  StoreOptions options;
  options.chunk_bytes = kChunkBytes;
  options.capacity_bytes = 256u << 20;
  options.reserve_bytes = 4u << 20;
  options.journal_bytes = 2u << 20;
  options.metadata_cache_bytes = 8u << 10;  // so that rows and lists come and go
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(disk, "/store", options);
  INFO(store.status());
  REQUIRE(store.ok());
  return *std::move(store);
}

// What each block of the volume holds: the number of the write.
using Content = std::vector<uint64_t>;

struct Snapshot {
  LayerPath path;
  Content content;
};

uint64_t NumberIn(std::span<const std::byte> block) {
  uint64_t number = 0;
  std::memcpy(&number, block.data(), sizeof(number));
  return number;
}

class Load {
 public:
  explicit Load(Store* store) : store_(store), written_(kChunks * kBlocks) {}

  void Run() {
    std::vector<std::thread> threads;
    for (uint64_t reader = 1; reader <= 2; ++reader) {
      threads.emplace_back([this, reader] { Read(reader); });
    }
    threads.emplace_back([this] { DropUnseen(); });
    Write();
    stop_ = true;
    for (std::thread& thread : threads) thread.join();
  }

  int failures() const { return failures_; }
  uint64_t dropped() const { return dropped_; }
  const std::deque<Snapshot>& snapshots() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return snapshots_;
  }
  Content content() const { return {written_.begin(), written_.end()}; }

 private:
  void Write() {
    SeededRandom random(kSeed);
    uint32_t floor = 0;
    const LayerPath path;
    for (uint64_t number = 1; number <= kWrites; ++number) {
      const uint64_t chunk = random.Below(kChunks);
      const uint32_t count = random.Below(8) == 0 ? 10 : 1;
      const auto block = static_cast<uint32_t>(random.Below(kBlocks - count + 1));
      // Sometimes all but the last sector: the block is merged.
      const uint32_t cut = random.Below(4) == 0 ? kSectorBytes : 0;
      std::vector<std::byte> bytes(size_t{count} * kBlockBytes - cut);
      for (uint32_t i = 0; i < count; ++i) {
        std::memcpy(bytes.data() + size_t{i} * kBlockBytes, &number, sizeof(number));
      }
      const std::span<const std::byte> slice(bytes);
      const Change change{.key = {1, chunk, floor},
                          .path = &path,
                          .stream = {.volume_id = 1, .placement_group_id = 1},
                          .version = {1, number},
                          .offset_bytes = block * kBlockBytes,
                          .length_bytes = static_cast<uint32_t>(bytes.size()),
                          .data = std::span(&slice, 1)};
      absl::Status result;
      store_->Apply(std::span(&change, 1), std::span(&result, 1));
      if (!result.ok()) ++failures_;
      for (uint32_t i = 0; i < count; ++i) written_[chunk * kBlocks + block + i] = number;
      if (number % kWritesPerSnapshot != 0) continue;
      absl::MutexLock lock(&mutex_);
      snapshots_.push_back({*LayerPath::Make({{0, floor++}}), content()});
      if (snapshots_.size() > kSnapshotsMax) {
        snapshots_.erase(snapshots_.begin() + random.Below(snapshots_.size()));
      }
    }
  }

  void Read(uint64_t reader) {
    SeededRandom random(kSeed * 100 + reader);
    std::vector<std::byte> bytes(kBlockBytes);
    while (!stop_) {
      const uint64_t chunk = random.Below(kChunks);
      const auto block = static_cast<uint32_t>(random.Below(kBlocks));
      const uint64_t at = chunk * kBlocks + block;
      if (random.Below(2) == 0) {
        const uint64_t least = written_[at];
        const LayerPath head;
        if (!store_->Read({1, chunk, 0}, &head, block * kBlockBytes, bytes).ok()) ++failures_;
        if (NumberIn(bytes) < least) ++failures_;
        continue;
      }
      absl::ReaderMutexLock lock(&mutex_);
      if (snapshots_.empty()) continue;
      const Snapshot& snapshot = snapshots_[random.Below(snapshots_.size())];
      if (!store_->Read({1, chunk, 0}, &snapshot.path, block * kBlockBytes, bytes).ok()) {
        ++failures_;
      }
      if (NumberIn(bytes) != snapshot.content[at]) ++failures_;
    }
  }

  void DropUnseen() {
    while (!stop_) {
      std::vector<ChunkKey> unseen;
      for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
        // First the layers, then who sees them: a snapshot made since sees the last one, or later.
        const absl::StatusOr<std::vector<ChunkInfo>> layers = store_->ListLayers(1, chunk);
        if (!layers.ok()) ++failures_;
        if (!layers.ok() || layers->empty()) continue;
        std::vector<LayerPath> paths = {LayerPath()};
        {
          absl::ReaderMutexLock lock(&mutex_);
          for (const Snapshot& snapshot : snapshots_) paths.push_back(snapshot.path);
        }
        std::map<uint64_t, bool> seen;
        for (const LayerPath& path : paths) {
          std::optional<uint64_t> newest;
          for (const ChunkInfo& info : *layers) {
            if (path.Sees(info.key.layer)) newest = info.key.layer;
          }
          if (newest) seen[*newest] = true;
        }
        for (const ChunkInfo& info : *layers) {
          if (!seen[info.key.layer]) unseen.push_back(info.key);
        }
      }
      std::vector<absl::Status> results(unseen.size());
      store_->DropLayers(unseen, results);
      for (const absl::Status& result : results) {
        if (!result.ok() && !absl::IsAborted(result)) ++failures_;
        if (result.ok()) ++dropped_;
      }
      for (const ChunkKey& key : unseen) {
        const auto bytes = store_->ExclusiveBytes(key);
        if (!bytes.ok() && !absl::IsNotFound(bytes.status())) ++failures_;
      }
    }
  }

  Store* const store_;
  std::atomic<bool> stop_ = false;
  std::atomic<int> failures_ = 0;
  std::atomic<uint64_t> dropped_ = 0;
  std::vector<std::atomic<uint64_t>> written_;
  absl::Mutex mutex_;
  std::deque<Snapshot> snapshots_ ABSL_GUARDED_BY(mutex_);
};

TEST_CASE("Snapshots are what they were while layers come and go, and leave no block behind") {
  INFO("seed " << kSeed);
  SimulatedDisk disk({.seed = kSeed});
  std::unique_ptr<Store> store = OpenStore(&disk);
  Load load(store.get());
  load.Run();
  REQUIRE(load.failures() == 0);
  REQUIRE(load.dropped() > 0);
  REQUIRE(store->stats().checkpoints > 0);
  REQUIRE(store->Close().ok());
  store.reset();
  std::vector<std::string> problems;
  REQUIRE(InspectStore(&disk, "/store", InspectDepth::kVerify, [&](const std::string& line) {
            if (line.starts_with("problem")) problems.push_back(line);
          }).ok());
  REQUIRE(problems == std::vector<std::string>());

  store = OpenStore(&disk);
  std::vector<std::byte> bytes(kBlockBytes);
  const auto check = [&](const LayerPath& path, const Content& content) {
    for (uint64_t i = 0; i < content.size(); ++i) {
      const ChunkKey key{1, i / kBlocks, 0};
      REQUIRE(store->Read(key, &path, i % kBlocks * kBlockBytes, bytes).ok());
      REQUIRE(NumberIn(bytes) == content[i]);
    }
  };
  for (const Snapshot& snapshot : load.snapshots()) check(snapshot.path, snapshot.content);
  check(LayerPath(), load.content());
  std::vector<ChunkKey> all;
  uint64_t live = 0;
  for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
    const auto layers = store->ListLayers(1, chunk);
    REQUIRE(layers.ok());
    for (const ChunkInfo& info : *layers) all.push_back(info.key);
    live += layers->back().mapped_bytes;
    all.pop_back();
  }
  std::vector<absl::Status> results(all.size());
  store->DropLayers(all, results);
  for (const absl::Status& result : results) REQUIRE(result.ok());
  REQUIRE(store->stats().data_bytes == live);
  REQUIRE(store->stats().chunks == kChunks);
  check(LayerPath(), load.content());
}

}  // namespace
}  // namespace tessera::chunk
