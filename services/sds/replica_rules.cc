#include "services/sds/replica_rules.h"

namespace tessera::sds {

v1::IoStatus JudgeMembership(const Membership& membership, uint64_t operation_epoch,
                             Audience audience) {
  if (operation_epoch > membership.epoch) return v1::IO_STATUS_UNKNOWN_EPOCH;
  // A server that has never heard of the group can't call any epoch stale.
  if (membership.epoch == 0) return v1::IO_STATUS_UNKNOWN_EPOCH;
  if (operation_epoch < membership.epoch) return v1::IO_STATUS_STALE_EPOCH;
  const bool in_sync = membership.role == v1::REPLICA_ROLE_IN_SYNC;
  const bool learner = membership.role == v1::REPLICA_ROLE_LEARNER;
  const bool allowed = audience == Audience::kReader ? in_sync : in_sync || learner;
  return allowed ? v1::IO_STATUS_OK : v1::IO_STATUS_NOT_MEMBER;
}

OrderJudgement JudgeOrder(const chunk::Version& cursor, const chunk::Version& version) {
  if (version.generation < cursor.generation) {
    return {.status = v1::IO_STATUS_STALE_GENERATION};
  }
  const uint64_t last = version.generation == cursor.generation ? cursor.sequence : 0;
  if (version.sequence == last + 1) return {.status = v1::IO_STATUS_OK};
  if (version.sequence != 0 && version.sequence <= last) {
    return {.status = v1::IO_STATUS_DUPLICATE};
  }
  return {.status = v1::IO_STATUS_SEQUENCE_GAP, .expected_sequence = last + 1};
}

const char* RangeProblem(uint32_t offset_bytes, uint32_t length_bytes, uint32_t chunk_bytes) {
  if (length_bytes == 0) return "length_bytes is 0: it must be a positive multiple of 512";
  if (offset_bytes % chunk::kSectorBytes != 0) return "offset_bytes is no multiple of 512";
  if (length_bytes % chunk::kSectorBytes != 0) return "length_bytes is no multiple of 512";
  if (uint64_t{offset_bytes} + length_bytes > chunk_bytes) return "the range leaves its chunk";
  return nullptr;
}

}  // namespace tessera::sds
