// Leases of read caches over real gRPC: who gets one, and who waits for it.
#include <catch2/catch.hpp>
#include <chrono>
#include <string>

#include "libtoken/token.h"
#include "services/common/errors.h"
#include "services/mdm/cache_leases.h"
#include "services/mdm/mdm_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

struct LeaseFixture : MdmFixture {
  LeaseFixture() {
    MakePool({&a, &b}, 2);
    REQUIRE(Register(&client).ok());
    REQUIRE(Register(&other).ok());
    volume = MakeVolume("v");
  }
  // The grant's generation.
  uint64_t Attach(FakeSdc& sdc, v1::MappingMode mode = v1::MAPPING_MODE_READ_WRITE) {
    REQUIRE(Map(volume, sdc, mode).ok());
    return AcquireAgain(sdc);
  }
  uint64_t AcquireAgain(FakeSdc& sdc, uint64_t given_up = 0) {
    v1::AcquireGrantRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_incarnation(sdc.incarnation);
    request.set_given_up_generation(given_up);
    v1::AcquireGrantResponse response;
    grpc::ClientContext context;
    Prepare(&context, "sdc", sdc.sdc_id, sdc.secret);
    REQUIRE(Stub<v1::TokenService>()->AcquireGrant(&context, request, &response).ok());
    return token::DecodeGrant(response.grant().grant())->generation;
  }
  // How long a lease the client gets; 0: none.
  uint32_t Ask(const FakeSdc& sdc, uint64_t generation) {
    v1::HeartbeatRequest request;
    request.set_incarnation(sdc.incarnation);
    v1::CacheLease* wish = request.add_cache_leases();
    wish->set_volume_id(volume.volume_id());
    wish->set_generation(generation);
    v1::HeartbeatResponse response;
    grpc::ClientContext context;
    Prepare(&context, "sdc", sdc.sdc_id, sdc.secret);
    REQUIRE(Stub<v1::HealthService>()->Heartbeat(&context, request, &response).ok());
    if (response.cache_leases_size() == 0) return 0;
    CHECK(response.cache_leases(0).volume_id() == volume.volume_id());
    CHECK(response.cache_leases(0).generation() == generation);
    return response.cache_leases(0).lease_ms();
  }
  grpc::Status Unmap(const FakeSdc& sdc, bool force, int timeout_ms = 20'000) {
    v1::UnmapVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_sdc_id(sdc.sdc_id);
    request.set_force(force);
    v1::UnmapVolumeResponse response;
    grpc::ClientContext context;
    Prepare(&context, "", 0, "", timeout_ms);
    return Stub<v1::VolumeService>()->UnmapVolume(&context, request, &response);
  }
  // Whether unmapping by force lasts until the lease that was got at `got` is over.
  void CheckWaits(const FakeSdc& sdc, steady_clock::time_point got) {
    REQUIRE(Unmap(sdc, true).ok());
    CHECK(steady_clock::now() - got >= milliseconds(CacheLeases::kLeaseMillis));
  }
  void CheckAtOnce(const FakeSdc& sdc, bool force) {
    const auto began = steady_clock::now();
    REQUIRE(Unmap(sdc, force).ok());
    CHECK(steady_clock::now() - began < milliseconds(CacheLeases::kLeaseMillis - 500));
  }

  FakeSds a{"sds-a"};
  FakeSds b{"sds-b"};
  FakeSdc client{"client"};
  FakeSdc other{"other"};
  v1::Volume volume;
};

TEST_CASE_METHOD(LeaseFixture, "a lease is for the generation that is, and for who has it mapped") {
  const uint64_t generation = Attach(client);
  CHECK(Ask(client, generation) == CacheLeases::kLeaseMillis);
  CHECK(Ask(client, generation - 1) == 0);
  CHECK(Ask(client, generation + 1) == 0);
  CHECK(Ask(other, generation) == 0);
  volume.set_volume_id(volume.volume_id() + 100);
  CHECK(Ask(client, generation) == 0);
}

TEST_CASE_METHOD(LeaseFixture, "readers share, each with a lease of its own") {
  const uint64_t generation = Attach(client, v1::MAPPING_MODE_READ_ONLY);
  CHECK(Attach(other, v1::MAPPING_MODE_READ_ONLY) == generation);
  CHECK(Ask(client, generation) > 0);
  CHECK(Ask(other, generation) > 0);
}

TEST_CASE_METHOD(LeaseFixture, "no lease beside somebody else who may write") {
  SECTION("who is a client") {
    const uint64_t generation = Attach(client);
    v1::MappingMode mode = v1::MAPPING_MODE_READ_ONLY;
    CHECK_FALSE(Map(volume, other, mode).ok());
    CHECK(Ask(client, generation) > 0);
  }
  SECTION("who has a write token, whatever became of it") {
    v1::RequestTokenRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_operation(v1::IO_OPERATION_TYPE_WRITE);
    request.set_length_bytes(4096);
    v1::RequestTokenResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::TokenService>()->RequestToken(&context, request, &response).ok());
    const uint64_t generation = Attach(client, v1::MAPPING_MODE_READ_ONLY);
    CHECK(Ask(client, generation) == 0);
    REQUIRE(Unmap(client, false).ok());
    CHECK(Ask(client, Attach(client, v1::MAPPING_MODE_READ_ONLY)) > 0);
  }
}

TEST_CASE_METHOD(LeaseFixture, "taking a volume away by force waits for the lease") {
  const uint64_t generation = Attach(client);
  // A client counts from when it asked.
  const auto got = steady_clock::now();
  REQUIRE(Ask(client, generation) > 0);
  // Wishes that get nothing are not waited for, however often they come.
  CHECK(Ask(client, generation - 1) == 0);
  SECTION("unmap") {
    CheckWaits(client, got);
    CHECK(Ask(client, generation) == 0);
    // The promise is kept: nothing is waited for again.
    CheckAtOnce(client, true);
  }
  SECTION("unmap that is given up, and asked for again") {
    CHECK_FALSE(Unmap(client, true, 500).ok());
    CheckWaits(client, got);
  }
  SECTION("the next writer, when an unmap was given up") {
    CHECK_FALSE(Unmap(client, true, 500).ok());
    CHECK(Attach(other) > generation);
    CHECK(steady_clock::now() - got >= milliseconds(CacheLeases::kLeaseMillis));
  }
  SECTION("ending tokens") {
    v1::ExpireTokensRequest request;
    request.set_volume_id(volume.volume_id());
    v1::ExpireTokensResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::TokenService>()->ExpireTokens(&context, request, &response).ok());
    CHECK(steady_clock::now() - got >= milliseconds(CacheLeases::kLeaseMillis));
  }
}

TEST_CASE_METHOD(LeaseFixture, "an old client that asks for ever is not waited for") {
  const uint64_t generation = Attach(client);
  REQUIRE(Ask(client, generation) > 0);
  REQUIRE(Unmap(client, true).ok());
  const uint64_t next = Attach(other);
  CHECK(Ask(client, generation) == 0);
  CHECK(Ask(client, next) == 0);
  CheckAtOnce(other, true);
}

TEST_CASE_METHOD(LeaseFixture, "a client's word ends its lease") {
  const uint64_t generation = Attach(client);
  REQUIRE(Ask(client, generation) > 0);
  SECTION("it detaches") { CheckAtOnce(client, false); }
  SECTION("another life of it detaches") {
    client.detached_by = client.incarnation + 1;
    const auto got = steady_clock::now();
    REQUIRE(Ask(client, generation) > 0);
    REQUIRE(Unmap(client, false).ok());
    CHECK(steady_clock::now() - got >= milliseconds(CacheLeases::kLeaseMillis));
  }
  SECTION("it acquires anew, and says so") {
    const auto began = steady_clock::now();
    CHECK(AcquireAgain(client, generation) == generation + 1);
    CHECK(steady_clock::now() - began < milliseconds(CacheLeases::kLeaseMillis - 500));
  }
  SECTION("it acquires anew, and does not") {
    const auto got = steady_clock::now();
    REQUIRE(Ask(client, generation) > 0);
    CHECK(AcquireAgain(client) == generation + 1);
    CHECK(steady_clock::now() - got >= milliseconds(CacheLeases::kLeaseMillis));
  }
}

TEST_CASE_METHOD(LeaseFixture, "a restarted MDM waits for leases of its earlier life") {
  const uint64_t generation = Attach(client);
  const bool leased = GENERATE(true, false);
  if (leased) REQUIRE(Ask(client, generation) > 0);
  StopMdm();
  const auto started = steady_clock::now();
  StartMdm();
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  REQUIRE(Unmap(client, true).ok());
  const auto took = steady_clock::now() - started;
  if (leased) {
    CHECK(took >= milliseconds(CacheLeases::kLeaseMillis));
  } else {
    CHECK(took < milliseconds(CacheLeases::kLeaseMillis));
  }
}

}  // namespace
}  // namespace tessera::mdm
