// What a server keeps of the cluster for the MDM, and tells when it has lost its database.
#include <algorithm>
#include <catch2/catch.hpp>
#include <string>

#include "absl/time/clock.h"
#include "services/common/errors.h"
#include "services/sds/record_keeper.h"
#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"
#include "tessera/v1/monitoring.grpc.pb.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kGroup = kTestPool * 65536;

v1::SealedRecord Record(uint64_t id, const std::string& content) {
  v1::SealedRecord record;
  record.set_kind(v1::CLUSTER_RECORD_KIND_VOLUME);
  record.set_object_id(id);
  record.set_record(content);
  record.set_seal("seal");
  return record;
}

v1::SealedRecord Gone(uint64_t id) {
  v1::SealedRecord record = Record(id, "");
  record.set_gone(true);
  return record;
}

v1::ClusterRecords Records(uint64_t revision, std::vector<v1::SealedRecord> records) {
  v1::ClusterRecords part;
  part.set_revision(revision);
  for (v1::SealedRecord& record : records) *part.add_records() = std::move(record);
  return part;
}

v1::ClusterRecords Snapshot(uint64_t revision, std::vector<v1::SealedRecord> records) {
  v1::ClusterRecords part = Records(revision, std::move(records));
  part.set_snapshot(true);
  return part;
}

struct KeeperFixture {
  KeeperFixture() { Open(); }
  void Open() {
    keeper.reset();
    state.reset();
    state = *LocalState::Open(folder.path() + "/sds_local.db");
    keeper = std::make_unique<RecordKeeper>(state.get());
    begun = *keeper->Begin();
  }
  RecordKeeper::Outcome Take(const v1::ClusterRecords& part) {
    const auto outcome = keeper->Take(part);
    REQUIRE(outcome.ok());
    return *outcome;
  }
  // Content by object id.
  std::map<uint64_t, std::string> Kept() {
    std::map<uint64_t, std::string> kept;
    const auto records = state->Records();
    REQUIRE(records.ok());
    for (const v1::SealedRecord& record : *records) kept[record.object_id()] = record.record();
    return kept;
  }
  using Content = std::map<uint64_t, std::string>;
  TestFolder folder;
  std::unique_ptr<LocalState> state;
  std::unique_ptr<RecordKeeper> keeper;
  uint64_t begun = 0;
};

TEST_CASE_METHOD(KeeperFixture, "Records are kept over a restart, and changes come on top") {
  CHECK(begun == 0);
  CHECK(Take(Snapshot(10, {Record(1, "a"), Record(2, "b")})) == RecordKeeper::Outcome::kTaken);
  Open();
  CHECK(begun == 10);
  CHECK(Take(Records(12, {Record(2, "c"), Record(3, "d"), Gone(1)})) ==
        RecordKeeper::Outcome::kTaken);
  CHECK(Kept() == Content{{2, "c"}, {3, "d"}});
  CHECK(*state->RecordsRevision() == 12);
  // A snapshot has everything.
  CHECK(Take(Snapshot(13, {Record(4, "e")})) == RecordKeeper::Outcome::kTaken);
  CHECK(Kept() == Content{{4, "e"}});
}

TEST_CASE_METHOD(KeeperFixture,
                 "A set in several messages counts when it is whole, or not at all") {
  REQUIRE(Take(Snapshot(10, {Record(1, "a")})) == RecordKeeper::Outcome::kTaken);
  v1::ClusterRecords part = Snapshot(20, {Record(2, "b")});
  part.set_more(true);
  CHECK(Take(part) == RecordKeeper::Outcome::kPartial);
  CHECK(Kept() == Content{{1, "a"}});
  // The stream breaks: the next one begins anew.
  CHECK(*keeper->Begin() == 10);
  CHECK(Take(part) == RecordKeeper::Outcome::kPartial);
  CHECK(Take(Snapshot(20, {Record(3, "c")})) == RecordKeeper::Outcome::kTaken);
  CHECK(Kept() == Content{{2, "b"}, {3, "c"}});
  // Parts of different sets are not put together.
  part = Records(21, {Record(5, "x")});
  part.set_more(true);
  CHECK(Take(part) == RecordKeeper::Outcome::kPartial);
  CHECK_FALSE(keeper->Take(Records(22, {Record(6, "y")})).ok());
  CHECK(Kept() == Content{{2, "b"}, {3, "c"}});
}

TEST_CASE_METHOD(KeeperFixture,
                 "Older records change nothing, and what follows them does not either") {
  REQUIRE(Take(Snapshot(10, {Record(1, "a")})) == RecordKeeper::Outcome::kTaken);
  CHECK(Take(Snapshot(7, {Record(2, "old")})) == RecordKeeper::Outcome::kOlder);
  // The other history has got further meanwhile: its changes are not ours.
  CHECK(Take(Records(11, {Record(3, "other")})) == RecordKeeper::Outcome::kOlder);
  CHECK(Kept() == Content{{1, "a"}});
  CHECK(*keeper->Begin() == 0);
  CHECK(Take(Snapshot(12, {Record(4, "new")})) == RecordKeeper::Outcome::kTaken);
  CHECK(Kept() == Content{{4, "new"}});
  CHECK_FALSE(state->SaveRecords(Snapshot(11, {})).ok());
}

struct CopyFixture {
  CopyFixture() : sds(&mdm, "sds-a") {
    v1::PoolLayout layout;
    layout.set_pool_id(kTestPool);
    layout.set_placement_group_count(1);
    layout.set_chunk_bytes(kTestChunkBytes);
    layout.set_min_replicas(1);
    mdm.SetPools({layout});
    mdm.Commit(GroupOf(kGroup, {{&sds, v1::REPLICA_ROLE_IN_SYNC}}));
    REQUIRE(sds.AwaitEpoch(kGroup, 1));
  }
  grpc::Status Read(const std::string& bearer, v1::ReadClusterCopyResponse* copy) {
    copy->Clear();
    grpc::ClientContext context;
    PrepareCall(&context, 10'000, bearer);
    const auto stub = sds.NewControlStub();
    const auto reader = stub->ReadClusterCopy(&context, v1::ReadClusterCopyRequest());
    v1::ReadClusterCopyResponse piece;
    while (reader->Read(&piece)) copy->MergeFrom(piece);
    return reader->Finish();
  }
  // Until the server has the records of that revision; false after 20 s.
  bool AwaitRecords(uint64_t revision) {
    v1::ReadClusterCopyResponse copy;
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (absl::Now() < end) {
      if (!Read(FakeMdm::NodeBearer(sds.id()), &copy).ok()) return false;
      if (copy.records_revision() == revision) return true;
    }
    return false;
  }
  bool HasProblem(const std::string& code) {
    const auto stub = v1::MonitoringService::NewStub(grpc::CreateChannel(
        sds.server()->endpoints().management(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    PrepareCall(&context, 10'000, "");
    v1::GetStatusResponse status;
    REQUIRE(stub->GetStatus(&context, v1::GetStatusRequest(), &status).ok());
    return std::any_of(status.problems().begin(), status.problems().end(),
                       [&](const v1::HealthProblem& problem) { return problem.code() == code; });
  }
  bool AwaitProblem(const std::string& code) {
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (absl::Now() < end) {
      if (HasProblem(code)) return true;
    }
    return false;
  }
  FakeMdm mdm;
  TestSds sds;
};

TEST_CASE_METHOD(CopyFixture,
                 "The copy names the layers of each branch, so that none is used again") {
  TestClient client(&mdm, &sds, NewGrant(mdm, 1, 5));
  REQUIRE(client.Write(kGroup, 3, 0, std::string(4096, 'x')) == v1::IO_STATUS_OK);
  v1::ReadClusterCopyResponse first;
  REQUIRE(Read(FakeMdm::NodeBearer(sds.id()), &first).ok());
  REQUIRE(first.vtrees_size() == 1);
  CHECK(first.vtrees(0).layers_size() == 0);  // the first alone goes without saying

  client.grant.snapshot_sequence = 4;
  client.Show();
  REQUIRE(client.Write(kGroup, 3, 0, std::string(4096, 'y')) == v1::IO_STATUS_OK);
  v1::ReadClusterCopyResponse second;
  REQUIRE(Read(FakeMdm::NodeBearer(sds.id()), &second).ok());
  REQUIRE(second.vtrees_size() == 1);
  CHECK(second.vtrees(0).chunks() == 1);
  REQUIRE(second.vtrees(0).layers_size() == 1);
  CHECK(second.vtrees(0).layers(0).branch() == 0);
  CHECK(second.vtrees(0).layers(0).ordinal_max() == 4);
}

TEST_CASE_METHOD(CopyFixture, "The copy has everything that the server keeps") {
  TestClient client(&mdm, &sds, NewGrant(mdm, 1, 5));
  REQUIRE(client.Write(kGroup, 3, 0, std::string(4096, 'x')) == v1::IO_STATUS_OK);
  REQUIRE(client.Write(kGroup, 9, 0, std::string(4096, 'y')) == v1::IO_STATUS_OK);
  REQUIRE(sds.RaiseGeneration(1, 6).ok());
  mdm.SendRecords(Snapshot(40, {Record(1, "a"), Record(2, "b")}));
  REQUIRE(AwaitRecords(40));

  v1::ReadClusterCopyResponse copy;
  REQUIRE(Read(FakeMdm::NodeBearer(sds.id()), &copy).ok());
  CHECK(copy.complete());
  CHECK(copy.identity().sds_id() == sds.id());
  CHECK(copy.identity().name() == "sds-a");
  CHECK(copy.identity().mdm_time_ms() > 0);
  CHECK(copy.identity().endpoints().control() == sds.server()->endpoints().control());
  REQUIRE(copy.devices_size() == 1);
  CHECK(copy.devices(0).device_id() == sds.device_id());
  CHECK(copy.devices(0).pool_id() == kTestPool);
  REQUIRE(copy.pools_size() == 1);
  REQUIRE(copy.placement_groups_size() == 1);
  CHECK(copy.placement_groups(0).signatures_size() > 0);
  REQUIRE(copy.generations_size() == 1);
  CHECK(copy.generations(0).volume_id() == 1);
  CHECK(copy.generations(0).generation() == 6);
  REQUIRE(copy.vtrees_size() == 1);
  CHECK(copy.vtrees(0).vtree_id() == 11);
  CHECK(copy.vtrees(0).pool_id() == kTestPool);
  CHECK(copy.vtrees(0).chunks() == 2);
  CHECK(copy.vtrees(0).last_chunk_index() == 9);
  CHECK(copy.records_size() == 2);
  CHECK(copy.records_revision() == 40);
}

TEST_CASE_METHOD(CopyFixture,
                 "Only the MDM is told, by a key or by the node's secret; who it is, anybody") {
  v1::ReadClusterCopyResponse copy;
  CHECK(Read("", &copy).error_code() == grpc::StatusCode::PERMISSION_DENIED);
  CHECK(Read("Bearer mdm.0." + std::string(64, '0'), &copy).error_code() ==
        grpc::StatusCode::UNAUTHENTICATED);
  CHECK(Read(FakeMdm::NodeBearer(sds.id() + 1), &copy).error_code() ==
        grpc::StatusCode::UNAUTHENTICATED);
  CHECK(Read(mdm.ControlBearer(1, sds.id()), &copy).ok());
  CHECK(Read(FakeMdm::NodeBearer(sds.id()), &copy).ok());
  grpc::ClientContext context;
  PrepareCall(&context, 10'000, "Bearer mdm.0." + std::string(64, '0'));
  v1::GetServerIdentityResponse response;
  REQUIRE(sds.NewControlStub()
              ->GetServerIdentity(&context, v1::GetServerIdentityRequest(), &response)
              .ok());
  CHECK(response.identity().sds_id() == sds.id());
  CHECK_FALSE(response.identity().cluster_uuid().empty());
}

TEST_CASE_METHOD(CopyFixture, "Records that went back are refused, and the server says so") {
  mdm.SendRecords(Snapshot(40, {Record(1, "a")}));
  REQUIRE(AwaitRecords(40));
  CHECK_FALSE(HasProblem("records_went_back"));
  mdm.SendRecords(Snapshot(30, {Record(2, "old")}));
  CHECK(AwaitProblem("records_went_back"));
  v1::ReadClusterCopyResponse copy;
  REQUIRE(Read(FakeMdm::NodeBearer(sds.id()), &copy).ok());
  CHECK(copy.records_revision() == 40);
  mdm.SendRecords(Snapshot(41, {Record(3, "new")}));
  REQUIRE(AwaitRecords(41));
}

}  // namespace
}  // namespace tessera::sds
