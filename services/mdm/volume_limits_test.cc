// Limits of volumes and mappings: their rules, and over real gRPC what grants say, live.
#include "services/mdm/volume_limits.h"

#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <vector>

#include "libtoken/token.h"
#include "services/mdm/mdm_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;
using Volumes = v1::VolumeService::Stub;

TEST_CASE("a mapping gets the smaller of its own limits and its part of the volume's", "[limits]") {
  const VolumeLimits none;
  const VolumeLimits own{100, 1 << 20, 5};
  CHECK(LimitsInForce(none, none, 1) == none);
  CHECK(LimitsInForce(none, own, 3) == own);
  CHECK(LimitsInForce(own, none, 1) == own);
  CHECK(LimitsInForce({300, 0, 2}, none, 3) == VolumeLimits{100, 0, 2});
  CHECK(LimitsInForce({300, 0, 2}, own, 4) == VolumeLimits{75, 1 << 20, 2});
  CHECK(LimitsInForce({300, 1 << 21, 9}, own, 2) == VolumeLimits{100, 1 << 20, 5});
  // Never none.
  CHECK(LimitsInForce({10, 0, 1}, none, 100) == VolumeLimits{1, 0, 1});
  // The sum never exceeds the volume's.
  for (size_t mappings = 1; mappings <= 10; ++mappings) {
    CHECK(mappings * LimitsInForce({1'003, 0, 1}, none, mappings).iops <= 1'003);
  }
}

TEST_CASE("limits below what a request needs, and bursts of days, are refused", "[limits]") {
  CHECK(CheckLimits("", {}).ok());
  CHECK(CheckLimits("", {10, 65'536, 3'600}).ok());
  const auto refused = [](const VolumeLimits& limits, const std::string& field) {
    const absl::Status status = CheckLimits("volume.", limits);
    return absl::IsInvalidArgument(status) &&
           std::string(status.message()).find("volume." + field) != std::string::npos;
  };
  CHECK(refused({9, 0, 1}, "iops_limit"));
  CHECK(refused({0, 65'535, 1}, "bandwidth_limit_bytes"));
  CHECK(refused({0, 0, 3'601}, "burst_seconds"));
}

struct LimitsFixture : MdmFixture {
  LimitsFixture() {
    MakePool({&a, &b}, 2);
    REQUIRE(Register(&client).ok());
    REQUIRE(Register(&other).ok());
  }
  template <typename Method, typename Request, typename Response>
  grpc::Status Ask(Method method, const Request& request, Response* response,
                   int timeout_ms = 20'000) {
    grpc::ClientContext context;
    Prepare(&context, "", 0, "", timeout_ms);
    return (*Stub<v1::VolumeService>().*method)(&context, request, response);
  }
  grpc::Status MapWith(const v1::Volume& volume, const FakeSdc& sdc, v1::MappingMode mode,
                       const VolumeLimits& limits, v1::MapVolumeResponse* response = nullptr) {
    v1::MapVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_sdc_id(sdc.sdc_id);
    request.set_mode(mode);
    request.set_iops_limit(limits.iops);
    request.set_bandwidth_limit_bytes(limits.bandwidth_bytes);
    request.set_burst_seconds(limits.burst_seconds);
    v1::MapVolumeResponse ignored;
    return Ask(&Volumes::MapVolume, request, response == nullptr ? &ignored : response);
  }
  grpc::Status SetIops(const v1::Volume& volume, uint32_t iops,
                       v1::UpdateVolumeResponse* response = nullptr) {
    v1::UpdateVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.mutable_volume()->set_iops_limit(iops);
    request.mutable_update_mask()->add_paths("iops_limit");
    v1::UpdateVolumeResponse ignored;
    return Ask(&Volumes::UpdateVolume, request, response == nullptr ? &ignored : response);
  }
  static VolumeLimits Granted(const v1::IssuedGrant& issued) {
    const auto grant = token::DecodeGrant(issued.grant());
    return {grant->iops_limit, grant->bandwidth_limit_bytes, grant->burst_seconds};
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

  FakeSds a{"sds-a"};
  FakeSds b{"sds-b"};
  FakeSdc client{"client"};
  FakeSdc other{"other"};
};

constexpr v1::MappingMode kWriter = v1::MAPPING_MODE_READ_WRITE;
constexpr v1::MappingMode kReader = v1::MAPPING_MODE_READ_ONLY;

TEST_CASE_METHOD(LimitsFixture, "mapping again sets other limits, and the client hears at once",
                 "[limits]") {
  const v1::Volume volume = MakeVolume("v");
  v1::MapVolumeResponse response;
  REQUIRE(MapWith(volume, client, kWriter, {500, 0, 0}, &response).ok());
  CHECK(response.mapping().iops_limit() == 500);
  CHECK(response.mapping().burst_seconds() == 1);
  v1::IssuedGrant grant;
  REQUIRE(Acquire(volume, client, &grant).ok());
  CHECK(Granted(grant) == VolumeLimits{500, 0, 1});
  const uint64_t generation = token::DecodeGrant(grant.grant())->generation;

  const int calls = client.attach_calls();
  REQUIRE(MapWith(volume, client, kWriter, {50, 1 << 20, 7}).ok());
  CHECK(client.attach_calls() > calls);
  REQUIRE(Renew(client, &grant).ok());
  CHECK(Granted(grant) == VolumeLimits{50, 1 << 20, 7});
  CHECK(token::DecodeGrant(grant.grant())->generation == generation);
  CHECK(Events("mapping_limits_changed").size() == 1);
  const v1::VolumeMapping shown = GetVolume(volume.volume_id()).mappings(0);
  CHECK(shown.bandwidth_limit_bytes() == 1 << 20);
  CHECK(shown.burst_seconds() == 7);

  REQUIRE(MapWith(volume, client, kWriter, {}).ok());
  REQUIRE(Renew(client, &grant).ok());
  CHECK(Granted(grant) == VolumeLimits{});
  CHECK(MapWith(volume, client, kWriter, {5, 0, 0}).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(GetVolume(volume.volume_id()).mappings(0).iops_limit() == 0);
}

TEST_CASE_METHOD(LimitsFixture, "a volume's limits are shared equally, as mappings come and go",
                 "[limits]") {
  v1::CreateVolumeRequest create;
  create.set_name("shared");
  create.set_size_bytes(64 << 20);
  create.set_iops_limit(1'000);
  create.set_burst_seconds(3);
  v1::CreateVolumeResponse created;
  REQUIRE(Ask(&Volumes::CreateVolume, create, &created).ok());
  const v1::Volume& volume = created.volume();
  CHECK(volume.iops_limit() == 1'000);
  CHECK(volume.burst_seconds() == 3);
  REQUIRE(MapWith(volume, client, kReader, {}).ok());
  v1::IssuedGrant mine;
  REQUIRE(Acquire(volume, client, &mine).ok());
  CHECK(Granted(mine) == VolumeLimits{1'000, 0, 3});

  // Who was there hears that it has half now.
  int calls = client.attach_calls();
  v1::MapVolumeResponse mapped;
  REQUIRE(MapWith(volume, other, kReader, {200, 0, 9}, &mapped).ok());
  CHECK(mapped.later_sdc_ids_size() == 0);
  CHECK(client.attach_calls() == calls + 1);
  v1::IssuedGrant theirs;
  REQUIRE(Acquire(volume, other, &theirs).ok());
  CHECK(Granted(theirs) == VolumeLimits{200, 0, 3});
  REQUIRE(Renew(client, &mine).ok());
  CHECK(Granted(mine) == VolumeLimits{500, 0, 3});

  calls = client.attach_calls();
  const int other_calls = other.attach_calls();
  REQUIRE(SetIops(volume, 300).ok());
  CHECK(client.attach_calls() == calls + 1);
  CHECK(other.attach_calls() == other_calls + 1);
  REQUIRE(Renew(client, &mine).ok());
  CHECK(Granted(mine) == VolumeLimits{150, 0, 3});
  CHECK(Events("volume_limits_changed").size() == 1);
  // Nothing to change, nobody to tell.
  REQUIRE(SetIops(volume, 300).ok());
  CHECK(client.attach_calls() == calls + 1);

  v1::UnmapVolumeRequest unmap;
  unmap.set_volume_id(volume.volume_id());
  unmap.set_sdc_id(other.sdc_id);
  v1::UnmapVolumeResponse unmapped;
  REQUIRE(Ask(&Volumes::UnmapVolume, unmap, &unmapped).ok());
  CHECK(client.attach_calls() == calls + 2);
  REQUIRE(Acquire(volume, client, &mine).ok());
  CHECK(Granted(mine) == VolumeLimits{300, 0, 3});
}

TEST_CASE_METHOD(LimitsFixture, "who can't be told of other limits is named", "[limits]") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(MapWith(volume, client, kReader, {}).ok());
  client.Stop();
  v1::UpdateVolumeResponse updated;
  REQUIRE(SetIops(volume, 300, &updated).ok());
  REQUIRE(updated.later_sdc_ids_size() == 1);
  CHECK(updated.later_sdc_ids(0) == client.sdc_id);
  CHECK(updated.volume().iops_limit() == 300);
  v1::MapVolumeResponse mapped;
  REQUIRE(MapWith(volume, other, kReader, {}, &mapped).ok());
  REQUIRE(mapped.later_sdc_ids_size() == 1);
  CHECK(mapped.later_sdc_ids(0) == client.sdc_id);
  CHECK(SetIops(volume, 3).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(GetVolume(volume.volume_id()).iops_limit() == 300);
}

}  // namespace
}  // namespace tessera::mdm
