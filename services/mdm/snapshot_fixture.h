// For tests: a cluster of two servers and two clients, and calls about snapshots.
#ifndef TESSERA_SERVICES_MDM_SNAPSHOT_FIXTURE_H_
#define TESSERA_SERVICES_MDM_SNAPSHOT_FIXTURE_H_

#include <catch2/catch.hpp>
#include <string>
#include <utility>
#include <vector>

#include "libtoken/token.h"
#include "services/mdm/layer_paths.h"
#include "services/mdm/mdm_fixture.h"

namespace tessera::mdm {

struct SnapshotFixture : MdmFixture {
  using Volumes = v1::VolumeService::Stub;
  using Call = FakeSdc::SnapshotCall;

  SnapshotFixture() {
    MakePool({&a, &b}, 2);
    REQUIRE(Register(&client).ok());
    REQUIRE(Register(&other).ok());
  }

  // A call of VolumeService, as an administrator.
  template <typename Method, typename Request, typename Response>
  grpc::Status Ask(Method method, const Request& request, Response* response,
                   int timeout_ms = 20'000) {
    grpc::ClientContext context;
    Prepare(&context, "", 0, "", timeout_ms);
    return (*Stub<v1::VolumeService>().*method)(&context, request, response);
  }
  static v1::CreateSnapshotsRequest RequestOf(
      const std::vector<std::pair<v1::Volume, std::string>>& sources) {
    v1::CreateSnapshotsRequest request;
    for (const auto& [volume, name] : sources) {
      v1::SnapshotSource* source = request.add_sources();
      source->set_volume_id(volume.volume_id());
      source->set_snapshot_name(name);
    }
    return request;
  }
  grpc::Status Snap(const v1::CreateSnapshotsRequest& request,
                    v1::CreateSnapshotsResponse* response = nullptr, int timeout_ms = 20'000) {
    v1::CreateSnapshotsResponse ignored;
    return Ask(&Volumes::CreateSnapshots, request, response == nullptr ? &ignored : response,
               timeout_ms);
  }
  v1::Volume SnapOne(const v1::Volume& volume, const std::string& name) {
    v1::CreateSnapshotsResponse response;
    const grpc::Status status = Snap(RequestOf({{volume, name}}), &response);
    INFO(status.error_message());
    REQUIRE(status.ok());
    REQUIRE(response.snapshots_size() == 1);
    return response.snapshots(0);
  }
  grpc::Status Clone(const v1::Volume& snapshot, const std::string& name, v1::Volume* clone,
                     const std::string& request_id = "") {
    v1::CloneVolumeRequest request;
    request.set_snapshot_id(snapshot.volume_id());
    request.set_name(name);
    request.set_request_id(request_id);
    v1::CloneVolumeResponse response;
    const grpc::Status status = Ask(&Volumes::CloneVolume, request, &response);
    if (clone != nullptr) *clone = response.volume();
    return status;
  }
  grpc::Status Rollback(const v1::RollbackVolumeRequest& request,
                        v1::RollbackVolumeResponse* response = nullptr) {
    v1::RollbackVolumeResponse ignored;
    return Ask(&Volumes::RollbackVolume, request, response == nullptr ? &ignored : response);
  }
  static v1::RollbackVolumeRequest BackTo(const v1::Volume& volume, const v1::Volume& snapshot) {
    v1::RollbackVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_snapshot_id(snapshot.volume_id());
    return request;
  }
  grpc::Status Unmap(const v1::Volume& volume) {
    v1::UnmapVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    v1::UnmapVolumeResponse response;
    return Ask(&Volumes::UnmapVolume, request, &response);
  }
  grpc::Status Delete(const v1::Volume& volume, uint64_t keep_ms = 0) {
    v1::DeleteVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_keep_ms(keep_ms);
    v1::DeleteVolumeResponse response;
    return Ask(&Volumes::DeleteVolume, request, &response);
  }
  grpc::Status Update(const v1::Volume& volume, const v1::VolumeUpdate& wanted,
                      const std::string& field) {
    v1::UpdateVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    *request.mutable_volume() = wanted;
    request.mutable_update_mask()->add_paths(field);
    v1::UpdateVolumeResponse response;
    return Ask(&Volumes::UpdateVolume, request, &response);
  }
  grpc::Status Lock(const v1::Volume& volume, uint64_t until_ms) {
    v1::VolumeUpdate wanted;
    wanted.set_locked_until_ms(until_ms);
    return Update(volume, wanted, "locked_until_ms");
  }
  std::vector<std::string> Names(const v1::ListVolumesRequest& request = {}) {
    v1::ListVolumesResponse response;
    REQUIRE(Ask(&Volumes::ListVolumes, request, &response).ok());
    std::vector<std::string> names;
    for (const v1::Volume& volume : response.volumes()) names.push_back(volume.name());
    return names;
  }
  grpc::StatusCode Find(uint64_t volume_id) {
    v1::GetVolumeRequest request;
    request.set_volume_id(volume_id);
    v1::GetVolumeResponse response;
    return Ask(&Volumes::GetVolume, request, &response).error_code();
  }
  std::vector<std::string> Events(const std::string& code) {
    v1::ListEventsRequest request;
    request.set_page_size(1000);
    v1::ListEventsResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::HealthService>()->ListEvents(&context, request, &response).ok());
    std::vector<std::string> messages;
    for (const v1::Event& event : response.events()) {
      if (event.code() == code) messages.push_back(event.message());
    }
    return messages;
  }
  // Mapped for writing, with a grant that its client has.
  v1::IssuedGrant MakeWriter(const v1::Volume& volume, FakeSdc* sdc) {
    REQUIRE(Map(volume, *sdc).ok());
    v1::IssuedGrant grant;
    REQUIRE(Acquire(volume, *sdc, &grant).ok());
    sdc->SetGeneration(volume.volume_id(), Of(grant).generation);
    return grant;
  }
  static token::Grant Of(const v1::IssuedGrant& issued) {
    const auto grant = token::DecodeGrant(issued.grant());
    REQUIRE(grant.ok());
    return *grant;
  }
  // The last catalog of the vtree that the server was asked with.
  static v1::VtreeCatalog LastCatalog(FakeSds* sds, uint64_t vtree_id) {
    v1::VtreeCatalog last;
    for (const v1::VtreeCatalog& catalog : sds->catalogs()) {
      if (catalog.vtree_id() == vtree_id) last = catalog;
    }
    return last;
  }
  static LayerPath Part(uint32_t branch, uint32_t ordinal_max) {
    return {{.branch = branch, .ordinal_max = ordinal_max}};
  }

  FakeSds a{"sds-a"};
  FakeSds b{"sds-b"};
  FakeSdc client{"client"};
  FakeSdc other{"other"};
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SNAPSHOT_FIXTURE_H_
