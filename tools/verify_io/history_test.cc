// The judge itself: correct histories pass, and every planted violation is caught.
#include "tools/verify_io/history.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <deque>
#include <random>

#include "tools/verify_io/block_stamp.h"

namespace tessera::verify_io {
namespace {

using Kind = BlockOperation::Kind;

// A history as a script: moments are spelled out, block 7 throughout.
class Script {
 public:
  Script& Write(Value value, Moment start, Moment end) {
    return Add(Kind::kWrite, value, start, end);
  }
  Script& Durable(Value value, Moment start, Moment end) {
    return Add(Kind::kDurableWrite, value, start, end);
  }
  Script& Read(Value value, Moment start, Moment end) {
    return Add(Kind::kRead, value, start, end);
  }
  Script& Flush(Moment start, Moment end) {
    history_.flushes.push_back({start, end});
    return *this;
  }
  Script& FailedFlush(Moment start, Moment end) {
    history_.flushes.push_back({start, end, true});
    return *this;
  }
  Script& Crash(Moment at) {
    history_.crashes.push_back(at);
    return *this;
  }
  [[nodiscard]] uint64_t Violations() const { return Judge(history_).violation_count; }
  [[nodiscard]] std::string First() const {
    const Verdict verdict = Judge(history_);
    return verdict.violations.empty() ? "" : verdict.violations.front();
  }

 private:
  Script& Add(Kind kind, Value value, Moment start, Moment end) {
    history_.operations.push_back({7, value, start, end, kind});
    return *this;
  }
  History history_;
};

const Value kA = MakeValue(1, 1);
const Value kB = MakeValue(1, 2);
const Value kC = MakeValue(2, 1);

}  // namespace

TEST_CASE("a plain history of writes and reads is in order") {
  CHECK(Script()
            .Read(0, 1, 2)
            .Write(kA, 3, 4)
            .Read(kA, 5, 6)
            .Write(kB, 7, 8)
            .Read(kB, 9, 10)
            .Violations() == 0);
}

TEST_CASE("concurrent operations may be seen in either order, but in one") {
  CHECK(Script().Write(kA, 1, 10).Read(0, 2, 3).Read(kA, 4, 5).Violations() == 0);
  CHECK(Script().Write(kA, 1, 10).Write(kB, 1, 10).Read(kA, 11, 12).Violations() == 0);
  CHECK(Script().Write(kA, 1, 10).Read(kA, 2, 3).Read(0, 4, 5).Violations() == 1);
}

TEST_CASE("a stale read is caught") {
  const Script script = Script().Write(kA, 1, 2).Write(kB, 3, 4).Read(kA, 5, 6);
  CHECK(script.Violations() >= 1);
  CHECK(script.First().find("write 2 of writer 1") != std::string::npos);
}

TEST_CASE("a lost write is caught") {
  CHECK(Script().Write(kA, 1, 2).Read(0, 3, 4).Violations() == 1);
  CHECK(Script().Write(kA, 1, 2).Write(kB, 3, 4).Read(kA, 5, 6).Read(kA, 7, 8).Violations() >= 1);
}

TEST_CASE("a value from nowhere is caught") {
  CHECK(Script().Write(kA, 1, 2).Read(kC, 3, 4).Violations() == 1);
  CHECK(Script().Read(kA, 1, 2).Write(kA, 3, 4).Violations() == 1);
}

TEST_CASE("two readers that disagree about the order of writes are caught") {
  CHECK(Script()
            .Write(kA, 1, 10)
            .Write(kB, 1, 10)
            .Read(kA, 11, 12)
            .Read(kB, 13, 14)
            .Read(kA, 15, 16)
            .Violations() >= 1);
}

TEST_CASE("a write without a known outcome may happen at any later moment, or never") {
  CHECK(Script().Write(kA, 1, 2).Write(kB, 3, kOpenEnd).Read(kA, 5, 6).Violations() == 0);
  CHECK(
      Script().Write(kA, 1, 2).Write(kB, 3, kOpenEnd).Read(kA, 5, 6).Read(kB, 7, 8).Violations() ==
      0);
  // But not undone again.
  CHECK(
      Script().Write(kA, 1, 2).Write(kB, 3, kOpenEnd).Read(kB, 5, 6).Read(kA, 7, 8).Violations() >=
      1);
}

TEST_CASE("a crash may take what was not flushed, and nothing else") {
  CHECK(Script().Write(kA, 1, 2).Flush(3, 4).Write(kB, 5, 6).Crash(7).Read(kA, 8, 9).Violations() ==
        0);
  CHECK(Script().Write(kA, 1, 2).Flush(3, 4).Write(kB, 5, 6).Crash(7).Read(kB, 8, 9).Violations() ==
        0);
  CHECK(Script().Write(kA, 1, 2).Flush(3, 4).Crash(7).Read(0, 8, 9).Violations() == 1);
  CHECK(Script().Write(kA, 1, 2).Durable(kB, 3, 4).Crash(7).Read(kA, 8, 9).Violations() == 1);
  // A flush that began before the write ended covers nothing of it.
  CHECK(Script().Write(kA, 1, 3).Flush(2, 4).Crash(7).Read(0, 8, 9).Violations() == 0);
  // One that ended well after the crash covers all the same: the client knows of no crash.
  CHECK(Script().Write(kA, 1, 2).Flush(3, 8).Crash(7).Read(0, 9, 10).Violations() == 1);
  CHECK(Script().Write(kA, 1, 2).Crash(3).Flush(4, 5).Read(0, 6, 7).Violations() == 1);
  // Unless an error told of the loss before.
  CHECK(
      Script().Write(kA, 1, 2).Crash(3).FailedFlush(4, 5).Flush(6, 7).Read(0, 8, 9).Violations() ==
      0);
  CHECK(
      Script().Write(kA, 1, 2).Flush(3, 4).Crash(5).FailedFlush(6, 7).Read(0, 8, 9).Violations() ==
      1);
}

TEST_CASE("what a first crash took legally is not expected after a second one") {
  CHECK(Script()
            .Write(kA, 1, 2)
            .Crash(3)
            .FailedFlush(4, 5)
            .Flush(6, 7)
            .Crash(8)
            .Read(0, 9, 10)
            .Violations() == 0);
  // But what survived the first one durably is.
  CHECK(Script()
            .Write(kA, 1, 2)
            .Flush(3, 4)
            .Crash(5)
            .Flush(6, 7)
            .Crash(8)
            .Read(0, 9, 10)
            .Violations() == 1);
}

TEST_CASE("after a crash a value that was read does not change any more") {
  CHECK(Script()
            .Write(kA, 1, 2)
            .Write(kB, 3, 4)
            .Crash(5)
            .Read(kA, 6, 7)
            .Read(kB, 8, 9)
            .Violations() >= 1);
  CHECK(Script()
            .Write(kA, 1, 2)
            .Crash(5)
            .Read(0, 6, 7)
            .Write(kB, 8, 9)
            .Read(kB, 10, 11)
            .Violations() == 0);
}

TEST_CASE("a write in flight at a crash may come through afterwards") {
  CHECK(Script()
            .Write(kA, 1, 2)
            .Flush(3, 4)
            .Write(kB, 5, 9)
            .Crash(6)
            .Read(kA, 7, 8)
            .Read(kB, 10, 11)
            .Violations() == 0);
  CHECK(
      Script().Write(kA, 1, 2).Flush(3, 4).Write(kB, 5, 9).Crash(6).Read(kA, 10, 11).Violations() >=
      1);
}

TEST_CASE("a write in flight at a crash may have been overwritten before it") {
  // Its other part was late: A is over it, and both were there before the crash.
  CHECK(Script()
            .Write(kB, 1, 9)
            .Write(kA, 3, 4)
            .Crash(6)
            .Read(kA, 7, 8)
            .Read(kA, 10, 11)
            .Violations() == 0);
  // Not by one that was over before it began, nor by what nobody wrote.
  CHECK(Script().Write(kA, 1, 2).Write(kB, 3, 9).Crash(6).Read(kA, 10, 11).Violations() >= 1);
  CHECK(Script().Write(kB, 3, 9).Crash(6).Read(0, 10, 11).Violations() >= 1);
}

TEST_CASE("blocks that are torn, misdirected or zero are told apart") {
  std::array<std::byte, kBlockBytes> block{};
  CHECK(ReadStamp(5, block).value == kNeverWritten);
  CHECK(ReadStamp(5, block).kind == StampReading::Kind::kValue);
  WriteStamp(kC, 5, block);
  CHECK(ReadStamp(5, block).value == kC);
  CHECK(ReadStamp(6, block).kind == StampReading::Kind::kMisdirected);
  std::array<std::byte, kBlockBytes> newer{};
  WriteStamp(kB, 5, newer);
  for (const size_t sector : {size_t{512}, size_t{3584}}) {
    std::array<std::byte, kBlockBytes> torn = block;
    std::copy(newer.begin(), newer.begin() + static_cast<ptrdiff_t>(sector), torn.begin());
    CHECK(ReadStamp(5, torn).kind == StampReading::Kind::kTorn);
  }
  std::array<std::byte, kBlockBytes> flipped = block;
  flipped[0] ^= std::byte{1};
  CHECK(ReadStamp(5, flipped).kind == StampReading::Kind::kTorn);
}

// Histories made by a simulated register are right; one read moved to an older value is not.
TEST_CASE("random histories of a true register pass, and each planted stale read is caught") {
  const unsigned seed = 20240607;
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  uint64_t caught = 0;
  constexpr int kRounds = 300;
  for (int round = 0; round < kRounds; ++round) {
    History history;
    std::deque<Value> past = {kNeverWritten};
    Moment now = 10;
    for (uint64_t i = 1; i < 60; ++i) {
      now += 10;
      // The moment of effect is `now`; start and end lie around it, overlapping the neighbours.
      const Moment start = now - random() % 25 % now;
      const Moment end = now + 1 + random() % 25;
      if (random() % 2 == 0) {
        past.push_back(MakeValue(1, i));
        history.operations.push_back({1, past.back(), start, end, Kind::kWrite});
      } else {
        history.operations.push_back({1, past.back(), start, end, Kind::kRead});
      }
    }
    REQUIRE(Judge(history).violation_count == 0);
    if (past.size() < 9) continue;
    // Surely too old: seven writes back, read long after.
    history.operations.push_back({1, past[past.size() - 8], now + 200, now + 210, Kind::kRead});
    REQUIRE(Judge(history).violation_count > 0);
    ++caught;
  }
  CHECK(caught > kRounds / 2);
}

}  // namespace tessera::verify_io
