#include "services/common/clock.h"
#include "services/common/look_out.h"

#include <catch2/catch.hpp>

namespace tessera {
namespace {

TEST_CASE("what a busy thread finds may have waited, what one finds that looked has not") {
  constexpr uint64_t kMilli = 1'000'000;
  LookOut look_out(100'000);
  CHECK(look_out.Found(10'000 * kMilli) == 0);
  CHECK(look_out.working());
  look_out.Done(10'005 * kMilli);
  CHECK_FALSE(look_out.working());
  // Found at once: it may have come just after the last look.
  CHECK(look_out.Found(10'005 * kMilli + 20'000) == 5 * kMilli + 20'000);
  CHECK(look_out.Found(10'006 * kMilli) == 5 * kMilli + 20'000);  // by the same look
  look_out.Done(10'007 * kMilli);
  // It looked for long and found nothing.
  CHECK(look_out.Found(11'000 * kMilli) == 0);
}

TEST_CASE("MDM time is unknown before the first sample") {
  ManualClock clock;
  CHECK_FALSE(MdmTimeEstimator(&clock).Now().known);
}

TEST_CASE("MDM time lies between answer received and request sent") {
  ManualClock clock;
  MdmTimeEstimator estimator(&clock);
  const uint64_t sent = clock.BootNanos();
  clock.AdvanceMillis(40);
  estimator.AddSample(1'000'000, sent, clock.BootNanos());
  const auto at_once = estimator.Now();
  CHECK(at_once.known);
  CHECK(at_once.earliest_ms == 1'000'000);
  CHECK(at_once.latest_ms == 1'000'041);
  clock.AdvanceMillis(10'000);
  const auto later = estimator.Now();
  CHECK(later.age_ms == 10'000);
  CHECK(later.earliest_ms < 1'010'000);
  CHECK(later.earliest_ms >= 1'009'990);
  CHECK(later.latest_ms > 1'010'040);
  CHECK(later.latest_ms <= 1'010'050);
}

TEST_CASE("A jump of the wall clock does not move MDM time") {
  ManualClock clock;
  MdmTimeEstimator estimator(&clock);
  estimator.AddSample(5'000, clock.BootNanos(), clock.BootNanos());
  clock.SetWallMillis(clock.WallMillis() + 86'400'000);
  CHECK(estimator.Now().latest_ms <= 5'002);
}

}  // namespace
}  // namespace tessera
