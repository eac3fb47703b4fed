#include "services/common/rate_limiter.h"

#include <catch2/catch.hpp>
#include <random>

namespace tessera {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr IoCost k4k{1, 4096};

// Requests that pass without waiting.
int PassAtOnce(RateLimiter* limiter, const IoCost& cost, uint64_t now) {
  int passed = 0;
  while (passed < 1'000'000 && limiter->Pass(cost, now) == 0) ++passed;
  return passed;
}

TEST_CASE("without limits everything passes", "[rate_limiter]") {
  RateLimiter limiter;
  CHECK(limiter.unlimited());
  CHECK(limiter.Pass({1, 1ull << 40}, 0) == 0);
  CHECK(limiter.Full(0));
}

TEST_CASE("over a long time no more passes than the limits allow, and no less", "[rate_limiter]") {
  const unsigned seed = GENERATE(21u, 22u, 23u);
  INFO("seed " << seed);
  std::mt19937 random(seed);
  RateLimiter limiter;
  limiter.Configure({1000, 10'000'000, 1}, 0);
  uint64_t now = 0;
  uint64_t operations = 0;
  uint64_t bytes = 0;
  while (now < 20 * kSecond) {
    const uint64_t size = random() % 30'000;
    const uint64_t wait = limiter.Pass({1, size}, now);
    if (wait == 0) {
      ++operations;
      bytes += size;
    } else {
      now += wait;
    }
  }
  const double seconds = static_cast<double>(now) / kSecond;
  CHECK(static_cast<double>(bytes) <= 10e6 * (seconds + 1) + 30'000);
  CHECK(static_cast<double>(operations) <= 1000 * (seconds + 1) + 1);
  // Bytes are the scarcer one here: 15,000 on average for one of the 1,000 operations.
  CHECK(static_cast<double>(bytes) >= 10e6 * seconds * 0.98);
}

TEST_CASE("a request larger than the bucket passes and is paid for afterwards", "[rate_limiter]") {
  RateLimiter limiter;
  limiter.Configure({0, 1'000'000, 1}, 0);
  CHECK(limiter.Pass({1, 5'000'000}, 0) == 0);
  const uint64_t wait = limiter.Pass({1, 1}, 0);
  CHECK(wait >= 4 * kSecond);
  CHECK(limiter.Pass({1, 1}, wait + 1) == 0);
}

TEST_CASE("a burst is the rate times its seconds, full at the start, saved up in idle time",
          "[rate_limiter]") {
  RateLimiter limiter;
  limiter.Configure({100, 0, 5}, 0);
  CHECK(PassAtOnce(&limiter, k4k, 0) == 501);  // and one more goes into debt
  CHECK(PassAtOnce(&limiter, k4k, kSecond) == 100);
  // Nine seconds' worth does not fit.
  CHECK(PassAtOnce(&limiter, k4k, 10 * kSecond) == 501);
}

TEST_CASE("a change of limits refills nothing", "[rate_limiter]") {
  RateLimiter limiter;
  limiter.Configure({100, 0, 5}, 0);
  PassAtOnce(&limiter, k4k, 0);
  for (int i = 0; i < 10; ++i) {
    limiter.Configure({200, 0, 5}, 0);
    limiter.Configure({100, 0, 10}, 0);
    limiter.Configure({0, 0, 1}, 0);
    limiter.Configure({100, 0, 5}, 0);
  }
  CHECK(PassAtOnce(&limiter, k4k, 0) <= 1);
  // What was saved up stays, as far as it fits.
  const uint64_t later = 100 * kSecond;
  limiter.Configure({100, 0, 2}, later);
  CHECK(PassAtOnce(&limiter, k4k, later) == 201);
}

TEST_CASE("what a limit that is new begins with is once, and by what it rose", "[rate_limiter]") {
  RateLimiter limiter;
  limiter.Configure({0, 0, 2, 0.5}, 0);
  limiter.Configure({100, 0, 2, 0.5}, 0);
  CHECK(PassAtOnce(&limiter, k4k, 0) == 51);
  limiter.Configure({300, 0, 2, 0.5}, 0);
  CHECK(PassAtOnce(&limiter, k4k, 0) >= 99);
  limiter.Configure({200, 0, 2, 0.5}, 0);
  CHECK(PassAtOnce(&limiter, k4k, 0) <= 1);
}

TEST_CASE("a debt is over at the sooner of its size and its time", "[rate_limiter]") {
  RateLimiter limiter;
  limiter.Configure({0, 1'000'000, 1}, 0);
  REQUIRE(limiter.Pass({1, 11'000'000}, 0) == 0);  // 10 s
  limiter.Configure({0, 100'000'000, 1}, 0);
  CHECK(limiter.Wait(0) <= kSecond / 9);
  RateLimiter other;
  other.Configure({0, 100'000'000, 1}, 0);
  REQUIRE(other.Pass({1, 110'000'000}, 0) == 0);  // 0.1 s
  other.Configure({0, 1'000'000, 1}, 0);
  CHECK(other.Wait(0) <= kSecond / 9);
}

TEST_CASE("requests that are counted before they begin keep their distance", "[rate_limiter]") {
  RateLimiter limiter;
  limiter.Configure({10, 0, 1}, 0);
  uint64_t last = 0;
  for (int i = 0; i < 31; ++i) {
    last = limiter.Wait(0);
    limiter.Take(k4k);
  }
  CHECK(last > 1'900'000'000);
  CHECK(last <= 2'000'000'001);
  CHECK_FALSE(limiter.Full(kSecond));
  CHECK(limiter.Full(10 * kSecond));
}

}  // namespace
}  // namespace tessera
