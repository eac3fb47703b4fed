#include "services/sdc/cache/cache_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "services/sdc/cache/file_store.h"

namespace tessera::sdc {
namespace {

constexpr uint32_t kSlots = 4;
constexpr uint64_t kBytes = uint64_t{kSlots} * kCacheLineBytes;

struct FolderFixture {
  FolderFixture() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cache-test-XXXXXX").string();
    path = std::string(mkdtemp(pattern.data())) + "/cache";
  }
  ~FolderFixture() { std::filesystem::remove_all(std::filesystem::path(path).parent_path()); }

  static SavedCache Something() {
    SavedCache saved;
    saved.spaces.push_back({3,
                            {.volume_id = 7,
                             .vtree_id = 8,
                             .generation = UINT64_MAX >> 1,
                             .snapshot_sequence = 1,
                             .size_bytes = 1 << 20,
                             .read_only = true}});
    SavedLine line{2, {3, 99}, 0x8001, {}};
    line.checksums[0] = 0xdeadbeef;
    line.checksums[15] = 15;
    saved.lines.push_back(line);
    return saved;
  }
  // What the life finds that the one with `incarnation` is followed by.
  SavedCache Load(uint64_t incarnation, uint32_t slots = kSlots, const char* uuid = "node") {
    const auto folder = CacheFolder::Lock(path, kBytes);
    REQUIRE(folder.ok());
    const auto saved = (*folder)->Load({uuid, incarnation}, slots);
    REQUIRE(saved.ok());
    return *saved;
  }
  void Save(uint64_t incarnation) {
    const auto folder = CacheFolder::Lock(path, kBytes);
    REQUIRE(folder.ok());
    REQUIRE((*folder)->Load({"node", incarnation}, kSlots).ok());
    REQUIRE((*folder)->Save(Something()).ok());
  }

  std::string path;
};

TEST_CASE("sizes are read as people write them", "[cache]") {
  CHECK(*ParseCacheSize("10GiB") == 10ull << 30);
  CHECK(*ParseCacheSize("16MiB") == 16ull << 20);
  CHECK(*ParseCacheSize("1TiB") == 1ull << 40);
  CHECK(*ParseCacheSize("1073741824") == 1ull << 30);
  for (const char* wrong : {"", "10", "10GB", "GiB", "-1GiB", "1.5GiB", "2TiB", "15MiB",
                            "18446744073709551615TiB", "99999999999999999999", "10GiB "}) {
    INFO(wrong);
    CHECK(absl::IsInvalidArgument(ParseCacheSize(wrong).status()));
  }
}

TEST_CASE_METHOD(FolderFixture, "what a client leaves is there for its next life, once",
                 "[cache]") {
  Save(4);
  struct stat info {};
  REQUIRE(stat((path + "/sdc_chunks.db").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  const SavedCache saved = Load(5);
  REQUIRE(saved.spaces.size() == 1);
  CHECK(saved.spaces[0].space == 3);
  CHECK(saved.spaces[0].identity == Something().spaces[0].identity);
  REQUIRE(saved.lines.size() == 1);
  CHECK(saved.lines[0].slot == 2);
  CHECK(saved.lines[0].key == CacheLineKey{3, 99});
  CHECK(saved.lines[0].valid == 0x8001);
  CHECK(saved.lines[0].checksums == Something().lines[0].checksums);
  // Whoever took it may have written since.
  CHECK(Load(5).lines.empty());
  CHECK(Load(6).lines.empty());
}

TEST_CASE_METHOD(FolderFixture, "it is nothing to any other life", "[cache]") {
  Save(4);
  SECTION("one that a life without the cache was before") { CHECK(Load(6).lines.empty()); }
  SECTION("one before it") { CHECK(Load(4).lines.empty()); }
  SECTION("another client's") { CHECK(Load(5, kSlots, "other").lines.empty()); }
  SECTION("one with another size") { CHECK(Load(5, kSlots + 1).lines.empty()); }
  CHECK(Load(5).lines.empty());
}

TEST_CASE_METHOD(FolderFixture, "a damaged database is made anew", "[cache]") {
  Save(4);
  const std::string file = path + "/sdc_chunks.db";
  SECTION("it is no database") { std::ofstream(file, std::ios::trunc) << std::string(8192, 'x'); }
  SECTION("its pages are wrong") {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(4096);
    bytes << std::string(4096, '\xff');
  }
  SECTION("it is gone") { REQUIRE(unlink(file.c_str()) == 0); }
  CHECK(Load(5).lines.empty());
  Save(5);
  CHECK(Load(6).lines.size() == 1);
}

TEST_CASE_METHOD(FolderFixture, "a folder is one process's, and has room", "[cache]") {
  const auto folder = CacheFolder::Lock(path, kBytes);
  REQUIRE(folder.ok());
  const absl::Status second = CacheFolder::Lock(path, kBytes).status();
  CHECK(absl::IsFailedPrecondition(second));
  CHECK(second.message().find("in use") != std::string::npos);
  const absl::Status large = CacheFolder::Lock(path + "2", uint64_t{1} << 60).status();
  CHECK(absl::IsInvalidArgument(large));
  CHECK(large.message().find("room") != std::string::npos);
  const absl::Status nowhere = CacheFolder::Lock("/proc/none", kBytes).status();
  CHECK(absl::IsInvalidArgument(nowhere));
  CHECK(nowhere.message().find("/proc/none") != std::string::npos);
}

TEST_CASE_METHOD(FolderFixture, "the file gives what was written, and ends in order", "[cache]") {
  EventLoop loop;
  REQUIRE(mkdir(path.c_str(), 0700) == 0);
  const std::string file = path + "/blocks";
  auto store = FileStore::Open(loop, file, kBytes);
  REQUIRE(store.ok());
  struct stat info {};
  REQUIRE(stat(file.c_str(), &info) == 0);
  CHECK(static_cast<uint64_t>(info.st_size) == kBytes);
  CHECK((info.st_mode & 0777) == 0600);

  std::thread thread([&loop] { loop.Run(); });
  std::atomic<int> wrong{0};
  loop.Post([&] {
    CacheBytes bytes = CacheBytes::Allocate(8192);
    std::fill(bytes.bytes().begin(), bytes.bytes().end(), std::byte{42});
    const bool taken = (*store)->Write(kCacheLineBytes, bytes, [&](bool ok) {
      wrong += ok ? 0 : 1;
      CacheBytes into = CacheBytes::Allocate(4096);
      const bool read = (*store)->Read(kCacheLineBytes + 4096, into, [&, into](bool good) {
        wrong +=
            good && into.memory[0] == std::byte{42} && into.memory[4095] == std::byte{42} ? 0 : 1;
        // Past the end.
        CacheBytes none = CacheBytes::Allocate(4096);
        const bool asked = (*store)->Read(kBytes, none, [&](bool fine) {
          wrong += fine ? 1 : 0;
          loop.Stop();
        });
        if (!asked) loop.Stop();
      });
      if (!read) loop.Stop();
    });
    if (!taken) loop.Stop();
  });
  thread.join();
  CHECK(wrong == 0);
  (*store)->Close();
}

TEST_CASE_METHOD(FolderFixture, "more than the queue holds is refused", "[cache]") {
  EventLoop loop;
  REQUIRE(mkdir(path.c_str(), 0700) == 0);
  auto store = FileStore::Open(loop, path + "/blocks", kBytes);
  REQUIRE(store.ok());
  // Nobody takes answers, but the thread goes on: only bytes in one job are sure to be too many.
  CacheBytes large = CacheBytes::Allocate(FileStore::kBytesMax + 1);
  CHECK_FALSE((*store)->Write(0, large, [](bool) {}));
  CHECK((*store)->Write(0, CacheBytes::Allocate(4096), [](bool) {}));
  (*store)->Close();
  CHECK_FALSE((*store)->Write(0, CacheBytes::Allocate(4096), [](bool) {}));
}

}  // namespace
}  // namespace tessera::sdc
