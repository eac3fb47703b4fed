// The language of the store's tests: a store on a simulated disk, chunks by number, content by
// letter. Every step checks that it went well, except those named Try. For Catch2 test cases only.
#ifndef TESSERA_LIBCHUNK_STORE_TEST_FIXTURE_H_
#define TESSERA_LIBCHUNK_STORE_TEST_FIXTURE_H_

#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "libchunk/sim_disk.h"
#include "libchunk/store.h"

namespace tessera::chunk {

inline constexpr uint64_t kSeed = 20;
inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;

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
inline void InEveryState(Fixture& f, const std::function<void()>& check) {
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

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_STORE_TEST_FIXTURE_H_
