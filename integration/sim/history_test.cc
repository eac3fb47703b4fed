// The checker has to see what is wrong, and only that.
#include "integration/sim/history.h"

#include <catch2/catch.hpp>

namespace tessera::sim {
namespace {

using Kind = History::Kind;
constexpr uint64_t kGroup = 7;

History OneCell() { return History({kGroup}); }

// A write of life 1 from `begin` to `end`.
uint64_t Written(History& history, uint64_t begin, uint64_t end) {
  const uint64_t number = history.BeginWrite(Kind::kData, 0, 1, 1, begin);
  history.EndWrite(number, true, false, end);
  return number;
}

TEST_CASE("a read sees the last write, or one that overlaps it in time") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);
  history.Read(0, a, 30, 40);
  const uint64_t b = history.BeginWrite(Kind::kData, 0, 1, 1, 50);
  history.Read(0, a, 51, 60);
  history.Read(0, b, 55, 61);
  CHECK(history.violation().empty());
}

TEST_CASE("an overwritten value must not be read") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);
  Written(history, 30, 40);
  history.Read(0, a, 50, 60);
  CHECK_FALSE(history.violation().empty());
}

TEST_CASE("once a read saw a write that was not answered it must not vanish") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);
  const uint64_t b = history.BeginWrite(Kind::kData, 0, 1, 1, 30);
  history.Read(0, b, 40, 50);
  history.Read(0, a, 60, 70);
  CHECK_FALSE(history.violation().empty());
}

TEST_CASE("a write of an ended life does not happen later") {
  History history = OneCell();
  const uint64_t a = history.BeginWrite(Kind::kData, 0, 1, 1, 10);
  history.EndLivesBefore(2, 20);
  const uint64_t b = history.BeginWrite(Kind::kData, 0, 1, 2, 30);
  history.EndWrite(b, true, false, 40);
  history.Read(0, b, 41, 42);
  history.Read(0, a, 50, 60);
  CHECK_FALSE(history.violation().empty());
}

TEST_CASE("zeros are seen where nothing was written, or after a zeroing") {
  History history = OneCell();
  history.Read(0, 0, 1, 2);
  Written(history, 10, 20);
  const uint64_t zeroes = history.BeginWrite(Kind::kZeroes, 0, 1, 1, 30);
  history.EndWrite(zeroes, true, false, 40);
  history.Read(0, 0, 50, 60);
  CHECK(history.violation().empty());
  Written(history, 70, 80);
  history.Read(0, 0, 90, 95);
  CHECK_FALSE(history.violation().empty());
}

TEST_CASE("an unflushed write may be lost when all replicas lost power, and stays lost") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);
  const uint64_t b = Written(history, 30, 40);
  history.AllowLoss(kGroup, 50, 50);
  history.Read(0, a, 60, 70);
  REQUIRE(history.violation().empty());
  CHECK(history.losses_seen() == 1);
  history.Read(0, b, 80, 90);
  CHECK_FALSE(history.violation().empty());
}

TEST_CASE("loss of power excuses nothing that was flushed, or written later, or of other groups") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);
  Written(history, 30, 40);
  SECTION("flushed") {
    history.FlushOk(1, true, 41, 45);
    history.AllowLoss(kGroup, 50, 50);
  }
  SECTION("written later") { history.AllowLoss(kGroup, 25, 50); }
  SECTION("another group") { history.AllowLoss(kGroup + 1, 50, 50); }
  SECTION("durable by itself") {
    const uint64_t c = history.BeginWrite(Kind::kData, 0, 1, 1, 41);
    history.EndWrite(c, true, true, 44);
    history.AllowLoss(kGroup, 50, 50);
  }
  history.Read(0, a, 60, 70);
  CHECK_FALSE(history.violation().empty());
}

TEST_CASE("an answer may come after a read has shown that the write was taken and lost") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);
  const uint64_t b = history.BeginWrite(Kind::kData, 0, 1, 1, 30);
  SECTION("power was lost") {
    history.AllowLoss(kGroup, 40, 40);
    history.Read(0, a, 50, 60);
    history.EndWrite(b, true, false, 70);
    CHECK(history.violation().empty());
    history.Read(0, b, 80, 90);
    CHECK_FALSE(history.violation().empty());
  }
  SECTION("it was not") {
    history.Read(0, a, 50, 60);
    history.EndWrite(b, true, false, 70);
    CHECK_FALSE(history.violation().empty());
  }
}

TEST_CASE("a read that begins while a write is held up may see what was there before") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);
  const uint64_t b = history.BeginWrite(Kind::kData, 0, 1, 1, 30);
  history.Read(0, a, 50, 60);
  history.EndWrite(b, true, false, 70, /*prompt=*/false);
  history.Read(0, b, 80, 90);
  CHECK(history.violation().empty());
  history.Read(0, a, 100, 110);
  CHECK_FALSE(history.violation().empty());
}

TEST_CASE("what a living client keeps is not lost with the power of all replicas") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);
  history.BeginKeeping(1, 25);
  Written(history, 30, 40);
  history.AllowLoss(kGroup, 50, 50);
  SECTION("while it lives") {
    history.Read(0, a, 60, 70);
    CHECK_FALSE(history.violation().empty());
  }
  SECTION("it ended") {
    history.EndKeeping(55);
    history.Read(0, a, 60, 70);
    CHECK(history.violation().empty());
  }
}

TEST_CASE("the flush of a client that has lost the volume speaks of its own writes alone") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);  // by life 1
  Written(history, 30, 40);
  const bool holds = GENERATE(true, false);
  const uint64_t life = GENERATE(uint64_t{1}, uint64_t{2});
  history.FlushOk(life, holds, 41, 45);
  history.AllowLoss(kGroup, 50, 50);
  history.Read(0, a, 60, 70);
  CHECK(history.violation().empty() == (!holds && life == 2));
}

TEST_CASE("a flush must tell of a loss that was seen") {
  History history = OneCell();
  const uint64_t a = Written(history, 10, 20);
  Written(history, 30, 40);
  history.AllowLoss(kGroup, 50, 50);
  history.Read(0, a, 60, 70);
  SECTION("it does") {
    history.FlushTold(80);
    history.FlushOk(1, true, 90, 95);
    CHECK(history.violation().empty());
  }
  SECTION("one that was under way when another did promises the contrary") {
    history.FlushTold(80);
    history.FlushOk(1, true, 75, 95);
    CHECK_FALSE(history.violation().empty());
  }
  SECTION("it does not") {
    history.FlushOk(1, true, 90, 95);
    CHECK_FALSE(history.violation().empty());
  }
}

TEST_CASE("a clone begins with what its origin wrote, and its own writes have other numbers") {
  History history({kGroup, kGroup}, 100, {42, 0});
  history.Read(0, 42, 10, 20);
  history.Read(1, 0, 10, 20);
  const uint64_t a = Written(history, 30, 40);
  CHECK(a > 100);
  history.Read(0, a, 50, 60);
  REQUIRE(history.violation().empty());
  SECTION("what it began with is gone") { history.Read(0, 42, 70, 80); }
  SECTION("zeros were never there") { history.Read(0, 0, 70, 80); }
  SECTION("nor was another write of the origin") { history.Read(1, 43, 70, 80); }
  CHECK_FALSE(history.violation().empty());
}

TEST_CASE("a snapshot is of one moment between request and answer") {
  History history({kGroup, kGroup});
  const auto write = [&](uint64_t first, uint64_t end_cell, uint64_t begin, uint64_t end) {
    const uint64_t number = history.BeginWrite(Kind::kData, first, end_cell, 1, begin);
    if (end != 0) history.EndWrite(number, true, false, end);
    return number;
  };
  const uint64_t a = write(0, 2, 10, 20);
  const uint64_t b = write(0, 1, 30, 40);
  SECTION("what was answered before has to be there") {
    history.SnapshotHas({b, a}, 50, 60);
    CHECK(history.violation().empty());
    history.SnapshotHas({a, a}, 50, 60);
    CHECK_FALSE(history.violation().empty());
  }
  SECTION("what runs meanwhile may be") {
    const uint64_t c = write(0, 2, 52, 0);
    history.SnapshotHas({b, a}, 50, 60);
    history.SnapshotHas({c, c}, 50, 60);
    CHECK(history.violation().empty());
    history.EndWrite(c, true, false, 65);
    history.SnapshotHas({c, a}, 50, 60);
    CHECK_FALSE(history.violation().empty());
  }
  SECTION("of what a client wrote that died, a part may be") {
    const uint64_t c = write(0, 2, 42, 0);
    history.EndLivesBefore(2, 45);
    history.SnapshotHas({c, a}, 50, 60);
    CHECK(history.violation().empty());
  }
  SECTION("what was lost since says nothing of it") {
    const uint64_t c = write(0, 1, 70, 72);
    history.AllowLoss(kGroup, 74, 74);
    history.Read(0, b, 80, 82);
    history.SnapshotHas({b, a}, 50, 60);
    CHECK(history.violation().empty());
    (void)c;
  }
  SECTION("what began later may not") {
    const uint64_t c = write(0, 2, 70, 0);
    history.SnapshotHas({c, c}, 50, 60);
    CHECK_FALSE(history.violation().empty());
  }
  SECTION("nor what depends on something that is not there") {
    write(0, 1, 52, 54);
    const uint64_t d = write(1, 2, 56, 58);
    history.SnapshotHas({b, d}, 50, 60);
    CHECK_FALSE(history.violation().empty());
  }
}

}  // namespace
}  // namespace tessera::sim
