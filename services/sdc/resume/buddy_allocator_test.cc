#include "services/sdc/resume/buddy_allocator.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>

namespace tessera::sdc {
namespace {

constexpr uint64_t kSize = 64 << 10;

TEST_CASE("blocks are as long as the next power of two, and aligned to that", "[resume]") {
  BuddyAllocator blocks(kSize);
  CHECK(BuddyAllocator::BlockBytes(1) == 512);
  CHECK(BuddyAllocator::BlockBytes(513) == 1024);
  CHECK(BuddyAllocator::BlockBytes(4096) == 4096);
  CHECK(blocks.Allocate(4096) == 0);
  CHECK(blocks.Allocate(512) == 4096);
  CHECK(blocks.Allocate(3000) == 8192);
  CHECK(blocks.used_bytes() == 4096 + 512 + 4096);
  CHECK_FALSE(blocks.Allocate(kSize).has_value());
  CHECK_FALSE(blocks.Allocate(2 * kSize).has_value());
}

TEST_CASE("free neighbours become one block again", "[resume]") {
  BuddyAllocator blocks(kSize);
  std::vector<uint64_t> all;
  while (const auto offset = blocks.Allocate(512)) all.push_back(*offset);
  CHECK(all.size() == kSize / 512);
  CHECK(blocks.used_bytes() == kSize);
  std::shuffle(all.begin(), all.end(), std::mt19937(7));
  for (const uint64_t offset : all) blocks.Free(offset, 512);
  CHECK(blocks.used_bytes() == 0);
  CHECK(blocks.Allocate(kSize) == 0);
}

TEST_CASE("exactly the blocks of an earlier life are taken", "[resume]") {
  BuddyAllocator blocks(kSize);
  CHECK(blocks.Take(12288, 4096));
  CHECK_FALSE(blocks.Take(12288, 4096));
  CHECK_FALSE(blocks.Take(12288, 512));
  CHECK_FALSE(blocks.Take(8192, 8192));
  CHECK_FALSE(blocks.Take(1024, 4096));  // not aligned
  CHECK_FALSE(blocks.Take(kSize, 512));
  CHECK_FALSE(blocks.Take(0, 0));
  CHECK_FALSE(blocks.IsFree(12288, 4096));
  CHECK_FALSE(blocks.IsFree(0, kSize));
  CHECK(blocks.IsFree(8192, 4096));
  CHECK(blocks.IsFree(kSize / 2, kSize / 2));
  CHECK(blocks.Take(8192, 512));
  CHECK_FALSE(blocks.IsFree(8192, 4096));
  CHECK(blocks.used_bytes() == 4096 + 512);
  blocks.Free(12288, 4096);
  blocks.Free(8192, 512);
  CHECK(blocks.Allocate(kSize) == 0);
}

TEST_CASE("no two blocks overlap, whatever is allocated and freed", "[resume]") {
  const unsigned seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  std::mt19937 random(seed);
  BuddyAllocator blocks(kSize);
  std::map<uint64_t, uint64_t> held;  // offset to bytes asked for
  uint64_t used = 0;
  for (int step = 0; step < 3'000; ++step) {
    if (held.empty() || random() % 5 < 3) {
      const uint64_t bytes = 1 + random() % 9'000;
      const auto offset = blocks.Allocate(bytes);
      if (!offset.has_value()) continue;
      const uint64_t length = BuddyAllocator::BlockBytes(bytes);
      const auto after = held.lower_bound(*offset);
      REQUIRE(*offset + length <= (after == held.end() ? kSize : after->first));
      if (after != held.begin()) {
        const auto before = std::prev(after);
        REQUIRE(before->first + BuddyAllocator::BlockBytes(before->second) <= *offset);
      }
      held[*offset] = bytes;
      used += length;
    } else {
      const auto victim = std::next(held.begin(), random() % held.size());
      blocks.Free(victim->first, victim->second);
      used -= BuddyAllocator::BlockBytes(victim->second);
      held.erase(victim);
    }
    REQUIRE(blocks.used_bytes() == used);
  }
  // Another life takes the same.
  BuddyAllocator next(kSize);
  for (const auto& [offset, bytes] : held) REQUIRE(next.Take(offset, bytes));
  CHECK(next.used_bytes() == used);
}

}  // namespace
}  // namespace tessera::sdc
