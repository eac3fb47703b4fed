#include <catch2/catch.hpp>
#include <cstdint>
#include <random>
#include <string>

#include "libtoken/token.h"

namespace tessera::token {
namespace {

TEST_CASE("A grant comes back from its bytes as it was") {
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 1000; ++i) {
    Grant grant;
    grant.grant_id = random();
    grant.key_id = static_cast<uint32_t>(random());
    grant.volume_size_bytes = random();
    grant.access = static_cast<AccessMode>(1 + random() % 3);
    grant.transaction_operation = static_cast<Operation>(1 + random() % 5);
    grant.outage_expiry_ms = random();
    grant.burst_seconds = static_cast<uint32_t>(random());
    grant.transaction_length_bytes = random();
    const auto decoded = DecodeGrant(EncodeGrant(grant));
    REQUIRE(decoded.ok());
    CHECK(*decoded == grant);
  }
}

TEST_CASE("Grant bytes of any other length are refused") {
  const std::string bytes = EncodeGrant(Grant{});
  for (size_t length = 0; length < bytes.size(); ++length) {
    CHECK(DecodeGrant(bytes.substr(0, length)).status().code() ==
          absl::StatusCode::kInvalidArgument);
  }
  CHECK_FALSE(DecodeGrant(bytes + '\0').ok());
}

TEST_CASE("Grant bytes that EncodeGrant does not make are refused with what is wrong") {
  struct Wrong {
    size_t offset;
    char value;
    const char* message;
  };
  const Wrong wrongs[] = {{0, 'X', "TSGR"},
                          {4, 2, "version 2"},
                          {5, 1, "version 257"},
                          {6, 0, "access mode 0"},
                          {6, 4, "access mode 4"},
                          {7, 0, "transaction operation 0"},
                          {7, 6, "transaction operation 6"}};
  for (const Wrong& wrong : wrongs) {
    std::string bytes = EncodeGrant(Grant{});
    bytes[wrong.offset] = wrong.value;
    const absl::Status status = DecodeGrant(bytes).status();
    CAPTURE(status.ToString());
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).find(wrong.message) != std::string::npos);
  }
}

}  // namespace
}  // namespace tessera::token
