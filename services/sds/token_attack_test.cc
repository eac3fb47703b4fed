// Promise 3: no IO without a valid, unexpired, unused token for exactly that range. One row an
// attack: the attacker starts from an operation that would be good, and changes one thing. Each
// must be refused with its own reason, counted under it, and leave the data as it was.
#include <catch2/catch.hpp>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kGroup = kTestPool * 65536;

struct Attack {
  std::string name;
  v1::IoStatus status;
  token::Refusal refusal;  // kNone: refused by the order, not by the token
  // Does it; returns the result.
  std::function<v1::IoResult()> run;
};

class AttackFixture {
 public:
  AttackFixture()
      : sds(&mdm, "sds-a"), other(&mdm, "sds-b"), client(&mdm, &sds, NewGrant(mdm, 1, 5)) {
    mdm.Commit(GroupOf(kGroup, {{&sds, v1::REPLICA_ROLE_IN_SYNC}}));
    REQUIRE(sds.AwaitEpoch(kGroup, 1));
    REQUIRE(client.Write(kGroup, 0, 0, original) == v1::IO_STATUS_OK);
  }

  // A write that would be good, of other data.
  v1::IoOperation Write() {
    client.next[kGroup] = 1;
    return client.NewWrite(kGroup, 0, 0, evil);
  }
  v1::IoOperation Read() { return client.NewRead(kGroup, 0, 0, 4096); }
  v1::IoResult Send(const v1::IoOperation& operation) {
    return client.SendOne(operation,
                          operation.type() == v1::IO_OPERATION_TYPE_WRITE ? evil : std::string());
  }
  // Under another grant than the client's own, on a stream of its own.
  v1::IoResult SendUnder(const token::Grant& grant,
                         const std::function<v1::IoOperation(TestClient*)>& make) {
    TestClient attacker(&mdm, &sds, grant);
    attacker.next[kGroup] = 1;
    attacker.next_counter = 1'000'000;
    const v1::IoOperation operation = make(&attacker);
    return attacker.SendOne(operation,
                            operation.type() == v1::IO_OPERATION_TYPE_WRITE ? evil : std::string());
  }
  v1::IoResult WriteUnder(const token::Grant& grant) {
    return SendUnder(
        grant, [this](TestClient* attacker) { return attacker->NewWrite(kGroup, 0, 0, evil); });
  }

  FakeMdm mdm;
  TestSds sds;
  TestSds other;
  TestClient client;
  const std::string original = std::string(4096, 'o');
  const std::string evil = std::string(4096, 'e');
};

std::vector<Attack> Attacks(AttackFixture* f) {
  using token::Refusal;
  const v1::IoStatus refused = v1::IO_STATUS_TOKEN_REFUSED;
  const uint64_t now = f->mdm.NowMillis();
  const token::Grant good = f->client.grant;
  const auto grant_with = [good](const std::function<void(token::Grant*)>& change) {
    token::Grant grant = good;
    change(&grant);
    grant.grant_id += 10'000;
    return grant;
  };
  std::vector<Attack> attacks;
  const auto write_changed = [&](const std::string& name, Refusal refusal,
                                 std::function<void(v1::IoOperation*)> change) {
    attacks.push_back({name, refused, refusal, [f, change] {
                         v1::IoOperation operation = f->Write();
                         change(&operation);
                         return f->Send(operation);
                       }});
  };
  const auto write_under = [&](const std::string& name, Refusal refusal,
                               const token::Grant& grant) {
    attacks.push_back({name, refused, refusal, [f, grant] { return f->WriteUnder(grant); }});
  };
  write_changed("no signature", Refusal::kNoToken, [](auto* op) { op->clear_signature(); });
  write_changed("grant never shown", Refusal::kNoToken, [](auto* op) { op->set_grant_id(4711); });
  write_changed("forged signature", Refusal::kBadSignature,
                [](auto* op) { op->set_signature(std::string(16, 'x')); });
  write_changed("short signature", Refusal::kBadSignature,
                [](auto* op) { op->mutable_signature()->resize(8); });
  write_changed("other offset than signed", Refusal::kBadSignature,
                [](auto* op) { op->set_offset_bytes(8192); });
  write_changed("other chunk than signed", Refusal::kBadSignature,
                [](auto* op) { op->set_chunk_index(7); });
  write_changed("other sequence than signed", Refusal::kBadSignature,
                [](auto* op) { op->set_counter(3); });
  write_changed("other epoch than signed", Refusal::kBadSignature,
                [](auto* op) { op->set_epoch(2); });
  attacks.push_back({"read token used for a write", refused, Refusal::kBadSignature, [f] {
                       v1::IoOperation operation = f->Read();
                       operation.set_type(v1::IO_OPERATION_TYPE_WRITE);
                       return f->Send(operation);
                     }});
  write_changed("trim instead of the write signed", Refusal::kBadSignature,
                [](auto* op) { op->set_type(v1::IO_OPERATION_TYPE_WRITE_ZEROES); });
  write_changed("signed with another server's key", Refusal::kBadSignature,
                [f](auto* op) { f->client.SignWith(f->mdm.SdsKeyOf(1, f->other.id()), op); });
  write_changed("for an earlier life of the server", Refusal::kWrongIncarnation, [f](auto* op) {
    op->set_sds_incarnation(op->sds_incarnation() - 1);
    f->client.Sign(op);
  });
  write_changed("range leaves the chunk", Refusal::kOutOfRange, [f](auto* op) {
    op->set_offset_bytes(kTestChunkBytes - 512);
    f->client.Sign(op);
  });
  write_changed("past the volume's end", Refusal::kOutOfRange, [f](auto* op) {
    op->set_chunk_index((1u << 30) / kTestChunkBytes);
    f->client.Sign(op);
  });
  write_changed("of another pool", Refusal::kWrongVolume, [f](auto* op) {
    op->set_placement_group_id(2 * 65536);
    f->client.Sign(op);
  });
  attacks.push_back({"payload altered", refused, Refusal::kDataMismatch,
                     [f] { return f->client.SendOne(f->Write(), std::string(4096, 'x')); }});
  write_under("expired", Refusal::kExpired, grant_with([now](token::Grant* grant) {
                grant->issued_ms = now - 10'000;
                grant->expiry_ms = grant->outage_expiry_ms = now - 5'000;
              }));
  write_under("issued in the future", Refusal::kNotYetValid,
              grant_with([now](token::Grant* grant) { grant->issued_ms = now + 600'000; }));
  write_under(
      "write under a read-only grant", Refusal::kWrongOperation,
      grant_with([](token::Grant* grant) { grant->access = token::AccessMode::kReadOnly; }));
  write_under("outside the transaction", Refusal::kOutOfRange, grant_with([](token::Grant* grant) {
                grant->access = token::AccessMode::kTransaction;
                grant->transaction_operation = token::Operation::kWrite;
                grant->transaction_offset_bytes = 4096;
                grant->transaction_length_bytes = 4096;
              }));
  attacks.push_back({"read token used twice", refused, Refusal::kReplayed, [f] {
                       const v1::IoOperation operation = f->Read();
                       REQUIRE(f->Send(operation).status() == v1::IO_STATUS_OK);
                       return f->Send(operation);
                     }});
  attacks.push_back({"read token used on a second stream", refused, Refusal::kReplayed, [f] {
                       const v1::IoOperation operation = f->Read();
                       REQUIRE(f->Send(operation).status() == v1::IO_STATUS_OK);
                       TestClient second(&f->mdm, &f->sds, f->client.grant);
                       return second.SendOne(operation);
                     }});
  attacks.push_back({"read counter behind the window", refused, Refusal::kTooOld, [f] {
                       const uint64_t counter = f->client.next_counter;
                       f->client.next_counter += 2 * token::ReplayWindow::kWindow;
                       REQUIRE(f->Send(f->Read()).status() == v1::IO_STATUS_OK);
                       v1::IoOperation late = f->Read();
                       late.set_counter(counter);
                       f->client.Sign(&late);
                       return f->Send(late);
                     }});
  attacks.push_back({"write token used twice", v1::IO_STATUS_DUPLICATE, Refusal::kNone, [f] {
                       f->client.next[kGroup] = 0;
                       return f->Send(f->client.NewWrite(kGroup, 0, 0, f->evil));
                     }});
  attacks.push_back({"write out of its order", v1::IO_STATUS_SEQUENCE_GAP, Refusal::kNone, [f] {
                       f->client.next[kGroup] = 9;
                       return f->Send(f->client.NewWrite(kGroup, 0, 0, f->evil));
                     }});
  attacks.push_back({"in another epoch", v1::IO_STATUS_UNKNOWN_EPOCH, Refusal::kNone, [f] {
                       v1::IoOperation operation = f->Write();
                       operation.set_epoch(99);
                       f->client.Sign(&operation);
                       return f->Send(operation);
                     }});
  attacks.push_back({"under a revoked key", refused, Refusal::kUnknownKey, [f, good] {
                       f->mdm.AddKey(2);
                       f->mdm.AwaitHeartbeat(f->sds.id());
                       token::Grant grant = good;
                       grant.key_id = 2;
                       grant.grant_id += 20'000;
                       TestClient attacker(&f->mdm, &f->sds, grant);
                       attacker.next[kGroup] = 1;
                       const v1::IoOperation operation = attacker.NewWrite(kGroup, 0, 0, f->evil);
                       f->mdm.RemoveKey(2);
                       f->mdm.AwaitHeartbeat(f->sds.id());
                       return attacker.SendOne(operation, f->evil);
                     }});
  attacks.push_back({"old generation after RaiseGeneration", v1::IO_STATUS_STALE_GENERATION,
                     Refusal::kWrongGeneration, [f] {
                       const v1::IoOperation operation = f->Write();
                       REQUIRE(f->sds.RaiseGeneration(1, 6).ok());
                       return f->Send(operation);
                     }});
  return attacks;
}

TEST_CASE("Every attack on a token is refused for its own reason, counted, and changes nothing") {
  AttackFixture fixture;
  std::cout << "\nattack                                      status             reason\n";
  for (const Attack& attack : Attacks(&fixture)) {
    INFO(attack.name);
    const double before =
        attack.refusal == token::Refusal::kNone ? 0 : fixture.sds.Refusals(attack.refusal);
    const v1::IoResult result = attack.run();
    const std::string status = v1::IoStatus_Name(result.status()).substr(10);
    const std::string reason(token::RefusalName(static_cast<token::Refusal>(result.refusal())));
    std::cout << attack.name << std::string(44 - attack.name.size(), ' ') << status
              << std::string(19 - status.size(), ' ') << reason << "\n";
    CHECK(result.status() == attack.status);
    CHECK(static_cast<token::Refusal>(result.refusal()) == attack.refusal);
    if (attack.refusal != token::Refusal::kNone) {
      CHECK(fixture.sds.Refusals(attack.refusal) == before + 1);
    }
    std::string stored(4096, '\0');
    REQUIRE(
        fixture.sds.store()
            ->Read({.vtree_id = 11, .chunk_index = 0}, 0, std::as_writable_bytes(std::span(stored)))
            .ok());
    CHECK(stored == fixture.original);
    REQUIRE(fixture.sds.store()->Cursor({.volume_id = 1, .placement_group_id = kGroup}) ==
            chunk::Version{.generation = 5, .sequence = 1});
  }
  // The gate still opens for the right one.
  token::Grant next = fixture.client.grant;
  next.generation = 6;
  next.grant_id += 30'000;
  TestClient writer(&fixture.mdm, &fixture.sds, next);
  CHECK(writer.Write(kGroup, 0, 0, fixture.evil) == v1::IO_STATUS_OK);
}

}  // namespace
}  // namespace tessera::sds
