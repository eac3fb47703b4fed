#include "libchunk/warm_pool.h"

#include <catch2/catch.hpp>
#include <set>

#include "libchunk/seeded_random.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kSeed = 11;

TEST_CASE("Neighbours become one extent, and a removal can split it") {
  WarmPool pool;
  pool.Add({10, 5});
  pool.Add({20, 5});
  REQUIRE(pool.extents() == 2);
  pool.Add({15, 5});
  REQUIRE(pool.extents() == 1);
  REQUIRE(pool.blocks() == 15);
  pool.Remove({12, 6});
  REQUIRE(pool.extents() == 2);
  REQUIRE(pool.ExtentAt(0).first_block == 10);
  REQUIRE(pool.ExtentAt(11).first_block == 18);
  REQUIRE(pool.ExtentAt(19).first_block == 10);
  REQUIRE(pool.RunAt(10).warm);
  REQUIRE(pool.RunAt(10).end == 12);
  REQUIRE_FALSE(pool.RunAt(12).warm);
  REQUIRE(pool.RunAt(12).end == 18);
}

TEST_CASE("A run is found from the wanted place on, then from the beginning") {
  WarmPool pool;
  pool.Add({100, 10});
  pool.Add({200, 4});
  pool.Add({300, 10});
  REQUIRE(pool.FindRun(150, 4) == 200);
  REQUIRE(pool.FindRun(150, 8) == 300);
  REQUIRE(pool.FindRun(303, 7) == 303);
  REQUIRE(pool.FindRun(303, 8) == 100);
  REQUIRE_FALSE(pool.FindRun(0, 11).has_value());
}

TEST_CASE("What was added again is not unused") {
  WarmPool pool;
  pool.Add({0, 10});
  pool.Age();
  pool.Add({100, 10});
  REQUIRE(pool.Unused(1, 100).size() == 1);
  REQUIRE(pool.Unused(1, 3).front().count == 3);
  REQUIRE(pool.Unused(2, 100).empty());
  REQUIRE(pool.Unused(0, 100).size() == 2);
  pool.Remove({0, 10});
  pool.Add({0, 10});
  REQUIRE(pool.Unused(1, 100).empty());
  pool.Age();
  REQUIRE(pool.Unused(1, 100).size() == 2);
}

TEST_CASE("The pool holds what a set of blocks would hold") {
  INFO("seed " << kSeed);
  SeededRandom random(kSeed);
  WarmPool pool;
  std::set<uint64_t> blocks;
  for (int step = 0; step < 4000; ++step) {
    const uint64_t first = random.Below(500);
    const uint64_t count = random.Between(1, 30);
    if (random.Below(2) == 0) {
      bool is_new = true;
      for (uint64_t i = 0; i < count; ++i) is_new = is_new && !blocks.contains(first + i);
      if (!is_new) continue;
      pool.Add({first, count});
      for (uint64_t i = 0; i < count; ++i) blocks.insert(first + i);
    } else {
      pool.Remove({first, count});
      for (uint64_t i = 0; i < count; ++i) blocks.erase(first + i);
    }
    REQUIRE(pool.blocks() == blocks.size());
    for (uint64_t block = 0; block < 540; ++block) {
      REQUIRE(pool.RunAt(block).warm == blocks.contains(block));
    }
    if (const auto run = pool.FindRun(first, count)) {
      for (uint64_t i = 0; i < count; ++i) REQUIRE(blocks.contains(*run + i));
    }
  }
}

}  // namespace
}  // namespace tessera::chunk
