#include <catch2/catch.hpp>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

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
    const size_t parts = random() % (kPathPartsMax + 1);
    for (size_t part = 0; part < parts; ++part) {
      grant.path.push_back({.branch = static_cast<uint32_t>((parts - part) * 7),
                            .ordinal_max = static_cast<uint32_t>(random())});
    }
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

TEST_CASE("Paths that EncodeGrant should not have been given are refused") {
  const auto refused = [](std::vector<PathPart> path, const std::string& why) {
    Grant grant;
    grant.path = std::move(path);
    const absl::Status status = DecodeGrant(EncodeGrant(grant)).status();
    CAPTURE(status.ToString());
    CHECK(std::string(status.message()).find(why) != std::string::npos);
  };
  refused({{0, kPathHead}}, "goes without saying");
  refused({{1, 5}, {1, 4}}, "branch 1 after 1");
  refused({{1, 5}, {2, 4}}, "branch 2 after 1");
  refused(std::vector<PathPart>(kPathPartsMax + 1), "17 parts");
  Grant grant;
  grant.path = {{3, kPathHead}, {0, 4}};
  const std::string bytes = EncodeGrant(grant);
  CHECK(bytes.size() == 156);
  for (size_t length = 0; length < bytes.size(); ++length) {
    CHECK_FALSE(DecodeGrant(bytes.substr(0, length)).ok());
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
                          {4, 2, "path of 0 parts"},
                          {4, 3, "version 3"},
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
