#include "services/mgmt/monitor/history_rules.h"

#include <catch2/catch.hpp>

#include "libchunk/seeded_random.h"
#include "services/mgmt/monitor/round_schedule.h"

namespace tessera::mgmt {
namespace {

constexpr uint64_t kNow = 1'700'000'000'000;

LevelExtent From(uint64_t age_ms) { return {kNow - age_ms, kNow, false}; }

}  // namespace

TEST_CASE("a block is read as it was written, whatever is in it") {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    INFO("seed " << seed);
    chunk::SeededRandom random(seed);
    BlockPoints points(1 + random.Below(40));
    const uint64_t kinds = 1 + random.Below(3);
    for (auto& point : points) {
      if (random.Below(4) == 0) continue;
      const auto mean = static_cast<float>(random.Below(kinds));
      point = HistoryPoint{mean, mean + static_cast<float>(random.Below(kinds))};
    }
    const auto read = DecodeBlock(EncodeBlock(points), points.size());
    REQUIRE(read.ok());
    REQUIRE(read->size() == points.size());
    for (size_t i = 0; i < points.size(); ++i) {
      REQUIRE((*read)[i].has_value() == points[i].has_value());
      if (!points[i]) continue;
      CHECK((*read)[i]->mean == points[i]->mean);
      CHECK((*read)[i]->maximum == points[i]->maximum);
    }
  }
}

TEST_CASE("an idle series costs little") {
  const BlockPoints idle(30, HistoryPoint{0, 0});
  CHECK(EncodeBlock(idle).size() == 4 + 4 + 4);
}

TEST_CASE("bytes that are no block are refused, never read beyond") {
  const BlockPoints points(30, HistoryPoint{1, 2});
  const std::string good = EncodeBlock(points);
  for (size_t bytes = 0; bytes < good.size(); ++bytes) {
    CHECK(absl::IsDataLoss(DecodeBlock(good.substr(0, bytes), 30).status()));
  }
  CHECK(absl::IsDataLoss(DecodeBlock(good + "x", 30).status()));
  CHECK(absl::IsDataLoss(DecodeBlock(good, 24).status()));
  std::string other = good;
  other[0] = 2;
  CHECK(absl::IsDataLoss(DecodeBlock(other, 30).status()));
  other = good;
  other[1] = 3;
  CHECK(absl::IsDataLoss(DecodeBlock(other, 30).status()));
  chunk::SeededRandom random(4);
  for (int i = 0; i < 20'000; ++i) {
    std::string noise(random.Below(300), '\0');
    for (char& byte : noise) byte = static_cast<char>(random.Below(256));
    if (noise.size() > 4) {
      noise[0] = 1;
      noise[1] = static_cast<char>(random.Below(4));
      noise[2] = 30;
      noise[3] = 0;
    }
    (void)DecodeBlock(noise, 30);
  }
}

TEST_CASE("the finest history goes first, down to what is spared; then the next") {
  const LevelExtents full = {From(kDayMs), From(31 * kDayMs), From(700 * kDayMs)};
  CHECK(LevelToTrim(full) == size_t{0});
  const LevelExtents fine_spared = {From(kHourMs - 1), From(31 * kDayMs), From(700 * kDayMs)};
  CHECK(LevelToTrim(fine_spared) == size_t{1});
  const LevelExtents coarse_left = {From(kHourMs - 1), From(kDayMs - 1), From(700 * kDayMs)};
  CHECK(LevelToTrim(coarse_left) == size_t{2});
  const LevelExtents all_spared = {From(kHourMs - 1), From(kDayMs - 1), From(kDayMs - 1)};
  CHECK(LevelToTrim(all_spared) == size_t{0});
  CHECK_FALSE(LevelToTrim(LevelExtents()).has_value());
}

TEST_CASE("a query reads the finest level that still has its begin") {
  const LevelExtents extents = {From(kDayMs), From(31 * kDayMs), From(700 * kDayMs)};
  const auto plan = [&](uint64_t age_ms, uint64_t length_ms, uint32_t points) {
    return PlanQuery(kNow - age_ms, kNow - age_ms + length_ms, points, kNow, extents);
  };
  CHECK(plan(kHourMs, kHourMs, 360).level == 0);
  CHECK(plan(kHourMs, kHourMs, 360).step_ms == 10'000);
  CHECK(plan(3 * kDayMs, kHourMs, 360).level == 1);
  CHECK(plan(3 * kDayMs, kHourMs, 360).step_ms == 300'000);
  CHECK(plan(40 * kDayMs, kHourMs, 360).level == 2);
  // Fine enough is enough: 300 points of a day are 288 s apart, which 5 minutes would not give.
  CHECK(plan(kDayMs, kDayMs, 300).level == 0);
  CHECK(plan(kDayMs, kDayMs, 300).step_ms == 290'000);
  CHECK(plan(kDayMs, kDayMs, 200).level == 1);
  CHECK(plan(30 * kDayMs, 30 * kDayMs, 300).level == 2);
}

TEST_CASE("a young history is read at its finest, however far back the range begins") {
  LevelExtents extents;
  extents[0] = From(kHourMs);
  const QueryPlan plan = PlanQuery(kNow - kDayMs, kNow, 2'000, kNow, extents);
  CHECK(plan.level == 0);
  CHECK(plan.step_ms == 50'000);
}

TEST_CASE("history that went for want of room is read from the next level") {
  const LevelExtents extents = {From(2 * kHourMs), From(31 * kDayMs), From(700 * kDayMs)};
  CHECK(PlanQuery(kNow - 5 * kHourMs, kNow, 2'000, kNow, extents).level == 1);
  CHECK(PlanQuery(kNow - kHourMs, kNow, 2'000, kNow, extents).level == 0);
}

TEST_CASE("steps are whole multiples and cover the range") {
  chunk::SeededRandom random(9);
  const LevelExtents extents = {From(kDayMs), From(31 * kDayMs), From(700 * kDayMs)};
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t from = kNow - random.Below(800 * kDayMs);
    const uint64_t until = from + 1 + random.Below(800 * kDayMs);
    const auto points = static_cast<uint32_t>(1 + random.Below(2'000));
    const QueryPlan plan = PlanQuery(from, until, points, kNow, extents);
    CHECK(plan.step_ms % kHistory[plan.level].step_ms == 0);
    CHECK(plan.begin_ms % plan.step_ms == 0);
    CHECK(plan.begin_ms <= from);
    CHECK(plan.end_ms >= until);
    CHECK((plan.end_ms - plan.begin_ms) / plan.step_ms <= points + 2);
  }
}

TEST_CASE("a clock that goes as it should is trusted, one that jumped is not for an hour") {
  ClockGuard guard(kNow - kMinuteMs);
  guard.Observe(kNow, 1'000);
  CHECK(guard.settled());
  guard.Observe(kNow + 10'000, 11'000);
  CHECK(guard.settled());
  SECTION("forwards") { guard.Observe(kNow + 70 * kDayMs, 21'000); }
  SECTION("backwards") { guard.Observe(kNow - kDayMs, 21'000); }
  CHECK_FALSE(guard.settled());
  const bool ahead = GENERATE(true, false);
  const uint64_t now = ahead ? kNow + 70 * kDayMs : kNow - kDayMs;
  ClockGuard other(kNow);
  other.Observe(kNow, 1'000);
  other.Observe(now, 21'000);
  other.Observe(now + kHourMs - 1, 21'000 + kHourMs - 1);
  CHECK_FALSE(other.settled());
  other.Observe(now + kHourMs, 21'000 + kHourMs);
  CHECK(other.settled());
}

TEST_CASE("a jump while the process was away is noticed at its start") {
  const auto settled = [](uint64_t newest_ms, uint64_t wall_ms) {
    ClockGuard guard(newest_ms);
    guard.Observe(wall_ms, 1'000);
    return guard.settled();
  };
  CHECK(settled(0, kNow));
  CHECK(settled(kNow - kHourMs, kNow));
  CHECK_FALSE(settled(kNow + kHourMs, kNow));
  CHECK_FALSE(settled(kNow - 2 * kDayMs, kNow));
}

TEST_CASE("a round is told when all have answered, or when the settle time is over") {
  RoundSchedule rounds(10'000, 1'000, 1'000);
  CHECK(rounds.BeginDue(5));
  rounds.Begin(5);
  CHECK_FALSE(rounds.TellDue(500, 1));
  CHECK(rounds.TellDue(500, 0));
  CHECK(rounds.TellDue(1'005, 1));
  CHECK(rounds.NextMs() == 1'005);
  rounds.Told(1'005);
  CHECK_FALSE(rounds.BeginDue(10'004));
  CHECK(rounds.BeginDue(10'005));
}

TEST_CASE("early rounds keep a gap, which grows while they follow each other") {
  RoundSchedule rounds(10'000, 1'000, 1'000);
  const auto early = [&](uint64_t from_ms) {
    rounds.Told(from_ms);
    rounds.WantEarly();
    uint64_t at = from_ms;
    while (!rounds.BeginDue(at)) ++at;
    rounds.Begin(at);
    return at - from_ms;
  };
  rounds.Begin(0);
  CHECK(early(0) == 1'000);
  CHECK(early(1'000) == 2'000);
  CHECK(early(3'000) == 4'000);
  CHECK(early(7'000) == 4'000);
  rounds.Told(11'000);
  rounds.Begin(21'000);  // a quiet interval later
  CHECK(early(21'000) == 1'000);
}

TEST_CASE("an answer that comes late is told by itself, at most once in a gap") {
  RoundSchedule rounds(10'000, 1'000, 1'000);
  rounds.Begin(0);
  rounds.Told(1'000);
  CHECK_FALSE(rounds.TellDue(5'000, 0));
  rounds.LateAnswer();
  CHECK_FALSE(rounds.TellDue(1'999, 0));
  CHECK(rounds.TellDue(2'000, 3));
  rounds.Told(2'000);
  CHECK_FALSE(rounds.TellDue(9'000, 0));
}

}  // namespace tessera::mgmt
