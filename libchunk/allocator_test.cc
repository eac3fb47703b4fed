#include "libchunk/allocator.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "libchunk/seeded_random.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kSeed = 5;

absl::StatusOr<GroupBitmap> AllFree(uint64_t) { return GroupBitmap(); }

uint64_t CountBlocks(const DeviceExtents& extents) {
  uint64_t count = 0;
  for (const DeviceExtent& extent : extents) count += extent.count;
  return count;
}

TEST_CASE("A bitmap finds runs, across words and to the end") {
  GroupBitmap bitmap;
  REQUIRE(bitmap.FindRun(0, kGroupBlocks, 1, 100).count == 100);
  REQUIRE(bitmap.Assign(10, 200, true) == 200);
  REQUIRE(bitmap.Assign(100, 10, true) == 0);
  REQUIRE(bitmap.FindRun(0, kGroupBlocks, 1, 100).count == 10);
  REQUIRE(bitmap.FindRun(0, kGroupBlocks, 11, 100).first == 210);
  REQUIRE(bitmap.Assign(100, 3, false) == 3);
  REQUIRE(bitmap.FindRun(10, kGroupBlocks, 2, 2).first == 100);
  REQUIRE(bitmap.FindRun(kGroupBlocks - 3, kGroupBlocks, 4, 8).count == 0);
  REQUIRE(bitmap.FindRun(kGroupBlocks - 3, kGroupBlocks, 3, 8).count == 3);
  REQUIRE(bitmap.CountFree() == kGroupBlocks - 197);
}

TEST_CASE("A bitmap survives its encoding, and damage to it is found") {
  GroupBitmap bitmap;
  bitmap.Assign(1000, 77, true);
  std::vector<std::byte> bits = bitmap.Encode();
  const auto decoded = GroupBitmap::Decode(bits);
  REQUIRE(decoded.ok());
  REQUIRE(decoded->CountFree() == kGroupBlocks - 77);
  bits[500] ^= std::byte{4};
  REQUIRE(absl::IsDataLoss(GroupBitmap::Decode(bits).status()));
  bits.pop_back();
  REQUIRE(absl::IsDataLoss(GroupBitmap::Decode(bits).status()));
}

TEST_CASE("Reservations end at the limit, and what is reserved can be allocated") {
  Allocator allocator(1000, {}, AllFree);
  allocator.SetLimit(100);
  REQUIRE(allocator.Reserve(60));
  REQUIRE_FALSE(allocator.Reserve(41));
  REQUIRE(allocator.Reserve(40));
  const auto extents = allocator.Allocate(100, std::nullopt);
  REQUIRE(extents.ok());
  REQUIRE(extents->size() == 1);
  REQUIRE(allocator.space().in_use_blocks == 100);
  REQUIRE(allocator.space().reserved_blocks == 0);
  REQUIRE_FALSE(allocator.Reserve(1));
  allocator.Release(*extents);
  REQUIRE(allocator.Reserve(100));
  allocator.Unreserve(100);
}

TEST_CASE("Blocks are given near the wanted place when it is free") {
  Allocator allocator(10 * kGroupBlocks, {}, AllFree);
  REQUIRE(allocator.Reserve(30));
  const auto far = allocator.Allocate(10, 5 * kGroupBlocks + 7);
  REQUIRE(far.ok());
  REQUIRE(far->front().first_block == 5 * kGroupBlocks + 7);
  REQUIRE(far->size() == 1);
  const auto taken = allocator.Allocate(20, 5 * kGroupBlocks + 7);
  REQUIRE(taken.ok());
  REQUIRE(taken->front().first_block != 5 * kGroupBlocks + 7);
}

TEST_CASE("No block is given out twice, and fragments are used to the last one") {
  INFO("seed " << kSeed);
  SeededRandom random(kSeed);
  constexpr uint64_t kBlocks = 5000;
  Allocator allocator(kBlocks, {}, AllFree);
  std::map<uint64_t, DeviceExtent> held;
  std::set<uint64_t> in_use;
  for (int step = 0; step < 3000; ++step) {
    if (random.Below(3) != 0) {
      const uint64_t count = 1 + random.Below(40);
      if (!allocator.Reserve(count)) {
        REQUIRE(in_use.size() + count > kBlocks);
        continue;
      }
      std::optional<uint64_t> near;
      if (random.Below(2) == 0) near = random.Below(kBlocks);
      const auto extents = allocator.Allocate(count, near);
      REQUIRE(extents.ok());
      REQUIRE(CountBlocks(*extents) == count);
      for (const DeviceExtent& extent : *extents) {
        for (uint64_t i = 0; i < extent.count; ++i) {
          REQUIRE(extent.first_block + i < kBlocks);
          REQUIRE(in_use.insert(extent.first_block + i).second);
        }
        held[extent.first_block] = extent;
      }
    } else if (!held.empty()) {
      const auto victim = std::next(held.begin(), static_cast<int64_t>(random.Below(held.size())));
      allocator.Release(std::span(&victim->second, 1));
      for (uint64_t i = 0; i < victim->second.count; ++i) {
        in_use.erase(victim->second.first_block + i);
      }
      held.erase(victim);
    }
    REQUIRE(allocator.space().in_use_blocks == in_use.size());
  }
}

TEST_CASE("A group that the database disagrees with stays in memory") {
  GroupBitmap stored;
  int loads = 0;
  Allocator allocator(2 * kGroupBlocks, {}, [&](uint64_t) -> absl::StatusOr<GroupBitmap> {
    ++loads;
    return stored;
  });
  REQUIRE(allocator.Reserve(8));
  const auto extents = allocator.Allocate(8, std::nullopt);
  REQUIRE(extents.ok());
  allocator.Trim();
  REQUIRE(allocator.Reserve(1));
  REQUIRE(allocator.Allocate(1, std::nullopt).ok());
  REQUIRE(loads == 1);
  REQUIRE(absl::IsDataLoss(allocator.MarkInUse({extents->front().first_block, 1})));
  REQUIRE(absl::IsDataLoss(allocator.MarkInUse({2 * kGroupBlocks, 1})));
}

TEST_CASE("A bitmap that cannot be read, or contradicts its summary, fails the allocation") {
  Allocator broken(kGroupBlocks, {}, [](uint64_t) -> absl::StatusOr<GroupBitmap> {
    return absl::InternalError("no disk");
  });
  REQUIRE(broken.Reserve(5));
  REQUIRE(broken.Allocate(5, std::nullopt).status().code() == absl::StatusCode::kInternal);
  REQUIRE(broken.space().reserved_blocks == 5);
  Allocator wrong(kGroupBlocks, {100}, AllFree);
  REQUIRE(wrong.Reserve(5));
  REQUIRE(absl::IsDataLoss(wrong.Allocate(5, std::nullopt).status()));
}

}  // namespace
}  // namespace tessera::chunk
