// The tables that a server keeps: volumes, map entries, grants, acknowledgements, and sds_local.db.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "services/sds/grant_cache.h"
#include "services/sds/local_state.h"
#include "services/sds/mdm_clock.h"
#include "services/sds/placement_table.h"
#include "services/sds/testing/test_sds.h"
#include "services/sds/token_ack_book.h"
#include "services/sds/volume_table.h"

namespace tessera::sds {
namespace {

v1::SignedPlacementGroup Entry(uint64_t id, uint64_t epoch, v1::ReplicaRole role,
                               uint64_t loss_epoch = 0, uint64_t device_id = 70) {
  v1::PlacementGroup group;
  group.set_placement_group_id(id);
  group.set_epoch(epoch);
  group.set_loss_epoch(loss_epoch);
  v1::Replica* replica = group.add_replicas();
  replica->set_sds_id(7);
  replica->set_device_id(device_id);
  replica->set_role(role);
  v1::SignedPlacementGroup entry;
  entry.set_placement_group(group.SerializeAsString());
  return entry;
}

TEST_CASE("A generation is visible only once it is durable, and never falls") {
  std::vector<std::pair<uint64_t, uint64_t>> disk;
  absl::Status disk_status;
  VolumeTable table({{1, 4}}, [&](std::span<const VolumeGeneration> raised) {
    if (disk_status.ok()) disk.insert(disk.end(), raised.begin(), raised.end());
    return disk_status;
  });
  CHECK(table.LowestGeneration(1) == 4);
  CHECK(table.Find(2) == nullptr);
  CHECK(*table.Raise(1, 3) == 4);
  CHECK(disk.empty());
  CHECK(*table.Raise(1, 6) == 6);
  CHECK(disk == std::vector<VolumeGeneration>{{1, 6}});
  const std::vector<VolumeGeneration> several{{1, 5}, {3, 4}, {1, 7}, {3, 2}};
  const std::vector<VolumeGeneration> risen{{3, 4}, {1, 7}, {3, 2}};
  CHECK(*table.RaiseAll(several) == risen);
  CHECK(table.RaiseAll(several)->empty());
  CHECK(disk.size() == 4);
  CHECK(table.LowestGeneration(3) == 4);
  disk_status = absl::InternalError("disk");
  CHECK_FALSE(table.Raise(1, 9).ok());
  CHECK(table.LowestGeneration(1) == 7);
  CHECK_FALSE(table.Raise(2, 1).ok());
  CHECK(table.Find(2) == nullptr);
}

TEST_CASE("A map entry is taken only when newer, and only once it is durable") {
  absl::Status disk_status;
  int writes = 0;
  PlacementTable table([&](std::span<const PlacementRecord>) {
    ++writes;
    return disk_status;
  });
  table.SetSdsId(7);
  const auto accept = [&](const v1::SignedPlacementGroup& entry) {
    return table.Accept(std::span(&entry, 1));
  };
  REQUIRE(accept(Entry(5, 3, v1::REPLICA_ROLE_IN_SYNC)).ok());
  CHECK(table.Find(5).membership.epoch == 3);
  CHECK(table.Find(5).device_id == 70);
  CHECK(accept(Entry(5, 3, v1::REPLICA_ROLE_LEARNER))->empty());
  CHECK(accept(Entry(5, 2, v1::REPLICA_ROLE_LEARNER))->empty());
  CHECK(writes == 1);
  CHECK(table.Find(5).membership.role == v1::REPLICA_ROLE_IN_SYNC);
  disk_status = absl::InternalError("disk");
  CHECK_FALSE(accept(Entry(5, 4, v1::REPLICA_ROLE_LEARNER)).ok());
  CHECK(table.Find(5).membership.epoch == 3);
  CHECK(table.WaitForEpoch(5, 3, absl::ZeroDuration()).membership.epoch == 3);
  v1::SignedPlacementGroup garbage;
  garbage.set_placement_group("\xff\xff");
  CHECK_FALSE(table.IsNewer(garbage));
}

TEST_CASE("What was in sync and is no more counts as behind, also in the next life") {
  std::vector<PlacementRecord> disk;
  const auto persist = [&](std::span<const PlacementRecord> records) {
    disk.assign(records.begin(), records.end());
    return absl::OkStatus();
  };
  PlacementTable table(persist);
  table.SetSdsId(7);
  const auto behind_after = [&](const v1::SignedPlacementGroup& entry) {
    REQUIRE(table.Accept(std::span(&entry, 1)).ok());
    return table.BehindCount();
  };
  const auto kIn = v1::REPLICA_ROLE_IN_SYNC;
  const auto kOut = v1::REPLICA_ROLE_OUT_OF_SYNC;
  const auto kLearner = v1::REPLICA_ROLE_LEARNER;
  CHECK(table.BehindCount() == 0);
  CHECK(behind_after(Entry(5, 1, kIn)) == 0);
  // A new member of a group holds nobody up.
  CHECK(behind_after(Entry(6, 1, kLearner)) == 0);
  CHECK(behind_after(Entry(6, 2, kOut)) == 0);
  CHECK(behind_after(Entry(5, 2, kOut)) == 1);
  {
    PlacementTable restored(persist);
    restored.SetSdsId(7);
    (void)restored.Restore(disk);
    CHECK(restored.BehindCount() == 1);
  }
  CHECK(behind_after(Entry(5, 3, kLearner)) == 1);
  CHECK(behind_after(Entry(6, 3, kIn)) == 1);
  CHECK(behind_after(Entry(6, 4, kLearner)) == 2);
  // Its replica is on another device now, as a new one.
  CHECK(behind_after(Entry(6, 5, kLearner, 0, 71)) == 1);
  CHECK(behind_after(Entry(5, 4, kIn)) == 0);
  CHECK(behind_after(Entry(5, 5, kOut)) == 1);
  table.Forget(5);
  CHECK(table.BehindCount() == 0);
}

TEST_CASE("A replica that was not in sync after a loss is known to be from before it") {
  std::vector<PlacementRecord> disk;
  const auto persist = [&](std::span<const PlacementRecord> records) {
    disk.assign(records.begin(), records.end());
    return absl::OkStatus();
  };
  PlacementTable table(persist);
  table.SetSdsId(7);
  const auto take = [&](const v1::SignedPlacementGroup& entry) {
    const auto taken = table.Accept(std::span(&entry, 1));
    REQUIRE(taken.ok());
    REQUIRE(taken->size() == 1);
    // Another life knows the same.
    PlacementTable restored(persist);
    restored.SetSdsId(7);
    const bool from_before_loss = restored.Restore(disk)[0].membership.is_from_before_loss;
    CHECK((*taken)[0].membership.is_from_before_loss == from_before_loss);
    return from_before_loss;
  };
  const auto kIn = v1::REPLICA_ROLE_IN_SYNC;
  const auto kOut = v1::REPLICA_ROLE_OUT_OF_SYNC;
  const auto kLearner = v1::REPLICA_ROLE_LEARNER;
  CHECK_FALSE(take(Entry(5, 3, kIn)));
  CHECK_FALSE(take(Entry(5, 4, kOut)));
  CHECK_FALSE(take(Entry(5, 5, kLearner)));
  CHECK(take(Entry(5, 7, kOut, 6)));
  CHECK(take(Entry(5, 8, kLearner, 6)));
  CHECK(take(Entry(5, 9, kOut, 6)));
  CHECK(take(Entry(5, 10, kLearner, 6)));
  CHECK_FALSE(take(Entry(5, 11, kIn, 6)));
  CHECK_FALSE(take(Entry(5, 12, kOut, 6)));
  CHECK_FALSE(take(Entry(5, 13, kLearner, 6)));
  // Itself the one that lost.
  CHECK_FALSE(take(Entry(5, 14, kIn, 14)));
  CHECK_FALSE(take(Entry(5, 15, kLearner, 14)));
  // Another device of this server was in sync, not this one; and not this one any more.
  CHECK(take(Entry(5, 16, kLearner, 14, 71)));
  CHECK(take(Entry(5, 17, kLearner, 14, 70)));
}

TEST_CASE(
    "A replay window outlives its streams, is shared by renewals, and is never dropped early") {
  ReplayWindows windows(2);
  const auto first = windows.Get(1, 1'000, 0);
  CHECK(first->Use(5) == token::Refusal::kNone);
  CHECK(windows.Get(1, 2'000, 0)->Use(5) == token::Refusal::kReplayed);  // renewed until 2,000
  REQUIRE(windows.Get(2, 1'000, 0) != nullptr);
  CHECK(windows.Get(3, 1'000, 500) == nullptr);    // full of live ones
  CHECK(windows.Get(3, 9'000, 1'500) != nullptr);  // grant 2 has run out, the renewed 1 has not
  CHECK(windows.Get(1, 2'000, 1'500)->Use(5) == token::Refusal::kReplayed);
}

TEST_CASE("For some heartbeats after an outage, grants are judged as during it") {
  constexpr uint64_t kInterval = 1'000;
  ManualClock clock;
  MdmClock mdm_clock(&clock);
  mdm_clock.SetHeartbeatInterval(kInterval);
  const auto beat = [&](uint64_t after_ms) {
    clock.AdvanceMillis(after_ms);
    mdm_clock.OnAnswer(5'000'000, clock.BootNanos(), clock.BootNanos());
  };
  beat(0);
  CHECK(mdm_clock.Now().mdm_reachable);
  for (int i = 0; i < 5; ++i) beat(kInterval);
  CHECK(mdm_clock.Now().mdm_reachable);
  beat(MdmClock::kMissedHeartbeats * kInterval);
  CHECK(mdm_clock.Now().mdm_reachable);  // late, but no outage
  clock.AdvanceMillis(MdmClock::kMissedHeartbeats * kInterval + 1);
  CHECK_FALSE(mdm_clock.reachable());
  CHECK_FALSE(mdm_clock.Now().mdm_reachable);
  beat(200'000);
  for (uint64_t i = 0; i < MdmClock::kReturnHeartbeats; ++i) {
    CHECK(mdm_clock.reachable());
    CHECK_FALSE(mdm_clock.Now().mdm_reachable);
    beat(kInterval);
  }
  CHECK(mdm_clock.Now().mdm_reachable);
}

TEST_CASE("Shown grants are bounded, and follow the keys") {
  KeyStore keys;
  google::protobuf::RepeatedPtrField<v1::SdsKey> list;
  v1::SdsKey* key = list.Add();
  key->set_key_id(1);
  key->set_key(std::string(token::kKeyBytes, 'k'));
  keys.Replace(list);
  ShownGrants grants;
  token::Grant grant{.grant_id = 1,
                     .key_id = 1,
                     .volume_id = 1,
                     .vtree_id = 1,
                     .pool_id = 1,
                     .volume_size_bytes = 1u << 20,
                     .chunk_bytes = 256u << 10,
                     .generation = 1,
                     .access = token::AccessMode::kReadWrite,
                     .issued_ms = 1,
                     .expiry_ms = 1'000,
                     .outage_expiry_ms = 2'000};
  CHECK_FALSE(grants.Show("no grant", keys, 0));
  REQUIRE(grants.Show(token::EncodeGrant(grant), keys, 0));
  CHECK(grants.Find(1, keys)->key_known);
  CHECK(grants.Find(2, keys) == nullptr);
  keys.Replace({});
  CHECK_FALSE(grants.Find(1, keys)->key_known);
  for (uint64_t id = 2; id <= ShownGrants::kLimit; ++id) {
    grant.grant_id = id;
    REQUIRE(grants.Show(token::EncodeGrant(grant), keys, 0));
  }
  grant.grant_id = 100'000;
  CHECK_FALSE(grants.Show(token::EncodeGrant(grant), keys, 2'000));
  CHECK(grants.Show(token::EncodeGrant(grant), keys, 2'001));
}

TEST_CASE(
    "An ack report is repeated unchanged until it is confirmed, and nothing is lost or doubled") {
  TokenAckBook book(3, 1'000);
  CHECK_FALSE(book.NextReport(3'500).has_value());
  book.Add(1, {.reads = 2, .read_bytes = 100});
  book.Add(1, {.writes = 1, .write_bytes = 50});
  const auto report = book.NextReport(4'200);
  REQUIRE(report.has_value());
  CHECK(report->incarnation() == 3);
  // Nothing had been done when it was asked before.
  CHECK(report->covered_ms() == 700);
  REQUIRE(report->acks_size() == 1);
  CHECK(report->acks(0).reads() == 2);
  CHECK(report->acks(0).writes() == 1);
  book.Add(1, {.errors = 1});
  CHECK(book.NextReport(3'500)->SerializeAsString() == report->SerializeAsString());
  book.Confirm(report->report_sequence() + 1);
  CHECK(book.NextReport(3'500)->report_sequence() == report->report_sequence());
  book.Confirm(report->report_sequence());
  const auto second = book.NextReport(4'700);
  REQUIRE(second.has_value());
  CHECK(second->report_sequence() == report->report_sequence() + 1);
  CHECK(second->covered_ms() == 500);
  CHECK(second->acks(0).reads() == 0);
  CHECK(second->acks(0).errors() == 1);
  book.Confirm(second->report_sequence());
  CHECK_FALSE(book.NextReport(3'500).has_value());
}

TEST_CASE("The ack book is bounded, and a report too") {
  TokenAckBook book(1, 1'000);
  for (uint64_t id = 1; id <= TokenAckBook::kGrantLimit + 5; ++id) book.Add(id, {.reads = 1});
  CHECK(book.overflowed() == 5);
  const auto report = book.NextReport(3'500);
  REQUIRE(report.has_value());
  CHECK(static_cast<size_t>(report->acks_size()) == TokenAckBook::kAcksPerReport);
}

TEST_CASE("What sds_local.db was told is there in the next life, and incarnations only grow") {
  const TestFolder folder;
  const std::string path = folder.path() + "/sds_local.db";
  std::string uuid;
  {
    auto state = LocalState::Open(path);
    REQUIRE(state.ok());
    uuid = (*state)->node().node_uuid;
    CHECK((*state)->node().incarnation == 1);
    REQUIRE((*state)->SaveRegistration(7, "secret", "cluster").ok());
    const std::vector<VolumeGeneration> raised{{1, 5}, {1, 3}};
    REQUIRE((*state)->SaveGenerations(raised).ok());
    const std::vector<PlacementRecord> entries{{Entry(5, 3, v1::REPLICA_ROLE_IN_SYNC), 3, 70}};
    REQUIRE((*state)->SavePlacementGroups(entries).ok());
    const std::vector<PlacementRecord> older{{Entry(5, 2, v1::REPLICA_ROLE_LEARNER), 1, 71}};
    REQUIRE((*state)->SavePlacementGroups(older).ok());
    const std::vector<uint64_t> vtrees{11, 12, 11};
    REQUIRE((*state)->SaveDeletedVtrees(vtrees).ok());
    REQUIRE((*state)->SaveDevice({.device_uuid = "u", .path = "/d", .device_id = 70}).ok());
  }
  auto state = LocalState::Open(path);
  REQUIRE(state.ok());
  CHECK((*state)->node().node_uuid == uuid);
  CHECK((*state)->node().incarnation == 2);
  CHECK((*state)->node().sds_id == 7);
  CHECK((*state)->node().node_secret == "secret");
  CHECK(*(*state)->Generations() == std::vector<std::pair<uint64_t, uint64_t>>{{1, 5}});
  const auto entries = (*state)->PlacementGroups();
  REQUIRE(entries->size() == 1);
  CHECK((*entries)[0].in_sync_epoch == 3);
  CHECK((*entries)[0].in_sync_device_id == 70);
  CHECK((*entries)[0].entry.placement_group() ==
        Entry(5, 3, v1::REPLICA_ROLE_IN_SYNC).placement_group());
  CHECK(*(*state)->DeletedVtrees() == std::vector<uint64_t>{11, 12});
  CHECK((*state)->Devices()->size() == 1);
  REQUIRE((*state)->ForgetPlacementGroup(5).ok());
  CHECK((*state)->PlacementGroups()->empty());
  PlacementRecord garbage;
  garbage.entry.set_placement_group("\xff\xff");
  CHECK(absl::IsInvalidArgument((*state)->SavePlacementGroups(std::span(&garbage, 1))));
}

TEST_CASE("The health log pages in order and keeps only the newest") {
  const TestFolder folder;
  auto state = LocalState::Open(folder.path() + "/sds_local.db");
  REQUIRE(state.ok());
  for (int i = 0; i < 5; ++i) {
    v1::Event event;
    event.set_code("code");
    event.set_message(std::to_string(i));
    REQUIRE((*state)->AppendHealthEvent(event).ok());
  }
  const auto page = (*state)->HealthEvents(2, 2);
  REQUIRE(page.ok());
  REQUIRE(page->size() == 2);
  CHECK((*page)[0].event_id() == 3);
  CHECK((*page)[0].message() == "2");
}

TEST_CASE("A new device takes the place of one that is gone, and two may change places") {
  const TestFolder folder;
  auto state = LocalState::Open(folder.path() + "/sds_local.db");
  REQUIRE(state.ok());
  REQUIRE((*state)->SaveDevice({.device_uuid = "a", .path = "/one", .device_id = 1}).ok());
  REQUIRE((*state)->SaveDevice({.device_uuid = "b", .path = "/two", .device_id = 2}).ok());
  const auto path_of = [&](const std::string& uuid) {
    const auto devices = (*state)->Devices();
    REQUIRE(devices.ok());
    for (const DeviceRecord& record : *devices) {
      if (record.device_uuid == uuid) return record.path;
    }
    return std::string();
  };
  REQUIRE((*state)->SaveDevice({.device_uuid = "new", .path = "/one"}).ok());
  CHECK(path_of("new") == "/one");
  CHECK(path_of("a") == "a");
  REQUIRE((*state)->SaveDevice({.device_uuid = "b", .path = "/one", .device_id = 2}).ok());
  REQUIRE((*state)->SaveDevice({.device_uuid = "a", .path = "/two", .device_id = 1}).ok());
  CHECK(path_of("b") == "/one");
  CHECK(path_of("a") == "/two");
  CHECK((*state)->Devices()->size() == 3);
}

}  // namespace
}  // namespace tessera::sds
