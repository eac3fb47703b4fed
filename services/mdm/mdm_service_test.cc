// The MDM over real gRPC, with servers and clients that do as the test says.
#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "libtoken/token.h"
#include "services/common/auth.h"
#include "services/common/node.h"
#include "services/mdm/mdm_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

token::Key KeyFrom(const std::string& bytes) {
  token::Key key{};
  REQUIRE(bytes.size() == key.size());
  std::copy(bytes.begin(), bytes.end(), key.begin());
  return key;
}

TEST_CASE_METHOD(MdmFixture, "first contact needs the join token, return the secret") {
  FakeSds sds("sds-a");
  REQUIRE(Register(&sds).ok());
  CHECK(sds.sds_id == 1);
  CHECK(sds.secret.size() == 64);
  CHECK(sds.keys.size() == 1);
  sds.incarnation = 2;
  CHECK(Register(&sds).ok());
  const std::string good = sds.secret;
  sds.secret = std::string(64, '0');
  const grpc::Status wrong = Register(&sds);
  CHECK(wrong.error_code() == StatusCode::UNAUTHENTICATED);
  CHECK(Reason(wrong) == "NODE_SECRET_WRONG");
  // The answer to the first registration was lost: the same id and secret come again.
  sds.secret.clear();
  CHECK(Register(&sds).ok());
  CHECK(sds.secret == good);
  CHECK(sds.sds_id == 1);
}

TEST_CASE_METHOD(MdmFixture,
                 "a fault set that a server asks for is made only where that is wanted") {
  const bool wanted = GENERATE(false, true);
  StopMdm();
  options.assigner.create_fault_sets = wanted;
  StartMdm();
  FakeSds sds("sds-a");
  sds.fault_set = "Zone A";
  CHECK(Register(&sds).error_code() == StatusCode::INVALID_ARGUMENT);
  sds.fault_set = "zone-a";
  FakeSds neighbour("sds-b");
  neighbour.fault_set = "zone-a";
  FakeSds alone("sds-c");
  MakePool({&alone}, 1);
  REQUIRE(Register(&sds).ok());
  REQUIRE(Register(&neighbour).ok());
  const auto domain = [&] {
    v1::GetTopologyResponse response;
    REQUIRE(
        Call(TESSERA_CALL(TopologyService, GetTopology), v1::GetTopologyRequest(), &response).ok());
    REQUIRE(response.topology().protection_domains_size() == 1);
    return response.topology().protection_domains(0);
  };
  // 0: it is in no domain, or in a fault set of its own.
  const auto set_of = [&](const FakeSds& server) -> uint64_t {
    const v1::ProtectionDomainNode seen = domain();
    for (const v1::Sds& row : seen.sdss()) {
      if (row.sds_id() == server.sds_id) return row.fault_set_id();
    }
    return 0;
  };
  if (wanted) {
    REQUIRE(Await([&] { return domain().sdss_size() == 3; }));
    REQUIRE(domain().fault_sets_size() == 1);
    CHECK(domain().fault_sets(0).name() == "zone-a");
    CHECK(set_of(sds) != 0);
    CHECK(set_of(sds) == set_of(neighbour));
  } else {
    // They would have been adopted with this one.
    FakeSds later("sds-d");
    REQUIRE(Register(&later).ok());
    REQUIRE(Await([&] { return domain().sdss_size() == 2; }));
    CHECK(domain().fault_sets_size() == 0);
  }
  CHECK(set_of(alone) == 0);
}

TEST_CASE_METHOD(MdmFixture, "a join token may come from a file, which is not made") {
  const std::string file = folder + "/token";
  StopMdm();
  options.join_token_file = file;
  CHECK(absl::IsNotFound(MdmServer::Start(options, &clock).status()));
  REQUIRE(WriteFileAtomically(file, "short\n", 0600).ok());
  CHECK_FALSE(MdmServer::Start(options, &clock).ok());
  REQUIRE(WriteFileAtomically(file, "a-token-of-our-own\n", 0600).ok());
  StartMdm();
  CHECK(mdm->join_token() == "a-token-of-our-own");
  FakeSds sds("sds-a");
  CHECK(Register(&sds).ok());
}

TEST_CASE_METHOD(MdmFixture, "nodes are called as hosts are") {
  FakeSds sds("node-1.example.org");
  CHECK(Register(&sds).ok());
  for (const char* name : {"Node", "a..b", ".a", "a.", "a_b", ""}) {
    CAPTURE(name);
    FakeSds wrong(name);
    CHECK(Register(&wrong).error_code() == StatusCode::INVALID_ARGUMENT);
  }
}

TEST_CASE_METHOD(MdmFixture, "a wrong join token, a taken name, and a taken device are refused") {
  FakeSds sds("sds-a");
  REQUIRE(Register(&sds).ok());
  FakeSds same_name("sds-a");
  CHECK(Register(&same_name).error_code() == StatusCode::ALREADY_EXISTS);
  FakeSds same_device("sds-b");
  same_device.device_uuid = sds.device_uuid;
  const grpc::Status taken = Register(&same_device);
  CHECK(taken.error_code() == StatusCode::ALREADY_EXISTS);
  CHECK(Reason(taken) == "DEVICE_TAKEN");
  v1::RegisterSdcRequest request;
  request.mutable_identity()->set_node_uuid(NewUuid());
  request.mutable_identity()->set_name("client");
  request.mutable_identity()->set_incarnation(1);
  request.mutable_identity()->set_join_token("guess");
  request.mutable_endpoints()->set_control("127.0.0.1:1");
  v1::RegisterSdcResponse response;
  CHECK(Call(TESSERA_CALL(DiscoveryService, RegisterSdc), request, &response).error_code() ==
        StatusCode::UNAUTHENTICATED);
  request.mutable_identity()->set_node_uuid("x");
  CHECK(Call(TESSERA_CALL(DiscoveryService, RegisterSdc), request, &response).error_code() ==
        StatusCode::INVALID_ARGUMENT);
}

TEST_CASE_METHOD(MdmFixture, "an incarnation that went back is refused, also by heartbeat") {
  FakeSds sds("sds-a");
  sds.incarnation = 5;
  REQUIRE(Register(&sds).ok());
  sds.incarnation = 4;
  const grpc::Status status = Register(&sds);
  CHECK(status.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(status) == "INCARNATION_WENT_BACK");
  CHECK(Beat(&sds).error_code() == StatusCode::FAILED_PRECONDITION);
  sds.incarnation = 5;
  CHECK(Beat(&sds).ok());
}

TEST_CASE_METHOD(MdmFixture, "the state folder's secrets are for its owner alone") {
  for (const char* name : {"mdm.db", "secrets.key", "join_token", "admin_token"}) {
    struct stat status {};
    INFO(name);
    REQUIRE(stat((folder + "/" + name).c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
  }
  CHECK(ReadFile(folder + "/endpoints")->find("grpc=" + mdm->address()) != std::string::npos);
  CHECK(absl::IsFailedPrecondition(MdmServer::Start(options, &clock).status()));
}

TEST_CASE_METHOD(ClusterFixture, "roles: a server may not do what an administrator does") {
  v1::CreateVolumeRequest request;
  request.set_name("v");
  request.set_size_bytes(4096);
  v1::CreateVolumeResponse response;
  CHECK(
      Call(TESSERA_CALL(VolumeService, CreateVolume), request, &response, "sds", a.sds_id, a.secret)
          .error_code() == StatusCode::PERMISSION_DENIED);
  CHECK(
      Call(TESSERA_CALL(VolumeService, CreateVolume), request, &response, "sds", b.sds_id, a.secret)
          .error_code() == StatusCode::UNAUTHENTICATED);
  const std::string token = *ReadFile(folder + "/operator_token");
  CHECK(Call(TESSERA_CALL(VolumeService, CreateVolume), request, &response, "operator", 0,
             token.substr(11, 64))
            .ok());
}

TEST_CASE_METHOD(ClusterFixture, "servers that asked for a pool are in it once it is made") {
  const auto groups = Groups();
  REQUIRE(groups.size() == 4);
  for (const v1::PlacementGroup& group : groups) {
    CHECK(CountRole(group, v1::REPLICA_ROLE_IN_SYNC) == 2);
    CHECK(a.AwaitEpoch(group.placement_group_id(), group.epoch()));
    CHECK(b.AwaitEpoch(group.placement_group_id(), group.epoch()));
  }
  v1::GetTopologyResponse tree;
  REQUIRE(Call(TESSERA_CALL(TopologyService, GetTopology), v1::GetTopologyRequest(), &tree).ok());
  REQUIRE(tree.topology().protection_domains_size() == 1);
  const auto& domain = tree.topology().protection_domains(0);
  CHECK(domain.sdss_size() == 2);
  REQUIRE(domain.pools_size() == 1);
  CHECK(domain.pools(0).pool().redundancy() == v1::REDUNDANCY_STATE_HEALTHY);
  CHECK(domain.pools(0).pool().capacity().available_bytes() == 1ull << 40);
  CHECK(domain.sdss(0).devices(0).placement_groups() == 4);
  CHECK(tree.topology().sdcs_size() == 1);
}

TEST_CASE_METHOD(ClusterFixture, "the MDM proves itself to servers by their key") {
  const std::string authorization = a.last_authorization();
  const auto bearer = ParseBearer(authorization);
  REQUIRE(bearer.ok());
  CHECK(bearer->kind == "mdm");
  const token::Key key = KeyFrom(a.keys.at(static_cast<uint32_t>(bearer->id)));
  const token::Key expected = token::SignMessage(key, "control", std::to_string(a.sds_id));
  CHECK(bearer->secret == ToHex({reinterpret_cast<const char*>(expected.data()), expected.size()}));
}

TEST_CASE_METHOD(MdmFixture, "a volume without a place is refused with words") {
  FakeSds alone("sds-a");
  MakePool({}, 2);
  REQUIRE(Register(&alone).ok());
  v1::CreateVolumeRequest request;
  request.set_name("v");
  request.set_size_bytes(4096);
  v1::CreateVolumeResponse response;
  const grpc::Status status = Call(TESSERA_CALL(VolumeService, CreateVolume), request, &response);
  CHECK(status.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(status) == "POOL_NOT_READY");
  CHECK(status.error_message().find("2 replicas") != std::string::npos);
}

TEST_CASE_METHOD(ClusterFixture, "creating a volume: names, sizes, request ids, thick space") {
  auto create = TESSERA_CALL(VolumeService, CreateVolume);
  v1::CreateVolumeRequest request;
  v1::CreateVolumeResponse response;
  request.set_name("v");
  request.set_size_bytes(1 << 20);
  request.set_request_id("0b6e");
  REQUIRE(Call(create, request, &response).ok());
  const uint64_t id = response.volume().volume_id();
  REQUIRE(Call(create, request, &response).ok());
  CHECK(response.volume().volume_id() == id);
  request.set_request_id("other");
  CHECK(Reason(Call(create, request, &response)) == "NAME_TAKEN");
  request.set_name("w");
  for (uint64_t size : {uint64_t{0}, uint64_t{4097}, (uint64_t{1} << 50) + 4096}) {
    request.set_size_bytes(size);
    CHECK(Call(create, request, &response).error_code() == StatusCode::INVALID_ARGUMENT);
  }
  request.set_provisioning(v1::PROVISIONING_THICK);
  request.set_size_bytes((1ull << 40) + 4096);
  const grpc::Status full = Call(create, request, &response);
  CHECK(full.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  CHECK(full.error_message().find("1099511627776 bytes available") != std::string::npos);
  request.set_size_bytes(1ull << 39);
  CHECK(Call(create, request, &response).ok());
  request.set_name("x");
  request.clear_request_id();
  request.set_size_bytes((1ull << 39) + 4096);
  CHECK(Reason(Call(create, request, &response)) == "POOL_FULL");
}

TEST_CASE_METHOD(ClusterFixture, "lists come in pages, filtered") {
  for (const char* name : {"data-1", "data-2", "log-1", "data-3"}) (void)MakeVolume(name, 4096);
  v1::ListVolumesRequest request;
  request.set_page_size(2);
  request.set_name_contains("data");
  v1::ListVolumesResponse response;
  REQUIRE(Call(TESSERA_CALL(VolumeService, ListVolumes), request, &response).ok());
  CHECK(response.volumes_size() == 2);
  request.set_page_token(response.next_page_token());
  v1::ListVolumesResponse rest;
  REQUIRE(Call(TESSERA_CALL(VolumeService, ListVolumes), request, &rest).ok());
  REQUIRE(rest.volumes_size() == 1);
  CHECK(rest.volumes(0).name() == "data-3");
  CHECK(rest.next_page_token().empty());
}

TEST_CASE_METHOD(ClusterFixture, "mapping attaches; a writer excludes everybody; readers share") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  CHECK(client.attached().contains(volume.volume_id()));
  CHECK(Map(volume, client).ok());
  FakeSdc other("other");
  REQUIRE(Register(&other).ok());
  const grpc::Status refused = Map(volume, other);
  CHECK(refused.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(refused) == "VOLUME_MAPPED");
  CHECK(Map(volume, other, v1::MAPPING_MODE_READ_ONLY).error_code() ==
        StatusCode::FAILED_PRECONDITION);
  const v1::Volume shared = MakeVolume("shared");
  CHECK(Map(shared, client, v1::MAPPING_MODE_READ_ONLY).ok());
  CHECK(Map(shared, other, v1::MAPPING_MODE_READ_ONLY).ok());
  CHECK(Map(shared, other, v1::MAPPING_MODE_READ_WRITE).error_code() ==
        StatusCode::FAILED_PRECONDITION);
  CHECK(GetVolume(shared.volume_id()).mappings_size() == 2);
}

TEST_CASE_METHOD(ClusterFixture, "a mapping stays when its client can't be reached") {
  const v1::Volume volume = MakeVolume("v");
  client.Stop();
  CHECK(Map(volume, client).ok());
  CHECK_FALSE(GetVolume(volume.volume_id()).mappings(0).attached());
}

TEST_CASE_METHOD(ClusterFixture, "a grant is signed so that each server can check it alone") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  v1::IssuedGrant issued;
  REQUIRE(Acquire(volume, client, &issued).ok());
  const auto grant = token::DecodeGrant(issued.grant());
  REQUIRE(grant.ok());
  CHECK(grant->generation == volume.generation() + 1);
  CHECK(grant->sdc_id == client.sdc_id);
  CHECK(grant->volume_size_bytes == volume.size_bytes());
  CHECK(grant->access == token::AccessMode::kReadWrite);
  CHECK(grant->expiry_ms == grant->issued_ms + 60'000);
  REQUIRE(issued.keys_size() == 2);
  for (FakeSds* sds : {&a, &b}) {
    CHECK(sds->GenerationOf(volume.volume_id()) == grant->generation);
    const token::Key derived =
        token::GrantKey::Derive(KeyFrom(sds->keys.at(grant->key_id)), issued.grant()).bytes();
    const std::string expected(derived.begin(), derived.end());
    CHECK((issued.keys(0).key() == expected || issued.keys(1).key() == expected));
  }
}

TEST_CASE_METHOD(ClusterFixture, "a grant is for the client that has the volume mapped") {
  const v1::Volume volume = MakeVolume("v");
  const grpc::Status status = Acquire(volume, client, nullptr);
  CHECK(status.error_code() == StatusCode::PERMISSION_DENIED);
  CHECK(Reason(status) == "NOT_MAPPED");
}

TEST_CASE_METHOD(ClusterFixture, "renewal keeps id and generation, until the generation moves") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  v1::IssuedGrant first;
  REQUIRE(Acquire(volume, client, &first).ok());
  const auto before = token::DecodeGrant(first.grant());
  clock.AdvanceMillis(20'000);
  v1::RenewGrantRequest request;
  request.set_token_id(before->grant_id);
  v1::RenewGrantResponse response;
  auto renew = TESSERA_CALL(TokenService, RenewGrant);
  REQUIRE(Call(renew, request, &response, "sdc", client.sdc_id, client.secret).ok());
  const auto after = token::DecodeGrant(response.grant().grant());
  CHECK(after->grant_id == before->grant_id);
  CHECK(after->generation == before->generation);
  CHECK(after->expiry_ms == before->expiry_ms + 20'000);
  REQUIRE(Acquire(volume, client, nullptr).ok());
  const grpc::Status moved = Call(renew, request, &response, "sdc", client.sdc_id, client.secret);
  CHECK(moved.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(moved) == "GENERATION_MOVED");
}

TEST_CASE_METHOD(ClusterFixture,
                 "a reported replica is out before the answer; the last one stays") {
  const v1::PlacementGroup group = Groups()[0];
  v1::PlacementGroup entry;
  b.Stop();  // it does not come back as a learner meanwhile
  REQUIRE(Report(client, group.placement_group_id(), group.epoch(), b.device_id, &entry).ok());
  CHECK(entry.epoch() == group.epoch() + 1);
  CHECK(CountRole(entry, v1::REPLICA_ROLE_IN_SYNC) == 1);
  CHECK(a.AwaitEpoch(group.placement_group_id(), entry.epoch()));
  // About the old epoch: nothing changes but what others do.
  v1::PlacementGroup stale;
  REQUIRE(Report(client, group.placement_group_id(), group.epoch(), a.device_id, &stale).ok());
  CHECK(CountRole(stale, v1::REPLICA_ROLE_IN_SYNC) == 1);
  v1::PlacementGroup last;
  REQUIRE(Report(client, group.placement_group_id(), stale.epoch(), a.device_id, &last).ok());
  CHECK(CountRole(last, v1::REPLICA_ROLE_IN_SYNC) == 1);
  CHECK(Report(client, 999, 1, 1, &last).error_code() == StatusCode::NOT_FOUND);
}

TEST_CASE_METHOD(ClusterFixture, "an out-of-sync replica learns and is in sync again") {
  const v1::PlacementGroup group = Groups()[0];
  const uint64_t id = group.placement_group_id();
  v1::PlacementGroup entry;
  REQUIRE(Report(client, id, group.epoch(), b.device_id, &entry).ok());
  clock.AdvanceMillis(2'000);
  REQUIRE(Await([&] { return CountRole(Groups()[0], v1::REPLICA_ROLE_LEARNER) == 1; }));
  const uint64_t epoch = Groups()[0].epoch();
  v1::BeginLearningRequest begin;
  begin.set_placement_group_id(id);
  begin.set_epoch(epoch);
  begin.set_device_id(b.device_id);
  v1::BeginLearningResponse source;
  auto begin_learning = TESSERA_CALL(PlacementService, BeginLearning);
  CHECK(Call(begin_learning, begin, &source, "sds", a.sds_id, a.secret).error_code() ==
        StatusCode::PERMISSION_DENIED);
  REQUIRE(Call(begin_learning, begin, &source, "sds", b.sds_id, b.secret).ok());
  CHECK(source.source().sds_id() == a.sds_id);
  CHECK(source.ticket().learner_sds_id() == b.sds_id);
  CHECK(source.ticket().signature().size() == 32);
  begin.set_epoch(epoch - 1);
  CHECK(Call(begin_learning, begin, &source, "sds", b.sds_id, b.secret).error_code() ==
        StatusCode::ABORTED);
  v1::CompleteLearningRequest complete;
  complete.set_placement_group_id(id);
  complete.set_epoch(epoch);
  complete.set_device_id(b.device_id);
  v1::CompleteLearningResponse done;
  auto finish = TESSERA_CALL(PlacementService, CompleteLearning);
  REQUIRE(Call(finish, complete, &done, "sds", b.sds_id, b.secret).ok());
  CHECK(CountRole(Groups()[0], v1::REPLICA_ROLE_IN_SYNC) == 2);
  CHECK(Groups()[0].epoch() == epoch + 1);
  // The answer was lost: asking again is the same.
  CHECK(Call(finish, complete, &done, "sds", b.sds_id, b.secret).ok());
  CHECK(Groups()[0].epoch() == epoch + 1);
  complete.set_epoch(epoch - 1);
  CHECK(Call(finish, complete, &done, "sds", b.sds_id, b.secret).error_code() ==
        StatusCode::ABORTED);
}

TEST_CASE_METHOD(ClusterFixture, "a device that fails is out by its server's next heartbeat") {
  b.failure = "fsync failed";
  REQUIRE(Beat(&b).ok());
  for (const v1::PlacementGroup& group : Groups()) {
    CHECK(CountRole(group, v1::REPLICA_ROLE_IN_SYNC) == 1);
  }
  v1::ListComponentsResponse components;
  REQUIRE(
      Call(TESSERA_CALL(HealthService, ListComponents), v1::ListComponentsRequest(), &components)
          .ok());
  bool failed = false;
  for (const v1::ComponentHealth& component : components.components()) {
    failed = failed || component.state() == v1::COMPONENT_STATE_FAILED;
  }
  CHECK(failed);
}

TEST_CASE_METHOD(ClusterFixture,
                 "delete leaves a tombstone until each server has dropped the data") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  v1::DeleteVolumeRequest request;
  request.set_volume_id(volume.volume_id());
  v1::DeleteVolumeResponse response;
  auto remove = TESSERA_CALL(VolumeService, DeleteVolume);
  const grpc::Status mapped = Call(remove, request, &response);
  CHECK(mapped.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(mapped.error_message().find("client") != std::string::npos);
  v1::UnmapVolumeRequest unmap;
  unmap.set_volume_id(volume.volume_id());
  v1::UnmapVolumeResponse unmapped;
  REQUIRE(Call(TESSERA_CALL(VolumeService, UnmapVolume), unmap, &unmapped).ok());
  b.AnswerVtreeDeletion(false);
  REQUIRE(Call(remove, request, &response).ok());
  CHECK(a.AwaitDeletion(volume.vtree_id()));
  CHECK(b.AwaitDeletion(volume.vtree_id()));
  // Deleting what is deleted is OK; what never was is not.
  CHECK(Call(remove, request, &response).ok());
  request.set_volume_id(4711);
  CHECK(Call(remove, request, &response).error_code() == StatusCode::NOT_FOUND);
  b.incarnation = 2;
  v1::RegisterSdsRequest again;
  again.mutable_identity()->set_node_uuid(b.uuid);
  again.mutable_identity()->set_name(b.name);
  again.mutable_identity()->set_incarnation(2);
  again.mutable_identity()->set_node_secret(b.secret);
  again.mutable_endpoints()->set_control(b.address());
  again.add_devices()->set_device_uuid(b.device_uuid);
  v1::RegisterSdsResponse registered;
  REQUIRE(Call(TESSERA_CALL(DiscoveryService, RegisterSds), again, &registered).ok());
  REQUIRE(registered.deleted_vtree_ids_size() == 1);
  CHECK(registered.deleted_vtree_ids(0) == volume.vtree_id());
}

TEST_CASE_METHOD(ClusterFixture, "a watcher gets the whole map, then each change, signed") {
  grpc::ClientContext context;
  Prepare(&context, "sds", a.sds_id, a.secret);
  auto stub = Stub<v1::PlacementService>();
  auto stream = stub->WatchPlacementGroups(&context, v1::WatchPlacementGroupsRequest());
  v1::WatchPlacementGroupsResponse message;
  REQUIRE(stream->Read(&message));
  CHECK(message.snapshot());
  REQUIRE(message.placement_groups_size() == 4);
  CHECK(message.sds_addresses_size() == 2);
  REQUIRE(message.pools_size() == 1);
  CHECK(message.pools(0).placement_group_count() == 4);
  const v1::SignedPlacementGroup& entry = message.placement_groups(0);
  uint32_t mine = 0;
  for (const v1::PlacementGroupSignature& signature : entry.signatures()) {
    if (signature.sds_id() != a.sds_id) continue;
    ++mine;
    CHECK(token::VerifyMessage(KeyFrom(a.keys.at(signature.key_id())), "map",
                               entry.placement_group(),
                               {reinterpret_cast<const uint8_t*>(signature.signature().data()),
                                signature.signature().size()}));
  }
  CHECK(mine == 1);
  const v1::PlacementGroup group = Groups()[2];
  v1::PlacementGroup changed;
  REQUIRE(Report(client, group.placement_group_id(), group.epoch(), b.device_id, &changed).ok());
  bool seen = false;
  while (!seen && stream->Read(&message)) {
    CHECK_FALSE(message.snapshot());
    for (const v1::SignedPlacementGroup& each : message.placement_groups()) {
      v1::PlacementGroup parsed;
      parsed.ParseFromString(each.placement_group());
      seen = seen || (parsed.placement_group_id() == group.placement_group_id() &&
                      parsed.epoch() >= changed.epoch());
    }
  }
  CHECK(seen);
  context.TryCancel();
}

TEST_CASE_METHOD(ClusterFixture, "a watcher of the tree sees a volume appear") {
  grpc::ClientContext context;
  Prepare(&context);
  auto stub = Stub<v1::TopologyService>();
  auto stream = stub->WatchTopology(&context, v1::WatchTopologyRequest());
  v1::WatchTopologyResponse message;
  REQUIRE(stream->Read(&message));
  const uint64_t version = message.topology().version();
  (void)MakeVolume("seen", 4096);
  bool seen = false;
  while (!seen && stream->Read(&message)) {
    seen = message.topology().protection_domains(0).pools(0).volumes_size() == 1;
  }
  CHECK(seen);
  CHECK(message.topology().version() > version);
  context.TryCancel();
}

TEST_CASE_METHOD(ClusterFixture,
                 "silence makes a server stale, then offline, and the cluster says so") {
  const auto verdict = [&] {
    v1::GetClusterHealthResponse health;
    REQUIRE(
        Call(TESSERA_CALL(HealthService, GetClusterHealth), v1::GetClusterHealthRequest(), &health)
            .ok());
    return health.verdict();
  };
  CHECK(verdict() == v1::CLUSTER_VERDICT_OK);
  clock.AdvanceMillis(30'000);
  REQUIRE(Beat(&a).ok());
  CHECK(verdict() == v1::CLUSTER_VERDICT_DEGRADED);
  clock.AdvanceMillis(30'000);
  CHECK(verdict() == v1::CLUSTER_VERDICT_UNAVAILABLE);
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  CHECK(verdict() == v1::CLUSTER_VERDICT_OK);
  v1::ListEventsRequest request;
  v1::ListEventsResponse events;
  REQUIRE(Call(TESSERA_CALL(HealthService, ListEvents), request, &events).ok());
  CHECK(events.events_size() > 0);
}

TEST_CASE_METHOD(ClusterFixture, "after a restart of the MDM everything is as it was") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  v1::IssuedGrant grant;
  REQUIRE(Acquire(volume, client, &grant).ok());
  const auto before = Groups();
  StopMdm();
  clock.SetWallMillis(1'000'000'000'000);  // the wall clock went back meanwhile
  StartMdm();
  REQUIRE(Beat(&a).ok());
  REQUIRE(Beat(&b).ok());
  const auto after = Groups();
  REQUIRE(after.size() == before.size());
  for (size_t i = 0; i < before.size(); ++i) {
    CHECK(after[i].SerializeAsString() == before[i].SerializeAsString());
  }
  v1::RenewGrantRequest request;
  request.set_token_id(token::DecodeGrant(grant.grant())->grant_id);
  v1::RenewGrantResponse response;
  REQUIRE(Call(TESSERA_CALL(TokenService, RenewGrant), request, &response, "sdc", client.sdc_id,
               client.secret)
              .ok());
  CHECK(token::DecodeGrant(response.grant().grant())->issued_ms >=
        token::DecodeGrant(grant.grant())->issued_ms);
}

TEST_CASE_METHOD(ClusterFixture, "what is in use can't be deleted; what is not, can") {
  const v1::Volume volume = MakeVolume("v");
  v1::DeleteStoragePoolRequest pool;
  pool.set_pool_id(volume.pool_id());
  v1::DeleteStoragePoolResponse pool_gone;
  auto delete_pool = TESSERA_CALL(TopologyService, DeleteStoragePool);
  CHECK(Reason(Call(delete_pool, pool, &pool_gone)) == "IN_USE");
  v1::UnassignDeviceRequest unassign;
  unassign.set_device_id(a.device_id);
  v1::UnassignDeviceResponse unassigned;
  CHECK(Reason(Call(TESSERA_CALL(TopologyService, UnassignDevice), unassign, &unassigned)) ==
        "DEVICE_IN_USE");
  v1::DeleteVolumeRequest request;
  request.set_name("v");
  v1::DeleteVolumeResponse response;
  REQUIRE(Call(TESSERA_CALL(VolumeService, DeleteVolume), request, &response).ok());
  const grpc::Status status = Call(delete_pool, pool, &pool_gone);
  INFO(status.error_message());
  CHECK(status.ok());
  v1::DeleteSdsRequest sds;
  sds.set_sds_id(a.sds_id);
  v1::DeleteSdsResponse sds_gone;
  CHECK(Call(TESSERA_CALL(TopologyService, DeleteSds), sds, &sds_gone).ok());
  CHECK(Beat(&a).error_code() == StatusCode::UNAUTHENTICATED);
}

TEST_CASE_METHOD(ClusterFixture,
                 "a third server joins an empty pool; placed groups keep their epochs' order") {
  FakeSds c("sds-c");
  const auto before = Groups();
  REQUIRE(Register(&c).ok());
  CHECK(Await([&] {
    uint32_t on_c = 0;
    for (const v1::PlacementGroup& group : Groups()) {
      for (const v1::Replica& replica : group.replicas()) on_c += replica.sds_id() == c.sds_id;
    }
    return on_c > 0;
  }));
  const auto after = Groups();
  for (size_t i = 0; i < before.size(); ++i) CHECK(after[i].epoch() >= before[i].epoch());
}

TEST_CASE_METHOD(ClusterFixture, "the MDM says what it is and how it does") {
  v1::GetClusterInfoResponse info;
  REQUIRE(Call(TESSERA_CALL(DiscoveryService, GetClusterInfo), v1::GetClusterInfoRequest(), &info)
              .ok());
  CHECK(info.leader());
  CHECK(info.cluster_uuid().size() == 36);
  v1::GetStatusResponse status;
  REQUIRE(Call(TESSERA_CALL(MonitoringService, GetStatus), v1::GetStatusRequest(), &status).ok());
  CHECK(status.kind() == v1::COMPONENT_KIND_MDM);
  CHECK(status.figures_size() > 0);
}

}  // namespace
}  // namespace tessera::mdm
