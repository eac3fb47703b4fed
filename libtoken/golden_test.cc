// libtoken against testdata/golden_v1.txt, which an independent program made from FORMAT.md.
#include <catch2/catch.hpp>
#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "libtoken/base_path.h"
#include "libtoken/key_file.h"
#include "libtoken/token.h"

namespace tessera::token {
namespace {

using Case = std::map<std::string, std::string>;

std::vector<std::pair<std::string, Case>> ReadCases() {
  std::ifstream file(std::string(TESSERA_TOKEN_TESTDATA) + "/golden_v1.txt");
  REQUIRE(file.good());
  std::vector<std::pair<std::string, Case>> cases;
  std::string line;
  while (std::getline(file, line)) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space);
    const std::string value = space == std::string::npos ? "" : line.substr(space + 1);
    if (name == "case") {
      cases.emplace_back(value, Case());
    } else {
      cases.back().second[name] = value;
    }
  }
  return cases;
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::string ToHex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char c : bytes) {
    hex.push_back(kDigits[static_cast<uint8_t>(c) >> 4]);
    hex.push_back(kDigits[static_cast<uint8_t>(c) & 15]);
  }
  return hex;
}

template <typename Bytes>
std::string ArrayToHex(const Bytes& bytes) {
  return ToHex(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

Key KeyFromHex(const std::string& hex) {
  const std::string bytes = FromHex(hex);
  REQUIRE(bytes.size() == kKeyBytes);
  Key key;
  std::copy(bytes.begin(), bytes.end(), key.begin());
  return key;
}

// Reads the numbers of a case into fields of any width.
class Numbers {
 public:
  Numbers(const Case& values, std::string prefix) : values_(values), prefix_(std::move(prefix)) {}
  template <typename Field>
  void Read(const char* name, Field& field) const {
    field = static_cast<Field>(std::stoull(values_.at(prefix_ + name)));
  }

 private:
  const Case& values_;
  std::string prefix_;
};

std::vector<PathPart> PathOf(const Case& values, const char* prefix) {
  const Numbers numbers(values, prefix);
  std::vector<PathPart> path;
  for (int i = 0;; ++i) {
    const std::string part = "path" + std::to_string(i) + ".";
    if (!values.contains(prefix + part + "branch")) return path;
    PathPart& added = path.emplace_back();
    numbers.Read((part + "branch").c_str(), added.branch);
    numbers.Read((part + "ordinal_max").c_str(), added.ordinal_max);
  }
}

Grant GrantOf(const Case& values) {
  const Numbers numbers(values, "grant.");
  Grant grant;
  numbers.Read("access", grant.access);
  numbers.Read("transaction_operation", grant.transaction_operation);
  numbers.Read("key_id", grant.key_id);
  numbers.Read("chunk_bytes", grant.chunk_bytes);
  numbers.Read("grant_id", grant.grant_id);
  numbers.Read("sdc_id", grant.sdc_id);
  numbers.Read("volume_id", grant.volume_id);
  numbers.Read("vtree_id", grant.vtree_id);
  numbers.Read("pool_id", grant.pool_id);
  numbers.Read("volume_size_bytes", grant.volume_size_bytes);
  numbers.Read("generation", grant.generation);
  numbers.Read("snapshot_sequence", grant.snapshot_sequence);
  numbers.Read("issued_ms", grant.issued_ms);
  numbers.Read("expiry_ms", grant.expiry_ms);
  numbers.Read("outage_expiry_ms", grant.outage_expiry_ms);
  numbers.Read("bandwidth_limit_bytes", grant.bandwidth_limit_bytes);
  numbers.Read("iops_limit", grant.iops_limit);
  numbers.Read("burst_seconds", grant.burst_seconds);
  numbers.Read("transaction_offset_bytes", grant.transaction_offset_bytes);
  numbers.Read("transaction_length_bytes", grant.transaction_length_bytes);
  grant.path = PathOf(values, "grant.");
  return grant;
}

IoToken TokenOf(const Case& values) {
  const Numbers numbers(values, "token.");
  IoToken token;
  numbers.Read("operation", token.operation);
  numbers.Read("binds_data", token.binds_data);
  numbers.Read("grant_id", token.grant_id);
  numbers.Read("generation", token.generation);
  numbers.Read("placement_group_id", token.placement_group_id);
  numbers.Read("epoch", token.epoch);
  numbers.Read("counter", token.counter);
  numbers.Read("chunk_index", token.chunk_index);
  numbers.Read("snapshot_sequence", token.snapshot_sequence);
  numbers.Read("sds_incarnation", token.sds_incarnation);
  numbers.Read("offset_bytes", token.offset_bytes);
  numbers.Read("length_bytes", token.length_bytes);
  numbers.Read("data_crc32c", token.data_crc32c);
  return token;
}

void CheckIo(const Case& values) {
  const Key sds_key =
      DeriveSdsKey(KeyFromHex(values.at("secret")), std::stoull(values.at("sds_id")));
  CHECK(ArrayToHex(sds_key) == values.at("sds_key"));
  const Grant grant = GrantOf(values);
  CHECK(ToHex(EncodeGrant(grant)) == values.at("grant_bytes"));
  const auto decoded = DecodeGrant(FromHex(values.at("grant_bytes")));
  REQUIRE(decoded.ok());
  CHECK(*decoded == grant);
  const GrantKey key = GrantKey::Derive(sds_key, EncodeGrant(grant));
  CHECK(ArrayToHex(key.bytes()) == values.at("grant_key"));
  const IoToken token = TokenOf(values);
  CHECK(ArrayToHex(key.Sign(token)) == values.at("signature"));
  CHECK(ArrayToHex(GrantKey::FromBytes(key.bytes()).Sign(token)) == values.at("signature"));
  CHECK(key.Verify(token, key.Sign(token)));
}

void CheckMessage(const Case& values) {
  const Key signature = SignMessage(KeyFromHex(values.at("key")), FromHex(values.at("purpose")),
                                    FromHex(values.at("message")));
  CHECK(ArrayToHex(signature) == values.at("signature"));
}

void CheckKeyFileBytes(const Case& values) {
  KeyFile keys;
  keys.active_key_id = static_cast<uint32_t>(std::stoul(values.at("active_key_id")));
  keys.keys = {{3, KeyFromHex(values.at("key.3"))}, {9, KeyFromHex(values.at("key.9"))}};
  CHECK(ToHex(EncodeKeyFile(keys)) == values.at("bytes"));
  const auto decoded = DecodeKeyFile(FromHex(values.at("bytes")));
  REQUIRE(decoded.ok());
  CHECK(decoded->active_key_id == keys.active_key_id);
  CHECK(decoded->keys == keys.keys);
}

void CheckBasePath(const Case& values) {
  CHECK(std::to_string(BasePathChecksum(PathOf(values, ""))) == values.at("checksum"));
}

TEST_CASE("Keys, grants, tokens, messages, paths and key files have the bytes of FORMAT.md") {
  std::map<std::string, int> counts;
  for (const auto& [kind, values] : ReadCases()) {
    ++counts[kind];
    if (kind == "io") CheckIo(values);
    if (kind == "message") CheckMessage(values);
    if (kind == "base_path") CheckBasePath(values);
    if (kind == "key_file") CheckKeyFileBytes(values);
  }
  CHECK(counts ==
        std::map<std::string, int>{{"io", 7}, {"message", 13}, {"base_path", 5}, {"key_file", 1}});
}

}  // namespace
}  // namespace tessera::token
