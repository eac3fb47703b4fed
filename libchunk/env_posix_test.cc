// Runs against the file system of the temporary folder. The device paths (block device, RWF_NOWAIT,
// holes) are asked for what they must do whichever way the kernel grants them.
#include "libchunk/env_posix.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace tessera::chunk {
namespace {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "env_posix_XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::vector<std::byte> Filled(size_t length, uint8_t value) {
  return std::vector<std::byte>(length, std::byte{value});
}

absl::Status Write(File& file, uint64_t offset, const std::vector<std::byte>& bytes) {
  const std::span<const std::byte> slice(bytes);
  return file.Write(offset, {&slice, 1});
}

std::unique_ptr<File> Open(PosixEnv& env, const std::string& path) {
  absl::StatusOr<std::unique_ptr<File>> file = env.OpenFile(path, OpenMode::kCreateIfMissing);
  REQUIRE(file.ok());
  return *std::move(file);
}

TEST_CASE("a write of more slices than one pwritev takes is read back whole") {
  TemporaryFolder folder;
  PosixEnv env;
  const std::unique_ptr<File> file = Open(env, folder.File("a"));
  std::vector<std::vector<std::byte>> parts;
  std::vector<std::span<const std::byte>> slices;
  std::vector<std::byte> expected;
  for (size_t i = 0; i < 300; ++i) {
    parts.push_back(Filled(i % 7, static_cast<uint8_t>(i)));  // some of them empty
    expected.insert(expected.end(), parts.back().begin(), parts.back().end());
  }
  for (const auto& part : parts) slices.emplace_back(part);
  REQUIRE(file->Write(1000, slices).ok());
  CHECK(*file->Size() == 1000 + expected.size());
  std::vector<std::byte> out(expected.size());
  REQUIRE(file->Read(1000, out).ok());
  CHECK(out == expected);
  CHECK(file->Write(0, {}).ok());
}

TEST_CASE("reading past the end is OUT_OF_RANGE, also when a part is there") {
  TemporaryFolder folder;
  PosixEnv env;
  const std::unique_ptr<File> file = Open(env, folder.File("a"));
  REQUIRE(Write(*file, 0, Filled(100, 1)).ok());
  std::vector<std::byte> out(200);
  CHECK(absl::IsOutOfRange(file->Read(0, out)));
  CHECK(absl::IsOutOfRange(file->Read(5000, out)));
  CHECK(file->Read(100, {}).ok());
}

TEST_CASE("offsets that wrap are refused") {
  TemporaryFolder folder;
  PosixEnv env;
  const std::unique_ptr<File> file = Open(env, folder.File("a"));
  std::vector<std::byte> out(512);
  const uint64_t huge = ~uint64_t{0} - 100;
  CHECK(absl::IsInvalidArgument(file->Read(huge, out)));
  CHECK(absl::IsInvalidArgument(Write(*file, huge, out)));
  CHECK(absl::IsInvalidArgument(file->Allocate(huge, 512)));
  CHECK(absl::IsInvalidArgument(file->PunchHole(huge, 512)));
  CHECK(absl::IsInvalidArgument(file->Truncate(huge)));
}

TEST_CASE("ReadCached gives the same bytes as Read, or UNAVAILABLE") {
  TemporaryFolder folder;
  PosixEnv env;
  const std::unique_ptr<File> file = Open(env, folder.File("a"));
  const std::vector<std::byte> bytes = Filled(8192, 9);
  REQUIRE(Write(*file, 0, bytes).ok());
  std::vector<std::byte> out(bytes.size());
  const absl::Status status = file->ReadCached(0, out);
  CHECK((status.ok() || absl::IsUnavailable(status)));
  if (status.ok()) CHECK(out == bytes);
}

TEST_CASE("Allocate extends the size with zeros, and PunchHole keeps it") {
  TemporaryFolder folder;
  PosixEnv env;
  const std::unique_ptr<File> file = Open(env, folder.File("a"));
  REQUIRE(file->Allocate(0, 1 << 20).ok());
  CHECK(*file->Size() == 1 << 20);
  REQUIRE(Write(*file, 0, Filled(1 << 20, 3)).ok());
  REQUIRE(file->SyncData().ok());
  const uint64_t full_bytes = *file->AllocatedBytes();
  REQUIRE(file->PunchHole(4096, 512 << 10).ok());
  CHECK(*file->Size() == 1 << 20);
  CHECK(*file->AllocatedBytes() <= full_bytes);
  std::vector<std::byte> out(512 << 10);
  REQUIRE(file->Read(4096, out).ok());
  CHECK(std::all_of(out.begin(), out.end(), [](std::byte b) { return b == std::byte{0}; }));
  std::array<std::byte, 1> neighbour;
  REQUIRE(file->Read(4095, neighbour).ok());
  CHECK(neighbour[0] == std::byte{3});
  CHECK(file->PunchHole(0, 0).ok());
  CHECK(file->Allocate(0, 0).ok());
  REQUIRE(file->Truncate(10).ok());
  CHECK(*file->Size() == 10);
}

TEST_CASE("open modes tell present from missing") {
  TemporaryFolder folder;
  PosixEnv env;
  CHECK(absl::IsNotFound(env.OpenFile(folder.File("a"), OpenMode::kMustExist).status()));
  CHECK(env.OpenFile(folder.File("a"), OpenMode::kCreateNew).ok());
  CHECK(absl::IsAlreadyExists(env.OpenFile(folder.File("a"), OpenMode::kCreateNew).status()));
  CHECK(env.OpenFile(folder.File("a"), OpenMode::kMustExist).ok());
  CHECK_FALSE(env.OpenFile(folder.path(), OpenMode::kMustExist).ok());
  CHECK(absl::IsInternal(env.OpenFile("/dev/null", OpenMode::kMustExist).status()));
}

TEST_CASE("folders are created once, listed sorted, and their files renamed and deleted") {
  TemporaryFolder folder;
  PosixEnv env;
  const std::string inner = folder.File("inner");
  REQUIRE(env.CreateFolder(inner).ok());
  REQUIRE(env.CreateFolder(inner).ok());
  REQUIRE(env.OpenFile(inner + "/b", OpenMode::kCreateNew).ok());
  REQUIRE(env.OpenFile(inner + "/a", OpenMode::kCreateNew).ok());
  CHECK_FALSE(env.CreateFolder(inner + "/a").ok());
  CHECK(*env.List(inner) == std::vector<std::string>{"a", "b"});
  CHECK(env.List(folder.path())->empty());
  REQUIRE(env.Rename(inner + "/a", inner + "/b").ok());
  CHECK(*env.List(inner) == std::vector<std::string>{"b"});
  CHECK(env.SyncFolder(inner).ok());
  CHECK(*env.Exists(inner + "/b"));
  REQUIRE(env.Delete(inner + "/b").ok());
  CHECK_FALSE(*env.Exists(inner + "/b"));
  CHECK(absl::IsNotFound(env.Delete(inner + "/b")));
  CHECK(absl::IsNotFound(env.Rename(inner + "/b", inner + "/c")));
  CHECK(absl::IsNotFound(env.SyncFolder(folder.File("none"))));
  CHECK(absl::IsNotFound(env.List(folder.File("none")).status()));
}

TEST_CASE("a folder has one lock holder, in this process too") {
  TemporaryFolder folder;
  PosixEnv env;
  PosixEnv other;
  {
    const auto held = env.LockFolder(folder.path());
    REQUIRE(held.ok());
    CHECK(absl::IsFailedPrecondition(env.LockFolder(folder.path()).status()));
    CHECK(absl::IsFailedPrecondition(other.LockFolder(folder.path()).status()));
  }
  CHECK(other.LockFolder(folder.path()).ok());
  CHECK(absl::IsNotFound(env.LockFolder(folder.File("none")).status()));
}

TEST_CASE("space, clock and boot id are those of the host") {
  TemporaryFolder folder;
  PosixEnv env;
  const auto space = env.Space(folder.path());
  REQUIRE(space.ok());
  CHECK(space->available_bytes <= space->total_bytes);
  CHECK(space->total_bytes > 0);
  CHECK_FALSE(env.Space(folder.File("none")).ok());
  const uint64_t before = env.NowNanos();
  CHECK(env.NowNanos() >= before);
  CHECK(*env.BootId() == *PosixEnv().BootId());
  CHECK(env.BootId()->size() == 36);  // a UUID in text
}

TEST_CASE("a write that the kernel cuts short is continued, and its error told") {
  TemporaryFolder folder;
  PosixEnv env;
  const std::unique_ptr<File> file = Open(env, folder.File("a"));
  rlimit before;
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small = {10'000, before.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  const absl::Status status = Write(*file, 0, Filled(20'000, 1));  // 10,000 written, then EFBIG
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, old_handler);
  CHECK(absl::IsInternal(status));
  CHECK(*file->Size() == 10'000);
}

}  // namespace
}  // namespace tessera::chunk
