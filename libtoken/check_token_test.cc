#include <catch2/catch.hpp>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "libtoken/token.h"

namespace tessera::token {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kChunk = 1 << 20;
constexpr uint64_t kSds = 4;

// An SDS that knows two keys and judges tokens for one grant; each test alters one thing.
struct Fixture {
  Fixture() {
    secrets[1].fill(0x11);
    secrets[2].fill(0x22);
    for (const uint32_t id : {1u, 2u}) keyring.Add(id, DeriveSdsKey(secrets[id], kSds));
    grant.grant_id = 100;
    grant.key_id = 1;
    grant.sdc_id = 6;
    grant.volume_id = 7;
    grant.vtree_id = 8;
    grant.pool_id = 9;
    grant.volume_size_bytes = 10 * uint64_t{kChunk} + 4096;
    grant.chunk_bytes = kChunk;
    grant.generation = 5;
    grant.snapshot_sequence = 2;
    grant.access = AccessMode::kReadWrite;
    grant.issued_ms = 1'000'000;
    grant.expiry_ms = 1'060'000;
    grant.outage_expiry_ms = 1'660'000;
    token.operation = Operation::kWrite;
    token.grant_id = 100;
    token.generation = 5;
    token.placement_group_id = 3;
    token.epoch = 12;
    token.counter = 77;
    token.chunk_index = 1;
    token.snapshot_sequence = 2;
    token.offset_bytes = 8192;
    token.length_bytes = 4096;
    token.data_crc32c = 0xdeadbeef;
    token.sds_incarnation = 55;
    now = {.earliest_ms = 1'010'000, .latest_ms = 1'010'010, .mdm_reachable = true};
  }

  // The client signs what it has; the SDS derives its key from the grant that it is shown.
  [[nodiscard]] Signature Sign() const {
    return GrantKey::Derive(DeriveSdsKey(secrets[grant.key_id], kSds), EncodeGrant(grant))
        .Sign(token);
  }
  [[nodiscard]] Refusal Judge(std::span<const uint8_t> signature) const {
    const Key* sds_key = keyring.Find(grant.key_id);
    if (sds_key == nullptr) return Refusal::kUnknownKey;
    const GrantKey key = GrantKey::Derive(*sds_key, EncodeGrant(grant));
    return CheckToken(grant, key, token, signature, 55, lowest_generation, now);
  }
  [[nodiscard]] Refusal SignAndJudge() const { return Judge(Sign()); }

  Key secrets[3];
  SdsKeyring keyring;
  Grant grant;
  IoToken token;
  uint64_t lowest_generation = 5;
  MdmTime now;
};

TEST_CASE_METHOD(Fixture, "A good token is accepted") {
  CHECK(SignAndJudge() == Refusal::kNone);
  for (const Operation operation : {Operation::kRead, Operation::kWriteZeroes, Operation::kTrim,
                                    Operation::kFlush, Operation::kAdopt}) {
    token.operation = operation;
    CHECK(SignAndJudge() == Refusal::kNone);
  }
}

TEST_CASE_METHOD(Fixture, "No signature is no token") { CHECK(Judge({}) == Refusal::kNoToken); }

TEST_CASE_METHOD(Fixture, "Each signed field of a token, altered, spoils the signature") {
  const std::vector<std::function<void(IoToken&)>> alterations = {
      [](IoToken& t) { t.operation = Operation::kRead; },
      [](IoToken& t) { t.grant_id ^= 1; },
      [](IoToken& t) { t.generation ^= uint64_t{1} << 63; },
      [](IoToken& t) { t.placement_group_id ^= 1; },
      [](IoToken& t) { t.epoch ^= 1; },
      [](IoToken& t) { t.counter ^= 1; },
      [](IoToken& t) { t.chunk_index ^= 2; },
      [](IoToken& t) { t.snapshot_sequence ^= 1; },
      [](IoToken& t) { t.offset_bytes ^= 4096; },
      [](IoToken& t) { t.length_bytes ^= 8192; },
      [](IoToken& t) { t.data_crc32c ^= 1; },
      [](IoToken& t) { t.binds_data = false; },
      [](IoToken& t) { t.sds_incarnation ^= 1; },
  };
  const Signature signature = Sign();
  const IoToken original = token;
  for (size_t i = 0; i < alterations.size(); ++i) {
    CAPTURE(i);
    token = original;
    alterations[i](token);
    CHECK(Judge(signature) == Refusal::kBadSignature);
  }
}

TEST_CASE_METHOD(Fixture, "A grant altered after it was issued has a key that nobody signed with") {
  const std::vector<std::function<void(Grant&)>> alterations = {
      [](Grant& g) { g.expiry_ms += 1; },
      [](Grant& g) { g.volume_id += 1; },
      [](Grant& g) { g.vtree_id += 1; },
      [](Grant& g) { g.pool_id += 1; },
      [](Grant& g) { g.sdc_id += 1; },
      [](Grant& g) { g.outage_expiry_ms += 1; },
      [](Grant& g) { g.iops_limit = 1; },
      [](Grant& g) { g.volume_size_bytes *= 2; },
      [](Grant& g) { g.chunk_bytes *= 2; },
      [](Grant& g) { g.key_id = 2; },
      [](Grant& g) { g.issued_ms -= 1; },
      [](Grant& g) { g.bandwidth_limit_bytes = 1; },
      [](Grant& g) { g.burst_seconds = 1; },
      [](Grant& g) { g.transaction_offset_bytes = 1; },
      [](Grant& g) { g.generation += 1; },
      [](Grant& g) { g.transaction_length_bytes = 1; },
      [](Grant& g) { g.snapshot_sequence += 1; },
      [](Grant& g) { g.transaction_operation = Operation::kTrim; },
      [](Grant& g) { g.access = AccessMode::kReadOnly; },
      [](Grant& g) { g.grant_id += 1; },
  };
  const Signature signature = Sign();
  const Grant original = grant;
  for (size_t i = 0; i < alterations.size(); ++i) {
    CAPTURE(i);
    grant = original;
    alterations[i](grant);
    CHECK(Judge(signature) == Refusal::kBadSignature);
  }
}

TEST_CASE_METHOD(Fixture, "A token made with another SDS's key is forged here") {
  const Signature signature =
      GrantKey::Derive(DeriveSdsKey(secrets[1], kSds + 1), EncodeGrant(grant)).Sign(token);
  CHECK(Judge(signature) == Refusal::kBadSignature);
}

TEST_CASE_METHOD(Fixture, "A holder cannot sign a token of another grant under this one's key") {
  token.grant_id = 101;
  CHECK(SignAndJudge() == Refusal::kBadSignature);
}

TEST_CASE_METHOD(Fixture, "Keys rotate: both ids are good until one is revoked") {
  CHECK(SignAndJudge() == Refusal::kNone);
  const Grant old_grant = grant;
  grant.key_id = 2;
  CHECK(SignAndJudge() == Refusal::kNone);
  keyring.Remove(1);
  CHECK(SignAndJudge() == Refusal::kNone);
  grant = old_grant;
  CHECK(SignAndJudge() == Refusal::kUnknownKey);
}

TEST_CASE_METHOD(Fixture, "A grant that could be over by now is expired") {
  now = {.earliest_ms = grant.expiry_ms - 100, .latest_ms = grant.expiry_ms - 1};
  CHECK(SignAndJudge() == Refusal::kNone);
  now.latest_ms = grant.expiry_ms;
  CHECK(SignAndJudge() == Refusal::kExpired);
  now.earliest_ms = now.latest_ms = kMax;
  CHECK(SignAndJudge() == Refusal::kExpired);
}

TEST_CASE_METHOD(Fixture, "While the MDM is away a grant is honoured until its outage expiry") {
  now = {.earliest_ms = grant.expiry_ms,
         .latest_ms = grant.outage_expiry_ms - 1,
         .mdm_reachable = false};
  CHECK(SignAndJudge() == Refusal::kNone);
  now.mdm_reachable = true;
  CHECK(SignAndJudge() == Refusal::kExpired);
  now.mdm_reachable = false;
  now.latest_ms = grant.outage_expiry_ms;
  CHECK(SignAndJudge() == Refusal::kExpired);
}

TEST_CASE_METHOD(Fixture, "An outage never shortens a grant that names no outage expiry") {
  grant.outage_expiry_ms = 0;
  now.mdm_reachable = false;
  CHECK(SignAndJudge() == Refusal::kNone);
  now.latest_ms = grant.expiry_ms;
  CHECK(SignAndJudge() == Refusal::kExpired);
}

TEST_CASE_METHOD(Fixture,
                 "A grant from the future is not valid yet, within the clock's error it is") {
  now = {.earliest_ms = grant.issued_ms - 50, .latest_ms = grant.issued_ms};
  CHECK(SignAndJudge() == Refusal::kNone);
  now.latest_ms = grant.issued_ms - 1;
  CHECK(SignAndJudge() == Refusal::kNotYetValid);
}

TEST_CASE_METHOD(Fixture, "A generation other than the grant's, or below the lowest, is refused") {
  lowest_generation = 6;
  CHECK(SignAndJudge() == Refusal::kWrongGeneration);
  lowest_generation = 5;
  token.generation = 4;
  CHECK(SignAndJudge() == Refusal::kWrongGeneration);
  token.generation = 6;
  CHECK(SignAndJudge() == Refusal::kWrongGeneration);
}

TEST_CASE_METHOD(Fixture, "A token for another life of the SDS is refused") {
  token.sds_incarnation = 54;
  CHECK(SignAndJudge() == Refusal::kWrongIncarnation);
}

TEST_CASE_METHOD(Fixture, "A token for another snapshot than the grant's is refused") {
  for (const uint64_t sequence : {uint64_t{0}, uint64_t{1}, uint64_t{3}, kMax}) {
    token.snapshot_sequence = sequence;
    CHECK(SignAndJudge() == Refusal::kWrongVolume);
  }
}

TEST_CASE_METHOD(Fixture, "A read-only grant is good for reads alone") {
  grant.access = AccessMode::kReadOnly;
  for (int operation = 0; operation < 256; ++operation) {
    token.operation = static_cast<Operation>(operation);
    CHECK(SignAndJudge() ==
          (token.operation == Operation::kRead ? Refusal::kNone : Refusal::kWrongOperation));
  }
}

TEST_CASE_METHOD(Fixture, "Operations and access modes that do not exist are refused") {
  token.operation = static_cast<Operation>(0);
  CHECK(SignAndJudge() == Refusal::kWrongOperation);
  token.operation = static_cast<Operation>(7);
  CHECK(SignAndJudge() == Refusal::kWrongOperation);
  token.operation = Operation::kRead;
  grant.access = static_cast<AccessMode>(9);
  CHECK(SignAndJudge() == Refusal::kWrongOperation);
}

TEST_CASE_METHOD(Fixture, "A writer's data is bound by its token") {
  token.binds_data = false;
  CHECK(SignAndJudge() == Refusal::kDataMismatch);
  token.operation = Operation::kTrim;
  CHECK(SignAndJudge() == Refusal::kNone);
}

TEST_CASE_METHOD(Fixture, "A range ends inside its chunk and inside its volume") {
  struct Case {
    uint64_t chunk_index;
    uint32_t offset_bytes;
    uint32_t length_bytes;
    Refusal expected;
  };
  const uint32_t most = std::numeric_limits<uint32_t>::max();
  const Case cases[] = {
      {0, 0, kChunk, Refusal::kNone},
      {0, 0, kChunk + 1, Refusal::kOutOfRange},
      {0, kChunk - 1, 1, Refusal::kNone},
      {0, kChunk - 1, 2, Refusal::kOutOfRange},
      {0, kChunk, 0, Refusal::kOutOfRange},
      {0, 0, 0, Refusal::kOutOfRange},
      {0, most, most, Refusal::kOutOfRange},         // wraps to a small number in 32 bits
      {0, most - 4095, 4096, Refusal::kOutOfRange},  // wraps to zero in 32 bits
      {10, 0, 4096, Refusal::kNone},                 // the volume's last bytes
      {10, 0, 4097, Refusal::kOutOfRange},
      {10, 4096, 1, Refusal::kOutOfRange},
      {11, 0, 1, Refusal::kOutOfRange},
      {uint64_t{1} << 44, 0, 4096, Refusal::kOutOfRange},  // times 1 MiB wraps to zero in 64 bits
      {kMax, 0, 4096, Refusal::kOutOfRange},
  };
  for (const Case& c : cases) {
    CAPTURE(c.chunk_index, c.offset_bytes, c.length_bytes);
    token.chunk_index = c.chunk_index;
    token.offset_bytes = c.offset_bytes;
    token.length_bytes = c.length_bytes;
    CHECK(SignAndJudge() == c.expected);
  }
}

TEST_CASE_METHOD(Fixture, "At the top of the address space the end of a range does not wrap") {
  grant.volume_size_bytes = kMax;
  token.chunk_index = kMax / kChunk;
  token.offset_bytes = kChunk - 4096;
  token.length_bytes = 4095;
  CHECK(SignAndJudge() == Refusal::kNone);
  token.length_bytes = 4096;
  CHECK(SignAndJudge() == Refusal::kOutOfRange);
}

TEST_CASE_METHOD(Fixture, "A grant without a chunk size is good for no range") {
  grant.chunk_bytes = 0;
  CHECK(SignAndJudge() == Refusal::kOutOfRange);
}

TEST_CASE_METHOD(Fixture, "A transaction is good for its one operation and its one range") {
  grant.access = AccessMode::kTransaction;
  grant.transaction_operation = Operation::kWrite;
  grant.transaction_offset_bytes = kChunk - 4096;
  grant.transaction_length_bytes = 8192;
  token.binds_data = false;
  const auto judge = [this](uint64_t chunk, uint32_t offset, uint32_t length) {
    token.chunk_index = chunk;
    token.offset_bytes = offset;
    token.length_bytes = length;
    return SignAndJudge();
  };
  CHECK(judge(0, kChunk - 4096, 4096) == Refusal::kNone);
  CHECK(judge(1, 0, 4096) == Refusal::kNone);
  CHECK(judge(1, 0, 4097) == Refusal::kOutOfRange);
  CHECK(judge(0, kChunk - 4097, 4096) == Refusal::kOutOfRange);
  CHECK(judge(5, 0, 4096) == Refusal::kOutOfRange);
  for (const Operation operation : {Operation::kRead, Operation::kWriteZeroes, Operation::kTrim,
                                    Operation::kFlush, Operation::kAdopt}) {
    token.operation = operation;
    CHECK(judge(1, 0, 4096) == Refusal::kWrongOperation);
  }
}

TEST_CASE_METHOD(Fixture, "A transaction whose own range wraps gives no right beyond it") {
  grant.access = AccessMode::kTransaction;
  grant.transaction_operation = Operation::kWrite;
  grant.transaction_offset_bytes = 2 * uint64_t{kChunk};
  grant.transaction_length_bytes = kMax;  // offset + length is below the offset in 64 bits
  token.chunk_index = 1;
  CHECK(SignAndJudge() == Refusal::kOutOfRange);
  token.chunk_index = 3;
  CHECK(SignAndJudge() == Refusal::kNone);
}

TEST_CASE_METHOD(Fixture, "Whoever cannot sign learns nothing else") {
  // Everything is wrong with this token; the signature is what is reported.
  const Signature forged{};
  token.sds_incarnation = 1;
  token.generation = 1;
  token.length_bytes = 0;
  now = {.earliest_ms = kMax, .latest_ms = kMax};
  CHECK(Judge(forged) == Refusal::kBadSignature);
}

}  // namespace
}  // namespace tessera::token
