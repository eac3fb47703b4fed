#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <limits>
#include <random>
#include <set>

#include "libtoken/token.h"

namespace tessera::token {
namespace {

// The promise in its plainest form: every counter ever used, in a set.
class WindowModel {
 public:
  Refusal Use(uint64_t counter) {
    if (counter < highest_ && highest_ - counter > ReplayWindow::kWindow) return Refusal::kTooOld;
    if (!used_.insert(counter).second) return Refusal::kReplayed;
    highest_ = std::max(highest_, counter);
    return Refusal::kNone;
  }
  [[nodiscard]] uint64_t highest() const { return highest_; }

 private:
  uint64_t highest_ = 0;
  std::set<uint64_t> used_;
};

// Counters as a network makes them: mostly the next ones, some late, some far ahead, some twice.
uint64_t NextCounter(std::mt19937_64& random, uint64_t highest) {
  const uint64_t near = random() % 64;
  const uint64_t wide = random() % (2 * ReplayWindow::kWindow);
  switch (random() % 8) {
    case 0:
      return highest - std::min(highest, wide);
    case 1:
      return highest + wide;
    case 2:
      return highest -
             std::min(highest, ReplayWindow::kWindow + near - std::min<uint64_t>(32, near));
    case 3:
      return highest - std::min(highest, near);
    default:
      return highest + near % 4;
  }
}

TEST_CASE("The window decides as a set of all used counters would") {
  const uint64_t first_seed = std::random_device{}();
  for (uint64_t seed = first_seed; seed < first_seed + 20; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    ReplayWindow window;
    WindowModel model;
    for (int i = 0; i < 20000; ++i) {
      const uint64_t counter = NextCounter(random, model.highest());
      CAPTURE(i, counter, model.highest());
      const Refusal expected = model.Use(counter);
      if (window.Use(counter) != expected) FAIL("expected " << RefusalName(expected));
      if (window.highest() != model.highest()) FAIL("highest is " << window.highest());
    }
  }
}

TEST_CASE("Each counter passes once, zero too") {
  ReplayWindow window;
  CHECK(window.Use(0) == Refusal::kNone);
  CHECK(window.Use(0) == Refusal::kReplayed);
  CHECK(window.Use(1) == Refusal::kNone);
  CHECK(window.Use(1) == Refusal::kReplayed);
}

TEST_CASE("A counter exactly kWindow behind passes, one more is too old") {
  for (uint64_t highest = 2 * ReplayWindow::kWindow; highest < 2 * ReplayWindow::kWindow + 130;
       ++highest) {
    ReplayWindow window;
    REQUIRE(window.Use(highest) == Refusal::kNone);
    CHECK(window.Use(highest - ReplayWindow::kWindow) == Refusal::kNone);
    CHECK(window.Use(highest - ReplayWindow::kWindow) == Refusal::kReplayed);
    CHECK(window.Use(highest - ReplayWindow::kWindow - 1) == Refusal::kTooOld);
  }
}

TEST_CASE("A jump over many windows forgets nothing that is still in the window") {
  ReplayWindow window;
  const uint64_t last = std::numeric_limits<uint64_t>::max();
  for (uint64_t counter = 0; counter < 100; ++counter)
    REQUIRE(window.Use(counter) == Refusal::kNone);
  CHECK(window.Use(last) == Refusal::kNone);
  CHECK(window.Use(last) == Refusal::kReplayed);
  CHECK(window.Use(99) == Refusal::kTooOld);
  CHECK(window.Use(0) == Refusal::kTooOld);
  for (uint64_t back = 1; back <= ReplayWindow::kWindow; ++back) {
    REQUIRE(window.Use(last - back) == Refusal::kNone);
    REQUIRE(window.Use(last - back) == Refusal::kReplayed);
  }
}

}  // namespace
}  // namespace tessera::token
