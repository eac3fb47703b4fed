// Volumes and snapshots that delete themselves, over real gRPC, under a clock moved by hand.
#include <catch2/catch.hpp>

#include "services/mdm/snapshot_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

constexpr uint64_t kHour = 3'600'000;
constexpr uint64_t kTenYears = 10 * 366 * 86'400'000ull;

struct ExpiryFixture : SnapshotFixture {
  grpc::Status Make(const std::string& name, uint64_t expires_ms, v1::Volume* volume = nullptr) {
    v1::CreateVolumeRequest request;
    request.set_name(name);
    request.set_size_bytes(64 << 20);
    request.set_expires_ms(expires_ms);
    v1::CreateVolumeResponse response;
    const grpc::Status status = Ask(&Volumes::CreateVolume, request, &response);
    if (volume != nullptr) *volume = response.volume();
    return status;
  }
  v1::Volume MakeFor(const std::string& name, uint64_t millis) {
    v1::Volume volume;
    REQUIRE(Make(name, clock.WallMillis() + millis, &volume).ok());
    return volume;
  }
  grpc::Status ExpireAt(const v1::Volume& volume, uint64_t ms) {
    v1::VolumeUpdate wanted;
    wanted.set_expires_ms(ms);
    return Update(volume, wanted, "expires_ms");
  }
  grpc::Status Restore(const v1::Volume& volume) {
    v1::RestoreVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    v1::RestoreVolumeResponse response;
    return Ask(&Volumes::RestoreVolume, request, &response);
  }
  bool AwaitGone(const v1::Volume& volume) {
    return Await([&] { return Find(volume.volume_id()) == StatusCode::NOT_FOUND; });
  }
};

TEST_CASE_METHOD(ExpiryFixture, "a volume deletes itself when its time has come, mapped or not",
                 "[expiry]") {
  const v1::Volume idle = MakeFor("idle", kHour);
  const v1::Volume mapped = MakeFor("mapped", kHour);
  const v1::Volume later = MakeFor("later", kHour + 1);
  CHECK(idle.expires_ms() == clock.WallMillis() + kHour);
  v1::IssuedGrant grant = MakeWriter(mapped, &client);
  clock.AdvanceMillis(kHour - 1);
  mdm->Tick();
  CHECK(Find(idle.volume_id()) == StatusCode::OK);
  clock.AdvanceMillis(1);
  REQUIRE(AwaitGone(idle));
  REQUIRE(AwaitGone(mapped));
  CHECK(Find(later.volume_id()) == StatusCode::OK);
  // No server takes anything of it any more.
  CHECK(a.GenerationOf(mapped.volume_id()) > Of(grant).generation);
  CHECK(b.GenerationOf(mapped.volume_id()) > Of(grant).generation);
  CHECK_FALSE(Renew(client, &grant).ok());
  CHECK(Events("volume_expired").size() == 2);
  // Servers that are heard from again drop it.
  for (FakeSds* sds : {&a, &b}) REQUIRE(Beat(sds).ok());
  CHECK(a.AwaitDeletion(mapped.vtree_id()));
  // Deleting what has gone is done already.
  CHECK(Delete(mapped).ok());
}

TEST_CASE_METHOD(ExpiryFixture, "times that can't be are refused", "[expiry]") {
  CHECK(Make("v", clock.WallMillis()).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Make("v", clock.WallMillis() + kTenYears + 1).error_code() == StatusCode::INVALID_ARGUMENT);
  const v1::Volume volume = MakeFor("v", kTenYears);
  CHECK(ExpireAt(volume, clock.WallMillis()).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(ExpireAt(volume, clock.WallMillis() + kTenYears + 1).error_code() ==
        StatusCode::INVALID_ARGUMENT);
  CHECK(GetVolume(volume.volume_id()).expires_ms() == volume.expires_ms());
}

TEST_CASE_METHOD(ExpiryFixture, "when it expires is changed, and taken back", "[expiry]") {
  const v1::Volume volume = MakeFor("v", kHour);
  const v1::Volume kept = MakeFor("kept", kHour);
  REQUIRE(ExpireAt(volume, clock.WallMillis() + 2 * kHour).ok());
  REQUIRE(ExpireAt(kept, 0).ok());
  CHECK(Events("volume_expiry_changed").size() == 2);
  clock.AdvanceMillis(2 * kHour - 1);
  mdm->Tick();
  CHECK(Find(volume.volume_id()) == StatusCode::OK);
  clock.AdvanceMillis(1);
  REQUIRE(AwaitGone(volume));
  CHECK(Find(kept.volume_id()) == StatusCode::OK);
}

TEST_CASE_METHOD(ExpiryFixture, "a repeated create finds what was made, whenever it comes",
                 "[expiry]") {
  v1::CreateVolumeRequest request;
  request.set_name("v");
  request.set_size_bytes(64 << 20);
  request.set_request_id("again");
  request.set_expires_ms(clock.WallMillis() + 1'000);
  v1::CreateVolumeResponse first;
  REQUIRE(Ask(&Volumes::CreateVolume, request, &first).ok());
  REQUIRE(ExpireAt(first.volume(), 0).ok());
  clock.AdvanceMillis(2'000);
  v1::CreateVolumeResponse second;
  REQUIRE(Ask(&Volumes::CreateVolume, request, &second).ok());
  CHECK(second.volume().volume_id() == first.volume().volume_id());
}

TEST_CASE_METHOD(ExpiryFixture, "one with snapshots waits for them, and says so once", "[expiry]") {
  const v1::Volume volume = MakeFor("v", kHour);
  (void)MakeWriter(volume, &client);
  const v1::Volume first = SnapOne(volume, "first");
  const v1::Volume second = SnapOne(volume, "second");
  clock.AdvanceMillis(kHour);
  REQUIRE(Await([&] { return !Events("volume_expiry_waits").empty(); }));
  REQUIRE(Delete(first).ok());
  StopMdm();
  StartMdm();
  for (FakeSds* sds : {&a, &b}) REQUIRE(Register(sds).ok());
  for (FakeSdc* sdc : {&client, &other}) REQUIRE(Register(sdc).ok());
  // As long as it can't be deleted it is as it was: its client has it.
  const v1::Volume marker = MakeFor("marker", 1);
  clock.AdvanceMillis(1);
  REQUIRE(AwaitGone(marker));  // so the run looked at all of them
  CHECK(Events("volume_expiry_waits").size() == 1);
  CHECK(GetVolume(volume.volume_id()).mappings_size() == 1);
  // A snapshot in the trash is one.
  REQUIRE(Delete(second, kHour).ok());
  const v1::Volume another = MakeFor("another", 1);
  clock.AdvanceMillis(1);
  REQUIRE(AwaitGone(another));
  CHECK(Find(volume.volume_id()) == StatusCode::OK);
  REQUIRE(Delete(second).ok());
  REQUIRE(AwaitGone(volume));
  CHECK(a.AwaitDeletion(volume.vtree_id()));
}

TEST_CASE_METHOD(ExpiryFixture, "a snapshot, and a clone", "[expiry]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume snapshot = SnapOne(volume, "s");
  v1::CloneVolumeRequest request;
  request.set_snapshot_id(snapshot.volume_id());
  request.set_name("clone");
  request.set_expires_ms(clock.WallMillis());
  v1::CloneVolumeResponse response;
  CHECK(Ask(&Volumes::CloneVolume, request, &response).error_code() ==
        StatusCode::INVALID_ARGUMENT);
  request.set_expires_ms(clock.WallMillis() + 2 * kHour);
  REQUIRE(Ask(&Volumes::CloneVolume, request, &response).ok());
  CHECK(response.volume().expires_ms() == request.expires_ms());
  REQUIRE(ExpireAt(snapshot, clock.WallMillis() + kHour).ok());
  REQUIRE(Map(snapshot, other, v1::MAPPING_MODE_READ_ONLY).ok());
  clock.AdvanceMillis(kHour);
  REQUIRE(AwaitGone(snapshot));
  CHECK(Find(response.volume().volume_id()) == StatusCode::OK);
  clock.AdvanceMillis(kHour);
  REQUIRE(AwaitGone(response.volume()));
  CHECK(Events("snapshot_expired").size() == 1);
  CHECK(Events("volume_expired").size() == 1);
  CHECK(Find(volume.volume_id()) == StatusCode::OK);
}

TEST_CASE_METHOD(ExpiryFixture, "a locked snapshot never expires before its lock ends",
                 "[expiry]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume snapshot = SnapOne(volume, "s");
  const uint64_t now = clock.WallMillis();
  REQUIRE(Lock(snapshot, now + 2 * kHour).ok());
  CHECK(Reason(ExpireAt(snapshot, now + 2 * kHour - 1)) == "EXPIRES_WHILE_LOCKED");
  REQUIRE(ExpireAt(snapshot, now + 2 * kHour).ok());
  CHECK(Reason(Lock(snapshot, now + 2 * kHour + 1)) == "EXPIRES_WHILE_LOCKED");
  CHECK(GetVolume(snapshot.volume_id()).locked_until_ms() == now + 2 * kHour);
  clock.AdvanceMillis(2 * kHour);
  REQUIRE(AwaitGone(snapshot));
}

TEST_CASE_METHOD(ExpiryFixture, "in the trash it is purged, and not restored", "[expiry]") {
  const v1::Volume volume = MakeFor("v", kHour);
  const v1::Volume kept = MakeFor("kept", 2 * kHour);
  REQUIRE(Delete(volume, 100 * kHour).ok());
  REQUIRE(Delete(kept, 100 * kHour).ok());
  REQUIRE(Restore(kept).ok());
  CHECK(GetVolume(kept.volume_id()).expires_ms() == kept.expires_ms());
  clock.AdvanceMillis(kHour);
  // The MDM may have been quicker.
  const std::string reason = Reason(Restore(volume));
  CHECK((reason == "VOLUME_EXPIRED" || reason == "VOLUME_NOT_FOUND"));
  REQUIRE(AwaitGone(volume));
  CHECK(Find(kept.volume_id()) == StatusCode::OK);
}

TEST_CASE_METHOD(ExpiryFixture, "a server that is silent delays one volume, and no other",
                 "[expiry]") {
  const v1::Volume volume = MakeFor("v", kHour);
  clock.AdvanceMillis(kHour - 1'000);
  // Its grant is good for longer than it has to live.
  v1::IssuedGrant grant = MakeWriter(volume, &client);
  a.Stop();
  b.Stop();
  clock.AdvanceMillis(1'000);
  REQUIRE(Await([&] { return GetVolume(volume.volume_id()).mappings_size() == 0; }));
  // Taken away already; deleted when it is sure that nobody takes anything of it.
  CHECK(Find(volume.volume_id()) == StatusCode::OK);
  CHECK_FALSE(Renew(client, &grant).ok());
  a.Start();
  b.Start();
  REQUIRE(AwaitGone(volume));
}

}  // namespace
}  // namespace tessera::mdm
