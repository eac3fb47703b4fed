#include <array>
#include <catch2/catch.hpp>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "libtoken/crypto.h"
#include "libtoken/token.h"

namespace tessera::token {
namespace {

Key KeyOf(uint8_t fill) {
  Key key;
  key.fill(fill);
  return key;
}

Key FromHex(std::string_view hex) {
  Key key;
  for (size_t i = 0; i < key.size(); ++i) {
    key[i] = static_cast<uint8_t>(std::stoi(std::string(hex.substr(2 * i, 2)), nullptr, 16));
  }
  return key;
}

TEST_CASE("A key for one SDS, grant or secret is none for another") {
  std::set<Key> keys;
  for (const uint8_t secret : {1, 2}) {
    for (const uint64_t sds_id : {1, 2, 3}) {
      const Key sds_key = DeriveSdsKey(KeyOf(secret), sds_id);
      CHECK(keys.insert(sds_key).second);
      Grant grant;
      for (grant.grant_id = 1; grant.grant_id < 4; ++grant.grant_id) {
        CHECK(keys.insert(GrantKey::Derive(sds_key, EncodeGrant(grant)).bytes()).second);
      }
    }
  }
}

TEST_CASE("Every byte of a grant is under its key") {
  const Key sds_key = DeriveSdsKey(KeyOf(5), 9);
  const std::string bytes = EncodeGrant(Grant{});
  const Key original = GrantKey::Derive(sds_key, bytes).bytes();
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string altered = bytes;
    altered[bit / 8] = static_cast<char>(altered[bit / 8] ^ (1 << (bit % 8)));
    CHECK(GrantKey::Derive(sds_key, altered).bytes() != original);
  }
}

TEST_CASE("Any flipped bit of a signature, and any other length of it, is refused") {
  const GrantKey key = GrantKey::FromBytes(KeyOf(7));
  const IoToken token;
  const Signature signature = key.Sign(token);
  CHECK(key.Verify(token, signature));
  for (size_t bit = 0; bit < 8 * signature.size(); ++bit) {
    Signature altered = signature;
    altered[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    CHECK_FALSE(key.Verify(token, altered));
  }
  std::vector<uint8_t> longer(signature.begin(), signature.end());
  for (size_t length = 0; length < signature.size(); ++length) {
    CHECK_FALSE(key.Verify(token, std::span(signature).first(length)));
  }
  longer.push_back(0);
  CHECK_FALSE(key.Verify(token, longer));
}

TEST_CASE(
    "A token that does not bind its data verifies with any checksum, but not as one that does") {
  const GrantKey key = GrantKey::FromBytes(KeyOf(7));
  IoToken token;
  token.operation = Operation::kWrite;
  token.binds_data = false;
  token.data_crc32c = 1;
  const Signature signature = key.Sign(token);
  token.data_crc32c = 2;
  CHECK(key.Verify(token, signature));
  token.data_crc32c = 0;
  token.binds_data = true;
  CHECK_FALSE(key.Verify(token, signature));
}

TEST_CASE(
    "A message's signature is bound to its key, purpose, text, and the border between the two") {
  const Key signature = SignMessage(KeyOf(1), "map", "entry");
  CHECK(VerifyMessage(KeyOf(1), "map", "entry", signature));
  CHECK_FALSE(VerifyMessage(KeyOf(2), "map", "entry", signature));
  CHECK_FALSE(VerifyMessage(KeyOf(1), "fence", "entry", signature));
  CHECK_FALSE(VerifyMessage(KeyOf(1), "map", "entries", signature));
  CHECK_FALSE(VerifyMessage(KeyOf(1), "mape", "ntry", signature));
  CHECK_FALSE(VerifyMessage(KeyOf(1), "", "mapentry", signature));
  CHECK_FALSE(VerifyMessage(KeyOf(1), "map", "entry", std::span(signature).first(16)));
  CHECK_FALSE(VerifyMessage(KeyOf(1), "map", "entry", {}));
}

TEST_CASE("A message under an SDS key is not that SDS's grant key, whatever its text") {
  const Key sds_key = DeriveSdsKey(KeyOf(1), 1);
  const std::string grant = EncodeGrant(Grant{});
  const Key grant_key = GrantKey::Derive(sds_key, grant).bytes();
  CHECK(SignMessage(sds_key, "grant", grant) != grant_key);
  CHECK(SignMessage(sds_key, "", grant) != grant_key);
  CHECK(SignMessage(sds_key, std::string_view("grant\0", 6), grant) != grant_key);
}

TEST_CASE("ConstantTimeEquals compares length and every byte") {
  const std::array<uint8_t, 3> a = {1, 2, 3};
  const std::array<uint8_t, 3> b = {1, 2, 4};
  CHECK(ConstantTimeEquals(a, a));
  CHECK_FALSE(ConstantTimeEquals(a, b));
  CHECK_FALSE(ConstantTimeEquals(a, std::span(a).first(2)));
  CHECK(ConstantTimeEquals({}, {}));
}

TEST_CASE("Random bytes differ from call to call and fill odd sizes") {
  std::set<Key> seen;
  for (int i = 0; i < 100; ++i) {
    Key key{};
    RandomBytes(key);
    CHECK(seen.insert(key).second);
  }
  std::array<uint8_t, 1000> bytes{};
  RandomBytes(bytes);
  CHECK(std::set<uint8_t>(bytes.begin(), bytes.end()).size() > 100);
  RandomBytes({});
}

TEST_CASE("Every refusal has its own name in lower case, for metric labels") {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(Refusal::kDataMismatch); ++i) {
    const std::string_view name = RefusalName(static_cast<Refusal>(i));
    CHECK(names.insert(name).second);
    CHECK(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == std::string_view::npos);
    CHECK(name != "unknown");
  }
  CHECK(RefusalName(static_cast<Refusal>(200)) == "unknown");
}

TEST_CASE("A keyring finds each key by its id until that is removed") {
  SdsKeyring keyring;
  CHECK(keyring.Find(1) == nullptr);
  for (uint32_t id = 20; id > 0; --id) keyring.Add(id, KeyOf(static_cast<uint8_t>(id)));
  keyring.Add(3, KeyOf(33));
  REQUIRE(keyring.key_ids().size() == 20);
  CHECK(keyring.key_ids().front() == 1);
  REQUIRE(keyring.Find(3) != nullptr);
  CHECK(*keyring.Find(3) == KeyOf(33));
  CHECK(*keyring.Find(20) == KeyOf(20));
  keyring.Remove(3);
  keyring.Remove(99);
  CHECK(keyring.Find(3) == nullptr);
  CHECK(*keyring.Find(1) == KeyOf(1));
  CHECK(keyring.key_ids().size() == 19);
}

TEST_CASE("The wrapper computes RFC 4231's HMAC-SHA256, wherever label and message are divided") {
  struct Vector {
    std::string key;
    std::string message;
    std::string_view expected;
  };
  const Vector vectors[] = {
      {std::string(20, 0x0b), "Hi There",
       "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
      {"Jefe", "what do ya want for nothing?",
       "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
  };
  for (const Vector& vector : vectors) {
    uint32_t inner[8];
    uint32_t outer[8];
    tessera_token_hmac_prepare(reinterpret_cast<const uint8_t*>(vector.key.data()),
                               vector.key.size(), inner, outer);
    for (size_t cut = 0; cut <= vector.message.size(); ++cut) {
      Key out;
      tessera_token_hmac(inner, outer, vector.message.data(), cut, vector.message.data() + cut,
                         vector.message.size() - cut, out.data());
      CHECK(out == FromHex(vector.expected));
    }
  }
}

}  // namespace
}  // namespace tessera::token
