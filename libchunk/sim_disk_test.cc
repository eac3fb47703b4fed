// The disk that judges the store is judged here: each sentence of the crash model of env.h, and
// each fault, over enough seeds that both outcomes of every coin are seen.
#include "libchunk/sim_disk.h"

#include <catch2/catch.hpp>
#include <functional>
#include <set>
#include <string>
#include <vector>

namespace tessera::chunk {
namespace {

constexpr uint64_t kSeeds = 1000;

absl::Status Write(File& file, uint64_t offset, const std::string& text) {
  const std::span<const std::byte> slice = std::as_bytes(std::span(text));
  return file.Write(offset, {&slice, 1});
}

std::unique_ptr<File> Open(SimulatedDisk& disk, const std::string& path) {
  auto file = disk.OpenFile(path, OpenMode::kCreateIfMissing);
  REQUIRE(file.ok());
  return *std::move(file);
}

// The whole file as text, or "missing".
std::string Content(SimulatedDisk& disk, const std::string& path) {
  auto file = disk.OpenFile(path, OpenMode::kMustExist);
  if (!file.ok()) return "missing";
  std::string text(*(*file)->Size(), '\0');
  REQUIRE((*file)->Read(0, std::as_writable_bytes(std::span(text))).ok());
  return text;
}

std::string Sectors(const std::string& letters) {
  std::string text;
  for (const char letter : letters) text += std::string(512, letter);
  return text;
}

// One letter a sector; '.' for zeros, '?' for a mix.
std::string Letters(const std::string& text) {
  std::string letters;
  for (size_t i = 0; i < text.size(); i += 512) {
    const bool equal = text.substr(i, 512) == std::string(text.substr(i, 512).size(), text[i]);
    letters += !equal ? '?' : text[i] == '\0' ? '.' : text[i];
  }
  return letters;
}

// What `script` leaves behind after a loss of power, over all seeds.
std::set<std::string> OutcomesAfterPowerLoss(const std::function<void(SimulatedDisk&)>& script) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SimulatedDisk disk({.seed = seed});
    script(disk);
    disk.LosePower();
    const std::string content = Content(disk, "/a");
    outcomes.insert(content == "missing" ? content : Letters(content));
  }
  return outcomes;
}

TEST_CASE("what was synced, file and folder, survives every loss of power") {
  CHECK(OutcomesAfterPowerLoss([](SimulatedDisk& disk) {
          const auto file = Open(disk, "/a");
          REQUIRE(Write(*file, 0, Sectors("ab")).ok());
          REQUIRE(file->SyncData().ok());
          REQUIRE(disk.SyncFolder("/").ok());
        }) == std::set<std::string>{"ab"});
}

TEST_CASE("unsynced sectors are lost, kept and torn one by one, and come back with any old value") {
  const auto outcomes = OutcomesAfterPowerLoss([](SimulatedDisk& disk) {
    const auto file = Open(disk, "/a");
    REQUIRE(Write(*file, 0, Sectors("xx")).ok());
    REQUIRE(file->SyncData().ok());
    REQUIRE(disk.SyncFolder("/").ok());
    REQUIRE(Write(*file, 0, Sectors("aa")).ok());
    REQUIRE(Write(*file, 0, Sectors("bb")).ok());
  });
  CHECK(outcomes == std::set<std::string>{"xx", "xa", "xb", "ax", "aa", "ab", "bx", "ba", "bb"});
}

TEST_CASE("an unsynced size is lost, kept, or kept with zeros for lost sectors") {
  const auto outcomes = OutcomesAfterPowerLoss([](SimulatedDisk& disk) {
    const auto file = Open(disk, "/a");
    REQUIRE(disk.SyncFolder("/").ok());
    REQUIRE(Write(*file, 0, Sectors("ab")).ok());
  });
  CHECK(outcomes == std::set<std::string>{"", "a", "a.", "..", ".b", "ab"});
}

TEST_CASE("holes and truncations are kept or lost whole") {
  CHECK(OutcomesAfterPowerLoss([](SimulatedDisk& disk) {
          const auto file = Open(disk, "/a");
          REQUIRE(Write(*file, 0, Sectors("abcdefgh") + Sectors("ijklmnop")).ok());
          REQUIRE(file->SyncData().ok());
          REQUIRE(disk.SyncFolder("/").ok());
          REQUIRE(file->PunchHole(512, 4096 + 1024).ok());
        }) == std::set<std::string>{"abcdefghijklmnop", "a..........lmnop"});
  CHECK(OutcomesAfterPowerLoss([](SimulatedDisk& disk) {
          const auto file = Open(disk, "/a");
          REQUIRE(Write(*file, 0, Sectors("abcd")).ok());
          REQUIRE(file->SyncData().ok());
          REQUIRE(disk.SyncFolder("/").ok());
          REQUIRE(file->Truncate(512).ok());
        }) == std::set<std::string>{"abcd", "a"});
}

TEST_CASE("names are durable only after SyncFolder, and a rename is never in between") {
  CHECK(OutcomesAfterPowerLoss([](SimulatedDisk& disk) {
          const auto file = Open(disk, "/a");
          REQUIRE(Write(*file, 0, Sectors("a")).ok());
          REQUIRE(file->SyncData().ok());
        }) == std::set<std::string>{"missing", "a"});
  CHECK(OutcomesAfterPowerLoss([](SimulatedDisk& disk) {
          for (const char* path : {"/a", "/new"}) {
            const auto file = Open(disk, path);
            REQUIRE(Write(*file, 0, Sectors(std::string(1, path[1]))).ok());
            REQUIRE(file->SyncData().ok());
          }
          REQUIRE(disk.SyncFolder("/").ok());
          REQUIRE(disk.Rename("/new", "/a").ok());
        }) == std::set<std::string>{"a", "n"});
  CHECK(OutcomesAfterPowerLoss([](SimulatedDisk& disk) {
          const auto file = Open(disk, "/a");
          REQUIRE(disk.SyncFolder("/").ok());
          REQUIRE(disk.Delete("/a").ok());
        }) == std::set<std::string>{"missing", ""});
}

TEST_CASE("a folder that was not synced takes its files with it") {
  std::set<bool> outcomes;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SimulatedDisk disk({.seed = seed});
    REQUIRE(disk.CreateFolder("/f").ok());
    const auto file = Open(disk, "/f/a");
    REQUIRE(file->SyncData().ok());
    REQUIRE(disk.SyncFolder("/f").ok());
    disk.LosePower();
    CHECK(*disk.Exists("/f/a") == *disk.Exists("/f"));
    outcomes.insert(*disk.Exists("/f"));
  }
  CHECK(outcomes == std::set<bool>{false, true});
}

TEST_CASE("a crash of the process keeps everything and kills the handles") {
  SimulatedDisk disk({.seed = 1});
  const auto file = Open(disk, "/a");
  auto held = disk.LockFolder("/");
  REQUIRE(held.ok());
  REQUIRE(Write(*file, 0, Sectors("a")).ok());
  const std::string boot = *disk.BootId();
  disk.CrashProcess();
  CHECK(Letters(Content(disk, "/a")) == "a");
  CHECK(absl::IsInternal(Write(*file, 0, "b")));
  CHECK(*disk.BootId() == boot);
  const auto again = disk.LockFolder("/");
  REQUIRE(again.ok());
  held->reset();  // the dead holder must not release the new one's lock
  CHECK(absl::IsFailedPrecondition(disk.LockFolder("/").status()));
  disk.LosePower();
  CHECK(*disk.BootId() != boot);
}

TEST_CASE("the machine is off from the planned change until it is started again") {
  std::set<std::string> outcomes;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SimulatedDisk disk({.seed = seed});
    const auto file = Open(disk, "/a");
    disk.CrashAtChange(2);
    REQUIRE(Write(*file, 0, Sectors("aa")).ok());
    CHECK(absl::IsInternal(Write(*file, 0, Sectors("bb"))));
    CHECK(disk.off());
    CHECK_FALSE(disk.OpenFile("/a", OpenMode::kMustExist).ok());
    CHECK_FALSE(file->Size().ok());
    CHECK_FALSE(disk.BootId().ok());
    disk.CrashProcess();
    CHECK_FALSE(disk.off());
    outcomes.insert(Letters(Content(disk, "/a")));
  }
  CHECK(outcomes == std::set<std::string>{"aa", "ba", "bb"});
}

TEST_CASE("after a failed sync reads see the data, no later sync writes it") {
  std::set<std::string> outcomes;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SimulatedDisk disk({.seed = seed});
    const auto file = Open(disk, "/a");
    REQUIRE(Write(*file, 0, Sectors("xx")).ok());
    REQUIRE(file->SyncData().ok());
    REQUIRE(disk.SyncFolder("/").ok());
    REQUIRE(Write(*file, 0, Sectors("ab")).ok());
    disk.FailCall(CallKind::kSyncData, 1, FaultKind::kInputOutputError);
    CHECK(absl::IsInternal(file->SyncData()));
    CHECK(disk.fault_struck());
    CHECK(Letters(Content(disk, "/a")) == "ab");
    CHECK(file->SyncData().ok());  // it lies, as Linux does
    disk.LosePower(LossStyle::kKeepAll);
    outcomes.insert(Letters(Content(disk, "/a")));
  }
  CHECK(outcomes == std::set<std::string>{"xx", "xb", "ax", "ab"});
}

TEST_CASE("planned faults strike the nth call of their kind") {
  SimulatedDisk disk({.seed = 3});
  const auto file = Open(disk, "/a");
  std::string out(512, ' ');
  disk.FailCall(CallKind::kWrite, 2, FaultKind::kShortWrite);
  REQUIRE(Write(*file, 0, Sectors("aa")).ok());
  REQUIRE(file->Read(0, std::as_writable_bytes(std::span(out))).ok());
  CHECK(absl::IsInternal(Write(*file, 0, Sectors("bb"))));
  const std::string content = Content(disk, "/a");
  CHECK(content[0] == 'b');
  CHECK(content[1023] == 'a');
  CHECK(Write(*file, 0, Sectors("cc")).ok());
  disk.FailCall(std::nullopt, 1, FaultKind::kInputOutputError, /*persistent=*/true);
  CHECK_FALSE(file->Size().ok());
  CHECK_FALSE(disk.SyncFolder("/").ok());
  disk.CancelFault();
  CHECK(disk.SyncFolder("/").ok());
  disk.FailCall(CallKind::kAllocate, 1, FaultKind::kNoSpace);
  CHECK(absl::IsResourceExhausted(file->Allocate(0, 4096)));
}

TEST_CASE("capacity is exact: pages are taken once and given back") {
  SimulatedDisk disk({.seed = 4, .capacity_bytes = 3 * 4096});
  const auto file = Open(disk, "/a");
  REQUIRE(Write(*file, 0, std::string(8192, 'a')).ok());
  CHECK(disk.used_bytes() == 8192);
  CHECK(absl::IsResourceExhausted(Write(*file, 8192, std::string(8192, 'b'))));
  CHECK(*file->Size() == 12288);  // the prefix that fitted
  CHECK(absl::IsResourceExhausted(file->Allocate(1 << 20, 4096)));
  CHECK(Write(*file, 4096, std::string(4096, 'c')).ok());
  REQUIRE(file->PunchHole(0, 4096).ok());
  CHECK(*file->AllocatedBytes() == 8192);
  CHECK(disk.Space("/")->available_bytes == 4096);
  REQUIRE(disk.Delete("/a").ok());
  CHECK(disk.used_bytes() == 0);
}

TEST_CASE("flipped bits and lying syncs do what they say") {
  SimulatedDisk disk({.seed = 5});
  const auto file = Open(disk, "/a");
  REQUIRE(disk.SyncFolder("/").ok());
  REQUIRE(Write(*file, 0, "abc").ok());
  REQUIRE(file->SyncData().ok());
  REQUIRE(disk.FlipBits("/a", 1, std::byte{0x20}).ok());
  CHECK(Content(disk, "/a") == "aBc");
  CHECK(absl::IsOutOfRange(disk.FlipBits("/a", 3, std::byte{1})));
  CHECK(absl::IsNotFound(disk.FlipBits("/b", 0, std::byte{1})));
  disk.set_lying_sync(true);
  REQUIRE(Write(*file, 0, "xyz").ok());
  REQUIRE(file->SyncData().ok());
  disk.LosePower(LossStyle::kLoseAll);
  CHECK(Content(disk, "/a") == "aBc");
}

TEST_CASE("names behave as on POSIX") {
  SimulatedDisk disk({.seed = 6});
  CHECK(absl::IsNotFound(disk.OpenFile("/a", OpenMode::kMustExist).status()));
  CHECK(absl::IsNotFound(disk.OpenFile("/none/a", OpenMode::kCreateNew).status()));
  CHECK(disk.OpenFile("/a", OpenMode::kCreateNew).ok());
  CHECK(absl::IsAlreadyExists(disk.OpenFile("/a", OpenMode::kCreateNew).status()));
  CHECK(absl::IsNotFound(disk.Rename("/b", "/c")));
  CHECK(absl::IsNotFound(disk.Delete("/b")));
  CHECK(absl::IsNotFound(disk.CreateFolder("/none/f")));
  CHECK(disk.CreateFolder("/f").ok());
  CHECK(disk.OpenFile("/f/z", OpenMode::kCreateNew).ok());
  CHECK(disk.OpenFile("/f/y", OpenMode::kCreateNew).ok());
  CHECK(*disk.List("/f") == std::vector<std::string>{"y", "z"});
  CHECK(absl::IsNotFound(disk.List("/none").status()));
  CHECK(absl::IsNotFound(disk.SyncFolder("/none")));
  CHECK(absl::IsNotFound(disk.LockFolder("/none").status()));
}

TEST_CASE("the same seed and calls give the same disk") {
  std::set<std::string> outcomes;
  for (int run = 0; run < 3; ++run) {
    SimulatedDisk disk({.seed = 77});
    const auto file = Open(disk, "/a");
    REQUIRE(disk.SyncFolder("/").ok());
    for (int i = 0; i < 50; ++i) REQUIRE(Write(*file, i * 512 * 3, Sectors("abcd")).ok());
    disk.LosePower(LossStyle::kSectors);
    outcomes.insert(Content(disk, "/a"));
  }
  CHECK(outcomes.size() == 1);
}

}  // namespace
}  // namespace tessera::chunk
