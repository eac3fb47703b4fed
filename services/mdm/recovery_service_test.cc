// Records on the map's stream, and the whole way from lost database to a serving MDM, over real
// gRPC with servers that keep what they are sent.
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <map>
#include <sstream>

#include "libtoken/token.h"
#include "services/common/auth.h"
#include "services/common/errors.h"
#include "services/common/node.h"
#include "services/common/sqlite_db.h"
#include "services/mdm/cluster_record_table.h"
#include "services/mdm/layer_paths.h"
#include "services/mdm/mdm_fixture.h"
#include "services/mdm/mdm_schema.h"
#include "services/mdm/recovery_command.h"
#include "services/mdm/recovery_writer.h"
#include "tessera/v1/schedule.grpc.pb.h"

namespace tessera::mdm {
namespace {

using RecordKey = std::pair<v1::ClusterRecordKind, uint64_t>;

// Tells what a server keeps, on a port of its own.
class CopyServer final : public v1::SdsControlService::Service {
 public:
  CopyServer() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address = "127.0.0.1:" + std::to_string(port);
  }
  ~CopyServer() override { server_->Shutdown(std::chrono::system_clock::now()); }

  v1::ReadClusterCopyResponse copy;
  std::string secret;
  std::string address;

 private:
  grpc::Status GetServerIdentity(grpc::ServerContext*, const v1::GetServerIdentityRequest*,
                                 v1::GetServerIdentityResponse* response) override {
    *response->mutable_identity() = copy.identity();
    return grpc::Status::OK;
  }
  grpc::Status ReadClusterCopy(grpc::ServerContext* context, const v1::ReadClusterCopyRequest*,
                               grpc::ServerWriter<v1::ReadClusterCopyResponse>* writer) override {
    token::Key key{};
    const auto bytes = FromHex(secret);
    std::copy(bytes->begin(), bytes->end(), key.begin());
    const token::Key proof =
        token::SignMessage(key, "control", std::to_string(copy.identity().sds_id()));
    const std::string wanted = FormatBearer(
        {"mdm", 0, ToHex({reinterpret_cast<const char*>(proof.data()), proof.size()})});
    const auto shown = context->client_metadata().find("authorization");
    if (shown == context->client_metadata().end() || shown->second != wanted) {
      return {grpc::StatusCode::UNAUTHENTICATED, "not the MDM"};
    }
    writer->Write(copy);
    return grpc::Status::OK;
  }
  std::unique_ptr<grpc::Server> server_;
};

struct RecoveryFixture : MdmFixture {
  RecoveryFixture() {
    MakePool({&a, &b}, 2);
    REQUIRE(Register(&client).ok());
  }

  // Watches as the server until the records are there, and calls `take` for each message.
  void Watch(const FakeSds& sds, uint64_t after_revision,
             const std::function<void(const v1::WatchPlacementGroupsResponse&)>& take) {
    grpc::ClientContext context;
    Prepare(&context, "sds", sds.sds_id, sds.secret);
    auto stub = Stub<v1::PlacementService>();
    v1::WatchPlacementGroupsRequest request;
    request.set_with_records(true);
    request.set_records_after_revision(after_revision);
    auto stream = stub->WatchPlacementGroups(&context, request);
    v1::WatchPlacementGroupsResponse message;
    while (stream->Read(&message)) {
      take(message);
      if (message.has_records() && !message.records().more()) break;
    }
    context.TryCancel();
    (void)stream->Finish();
  }

  v1::ClusterRecords Records(const FakeSds& sds, uint64_t after_revision) {
    v1::ClusterRecords all;
    Watch(sds, after_revision, [&](const v1::WatchPlacementGroupsResponse& message) {
      if (message.has_records()) all.MergeFrom(message.records());
    });
    return all;
  }

  // What the server would tell now.
  void Keep(const FakeSds& sds, CopyServer* server) {
    server->secret = sds.secret;
    v1::ReadClusterCopyResponse& copy = server->copy;
    copy.Clear();
    v1::ServerIdentity* identity = copy.mutable_identity();
    identity->set_node_uuid(sds.uuid);
    identity->set_name(sds.name);
    identity->set_sds_id(sds.sds_id);
    identity->set_incarnation(sds.incarnation);
    identity->mutable_endpoints()->set_control(sds.address());
    identity->set_mdm_time_ms(clock.WallMillis());
    Watch(sds, 0, [&](const v1::WatchPlacementGroupsResponse& message) {
      copy.mutable_placement_groups()->MergeFrom(message.placement_groups());
      copy.mutable_pools()->MergeFrom(message.pools());
      copy.mutable_records()->MergeFrom(message.records().records());
      copy.set_records_revision(message.records().revision());
    });
    for (const v1::SealedRecord& sealed : copy.records()) {
      v1::ClusterRecord record;
      REQUIRE(record.ParseFromString(sealed.record()));
      if (record.has_cluster()) identity->set_cluster_uuid(record.cluster().cluster_uuid());
    }
    v1::LocalDevice* device = copy.add_devices();
    device->set_device_id(sds.device_id);
    device->set_pool_id(copy.pools(0).pool_id());
    device->mutable_description()->set_device_uuid(sds.device_uuid);
    device->mutable_description()->set_store_incarnation(1);
    device->mutable_description()->set_capacity_bytes(sds.capacity_bytes);
    copy.set_complete(true);
  }

  void LoseDatabase() {
    StopMdm();
    for (const char* suffix : {"", "-wal", "-shm"}) unlink((folder + "/mdm.db" + suffix).c_str());
  }

  absl::Status Rebuild(const std::vector<std::string>& addresses) {
    recovery.addresses = addresses;
    recovery.state_folder = folder;
    recovery.security.insecure = true;
    printed.str("");
    return RunRecovery(recovery, clock, printed);
  }
  bool DatabaseExists() const { return access((folder + "/mdm.db").c_str(), F_OK) == 0; }

  FakeSds a{"sds-a"};
  FakeSds b{"sds-b"};
  FakeSdc client{"client"};
  CopyServer copy_a;
  CopyServer copy_b;
  RecoveryOptions recovery;
  std::ostringstream printed;
};

std::map<RecordKey, v1::ClusterRecord> Parsed(const v1::ClusterRecords& records) {
  std::map<RecordKey, v1::ClusterRecord> parsed;
  for (const v1::SealedRecord& sealed : records.records()) {
    v1::ClusterRecord& record = parsed[{sealed.kind(), sealed.object_id()}];
    REQUIRE(record.ParseFromString(sealed.record()));
    CHECK(sealed.seal().size() == 32);
    CHECK(sealed.gone() == (record.content_case() == v1::ClusterRecord::CONTENT_NOT_SET));
  }
  return parsed;
}

TEST_CASE_METHOD(RecoveryFixture, "a server gets records of everything, then of what changed") {
  const v1::Volume volume = MakeVolume("one");
  const v1::ClusterRecords all = Records(a, 0);
  CHECK(all.snapshot());
  auto records = Parsed(all);
  CHECK(records.at({v1::CLUSTER_RECORD_KIND_SDS, a.sds_id}).sds().name() == "sds-a");
  CHECK(records.at({v1::CLUSTER_RECORD_KIND_SDC, client.sdc_id}).sdc().name() == "client");
  CHECK(records.at({v1::CLUSTER_RECORD_KIND_DEVICE, b.device_id}).device().pool_id() ==
        volume.pool_id());
  CHECK(records.at({v1::CLUSTER_RECORD_KIND_POOL, volume.pool_id()}).pool().name() == "pool");
  const auto& cluster = records.at({v1::CLUSTER_RECORD_KIND_CLUSTER, 1}).cluster();
  CHECK_FALSE(cluster.cluster_uuid().empty());
  CHECK(cluster.outage_lifetime_ms() == options.outage_lifetime_ms);
  CHECK(cluster.highest_ids().at("volume") == volume.volume_id());
  const auto& recorded = records.at({v1::CLUSTER_RECORD_KIND_VOLUME, volume.volume_id()}).volume();
  CHECK(recorded.volume().name() == "one");
  CHECK(recorded.mappings_size() == 0);

  REQUIRE(Map(volume, client).ok());
  const v1::ClusterRecords changes = Records(a, all.revision());
  CHECK_FALSE(changes.snapshot());
  CHECK(changes.revision() > all.revision());
  records = Parsed(changes);
  REQUIRE(records.size() == 1);
  CHECK(records.begin()->second.volume().mappings(0).sdc_id() == client.sdc_id);
}

TEST_CASE_METHOD(RecoveryFixture,
                 "a deleted volume's record goes, and a lost replica changes none") {
  const v1::Volume volume = MakeVolume("one");
  const uint64_t revision = Records(a, 0).revision();
  const v1::PlacementGroup group = Groups()[0];
  v1::PlacementGroup entry;
  REQUIRE(Report(client, group.placement_group_id(), group.epoch(), b.device_id, &entry).ok());
  v1::DeleteVolumeRequest request;
  request.set_volume_id(volume.volume_id());
  v1::DeleteVolumeResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  REQUIRE(Stub<v1::VolumeService>()->DeleteVolume(&context, request, &response).ok());
  const auto records = Parsed(Records(a, revision));
  REQUIRE(records.size() == 1);
  CHECK(records.begin()->first == RecordKey{v1::CLUSTER_RECORD_KIND_VOLUME, volume.volume_id()});
  CHECK(records.begin()->second.content_case() == v1::ClusterRecord::CONTENT_NOT_SET);
}

TEST_CASE_METHOD(RecoveryFixture,
                 "a server with later records than the database gets the whole set") {
  const uint64_t revision = Records(a, 0).revision();
  const v1::ClusterRecords set = Records(a, revision + 5);
  CHECK(set.snapshot());
  CHECK(set.revision() == revision);
}

TEST_CASE_METHOD(RecoveryFixture, "a lost database is made anew, and everything goes on under it") {
  const v1::Volume volume = MakeVolume("kept");
  const v1::Volume deleted = MakeVolume("deleted");
  {
    v1::MapVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_sdc_id(client.sdc_id);
    request.set_iops_limit(300);
    request.set_bandwidth_limit_bytes(4 << 20);
    request.set_burst_seconds(5);
    v1::MapVolumeResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::VolumeService>()->MapVolume(&context, request, &response).ok());
  }
  v1::IssuedGrant grant;
  REQUIRE(Acquire(volume, client, &grant).ok());
  {
    v1::DeleteVolumeRequest request;
    request.set_volume_id(deleted.volume_id());
    v1::DeleteVolumeResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::VolumeService>()->DeleteVolume(&context, request, &response).ok());
  }
  const v1::Volume trashed = MakeVolume("trashed");
  {
    v1::UpdateVolumeRequest label;
    label.set_volume_id(trashed.volume_id());
    (*label.mutable_volume()->mutable_labels())["tier"] = "gold";
    label.mutable_update_mask()->add_paths("labels");
    label.mutable_volume()->set_iops_limit(700);
    label.mutable_volume()->set_bandwidth_limit_bytes(8 << 20);
    label.mutable_volume()->set_burst_seconds(9);
    label.mutable_volume()->set_byte_budget(5 << 20);
    for (const char* field :
         {"iops_limit", "bandwidth_limit_bytes", "burst_seconds", "byte_budget"}) {
      label.mutable_update_mask()->add_paths(field);
    }
    v1::UpdateVolumeResponse labelled;
    grpc::ClientContext labelling;
    Prepare(&labelling);
    REQUIRE(Stub<v1::VolumeService>()->UpdateVolume(&labelling, label, &labelled).ok());
    v1::DeleteVolumeRequest request;
    request.set_volume_id(trashed.volume_id());
    request.set_keep_ms(86'400'000);
    v1::DeleteVolumeResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::VolumeService>()->DeleteVolume(&context, request, &response).ok());
  }
  {
    v1::UpdateStoragePoolRequest request;
    request.set_name("pool");
    request.mutable_capacity_policy()->set_warn_percent(33);
    request.mutable_capacity_policy()->set_overcommit_limit_percent(250);
    request.mutable_update_mask()->add_paths("capacity_policy.warn_percent");
    request.mutable_update_mask()->add_paths("capacity_policy.overcommit_limit_percent");
    v1::UpdateStoragePoolResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::TopologyService>()->UpdateStoragePool(&context, request, &response).ok());
  }
  const uint64_t trashed_until = GetVolume(trashed.volume_id()).trashed_until_ms();
  const std::vector<v1::PlacementGroup> groups = Groups();
  Keep(a, &copy_a);
  Keep(b, &copy_b);
  copy_b.copy.add_generations()->set_volume_id(volume.volume_id());
  copy_b.copy.mutable_generations(0)->set_generation(GetVolume(volume.volume_id()).generation());
  const uint64_t generation = GetVolume(volume.volume_id()).generation();
  LoseDatabase();
  recovery.check_only = true;
  REQUIRE(Rebuild({copy_a.address, copy_b.address}).ok());
  CHECK_FALSE(DatabaseExists());
  CHECK(printed.str().find("kept") != std::string::npos);
  recovery.check_only = false;
  REQUIRE(Rebuild({copy_a.address, copy_b.address}).ok());
  REQUIRE(DatabaseExists());
  struct stat info {};
  REQUIRE(stat((folder + "/mdm.db").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);

  StartMdm();
  const v1::Volume back = GetVolume(volume.volume_id());
  CHECK(back.name() == "kept");
  CHECK(back.vtree_id() == volume.vtree_id());
  CHECK(back.size_bytes() == volume.size_bytes());
  REQUIRE(back.mappings_size() == 1);
  CHECK(back.mappings(0).sdc_id() == client.sdc_id);
  CHECK(back.generation() > generation + 100'000);
  const v1::Volume in_trash = GetVolume(trashed.volume_id());
  CHECK(in_trash.name() == "trashed");
  CHECK(in_trash.trashed_until_ms() == trashed_until);
  CHECK(in_trash.labels().at("tier") == "gold");
  CHECK(in_trash.iops_limit() == 700);
  CHECK(in_trash.bandwidth_limit_bytes() == 8 << 20);
  CHECK(in_trash.burst_seconds() == 9);
  CHECK(in_trash.byte_budget() == 5 << 20);
  CHECK(back.byte_budget() == 0);
  {
    v1::GetStoragePoolRequest request;
    request.set_name("pool");
    v1::GetStoragePoolResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::TopologyService>()->GetStoragePool(&context, request, &response).ok());
    CHECK(response.pool().capacity_policy().warn_percent() == 33);
    CHECK(response.pool().capacity_policy().critical_percent() == 90);
    CHECK(response.pool().capacity_policy().overcommit_limit_percent() == 250);
  }
  CHECK(back.burst_seconds() == 1);
  CHECK(back.mappings(0).iops_limit() == 300);
  CHECK(back.mappings(0).bandwidth_limit_bytes() == 4 << 20);
  CHECK(back.mappings(0).burst_seconds() == 5);
  const std::vector<v1::PlacementGroup> raised = Groups();
  REQUIRE(raised.size() == groups.size());
  for (size_t i = 0; i < groups.size(); ++i) {
    CHECK(raised[i].epoch() > groups[i].epoch() + 100'000);
    CHECK(raised[i].replicas_size() == groups[i].replicas_size());
    for (const v1::Replica& replica : raised[i].replicas()) {
      CHECK(replica.role() == v1::REPLICA_ROLE_IN_SYNC);
    }
  }
  // Identities and secrets hold; the old grant does not, which says nothing against the mapping.
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  v1::RenewGrantRequest renew;
  renew.set_token_id(token::DecodeGrant(grant.grant())->grant_id);
  v1::RenewGrantResponse renewed;
  grpc::ClientContext context;
  Prepare(&context, "sdc", client.sdc_id, client.secret);
  const grpc::Status refused = Stub<v1::TokenService>()->RenewGrant(&context, renew, &renewed);
  CHECK(refused.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  CHECK(ReasonOf(FromGrpcStatus(refused)) == "GRANT_UNKNOWN");
  v1::IssuedGrant fresh;
  REQUIRE(Acquire(volume, client, &fresh).ok());
  CHECK(token::DecodeGrant(fresh.grant())->grant_id > renew.token_id());
  CHECK(fresh.mapping_id() == grant.mapping_id());  // its client need not drop anything
  CHECK(a.GenerationOf(volume.volume_id()) > generation);
  // Ids of the past are not used again, the deleted volume's neither.
  const v1::Volume next = MakeVolume("next");
  CHECK(next.volume_id() > deleted.volume_id());
  CHECK(next.vtree_id() > deleted.vtree_id());
  v1::ListEventsRequest list;
  v1::ListEventsResponse events;
  grpc::ClientContext listing;
  Prepare(&listing);
  REQUIRE(Stub<v1::HealthService>()->ListEvents(&listing, list, &events).ok());
  REQUIRE(events.events_size() > 0);
  CHECK(events.events(0).code() == "mdm_rebuilt");
  // Servers get all records anew, under a later revision.
  const v1::ClusterRecords records = Records(a, copy_a.copy.records_revision());
  CHECK(records.snapshot());
  CHECK(records.revision() > copy_a.copy.records_revision());
}

TEST_CASE_METHOD(RecoveryFixture, "schedules are made anew, and go on with their next time") {
  using Schedules = v1::SnapshotScheduleService::Stub;
  const auto ask = [this](auto method, const auto& request, auto* response) {
    grpc::ClientContext context;
    Prepare(&context);
    const grpc::Status status =
        (*Stub<v1::SnapshotScheduleService>().*method)(&context, request, response);
    INFO(status.error_message());
    REQUIRE(status.ok());
  };
  const v1::Volume volume = MakeVolume("v");
  {
    v1::UpdateVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.mutable_volume()->set_expires_ms(clock.WallMillis() + 86'400'000);
    request.mutable_update_mask()->add_paths("expires_ms");
    v1::UpdateVolumeResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::VolumeService>()->UpdateVolume(&context, request, &response).ok());
  }
  const uint64_t expires_ms = GetVolume(volume.volume_id()).expires_ms();
  for (const char* name : {"kept", "gone"}) {
    v1::CreateSnapshotScheduleRequest request;
    v1::SnapshotSchedule* schedule = request.mutable_schedule();
    schedule->set_name(name);
    schedule->add_volume_ids(volume.volume_id());
    schedule->set_volume_label("tier=gold");
    schedule->set_interval_seconds(3'600);
    schedule->mutable_retention()->set_keep_weekly(5);
    schedule->set_consistent(true);
    v1::CreateSnapshotScheduleResponse response;
    ask(&Schedules::CreateSnapshotSchedule, request, &response);
  }
  const uint64_t revision = Records(a, 0).revision();
  v1::DeleteSnapshotScheduleRequest remove;
  remove.set_name("gone");
  v1::DeleteSnapshotScheduleResponse removed;
  ask(&Schedules::DeleteSnapshotSchedule, remove, &removed);
  const auto changes = Parsed(Records(a, revision));
  REQUIRE(changes.size() == 1);
  CHECK(changes.begin()->first == RecordKey{v1::CLUSTER_RECORD_KIND_SNAPSHOT_SCHEDULE, 2});
  Keep(a, &copy_a);
  Keep(b, &copy_b);
  LoseDatabase();
  REQUIRE(Rebuild({copy_a.address, copy_b.address}).ok());
  StartMdm();
  CHECK(GetVolume(volume.volume_id()).expires_ms() == expires_ms);
  v1::ListSnapshotSchedulesRequest list;
  v1::ListSnapshotSchedulesResponse listed;
  ask(&Schedules::ListSnapshotSchedules, list, &listed);
  REQUIRE(listed.schedules_size() == 1);
  const v1::SnapshotSchedule& kept = listed.schedules(0);
  CHECK(kept.schedule_id() == 1);
  CHECK(kept.name() == "kept");
  CHECK(kept.volume_ids(0) == volume.volume_id());
  CHECK(kept.volume_label() == "tier=gold");
  CHECK(kept.interval_seconds() == 3'600);
  CHECK(kept.retention().keep_weekly() == 5);
  CHECK(kept.consistent());
  CHECK(kept.last_run_ms() == 0);
  CHECK(kept.next_run_ms() > clock.WallMillis());
  // The deleted one's snapshots, should there be any, are nobody's.
  v1::CreateSnapshotScheduleRequest next;
  *next.mutable_schedule() = kept;
  next.mutable_schedule()->set_name("next");
  v1::CreateSnapshotScheduleResponse made;
  ask(&Schedules::CreateSnapshotSchedule, next, &made);
  CHECK(made.schedule().schedule_id() > 2);
}

TEST_CASE_METHOD(RecoveryFixture, "snapshots, clones and branches are made anew, too") {
  const auto ask = [this](auto method, const auto& request, auto* response) {
    grpc::ClientContext context;
    Prepare(&context);
    const grpc::Status status = (*Stub<v1::VolumeService>().*method)(&context, request, response);
    INFO(status.error_message());
    REQUIRE(status.ok());
  };
  using Volumes = v1::VolumeService::Stub;
  const v1::Volume volume = MakeVolume("v");
  const auto snap = [&](const std::string& name) {
    v1::CreateSnapshotsRequest request;
    request.add_sources()->set_volume_id(volume.volume_id());
    request.mutable_sources(0)->set_snapshot_name(name);
    request.set_locked_until_ms(name == "s1" ? clock.WallMillis() + 60'000 : 0);
    v1::CreateSnapshotsResponse response;
    ask(&Volumes::CreateSnapshots, request, &response);
    return response.snapshots(0);
  };
  const auto clone = [&](const v1::Volume& snapshot, const std::string& name) {
    v1::CloneVolumeRequest request;
    request.set_snapshot_id(snapshot.volume_id());
    request.set_name(name);
    v1::CloneVolumeResponse response;
    ask(&Volumes::CloneVolume, request, &response);
    return response.volume();
  };
  const v1::Volume s1 = snap("s1");
  const v1::Volume s2 = snap("s2");
  const v1::Volume kept = clone(s1, "kept");
  const v1::Volume gone = clone(s1, "gone");
  {
    v1::DeleteVolumeRequest request;
    request.set_volume_id(gone.volume_id());
    v1::DeleteVolumeResponse response;
    ask(&Volumes::DeleteVolume, request, &response);
  }
  REQUIRE(Await([&] { return a.catalogs().size() == 1 && b.catalogs().size() == 1; }));
  Keep(a, &copy_a);
  Keep(b, &copy_b);
  // Later than the records.
  v1::VtreeExtent* extent = copy_a.copy.add_vtrees();
  extent->set_vtree_id(volume.vtree_id());
  extent->set_pool_id(volume.pool_id());
  extent->add_layers()->set_ordinal_max(4);
  LoseDatabase();
  REQUIRE(Rebuild({copy_a.address, copy_b.address}).ok());
  StartMdm();
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  const v1::Volume snapshot = GetVolume(s1.volume_id());
  CHECK(snapshot.kind() == v1::VOLUME_KIND_SNAPSHOT);
  CHECK(snapshot.parent_id() == volume.volume_id());
  CHECK(snapshot.locked_until_ms() == s1.locked_until_ms());
  CHECK(snapshot.vtree_id() == volume.vtree_id());
  CHECK(GetVolume(kept.volume_id()).parent_id() == s1.volume_id());
  CHECK(GetVolume(volume.volume_id()).snapshot_sequence() == 4);
  CHECK(GetVolume(s2.volume_id()).snapshot_sequence() == 1);
  // All servers look for what was not dropped; the branch of the clone that is gone is known.
  REQUIRE(Await([&] { return a.catalogs().size() == 2 && b.catalogs().size() == 2; }));
  const v1::VtreeCatalog catalog = a.catalogs().back();
  CHECK(catalog.paths_size() == 4);
  REQUIRE(catalog.heads_size() == 3);
  CHECK(catalog.heads(0).ordinal_max() == 4);
  CHECK(catalog.heads(2).branch() == BranchOf(gone.snapshot_sequence()));
  const v1::Volume next = clone(s2, "next");
  CHECK(next.snapshot_sequence() == MakeLayer(3, 0));
  REQUIRE(Map(s1, client, v1::MAPPING_MODE_READ_ONLY).ok());
  v1::IssuedGrant grant;
  REQUIRE(Acquire(s1, client, &grant).ok());
  CHECK(token::DecodeGrant(grant.grant())->path == LayerPath{{.branch = 0, .ordinal_max = 0}});
  CHECK(snap("s3").snapshot_sequence() == 4);
}

TEST_CASE_METHOD(RecoveryFixture, "an unknown older grant is waited for where a server is silent") {
  const v1::Volume volume = MakeVolume("kept");
  REQUIRE(Map(volume, client).ok());
  Keep(a, &copy_a);
  Keep(b, &copy_b);
  LoseDatabase();
  REQUIRE(Rebuild({copy_a.address, copy_b.address}).ok());
  StartMdm();
  REQUIRE(Beat(&a).ok());
  // Server b takes the old grant until it runs out; it is the last that has the replica of some
  // group.
  for (const v1::PlacementGroup& group : Groups()) {
    v1::PlacementGroup entry;
    REQUIRE(Report(client, group.placement_group_id(), group.epoch(), a.device_id, &entry).ok());
  }
  b.Stop();
  v1::IssuedGrant grant;
  CHECK_FALSE(Acquire(volume, client, &grant, 2'000).ok());
  clock.AdvanceMillis(options.outage_lifetime_ms + 10'000);
  const grpc::Status acquired = Acquire(volume, client, &grant);
  INFO(acquired.error_message());
  CHECK(acquired.ok());
}

TEST_CASE_METHOD(RecoveryFixture, "what is not genuine is refused, and nothing is changed") {
  (void)MakeVolume("kept");
  Keep(a, &copy_a);
  Keep(b, &copy_b);
  LoseDatabase();
  SECTION("a record that was changed") {
    v1::ClusterRecord record;
    v1::SealedRecord* sealed = copy_a.copy.mutable_records(0);
    REQUIRE(record.ParseFromString(sealed->record()));
    record.set_revision(record.revision() + 1);
    sealed->set_record(record.SerializeAsString());
  }
  SECTION("an entry that was changed") {
    v1::PlacementGroup group;
    v1::SignedPlacementGroup* entry = copy_a.copy.mutable_placement_groups(0);
    REQUIRE(group.ParseFromString(entry->placement_group()));
    group.set_epoch(group.epoch() + 1);
    entry->set_placement_group(group.SerializeAsString());
  }
  SECTION("an entry that is signed for others only") {
    copy_a.copy.mutable_placement_groups(0)->clear_signatures();
  }
  SECTION("a server that does not know us") { copy_a.secret = std::string(64, '0'); }
  CHECK(absl::IsDataLoss(Rebuild({copy_a.address, copy_b.address})));
  CHECK_FALSE(DatabaseExists());
}

TEST_CASE_METHOD(RecoveryFixture,
                 "a copy that ends early does not count, and servers may be missing") {
  (void)MakeVolume("kept");
  Keep(a, &copy_a);
  Keep(b, &copy_b);
  LoseDatabase();
  copy_b.copy.set_complete(false);
  const absl::Status refused = Rebuild({copy_a.address, copy_b.address});
  CHECK(absl::IsFailedPrecondition(refused));
  CHECK(std::string(refused.message()).find("--accept-missing sds-b") != std::string::npos);
  CHECK_FALSE(DatabaseExists());
  recovery.accepted_missing = {"sds-b"};
  CHECK(Rebuild({copy_a.address, copy_b.address}).ok());
  CHECK(absl::IsUnavailable(Rebuild({"127.0.0.1:1"})) == false);  // mdm.db is there now
}

TEST_CASE_METHOD(RecoveryFixture, "a database that is there is never overwritten") {
  (void)MakeVolume("kept");
  Keep(a, &copy_a);
  Keep(b, &copy_b);
  const std::vector<std::string> addresses{copy_a.address, copy_b.address};
  // The MDM runs.
  CHECK(absl::IsFailedPrecondition(Rebuild(addresses)));
  StopMdm();
  const auto old = ReadFile(folder + "/mdm.db");
  REQUIRE(old.ok());
  CHECK(absl::IsFailedPrecondition(Rebuild(addresses)));
  CHECK(*ReadFile(folder + "/mdm.db") == *old);
  recovery.keep_old = true;
  REQUIRE(Rebuild(addresses).ok());
  CHECK(*ReadFile(folder + "/mdm.db.old-1") == *old);
  // The log of a database that is gone is in the way, too.
  recovery.keep_old = false;
  unlink((folder + "/mdm.db").c_str());
  REQUIRE(WriteFileAtomically(folder + "/mdm.db-wal", "left over", 0600).ok());
  CHECK(absl::IsFailedPrecondition(Rebuild(addresses)));
  recovery.keep_old = true;
  REQUIRE(Rebuild(addresses).ok());
  CHECK(access((folder + "/mdm.db-wal").c_str(), F_OK) != 0);
  StartMdm();
  REQUIRE(unlink((folder + "/secrets.key").c_str()) == 0);
  StopMdm();
  CHECK(absl::IsFailedPrecondition(Rebuild(addresses)));
}

TEST_CASE("records of what is gone are forgotten, and who knows less gets everything") {
  char path[] = "/tmp/tessera-records-XXXXXX";
  REQUIRE(mkdtemp(path) != nullptr);
  const std::string file = std::string(path) + "/mdm.db";
  {
    const auto database = SqliteDb::Open(file, MdmMigrations());
    REQUIRE(database.ok());
    const absl::Status status = (*database)->Transaction([](SQLite::Database& db) {
      const uint64_t before = ReadRecordClock(db).revision;
      CHECK(ReadRecordClock(db).floor == 0);
      for (int i = 0; i < 5; ++i) {
        db.exec("INSERT INTO protection_domain (name, created_ms) VALUES ('d', 0)");
        db.exec("DELETE FROM protection_domain");
      }
      CHECK(ReadRecordsAfter(db, before).size() == 6);  // five gone, and the cluster's
      CHECK(ReadAllRecords(db).size() == 1);
      CHECK(ForgetGoneRecords(db, 2) == 3);
      const RecordClock clock = ReadRecordClock(db);
      CHECK(clock.floor > before);
      CHECK(clock.floor < clock.revision);
      CHECK(ReadRecordsAfter(db, clock.floor).size() == 3);
      CHECK(ForgetGoneRecords(db, 2) == 0);
      RecordOutageLifetime(db, 5'000);
      RecordOutageLifetime(db, 4'000);
      CHECK(ReadAllRecords(db)[0].cluster().outage_lifetime_ms() == 5'000);
      return absl::OkStatus();
    });
    CHECK(status.ok());
  }
  for (const char* suffix : {"", "-wal", "-shm"}) unlink((file + suffix).c_str());
  rmdir(path);
}

}  // namespace
}  // namespace tessera::mdm
