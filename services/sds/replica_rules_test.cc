#include "services/sds/replica_rules.h"

#include <catch2/catch.hpp>

namespace tessera::sds {
namespace {

using chunk::Version;

TEST_CASE("Only the current epoch's members may read or write") {
  const Membership in_sync{.epoch = 5, .role = v1::REPLICA_ROLE_IN_SYNC};
  const Membership learner{.epoch = 5, .role = v1::REPLICA_ROLE_LEARNER};
  const Membership outside{.epoch = 5, .role = v1::REPLICA_ROLE_OUT_OF_SYNC};
  const Membership none{.epoch = 5};
  for (const Audience audience : {Audience::kReader, Audience::kWriter}) {
    CHECK(JudgeMembership(in_sync, 5, audience) == v1::IO_STATUS_OK);
    CHECK(JudgeMembership(in_sync, 4, audience) == v1::IO_STATUS_STALE_EPOCH);
    CHECK(JudgeMembership(in_sync, 6, audience) == v1::IO_STATUS_UNKNOWN_EPOCH);
    CHECK(JudgeMembership(outside, 5, audience) == v1::IO_STATUS_NOT_MEMBER);
    CHECK(JudgeMembership(none, 5, audience) == v1::IO_STATUS_NOT_MEMBER);
    // The epoch is judged before the role: who is behind learns that, not that it is no member.
    CHECK(JudgeMembership(outside, 4, audience) == v1::IO_STATUS_STALE_EPOCH);
    CHECK(JudgeMembership({}, 0, audience) == v1::IO_STATUS_UNKNOWN_EPOCH);
    CHECK(JudgeMembership({}, 1, audience) == v1::IO_STATUS_UNKNOWN_EPOCH);
  }
  CHECK(JudgeMembership(learner, 5, Audience::kWriter) == v1::IO_STATUS_OK);
  CHECK(JudgeMembership(learner, 5, Audience::kReader) == v1::IO_STATUS_NOT_MEMBER);
}

TEST_CASE("A replica takes exactly the next write of its order") {
  const Version cursor{.generation = 3, .sequence = 7};
  CHECK(JudgeOrder(cursor, {3, 8}).status == v1::IO_STATUS_OK);
  CHECK(JudgeOrder(cursor, {3, 7}).status == v1::IO_STATUS_DUPLICATE);
  CHECK(JudgeOrder(cursor, {3, 1}).status == v1::IO_STATUS_DUPLICATE);
  CHECK(JudgeOrder(cursor, {3, 9}).status == v1::IO_STATUS_SEQUENCE_GAP);
  CHECK(JudgeOrder(cursor, {3, 9}).expected_sequence == 8);
  CHECK(JudgeOrder(cursor, {4, 1}).status == v1::IO_STATUS_OK);
  CHECK(JudgeOrder(cursor, {4, 8}).status == v1::IO_STATUS_SEQUENCE_GAP);
  CHECK(JudgeOrder(cursor, {4, 8}).expected_sequence == 1);
  CHECK(JudgeOrder(cursor, {2, 8}).status == v1::IO_STATUS_STALE_GENERATION);
  CHECK(JudgeOrder(cursor, {2, 1}).status == v1::IO_STATUS_STALE_GENERATION);
}

TEST_CASE("Sequence 0 is no write, and the first write of a stream is 1") {
  CHECK(JudgeOrder({}, {1, 1}).status == v1::IO_STATUS_OK);
  CHECK(JudgeOrder({}, {1, 2}).status == v1::IO_STATUS_SEQUENCE_GAP);
  CHECK(JudgeOrder({}, {1, 0}).status == v1::IO_STATUS_SEQUENCE_GAP);
  CHECK(JudgeOrder({3, 7}, {3, 0}).status == v1::IO_STATUS_SEQUENCE_GAP);
}

TEST_CASE("Ranges are sectors inside the chunk") {
  CHECK(RangeProblem(0, 512, 4096) == nullptr);
  CHECK(RangeProblem(3584, 512, 4096) == nullptr);
  CHECK(RangeProblem(0, 4096, 4096) == nullptr);
  CHECK(RangeProblem(0, 0, 4096) != nullptr);
  CHECK(RangeProblem(1, 512, 4096) != nullptr);
  CHECK(RangeProblem(0, 513, 4096) != nullptr);
  CHECK(RangeProblem(3584, 1024, 4096) != nullptr);
  CHECK(RangeProblem(0xFFFFFE00u, 0x400u, 4096) != nullptr);  // 32-bit wrap
}

}  // namespace
}  // namespace tessera::sds
