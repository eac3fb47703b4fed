// Making snapshots, over real gRPC with clients that hold and cut as they are told.
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <mutex>
#include <thread>

#include "services/common/sqlite_db.h"
#include "services/mdm/mdm_schema.h"
#include "services/mdm/snapshot_fixture.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

TEST_CASE_METHOD(SnapshotFixture, "a snapshot of a volume that nobody writes", "[snapshot]") {
  const v1::Volume volume = MakeVolume("v", 64 << 20);
  v1::CreateSnapshotsRequest request = RequestOf({{volume, "s"}});
  (*request.mutable_labels())["tier"] = "gold";
  request.set_locked_until_ms(clock.WallMillis() + 60'000);
  v1::CreateSnapshotsResponse response;
  REQUIRE(Snap(request, &response).ok());
  CHECK(response.held_micros() == 0);
  REQUIRE(response.snapshots_size() == 1);
  const v1::Volume snapshot = GetVolume(response.snapshots(0).volume_id());
  CHECK(snapshot.name() == "s");
  CHECK(snapshot.kind() == v1::VOLUME_KIND_SNAPSHOT);
  CHECK(snapshot.parent_id() == volume.volume_id());
  CHECK(snapshot.parent_name() == "v");
  CHECK(snapshot.vtree_id() == volume.vtree_id());
  CHECK(snapshot.size_bytes() == volume.size_bytes());
  CHECK(snapshot.snapshot_sequence() == 0);
  CHECK(snapshot.labels().at("tier") == "gold");
  CHECK(snapshot.locked_until_ms() == request.locked_until_ms());
  // Whoever wrote it before can't any more, on any server.
  const v1::Volume now = GetVolume(volume.volume_id());
  CHECK(now.kind() == v1::VOLUME_KIND_VOLUME);
  CHECK(now.generation() == volume.generation() + 1);
  CHECK(a.GenerationOf(volume.volume_id()) == now.generation());
  CHECK(b.GenerationOf(volume.volume_id()) == now.generation());
  CHECK(now.snapshot_sequence() == MakeLayer(0, 1));
  CHECK(Events("snapshot_created").size() == 1);
  // A writer writes to the new layer and sees all; who reads the snapshot sees what was below.
  const token::Grant writer = Of(MakeWriter(volume, &client));
  CHECK(writer.snapshot_sequence == MakeLayer(0, 1));
  CHECK(writer.path.empty());
  CHECK(Reason(Map(snapshot, other)) == "SNAPSHOT_READ_ONLY");
  REQUIRE(Map(snapshot, other, v1::MAPPING_MODE_READ_ONLY).ok());
  v1::IssuedGrant issued;
  REQUIRE(Acquire(snapshot, other, &issued).ok());
  const token::Grant reader = Of(issued);
  CHECK(reader.access == token::AccessMode::kReadOnly);
  CHECK(reader.volume_id == snapshot.volume_id());
  CHECK(reader.vtree_id == volume.vtree_id());
  CHECK(reader.snapshot_sequence == 0);
  CHECK(reader.path == Part(0, 0));

  v1::ListVolumesRequest list;
  list.set_kind(v1::VOLUME_KIND_SNAPSHOT);
  CHECK(Names(list) == std::vector<std::string>{"s"});
  list.set_kind(v1::VOLUME_KIND_VOLUME);
  CHECK(Names(list) == std::vector<std::string>{"v"});
  list.Clear();
  list.set_parent_id(volume.volume_id());
  CHECK(Names(list) == std::vector<std::string>{"s"});
}

TEST_CASE_METHOD(SnapshotFixture, "a writer cuts, and goes on under another grant", "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::IssuedGrant old = MakeWriter(volume, &client);
  // Before it has cut, its grant can be renewed, with the layer that it has.
  client.OnSnapshotCall([&](const Call&) {
    v1::IssuedGrant renewed = old;
    CHECK(Renew(client, &renewed).ok());
    CHECK(Of(renewed).snapshot_sequence == MakeLayer(0, 0));
    return grpc::Status::OK;
  });
  v1::CreateSnapshotsRequest request = RequestOf({{volume, "s"}});
  request.set_deadline_ms(700);
  v1::CreateSnapshotsResponse response;
  REQUIRE(Snap(request, &response).ok());
  CHECK(response.held_micros() == client.held_micros);
  REQUIRE(client.snapshot_calls().size() == 1);
  const Call cut = client.snapshot_calls()[0];
  CHECK(cut.what == Call::kCut);
  CHECK(cut.hold_id == 0);
  CHECK(cut.deadline_ms == 700);
  const token::Grant before = Of(old);
  const token::Grant after = Of(cut.grant);
  CHECK(after.grant_id > before.grant_id);
  CHECK(after.generation == before.generation);
  CHECK(after.snapshot_sequence == MakeLayer(0, 1));
  CHECK(after.sdc_id == client.sdc_id);
  CHECK(after.access == token::AccessMode::kReadWrite);
  CHECK(cut.grant.mapping_id() == old.mapping_id());
  CHECK(cut.grant.keys_size() == 2);
  CHECK(GetVolume(volume.volume_id()).generation() == before.generation);
  // The old one would change the snapshot: it ends. The new one goes on as it is.
  client.OnSnapshotCall(nullptr);
  v1::IssuedGrant refused = old;
  const grpc::Status status = Renew(client, &refused);
  CHECK(status.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(status) == "GENERATION_MOVED");
  v1::IssuedGrant renewed = cut.grant;
  REQUIRE(Renew(client, &renewed).ok());
  CHECK(Of(renewed).snapshot_sequence == MakeLayer(0, 1));
  CHECK(Of(renewed).grant_id == after.grant_id);
  // And again.
  (void)SnapOne(volume, "s2");
  CHECK(Of(client.snapshot_calls().back().grant).snapshot_sequence == MakeLayer(0, 2));
  CHECK_FALSE(Renew(client, &renewed).ok());
}

TEST_CASE_METHOD(SnapshotFixture, "several volumes: all hold before the first cuts", "[snapshot]") {
  const v1::Volume v = MakeVolume("v");
  const v1::Volume w = MakeVolume("w");
  const v1::Volume idle = MakeVolume("idle");
  (void)MakeWriter(v, &client);
  (void)MakeWriter(w, &other);
  other.held_micros = 9'000;
  std::mutex mutex;
  std::vector<std::pair<Call::What, uint64_t>> order;
  const auto note = [&](const Call& call) {
    std::scoped_lock lock(mutex);
    order.emplace_back(call.what, call.volume_id);
    // Nobody is held while servers are waited for.
    CHECK(GetVolume(idle.volume_id()).generation() == idle.generation() + 1);
    CHECK(b.GenerationOf(idle.volume_id()) == idle.generation() + 1);
    return grpc::Status::OK;
  };
  client.OnSnapshotCall(note);
  other.OnSnapshotCall(note);
  v1::CreateSnapshotsResponse response;
  REQUIRE(Snap(RequestOf({{v, "sv"}, {idle, "si"}, {w, "sw"}}), &response).ok());
  CHECK(response.held_micros() == 9'000);
  REQUIRE(response.snapshots_size() == 3);
  CHECK(response.snapshots(0).name() == "sv");
  CHECK(response.snapshots(1).name() == "si");
  CHECK(response.snapshots(2).name() == "sw");
  REQUIRE(order.size() == 4);
  CHECK(order[0].first == Call::kHold);
  CHECK(order[1].first == Call::kHold);
  CHECK(order[2].first == Call::kCut);
  CHECK(order[3].first == Call::kCut);
  const auto calls = client.snapshot_calls();
  REQUIRE(calls.size() == 2);
  CHECK(calls[0].hold_id != 0);
  CHECK(calls[1].hold_id == calls[0].hold_id);
  CHECK(other.snapshot_calls()[0].hold_id == calls[0].hold_id);
}

TEST_CASE_METHOD(SnapshotFixture, "all or none: a client that does not cut", "[snapshot]") {
  const v1::Volume v = MakeVolume("v");
  const v1::Volume w = MakeVolume("w");
  const v1::IssuedGrant grant = MakeWriter(v, &client);
  (void)MakeWriter(w, &other);
  const auto refuse = [](Call::What what, const grpc::Status& status) {
    return
        [what, status](const Call& call) { return call.what == what ? status : grpc::Status::OK; };
  };
  StatusCode code = StatusCode::OK;
  std::string reason;
  SECTION("it does not hold in time") {
    other.OnSnapshotCall(refuse(Call::kHold, {StatusCode::DEADLINE_EXCEEDED, "a write hangs"}));
    code = StatusCode::UNAVAILABLE;
    reason = "CLIENT_SILENT";
  }
  SECTION("its hold was over") {
    other.OnSnapshotCall(refuse(Call::kCut, {StatusCode::FAILED_PRECONDITION, "over"}));
    code = StatusCode::ABORTED;
    reason = "CLIENT_REFUSED";
  }
  SECTION("it is gone") {
    other.Stop();
    code = StatusCode::UNAVAILABLE;
    reason = "CLIENT_SILENT";
  }
  SECTION("it has a grant of another generation") {
    other.SetGeneration(w.volume_id(), 77);
    code = StatusCode::ABORTED;
    reason = "VOLUME_MOVED_ON";
  }
  SECTION("it is of before snapshots") {
    other.OnSnapshotCall(refuse(Call::kHold, {StatusCode::UNIMPLEMENTED, ""}));
    code = StatusCode::FAILED_PRECONDITION;
    reason = "CLIENT_TOO_OLD";
  }
  const grpc::Status status = Snap(RequestOf({{v, "sv"}, {w, "sw"}}));
  INFO(status.error_message());
  CHECK(status.error_code() == code);
  CHECK(Reason(status) == reason);
  // The others go on at once, and nothing is left of it but the layer.
  REQUIRE_FALSE(client.snapshot_calls().empty());
  CHECK(client.snapshot_calls().back().what == Call::kRelease);
  CHECK(Names() == std::vector<std::string>{"v", "w"});
  CHECK(Events("snapshot_created").empty());
  CHECK(GetVolume(v.volume_id()).snapshot_sequence() == MakeLayer(0, 1));
  v1::IssuedGrant renewed = grant;
  CHECK(Renew(client, &renewed).ok());
  other.OnSnapshotCall(nullptr);
  CHECK(SnapOne(v, "sv").snapshot_sequence() == MakeLayer(0, 1));
  // What the failed one may have left below the layers that are seen, servers drop.
  CHECK(Await([&] { return LastCatalog(&a, v.vtree_id()).paths_size() > 0; }));
}

TEST_CASE_METHOD(SnapshotFixture, "while it is made nobody sees it, and its name is taken",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  (void)MakeWriter(volume, &client);
  client.OnSnapshotCall([&](const Call&) {
    CHECK(Names() == std::vector<std::string>{"v"});
    v1::GetVolumeRequest get;
    get.set_name("s");
    v1::GetVolumeResponse none;
    CHECK(Ask(&Volumes::GetVolume, get, &none).error_code() == StatusCode::NOT_FOUND);
    CHECK(Find(volume.volume_id() + 1) == StatusCode::NOT_FOUND);
    v1::CreateVolumeRequest create;
    create.set_name("s");
    create.set_size_bytes(1 << 20);
    v1::CreateVolumeResponse created;
    CHECK(Reason(Ask(&Volumes::CreateVolume, create, &created)) == "NAME_TAKEN");
    // One after the other.
    const grpc::Status second = Snap(RequestOf({{volume, "s2"}}), nullptr, 800);
    CHECK(second.error_code() == StatusCode::ABORTED);
    CHECK(Reason(second) == "SNAPSHOT_IN_PROGRESS");
    return grpc::Status::OK;
  });
  CHECK(SnapOne(volume, "s").volume_id() == volume.volume_id() + 1);
  CHECK(Find(volume.volume_id() + 1) == StatusCode::OK);
}

TEST_CASE_METHOD(SnapshotFixture, "snapshots of one volume that are made at once, in turn",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  (void)MakeWriter(volume, &client);
  std::vector<std::thread> threads;
  std::array<grpc::Status, 4> answers;
  for (size_t i = 0; i < answers.size(); ++i) {
    threads.emplace_back([this, &volume, &answers, i] {
      answers[i] = Snap(RequestOf({{volume, "s" + std::to_string(i)}}));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const grpc::Status& answer : answers) CHECK(answer.ok());
  CHECK(GetVolume(volume.volume_id()).snapshot_sequence() == MakeLayer(0, 4));
  uint64_t layer = 0;
  for (const Call& call : client.snapshot_calls()) {
    CHECK(Of(call.grant).snapshot_sequence == ++layer);
  }
}

TEST_CASE_METHOD(SnapshotFixture, "what takes the volume meanwhile goes first", "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume idle = MakeVolume("idle");
  const v1::IssuedGrant grant = MakeWriter(volume, &client);
  v1::CreateSnapshotsRequest request = RequestOf({{volume, "s"}});
  SECTION("unmapping") {
    client.OnSnapshotCall([&](const Call&) {
      CHECK(Unmap(volume).ok());
      return grpc::Status::OK;
    });
  }
  SECTION("unmapping, and the client refuses for that") {
    client.OnSnapshotCall([&](const Call&) {
      CHECK(Unmap(volume).ok());
      return grpc::Status(StatusCode::NOT_FOUND, "not attached");
    });
  }
  SECTION("its client, after a restart") {
    client.OnSnapshotCall([&](const Call&) {
      v1::IssuedGrant fresh;
      CHECK(Acquire(volume, client, &fresh).ok());
      CHECK(Of(fresh).snapshot_sequence == MakeLayer(0, 1));
      return grpc::Status::OK;
    });
  }
  SECTION("a writer of a volume that had none, after its fence") {
    request = RequestOf({{volume, "s"}, {idle, "si"}});
    client.OnSnapshotCall([&](const Call&) {
      (void)MakeWriter(idle, &other);
      return grpc::Status::OK;
    });
  }
  SECTION("deletion") {
    request = RequestOf({{volume, "s"}, {idle, "si"}});
    client.OnSnapshotCall([&](const Call&) {
      CHECK(Delete(idle).ok());
      return grpc::Status::OK;
    });
  }
  const grpc::Status status = Snap(request);
  INFO(status.error_message());
  CHECK(status.error_code() == StatusCode::ABORTED);
  CHECK(Reason(status) == "VOLUME_MOVED_ON");
  v1::ListVolumesRequest list;
  list.set_kind(v1::VOLUME_KIND_SNAPSHOT);
  CHECK(Names(list).empty());
  CHECK(Events("snapshot_created").empty());
  // A vtree whose volume was deleted goes with what was left of the snapshot.
  if (Find(idle.volume_id()) == StatusCode::NOT_FOUND) CHECK(a.AwaitDeletion(idle.vtree_id()));
}

TEST_CASE_METHOD(SnapshotFixture,
                 "a writer that was about to get its grant gets none below the cut", "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  // Its generation is raised, its grant not given yet; then the snapshot begins.
  grpc::Status snapped;
  std::atomic<bool> began = false;
  a.OnRaise([&](int) {
    if (began.exchange(true)) return;
    snapped = Snap(RequestOf({{volume, "s"}}));
  });
  v1::IssuedGrant grant;
  const grpc::Status acquired = Acquire(volume, client, &grant);
  a.OnRaise(nullptr);
  INFO(snapped.error_message());
  REQUIRE(snapped.ok());
  CHECK_FALSE(acquired.ok());
  REQUIRE(Acquire(volume, client, &grant).ok());
  CHECK(Of(grant).snapshot_sequence == MakeLayer(0, 1));
}

TEST_CASE_METHOD(SnapshotFixture, "what is asked for has to make sense", "[snapshot]") {
  const v1::Volume v = MakeVolume("v");
  const v1::Volume w = MakeVolume("w");
  const v1::Volume snapshot = SnapOne(v, "s");
  const auto code = [&](const v1::CreateSnapshotsRequest& request) {
    return Snap(request).error_code();
  };
  CHECK(code({}) == StatusCode::INVALID_ARGUMENT);
  CHECK(code(RequestOf({{v, "a/b"}})) == StatusCode::INVALID_ARGUMENT);
  CHECK(code(RequestOf({{v, "s1"}, {v, "s2"}})) == StatusCode::INVALID_ARGUMENT);
  CHECK(code(RequestOf({{v, "s1"}, {w, "s1"}})) == StatusCode::INVALID_ARGUMENT);
  std::vector<std::pair<v1::Volume, std::string>> many;
  for (int i = 0; i < 65; ++i) many.emplace_back(v, "m" + std::to_string(i));
  CHECK(code(RequestOf(many)) == StatusCode::INVALID_ARGUMENT);
  v1::CreateSnapshotsRequest request = RequestOf({{v, "s1"}});
  request.set_deadline_ms(10'001);
  CHECK(code(request) == StatusCode::INVALID_ARGUMENT);
  request.set_deadline_ms(0);
  request.set_locked_until_ms(clock.WallMillis() + 20 * 366 * 86'400'000ull);
  CHECK(code(request) == StatusCode::INVALID_ARGUMENT);
  CHECK(Reason(Snap(RequestOf({{v, "s"}}))) == "NAME_TAKEN");
  CHECK(Reason(Snap(RequestOf({{w, "t"}, {v, "w"}}))) == "NAME_TAKEN");
  CHECK(Reason(Snap(RequestOf({{snapshot, "s1"}}))) == "SNAPSHOT_READ_ONLY");
  REQUIRE(Delete(w, 60'000).ok());
  CHECK(Reason(Snap(RequestOf({{w, "s1"}}))) == "VOLUME_TRASHED");
  v1::Volume none;
  none.set_volume_id(99);
  CHECK(code(RequestOf({{none, "s1"}})) == StatusCode::NOT_FOUND);
  // Nothing was done.
  CHECK(Names() == std::vector<std::string>{"v", "s"});
  CHECK(GetVolume(v.volume_id()).snapshot_sequence() == MakeLayer(0, 1));
}

TEST_CASE_METHOD(SnapshotFixture, "a repeated request returns what the first call made",
                 "[snapshot]") {
  const v1::Volume v = MakeVolume("v");
  const v1::Volume w = MakeVolume("w");
  (void)MakeWriter(v, &client);
  v1::CreateSnapshotsRequest request = RequestOf({{v, "sv"}, {w, "sw"}});
  request.set_request_id("r1");
  v1::CreateSnapshotsResponse first;
  v1::CreateSnapshotsResponse second;
  REQUIRE(Snap(request, &first).ok());
  REQUIRE(Snap(request, &second).ok());
  REQUIRE(second.snapshots_size() == 2);
  CHECK(second.snapshots(0).volume_id() == first.snapshots(0).volume_id());
  CHECK(second.snapshots(1).name() == "sw");
  CHECK(second.held_micros() == client.held_micros);
  CHECK(client.snapshot_calls().size() == 1);
  REQUIRE(Delete(first.snapshots(1)).ok());
  CHECK(Snap(request).error_code() == StatusCode::NOT_FOUND);
  // One that failed is tried anew.
  request = RequestOf({{v, "again"}});
  request.set_request_id("r2");
  client.OnSnapshotCall([](const Call&) { return grpc::Status(StatusCode::UNAVAILABLE, ""); });
  CHECK_FALSE(Snap(request).ok());
  client.OnSnapshotCall(nullptr);
  CHECK(Snap(request).ok());
}

TEST_CASE_METHOD(SnapshotFixture, "what an MDM that died was making is gone at its next start",
                 "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume made = SnapOne(volume, "made");
  const v1::Volume unfinished = SnapOne(volume, "unfinished");
  StopMdm();
  {
    auto database = SqliteDb::Open(folder + "/mdm.db", MdmMigrations());
    REQUIRE(database.ok());
    REQUIRE((*database)
                ->Transaction([&](SQLite::Database& db) {
                  VolumeRow row = *FindVolume(db, unfinished.volume_id());
                  row.being_made = true;
                  UpdateVolumeLayers(db, row);
                  return absl::OkStatus();
                })
                .ok());
  }
  StartMdm();
  CHECK(Names() == std::vector<std::string>{"v", "made"});
  REQUIRE(Beat(&a).ok());
  CHECK(Await([&] { return LastCatalog(&a, volume.vtree_id()).paths_size() == 2; }));
  CHECK(SnapOne(volume, "unfinished").snapshot_sequence() == MakeLayer(0, 2));
}

TEST_CASE_METHOD(SnapshotFixture, "a volume has at most 1,024 snapshots", "[snapshot]") {
  const v1::Volume volume = MakeVolume("v");
  StopMdm();
  {
    auto database = SqliteDb::Open(folder + "/mdm.db", MdmMigrations());
    REQUIRE(database.ok());
    REQUIRE((*database)
                ->Transaction([&](SQLite::Database& db) {
                  VolumeRow row = *FindVolume(db, volume.volume_id());
                  row.volume_id = 0;
                  row.kind = v1::VOLUME_KIND_SNAPSHOT;
                  row.parent_id = volume.volume_id();
                  for (int i = 0; i < 1'023; ++i) {
                    row.name = "s" + std::to_string(i);
                    (void)InsertVolume(db, row);
                  }
                  return absl::OkStatus();
                })
                .ok());
  }
  StartMdm();
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  (void)SnapOne(volume, "last");
  const grpc::Status status = Snap(RequestOf({{volume, "one-more"}}));
  CHECK(status.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(status) == "TOO_MANY_SNAPSHOTS");
}

}  // namespace
}  // namespace tessera::mdm
