// A store on a block device: on a simulated one what it tells of space, on a loop device of the
// kernel its life, with a process that is killed.
#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>

#include "libchunk/env_posix.h"
#include "libchunk/store_test_fixture.h"

namespace tessera::chunk {
namespace {

// A store on a simulated block device, in the language of the fixture.
struct DeviceFixture : Fixture {
  explicit DeviceFixture(uint64_t device_bytes) {
    disk.AddBlockDevice("/d/store", device_bytes);
    options.capacity_bytes = 0;
  }
};

TEST_CASE("a store on a device lives through crashes and losses of power") {
  DeviceFixture f(64 * kMiB);
  f.Open();
  REQUIRE(f.store->open_report().created);
  f.Write(1, 0, 64 * kKiB, 'a');
  f.Write(2, 4096, 4096, 'b');
  InEveryState(f, [&] {
    REQUIRE(f.Read(1, 0, 64 * kKiB) == "a65536");
    REQUIRE(f.Read(2, 0, 8192) == ".4096 b4096");
    REQUIRE(f.BadBlocks() == 0);
  });
}

TEST_CASE("the capacity is what the device has for data, whatever larger one is asked for") {
  DeviceFixture f(64 * kMiB);
  f.options.capacity_bytes = GENERATE(uint64_t{0}, 64 * kMiB, 1024 * kMiB);
  f.Open();
  // 1 MiB of directory, 4 MiB of metadata; journal and superblock are in it.
  REQUIRE(f.store->stats().capacity_bytes == 59 * kMiB + 8192);
  REQUIRE(f.store->stats().used_bytes == 2 * kMiB + 8192);
  f.Write(1, 0, 64 * kKiB, 'a');
  REQUIRE(f.store->stats().used_bytes == 2 * kMiB + 8192 + 64 * kKiB);
}

TEST_CASE("a device fills up, also after it was opened again, and trims give the space back") {
  DeviceFixture f(20 * kMiB);
  f.Open();
  uint64_t chunks = 0;
  absl::Status status;
  while (status.ok() && chunks < 1000) {
    status = f.TryWrite(chunks, 0, 128 * kKiB, 'a');
    chunks += status.ok() ? 1 : 0;
    if (chunks == 50) {  // the space is told from the database from now on
      f.Checkpoint();
      f.CrashAndOpen();
    }
  }
  REQUIRE(absl::IsResourceExhausted(status));
  REQUIRE(f.store->failed().ok());
  REQUIRE(chunks == 12 * kMiB / (128 * kKiB));  // 13 MiB, less the reserve of one
  for (uint64_t chunk = 0; chunk < 8; ++chunk) f.Trim(chunk, 0, 128 * kKiB);
  f.Checkpoint();
  f.Write(0, 0, 128 * kKiB, 'b');
  REQUIRE(f.Read(chunks - 1, 0, 128 * kKiB) == "a131072");
  REQUIRE(f.store->stats().used_bytes <= f.store->stats().capacity_bytes);
}

TEST_CASE("a full metadata region is a full device, and deletes get out of it") {
  DeviceFixture f(256 * kMiB);
  f.options.journal_bytes = 8 * kMiB;
  f.Open();
  // Chunks with one small block each: rows, and next to no data.
  absl::Status status;
  uint64_t chunks = 0;
  while (status.ok() && chunks < 200'000) {
    status = f.TryWrite(chunks, 0, 512, 'a');
    chunks += status.ok() ? 1 : 0;
    if (chunks % 256 == 0 && status.ok()) REQUIRE(f.store->RunBackgroundWork(false).ok());
  }
  INFO(chunks << " chunks, " << status);
  REQUIRE(absl::IsResourceExhausted(status));
  REQUIRE(chunks > 10'000);
  REQUIRE(f.store->failed().ok());
  f.Checkpoint();
  f.CrashAndOpen();
  REQUIRE(f.Read(chunks - 1, 0, 512) == "a512");
  REQUIRE(absl::IsResourceExhausted(f.TryWrite(chunks, 0, 512, 'a')));
  for (uint64_t chunk = 0; chunk < chunks / 2; ++chunk) {
    REQUIRE(f.store->DeleteChunk(Fixture::Key(chunk)).ok());
    if (chunk % 256 == 0) REQUIRE(f.store->RunBackgroundWork(false).ok());
  }
  f.Checkpoint();
  f.Write(chunks, 0, 512, 'b');
  REQUIRE(f.Read(chunks - 1, 0, 512) == "a512");
}

TEST_CASE("a device with a file system is refused, and so is a small one") {
  DeviceFixture f(64 * kMiB);
  const std::byte letter{'x'};
  const std::span<const std::byte> slice(&letter, 1);
  REQUIRE((*f.disk.OpenFile("/d/store", OpenMode::kMustExist))->Write(1080, {&slice, 1}).ok());
  REQUIRE(absl::IsFailedPrecondition(f.TryOpen()));
  DeviceFixture small(8 * kMiB);
  const absl::Status status = small.TryOpen();
  REQUIRE(absl::IsFailedPrecondition(status));
  REQUIRE(status.message().find("at least") != std::string::npos);
}

TEST_CASE("a store on a device is inspected") {
  DeviceFixture f(64 * kMiB);
  REQUIRE(absl::IsNotFound(
      InspectStore(&f.disk, "/d/store", InspectDepth::kVerify, [](const std::string&) {})));
  f.Open();
  f.Write(1, 0, 64 * kKiB, 'a');
  f.Close();
  std::string lines;
  const auto line = [&](const std::string& text) { lines += text + "\n"; };
  REQUIRE(InspectStore(&f.disk, "/d/store", InspectDepth::kVerify, line).ok());
  REQUIRE(lines.find("device bytes=67108864") != std::string::npos);
  REQUIRE(lines.find("verified problems=0") != std::string::npos);
  f.Open();
  REQUIRE(f.store->open_report().clean);
}

// A loop device on a file of zeros, until destroyed; no path where the kernel gives none.
class LoopDevice {
 public:
  explicit LoopDevice(uint64_t size_bytes) {
    char file[] = "/tmp/tessera-loop-XXXXXX";
    const int backing = mkstemp(file);
    if (backing < 0) return;
    (void)unlink(file);
    const int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    const int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    if (number >= 0 && ftruncate(backing, static_cast<off_t>(size_bytes)) == 0) {
      path_ = "/dev/loop" + std::to_string(number);
      descriptor_ = open(path_.c_str(), O_RDWR | O_CLOEXEC);
      loop_config config = {};
      config.fd = static_cast<uint32_t>(backing);
      if (descriptor_ < 0 || ioctl(descriptor_, LOOP_CONFIGURE, &config) != 0) path_.clear();
    }
    if (control >= 0) (void)close(control);
    (void)close(backing);
  }
  ~LoopDevice() {
    if (descriptor_ < 0) return;
    if (!path_.empty()) (void)ioctl(descriptor_, LOOP_CLR_FD);
    (void)close(descriptor_);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
};

struct LoopFixture {
  LoopFixture() : loop(64 * kMiB) {
    if (loop.path().empty()) WARN("skipped: no loop devices here (not root, or no loop module)");
    options.chunk_bytes = 256 * kKiB;
    options.reserve_bytes = kMiB;
    options.journal_bytes = 2 * kMiB;
  }
  std::unique_ptr<Store> Open() {
    auto store = Store::Open(&env, loop.path(), options);
    INFO(store.status());
    REQUIRE(store.ok());
    return *std::move(store);
  }
  static absl::Status Put(Store& store, uint64_t sequence, uint32_t length, char letter) {
    const std::vector<std::byte> bytes(length, static_cast<std::byte>(letter));
    const std::span<const std::byte> slice(bytes);
    Change change = {.key = {1, sequence % 50, 0},
                     .stream = {.volume_id = 9, .placement_group_id = 4},
                     .version = {1, sequence},
                     .length_bytes = length};
    change.data = {&slice, 1};
    absl::Status result;
    store.Apply({&change, 1}, {&result, 1});
    return result;
  }
  static char Letter(Store& store, uint64_t sequence) {
    std::byte byte{};
    std::vector<std::byte> bytes(512);
    if (!store.Read({1, sequence % 50, 0}, nullptr, 0, bytes).ok()) return '!';
    byte = bytes[0];
    return static_cast<char>(byte);
  }

  LoopDevice loop;
  PosixEnv env;
  StoreOptions options;
};

TEST_CASE("on a loop device a store is made, written, closed, opened and read") {
  LoopFixture f;
  if (f.loop.path().empty()) return;
  std::unique_ptr<Store> store = f.Open();
  REQUIRE(store->open_report().created);
  REQUIRE(LoopFixture::Put(*store, 1, 4096, 'a').ok());
  REQUIRE(LoopFixture::Put(*store, 2, 128 * kKiB, 'b').ok());
  REQUIRE(store->Flush().ok());
  // A second opener, in this process and by the name that the lock does not know.
  REQUIRE(absl::IsFailedPrecondition(Store::Open(&f.env, f.loop.path(), f.options).status()));
  REQUIRE(absl::IsFailedPrecondition(f.env.OpenFile(f.loop.path(), OpenMode::kMustExist).status()));
  REQUIRE(store->Close().ok());
  store.reset();
  store = f.Open();
  REQUIRE(store->open_report().clean);
  REQUIRE(LoopFixture::Letter(*store, 1) == 'a');
  REQUIRE(LoopFixture::Letter(*store, 2) == 'b');
  for (uint64_t i = 3; i < 400; ++i) {
    REQUIRE(LoopFixture::Put(*store, i, i % 3 == 0 ? 64 * kKiB : 4096, 'c').ok());
  }
  REQUIRE(store->RunBackgroundWork(true).ok());
  uint64_t bad = 0;
  REQUIRE(store->VerifyAll([&](const ChunkKey&, uint32_t, const absl::Status&) { ++bad; }).ok());
  REQUIRE(bad == 0);
  REQUIRE(store->Close().ok());
  store.reset();
  std::string lines;
  REQUIRE(InspectStore(&f.env, f.loop.path(), InspectDepth::kVerify, [&](const auto& line) {
            lines += line + "\n";
          }).ok());
  REQUIRE(lines.find("verified problems=0") != std::string::npos);
}

TEST_CASE("on a loop device what a killed process was told is there") {
  LoopFixture f;
  if (f.loop.path().empty()) return;
  for (int round = 0; round < 3; ++round) {
    int told[2];
    REQUIRE(pipe(told) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {  // writes until it is killed, and says how far it came
      auto store = Store::Open(&f.env, f.loop.path(), f.options);
      if (!store.ok()) _exit(1);
      for (uint64_t i = 1;; ++i) {
        const char letter = static_cast<char>('a' + (i / 50 + static_cast<uint64_t>(round)) % 26);
        const uint64_t sequence = static_cast<uint64_t>(round) * 1'000'000 + i;
        if (!LoopFixture::Put(**store, sequence, i % 5 == 0 ? 64 * kKiB : 4096, letter).ok()) {
          _exit(1);
        }
        if (write(told[1], &i, sizeof(i)) != sizeof(i)) _exit(1);
      }
    }
    (void)close(told[1]);
    uint64_t last = 0;
    while (last < 700) REQUIRE(read(told[0], &last, sizeof(last)) == sizeof(last));
    REQUIRE(kill(child, SIGKILL) == 0);
    REQUIRE(waitpid(child, nullptr, 0) == child);
    while (read(told[0], &last, sizeof(last)) == sizeof(last)) continue;
    (void)close(told[0]);
    std::unique_ptr<Store> store = f.Open();
    REQUIRE_FALSE(store->open_report().volatile_state_lost);
    // The one after the last that was told may be there, too: of that one chunk.
    for (uint64_t i = last - 48; i <= last; ++i) {
      const char letter = static_cast<char>('a' + (i / 50 + static_cast<uint64_t>(round)) % 26);
      INFO("write " << i << " of " << last);
      REQUIRE(LoopFixture::Letter(*store, static_cast<uint64_t>(round) * 1'000'000 + i) == letter);
    }
  }
}

}  // namespace
}  // namespace tessera::chunk
