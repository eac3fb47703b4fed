// The bytes of a key file: FORMAT.md section 6.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libtoken/bytes.h"
#include "libtoken/crc32c.h"
#include "libtoken/key_file.h"

namespace tessera::token {
namespace {

constexpr std::string_view kMagic = "TSKEYFIL";
constexpr uint32_t kVersion = 1;

constexpr size_t kVersionAt = 8;
constexpr size_t kCountAt = 12;
constexpr size_t kActiveAt = 16;
constexpr size_t kReservedAt = 20;
constexpr size_t kHeaderBytes = 24;
constexpr size_t kEntryBytes = 4 + kKeyBytes;
constexpr size_t kCrcBytes = 4;
static_assert(kEntryBytes == 36);

size_t FileBytes(size_t count) { return kHeaderBytes + count * kEntryBytes + kCrcBytes; }

}  // namespace

absl::Status CheckKeys(const KeyFile& keys) {
  if (keys.keys.empty()) return absl::InvalidArgumentError("a key file needs at least one key");
  if (keys.keys.size() > kKeyFileKeysMax) {
    return absl::InvalidArgumentError(absl::StrCat("a key file holds at most ", kKeyFileKeysMax,
                                                   " keys, not ", keys.keys.size()));
  }
  std::vector<uint32_t> ids;
  ids.reserve(keys.keys.size());
  for (const auto& [id, key] : keys.keys) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice != ids.end()) {
    return absl::InvalidArgumentError(absl::StrCat("key id ", *twice, " is there twice"));
  }
  if (!std::binary_search(ids.begin(), ids.end(), keys.active_key_id)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the active key id ", keys.active_key_id, " is not among the keys"));
  }
  return absl::OkStatus();
}

std::string EncodeKeyFile(const KeyFile& keys) {
  std::string bytes(FileBytes(keys.keys.size()), '\0');
  char* out = bytes.data();
  kMagic.copy(out, kMagic.size());
  PutField(out, kVersionAt, kVersion);
  PutField(out, kCountAt, static_cast<uint32_t>(keys.keys.size()));
  PutField(out, kActiveAt, keys.active_key_id);
  PutField(out, kReservedAt, uint32_t{0});
  size_t at = kHeaderBytes;
  for (const auto& [id, key] : keys.keys) {
    PutField(out, at, id);
    std::memcpy(out + at + 4, key.data(), key.size());
    at += kEntryBytes;
  }
  PutField(out, at, Crc32c(std::string_view(bytes).substr(0, at)));
  return bytes;
}

absl::StatusOr<KeyFile> DecodeKeyFile(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes + kCrcBytes) {
    return absl::DataLossError(absl::StrCat("key file is torn: it has ", bytes.size(), " bytes"));
  }
  if (bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::DataLossError("not a key file: it does not begin with TSKEYFIL");
  }
  const char* in = bytes.data();
  const auto version = GetField<uint32_t>(in, kVersionAt);
  if (version != kVersion) {
    return absl::UnimplementedError(
        absl::StrCat("key file has format version ", version, "; this program reads ", kVersion));
  }
  const size_t crc_at = bytes.size() - kCrcBytes;
  if (Crc32c(bytes.substr(0, crc_at)) != GetField<uint32_t>(in, crc_at)) {
    return absl::DataLossError("key file is torn or altered: its checksum does not match");
  }
  const auto count = GetField<uint32_t>(in, kCountAt);
  if (count > kKeyFileKeysMax || bytes.size() != FileBytes(count)) {
    return absl::DataLossError(
        absl::StrCat("key file of ", bytes.size(), " bytes cannot hold ", count, " keys"));
  }
  if (GetField<uint32_t>(in, kReservedAt) != 0) {
    return absl::DataLossError("key file has a reserved field that is not zero");
  }
  KeyFile keys;
  keys.active_key_id = GetField<uint32_t>(in, kActiveAt);
  keys.keys.resize(count);
  size_t at = kHeaderBytes;
  for (auto& [id, key] : keys.keys) {
    id = GetField<uint32_t>(in, at);
    std::memcpy(key.data(), in + at + 4, key.size());
    at += kEntryBytes;
  }
  absl::Status status = CheckKeys(keys);
  if (!status.ok()) return status;
  return keys;
}

}  // namespace tessera::token
