// The proofs of fences: made by servers, kept and checked by the MDM, read by people.
#include <catch2/catch.hpp>

#include "services/common/errors.h"
#include "services/mdm/fence_receipt_table.h"
#include "services/mdm/mdm_fixture.h"
#include "services/mdm/mdm_schema.h"
#include "services/mdm/membership_rules.h"

namespace tessera::mdm {
namespace {

struct ReceiptFixture : MdmFixture {
  ReceiptFixture() {
    MakePool({&a, &b}, 2);
    REQUIRE(Register(&client).ok());
    volume = MakeVolume("receipts");
    REQUIRE(Map(volume, client).ok());
  }
  [[nodiscard]] std::vector<v1::FenceReceipt> Receipts(uint64_t generation = 0) {
    v1::ListFenceReceiptsRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_generation(generation);
    v1::ListFenceReceiptsResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::VolumeService>()->ListFenceReceipts(&context, request, &response).ok());
    return {response.receipts().begin(), response.receipts().end()};
  }
  [[nodiscard]] uint64_t Unmap() {
    v1::UnmapVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_force(true);
    v1::UnmapVolumeResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::VolumeService>()->UnmapVolume(&context, request, &response).ok());
    return response.generation();
  }
  FakeSds a{"sds-a"};
  FakeSds b{"sds-b"};
  FakeSdc client{"client"};
  v1::Volume volume;
};

TEST_CASE_METHOD(ReceiptFixture, "unmap leaves a signed line of each server") {
  const uint64_t generation = Unmap();
  const std::vector<v1::FenceReceipt> receipts = Receipts(generation);
  REQUIRE(receipts.size() == 2);
  for (size_t i = 0; i < 2; ++i) {
    const FakeSds& server = i == 0 ? a : b;
    CHECK(receipts[i].sds_id() == server.sds_id);
    CHECK(receipts[i].sds_name() == server.name);
    CHECK(receipts[i].proof() == v1::FENCE_PROOF_CONFIRMED);
    CHECK(receipts[i].sds_incarnation() == server.incarnation);
    CHECK(receipts[i].verified());
    CHECK(receipts[i].recorded_ms() > 0);
  }
  CHECK(receipts[0].signature() != receipts[1].signature());
}

TEST_CASE_METHOD(ReceiptFixture, "a server that is gone is told apart from one that confirmed") {
  b.Stop();
  const std::vector<v1::FenceReceipt> receipts = Receipts(Unmap());
  REQUIRE(receipts.size() == 2);
  CHECK(receipts[0].proof() == v1::FENCE_PROOF_CONFIRMED);
  CHECK(receipts[0].verified());
  CHECK(receipts[1].sds_id() == b.sds_id);
  CHECK(receipts[1].proof() == v1::FENCE_PROOF_EXPIRED);
  CHECK(receipts[1].signature().empty());
  CHECK_FALSE(receipts[1].verified());
}

TEST_CASE_METHOD(ReceiptFixture, "receipts outlive their volume, and what never was is not found") {
  (void)Unmap();
  v1::DeleteVolumeRequest remove;
  remove.set_volume_id(volume.volume_id());
  v1::DeleteVolumeResponse removed;
  grpc::ClientContext context;
  Prepare(&context);
  REQUIRE(Stub<v1::VolumeService>()->DeleteVolume(&context, remove, &removed).ok());
  const std::vector<v1::FenceReceipt> receipts = Receipts();
  REQUIRE(receipts.size() == 4);
  CHECK(receipts[0].generation() > receipts[2].generation());

  v1::ListFenceReceiptsRequest request;
  request.set_volume_id(4'711);
  v1::ListFenceReceiptsResponse response;
  grpc::ClientContext other;
  Prepare(&other);
  CHECK(Stub<v1::VolumeService>()->ListFenceReceipts(&other, request, &response).error_code() ==
        grpc::StatusCode::NOT_FOUND);
}

TEST_CASE("the newest generations of a volume are kept") {
  SQLite::Database db(":memory:", SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
  for (const std::string& migration : MdmMigrations()) db.exec(migration);
  for (uint64_t generation = 1; generation <= kFenceGenerationsKept + 20; ++generation) {
    v1::FenceReceipt receipt;
    receipt.set_volume_id(7);
    receipt.set_generation(generation);
    receipt.set_sds_id(1);
    receipt.set_proof(v1::FENCE_PROOF_CONFIRMED);
    receipt.set_recorded_ms(generation);
    PutFenceReceipts(db, {receipt});
  }
  const auto kept = ListFenceReceiptRows(db, 7, 0);
  CHECK(kept.size() == kFenceGenerationsKept);
  CHECK(kept.front().generation() == kFenceGenerationsKept + 20);
  CHECK(ListFenceReceiptRows(db, 8, 0).empty());
  // The volume is gone: the old ones go by age.
  CHECK(ForgetFenceReceipts(db, 100) == 79);
}

TEST_CASE_METHOD(ReceiptFixture, "a grant says of which mapping it is") {
  const auto acquire = [&] {
    v1::IssuedGrant grant;
    REQUIRE(Acquire(volume, client, &grant).ok());
    return grant.mapping_id();
  };
  const uint64_t first = acquire();
  CHECK(acquire() == first);
  (void)Unmap();
  REQUIRE(Map(volume, client).ok());
  CHECK(acquire() != first);
}

TEST_CASE_METHOD(ReceiptFixture, "a grant comes with the map, unless its client has that map") {
  const auto acquire = [&](const std::vector<v1::PlacementGroup>& known) {
    v1::AcquireGrantRequest request;
    request.set_volume_id(volume.volume_id());
    if (!known.empty()) {
      v1::KnownPool* pool = request.add_known_pools();
      pool->set_pool_id(volume.pool_id());
      for (const v1::PlacementGroup& group : known) {
        pool->set_epoch_sum(pool->epoch_sum() + group.epoch());
      }
    }
    v1::AcquireGrantResponse response;
    grpc::ClientContext context;
    Prepare(&context, "sdc", client.sdc_id, client.secret);
    REQUIRE(Stub<v1::TokenService>()->AcquireGrant(&context, request, &response).ok());
    return response;
  };
  const auto before = Groups();
  CHECK(acquire({}).placement_groups_size() == static_cast<int>(before.size()));
  CHECK(acquire(before).placement_groups_size() == 0);
  // A replica leaves one group, of which no watch has told the client.
  const v1::PlacementGroup& group = before[1];
  const uint64_t leaving = group.replicas(0).device_id();
  v1::PlacementGroup entry;
  REQUIRE(Report(client, group.placement_group_id(), group.epoch(), leaving, &entry).ok());
  const v1::AcquireGrantResponse response = acquire(before);
  REQUIRE(response.placement_groups_size() == static_cast<int>(before.size()));
  REQUIRE(entry.ParseFromString(response.placement_groups(1).placement_group()));
  CHECK(entry.placement_group_id() == group.placement_group_id());
  CHECK(entry.epoch() > group.epoch());
  CHECK(FindReplica(entry, leaving)->role() == v1::REPLICA_ROLE_OUT_OF_SYNC);
}

}  // namespace
}  // namespace tessera::mdm
