// Tokens and grants: the right to do one IO, and the right to make such tokens for a while.
// FORMAT.md in this folder has the signed bytes, golden vectors and the reasoning.
//
//   cluster secret (MDM only, one per key id)
//     K_sds     = HMAC(secret, "sds key" | sds id)          MDM and that SDS
//     grant key = HMAC(K_sds, "grant" | grant bytes)        MDM, that SDS, and the SDC it was given
//     to signature = HMAC(grant key, "io" | token bytes), the first 16 bytes (RFC 2104 section 5)
//
// An SDS needs no call to anybody: it derives the grant key from the grant that it was shown and
// its own K_sds. A grant that the MDM did not issue yields a key that its holder cannot know. The
// key of one SDS says nothing about another's.
//
// HMAC-SHA256 is RFC 2104 / FIPS 180-4; the sliding window follows RFC 6479. Signatures are
// compared in constant time. No type here has a clock: the caller says what MDM time it is.
//
// Threads: Keys, GrantKey, Grant and IoToken are values. ReplayWindow is for one thread at a time.
#ifndef TESSERA_LIBTOKEN_TOKEN_H_
#define TESSERA_LIBTOKEN_TOKEN_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::token {

inline constexpr size_t kKeyBytes = 32;
inline constexpr size_t kSignatureBytes = 16;
using Key = std::array<uint8_t, kKeyBytes>;
using Signature = std::array<uint8_t, kSignatureBytes>;

enum class Operation : uint8_t {
  kRead = 1,
  kWrite = 2,
  kWriteZeroes = 3,
  kTrim = 4,
  kFlush = 5,
  kAdopt = 6,  // makes a layer and changes no content; never of a transaction
};

enum class AccessMode : uint8_t {
  kReadOnly = 1,
  kReadWrite = 2,    // the volume's one writer
  kTransaction = 3,  // a single-transaction token of the MDM: only what its fields name
};

// A branch of a vtree's layers, up to an ordinal (libchunk's LayerPath).
struct PathPart {
  uint32_t branch = 0;
  uint32_t ordinal_max = 0;

  friend bool operator==(const PathPart&, const PathPart&) = default;
};
inline constexpr size_t kPathPartsMax = 16;
inline constexpr uint32_t kPathHead = UINT32_MAX;  // ordinal_max of what is still written

// The right of one SDC to make tokens for one volume. All times are MDM time in milliseconds since
// the Unix epoch.
struct Grant {
  uint64_t grant_id = 0;
  uint32_t key_id = 0;  // which cluster secret
  uint64_t sdc_id = 0;  // 0: a transaction's anonymous client
  uint64_t volume_id = 0;
  uint64_t vtree_id = 0;
  uint64_t pool_id = 0;
  uint64_t volume_size_bytes = 0;
  uint32_t chunk_bytes = 0;
  uint64_t generation = 0;
  // The layer of chunks that its writes go to, branch and ordinal (libchunk's MakeLayer); of what
  // is only read, the newest that it can see.
  uint64_t snapshot_sequence = 0;
  // Which layers it sees, its own branch first, branches falling. Empty: the head of branch 0.
  std::vector<PathPart> path;
  AccessMode access = AccessMode::kReadOnly;
  uint64_t issued_ms = 0;
  uint64_t expiry_ms = 0;
  uint64_t outage_expiry_ms = 0;       // honoured until then by an SDS that cannot reach the MDM
  uint32_t iops_limit = 0;             // 0: none
  uint64_t bandwidth_limit_bytes = 0;  // a second; 0: none
  uint32_t burst_seconds = 0;
  // kTransaction only: the one operation and byte range of the volume that it is good for.
  Operation transaction_operation = Operation::kRead;
  uint64_t transaction_offset_bytes = 0;
  uint64_t transaction_length_bytes = 0;

  friend bool operator==(const Grant&, const Grant&) = default;
};

// Fixed-width little-endian bytes with magic and version; the thing that is signed.
[[nodiscard]] std::string EncodeGrant(const Grant& grant);
// INVALID_ARGUMENT, saying what is wrong, for anything that EncodeGrant would not have made.
[[nodiscard]] absl::StatusOr<Grant> DecodeGrant(std::string_view bytes);

// What one IO's token binds. `counter` is the write's sequence in its placement group (write,
// write-zeroes, trim) or the grant's read counter (read, flush).
struct IoToken {
  Operation operation = Operation::kRead;
  uint64_t grant_id = 0;
  uint64_t generation = 0;
  uint64_t placement_group_id = 0;
  uint64_t epoch = 0;
  uint64_t counter = 0;
  uint64_t chunk_index = 0;
  uint64_t snapshot_sequence = 0;
  uint32_t offset_bytes = 0;  // in the chunk
  uint32_t length_bytes = 0;
  uint32_t data_crc32c = 0;      // of the bytes written; 0 for others
  bool binds_data = true;        // false: data_crc32c is not part of it (transaction tokens)
  uint64_t sds_incarnation = 0;  // of the SDS it is for: tokens do not outlive a restart of the SDS
};

Key DeriveSdsKey(const Key& cluster_secret, uint64_t sds_id);

// A grant's key for one SDS, with the HMAC's inner and outer states computed once.
class GrantKey {
 public:
  // On the MDM and on the SDS.
  static GrantKey Derive(const Key& sds_key, std::string_view grant_bytes);
  // On the SDC, from the bytes that the MDM gave it.
  static GrantKey FromBytes(const Key& bytes);

  [[nodiscard]] Key bytes() const;
  [[nodiscard]] Signature Sign(const IoToken& token) const;
  // Constant time.
  [[nodiscard]] bool Verify(const IoToken& token, std::span<const uint8_t> signature) const;

 private:
  GrantKey() = default;
  Key key_{};
  // Opaque SHA-256 states after the padded key block; see token.cc.
  alignas(16) std::array<uint32_t, 8> inner_{};
  alignas(16) std::array<uint32_t, 8> outer_{};
};

// HMAC over arbitrary bytes under a derived key, for map entries, fence receipts, resync tickets
// and the control calls between MDM and SDS. `purpose` keeps the uses apart.
Key SignMessage(const Key& key, std::string_view purpose, std::string_view message);
[[nodiscard]] bool VerifyMessage(const Key& key, std::string_view purpose, std::string_view message,
                                 std::span<const uint8_t> signature);
// What a server signs with purpose "fence" when it has made a volume's lowest generation durable.
[[nodiscard]] std::string FenceReceiptMessage(uint64_t volume_id, uint64_t generation,
                                              uint64_t sds_id, uint64_t sds_incarnation);
[[nodiscard]] bool ConstantTimeEquals(std::span<const uint8_t> a, std::span<const uint8_t> b);
void RandomBytes(std::span<uint8_t> out);

// Why an IO was refused. The names are the metric labels and the ErrorInfo reasons.
enum class Refusal : uint8_t {
  kNone = 0,
  kNoToken,           // no signature, or a grant that was never shown
  kUnknownKey,        // key id revoked or never heard of
  kBadSignature,      // forged, another SDS's key, or any signed field altered
  kExpired,           // the grant's time is over
  kNotYetValid,       // issued in the future beyond the clock's error bound
  kWrongGeneration,   // older than the volume's: unmapped, fenced or taken over
  kWrongOperation,    // the grant's access mode does not allow it
  kOutOfRange,        // outside the volume, the chunk, or the transaction's range
  kWrongVolume,       // the grant is for another volume, vtree or pool
  kWrongIncarnation,  // made for an earlier life of this SDS
  kReplayed,          // counter already used
  kTooOld,            // counter behind the replay window
  kDataMismatch,      // CRC32C of the payload differs from the signed one
};
[[nodiscard]] std::string_view RefusalName(Refusal refusal);  // "bad_signature", …

// The SDS's keys by key id. Old keys stay until the last grant under them has expired.
class SdsKeyring {
 public:
  void Add(uint32_t key_id, const Key& sds_key);
  void Remove(uint32_t key_id);
  [[nodiscard]] const Key* Find(uint32_t key_id) const;
  [[nodiscard]] std::vector<uint32_t> key_ids() const;

 private:
  std::vector<std::pair<uint32_t, Key>> keys_;
};

// What MDM time it can be: earliest..latest, from the heartbeats' offset and error bound.
struct MdmTime {
  uint64_t earliest_ms = 0;
  uint64_t latest_ms = 0;
  bool mdm_reachable = true;  // false: outage_expiry_ms counts instead of expiry_ms
};

// Judges everything about a token except its place in order (the replica's rule) and replay (the
// window's): `token` fields are those of the request as received. Order of checks: key, signature,
// then the rest, so that an unsigned caller learns nothing.
[[nodiscard]] Refusal CheckToken(const Grant& grant, const GrantKey& key, const IoToken& token,
                                 std::span<const uint8_t> signature, uint64_t own_incarnation,
                                 uint64_t lowest_generation, const MdmTime& now);

// A sliding window over a grant's read counters (RFC 6479): each counter passes once; one more than
// kWindow behind the highest is refused.
class ReplayWindow {
 public:
  static constexpr uint64_t kWindow = 4096;
  [[nodiscard]] Refusal Use(uint64_t counter);
  [[nodiscard]] uint64_t highest() const { return highest_; }

 private:
  uint64_t highest_ = 0;
  std::array<uint64_t, kWindow / 64 + 1> words_{};
};

// A file of 32-byte keys by key id: mode 0600, magic, version, CRC; written by rename.
struct KeyFile {
  uint32_t active_key_id = 0;
  std::vector<std::pair<uint32_t, Key>> keys;
};
[[nodiscard]] absl::StatusOr<KeyFile> LoadKeyFile(const std::string& path);
[[nodiscard]] absl::Status SaveKeyFile(const std::string& path, const KeyFile& keys);

}  // namespace tessera::token

#endif  // TESSERA_LIBTOKEN_TOKEN_H_
