// Volumes that are mapped shared: one client writes, the others are told where to send their
// requests; the right is passed on, or taken from a client that is gone.
#include <catch2/catch.hpp>

#include "libtoken/token.h"
#include "services/common/forward_ticket.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/mdm_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

// Three clients that have a volume mapped shared.
struct SharingFixture : ClusterFixture {
  SharingFixture() {
    REQUIRE(Register(&second).ok());
    REQUIRE(Register(&third).ok());
    volume = MakeVolume("v");
    for (const FakeSdc* sdc : {&client, &second, &third}) {
      REQUIRE(Map(volume, *sdc, v1::MAPPING_MODE_SHARED).ok());
    }
  }

  grpc::Status AcquireShared(const FakeSdc& sdc, v1::AcquireGrantResponse* response,
                             uint64_t unreachable_generation = 0) {
    v1::AcquireGrantRequest request;
    request.set_volume_id(volume.volume_id());
    request.set_unreachable_generation(unreachable_generation);
    response->Clear();
    return Call(TESSERA_CALL(TokenService, AcquireGrant), request, response, "sdc", sdc.sdc_id,
                sdc.secret);
  }
  // REQUIRES: it becomes the writer.
  uint64_t Write(const FakeSdc& sdc, uint64_t unreachable_generation = 0) {
    v1::AcquireGrantResponse response;
    const grpc::Status status = AcquireShared(sdc, &response, unreachable_generation);
    INFO(status.error_message());
    REQUIRE(status.ok());
    REQUIRE_FALSE(response.has_forward_to());
    const auto grant = token::DecodeGrant(response.grant().grant());
    REQUIRE(grant.ok());
    CHECK(grant->access == token::AccessMode::kReadWrite);
    CHECK(grant->sdc_id == sdc.sdc_id);
    return grant->generation;
  }
  // Who the client is sent to; 0: nobody, it writes.
  uint64_t TargetOf(const FakeSdc& sdc, uint64_t unreachable_generation = 0) {
    v1::AcquireGrantResponse response;
    REQUIRE(AcquireShared(sdc, &response, unreachable_generation).ok());
    return response.forward_to().sdc_id();
  }
  uint64_t Writer() {
    uint64_t writer = 0;
    const v1::Volume now = GetVolume(volume.volume_id());
    for (const v1::VolumeMapping& mapping : now.mappings()) {
      if (!mapping.writer()) continue;
      CHECK(writer == 0);
      writer = mapping.sdc_id();
    }
    return writer;
  }
  grpc::Status Pass(const FakeSdc& to, v1::PassWriterResponse* response, uint64_t from = 0) {
    v1::PassWriterRequest request;
    request.set_volume_name("v");
    request.set_to_sdc_id(to.sdc_id);
    request.set_from_sdc_id(from);
    return Call(TESSERA_CALL(VolumeService, PassWriter), request, response);
  }
  grpc::Status Unmap(const FakeSdc& sdc, v1::UnmapVolumeResponse* response, bool force = false) {
    v1::UnmapVolumeRequest request;
    request.set_volume_name("v");
    request.set_sdc_id(sdc.sdc_id);
    request.set_force(force);
    return Call(TESSERA_CALL(VolumeService, UnmapVolume), request, response);
  }

  FakeSdc second{"second"};
  FakeSdc third{"third"};
  v1::Volume volume;
};

TEST_CASE_METHOD(ClusterFixture, "shared mappings exclude the others, and limits of their own") {
  FakeSdc second{"second"};
  REQUIRE(Register(&second).ok());
  const v1::Volume volume = MakeVolume("v");
  const auto map = [&](const FakeSdc& sdc, v1::MappingMode mode) {
    return Reason(Map(volume, sdc, mode));
  };
  REQUIRE(map(client, v1::MAPPING_MODE_SHARED).empty());
  CHECK(map(second, v1::MAPPING_MODE_READ_WRITE) == "VOLUME_MAPPED");
  CHECK(map(second, v1::MAPPING_MODE_READ_ONLY) == "VOLUME_MAPPED");
  CHECK(map(client, v1::MAPPING_MODE_READ_WRITE) == "VOLUME_MAPPED");
  CHECK(map(client, v1::MAPPING_MODE_SHARED).empty());
  CHECK(map(second, v1::MAPPING_MODE_SHARED).empty());
  CHECK(GetVolume(volume.volume_id()).mappings_size() == 2);

  const v1::Volume other = MakeVolume("other");
  REQUIRE(Map(other, client).ok());
  CHECK(Reason(Map(other, second, v1::MAPPING_MODE_SHARED)) == "VOLUME_MAPPED");
  CHECK(Reason(Map(other, client, v1::MAPPING_MODE_SHARED)) == "VOLUME_MAPPED");
  const v1::Volume read = MakeVolume("read");
  REQUIRE(Map(read, client, v1::MAPPING_MODE_READ_ONLY).ok());
  CHECK(Reason(Map(read, second, v1::MAPPING_MODE_SHARED)) == "VOLUME_MAPPED");

  v1::MapVolumeRequest limited;
  limited.set_volume_name("v");
  limited.set_sdc_id(second.sdc_id);
  limited.set_mode(v1::MAPPING_MODE_SHARED);
  limited.set_iops_limit(100);
  v1::MapVolumeResponse response;
  CHECK(Call(TESSERA_CALL(VolumeService, MapVolume), limited, &response).error_code() ==
        StatusCode::INVALID_ARGUMENT);
  limited.set_mode(static_cast<v1::MappingMode>(4));
  CHECK(Call(TESSERA_CALL(VolumeService, MapVolume), limited, &response).error_code() ==
        StatusCode::INVALID_ARGUMENT);
}

TEST_CASE_METHOD(SharingFixture, "the first that asks writes, and the others are sent to it") {
  CHECK(Writer() == 0);
  const uint64_t generation = Write(client);
  CHECK(Writer() == client.sdc_id);
  v1::AcquireGrantResponse response;
  REQUIRE(AcquireShared(second, &response).ok());
  const v1::ForwardTarget& target = response.forward_to();
  CHECK(target.sdc_id() == client.sdc_id);
  CHECK(target.endpoints().control() == client.address());
  CHECK(target.generation() == generation);
  CHECK(target.volume_size_bytes() == volume.size_bytes());
  CHECK(target.chunk_bytes() > 0);
  CHECK(response.grant().grant().empty());
  CHECK(response.grant().mapping_id() > 0);
  CHECK(target.expiry_ms() > response.grant().mdm_time_ms());
  // The ticket is for this sender and that writer, under the secret that the writer has.
  ForwardTicket ticket{volume.volume_id(), generation, client.sdc_id, second.sdc_id,
                       target.expiry_ms()};
  CHECK(VerifyForwardTicket(client.secret, ticket, target.ticket()));
  CHECK_FALSE(VerifyForwardTicket(second.secret, ticket, target.ticket()));
  for (uint64_t ForwardTicket::*field :
       {&ForwardTicket::volume_id, &ForwardTicket::generation, &ForwardTicket::writer_sdc_id,
        &ForwardTicket::sender_sdc_id, &ForwardTicket::expiry_ms}) {
    ForwardTicket altered = ticket;
    ++(altered.*field);
    CHECK_FALSE(VerifyForwardTicket(client.secret, altered, target.ticket()));
  }
  CHECK_FALSE(VerifyForwardTicket("", ticket, ""));

  // Asking changes nothing; the writer itself gets a new generation, as any.
  CHECK(GetVolume(volume.volume_id()).generation() == generation);
  CHECK(Write(client) == generation + 1);
  CHECK(TargetOf(third) == client.sdc_id);
}

TEST_CASE_METHOD(SharingFixture,
                 "a writer that answers keeps the right, one that is gone does not") {
  const uint64_t generation = Write(client);
  // It answers the MDM: the caller's network may be what is broken.
  CHECK(TargetOf(second, generation) == client.sdc_id);
  client.Stop();
  // Without a complaint, or with one about another generation, nothing is taken from anybody.
  CHECK(TargetOf(second) == client.sdc_id);
  CHECK(TargetOf(second, generation - 1) == client.sdc_id);
  CHECK(Write(second, generation) == generation + 1);
  CHECK(Writer() == second.sdc_id);
  CHECK(a.GenerationOf(volume.volume_id()) == generation + 1);
  CHECK(TargetOf(third, generation) == second.sdc_id);
  CHECK(TargetOf(client) == second.sdc_id);
  CHECK(GetVolume(volume.volume_id()).generation() == generation + 1);
}

TEST_CASE_METHOD(SharingFixture, "a client that has not got the volume attached is no writer") {
  const uint64_t generation = Write(client);
  v1::UnmapVolumeResponse response;
  const auto detach = v1::SdcControlService::NewStub(
      grpc::CreateChannel(client.address(), grpc::InsecureChannelCredentials()));
  v1::DetachVolumeRequest request;
  request.set_volume_id(volume.volume_id());
  v1::DetachVolumeResponse detached;
  grpc::ClientContext context;
  REQUIRE(detach->DetachVolume(&context, request, &detached).ok());
  CHECK(Write(second, generation) == generation + 1);
}

TEST_CASE_METHOD(SharingFixture, "the right is passed on: yield, take, go on") {
  const uint64_t generation = Write(client);
  uint64_t taken = 0;
  second.OnAttach([&](uint64_t) {
    taken = Write(second);
    return grpc::Status::OK;
  });
  const int told_before = client.attach_calls();
  v1::PassWriterResponse response;
  const grpc::Status status = Pass(second, &response, client.sdc_id);
  INFO(status.error_message());
  REQUIRE(status.ok());
  CHECK(taken == generation + 1);
  CHECK(Writer() == second.sdc_id);
  CHECK(response.held_micros() > 0);
  CHECK(response.volume().mappings_size() == 3);
  const auto calls = client.snapshot_calls();
  REQUIRE(calls.size() == 1);
  CHECK(calls[0].what == FakeSdc::SnapshotCall::kYield);
  CHECK(calls[0].generation == generation);
  CHECK(calls[0].volume_id == volume.volume_id());
  CHECK(calls[0].deadline_ms > 0);
  CHECK(client.attach_calls() == told_before + 1);
  // Again: it has it.
  REQUIRE(Pass(second, &response, client.sdc_id).ok());
  CHECK(client.snapshot_calls().size() == 1);
  CHECK(GetVolume(volume.volume_id()).generation() == taken);
}

TEST_CASE_METHOD(SharingFixture, "passing on is refused where it makes no sense") {
  v1::PassWriterResponse response;
  Write(client);
  CHECK(Reason(Pass(second, &response, third.sdc_id)) == "WRITER_IS_ANOTHER");
  FakeSdc stranger{"stranger"};
  REQUIRE(Register(&stranger).ok());
  CHECK(Reason(Pass(stranger, &response)) == "NOT_SHARED");
  CHECK(Reason(Pass(second, &response, stranger.sdc_id)) == "NOT_SHARED");
  v1::PassWriterRequest nobody;
  nobody.set_volume_name("v");
  CHECK(Call(TESSERA_CALL(VolumeService, PassWriter), nobody, &response).error_code() ==
        StatusCode::INVALID_ARGUMENT);
  const v1::Volume other = MakeVolume("other");
  REQUIRE(Map(other, client).ok());
  nobody.set_volume_name("other");
  nobody.set_to_sdc_id(client.sdc_id);
  CHECK(Reason(Call(TESSERA_CALL(VolumeService, PassWriter), nobody, &response)) == "NOT_SHARED");
  CHECK(Writer() == client.sdc_id);
  CHECK(client.snapshot_calls().empty());
}

TEST_CASE_METHOD(SharingFixture,
                 "a writer that is busy keeps the right, one that is gone loses it") {
  const uint64_t generation = Write(client);
  client.OnSnapshotCall([](const FakeSdc::SnapshotCall&) {
    return grpc::Status(StatusCode::DEADLINE_EXCEEDED, "requests were not done in time");
  });
  v1::PassWriterResponse response;
  CHECK(Reason(Pass(second, &response)) == "WRITER_BUSY");
  CHECK(Writer() == client.sdc_id);
  CHECK(GetVolume(volume.volume_id()).generation() == generation);

  client.Stop();
  second.OnAttach([&](uint64_t) {
    Write(second);
    return grpc::Status::OK;
  });
  REQUIRE(Pass(second, &response).ok());
  CHECK(Writer() == second.sdc_id);
  CHECK(response.held_micros() == 0);
}

TEST_CASE_METHOD(SharingFixture, "a new writer that does not come leaves the right where it was") {
  const uint64_t generation = Write(client);
  second.OnAttach([](uint64_t) { return grpc::Status(StatusCode::UNAVAILABLE, "not now"); });
  const int told_before = client.attach_calls();
  v1::PassWriterResponse response;
  CHECK(Reason(Pass(second, &response)) == "NEW_WRITER_SILENT");
  CHECK(Writer() == client.sdc_id);
  CHECK(client.attach_calls() == told_before + 1);
  CHECK(GetVolume(volume.volume_id()).generation() == generation);
  CHECK(TargetOf(third) == client.sdc_id);
  // It was the writer all the time: its grant can be renewed.
  CHECK(Write(client) == generation + 1);
}

TEST_CASE_METHOD(SharingFixture,
                 "a claim without a grant can be taken, and a late grant is not given") {
  const uint64_t generation = Write(client);
  // The second client gets the right while the first is still acquiring.
  a.OnRaise([&, once = std::make_shared<std::atomic<bool>>(false)](int) {
    if (once->exchange(true)) return;
    client.Stop();
    Write(second, generation + 1);
  });
  v1::AcquireGrantResponse response;
  const grpc::Status status = AcquireShared(client, &response);
  CHECK_FALSE(status.ok());
  CHECK_FALSE(response.has_grant());
  CHECK(Writer() == second.sdc_id);
}

TEST_CASE_METHOD(SharingFixture, "unmapping frees the right, and ends what was given before") {
  const uint64_t generation = Write(client);
  v1::UnmapVolumeResponse response;
  const int told_before = second.attach_calls();
  REQUIRE(Unmap(client, &response).ok());
  CHECK(response.generation() == generation + 1);
  CHECK(response.confirmed_sds_ids_size() == 2);
  CHECK(Writer() == 0);
  // The others are told: one of them gets it.
  CHECK(second.attach_calls() == told_before + 1);
  CHECK(Write(third) == generation + 2);
  CHECK(TargetOf(second) == third.sdc_id);

  // One that forwards: the writer needs a new generation, and tickets of before are void.
  const int writer_told = third.attach_calls();
  REQUIRE(Unmap(second, &response, true).ok());
  CHECK(response.generation() == generation + 3);
  CHECK(Writer() == third.sdc_id);
  CHECK(third.attach_calls() == writer_told + 1);
  v1::AcquireGrantResponse refused;
  CHECK(AcquireShared(second, &refused).error_code() == StatusCode::PERMISSION_DENIED);
}

TEST_CASE_METHOD(SharingFixture,
                 "a writer that acquires while its volume is unmapped from another "
                 "does not fail the unmapping") {
  Write(client);
  a.OnRaise([&, once = std::make_shared<std::atomic<bool>>(false)](int) {
    if (!once->exchange(true)) Write(client);
  });
  v1::UnmapVolumeResponse response;
  const grpc::Status status = Unmap(second, &response);
  INFO(status.error_message());
  REQUIRE(status.ok());
  CHECK(response.confirmed_sds_ids_size() == 2);
}

TEST_CASE_METHOD(SharingFixture, "a client that says goodbye is not waited for") {
  const uint64_t generation = Write(client);
  v1::HeartbeatRequest request;
  request.set_incarnation(client.incarnation);
  request.set_leaving(true);
  v1::HeartbeatResponse response;
  REQUIRE(Call(TESSERA_CALL(HealthService, Heartbeat), request, &response, "sdc", client.sdc_id,
               client.secret)
              .ok());
  CHECK(Writer() == 0);
  CHECK(Write(second) == generation + 1);
}

TEST_CASE_METHOD(SharingFixture, "the writer gets the volume's limits whole, and no cache lease") {
  v1::UpdateVolumeRequest update;
  update.set_volume_name("v");
  update.mutable_volume()->set_iops_limit(900);
  update.mutable_update_mask()->add_paths("iops_limit");
  v1::UpdateVolumeResponse updated;
  REQUIRE(Call(TESSERA_CALL(VolumeService, UpdateVolume), update, &updated).ok());
  v1::AcquireGrantResponse response;
  REQUIRE(AcquireShared(client, &response).ok());
  const auto grant = token::DecodeGrant(response.grant().grant());
  REQUIRE(grant.ok());
  CHECK(grant->iops_limit == 900);
  v1::UnmapVolumeResponse unmapped;
  REQUIRE(Unmap(second, &unmapped).ok());
  REQUIRE(Unmap(third, &unmapped).ok());
  // Also when it is the only one.
  const uint64_t generation = Write(client);
  v1::HeartbeatRequest request;
  request.set_incarnation(client.incarnation);
  v1::CacheLease* wish = request.add_cache_leases();
  wish->set_volume_id(volume.volume_id());
  wish->set_generation(generation);
  v1::HeartbeatResponse beat;
  REQUIRE(Call(TESSERA_CALL(HealthService, Heartbeat), request, &beat, "sdc", client.sdc_id,
               client.secret)
              .ok());
  CHECK(beat.cache_leases_size() == 0);
}

TEST_CASE_METHOD(SharingFixture, "snapshots and shrinking ask the writer, and nobody else") {
  const uint64_t generation = Write(second);
  second.SetGeneration(volume.volume_id(), generation);
  v1::CreateSnapshotsRequest snapshot;
  v1::SnapshotSource* source = snapshot.add_sources();
  source->set_volume_name("v");
  source->set_snapshot_name("v-1");
  v1::CreateSnapshotsResponse made;
  const grpc::Status status = Call(TESSERA_CALL(VolumeService, CreateSnapshots), snapshot, &made);
  INFO(status.error_message());
  REQUIRE(status.ok());
  REQUIRE(second.snapshot_calls().size() == 1);
  CHECK(second.snapshot_calls()[0].what == FakeSdc::SnapshotCall::kCut);
  v1::UpdateVolumeRequest shrink;
  shrink.set_volume_name("v");
  shrink.set_allow_shrink(true);
  shrink.mutable_volume()->set_size_bytes(volume.size_bytes() / 2);
  shrink.mutable_update_mask()->add_paths("size_bytes");
  v1::UpdateVolumeResponse updated;
  const int told_before = third.attach_calls();
  REQUIRE(Call(TESSERA_CALL(VolumeService, UpdateVolume), shrink, &updated).ok());
  REQUIRE(second.snapshot_calls().size() == 2);
  CHECK(second.snapshot_calls()[1].what == FakeSdc::SnapshotCall::kShrink);
  CHECK(client.snapshot_calls().empty());
  CHECK(third.snapshot_calls().empty());
  // All of them learn the new size.
  CHECK(third.attach_calls() == told_before + 1);
  CHECK(GetVolume(volume.volume_id()).generation() == generation);
  v1::AcquireGrantResponse response;
  REQUIRE(AcquireShared(third, &response).ok());
  CHECK(response.forward_to().volume_size_bytes() == volume.size_bytes() / 2);
}

}  // namespace
}  // namespace tessera::mdm
