// Bad blocks and scrub over real gRPC, with servers that say what the test wants.
#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "services/mdm/mdm_fixture.h"
#include "tessera/v1/operation.grpc.pb.h"
#include "tessera/v1/scrub.grpc.pb.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

// Two servers with a device each, a pool of both, a volume.
struct ScrubFixture : MdmFixture {
  ScrubFixture() {
    MakePool({&a, &b}, 2);
    volume = MakeVolume("data");
    REQUIRE(Await([&] { return OrdersOf(&a).size() == 1 && OrdersOf(&b).size() == 1; }));
  }

  template <typename Service, typename Method, typename Request, typename Response>
  grpc::Status Ask(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    Prepare(&context);
    auto stub = Stub<Service>();
    return ((*stub).*method)(&context, request, response);
  }
  v1::HeartbeatResponse Tell(FakeSds* sds, v1::HeartbeatRequest request) {
    request.set_incarnation(sds->incarnation);
    v1::HeartbeatResponse response;
    grpc::ClientContext context;
    Prepare(&context, "sds", sds->sds_id, sds->secret);
    REQUIRE(Stub<v1::HealthService>()->Heartbeat(&context, request, &response).ok());
    return response;
  }
  std::vector<v1::ScrubOrder> OrdersOf(FakeSds* sds) {
    const v1::HeartbeatResponse response = Tell(sds, {});
    return {response.scrub_orders().begin(), response.scrub_orders().end()};
  }
  // The device's pass of the operation, so far.
  void TellScrub(FakeSds* sds, uint64_t operation_id, uint64_t done, uint64_t total, bool ended) {
    v1::HeartbeatRequest request;
    v1::ScrubStatus* status = request.add_scrubs();
    status->set_device_id(sds->device_id);
    status->set_running(!ended);
    status->set_operation_id(operation_id);
    status->set_bytes_done(done);
    status->set_bytes_total(total);
    status->set_blocks_found(3);
    status->set_blocks_repaired(2);
    status->set_blocks_unreadable(1);
    if (ended) status->set_completed_operation_id(operation_id);
    Tell(sds, request);
  }
  v1::CorruptBlocks Blocks(FakeSds* sds, v1::CorruptBlockChange change, uint32_t first,
                           uint32_t count) {
    v1::CorruptBlocks blocks;
    blocks.set_change(change);
    blocks.set_device_id(sds->device_id);
    blocks.mutable_key()->set_vtree_id(volume.vtree_id());
    blocks.mutable_key()->set_chunk_index(3);
    blocks.set_first_block(first);
    blocks.set_block_count(count);
    blocks.set_finder(v1::CORRUPT_BLOCK_FINDER_SCRUB);
    blocks.set_reason("it is bad on every replica in sync");
    return blocks;
  }
  std::vector<v1::Event> Events(const std::string& code) {
    v1::ListEventsRequest request;
    request.set_page_size(1'000);
    v1::ListEventsResponse response;
    REQUIRE(Ask<v1::HealthService>(&v1::HealthService::Stub::ListEvents, request, &response).ok());
    std::vector<v1::Event> found;
    for (const v1::Event& event : response.events()) {
      if (event.code() == code) found.push_back(event);
    }
    return found;
  }
  v1::VolumeHealth Health() {
    v1::ListVolumeHealthResponse response;
    REQUIRE(Ask<v1::HealthService>(&v1::HealthService::Stub::ListVolumeHealth,
                                   v1::ListVolumeHealthRequest(), &response)
                .ok());
    return response.volumes(0);
  }
  grpc::Status Start(const v1::StartScrubRequest& request, v1::Operation* operation) {
    v1::StartScrubResponse response;
    const grpc::Status status =
        Ask<v1::ScrubService>(&v1::ScrubService::Stub::StartScrub, request, &response);
    *operation = response.operation();
    return status;
  }
  v1::Operation Get(uint64_t operation_id) {
    v1::GetOperationRequest request;
    request.set_operation_id(operation_id);
    v1::GetOperationResponse response;
    REQUIRE(Ask<v1::OperationService>(&v1::OperationService::Stub::GetOperation, request, &response)
                .ok());
    return response.operation();
  }

  FakeSds a{"a"};
  FakeSds b{"b"};
  v1::Volume volume;
};

TEST_CASE("Bad blocks become events, each list once, and a verdict as long as they are lost") {
  ScrubFixture f;
  v1::HeartbeatRequest request;
  request.set_corrupt_block_report(1);
  *request.add_corrupt_block_changes() = f.Blocks(&f.a, v1::CORRUPT_BLOCK_CHANGE_FOUND, 4, 2);
  *request.add_corrupt_block_changes() =
      f.Blocks(&f.a, v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE, 4, 2);
  *request.add_unreadable_blocks() = f.Blocks(&f.a, v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE, 4, 2);
  f.Tell(&f.a, request);
  f.Tell(&f.a, request);
  REQUIRE(f.Events("corrupt_block_found").size() == 1);
  const v1::Event found = f.Events("corrupt_block_found")[0];
  CHECK(found.severity() == v1::EVENT_SEVERITY_WARNING);
  CHECK(found.component_id() == f.a.device_id);
  CHECK(found.message() == absl::StrCat("volume data: blocks 4 to 5 of chunk ", f.volume.vtree_id(),
                                        "/3/0 on device ", f.a.device_id,
                                        " of a: bad, found by scrub"));
  REQUIRE(f.Events("corrupt_block_unrepairable").size() == 1);
  CHECK(f.Events("corrupt_block_unrepairable")[0].severity() == v1::EVENT_SEVERITY_ERROR);
  // Both replicas lack the same blocks: that is two blocks, not four.
  v1::HeartbeatRequest other;
  *other.add_unreadable_blocks() = f.Blocks(&f.b, v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE, 4, 2);
  f.Tell(&f.b, other);
  CHECK(f.Health().verdict() == v1::VOLUME_VERDICT_DAMAGED);
  CHECK(f.Health().unreadable_blocks() == 2);
  CHECK(f.Health().cause().find("bad on every replica in sync") != std::string::npos);
  CHECK_FALSE(f.Health().action().empty());
  v1::GetClusterHealthResponse cluster;
  REQUIRE(f.Ask<v1::HealthService>(&v1::HealthService::Stub::GetClusterHealth,
                                   v1::GetClusterHealthRequest(), &cluster)
              .ok());
  CHECK(cluster.verdict() == v1::CLUSTER_VERDICT_UNAVAILABLE);
  CHECK(cluster.causes(0).code() == "blocks_unreadable");
  f.Tell(&f.a, {});
  f.Tell(&f.b, {});
  CHECK(f.Health().verdict() == v1::VOLUME_VERDICT_HEALTHY);
  // A new life counts its lists anew.
  ++f.a.incarnation;
  REQUIRE(f.Register(&f.a).ok());
  f.Tell(&f.a, request);
  CHECK(f.Events("corrupt_block_found").size() == 2);
}

TEST_CASE("A scrub runs on its devices, shows how far they are, and ends with the last") {
  ScrubFixture f;
  v1::StartScrubRequest request;
  request.set_pool_id(f.volume.pool_id());
  request.set_bytes_per_second(1 << 20);
  v1::Operation operation;
  REQUIRE(f.Start(request, &operation).ok());
  CHECK(operation.kind() == v1::OPERATION_KIND_SCRUB);
  CHECK(operation.subject() == "pool pool");
  const uint64_t id = operation.operation_id();
  REQUIRE(f.OrdersOf(&f.a).size() == 1);
  CHECK(f.OrdersOf(&f.a)[0].operation_id() == id);
  CHECK(f.OrdersOf(&f.a)[0].operation_bytes_per_second() == 1 << 20);
  CHECK(f.OrdersOf(&f.a)[0].interval_ms() == 604'800'000);
  // Again: the same one.
  v1::Operation again;
  REQUIRE(f.Start(request, &again).ok());
  CHECK(again.operation_id() == id);

  f.TellScrub(&f.a, id, 100, 400, false);
  REQUIRE(f.Await([&] { return f.Get(id).bytes_done() == 100; }));
  CHECK(f.Get(id).bytes_total() == 400);
  CHECK(f.Get(id).devices_total() == 2);
  CHECK(f.Get(id).blocks_found() == 3);
  f.TellScrub(&f.a, id, 400, 400, true);
  REQUIRE(f.Await([&] { return f.Get(id).devices_done() == 1; }));
  CHECK(f.OrdersOf(&f.a)[0].operation_id() == 0);
  CHECK(f.OrdersOf(&f.b)[0].operation_id() == id);
  SECTION("also over a restart of the MDM") {
    f.StopMdm();
    f.StartMdm();
    REQUIRE(f.Await([&] { return f.Get(id).devices_done() == 1; }));
  }
  f.TellScrub(&f.b, id, 300, 300, true);
  REQUIRE(f.Await([&] { return f.Get(id).ended_ms() != 0; }));
  const v1::Operation ended = f.Get(id);
  CHECK(ended.state() == v1::OPERATION_STATE_SUCCEEDED);
  CHECK(ended.bytes_done() == 700);
  CHECK(ended.devices_done() == 2);
  CHECK(ended.blocks_found() == 6);
  CHECK(ended.blocks_repaired() == 4);
  CHECK(ended.blocks_unreadable() == 2);
  CHECK(f.Events("scrub_done").size() == 1);
}

TEST_CASE("A scrub that is cancelled is ordered no more") {
  ScrubFixture f;
  v1::StartScrubRequest request;
  request.set_volume_id(f.volume.volume_id());
  v1::Operation operation;
  REQUIRE(f.Start(request, &operation).ok());
  CHECK(f.OrdersOf(&f.a)[0].vtree_id() == f.volume.vtree_id());
  SECTION("another one on the same devices is refused meanwhile") {
    v1::StartScrubRequest pool;
    pool.set_pool_id(f.volume.pool_id());
    v1::Operation refused;
    const grpc::Status status = f.Start(pool, &refused);
    CHECK(status.error_code() == StatusCode::FAILED_PRECONDITION);
    CHECK(Reason(status) == "SCRUB_RUNNING");
  }
  v1::CancelOperationRequest cancel;
  cancel.set_operation_id(operation.operation_id());
  v1::CancelOperationResponse cancelled;
  for (int i = 0; i < 2; ++i) {
    REQUIRE(f.Ask<v1::OperationService>(&v1::OperationService::Stub::CancelOperation, cancel,
                                        &cancelled)
                .ok());
    CHECK(cancelled.operation().state() == v1::OPERATION_STATE_CANCELLED);
  }
  REQUIRE(f.Await([&] { return f.OrdersOf(&f.a)[0].operation_id() == 0; }));
  CHECK(f.Events("scrub_cancelled").size() == 1);
}

TEST_CASE("What makes no sense as a scrub is refused and changes nothing") {
  ScrubFixture f;
  v1::Operation operation;
  v1::StartScrubRequest request;
  CHECK(f.Start(request, &operation).error_code() == StatusCode::INVALID_ARGUMENT);
  request.set_pool_id(f.volume.pool_id());
  request.set_sds_id(f.a.sds_id);
  CHECK(f.Start(request, &operation).error_code() == StatusCode::INVALID_ARGUMENT);
  request.set_sds_id(0);
  request.set_bytes_per_second(1);
  CHECK(f.Start(request, &operation).error_code() == StatusCode::INVALID_ARGUMENT);
  request.set_bytes_per_second(0);
  request.set_pool_id(77);
  CHECK(f.Start(request, &operation).error_code() == StatusCode::NOT_FOUND);
  CHECK(f.OrdersOf(&f.a)[0].operation_id() == 0);
}

TEST_CASE("A pool's schedule can be changed, and its servers hear of it") {
  ScrubFixture f;
  const auto update = [&](uint64_t interval_ms, uint64_t rate, std::vector<std::string> mask) {
    v1::UpdateScrubSettingsRequest request;
    request.mutable_settings()->set_pool_id(f.volume.pool_id());
    request.mutable_settings()->set_interval_ms(interval_ms);
    request.mutable_settings()->set_bytes_per_second(rate);
    for (std::string& path : mask) request.mutable_update_mask()->add_paths(std::move(path));
    v1::UpdateScrubSettingsResponse response;
    return f.Ask<v1::ScrubService>(&v1::ScrubService::Stub::UpdateScrubSettings, request, &response)
        .error_code();
  };
  CHECK(update(86'400'000, 1, {"interval_ms"}) == StatusCode::OK);
  CHECK(f.OrdersOf(&f.a)[0].interval_ms() == 86'400'000);
  CHECK(f.OrdersOf(&f.a)[0].bytes_per_second() == 67'108'864);
  CHECK(update(0, 1 << 20, {"interval_ms", "bytes_per_second"}) == StatusCode::OK);
  CHECK(f.OrdersOf(&f.a)[0].interval_ms() == 0);
  CHECK(f.OrdersOf(&f.a)[0].bytes_per_second() == 1 << 20);
  CHECK(update(59'999, 1, {"interval_ms"}) == StatusCode::INVALID_ARGUMENT);
  CHECK(update(0, 65'535, {"bytes_per_second"}) == StatusCode::INVALID_ARGUMENT);
  CHECK(update(0, 0, {}) == StatusCode::INVALID_ARGUMENT);
  CHECK(update(0, 0, {"pool_id"}) == StatusCode::INVALID_ARGUMENT);
  v1::ListScrubSettingsResponse settings;
  REQUIRE(f.Ask<v1::ScrubService>(&v1::ScrubService::Stub::ListScrubSettings,
                                  v1::ListScrubSettingsRequest(), &settings)
              .ok());
  CHECK(settings.settings(0).interval_ms() == 0);
}

TEST_CASE("Sources for a repair are the others in sync, for a replica in sync alone") {
  ScrubFixture f;
  const v1::PlacementGroup group = f.Groups()[0];
  const auto begin = [&](FakeSds* caller, uint64_t device_id, uint64_t epoch,
                         v1::BeginRepairResponse* response) {
    v1::BeginRepairRequest request;
    request.set_placement_group_id(group.placement_group_id());
    request.set_epoch(epoch);
    request.set_device_id(device_id);
    grpc::ClientContext context;
    MdmFixture::Prepare(&context, "sds", caller->sds_id, caller->secret);
    return f.Stub<v1::PlacementService>()->BeginRepair(&context, request, response).error_code();
  };
  v1::BeginRepairResponse response;
  REQUIRE(begin(&f.a, f.a.device_id, group.epoch(), &response) == StatusCode::OK);
  REQUIRE(response.sources_size() == 1);
  CHECK(response.sources(0).device_id() == f.b.device_id);
  CHECK(response.sources(0).ticket().learner_sds_id() == f.a.sds_id);
  CHECK(response.sources(0).ticket().epoch() == group.epoch());
  CHECK(begin(&f.a, f.b.device_id, group.epoch(), &response) == StatusCode::PERMISSION_DENIED);
  CHECK(begin(&f.a, f.a.device_id, group.epoch() + 1, &response) == StatusCode::ABORTED);
  // A replica that leaves the set is no source, and gets none.
  FakeSdc client{"client"};
  REQUIRE(f.Register(&client).ok());
  v1::PlacementGroup entry;
  REQUIRE(f.Report(client, group.placement_group_id(), group.epoch(), f.b.device_id, &entry).ok());
  v1::BeginRepairResponse alone;
  REQUIRE(begin(&f.a, f.a.device_id, entry.epoch(), &alone) == StatusCode::OK);
  CHECK(alone.sources_size() == 0);
  CHECK(alone.unreachable() == 0);
  CHECK(begin(&f.b, f.b.device_id, entry.epoch(), &alone) == StatusCode::ABORTED);
}

}  // namespace
}  // namespace tessera::mdm
