// What a replica may take, and when (docs/REPLICATION.md, I1): decisions without network, disk or
// clock.
//
// Epochs decide who may ask, versions decide what comes next. Both are judged for every operation,
// at every replica, and reads again after the disk has answered.
//
// Threads: pure functions.
#ifndef TESSERA_SERVICES_SDS_REPLICA_RULES_H_
#define TESSERA_SERVICES_SDS_REPLICA_RULES_H_

#include <cstdint>

#include "libchunk/types.h"
#include "tessera/v1/chunk.pb.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::sds {

// What this server counts for in a placement group, by the newest map entry that it has persisted.
struct Membership {
  uint64_t epoch = 0;  // 0: never heard of the group
  v1::ReplicaRole role = v1::REPLICA_ROLE_UNSPECIFIED;
  uint32_t in_sync_count = 0;  // of the group's replicas
  // The group began anew from a replica that had lost what was not flushed, after this one was last
  // known to be in sync: what is here may be more, under the same versions.
  bool is_from_before_loss = false;
};

// Who an operation needs.
enum class Audience {
  kReader,  // in sync
  kWriter,  // in sync or learner: writes and flushes
};

// IO_STATUS_OK, STALE_EPOCH, UNKNOWN_EPOCH or NOT_MEMBER.
[[nodiscard]] v1::IoStatus JudgeMembership(const Membership& membership, uint64_t operation_epoch,
                                           Audience audience);

struct OrderJudgement {
  v1::IoStatus status = v1::IO_STATUS_OK;
  uint64_t expected_sequence = 0;  // SEQUENCE_GAP: what would be right in the write's generation
};

// IO_STATUS_OK: the next of its order. DUPLICATE: taken before. SEQUENCE_GAP; STALE_GENERATION.
// `cursor` is the last version taken, {0, 0} when none.
[[nodiscard]] OrderJudgement JudgeOrder(const chunk::Version& cursor,
                                        const chunk::Version& version);

// Why the range makes no sense in a chunk, as a constant phrase; null when it does.
[[nodiscard]] const char* RangeProblem(uint32_t offset_bytes, uint32_t length_bytes,
                                       uint32_t chunk_bytes);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_REPLICA_RULES_H_
