// Rebuild, drain, maintenance and their operations over real gRPC, with servers that learn when the
// test says so.
#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "services/common/node.h"
#include "services/mdm/mdm_fixture.h"
#include "tessera/v1/operation.grpc.pb.h"
#include "tessera/v1/repair.grpc.pb.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

// Three servers with a device each, two copies of four groups, a volume.
struct RepairFixture : MdmFixture {
  RepairFixture() {
    MakePool({&a, &b, &c}, 2);
    (void)MakeVolume("data");
    REQUIRE(Register(&client).ok());
  }

  template <typename Service, typename Method, typename Request, typename Response>
  grpc::Status Ask(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    Prepare(&context);
    auto stub = Stub<Service>();
    return ((*stub).*method)(&context, request, response);
  }

  // The server falls silent for long enough; the others go on.
  void Lose(FakeSds* lost) {
    lost->Stop();
    clock.AdvanceMillis(options.stale_after_ms + 1'000);
    for (FakeSds* sds : {&a, &b, &c}) {
      if (sds != lost) REQUIRE(Beat(sds).ok());
    }
  }
  void Bring(FakeSds* sds) {
    sds->Start();
    REQUIRE(Beat(sds).ok());
  }

  const v1::Replica* Member(const v1::PlacementGroup& group, const FakeSds& sds) {
    for (const v1::Replica& replica : group.replicas()) {
      if (replica.sds_id() == sds.sds_id) return &replica;
    }
    return nullptr;
  }
  uint32_t Count(const FakeSds& sds, v1::ReplicaRole role) {
    uint32_t count = 0;
    for (const v1::PlacementGroup& group : Groups()) {
      const v1::Replica* replica = Member(group, sds);
      if (replica != nullptr && replica->role() == role) ++count;
    }
    return count;
  }
  uint32_t Held(const FakeSds& sds) {
    uint32_t count = 0;
    for (const v1::PlacementGroup& group : Groups()) count += Member(group, sds) != nullptr;
    return count;
  }

  // Every learner there is says that it is done; how many were.
  int Learn() {
    int learned = 0;
    for (const v1::PlacementGroup& group : Groups()) {
      for (FakeSds* sds : {&a, &b, &c}) {
        const v1::Replica* replica = Member(group, *sds);
        if (replica == nullptr || replica->role() != v1::REPLICA_ROLE_LEARNER) continue;
        v1::CompleteLearningRequest request;
        request.set_placement_group_id(group.placement_group_id());
        request.set_epoch(group.epoch());
        request.set_device_id(replica->device_id());
        request.set_bytes_copied(1'000);
        v1::CompleteLearningResponse response;
        grpc::ClientContext context;
        Prepare(&context, "sds", sds->sds_id, sds->secret);
        learned +=
            Stub<v1::PlacementService>()->CompleteLearning(&context, request, &response).ok();
        break;
      }
    }
    return learned;
  }
  std::vector<v1::Operation> Operations(bool running_only = false) {
    v1::ListOperationsRequest request;
    request.set_running_only(running_only);
    v1::ListOperationsResponse response;
    REQUIRE(
        Ask<v1::OperationService>(&v1::OperationService::Stub::ListOperations, request, &response)
            .ok());
    return {response.operations().begin(), response.operations().end()};
  }
  grpc::Status Drain(const FakeSds& sds, v1::Operation* operation = nullptr) {
    v1::StartDrainRequest request;
    request.set_sds_id(sds.sds_id);
    v1::StartDrainResponse response;
    const grpc::Status status =
        Ask<v1::RepairService>(&v1::RepairService::Stub::StartDrain, request, &response);
    if (operation != nullptr) *operation = response.operation();
    return status;
  }
  grpc::Status Set(const v1::UpdateRepairSettingsRequest& request,
                   v1::RepairSettings* settings = nullptr) {
    v1::UpdateRepairSettingsResponse response;
    const grpc::Status status =
        Ask<v1::RepairService>(&v1::RepairService::Stub::UpdateRepairSettings, request, &response);
    if (settings != nullptr) *settings = response.settings();
    return status;
  }

  FakeSds a{"sds-a"};
  FakeSds b{"sds-b"};
  FakeSds c{"sds-c"};
  FakeSdc client{"client"};
};

TEST_CASE_METHOD(RepairFixture, "a server that is gone is replaced, group by group", "[repair]") {
  const uint32_t lost = Held(b);
  REQUIRE(lost > 0);
  Lose(&b);
  REQUIRE(Await([&] {
    Learn();
    return Held(b) == 0;
  }));
  for (const v1::PlacementGroup& group : Groups()) {
    REQUIRE(group.replicas_size() == 2);
    for (const v1::Replica& replica : group.replicas()) {
      CHECK(replica.role() == v1::REPLICA_ROLE_IN_SYNC);
    }
  }
  REQUIRE(Await([&] { return Operations(true).empty(); }));
  const auto operations = Operations();
  REQUIRE(operations.size() == 1);
  CHECK(operations[0].kind() == v1::OPERATION_KIND_REBUILD);
  CHECK(operations[0].state() == v1::OPERATION_STATE_SUCCEEDED);
  CHECK(operations[0].placement_groups_done() == lost);
  CHECK(operations[0].bytes_done() == lost * 1'000);
  CHECK(operations[0].subject() == absl::StrCat("device ", b.device_id, " of sds-b"));
  // It comes back with nothing to say, and rebalance gives it a share again.
  Bring(&b);
  REQUIRE(Await([&] {
    Learn();
    return Count(b, v1::REPLICA_ROLE_IN_SYNC) >= 2;
  }));
}

TEST_CASE_METHOD(RepairFixture, "a rebuild outlives the MDM, and the original may return first",
                 "[repair]") {
  Lose(&b);
  REQUIRE(Await(
      [&] { return Count(a, v1::REPLICA_ROLE_LEARNER) + Count(c, v1::REPLICA_ROLE_LEARNER) > 0; }));
  const auto before = Operations(true);
  REQUIRE(before.size() == 1);
  StopMdm();
  StartMdm();
  for (FakeSds* sds : {&a, &c}) REQUIRE(Beat(sds).ok());
  const auto after = Operations(true);
  REQUIRE(after.size() == 1);
  CHECK(after[0].operation_id() == before[0].operation_id());
  // Back before anything was copied: it was never out of sync, so the new members leave.
  Bring(&b);
  REQUIRE(Await([&] { return Operations(true).empty(); }));
  for (const v1::PlacementGroup& group : Groups()) {
    CHECK(group.replicas_size() == 2);
    for (const v1::Replica& replica : group.replicas()) {
      CHECK(replica.role() == v1::REPLICA_ROLE_IN_SYNC);
    }
  }
}

TEST_CASE_METHOD(RepairFixture, "a server that left a group is told so, signed for it",
                 "[repair]") {
  v1::UpdateRepairSettingsRequest pause;
  pause.mutable_settings()->set_rebalance_paused(true);
  pause.mutable_update_mask()->add_paths("rebalance_paused");
  REQUIRE(Set(pause).ok());
  std::map<uint64_t, uint64_t> held;
  for (const v1::PlacementGroup& group : Groups()) {
    if (Member(group, b) != nullptr) held[group.placement_group_id()] = group.epoch();
  }
  REQUIRE(Drain(b).ok());
  REQUIRE(Await([&] {
    Learn();
    return Held(b) == 0;
  }));
  // Joined by a learner, and left: two epochs later.
  for (const auto& [id, epoch] : held) CHECK(b.AwaitEpoch(id, epoch + 2));
}

TEST_CASE_METHOD(RepairFixture, "drain: everything moves, then the server can go", "[repair]") {
  v1::RemoveSdsRequest remove;
  remove.set_sds_id(b.sds_id);
  v1::RemoveSdsResponse removed;
  const auto remove_call = &v1::RepairService::Stub::RemoveSds;
  CHECK(Reason(Ask<v1::RepairService>(remove_call, remove, &removed)) == "SDS_IN_USE");
  v1::Operation operation;
  REQUIRE(Drain(b, &operation).ok());
  CHECK(operation.kind() == v1::OPERATION_KIND_DRAIN);
  v1::Operation again;
  REQUIRE(Drain(b, &again).ok());
  CHECK(again.operation_id() == operation.operation_id());
  REQUIRE(Await([&] {
    Learn();
    return Operations(true).empty();
  }));
  CHECK(Held(b) == 0);
  CHECK(Operations()[0].state() == v1::OPERATION_STATE_SUCCEEDED);
  const grpc::Status status = Ask<v1::RepairService>(remove_call, remove, &removed);
  INFO(status.error_message());
  CHECK(status.ok());
  CHECK(Beat(&b).error_code() == StatusCode::UNAUTHENTICATED);
  // With two servers left neither can be drained.
  const grpc::Status refused = Drain(a);
  CHECK(refused.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(refused) == "NOT_ENOUGH_SERVERS");
}

TEST_CASE_METHOD(RepairFixture, "a removed device is not adopted again until it is assigned",
                 "[repair]") {
  REQUIRE(Drain(b).ok());
  REQUIRE(Await([&] {
    Learn();
    return Held(b) == 0;
  }));
  v1::RemoveDeviceRequest remove;
  remove.set_device_id(b.device_id);
  v1::RemoveDeviceResponse removed;
  b.Stop();  // it learns of it when it is back
  REQUIRE(Ask<v1::RepairService>(&v1::RepairService::Stub::RemoveDevice, remove, &removed).ok());
  CHECK(removed.device().pool_id() == 0);
  CHECK(removed.device().use() == v1::DEVICE_USE_REMOVED);
  b.incarnation = 2;
  REQUIRE(Register(&b).ok());  // its configuration still names the pool
  mdm->Tick();
  // The MDM has just failed to reach it, and does not try again at once.
  REQUIRE(Ask<v1::RepairService>(&v1::RepairService::Stub::RemoveDevice, remove, &removed).ok());
  b.Start();
  v1::AssignDeviceRequest assign;
  assign.set_device_id(b.device_id);
  assign.set_pool_id(1);
  v1::AssignDeviceResponse assigned;
  REQUIRE(
      Ask<v1::TopologyService>(&v1::TopologyService::Stub::AssignDevice, assign, &assigned).ok());
  CHECK(assigned.device().use() == v1::DEVICE_USE_NORMAL);
  REQUIRE(Await([&] {
    Learn();
    return Held(b) >= 2;
  }));
}

TEST_CASE_METHOD(RepairFixture,
                 "a server that came back with another disk: which is gone is known at once",
                 "[repair]") {
  REQUIRE(Beat(&b).ok());
  const uint64_t old_device = b.device_id;
  b.device_uuid = NewUuid();
  b.incarnation = 2;
  REQUIRE(Register(&b).ok());
  REQUIRE(b.device_id != old_device);
  // It has not sent a heartbeat yet.
  v1::ListSdssResponse listed;
  REQUIRE(
      Ask<v1::TopologyService>(&v1::TopologyService::Stub::ListSdss, v1::ListSdssRequest(), &listed)
          .ok());
  size_t seen = 0;
  for (const v1::Sds& sds : listed.sdss()) {
    for (const v1::Device& device : sds.devices()) {
      seen += sds.sds_id() == b.sds_id ? 1 : 0;
      CHECK(device.state() == (device.device_id() == old_device ? v1::COMPONENT_STATE_FAILED
                                                                : v1::COMPONENT_STATE_ONLINE));
    }
  }
  CHECK(seen == 2);
  v1::ReplaceDeviceRequest replace;
  replace.set_device_id(old_device);
  replace.set_successor_device_id(b.device_id);
  v1::ReplaceDeviceResponse replaced;
  REQUIRE(Ask<v1::RepairService>(&v1::RepairService::Stub::ReplaceDevice, replace, &replaced).ok());
  REQUIRE(Await([&] {
    Learn();
    return Count(b, v1::REPLICA_ROLE_IN_SYNC) >= 2;
  }));
}

TEST_CASE_METHOD(RepairFixture, "a drain that is cancelled leaves everything where it was",
                 "[repair]") {
  const uint32_t held = Held(b);
  v1::Operation operation;
  REQUIRE(Drain(b, &operation).ok());
  REQUIRE(Await([&] {
    return Groups()[0].replicas_size() + Groups()[1].replicas_size() + Groups()[2].replicas_size() +
               Groups()[3].replicas_size() >
           8;
  }));
  v1::CancelOperationRequest cancel;
  cancel.set_operation_id(operation.operation_id());
  v1::CancelOperationResponse cancelled;
  REQUIRE(
      Ask<v1::OperationService>(&v1::OperationService::Stub::CancelOperation, cancel, &cancelled)
          .ok());
  CHECK(cancelled.operation().state() == v1::OPERATION_STATE_CANCELLED);
  REQUIRE(Await([&] {
    for (const v1::PlacementGroup& group : Groups()) {
      if (group.replicas_size() != 2) return false;
    }
    return true;
  }));
  CHECK(Held(b) == held);
  cancel.set_operation_id(99);
  CHECK(Ask<v1::OperationService>(&v1::OperationService::Stub::CancelOperation, cancel, &cancelled)
            .error_code() == StatusCode::NOT_FOUND);
}

TEST_CASE_METHOD(RepairFixture, "maintenance: no rebuild, refused where data could not be used",
                 "[repair]") {
  const auto enter_call = &v1::RepairService::Stub::EnterMaintenance;
  v1::EnterMaintenanceRequest enter;
  enter.set_sds_id(b.sds_id);
  v1::EnterMaintenanceResponse entered;
  CHECK(Ask<v1::RepairService>(enter_call, enter, &entered).error_code() ==
        StatusCode::INVALID_ARGUMENT);
  enter.set_duration_ms(600'000);
  enter.set_reason("new fan");
  REQUIRE(Ask<v1::RepairService>(enter_call, enter, &entered).ok());
  CHECK(entered.sds().maintenance_reason() == "new fan");
  const uint32_t held = Held(b);
  Lose(&b);
  for (int i = 0; i < 5; ++i) mdm->Tick();
  CHECK(Operations().empty());
  CHECK(Held(b) == held);
  // While one copy is away the other must not go.
  enter.set_sds_id(a.sds_id);
  const grpc::Status refused = Ask<v1::RepairService>(enter_call, enter, &entered);
  CHECK(refused.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(refused) == "MAINTENANCE_UNSAFE");
  enter.set_force(true);
  CHECK(Ask<v1::RepairService>(enter_call, enter, &entered).ok());
  v1::ExitMaintenanceRequest leave;
  leave.set_sds_id(a.sds_id);
  v1::ExitMaintenanceResponse left;
  REQUIRE(Ask<v1::RepairService>(&v1::RepairService::Stub::ExitMaintenance, leave, &left).ok());
  CHECK(left.sds().maintenance_until_ms() == 0);
  // Its time is over: now it counts as away.
  clock.AdvanceMillis(600'000);
  for (FakeSds* sds : {&a, &c}) REQUIRE(Beat(sds).ok());
  CHECK(Await([&] { return !Operations(true).empty(); }));
}

TEST_CASE_METHOD(RepairFixture, "settings: only what the mask names, within bounds, kept",
                 "[repair]") {
  v1::UpdateRepairSettingsRequest request;
  CHECK(Set(request).error_code() == StatusCode::INVALID_ARGUMENT);
  request.mutable_update_mask()->add_paths("rebuild_delays");
  CHECK(Set(request).error_code() == StatusCode::INVALID_ARGUMENT);
  request.mutable_update_mask()->set_paths(0, "full_percent");
  request.mutable_settings()->set_full_percent(99);
  const grpc::Status refused = Set(request);
  CHECK(refused.error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(refused.error_message().find("50 to 95") != std::string::npos);
  request.mutable_settings()->set_full_percent(90);
  request.mutable_settings()->set_rebuild_delay_ms(5);
  v1::RepairSettings settings;
  REQUIRE(Set(request, &settings).ok());
  CHECK(settings.full_percent() == 90);
  CHECK(settings.rebuild_delay_ms() == 600'000);
  StopMdm();
  StartMdm();
  v1::GetRepairSettingsResponse kept;
  REQUIRE(Ask<v1::RepairService>(&v1::RepairService::Stub::GetRepairSettings,
                                 v1::GetRepairSettingsRequest(), &kept)
              .ok());
  CHECK(kept.settings().full_percent() == 90);
}

TEST_CASE_METHOD(RepairFixture, "progress comes from the learners' heartbeats", "[repair]") {
  REQUIRE(Drain(b).ok());
  REQUIRE(Await(
      [&] { return Count(a, v1::REPLICA_ROLE_LEARNER) + Count(c, v1::REPLICA_ROLE_LEARNER) > 0; }));
  for (FakeSds* sds : {&a, &c}) {
    v1::HeartbeatRequest request;
    request.set_incarnation(sds->incarnation);
    for (const v1::PlacementGroup& group : Groups()) {
      const v1::Replica* replica = Member(group, *sds);
      if (replica == nullptr || replica->role() != v1::REPLICA_ROLE_LEARNER) continue;
      v1::LearnerStatus* status = request.add_learners();
      status->set_placement_group_id(group.placement_group_id());
      status->set_epoch(group.epoch());
      status->set_device_id(replica->device_id());
      status->set_bytes_copied(300);
      status->set_bytes_left(700);
      status->set_listing_done(true);
      status->set_interruptions(2);
      status->set_last_error("cable");
    }
    v1::HeartbeatResponse response;
    grpc::ClientContext context;
    Prepare(&context, "sds", sds->sds_id, sds->secret);
    REQUIRE(Stub<v1::HealthService>()->Heartbeat(&context, request, &response).ok());
  }
  v1::Operation operation;
  REQUIRE(Await([&] {
    const auto running = Operations(true);
    if (running.size() != 1 || running[0].placement_groups_running() == 0) return false;
    operation = running[0];
    return operation.bytes_done() == 300 * operation.placement_groups_running();
  }));
  CHECK(operation.bytes_total() >= 1'000 * operation.placement_groups_running());
  CHECK(operation.last_error() == "cable");
  CHECK(operation.retries() == 2 * operation.placement_groups_running());
}

TEST_CASE_METHOD(RepairFixture, "each volume has a verdict with its cause and what to do",
                 "[repair]") {
  const auto health = [&] {
    v1::ListVolumeHealthResponse response;
    REQUIRE(Ask<v1::HealthService>(&v1::HealthService::Stub::ListVolumeHealth,
                                   v1::ListVolumeHealthRequest(), &response)
                .ok());
    REQUIRE(response.volumes_size() == 1);
    return response.volumes(0);
  };
  CHECK(health().verdict() == v1::VOLUME_VERDICT_HEALTHY);
  CHECK(health().percent() == 100);
  Lose(&b);
  CHECK(health().verdict() == v1::VOLUME_VERDICT_SINGLE_COPY);
  CHECK(health().cause().find("sds-b") != std::string::npos);
  REQUIRE(Await([&] { return health().rebuilding(); }));
  CHECK(health().action().find("nothing") == 0);
  clock.AdvanceMillis(options.stale_after_ms + 1'000);
  REQUIRE(Beat(&c).ok());
  CHECK(health().verdict() == v1::VOLUME_VERDICT_UNAVAILABLE);
  CHECK(health().action().find("bring a server") == 0);
}

}  // namespace
}  // namespace tessera::mdm
