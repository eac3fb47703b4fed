#include "services/sdc/cache/line_index.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "services/sdc/cache/ghost_list.h"

namespace tessera::sdc {
namespace {

constexpr BlockMask kAll = 0xffff;

void Fill(LineIndex& index, const CacheLineKey& key, BlockMask blocks = kAll) {
  index.Filled(index.BeginFill(key, blocks), blocks, {});
}

TEST_CASE("a line is found by the blocks that were filled", "[cache]") {
  LineIndex index(4);
  const CacheSpace space = index.NewSpace();
  CHECK_FALSE(index.Find({space, 7}, 1).has_value());
  const SlotRef ref = index.BeginFill({space, 7}, 0b110);
  CHECK_FALSE(index.Find({space, 7}, 0b010).has_value());
  CHECK(index.Lacking({space, 7}, 0b111) == 0b001);
  LineChecksums checksums{};
  checksums[1] = 11;
  checksums[2] = 22;
  index.Filled(ref, 0b110, checksums);
  const auto found = index.Find({space, 7}, 0b110);
  REQUIRE(found.has_value());
  CHECK(index.checksum(*found, 2) == 22);
  CHECK_FALSE(index.Find({space, 7}, 0b111).has_value());
  CHECK_FALSE(index.Find({space, 8}, 0b010).has_value());
  CHECK(index.used_blocks() == 2);
}

TEST_CASE("what is written while the file is, is not valid", "[cache]") {
  LineIndex index(4);
  const CacheSpace space = index.NewSpace();
  const SlotRef ref = index.BeginFill({space, 7}, kAll);
  index.Invalidate({space, 7}, 0b1);
  index.Filled(ref, kAll, {});
  CHECK_FALSE(index.Find({space, 7}, 0b10).has_value());
  CHECK(index.used_blocks() == 0);
  Fill(index, {space, 7});
  const auto found = index.Find({space, 7}, kAll);
  REQUIRE(found.has_value());
  index.Invalidate({space, 7}, 0b100);
  CHECK_FALSE(index.Unchanged(*found));
  CHECK(index.Find({space, 7}, 0b011).has_value());
  CHECK_FALSE(index.Find({space, 7}, 0b100).has_value());
}

TEST_CASE("a range of lines is taken out, whether it is larger than the cache or not", "[cache]") {
  LineIndex index(8);
  const CacheSpace space = index.NewSpace();
  const CacheSpace other = index.NewSpace();
  for (uint64_t line = 0; line < 6; ++line) Fill(index, {space, line});
  Fill(index, {other, 3});
  const auto [first, end] =
      GENERATE(std::pair<uint64_t, uint64_t>{2, 4}, std::pair<uint64_t, uint64_t>{2, 1'000'000});
  index.InvalidateLines(space, first, end);
  for (uint64_t line = 0; line < 6; ++line) {
    CHECK(index.Find({space, line}, 1).has_value() == (line < first || line >= end));
  }
  CHECK(index.Find({other, 3}, kAll).has_value());
}

TEST_CASE("a dropped space is not found again, and its slots go first", "[cache]") {
  LineIndex index(4);
  const CacheSpace space = index.NewSpace();
  for (uint64_t line = 0; line < 4; ++line) {
    Fill(index, {space, line});
    (void)index.Find({space, line}, 1);
  }
  index.DropSpace(space);
  CHECK(index.used_blocks() == 0);
  const CacheSpace next = index.NewSpace();
  REQUIRE(next != space);
  CHECK_FALSE(index.Find({next, 0}, 1).has_value());
  for (uint64_t line = 10; line < 14; ++line) Fill(index, {next, line});
  for (uint64_t line = 10; line < 14; ++line) CHECK(index.Find({next, line}, kAll).has_value());
  CHECK(index.evicted_blocks() == 0);
}

TEST_CASE("what is used stays when room is made", "[cache]") {
  LineIndex index(100);
  const CacheSpace space = index.NewSpace();
  for (uint64_t line = 0; line < 100; ++line) Fill(index, {space, line});
  for (uint64_t line = 0; line < 50; ++line) REQUIRE(index.Find({space, line}, 1).has_value());
  for (uint64_t line = 1000; line < 1050; ++line) Fill(index, {space, line});
  for (uint64_t line = 0; line < 50; ++line) CHECK(index.Find({space, line}, 1).has_value());
  CHECK(index.evicted_blocks() == 50 * kCacheBlocksInLine);
}

TEST_CASE("an eviction voids what was begun for the line before", "[cache]") {
  LineIndex index(1);
  const CacheSpace space = index.NewSpace();
  const SlotRef old = index.BeginFill({space, 1}, kAll);
  const SlotRef now = index.BeginFill({space, 2}, kAll);
  REQUIRE(old.slot == now.slot);
  index.Filled(old, kAll, {});
  CHECK_FALSE(index.Find({space, 2}, 1).has_value());
  index.NotFilled(old, kAll);
  CHECK(index.Lacking({space, 2}, kAll) == 0);
  index.Filled(now, kAll, {});
  CHECK(index.Find({space, 2}, kAll).has_value());
}

TEST_CASE("an index is saved and restored", "[cache]") {
  LineIndex index(4);
  const CacheSpace gone = index.NewSpace();
  const CacheSpace space = index.NewSpace();
  Fill(index, {gone, 1});
  LineChecksums checksums{};
  checksums[3] = 33;
  index.Filled(index.BeginFill({space, 5}, 0b1000), 0b1000, checksums);
  index.DropSpace(gone);
  std::vector<SavedLine> saved = index.Save();
  REQUIRE(saved.size() == 1);
  saved.push_back(saved[0]);                 // twice the same slot
  saved.push_back({99, {space, 6}, 1, {}});  // a slot that is none
  saved.push_back({2, {77, 6}, 1, {}});      // of nobody
  LineIndex next(4);
  next.Restore({space}, saved);
  const auto found = next.Find({space, 5}, 0b1000);
  REQUIRE(found.has_value());
  CHECK(next.checksum(*found, 3) == 33);
  CHECK(next.used_blocks() == 1);
  CHECK_FALSE(next.Find({space, 6}, 1).has_value());
  CHECK(next.NewSpace() > space);
  for (uint64_t line = 10; line < 13; ++line) Fill(next, {space, line});
  CHECK(next.Find({space, 5}, 0b1000).has_value());
}

TEST_CASE("blocks count as missed again one by one", "[cache]") {
  GhostList ghosts(2);
  CHECK_FALSE(ghosts.MissedAgain({1, 1}, 0b0001));
  CHECK_FALSE(ghosts.MissedAgain({1, 1}, 0b0010));
  CHECK(ghosts.MissedAgain({1, 1}, 0b0110));
  CHECK_FALSE(ghosts.MissedAgain({1, 1}, 0b0001));  // begins anew
  CHECK_FALSE(ghosts.MissedAgain({1, 2}, 1));
  CHECK_FALSE(ghosts.MissedAgain({1, 3}, 1));  // the oldest goes
  CHECK(ghosts.size() == 2);
  CHECK_FALSE(ghosts.MissedAgain({1, 1}, 0b0001));
  CHECK(ghosts.MissedAgain({1, 3}, 1));
}

// Reads of `blocks` blocks of a line, as ReadCache does them.
class Policy {
 public:
  explicit Policy(uint32_t slots) : index_(slots), ghosts_(slots), space_(index_.NewSpace()) {}
  bool Read(uint64_t line, BlockMask blocks = kAll) {
    const CacheLineKey key{space_, line};
    if (index_.Find(key, blocks).has_value()) return true;
    if (index_.Has(key) || ghosts_.MissedAgain(key, blocks)) {
      Fill(index_, key, blocks);
      ++admitted;
    }
    return false;
  }
  uint64_t admitted = 0;

 private:
  LineIndex index_;
  GhostList ghosts_;
  CacheSpace space_;
};

// The hit rate of reads with a Zipf distribution over 4,000 lines, in a cache of 1,000.
double HitRate(Policy& policy, int reads, uint64_t seed, const std::function<void(int)>& between) {
  std::mt19937_64 random(seed);
  std::vector<double> weights;
  for (int line = 1; line <= 4000; ++line) weights.push_back(1.0 / std::pow(line, 0.9));
  std::discrete_distribution<int> zipf(weights.begin(), weights.end());
  int hits = 0;
  for (int i = 0; i < reads; ++i) {
    hits += policy.Read(static_cast<uint64_t>(zipf(random))) ? 1 : 0;
    between(i);
  }
  return static_cast<double>(hits) / reads;
}

TEST_CASE("a scan takes nothing from what is read often", "[cache]") {
  Policy quiet(1000);
  (void)HitRate(quiet, 50'000, 1, [](int) {});
  const double alone = HitRate(quiet, 50'000, 2, [](int) {});
  Policy scanned(1000);
  (void)HitRate(scanned, 50'000, 1, [](int) {});
  const uint64_t admitted = scanned.admitted;
  // For every read, four of a backup that reads everything once: 64 KiB or block by block.
  const bool small = GENERATE(false, true);
  uint64_t position = 0;
  const double beside = HitRate(scanned, 50'000, 2, [&](int) {
    for (int i = 0; i < 4; ++i, ++position) {
      if (small) {
        CHECK_FALSE(scanned.Read(1'000'000 + position / kCacheBlocksInLine,
                                 static_cast<BlockMask>(1u << position % kCacheBlocksInLine)));
      } else {
        CHECK_FALSE(scanned.Read(1'000'000 + position));
      }
    }
  });
  INFO("alone " << alone << ", beside a scan " << beside << ", admitted meanwhile "
                << scanned.admitted - admitted);
  CHECK(alone > 0.70);
  CHECK(beside > alone - 0.05);
}

}  // namespace
}  // namespace tessera::sdc
