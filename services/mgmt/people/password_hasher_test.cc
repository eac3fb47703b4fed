#include "services/mgmt/people/password_hasher.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "services/common/errors.h"
#include "services/mgmt/people/secrets.h"

namespace tessera::mgmt {
namespace {

TEST_CASE("passwords are hashed with argon2id, 32 MiB, three passes, and a salt of their own") {
  const auto hasher = PasswordHasher::Create({}).value();
  const std::string hash = hasher->Hash("correct horse").value();
  REQUIRE(hash.rfind("$argon2id$v=19$m=32768,t=3,p=1$", 0) == 0);
  REQUIRE(hash != hasher->Hash("correct horse").value());
  REQUIRE(hasher->Verify("correct horse", hash).value());
  REQUIRE_FALSE(hasher->Verify("correct horsf", hash).value());
}

TEST_CASE("nothing is the password of a user that there is not") {
  const auto hasher = PasswordHasher::Create({.memory_bytes = 8192, .passes = 1}).value();
  REQUIRE_FALSE(hasher->Verify("", "").value());
  REQUIRE_FALSE(hasher->Verify("anything", "").value());
}

TEST_CASE("hashes beyond those at once and those that may wait are refused, and none is lost") {
  // One hash runs and one waits: of eight at the same time some may be refused, all others are
  // made.
  PasswordHasherOptions options{.memory_bytes = 1 << 20, .passes = 2, .at_once = 1};
  options.waiting_limit = 1;
  options.wait = absl::InfiniteDuration();
  const auto hasher = PasswordHasher::Create(options).value();
  std::atomic<uint64_t> made{0};
  std::atomic<uint64_t> refused{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto hash = hasher->Hash("correct horse");
      if (hash.ok()) {
        ++made;
      } else if (ReasonOf(hash.status()) == "SIGN_IN_BUSY") {
        ++refused;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(made + refused == 8);
  REQUIRE(made >= 1);
  REQUIRE(hasher->computed() == made + 1);
}

TEST_CASE("secrets and made-up passwords are never the same twice") {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string secret = NewSecret();
    REQUIRE(secret.size() == 64);
    const std::string password = NewOneTimePassword();
    REQUIRE(password.size() == 23);
    REQUIRE(password.find_first_not_of("0123456789abcdefghjkmnpqrstvwxyz-") == std::string::npos);
    REQUIRE(seen.insert(secret).second);
    REQUIRE(seen.insert(password).second);
  }
  REQUIRE(SecretHash(NewSecret()).size() == 32);
  REQUIRE(SameSecretHash("ab", "ab"));
  REQUIRE_FALSE(SameSecretHash("ab", "ac"));
  REQUIRE_FALSE(SameSecretHash("ab", "abc"));
}

}  // namespace
}  // namespace tessera::mgmt
