#include "libchunk/allocator.h"

#include <catch2/catch.hpp>
#include <map>
#include <optional>
#include <set>
#include <thread>
#include <vector>

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

TEST_CASE("Warm blocks are given out first, also where they are scattered and space is short") {
  Allocator allocator(1000, {}, AllFree);
  allocator.SetLimit(400);
  REQUIRE(allocator.Reserve(200));
  const auto extents = allocator.Allocate(200, std::nullopt);
  REQUIRE(extents.ok());
  std::vector<DeviceExtent> scattered;
  for (uint64_t block = 0; block < 200; block += 2) scattered.push_back({block, 1});
  REQUIRE(allocator.ReleaseWarm(scattered).empty());
  REQUIRE(allocator.space().in_use_blocks == 100);
  REQUIRE(allocator.space().warm_blocks == 100);
  SECTION("a run of them") {
    const DeviceExtent odd{101, 1};
    REQUIRE(allocator.ReleaseWarm(std::span(&odd, 1)).empty());
    REQUIRE(allocator.Reserve(3));
    const auto run = allocator.Allocate(3, std::nullopt);
    REQUIRE(run.ok());
    REQUIRE(run->size() == 1);
    REQUIRE(run->front().first_block == 100);
  }
  SECTION("cold ones while there is room for both") {
    REQUIRE(allocator.Reserve(200));
    REQUIRE(allocator.Allocate(200, std::nullopt).ok());
    REQUIRE(allocator.space().warm_blocks == 100);
  }
  SECTION("both where there is not") {
    REQUIRE(allocator.Reserve(250));
    REQUIRE(allocator.Allocate(250, std::nullopt).ok());
    const Allocator::Space space = allocator.space();
    REQUIRE(space.in_use_blocks + space.warm_blocks == 400);
    REQUIRE(space.warm_blocks == 50);
  }
}

TEST_CASE("No more blocks stay warm than half of what is free") {
  Allocator allocator(1000, {}, AllFree);
  REQUIRE(allocator.Reserve(900));
  const auto extents = allocator.Allocate(900, std::nullopt);
  REQUIRE(extents.ok());
  const std::vector<DeviceExtent> rest = allocator.ReleaseWarm(*extents);
  REQUIRE(allocator.space().warm_blocks == 50);
  REQUIRE(rest.size() == 1);
  REQUIRE(rest.front().count == 850);
  REQUIRE(allocator.space().in_use_blocks == 850);
  allocator.Release(rest);
  REQUIRE(allocator.space().in_use_blocks == 0);
}

TEST_CASE("Held blocks are free but not given out, and an allocation waits for them") {
  Allocator allocator(100, {}, AllFree);
  REQUIRE(allocator.Reserve(40));
  const auto extents = allocator.Allocate(40, std::nullopt);
  REQUIRE(extents.ok());
  REQUIRE(allocator.ReleaseWarm(*extents).front().count == 10);  // 30 of 60 free ones stay warm
  const auto none = allocator.HoldWarm(Allocator::Which::kUnused, 100);
  REQUIRE(none.ok());
  REQUIRE(none->empty());
  const auto warm = allocator.HoldWarm(Allocator::Which::kAll, 100);
  REQUIRE(warm.ok());
  REQUIRE(warm->front().count == 30);
  uint64_t next = 0;
  const auto cold = allocator.HoldCold(&next, 100);
  REQUIRE(cold.ok());
  REQUIRE(cold->first_block == 40);
  REQUIRE(cold->count == 60);
  REQUIRE(allocator.space().held_blocks == 90);
  REQUIRE(allocator.space().in_use_blocks == 10);
  REQUIRE(allocator.Reserve(90));
  std::thread waiter([&] { REQUIRE(allocator.Allocate(90, std::nullopt).ok()); });
  allocator.ReleaseHeld(*warm);
  allocator.ReleaseHeld(std::span(&*cold, 1));
  waiter.join();
  REQUIRE(allocator.space().in_use_blocks == 100);
  REQUIRE(allocator.HoldCold(&(next = 0), 100)->count == 0);
}

TEST_CASE("Whatever is released, held and given out, no block is two things") {
  INFO("seed " << kSeed);
  SeededRandom random(kSeed);
  constexpr uint64_t kBlocks = 3000;
  constexpr uint64_t kLimit = 2500;
  Allocator allocator(kBlocks, {}, AllFree);
  allocator.SetLimit(kLimit);
  std::vector<DeviceExtent> in_use, held;
  uint64_t sweep = 0;
  const auto check = [&] {
    std::set<uint64_t> seen;
    uint64_t count = 0;
    for (const auto* extents : {&in_use, &held}) {
      for (const DeviceExtent& extent : *extents) {
        for (uint64_t i = 0; i < extent.count; ++i) seen.insert(extent.first_block + i);
        count += extent.count;
      }
    }
    REQUIRE(seen.size() == count);
    const Allocator::Space space = allocator.space();
    REQUIRE(space.in_use_blocks + space.held_blocks == count);
    REQUIRE(space.in_use_blocks + space.warm_blocks <= kLimit);
  };
  const auto release_held = [&] {
    allocator.ReleaseHeld(held);
    held.clear();
  };
  for (int step = 0; step < 3000; ++step) {
    const uint64_t draw = random.Below(16);
    if (draw < 7) {
      const uint64_t count = 1 + random.Below(60);
      if (!allocator.Reserve(count)) continue;
      if (allocator.space().in_use_blocks + count + 600 > kLimit) release_held();
      std::optional<uint64_t> near;
      if (random.Below(4) == 0) near = random.Below(kBlocks);
      const auto extents = allocator.Allocate(count, near);
      REQUIRE(extents.ok());
      in_use.insert(in_use.end(), extents->begin(), extents->end());
    } else if (draw < 13 && !in_use.empty()) {
      std::swap(in_use[random.Below(in_use.size())], in_use.back());
      const DeviceExtent victim = in_use.back();
      in_use.pop_back();
      const auto rest = allocator.ReleaseWarm(std::span(&victim, 1));
      in_use.insert(in_use.end(), rest.begin(), rest.end());
    } else if (draw == 13) {
      allocator.AgeWarm();
      const auto which = random.Below(2) == 0 ? Allocator::Which::kAll : Allocator::Which::kUnused;
      const auto warm = allocator.HoldWarm(which, random.Below(200));
      REQUIRE(warm.ok());
      held.insert(held.end(), warm->begin(), warm->end());
    } else if (draw == 14) {
      release_held();
      const auto cold = allocator.HoldCold(&sweep, kBlocks);
      REQUIRE(cold.ok());
      if (cold->count > 0) held.push_back(*cold);
      if (cold->count > 500) release_held();
      if (sweep >= kBlocks) sweep = 0;
    } else {
      release_held();
    }
    check();
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
