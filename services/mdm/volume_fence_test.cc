// A volume's older generations end at every server, and a new writer finds equal replicas.
#include <atomic>
#include <catch2/catch.hpp>

#include "absl/synchronization/notification.h"
#include "libtoken/token.h"
#include "services/mdm/mdm_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

TEST_CASE_METHOD(ClusterFixture, "unmap fences: every server confirms, the old grant is void") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  v1::IssuedGrant grant;
  REQUIRE(Acquire(volume, client, &grant).ok());
  v1::UnmapVolumeRequest request;
  request.set_volume_name("v");
  v1::UnmapVolumeResponse response;
  REQUIRE(Call(TESSERA_CALL(VolumeService, UnmapVolume), request, &response).ok());
  CHECK(response.confirmed_sds_ids_size() == 2);
  CHECK(response.expired_sds_ids_size() == 0);
  CHECK(a.GenerationOf(volume.volume_id()) == response.generation());
  CHECK(b.GenerationOf(volume.volume_id()) == response.generation());
  CHECK(client.attached().empty());
  CHECK(Acquire(volume, client, nullptr).error_code() == StatusCode::PERMISSION_DENIED);
  // Again: nothing to do, and OK.
  CHECK(Call(TESSERA_CALL(VolumeService, UnmapVolume), request, &response).ok());
}

TEST_CASE_METHOD(ClusterFixture, "unmap with a dead server takes its replicas out and is done") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  REQUIRE(Acquire(volume, client, nullptr).ok());
  b.Stop();
  v1::UnmapVolumeRequest request;
  request.set_volume_name("v");
  request.set_force(true);
  v1::UnmapVolumeResponse response;
  REQUIRE(Call(TESSERA_CALL(VolumeService, UnmapVolume), request, &response).ok());
  REQUIRE(response.expired_sds_ids_size() == 1);
  CHECK(response.expired_sds_ids(0) == b.sds_id);
  for (const v1::PlacementGroup& group : Groups()) {
    CHECK(CountRole(group, v1::REPLICA_ROLE_IN_SYNC) == 1);
  }
}

TEST_CASE_METHOD(ClusterFixture, "unmap with no server left waits for the old grants to run out") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  REQUIRE(Acquire(volume, client, nullptr).ok());
  a.Stop();
  b.Stop();
  v1::UnmapVolumeRequest request;
  request.set_volume_name("v");
  request.set_force(true);
  v1::UnmapVolumeResponse response;
  auto unmap = TESSERA_CALL(VolumeService, UnmapVolume);
  const grpc::Status waiting = Call(unmap, request, &response, "", 0, "", 1'500);
  CHECK((waiting.error_code() == StatusCode::UNAVAILABLE ||
         waiting.error_code() == StatusCode::DEADLINE_EXCEEDED));
  // Unmapped on record, but the promise is not kept yet: asking again goes on waiting.
  const grpc::Status again = Call(unmap, request, &response, "", 0, "", 1'500);
  CHECK_FALSE(again.ok());
  clock.AdvanceMillis(options.outage_lifetime_ms + 1'000);
  REQUIRE(Call(unmap, request, &response).ok());
  // The call before may have ended it just before it was given up: what is on record counts.
  v1::ListFenceReceiptsRequest list;
  list.set_volume_id(volume.volume_id());
  list.set_generation(response.generation());
  v1::ListFenceReceiptsResponse receipts;
  REQUIRE(Call(TESSERA_CALL(VolumeService, ListFenceReceipts), list, &receipts).ok());
  REQUIRE(receipts.receipts_size() == 2);
  for (const v1::FenceReceipt& receipt : receipts.receipts()) {
    CHECK(receipt.proof() == v1::FENCE_PROOF_EXPIRED);
  }
}

TEST_CASE_METHOD(ClusterFixture, "a new writer finds the shorter replica taken out") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  REQUIRE(Acquire(volume, client, nullptr).ok());
  const auto before = Groups();
  const uint64_t group_id = before[1].placement_group_id();
  a.SetCursor(volume.volume_id(), group_id, 2, 10);
  b.SetCursor(volume.volume_id(), group_id, 2, 9);
  REQUIRE(Acquire(volume, client, nullptr).ok());
  const auto after = Groups();
  CHECK(after[0].epoch() == before[0].epoch());
  // Repair may have begun with it already.
  const uint32_t learners = CountRole(after[1], v1::REPLICA_ROLE_LEARNER);
  CHECK(after[1].epoch() == before[1].epoch() + 1 + learners);
  for (const v1::Replica& replica : after[1].replicas()) {
    CHECK((replica.role() == v1::REPLICA_ROLE_IN_SYNC) == (replica.sds_id() == a.sds_id));
  }
}

TEST_CASE_METHOD(ClusterFixture, "a new writer waits while no replica of a group tells its order") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  a.Stop();
  b.Stop();
  const grpc::Status status = Acquire(volume, client, nullptr, 1'000);
  CHECK_FALSE(status.ok());
  a.Start();
  CHECK(Acquire(volume, client, nullptr).ok());
}

TEST_CASE_METHOD(ClusterFixture, "a server that knows a higher generation brings ours up") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  a.KnowGeneration(volume.volume_id(), 70);
  CHECK(Acquire(volume, client, nullptr).error_code() == StatusCode::ABORTED);
  v1::IssuedGrant grant;
  REQUIRE(Acquire(volume, client, &grant).ok());
  CHECK(token::DecodeGrant(grant.grant())->generation == 71);
}

// Three copies. `c` is silent from the first question on; `b` answers late, and meanwhile `a`,
// which has answered, leaves and comes back having learned from `c`, which lacks the last write.
TEST_CASE_METHOD(MdmFixture, "what a replica answered before it learned does not count") {
  FakeSds a("sds-a");
  FakeSds b("sds-b");
  FakeSds c("sds-c");
  FakeSdc client("client");
  MakePool({&a, &b, &c}, 3);
  REQUIRE(Register(&client).ok());
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  const v1::PlacementGroup before = Groups()[1];
  const uint64_t group_id = before.placement_group_id();
  for (FakeSds* sds : {&a, &b}) sds->SetCursor(volume.volume_id(), group_id, 2, 10);
  c.Stop();
  absl::Notification answered;
  std::atomic<int> a_asked = 0;
  a.OnRaise([&](int count) {
    a_asked = count;
    if (count == 1) answered.Notify();
  });
  auto complete = TESSERA_CALL(PlacementService, CompleteLearning);
  b.OnRaise([&](int count) {
    if (count > 1) return;
    answered.WaitForNotification();
    v1::PlacementGroup entry;
    REQUIRE(Report(client, group_id, before.epoch(), a.device_id, &entry).ok());
    clock.AdvanceMillis(2'000);
    REQUIRE(Await([&] { return CountRole(Groups()[1], v1::REPLICA_ROLE_LEARNER) == 1; }));
    v1::CompleteLearningRequest request;
    request.set_placement_group_id(group_id);
    request.set_epoch(Groups()[1].epoch());
    request.set_device_id(a.device_id);
    v1::CompleteLearningResponse done;
    REQUIRE(Call(complete, request, &done, "sds", a.sds_id, a.secret).ok());
    a.ForgetCursors();
    a.SetCursor(volume.volume_id(), group_id, 2, 9);
  });
  REQUIRE(Acquire(volume, client, nullptr).ok());
  const v1::PlacementGroup after = Groups()[1];
  for (const v1::Replica& replica : after.replicas()) {
    CHECK((replica.role() == v1::REPLICA_ROLE_IN_SYNC) == (replica.sds_id() == b.sds_id));
  }
  CHECK(a_asked == 2);
  // Where nothing changed, nobody lost a place but the silent one.
  CHECK(CountRole(Groups()[0], v1::REPLICA_ROLE_IN_SYNC) == 2);
}

}  // namespace
}  // namespace tessera::mdm
