// Keys, signatures and token bytes: FORMAT.md sections 1, 3 and 4.
#include "libtoken/token.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "libtoken/bytes.h"
#include "libtoken/crypto.h"

namespace tessera::token {
namespace {

// What keeps the uses of HMAC apart. Each ends in a zero byte, so that none begins another.
constexpr std::string_view kSdsKeyLabel("sds key\0", 8);
constexpr std::string_view kGrantLabel("grant\0", 6);
constexpr std::string_view kIoLabel("io\0", 3);
constexpr std::string_view kMessageLabel("message\0", 8);

constexpr std::string_view kTokenMagic = "TSIO";
constexpr uint8_t kTokenVersion = 1;

// Offsets of the token's fields; each starts where the one before it ends.
enum Offset : size_t {
  kMagicAt = 0,
  kVersionAt = kMagicAt + 4,
  kOperationAt = kVersionAt + 1,
  kBindsDataAt = kOperationAt + 1,
  kReservedAt = kBindsDataAt + 1,
  kGrantIdAt = kReservedAt + 1,
  kGenerationAt = kGrantIdAt + 8,
  kPlacementGroupAt = kGenerationAt + 8,
  kEpochAt = kPlacementGroupAt + 8,
  kCounterAt = kEpochAt + 8,
  kChunkIndexAt = kCounterAt + 8,
  kSnapshotSequenceAt = kChunkIndexAt + 8,
  kIncarnationAt = kSnapshotSequenceAt + 8,
  kOffsetAt = kIncarnationAt + 8,
  kLengthAt = kOffsetAt + 4,
  kDataCrcAt = kLengthAt + 4,
  kTokenBytes = kDataCrcAt + 4,
};
static_assert(kTokenBytes == 84, "token bytes are signed: a new layout is a new version");
static_assert(kIoLabel.size() + kTokenBytes + 9 <= 128,
              "label, token and SHA-256's padding fit two blocks: three compressions a signature");

using TokenBytes = std::array<char, kTokenBytes>;

TokenBytes EncodeToken(const IoToken& token) {
  TokenBytes bytes;
  char* out = bytes.data();
  kTokenMagic.copy(out, kTokenMagic.size());
  PutField(out, kVersionAt, kTokenVersion);
  PutField(out, kOperationAt, static_cast<uint8_t>(token.operation));
  PutField(out, kBindsDataAt, static_cast<uint8_t>(token.binds_data ? 1 : 0));
  PutField(out, kReservedAt, uint8_t{0});
  PutField(out, kGrantIdAt, token.grant_id);
  PutField(out, kGenerationAt, token.generation);
  PutField(out, kPlacementGroupAt, token.placement_group_id);
  PutField(out, kEpochAt, token.epoch);
  PutField(out, kCounterAt, token.counter);
  PutField(out, kChunkIndexAt, token.chunk_index);
  PutField(out, kSnapshotSequenceAt, token.snapshot_sequence);
  PutField(out, kIncarnationAt, token.sds_incarnation);
  PutField(out, kOffsetAt, token.offset_bytes);
  PutField(out, kLengthAt, token.length_bytes);
  PutField(out, kDataCrcAt, token.binds_data ? token.data_crc32c : uint32_t{0});
  return bytes;
}

// The states of one key, wiped when they are done with.
struct PreparedKey {
  explicit PreparedKey(const Key& key) {
    tessera_token_hmac_prepare(key.data(), key.size(), inner, outer);
  }
  ~PreparedKey() { tessera_token_wipe(this, sizeof(*this)); }
  PreparedKey(const PreparedKey&) = delete;
  PreparedKey& operator=(const PreparedKey&) = delete;

  [[nodiscard]] Key Hmac(std::string_view label, std::string_view message) const {
    Key out;
    tessera_token_hmac(inner, outer, label.data(), label.size(), message.data(), message.size(),
                       out.data());
    return out;
  }

  alignas(16) uint32_t inner[8];
  alignas(16) uint32_t outer[8];
};

}  // namespace

Key DeriveSdsKey(const Key& cluster_secret, uint64_t sds_id) {
  std::array<char, sizeof(sds_id)> bytes;
  PutField(bytes.data(), 0, sds_id);
  return PreparedKey(cluster_secret)
      .Hmac(kSdsKeyLabel, std::string_view(bytes.data(), bytes.size()));
}

GrantKey GrantKey::Derive(const Key& sds_key, std::string_view grant_bytes) {
  return FromBytes(PreparedKey(sds_key).Hmac(kGrantLabel, grant_bytes));
}

GrantKey GrantKey::FromBytes(const Key& bytes) {
  GrantKey key;
  key.key_ = bytes;
  tessera_token_hmac_prepare(bytes.data(), bytes.size(), key.inner_.data(), key.outer_.data());
  return key;
}

Key GrantKey::bytes() const { return key_; }

Signature GrantKey::Sign(const IoToken& token) const {
  const TokenBytes bytes = EncodeToken(token);
  Key digest;
  tessera_token_hmac(inner_.data(), outer_.data(), kIoLabel.data(), kIoLabel.size(), bytes.data(),
                     bytes.size(), digest.data());
  Signature signature;
  std::memcpy(signature.data(), digest.data(), signature.size());
  return signature;
}

bool GrantKey::Verify(const IoToken& token, std::span<const uint8_t> signature) const {
  return ConstantTimeEquals(Sign(token), signature);
}

Key SignMessage(const Key& key, std::string_view purpose, std::string_view message) {
  // The purpose's length goes first, so that no purpose can be continued into a message.
  std::string bytes(sizeof(uint64_t), '\0');
  PutField(bytes.data(), 0, static_cast<uint64_t>(purpose.size()));
  bytes.reserve(bytes.size() + purpose.size() + message.size());
  bytes.append(purpose);
  bytes.append(message);
  return PreparedKey(key).Hmac(kMessageLabel, bytes);
}

std::string FenceReceiptMessage(uint64_t volume_id, uint64_t generation, uint64_t sds_id,
                                uint64_t sds_incarnation) {
  std::string bytes(4 * sizeof(uint64_t), '\0');
  PutField(bytes.data(), 0, volume_id);
  PutField(bytes.data(), 8, generation);
  PutField(bytes.data(), 16, sds_id);
  PutField(bytes.data(), 24, sds_incarnation);
  return bytes;
}

bool VerifyMessage(const Key& key, std::string_view purpose, std::string_view message,
                   std::span<const uint8_t> signature) {
  return ConstantTimeEquals(SignMessage(key, purpose, message), signature);
}

bool ConstantTimeEquals(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  return a.size() == b.size() && tessera_token_equal(a.data(), b.data(), a.size()) == 1;
}

void RandomBytes(std::span<uint8_t> out) { tessera_token_random(out.data(), out.size()); }

}  // namespace tessera::token
