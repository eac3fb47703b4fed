#include "services/mgmt/people/sign_in_limiter.h"

#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "services/mgmt/people/peer_address.h"

namespace tessera::mgmt {
namespace {

constexpr uint64_t kMinute = 60'000;

SignInLimiter::Try From(const std::string& place, const std::string& name = "root",
                        bool known = false) {
  return {.user_name = name, .place = place, .known = known};
}

// Wrong tries, as far as they are let through; returns how many were.
int TryWrongly(SignInLimiter* limiter, const SignInLimiter::Try& attempt, int times,
               uint64_t now_ms) {
  int tried = 0;
  for (int i = 0; i < times; ++i) tried += limiter->Begin(attempt, now_ms) == 0 ? 1 : 0;
  return tried;
}

TEST_CASE("five wrong tries at a name from one place are free, then there are none for 15 s") {
  SignInLimiter limiter;
  REQUIRE(TryWrongly(&limiter, From("a"), 100, 1000) == 5);
  REQUIRE(limiter.Begin(From("a"), 1000) == 15'000);
  REQUIRE(limiter.Begin(From("a"), 15'999) == 1);
  REQUIRE(limiter.Begin(From("a"), 16'000) == 0);
}

TEST_CASE("each further wrong try closes for twice as long, up to 15 minutes") {
  SignInLimiter limiter;
  uint64_t now_ms = 1000;
  TryWrongly(&limiter, From("a"), 5, now_ms);
  for (const uint64_t seconds : {15, 30, 60, 120, 240, 480, 900, 900}) {
    REQUIRE(limiter.Begin(From("a"), now_ms) == seconds * 1000);
    now_ms += seconds * 1000;
    REQUIRE(limiter.Begin(From("a"), now_ms) == 0);
  }
}

TEST_CASE("tries while it is closed make it no longer") {
  SignInLimiter limiter;
  TryWrongly(&limiter, From("a"), 5, 0);
  TryWrongly(&limiter, From("a"), 1000, 14'999);
  REQUIRE(limiter.Begin(From("a"), 15'000) == 0);
}

TEST_CASE("a name that is closed from one place is open from another") {
  SignInLimiter limiter;
  TryWrongly(&limiter, From("a"), 100, 0);
  REQUIRE(limiter.Begin(From("b"), 0) == 0);
}

TEST_CASE("one place can't try one password at very many names") {
  SignInLimiter limiter;
  int tried = 0;
  for (int i = 0; i < 100; ++i) {
    tried += TryWrongly(&limiter, From("a", absl::StrCat("user", i)), 1, 0);
  }
  REQUIRE(tried == 20);
}

TEST_CASE("many places together can't guess one name's password") {
  SignInLimiter limiter;
  int tried = 0;
  for (int i = 0; i < 1000; ++i) tried += TryWrongly(&limiter, From(absl::StrCat(i)), 1, 0);
  REQUIRE(tried == 50);
}

TEST_CASE("an attack from many places does not lock out whoever has signed in from there before") {
  SignInLimiter limiter;
  uint64_t now_ms = 0;
  for (int i = 0; i < 2000; ++i) {
    TryWrongly(&limiter, From(absl::StrCat(i)), 1, now_ms);
    now_ms += 10'000;
  }
  REQUIRE(limiter.Begin(From("another"), now_ms) > 0);
  REQUIRE(limiter.Begin(From("desk", "root", true), now_ms) == 0);
}

TEST_CASE("a known place gets five free tries like any other, and no more") {
  SignInLimiter limiter;
  REQUIRE(TryWrongly(&limiter, From("desk", "root", true), 100, 0) == 5);
}

TEST_CASE("tries at once are no way around: each is charged before its password is looked at") {
  SignInLimiter limiter;
  int begun = 0;
  for (int i = 0; i < 20; ++i) begun += limiter.Begin(From("a"), 0) == 0 ? 1 : 0;
  REQUIRE(begun == 5);
}

TEST_CASE("the right password on the fifth try is let through, and the count begins anew") {
  SignInLimiter limiter;
  TryWrongly(&limiter, From("a"), 4, 0);
  REQUIRE(limiter.Begin(From("a"), 0) == 0);
  limiter.Right(From("a"));
  REQUIRE(TryWrongly(&limiter, From("a"), 100, 0) == 5);
}

TEST_CASE("an attacker can't reset a place's count by signing in as himself") {
  SignInLimiter limiter;
  int tried = 0;
  for (int i = 0; i < 100; ++i) {
    tried += TryWrongly(&limiter, From("a", absl::StrCat("user", i)), 1, 0);
    if (limiter.Begin(From("a", "mallory"), 0) == 0) limiter.Right(From("a", "mallory"));
  }
  REQUIRE(tried == 20);
}

TEST_CASE("a try that was not decided is not counted") {
  SignInLimiter limiter;
  for (int i = 0; i < 100; ++i) {
    REQUIRE(limiter.Begin(From("a"), 0) == 0);
    limiter.Undecided(From("a"));
  }
}

TEST_CASE("wrong tries are forgotten an hour after the last one") {
  SignInLimiter limiter;
  TryWrongly(&limiter, From("a"), 5, 0);
  REQUIRE(TryWrongly(&limiter, From("a"), 100, 60 * kMinute) == 5);
}

TEST_CASE("an administrator can have a name's wrong tries forgotten") {
  SignInLimiter limiter;
  TryWrongly(&limiter, From("a"), 5, 0);
  limiter.ForgetName("root");
  REQUIRE(limiter.Begin(From("a"), 0) == 0);
}

TEST_CASE("a flood of places takes a bounded amount of memory") {
  WrongTries tries(5);
  for (size_t i = 0; i < 2 * WrongTries::kEntriesLimit; ++i) tries.Charge(absl::StrCat(i), i);
  REQUIRE(tries.size() == WrongTries::kEntriesLimit);
}

TEST_CASE("an address is read out of what gRPC and the gateway say of a caller") {
  REQUIRE(AddressOf("ipv4:192.0.2.7:4711") == "192.0.2.7");
  REQUIRE(AddressOf("192.0.2.7:4711") == "192.0.2.7");
  REQUIRE(AddressOf("192.0.2.7") == "192.0.2.7");
  REQUIRE(AddressOf("ipv6:%5B2001:db8::1%5D:4711") == "2001:db8::1");
  REQUIRE(AddressOf("ipv6:[::1]:4711") == "::1");
  REQUIRE(AddressOf("2001:db8::1") == "2001:db8::1");
  REQUIRE(AddressOf("unix:/run/mgmt") == "local");
  REQUIRE(AddressOf("") == "");
  REQUIRE(AddressOf("[") == "");
}

TEST_CASE("a whole IPv6 network of one customer is one place") {
  REQUIRE(PlaceOf("2001:db8:1:2:3:4:5:6") == PlaceOf("2001:db8:1:2:ffff::1"));
  REQUIRE(PlaceOf("2001:db8:1:2::1") != PlaceOf("2001:db8:1:3::1"));
  REQUIRE(PlaceOf("192.0.2.7") == "192.0.2.7");
  REQUIRE(PlaceOf("::ffff:192.0.2.7") == "192.0.2.7");
}

}  // namespace
}  // namespace tessera::mgmt
