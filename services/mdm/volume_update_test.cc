// Names, sizes and labels of volumes, and the trash, over real gRPC.
#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <vector>

#include "libtoken/token.h"
#include "services/mdm/mdm_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;
using Labels = std::map<std::string, std::string>;
using Volumes = v1::VolumeService::Stub;

struct UpdateFixture : MdmFixture {
  UpdateFixture() {
    MakePool({&a, &b}, 2);
    REQUIRE(Register(&client).ok());
    REQUIRE(Register(&other).ok());
  }

  // A call of VolumeService, as an administrator.
  template <typename Method, typename Request, typename Response>
  grpc::Status Ask(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    Prepare(&context);
    return (*Stub<v1::VolumeService>().*method)(&context, request, response);
  }
  grpc::Status Update(const v1::Volume& volume, const v1::VolumeUpdate& wanted,
                      const std::vector<std::string>& fields,
                      v1::UpdateVolumeResponse* response = nullptr) {
    v1::UpdateVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    *request.mutable_volume() = wanted;
    for (const std::string& field : fields) request.mutable_update_mask()->add_paths(field);
    v1::UpdateVolumeResponse ignored;
    return Ask(&Volumes::UpdateVolume, request, response == nullptr ? &ignored : response);
  }
  grpc::Status Resize(const v1::Volume& volume, uint64_t size_bytes,
                      v1::UpdateVolumeResponse* response = nullptr) {
    v1::VolumeUpdate wanted;
    wanted.set_size_bytes(size_bytes);
    return Update(volume, wanted, {"size_bytes"}, response);
  }
  grpc::Status Rename(const v1::Volume& volume, const std::string& name) {
    v1::VolumeUpdate wanted;
    wanted.set_name(name);
    return Update(volume, wanted, {"name"});
  }
  grpc::Status Label(const v1::Volume& volume, const Labels& labels) {
    v1::VolumeUpdate wanted;
    *wanted.mutable_labels() = {labels.begin(), labels.end()};
    return Update(volume, wanted, {"labels"});
  }
  grpc::Status Unmap(const v1::Volume& volume) {
    v1::UnmapVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    v1::UnmapVolumeResponse response;
    return Ask(&Volumes::UnmapVolume, request, &response);
  }
  grpc::Status Delete(const v1::Volume& volume, uint64_t keep_ms) {
    v1::DeleteVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_keep_ms(keep_ms);
    v1::DeleteVolumeResponse response;
    return Ask(&Volumes::DeleteVolume, request, &response);
  }
  grpc::Status DeleteByName(const std::string& name, uint64_t keep_ms) {
    v1::DeleteVolumeRequest request;
    request.set_name(name);
    request.set_keep_ms(keep_ms);
    v1::DeleteVolumeResponse response;
    return Ask(&Volumes::DeleteVolume, request, &response);
  }
  grpc::Status Restore(const v1::Volume& volume, const std::string& name = "") {
    v1::RestoreVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_name(name);
    v1::RestoreVolumeResponse response;
    return Ask(&Volumes::RestoreVolume, request, &response);
  }
  std::vector<std::string> Names(const v1::ListVolumesRequest& request = {}) {
    v1::ListVolumesResponse response;
    REQUIRE(Ask(&Volumes::ListVolumes, request, &response).ok());
    std::vector<std::string> names;
    for (const v1::Volume& volume : response.volumes()) names.push_back(volume.name());
    return names;
  }
  std::vector<std::string> Trash() {
    v1::ListVolumesRequest request;
    request.set_trashed(true);
    return Names(request);
  }
  StatusCode Find(uint64_t volume_id) {
    v1::GetVolumeRequest request;
    request.set_volume_id(volume_id);
    v1::GetVolumeResponse response;
    return Ask(&Volumes::GetVolume, request, &response).error_code();
  }
  uint64_t GrantedSize(const v1::IssuedGrant& grant) {
    return token::DecodeGrant(grant.grant())->volume_size_bytes;
  }

  FakeSds a{"sds-a"};
  FakeSds b{"sds-b"};
  FakeSdc client{"client"};
  FakeSdc other{"other"};
};

TEST_CASE_METHOD(UpdateFixture, "a volume grows while it is in use, never the other way",
                 "[volume]") {
  const v1::Volume volume = MakeVolume("v", 64 << 20);
  REQUIRE(Map(volume, client).ok());
  v1::IssuedGrant grant;
  REQUIRE(Acquire(volume, client, &grant).ok());
  v1::UpdateVolumeResponse response;
  REQUIRE(Resize(volume, 128 << 20, &response).ok());
  CHECK(response.volume().size_bytes() == 128 << 20);
  CHECK(response.later_sdc_ids_size() == 0);
  // The same writer, with a larger volume.
  v1::IssuedGrant renewed = grant;
  REQUIRE(Renew(client, &renewed).ok());
  CHECK(GrantedSize(renewed) == 128 << 20);
  CHECK(token::DecodeGrant(renewed.grant())->generation ==
        token::DecodeGrant(grant.grant())->generation);

  const grpc::Status smaller = Resize(volume, 64 << 20);
  CHECK(smaller.error_code() == StatusCode::OUT_OF_RANGE);
  CHECK(Reason(smaller) == "SIZE_BELOW_PRESENT");
  CHECK(Resize(volume, (128 << 20) + 512).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Resize(volume, (1ull << 50) + 4096).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(GetVolume(volume.volume_id()).size_bytes() == 128 << 20);
  // A client that can't be told has it later.
  client.Stop();
  REQUIRE(Resize(volume, 256 << 20, &response).ok());
  REQUIRE(response.later_sdc_ids_size() == 1);
  CHECK(response.later_sdc_ids(0) == client.sdc_id);
}

TEST_CASE_METHOD(UpdateFixture, "a thick volume grows only into space that is there", "[volume]") {
  v1::CreateVolumeRequest create;
  create.set_name("thick");
  create.set_size_bytes(64 << 20);
  create.set_provisioning(v1::PROVISIONING_THICK);
  v1::CreateVolumeResponse created;
  REQUIRE(Ask(&Volumes::CreateVolume, create, &created).ok());
  CHECK(Resize(created.volume(), 128 << 20).ok());
  const grpc::Status full = Resize(created.volume(), 1ull << 45);
  CHECK(full.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  CHECK(Reason(full) == "POOL_FULL");
}

TEST_CASE_METHOD(UpdateFixture, "a name is changed while nobody has the volume", "[volume]") {
  const v1::Volume volume = MakeVolume("v");
  (void)MakeVolume("taken");
  REQUIRE(Map(volume, client).ok());
  CHECK(Reason(Rename(volume, "w")) == "VOLUME_MAPPED");
  CHECK(Rename(volume, "v").ok());  // nothing to change
  REQUIRE(Unmap(volume).ok());
  CHECK(Reason(Rename(volume, "taken")) == "NAME_TAKEN");
  CHECK(Rename(volume, "a/b").error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Rename(volume, "w").ok());
  CHECK(GetVolume(volume.volume_id()).name() == "w");
  CHECK(Names() == std::vector<std::string>{"w", "taken"});
}

TEST_CASE_METHOD(UpdateFixture, "labels are replaced as a whole, and found", "[volume]") {
  const v1::Volume volume = MakeVolume("v");
  (void)MakeVolume("w");
  REQUIRE(Label(volume, {{"tier", "gold"}, {"app.io/name", "db"}}).ok());
  v1::ListVolumesRequest list;
  list.set_label("tier");
  CHECK(Names(list) == std::vector<std::string>{"v"});
  list.set_label("tier=gold");
  CHECK(Names(list) == std::vector<std::string>{"v"});
  list.set_label("tier=lead");
  CHECK(Names(list).empty());
  list.set_label("tier=");
  CHECK(Names(list).empty());
  CHECK(GetVolume(volume.volume_id()).labels().at("app.io/name") == "db");
  REQUIRE(Label(volume, {{"tier", ""}}).ok());
  CHECK(GetVolume(volume.volume_id()).labels().size() == 1);
  CHECK(Names(list) == std::vector<std::string>{"v"});
  CHECK(Label(volume, {{"", "x"}}).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Label(volume, {{"a b", "x"}}).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Label(volume, {{"a", "x\ny"}}).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Label(volume, {{"a", std::string(256, 'x')}}).error_code() == StatusCode::INVALID_ARGUMENT);
  Labels many;
  for (int i = 0; i < 65; ++i) many["k" + std::to_string(i)] = "v";
  CHECK(Label(volume, many).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(GetVolume(volume.volume_id()).labels().size() == 1);
}

TEST_CASE_METHOD(UpdateFixture, "an update is done as a whole or not at all", "[volume]") {
  const v1::Volume volume = MakeVolume("v", 64 << 20);
  v1::VolumeUpdate wanted;
  wanted.set_name("w");
  wanted.set_size_bytes(4096);  // too small
  (*wanted.mutable_labels())["k"] = "v";
  CHECK_FALSE(Update(volume, wanted, {"name", "labels", "size_bytes"}).ok());
  CHECK(Update(volume, wanted, {}).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Update(volume, wanted, {"pool_id"}).error_code() == StatusCode::INVALID_ARGUMENT);
  const v1::Volume now = GetVolume(volume.volume_id());
  CHECK(now.name() == "v");
  CHECK(now.labels().empty());
  CHECK(Update(volume, wanted, {"name", "labels"}).ok());
  CHECK(GetVolume(volume.volume_id()).size_bytes() == 64 << 20);
}

TEST_CASE_METHOD(UpdateFixture, "the trash: no IO, its name free, and back", "[volume]") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Label(volume, {{"tier", "gold"}}).ok());
  REQUIRE(Map(volume, client).ok());
  CHECK(Reason(Delete(volume, 60'000)) == "VOLUME_MAPPED");
  REQUIRE(Unmap(volume).ok());
  const uint64_t generation = GetVolume(volume.volume_id()).generation();
  REQUIRE(Delete(volume, 60'000).ok());
  CHECK(Names().empty());
  CHECK(Trash() == std::vector<std::string>{"v"});
  // By name: again is done already, at once is of no such volume.
  CHECK(DeleteByName("v", 600'000).ok());
  CHECK(DeleteByName("v", 0).error_code() == StatusCode::NOT_FOUND);
  const v1::Volume trashed = GetVolume(volume.volume_id());
  CHECK(trashed.trashed_until_ms() > 0);
  CHECK(trashed.generation() == generation + 1);
  CHECK(a.GenerationOf(volume.volume_id()) == generation + 1);
  // By its name it is not there, by its id nobody uses it.
  CHECK(Reason(Map(volume, client)) == "VOLUME_TRASHED");
  CHECK(Reason(Rename(volume, "w")) == "VOLUME_TRASHED");
  v1::RequestTokenRequest token;
  token.set_volume_id(volume.volume_id());
  token.set_operation(v1::IO_OPERATION_TYPE_READ);
  token.set_length_bytes(4096);
  v1::RequestTokenResponse none;
  grpc::ClientContext asking;
  Prepare(&asking);
  CHECK(Reason(Stub<v1::TokenService>()->RequestToken(&asking, token, &none)) == "VOLUME_TRASHED");
  v1::Volume second = MakeVolume("v");
  CHECK(Reason(Restore(volume)) == "NAME_TAKEN");
  CHECK(Reason(Restore(second)) == "VOLUME_NOT_TRASHED");
  CHECK(Restore(volume, "~1").error_code() == StatusCode::INVALID_ARGUMENT);
  REQUIRE(Restore(volume, "back").ok());
  CHECK(Trash().empty());
  CHECK(GetVolume(volume.volume_id()).trashed_until_ms() == 0);
  CHECK(GetVolume(volume.volume_id()).labels().at("tier") == "gold");
  CHECK(Map(volume, client).ok());
}

TEST_CASE_METHOD(UpdateFixture, "what is in the trash is deleted when its time is over",
                 "[volume]") {
  const v1::Volume volume = MakeVolume("v");
  const v1::Volume second = MakeVolume("w");
  CHECK(Delete(volume, 367 * 86'400'000ull).error_code() == StatusCode::INVALID_ARGUMENT);
  REQUIRE(Delete(volume, 60'000).ok());
  REQUIRE(Delete(second, 600'000).ok());
  // Longer from now on.
  REQUIRE(Delete(volume, 120'000).ok());
  const uint64_t generation = GetVolume(volume.volume_id()).generation();
  StopMdm();
  StartMdm();
  CHECK(Trash() == std::vector<std::string>{"v", "w"});
  CHECK(GetVolume(volume.volume_id()).generation() == generation);
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  clock.AdvanceMillis(121'000);
  REQUIRE(Await([&] { return Find(volume.volume_id()) == StatusCode::NOT_FOUND; }));
  REQUIRE(Beat(&a).ok());
  CHECK(a.AwaitDeletion(volume.vtree_id()));
  CHECK(Find(second.volume_id()) == StatusCode::OK);
  // At once, after all.
  REQUIRE(Delete(second, 0).ok());
  CHECK(Find(second.volume_id()) == StatusCode::NOT_FOUND);
  CHECK(Delete(second, 0).ok());
}

TEST_CASE_METHOD(UpdateFixture, "a volume becomes smaller by its writer, when that is meant") {
  const v1::Volume volume = MakeVolume("v", 64 << 20);
  const auto shrink = [&](uint64_t size_bytes, const std::vector<std::string>& fields) {
    v1::UpdateVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_allow_shrink(true);
    request.mutable_volume()->set_size_bytes(size_bytes);
    for (const std::string& field : fields) request.mutable_update_mask()->add_paths(field);
    v1::UpdateVolumeResponse response;
    return Ask(&Volumes::UpdateVolume, request, &response);
  };
  CHECK(Reason(shrink(32 << 20, {"size_bytes"})) == "NO_WRITER");
  REQUIRE(Map(volume, client).ok());
  CHECK(Reason(Resize(volume, 32 << 20)) == "SIZE_BELOW_PRESENT");
  CHECK(Reason(shrink(32 << 20, {"size_bytes", "labels"})) == "SHRINK_ALONE");
  CHECK(shrink(32 << 20 | 512, {"size_bytes"}).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(client.snapshot_calls().empty());
  SECTION("it does") {
    REQUIRE(shrink(32 << 20, {"size_bytes"}).ok());
    REQUIRE(client.snapshot_calls().size() == 1);
    CHECK(client.snapshot_calls()[0].what == FakeSdc::SnapshotCall::kShrink);
    CHECK(client.snapshot_calls()[0].size_bytes == 32 << 20);
    CHECK(GetVolume(volume.volume_id()).size_bytes() == 32 << 20);
    // A larger one needs no permission, and no client.
    CHECK(shrink(48 << 20, {"size_bytes"}).ok());
    CHECK(client.snapshot_calls().size() == 1);
  }
  std::string reason;
  const auto fails = [&] {
    const grpc::Status status = shrink(32 << 20, {"size_bytes"});
    CHECK(status.error_code() == StatusCode::ABORTED);
    CHECK(Reason(status) == reason);
    CHECK(GetVolume(volume.volume_id()).size_bytes() == 64 << 20);
  };
  SECTION("it does not hear of the present size before") {
    client.OnAttach([](uint64_t) { return grpc::Status{StatusCode::ABORTED, "not now"}; });
    fails();
    CHECK(client.snapshot_calls().empty());
  }
  SECTION("it refuses") {
    client.OnSnapshotCall([](const auto&) {
      return grpc::Status{StatusCode::ABORTED, "being shrunk"};
    });
    fails();
  }
  SECTION("the volume is another generation's meanwhile") {
    reason = "VOLUME_MOVED_ON";
    client.OnSnapshotCall([&](const auto&) { return Acquire(volume, client, nullptr); });
    fails();
  }
  SECTION("the client is restarted meanwhile") {
    reason = "VOLUME_MOVED_ON";
    client.OnSnapshotCall([&](const auto&) {
      client.incarnation = 2;
      return Register(&client);
    });
    fails();
  }
}

}  // namespace
}  // namespace tessera::mdm
