// What makes an SDS refuse a token: token.h names the reasons, FORMAT.md section 5 the rules.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

#include "libtoken/token.h"

namespace tessera::token {
namespace {

// A half-open range of a volume's bytes.
struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
};

bool IsWriteOfData(const IoToken& token) { return token.operation == Operation::kWrite; }

// Time that could be over is over: the latest that it can be now is what counts.
bool CouldBeExpired(const Grant& grant, const MdmTime& now) {
  const uint64_t end_ms =
      now.mdm_reachable ? grant.expiry_ms : std::max(grant.expiry_ms, grant.outage_expiry_ms);
  return now.latest_ms >= end_ms;
}

bool AccessAllows(const Grant& grant, Operation operation) {
  switch (grant.access) {
    case AccessMode::kReadOnly:
      return operation == Operation::kRead;
    case AccessMode::kReadWrite:
      return operation >= Operation::kRead && operation <= Operation::kAdopt;
    case AccessMode::kTransaction:
      return operation == grant.transaction_operation;
  }
  return false;
}

// The token's range in the volume; false if it leaves its chunk, is empty, or has no 64-bit
// address.
bool VolumeRange(const Grant& grant, const IoToken& token, ByteRange* range) {
  if (token.length_bytes == 0) return false;
  const uint64_t end_in_chunk = uint64_t{token.offset_bytes} + token.length_bytes;
  if (end_in_chunk > grant.chunk_bytes) return false;
  uint64_t chunk_begin = 0;
  if (__builtin_mul_overflow(token.chunk_index, uint64_t{grant.chunk_bytes}, &chunk_begin)) {
    return false;
  }
  range->begin = chunk_begin + token.offset_bytes;
  return !__builtin_add_overflow(chunk_begin, end_in_chunk, &range->end);
}

bool InRange(const Grant& grant, const IoToken& token) {
  // A flush names no bytes: it covers whatever its placement group's replica holds.
  if (token.operation == Operation::kFlush) return true;
  ByteRange range;
  if (!VolumeRange(grant, token, &range)) return false;
  if (range.end > grant.volume_size_bytes) return false;
  if (grant.access != AccessMode::kTransaction) return true;
  // begin >= offset keeps the subtraction from wrapping, whatever the grant's offset + length is.
  return range.begin >= grant.transaction_offset_bytes &&
         range.end - grant.transaction_offset_bytes <= grant.transaction_length_bytes;
}

}  // namespace

Refusal CheckToken(const Grant& grant, const GrantKey& key, const IoToken& token,
                   std::span<const uint8_t> signature, uint64_t own_incarnation,
                   uint64_t lowest_generation, const MdmTime& now) {
  if (signature.empty()) return Refusal::kNoToken;
  // A token of another grant is not this key's to have signed, even where the holder did sign it.
  if (!key.Verify(token, signature) || token.grant_id != grant.grant_id) {
    return Refusal::kBadSignature;
  }
  if (token.sds_incarnation != own_incarnation) return Refusal::kWrongIncarnation;
  if (grant.issued_ms > now.latest_ms) return Refusal::kNotYetValid;
  if (CouldBeExpired(grant, now)) return Refusal::kExpired;
  if (token.generation != grant.generation || token.generation < lowest_generation) {
    return Refusal::kWrongGeneration;
  }
  if (token.snapshot_sequence != grant.snapshot_sequence) return Refusal::kWrongVolume;
  if (!AccessAllows(grant, token.operation)) return Refusal::kWrongOperation;
  if (!InRange(grant, token)) return Refusal::kOutOfRange;
  if (IsWriteOfData(token) && !token.binds_data && grant.access != AccessMode::kTransaction) {
    return Refusal::kDataMismatch;
  }
  return Refusal::kNone;
}

std::string_view RefusalName(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNone:
      return "none";
    case Refusal::kNoToken:
      return "no_token";
    case Refusal::kUnknownKey:
      return "unknown_key";
    case Refusal::kBadSignature:
      return "bad_signature";
    case Refusal::kExpired:
      return "expired";
    case Refusal::kNotYetValid:
      return "not_yet_valid";
    case Refusal::kWrongGeneration:
      return "wrong_generation";
    case Refusal::kWrongOperation:
      return "wrong_operation";
    case Refusal::kOutOfRange:
      return "out_of_range";
    case Refusal::kWrongVolume:
      return "wrong_volume";
    case Refusal::kWrongIncarnation:
      return "wrong_incarnation";
    case Refusal::kReplayed:
      return "replayed";
    case Refusal::kTooOld:
      return "too_old";
    case Refusal::kDataMismatch:
      return "data_mismatch";
  }
  return "unknown";
}

}  // namespace tessera::token
