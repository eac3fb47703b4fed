// Clones, rollback, locks and deletion of snapshots, and what servers are asked to drop, over real
// gRPC.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>

#include "services/mdm/snapshot_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

bool HasPath(const v1::VtreeCatalog& catalog, const LayerPath& path) {
  return std::any_of(catalog.paths().begin(), catalog.paths().end(),
                     [&](const v1::LayerPath& seen) { return FromMessage(seen) == path; });
}

TEST_CASE_METHOD(SnapshotFixture, "a clone is a volume of its own in the same vtree",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v", 64 << 20);
  const v1::Volume snapshot = SnapOne(volume, "s");
  v1::Volume clone;
  REQUIRE(Clone(snapshot, "c", &clone, "r1").ok());
  CHECK(clone.kind() == v1::VOLUME_KIND_VOLUME);
  CHECK(clone.parent_id() == snapshot.volume_id());
  CHECK(clone.parent_name() == "s");
  CHECK(clone.vtree_id() == volume.vtree_id());
  CHECK(clone.size_bytes() == volume.size_bytes());
  CHECK(clone.provisioning() == v1::PROVISIONING_THIN);
  CHECK(clone.snapshot_sequence() == MakeLayer(1, 0));
  CHECK(Events("volume_cloned").size() == 1);
  const token::Grant writer = Of(MakeWriter(clone, &client));
  CHECK(writer.snapshot_sequence == MakeLayer(1, 0));
  LayerPath path{{.branch = 1, .ordinal_max = token::kPathHead}, {.branch = 0, .ordinal_max = 0}};
  CHECK(writer.path == path);
  CHECK(Of(MakeWriter(volume, &other)).path.empty());
  // Whoever compares two of them learns what each sees.
  CHECK(FromMessage(GetVolume(clone.volume_id()).path()) == path);
  CHECK(FromMessage(GetVolume(snapshot.volume_id()).path()) ==
        LayerPath{{.branch = 0, .ordinal_max = 0}});
  CHECK(GetVolume(volume.volume_id()).path().parts().empty());
  // Snapshots of the clone, of both at one moment, and a clone of that.
  const v1::Volume second = SnapOne(clone, "cs");
  CHECK(Of(client.snapshot_calls().back().grant).snapshot_sequence == MakeLayer(1, 1));
  CHECK(Of(client.snapshot_calls().back().grant).path == path);
  v1::CreateSnapshotsResponse both;
  REQUIRE(Snap(RequestOf({{clone, "both-c"}, {volume, "both-v"}}), &both).ok());
  CHECK(both.snapshots(0).snapshot_sequence() == MakeLayer(1, 1));
  CHECK(both.snapshots(1).snapshot_sequence() == MakeLayer(0, 1));
  v1::Volume deeper;
  REQUIRE(Clone(second, "cc", &deeper).ok());
  REQUIRE(Map(deeper, client, v1::MAPPING_MODE_READ_ONLY).ok());
  v1::IssuedGrant issued;
  REQUIRE(Acquire(deeper, client, &issued).ok());
  path.front().ordinal_max = 0;
  path.insert(path.begin(), {.branch = 2, .ordinal_max = token::kPathHead});
  CHECK(Of(issued).path == path);
  // Again is the first; what is refused changes nothing.
  v1::Volume again;
  REQUIRE(Clone(snapshot, "c", &again, "r1").ok());
  CHECK(again.volume_id() == clone.volume_id());
  CHECK(Reason(Clone(snapshot, "c", nullptr)) == "NAME_TAKEN");
  CHECK(Reason(Clone(volume, "x", nullptr)) == "NOT_A_SNAPSHOT");
  CHECK(Clone(snapshot, "a/b", nullptr).error_code() == StatusCode::INVALID_ARGUMENT);
  REQUIRE(Clone(snapshot, "third", &again).ok());
  CHECK(again.snapshot_sequence() == MakeLayer(3, 0));
}

TEST_CASE_METHOD(SnapshotFixture, "clones of clones are sixteen deep", "[snapshot]") {
  v1::Volume volume = MakeVolume("v");
  v1::Volume snapshot = SnapOne(volume, "s0");
  for (int depth = 1; depth < 16; ++depth) {
    REQUIRE(Clone(snapshot, "c" + std::to_string(depth), &volume).ok());
    snapshot = SnapOne(volume, "s" + std::to_string(depth));
  }
  CHECK(Reason(Clone(snapshot, "deep", nullptr)) == "TOO_DEEP");
  CHECK(Reason(Rollback(BackTo(volume, snapshot))) == "TOO_DEEP");
}

TEST_CASE_METHOD(SnapshotFixture, "a snapshot can go before its clone, not before who reads it",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume first = SnapOne(volume, "s1");
  const v1::Volume second = SnapOne(volume, "s2");
  v1::Volume clone;
  REQUIRE(Clone(first, "c", &clone).ok());
  REQUIRE(Map(first, client, v1::MAPPING_MODE_READ_ONLY).ok());
  CHECK(Reason(Delete(first)) == "VOLUME_MAPPED");
  CHECK(Reason(Delete(volume)) == "HAS_SNAPSHOTS");
  REQUIRE(Unmap(first).ok());
  const uint64_t generation = GetVolume(first.volume_id()).generation();
  REQUIRE(Delete(first).ok());
  CHECK(a.GenerationOf(first.volume_id()) == generation + 1);
  CHECK(Delete(first).ok());  // it is done
  CHECK(Events("snapshot_deleted").size() == 1);
  CHECK(GetVolume(clone.volume_id()).parent_id() == first.volume_id());
  CHECK(GetVolume(clone.volume_id()).parent_name().empty());
  // Servers are asked to drop what nobody sees, by who sees what now.
  for (FakeSds* sds : {&a, &b}) {
    REQUIRE(Await([&] { return LastCatalog(sds, volume.vtree_id()).paths_size() == 3; }));
    const v1::VtreeCatalog catalog = LastCatalog(sds, volume.vtree_id());
    CHECK(HasPath(catalog, {}));
    CHECK(HasPath(catalog, Part(0, 1)));
    CHECK(HasPath(catalog, {{.branch = 1, .ordinal_max = token::kPathHead},
                            {.branch = 0, .ordinal_max = 0}}));
    REQUIRE(catalog.heads_size() == 2);
    CHECK(catalog.heads(0).ordinal_max() == 2);
    CHECK(catalog.heads(1).branch() == 1);
    CHECK(catalog.heads(1).ordinal_max() == 0);
    CHECK(sds->deleted_vtrees().empty());
  }
  // In the trash it is still there, for its volume, too.
  REQUIRE(Delete(second, 60'000).ok());
  const grpc::Status has = Delete(volume, 60'000);
  CHECK(Reason(has) == "HAS_SNAPSHOTS");
  CHECK(has.error_message().find("1 of them in the trash") != std::string::npos);
  REQUIRE(Delete(second).ok());
  REQUIRE(Delete(volume).ok());
  CHECK(a.deleted_vtrees().empty());
  CHECK(Find(clone.volume_id()) == StatusCode::OK);
  // The last of the vtree takes it along.
  REQUIRE(Delete(clone).ok());
  CHECK(a.AwaitDeletion(volume.vtree_id()));
  CHECK(b.AwaitDeletion(volume.vtree_id()));
}

TEST_CASE_METHOD(SnapshotFixture, "a server is asked until it has dropped all, and when it learned",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  (void)SnapOne(volume, "s1");
  const v1::Volume second = SnapOne(volume, "s2");
  a.AnswerLayerDrops(/*done=*/false);
  REQUIRE(Delete(second).ok());
  REQUIRE(Await([&] { return a.catalogs().size() >= 3 && !b.catalogs().empty(); }));
  CHECK(b.catalogs().size() == 1);
  a.AnswerLayerDrops(/*done=*/true, 5);
  const size_t asked = a.catalogs().size();
  REQUIRE(Await([&] { return a.catalogs().size() > asked; }));
  const size_t last = a.catalogs().size();
  // A replica is made on b from one that may still have had something to drop.
  const v1::PlacementGroup group = Groups()[0];
  v1::PlacementGroup entry;
  REQUIRE(Report(client, group.placement_group_id(), group.epoch(), b.device_id, &entry).ok());
  clock.AdvanceMillis(2'000);
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  REQUIRE(Await([&] { return CountRole(Groups()[0], v1::REPLICA_ROLE_LEARNER) == 1; }));
  v1::CompleteLearningRequest learned;
  learned.set_placement_group_id(group.placement_group_id());
  learned.set_epoch(Groups()[0].epoch());
  learned.set_device_id(b.device_id);
  v1::CompleteLearningResponse response;
  grpc::ClientContext context;
  Prepare(&context, "sds", b.sds_id, b.secret);
  REQUIRE(Stub<v1::PlacementService>()->CompleteLearning(&context, learned, &response).ok());
  CHECK(Await([&] { return b.catalogs().size() == 2; }));
  CHECK(a.catalogs().size() == last);
  // And later, when what the head has written since has put more out of sight.
  clock.AdvanceMillis(7 * 3'600'000ull);
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  CHECK(Await([&] { return a.catalogs().size() > last && b.catalogs().size() > 2; }));
}

TEST_CASE_METHOD(SnapshotFixture, "a lock holds until its time, and is never made shorter",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume earlier = SnapOne(volume, "earlier");
  const v1::Volume snapshot = SnapOne(volume, "s");
  const uint64_t until = clock.WallMillis() + 60'000;
  CHECK(Reason(Lock(volume, until)) == "NOT_A_SNAPSHOT");
  REQUIRE(Lock(snapshot, until).ok());
  CHECK(GetVolume(snapshot.volume_id()).locked_until_ms() == until);
  CHECK(Events("snapshot_locked").size() == 1);
  CHECK(Reason(Lock(snapshot, until - 1)) == "LOCK_BELOW_PRESENT");
  CHECK(Reason(Lock(snapshot, 0)) == "LOCK_BELOW_PRESENT");
  CHECK(Lock(snapshot, until + 20 * 366 * 86'400'000ull).error_code() ==
        StatusCode::INVALID_ARGUMENT);
  CHECK(Reason(Delete(snapshot)) == "SNAPSHOT_LOCKED");
  CHECK(Reason(Delete(snapshot, 600'000)) == "SNAPSHOT_LOCKED");
  CHECK(Reason(Rollback(BackTo(volume, earlier))) == "SNAPSHOT_LOCKED");
  CHECK(Rollback(BackTo(volume, snapshot)).ok());
  CHECK(Delete(earlier).ok());
  clock.AdvanceMillis(60'001);
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  CHECK(Delete(snapshot).ok());
}

TEST_CASE_METHOD(SnapshotFixture, "a snapshot keeps its size; name, labels and limits change",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v", 64 << 20);
  const v1::Volume snapshot = SnapOne(volume, "s");
  v1::VolumeUpdate wanted;
  wanted.set_size_bytes(128 << 20);
  wanted.set_name("t");
  wanted.set_iops_limit(100);
  CHECK(Reason(Update(snapshot, wanted, "size_bytes")) == "SNAPSHOT_READ_ONLY");
  CHECK(Update(snapshot, wanted, "name").ok());
  CHECK(Update(snapshot, wanted, "iops_limit").ok());
  CHECK(Update(volume, wanted, "size_bytes").ok());
  CHECK(GetVolume(snapshot.volume_id()).size_bytes() == 64 << 20);
  CHECK(GetVolume(snapshot.volume_id()).name() == "t");
  // Back to it is back to its size.
  REQUIRE(Rollback(BackTo(volume, snapshot)).ok());
  CHECK(GetVolume(volume.volume_id()).size_bytes() == 64 << 20);
}

TEST_CASE_METHOD(SnapshotFixture, "rollback: another branch behind the snapshot, what was is kept",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume first = SnapOne(volume, "s1");
  const v1::Volume second = SnapOne(volume, "s2");
  (void)MakeWriter(volume, &client);
  CHECK(Reason(Rollback(BackTo(volume, first))) == "VOLUME_MAPPED");
  REQUIRE(Unmap(volume).ok());
  const uint64_t generation = GetVolume(volume.volume_id()).generation();
  v1::RollbackVolumeResponse response;
  REQUIRE(Rollback(BackTo(volume, first), &response).ok());
  CHECK(response.volume().volume_id() == volume.volume_id());
  CHECK(response.volume().snapshot_sequence() == MakeLayer(1, 0));
  CHECK(response.volume().generation() == generation + 1);
  CHECK(a.GenerationOf(volume.volume_id()) == generation + 1);
  CHECK(response.safety_snapshot().name() == "v-before-s1");
  CHECK(response.safety_snapshot().parent_id() == volume.volume_id());
  CHECK(response.safety_snapshot().snapshot_sequence() == MakeLayer(0, 2));
  CHECK(Events("volume_rolled_back").size() == 1);
  const LayerPath path{{.branch = 1, .ordinal_max = token::kPathHead},
                       {.branch = 0, .ordinal_max = 0}};
  const token::Grant writer = Of(MakeWriter(volume, &client));
  CHECK(writer.snapshot_sequence == MakeLayer(1, 0));
  CHECK(writer.path == path);
  // A snapshot of it now; those of before are as they were, and one can go forward again.
  (void)SnapOne(volume, "s3");
  CHECK(Of(client.snapshot_calls().back().grant).snapshot_sequence == MakeLayer(1, 1));
  REQUIRE(Unmap(volume).ok());
  REQUIRE(Rollback(BackTo(volume, response.safety_snapshot()), &response).ok());
  CHECK(response.safety_snapshot().name() == "v-before-v-before-s1");
  CHECK(response.volume().snapshot_sequence() == MakeLayer(2, 0));
  // Everything is seen by somebody: nothing to drop. Without the safety snapshot there is.
  CHECK(a.catalogs().empty());
  v1::RollbackVolumeRequest request = BackTo(volume, second);
  request.set_no_safety_snapshot(true);
  REQUIRE(Rollback(request, &response).ok());
  CHECK_FALSE(response.has_safety_snapshot());
  REQUIRE(Await([&] { return !a.catalogs().empty(); }));
  CHECK(HasPath(a.catalogs().back(),
                {{.branch = 3, .ordinal_max = token::kPathHead}, {.branch = 0, .ordinal_max = 1}}));
  CHECK_FALSE(HasPath(a.catalogs().back(), {}));
}

TEST_CASE_METHOD(SnapshotFixture, "names of safety snapshots", "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume snapshot = SnapOne(volume, std::string(60, 's'));
  v1::RollbackVolumeResponse response;
  REQUIRE(Rollback(BackTo(volume, snapshot), &response).ok());
  CHECK(response.safety_snapshot().name() == "v-before-" + std::string(54, 's'));
  REQUIRE(Rollback(BackTo(volume, snapshot), &response).ok());
  CHECK(response.safety_snapshot().name() == "v-before-" + std::string(52, 's') + "-2");
  v1::RollbackVolumeRequest request = BackTo(volume, snapshot);
  request.set_safety_snapshot_name("v");
  CHECK(Reason(Rollback(request)) == "NAME_TAKEN");
  request.set_safety_snapshot_name("a/b");
  CHECK(Rollback(request).error_code() == StatusCode::INVALID_ARGUMENT);
  request.set_safety_snapshot_name("mine");
  request.set_no_safety_snapshot(true);
  CHECK(Rollback(request).error_code() == StatusCode::INVALID_ARGUMENT);
  request.set_no_safety_snapshot(false);
  REQUIRE(Rollback(request, &response).ok());
  CHECK(response.safety_snapshot().name() == "mine");
}

TEST_CASE_METHOD(SnapshotFixture, "rollback is to a snapshot of the volume", "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume another = MakeVolume("w");
  const v1::Volume snapshot = SnapOne(another, "s");
  CHECK(Reason(Rollback(BackTo(volume, snapshot))) == "SNAPSHOT_OF_ANOTHER");
  CHECK(Reason(Rollback(BackTo(volume, another))) == "NOT_A_SNAPSHOT");
  CHECK(Reason(Rollback(BackTo(snapshot, snapshot))) == "SNAPSHOT_READ_ONLY");
  CHECK(GetVolume(volume.volume_id()).generation() == volume.generation());
  // A writer that came after the fence of the rollback.
  const v1::Volume mine = SnapOne(volume, "mine");
  std::atomic<bool> began = false;
  grpc::Status mapped;
  a.OnRaise([&](int) {
    if (!began.exchange(true)) mapped = Map(volume, client);
  });
  const grpc::Status refused = Rollback(BackTo(volume, mine));
  a.OnRaise(nullptr);
  REQUIRE(mapped.ok());
  CHECK(Reason(refused) == "VOLUME_MAPPED");
  CHECK(GetVolume(volume.volume_id()).snapshot_sequence() == MakeLayer(0, 1));
}

TEST_CASE_METHOD(SnapshotFixture,
                 "single-transaction tokens have layer and path, and only read "
                 "snapshots",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume snapshot = SnapOne(volume, "s");
  v1::Volume clone;
  REQUIRE(Clone(snapshot, "c", &clone).ok());
  const auto ask = [this](const v1::Volume& of, v1::IoOperationType type,
                          v1::RequestTokenResponse* response) {
    v1::RequestTokenRequest request;
    request.set_volume_id(of.volume_id());
    request.set_operation(type);
    request.set_length_bytes(4096);
    grpc::ClientContext context;
    Prepare(&context);
    return Stub<v1::TokenService>()->RequestToken(&context, request, response);
  };
  v1::RequestTokenResponse response;
  CHECK(Reason(ask(snapshot, v1::IO_OPERATION_TYPE_WRITE, &response)) == "SNAPSHOT_READ_ONLY");
  REQUIRE(ask(snapshot, v1::IO_OPERATION_TYPE_READ, &response).ok());
  REQUIRE(response.plan_size() > 0);
  CHECK(token::DecodeGrant(response.plan(0).operation().grant())->path == Part(0, 0));
  response.Clear();
  REQUIRE(ask(clone, v1::IO_OPERATION_TYPE_WRITE, &response).ok());
  REQUIRE(response.plan_size() > 0);
  CHECK(response.plan(0).operation().operation().snapshot_sequence() == MakeLayer(1, 0));
  const auto grant = token::DecodeGrant(response.plan(0).operation().grant());
  CHECK(grant->snapshot_sequence == MakeLayer(1, 0));
  CHECK(grant->path.size() == 2);
  // While it is out, nobody knows what a snapshot would contain.
  CHECK(Reason(Snap(RequestOf({{clone, "cs"}}))) == "WRITE_TOKEN_OUT");
}

TEST_CASE_METHOD(SnapshotFixture, "a snapshot sets no space aside, and is judged like a volume",
                 "[snapshot]") {
  v1::CreateVolumeRequest create;
  create.set_name("thick");
  create.set_size_bytes(64 << 20);
  create.set_provisioning(v1::PROVISIONING_THICK);
  v1::CreateVolumeResponse created;
  REQUIRE(Ask(&Volumes::CreateVolume, create, &created).ok());
  const auto capacity = [this] {
    v1::GetTopologyResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::TopologyService>()->GetTopology(&context, {}, &response).ok());
    return response.topology().protection_domains(0).pools(0).pool().capacity();
  };
  const v1::PoolCapacity before = capacity();
  const v1::Volume snapshot = SnapOne(created.volume(), "s");
  CHECK(snapshot.provisioning() == v1::PROVISIONING_THIN);
  CHECK(capacity().provisioned_bytes() == before.provisioned_bytes());
  CHECK(capacity().thick_bytes() == before.thick_bytes());
  CHECK(capacity().available_bytes() == before.available_bytes());
  // What is written is more than what was promised to thick volumes.
  a.used_bytes = b.used_bytes = 16 << 20;
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  CHECK(capacity().available_bytes() == before.available_bytes() - (16 << 20));
  v1::ListVolumeHealthResponse health;
  grpc::ClientContext context;
  Prepare(&context);
  REQUIRE(Stub<v1::HealthService>()->ListVolumeHealth(&context, {}, &health).ok());
  REQUIRE(health.volumes_size() == 2);
  CHECK(health.volumes(1).name() == "s");
  CHECK(health.volumes(1).verdict() == v1::VOLUME_VERDICT_HEALTHY);
}

}  // namespace
}  // namespace tessera::mdm
