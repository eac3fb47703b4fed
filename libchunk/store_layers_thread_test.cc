// Layers with threads: a volume is written and has snapshots made, read and deleted at once. Its
// main diet is the thread sanitizer.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
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

std::unique_ptr<Store> OpenStore(Env* disk) {
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
    threads.emplace_back([this] { List(); });
    threads.emplace_back([this] { Compare(); });
    Write();
    stop_ = true;
    for (std::thread& thread : threads) thread.join();
  }

  int failures() const { return failures_; }
  uint64_t dropped() const { return dropped_; }
  uint64_t compared() const { return compared_; }
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

  // No two writes have one number: what differs is what was written, exactly.
  void Compare() {
    SeededRandom random(kSeed * 200);
    while (!stop_) {
      const uint64_t chunk = random.Below(kChunks);
      absl::ReaderMutexLock lock(&mutex_);
      if (snapshots_.empty()) continue;
      const Snapshot& base = snapshots_[random.Below(snapshots_.size())];
      const Snapshot& target = snapshots_[random.Below(snapshots_.size())];
      const auto extents = store_->Changes({1, chunk, 0}, &base.path, target.path, 0, kChunkBytes);
      if (!extents.ok()) ++failures_;
      if (!extents.ok()) continue;
      ++compared_;
      for (const ChangedExtent& extent : *extents) {
        for (uint32_t i = 0; i < extent.length_bytes / kBlockBytes; ++i) {
          const uint64_t at = chunk * kBlocks + extent.offset_bytes / kBlockBytes + i;
          if (extent.changed != (base.content[at] != target.content[at])) ++failures_;
          if (extent.mapped != (target.content[at] != 0)) ++failures_;
        }
      }
    }
  }

  // No list is of the middle of a drop.
  void List() {
    while (!stop_) {
      const auto chunks = store_->ListChunks(1, std::nullopt, 10'000);
      if (!chunks.ok()) ++failures_;
      if (!chunks.ok()) continue;
      std::set<ChunkKey> keys;
      for (const ChunkInfo& info : *chunks) {
        keys.insert(info.key);
        const ChunkKey base{1, info.key.chunk_index, info.base.value_or(info.key.layer)};
        if (!keys.contains(base)) ++failures_;
      }
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
  std::atomic<uint64_t> dropped_ = 0, compared_ = 0;
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
  REQUIRE(load.compared() > 0);
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

// A disk that calls back when the journal is written.
class HookedFile final : public File {
 public:
  HookedFile(std::unique_ptr<File> file, std::function<void()>* hook)
      : file_(std::move(file)), hook_(hook) {}
  absl::Status Read(uint64_t offset, std::span<std::byte> out) override {
    return file_->Read(offset, out);
  }
  absl::Status ReadCached(uint64_t offset, std::span<std::byte> out) override {
    return file_->ReadCached(offset, out);
  }
  absl::Status Write(uint64_t offset, std::span<const std::span<const std::byte>> slices) override {
    if (*hook_) std::exchange(*hook_, nullptr)();
    return file_->Write(offset, slices);
  }
  absl::Status SyncData() override { return file_->SyncData(); }
  void StartWriteBack() override { file_->StartWriteBack(); }
  absl::Status Allocate(uint64_t offset, uint64_t bytes) override {
    return file_->Allocate(offset, bytes);
  }
  absl::Status PunchHole(uint64_t offset, uint64_t bytes) override {
    return file_->PunchHole(offset, bytes);
  }
  absl::Status Truncate(uint64_t bytes) override { return file_->Truncate(bytes); }
  absl::StatusOr<uint64_t> Size() override { return file_->Size(); }
  absl::StatusOr<uint64_t> AllocatedBytes() override { return file_->AllocatedBytes(); }

 private:
  const std::unique_ptr<File> file_;
  std::function<void()>* const hook_;
};

class HookedDisk final : public Env {
 public:
  explicit HookedDisk(SimulatedDisk* disk) : disk_(disk) {}
  std::function<void()> hook;  // before the journal's next write; once

  absl::StatusOr<std::unique_ptr<File>> OpenFile(const std::string& path, OpenMode mode) override {
    absl::StatusOr<std::unique_ptr<File>> file = disk_->OpenFile(path, mode);
    if (!file.ok() || !path.ends_with("/journal")) return file;
    return std::make_unique<HookedFile>(*std::move(file), &hook);
  }
  absl::Status CreateFolder(const std::string& path) override { return disk_->CreateFolder(path); }
  absl::Status SyncFolder(const std::string& path) override { return disk_->SyncFolder(path); }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return disk_->Rename(from, to);
  }
  absl::Status Delete(const std::string& path) override { return disk_->Delete(path); }
  absl::StatusOr<bool> Exists(const std::string& path) override { return disk_->Exists(path); }
  absl::StatusOr<bool> IsBlockDevice(const std::string& path) override {
    return disk_->IsBlockDevice(path);
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    return disk_->List(path);
  }
  absl::StatusOr<FileSystemSpace> Space(const std::string& path) override {
    return disk_->Space(path);
  }
  absl::StatusOr<std::unique_ptr<FolderLock>> LockFolder(const std::string& path) override {
    return disk_->LockFolder(path);
  }
  uint64_t NowNanos() override { return disk_->NowNanos(); }
  absl::StatusOr<std::string> BootId() override { return disk_->BootId(); }

 private:
  SimulatedDisk* const disk_;
};

TEST_CASE("A layer is not dropped while an image that names it as its base is on its way") {
  SimulatedDisk disk({.seed = kSeed});
  HookedDisk hooked(&disk);
  std::unique_ptr<Store> store = OpenStore(&hooked);
  const std::vector<std::byte> bytes(kBlockBytes, std::byte{'a'});
  const std::span<const std::byte> slice(bytes);
  const Change change{.key = {1, 0, 0},
                      .stream = {.volume_id = 1, .placement_group_id = 1},
                      .version = {1, 1},
                      .length_bytes = kBlockBytes,
                      .data = std::span(&slice, 1)};
  absl::Status written;
  store->Apply(std::span(&change, 1), std::span(&written, 1));
  REQUIRE(written.ok());
  REQUIRE(store->RunBackgroundWork(true).ok());
  ChunkImage image;
  image.info = {.key = {1, 0, 1}, .placement_group_id = 1, .version = {1, 2}, .base = 0};
  image.mapped = {0};
  image.inherited = {1};
  absl::Status dropped;
  std::thread dropper;
  absl::Notification is_over;
  hooked.hook = [&] {
    dropper = std::thread([&] {
      dropped = store->DropLayer({1, 0, 0});
      is_over.Notify();
    });
    // It is either done, which is wrong, or has to wait for this write.
    (void)is_over.WaitForNotificationWithTimeout(absl::Milliseconds(200));
  };
  const absl::Status applied = store->ApplyImage(image, {});
  dropper.join();
  REQUIRE(applied.ok());
  REQUIRE(dropped.ok());
  const auto layers = store->ListLayers(1, 0);
  REQUIRE(layers.ok());
  REQUIRE(layers->size() == 1);
  REQUIRE((*layers)[0].own_bytes == kBlockBytes);
  std::vector<std::byte> read(kBlockBytes);
  REQUIRE(store->Read({1, 0, 1}, 0, read).ok());
  REQUIRE(read == bytes);
  REQUIRE(store->Close().ok());
}

}  // namespace
}  // namespace tessera::chunk
