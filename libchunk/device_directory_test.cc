// The layout of a device, and what its directory is taken for when it is damaged or another's.
#include "libchunk/device_directory.h"

#include <algorithm>
#include <catch2/catch.hpp>

namespace tessera::chunk {
namespace {

constexpr uint64_t kMiB = 1u << 20;

DeviceDirectory MakeDirectory() {
  DeviceDirectory directory{.sequence = 7, .layout = *PlanDevice(64 * kMiB, 2 * kMiB, 0)};
  directory.id[3] = std::byte{9};
  directory.files = {{.name = "journal", .size_bytes = 2 * kMiB, .runs = {}},
                     {.name = "meta.db", .size_bytes = 300'001, .runs = {{3, 1}, {0, 1}}},
                     {.name = "creating", .size_bytes = 0, .runs = {}}};
  return directory;
}

std::vector<std::byte> HeadWith(const DeviceDirectory& directory) {
  std::vector<std::byte> head(kDeviceHeadBytes);
  std::ranges::copy(
      EncodeDirectory(directory),
      head.begin() + static_cast<ptrdiff_t>(kDirectoryOffsets[directory.sequence % 2]));
  return head;
}

TEST_CASE("regions follow one another and end where the device does") {
  for (const uint64_t device_mib : {16u, 64u, 1000u, 4096u, 102'400u, 8u << 20}) {
    INFO(device_mib << " MiB");
    const auto layout = PlanDevice(device_mib * kMiB + 5000, 2 * kMiB + 4096, kMiB);
    REQUIRE(layout.ok());
    CHECK(layout->journal.offset == kDeviceHeadBytes);
    CHECK(layout->journal.size_bytes == 3 * kMiB);
    CHECK(layout->metadata.offset == 4 * kMiB);
    CHECK(layout->metadata.size_bytes >= layout->device_bytes / 51);
    CHECK(layout->metadata.size_bytes % layout->unit_bytes == 0);
    CHECK(layout->data.offset >= layout->metadata.offset + layout->metadata.size_bytes);
    CHECK(layout->data.size_bytes % 4096 == 0);
    const uint64_t end = layout->data.offset + layout->data.size_bytes;
    CHECK(end <= layout->device_bytes);
    CHECK(end + 4096 > layout->device_bytes);
  }
}

TEST_CASE("a device that is too small is refused, and the least size named works") {
  const absl::Status status = PlanDevice(100 * kMiB, 256 * kMiB, 80 * kMiB).status();
  REQUIRE(absl::IsFailedPrecondition(status));
  const std::string text(status.message());
  const uint64_t least = std::stoull(text.substr(text.rfind(' ') + 1));
  CHECK(PlanDevice(least, 256 * kMiB, 80 * kMiB).ok());
  CHECK_FALSE(PlanDevice(least - kMiB, 256 * kMiB, 80 * kMiB).ok());
}

TEST_CASE("a directory is read as it was written") {
  const DeviceDirectory directory = MakeDirectory();
  const auto read = DecodeDirectory(EncodeDirectory(directory));
  REQUIRE(read.ok());
  CHECK(read->sequence == 7);
  CHECK(read->id == directory.id);
  CHECK(read->layout.data.offset == directory.layout.data.offset);
  CHECK(read->layout.unit_bytes == directory.layout.unit_bytes);
  REQUIRE(read->files.size() == 3);
  CHECK(read->files[1].name == "meta.db");
  CHECK(read->files[1].size_bytes == 300'001);
  REQUIRE(read->files[1].runs.size() == 2);
  CHECK(read->files[1].runs[0].first == 3);
}

TEST_CASE("every flipped bit of a directory is noticed") {
  const std::vector<std::byte> good = EncodeDirectory(MakeDirectory());
  for (size_t i = 0; i < good.size(); ++i) {
    std::vector<std::byte> bad = good;
    bad[i] ^= std::byte{16};
    REQUIRE_FALSE(DecodeDirectory(bad).ok());
  }
}

TEST_CASE("two files with one unit, or more bytes than space, are DATA_LOSS") {
  DeviceDirectory directory = MakeDirectory();
  SECTION("one unit twice") { directory.files[2].runs = {{3, 1}}; }
  SECTION("too long") { directory.files[1].size_bytes = 600'000; }
  SECTION("outside") { directory.files[1].runs = {{4000, 2}}; }
  CHECK(absl::IsDataLoss(DecodeDirectory(EncodeDirectory(directory)).status()));
}

TEST_CASE("the newer whole copy counts") {
  DeviceDirectory directory = MakeDirectory();
  std::vector<std::byte> head = HeadWith(directory);
  CHECK(NewestDirectory(head)->sequence == 7);
  directory.sequence = 8;
  std::ranges::copy(EncodeDirectory(directory), head.begin());
  CHECK(NewestDirectory(head)->sequence == 8);
  head[100] ^= std::byte{1};  // the write of 8 was cut off
  CHECK(NewestDirectory(head)->sequence == 7);
  head[kDirectoryOffsets[1] + 100] ^= std::byte{1};
  CHECK(absl::IsDataLoss(NewestDirectory(head).status()));
}

TEST_CASE("what is not ours is told from what is damaged") {
  CHECK(absl::IsNotFound(NewestDirectory(std::vector<std::byte>(kDeviceHeadBytes)).status()));
  std::vector<std::byte> other(kDeviceHeadBytes);
  other[1080] = std::byte{0x53};  // ext4's magic number
  CHECK(absl::IsFailedPrecondition(NewestDirectory(other).status()));
  // A file system made over a store: the copy that it left is not believed.
  std::vector<std::byte> head = HeadWith(MakeDirectory());
  head[1080] = std::byte{0x53};
  CHECK(absl::IsDataLoss(NewestDirectory(head).status()));
}

}  // namespace
}  // namespace tessera::chunk
