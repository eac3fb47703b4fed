// Grant bytes: FORMAT.md section 2.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "libtoken/bytes.h"
#include "libtoken/token.h"

namespace tessera::token {
namespace {

constexpr std::string_view kMagic = "TSGR";
constexpr uint16_t kVersion = 1;          // without a path
constexpr uint16_t kVersionWithPath = 2;  // the same, then the path

// Offsets of the fields; each starts where the one before it ends.
enum Offset : size_t {
  kMagicAt = 0,
  kVersionAt = kMagicAt + 4,
  kAccessAt = kVersionAt + 2,
  kTransactionOperationAt = kAccessAt + 1,
  kKeyIdAt = kTransactionOperationAt + 1,
  kChunkBytesAt = kKeyIdAt + 4,
  kGrantIdAt = kChunkBytesAt + 4,
  kSdcIdAt = kGrantIdAt + 8,
  kVolumeIdAt = kSdcIdAt + 8,
  kVtreeIdAt = kVolumeIdAt + 8,
  kPoolIdAt = kVtreeIdAt + 8,
  kVolumeSizeAt = kPoolIdAt + 8,
  kGenerationAt = kVolumeSizeAt + 8,
  kSnapshotSequenceAt = kGenerationAt + 8,
  kIssuedAt = kSnapshotSequenceAt + 8,
  kExpiryAt = kIssuedAt + 8,
  kOutageExpiryAt = kExpiryAt + 8,
  kBandwidthLimitAt = kOutageExpiryAt + 8,
  kIopsLimitAt = kBandwidthLimitAt + 8,
  kBurstSecondsAt = kIopsLimitAt + 4,
  kTransactionOffsetAt = kBurstSecondsAt + 4,
  kTransactionLengthAt = kTransactionOffsetAt + 8,
  kGrantBytes = kTransactionLengthAt + 8,
};
static_assert(kGrantBytes == 136, "grant bytes are signed: a new layout is a new version");
static_assert(kGrantIdAt % 8 == 0 && kTransactionOffsetAt % 8 == 0);

// Version 2: the number of parts, then each part's branch and ordinal.
constexpr size_t kPathCountAt = kGrantBytes;
constexpr size_t kPathAt = kPathCountAt + 4;
constexpr size_t kPathPartBytes = 8;

bool IsOperation(uint8_t value) {
  return value >= static_cast<uint8_t>(Operation::kRead) &&
         value <= static_cast<uint8_t>(Operation::kFlush);
}

bool IsAccessMode(uint8_t value) {
  return value >= static_cast<uint8_t>(AccessMode::kReadOnly) &&
         value <= static_cast<uint8_t>(AccessMode::kTransaction);
}

absl::Status CheckLength(std::string_view bytes) {
  if (bytes.size() < kGrantBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("grant has ", bytes.size(), " bytes, not ", size_t{kGrantBytes}, " or more"));
  }
  if (bytes.substr(kMagicAt, kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError("grant does not begin with TSGR");
  }
  const auto version = GetField<uint16_t>(bytes.data(), kVersionAt);
  size_t want = kGrantBytes;
  if (version == kVersionWithPath) {
    const uint32_t parts =
        bytes.size() < kPathAt ? 0 : GetField<uint32_t>(bytes.data(), kPathCountAt);
    if (parts < 1 || parts > kPathPartsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("grant has a path of ", parts, " parts, which is not 1 to ", kPathPartsMax));
    }
    want = kPathAt + parts * kPathPartBytes;
  } else if (version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat("grant has format version ", version, ", not ",
                                                   kVersion, " or ", kVersionWithPath));
  }
  if (bytes.size() != want) {
    return absl::InvalidArgumentError(
        absl::StrCat("grant has ", bytes.size(), " bytes, not ", want));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PathPart>> DecodePath(std::string_view bytes) {
  std::vector<PathPart> path;
  if (GetField<uint16_t>(bytes.data(), kVersionAt) != kVersionWithPath) return path;
  const auto parts = GetField<uint32_t>(bytes.data(), kPathCountAt);
  for (uint32_t i = 0; i < parts; ++i) {
    const size_t at = kPathAt + i * kPathPartBytes;
    path.push_back({.branch = GetField<uint32_t>(bytes.data(), at),
                    .ordinal_max = GetField<uint32_t>(bytes.data(), at + 4)});
    if (i > 0 && path[i].branch >= path[i - 1].branch) {
      return absl::InvalidArgumentError(absl::StrCat("grant has branch ", path[i].branch, " after ",
                                                     path[i - 1].branch, " in its path"));
    }
  }
  if (path == std::vector<PathPart>{{.branch = 0, .ordinal_max = kPathHead}}) {
    return absl::InvalidArgumentError("grant spells out the path that goes without saying");
  }
  return path;
}

absl::Status CheckEnvelope(std::string_view bytes) {
  absl::Status status = CheckLength(bytes);
  if (!status.ok()) return status;
  const auto access = GetField<uint8_t>(bytes.data(), kAccessAt);
  if (!IsAccessMode(access)) {
    return absl::InvalidArgumentError(
        absl::StrCat("grant has access mode ", access, ", which is none of 1 to 3"));
  }
  const auto operation = GetField<uint8_t>(bytes.data(), kTransactionOperationAt);
  if (!IsOperation(operation)) {
    return absl::InvalidArgumentError(
        absl::StrCat("grant has transaction operation ", operation, ", which is none of 1 to 5"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string EncodeGrant(const Grant& grant) {
  const bool with_path = !grant.path.empty();
  const size_t size =
      with_path ? kPathAt + grant.path.size() * kPathPartBytes : size_t{kGrantBytes};
  std::string bytes(size, '\0');
  char* out = bytes.data();
  kMagic.copy(out, kMagic.size());
  PutField(out, kVersionAt, with_path ? kVersionWithPath : kVersion);
  PutField(out, kAccessAt, static_cast<uint8_t>(grant.access));
  PutField(out, kTransactionOperationAt, static_cast<uint8_t>(grant.transaction_operation));
  PutField(out, kKeyIdAt, grant.key_id);
  PutField(out, kChunkBytesAt, grant.chunk_bytes);
  PutField(out, kGrantIdAt, grant.grant_id);
  PutField(out, kSdcIdAt, grant.sdc_id);
  PutField(out, kVolumeIdAt, grant.volume_id);
  PutField(out, kVtreeIdAt, grant.vtree_id);
  PutField(out, kPoolIdAt, grant.pool_id);
  PutField(out, kVolumeSizeAt, grant.volume_size_bytes);
  PutField(out, kGenerationAt, grant.generation);
  PutField(out, kSnapshotSequenceAt, grant.snapshot_sequence);
  PutField(out, kIssuedAt, grant.issued_ms);
  PutField(out, kExpiryAt, grant.expiry_ms);
  PutField(out, kOutageExpiryAt, grant.outage_expiry_ms);
  PutField(out, kBandwidthLimitAt, grant.bandwidth_limit_bytes);
  PutField(out, kIopsLimitAt, grant.iops_limit);
  PutField(out, kBurstSecondsAt, grant.burst_seconds);
  PutField(out, kTransactionOffsetAt, grant.transaction_offset_bytes);
  PutField(out, kTransactionLengthAt, grant.transaction_length_bytes);
  if (!with_path) return bytes;
  PutField(out, kPathCountAt, static_cast<uint32_t>(grant.path.size()));
  for (size_t i = 0; i < grant.path.size(); ++i) {
    PutField(out, kPathAt + i * kPathPartBytes, grant.path[i].branch);
    PutField(out, kPathAt + i * kPathPartBytes + 4, grant.path[i].ordinal_max);
  }
  return bytes;
}

absl::StatusOr<Grant> DecodeGrant(std::string_view bytes) {
  absl::Status status = CheckEnvelope(bytes);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<PathPart>> path = DecodePath(bytes);
  if (!path.ok()) return path.status();
  const char* in = bytes.data();
  Grant grant;
  grant.path = *std::move(path);
  grant.access = static_cast<AccessMode>(GetField<uint8_t>(in, kAccessAt));
  grant.transaction_operation =
      static_cast<Operation>(GetField<uint8_t>(in, kTransactionOperationAt));
  grant.key_id = GetField<uint32_t>(in, kKeyIdAt);
  grant.chunk_bytes = GetField<uint32_t>(in, kChunkBytesAt);
  grant.grant_id = GetField<uint64_t>(in, kGrantIdAt);
  grant.sdc_id = GetField<uint64_t>(in, kSdcIdAt);
  grant.volume_id = GetField<uint64_t>(in, kVolumeIdAt);
  grant.vtree_id = GetField<uint64_t>(in, kVtreeIdAt);
  grant.pool_id = GetField<uint64_t>(in, kPoolIdAt);
  grant.volume_size_bytes = GetField<uint64_t>(in, kVolumeSizeAt);
  grant.generation = GetField<uint64_t>(in, kGenerationAt);
  grant.snapshot_sequence = GetField<uint64_t>(in, kSnapshotSequenceAt);
  grant.issued_ms = GetField<uint64_t>(in, kIssuedAt);
  grant.expiry_ms = GetField<uint64_t>(in, kExpiryAt);
  grant.outage_expiry_ms = GetField<uint64_t>(in, kOutageExpiryAt);
  grant.bandwidth_limit_bytes = GetField<uint64_t>(in, kBandwidthLimitAt);
  grant.iops_limit = GetField<uint32_t>(in, kIopsLimitAt);
  grant.burst_seconds = GetField<uint32_t>(in, kBurstSecondsAt);
  grant.transaction_offset_bytes = GetField<uint64_t>(in, kTransactionOffsetAt);
  grant.transaction_length_bytes = GetField<uint64_t>(in, kTransactionLengthAt);
  return grant;
}

}  // namespace tessera::token
