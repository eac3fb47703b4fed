// Space over real gRPC: GetUsage, policies of pools, budgets of volumes.
#include <catch2/catch.hpp>

#include "services/mdm/snapshot_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

constexpr uint64_t kMiB = 1 << 20;

struct SpaceFixture : SnapshotFixture {
  grpc::Status GetUsage(const v1::GetUsageRequest& request, v1::GetUsageResponse* response) {
    grpc::ClientContext context;
    Prepare(&context);
    return Stub<v1::UsageService>()->GetUsage(&context, request, response);
  }
  v1::StoragePool Pool() {
    v1::GetStoragePoolRequest request;
    request.set_name("pool");
    v1::GetStoragePoolResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::TopologyService>()->GetStoragePool(&context, request, &response).ok());
    return response.pool();
  }
  grpc::Status SetPolicy(const v1::CapacityPolicy& policy, const std::vector<std::string>& fields,
                         v1::StoragePool* pool = nullptr) {
    v1::UpdateStoragePoolRequest request;
    request.set_name("pool");
    *request.mutable_capacity_policy() = policy;
    for (const std::string& field : fields) request.mutable_update_mask()->add_paths(field);
    v1::UpdateStoragePoolResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    const grpc::Status status =
        Stub<v1::TopologyService>()->UpdateStoragePool(&context, request, &response);
    if (pool != nullptr) *pool = response.pool();
    return status;
  }
  grpc::Status SetOvercommitLimit(uint32_t percent) {
    v1::CapacityPolicy policy;
    policy.set_overcommit_limit_percent(percent);
    return SetPolicy(policy, {"capacity_policy.overcommit_limit_percent"});
  }
  // Both servers use so much of their capacity, and the MDM has looked.
  void Fill(uint64_t percent) {
    for (FakeSds* sds : {&a, &b}) {
      sds->used_bytes = sds->capacity_bytes / 100 * percent;
      REQUIRE(Beat(sds).ok());
    }
    clock.AdvanceMillis(6'000);
    mdm->Tick();
  }
  grpc::Status SetBudget(const v1::Volume& volume, uint64_t bytes) {
    v1::VolumeUpdate wanted;
    wanted.set_byte_budget(bytes);
    return Update(volume, wanted, "byte_budget");
  }
};

// One view has so many unique bytes.
void Takes(std::initializer_list<FakeSds*> servers, uint64_t unique_bytes) {
  for (FakeSds* sds : servers) {
    sds->AnswerMeasures([unique_bytes, share = servers.size()](v1::VtreeMeasure* vtree) {
      vtree->mutable_views(0)->set_unique_bytes(unique_bytes / share);
      vtree->mutable_views(0)->set_logical_bytes(unique_bytes / share);
    });
  }
}

TEST_CASE_METHOD(SpaceFixture, "each group is counted once, and what servers say is added up",
                 "[space]") {
  const v1::Volume volume = MakeVolume("v", 8 * kMiB);
  const v1::Volume snapshot = SnapOne(volume, "s");
  const v1::Volume second = MakeVolume("w", 4 * kMiB);
  REQUIRE(Delete(second, 3'600'000).ok());
  for (FakeSds* sds : {&a, &b}) {
    sds->data_bytes = 3 * kMiB;
    sds->used_bytes = 5 * kMiB;
    sds->AnswerMeasures([](v1::VtreeMeasure* vtree) {
      vtree->mutable_views(0)->set_logical_bytes(kMiB);
      vtree->set_data_bytes(kMiB);
      vtree->set_raw_data_bytes(2 * kMiB / 2);
    });
  }
  v1::GetUsageResponse all;
  REQUIRE(GetUsage({}, &all).ok());
  REQUIRE(all.pools_size() == 1);
  const v1::PoolUsage& pool = all.pools(0);
  REQUIRE(pool.vtrees_size() == 2);
  CHECK(pool.vtrees(0).volumes_size() == 2);
  CHECK(pool.vtrees(0).volumes(0).volume_name() == "v");
  CHECK(pool.vtrees(0).volumes(0).logical_bytes() == 2 * kMiB);
  CHECK(pool.vtrees(0).volumes(1).kind() == v1::VOLUME_KIND_SNAPSHOT);
  CHECK(pool.vtrees(1).volumes(0).volume_name() == "w");
  CHECK(pool.vtrees(1).volumes(0).trashed());
  CHECK(pool.provisioned_bytes() == 12 * kMiB);
  CHECK(pool.raw_data_bytes() == 6 * kMiB);
  CHECK(pool.raw_deleted_bytes() == 2 * kMiB);
  CHECK(pool.raw_used_bytes() == 10 * kMiB);
  CHECK(pool.silent_sds_ids().empty());
  // Four groups of two replicas: two of each server count.
  const v1::MeasureVtreesRequest of_a = a.measures().back();
  const v1::MeasureVtreesRequest of_b = b.measures().back();
  CHECK(of_a.counted_size() == 2);
  CHECK(of_b.counted_size() == 2);
  std::set<uint64_t> groups;
  for (const auto* request : {&of_a, &of_b}) {
    for (const v1::CountedReplica& replica : request->counted()) {
      groups.insert(replica.placement_group_id());
    }
    REQUIRE(request->catalogs_size() == 2);
    CHECK(request->catalogs(0).paths_size() == 2);
  }
  CHECK(groups.size() == 4);

  v1::GetUsageRequest one;
  one.set_volume_name("s");
  v1::GetUsageResponse of_vtree;
  REQUIRE(GetUsage(one, &of_vtree).ok());
  REQUIRE(of_vtree.pools(0).vtrees_size() == 1);
  CHECK(of_vtree.pools(0).vtrees(0).vtree_id() == volume.vtree_id());
  CHECK(of_vtree.pools(0).raw_used_bytes() == of_vtree.pools(0).vtrees(0).raw_data_bytes());
  one.set_volume_name("nobody");
  CHECK(GetUsage(one, &of_vtree).error_code() == StatusCode::NOT_FOUND);
  one.Clear();
  one.set_pool_name("nowhere");
  CHECK(GetUsage(one, &of_vtree).error_code() == StatusCode::NOT_FOUND);
  // Cheap figures know of the blocks, too.
  for (FakeSds* sds : {&a, &b}) REQUIRE(Beat(sds).ok());
  CHECK(Pool().capacity().raw_data_bytes() == 6 * kMiB);
}

TEST_CASE_METHOD(SpaceFixture, "a silent server is named; without a copy elsewhere the group is",
                 "[space]") {
  (void)MakeVolume("v");
  a.Stop();
  v1::GetUsageResponse response;
  REQUIRE(GetUsage({}, &response).ok());
  REQUIRE(response.pools(0).silent_sds_ids_size() == 1);
  CHECK(response.pools(0).silent_sds_ids(0) == a.sds_id);
  CHECK(b.measures().back().counted_size() == 4);
  b.Stop();
  const grpc::Status status = GetUsage({}, &response);
  CHECK(status.error_code() == StatusCode::UNAVAILABLE);
  CHECK_THAT(status.error_message(), Catch::Contains("placement group 6553"));
}

TEST_CASE_METHOD(SpaceFixture, "thresholds are set, passed with an event, and shown", "[space]") {
  CHECK(Pool().capacity_policy().warn_percent() == 80);
  CHECK(Pool().capacity_policy().critical_percent() == 90);
  CHECK(Pool().capacity().state() == v1::CAPACITY_STATE_NORMAL);
  v1::CapacityPolicy policy;
  policy.set_warn_percent(50);
  policy.set_critical_percent(60);
  v1::StoragePool pool;
  REQUIRE(SetPolicy(policy, {"capacity_policy.warn_percent"}, &pool).ok());
  CHECK(pool.capacity_policy().warn_percent() == 50);
  CHECK(pool.capacity_policy().critical_percent() == 90);
  CHECK(SetPolicy(policy, {}).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(SetPolicy(policy, {"name"}).error_code() == StatusCode::INVALID_ARGUMENT);
  policy.set_critical_percent(40);
  CHECK(SetPolicy(policy, {"capacity_policy.critical_percent"}).error_code() ==
        StatusCode::INVALID_ARGUMENT);
  CHECK(Pool().capacity_policy().critical_percent() == 90);

  Fill(55);
  REQUIRE(Await([&] { return Events("pool_capacity_warning").size() == 1; }));
  CHECK(Pool().capacity().state() == v1::CAPACITY_STATE_WARNING);
  CHECK(Pool().capacity().used_percent() == 55);
  v1::GetClusterHealthResponse health;
  grpc::ClientContext context;
  Prepare(&context);
  REQUIRE(Stub<v1::HealthService>()->GetClusterHealth(&context, {}, &health).ok());
  CHECK(std::any_of(health.causes().begin(), health.causes().end(),
                    [](const auto& cause) { return cause.code() == "pool_capacity_warning"; }));
  Fill(48);  // not yet
  Fill(91);
  REQUIRE(Await([&] { return Events("pool_capacity_critical").size() == 1; }));
  Fill(40);
  REQUIRE(Await([&] { return Events("pool_capacity_normal").size() == 1; }));
  CHECK(Events("pool_capacity_warning").size() == 1);
  // Other thresholds count at once.
  policy.set_warn_percent(40);
  REQUIRE(SetPolicy(policy, {"capacity_policy.warn_percent"}).ok());
  CHECK(Events("pool_capacity_warning").size() == 2);
  // A new MDM knows where it stood.
  StopMdm();
  StartMdm();
  for (FakeSds* sds : {&a, &b}) REQUIRE(Beat(sds).ok());
  CHECK(Pool().capacity_policy().warn_percent() == 40);
  Fill(39);
  CHECK(Pool().capacity().state() == v1::CAPACITY_STATE_WARNING);
  CHECK(Events("pool_capacity_normal").size() == 1);
}

TEST_CASE_METHOD(SpaceFixture, "a pool promises no more than its limit of over-commit", "[space]") {
  a.capacity_bytes = b.capacity_bytes = 100 * kMiB;
  for (FakeSds* sds : {&a, &b}) REQUIRE(Beat(sds).ok());
  const v1::Volume volume = MakeVolume("v", 64 * kMiB);
  CHECK(Pool().capacity().overcommit_percent() == 64);
  CHECK(SetOvercommitLimit(99).error_code() == StatusCode::INVALID_ARGUMENT);
  REQUIRE(SetOvercommitLimit(150).ok());
  const auto create = [&](const std::string& name, uint64_t bytes) {
    v1::CreateVolumeRequest request;
    request.set_name(name);
    request.set_size_bytes(bytes);
    v1::CreateVolumeResponse response;
    return Ask(&Volumes::CreateVolume, request, &response);
  };
  const grpc::Status refused = create("w", 87 * kMiB);
  CHECK(refused.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  CHECK(Reason(refused) == "OVERCOMMIT_LIMIT");
  REQUIRE(create("w", 86 * kMiB).ok());
  CHECK(Pool().capacity().overcommit_percent() == 150);
  // Snapshots promise nothing; clones, growing and a rollback to a larger size do.
  const v1::Volume snapshot = SnapOne(volume, "s");
  CHECK(Reason(Clone(snapshot, "c", nullptr)) == "OVERCOMMIT_LIMIT");
  v1::VolumeUpdate wanted;
  wanted.set_size_bytes(65 * kMiB);
  CHECK(Reason(Update(volume, wanted, "size_bytes")) == "OVERCOMMIT_LIMIT");
  REQUIRE(SetOvercommitLimit(0).ok());
  REQUIRE(Update(volume, wanted, "size_bytes").ok());
  REQUIRE(SetOvercommitLimit(100).ok());
  // What is promised already stays.
  CHECK(Pool().capacity().overcommit_percent() == 151);
  CHECK(Reason(create("x", 4096)) == "OVERCOMMIT_LIMIT");
}

TEST_CASE_METHOD(SpaceFixture, "a volume over its budget is told to its client, and again when not",
                 "[space]") {
  const v1::Volume volume = MakeVolume("v", 64 * kMiB);
  CHECK(SetBudget(volume, kMiB - 1).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Reason(SetBudget(SnapOne(volume, "s"), kMiB)) == "SNAPSHOT_READ_ONLY");
  const v1::IssuedGrant first = MakeWriter(volume, &client);
  CHECK_FALSE(first.over_budget());
  Takes({&a, &b}, 2 * kMiB);
  REQUIRE(SetBudget(volume, 2 * kMiB).ok());
  // It is measured soon after; exactly the budget is within it.
  const auto measured = a.measures().size();
  REQUIRE(Await([&] { return a.measures().size() > measured; }));
  CHECK_FALSE(GetVolume(volume.volume_id()).over_budget());
  CHECK(GetVolume(volume.volume_id()).byte_budget() == 2 * kMiB);

  Takes({&a, &b}, 2 * kMiB + 8192);
  const int told = client.attach_calls();
  REQUIRE(SetBudget(volume, 2 * kMiB).ok());
  REQUIRE(Await([&] { return GetVolume(volume.volume_id()).over_budget(); }));
  REQUIRE(Await([&] { return client.attach_calls() > told; }));
  CHECK(Events("volume_over_budget").size() == 1);
  v1::IssuedGrant renewed = first;
  REQUIRE(Renew(client, &renewed).ok());
  CHECK(renewed.over_budget());

  // A larger budget counts at once, by what was measured last; a smaller one, too.
  REQUIRE(SetBudget(volume, 3 * kMiB).ok());
  CHECK_FALSE(GetVolume(volume.volume_id()).over_budget());
  REQUIRE(Renew(client, &renewed).ok());
  CHECK_FALSE(renewed.over_budget());
  REQUIRE(SetBudget(volume, kMiB).ok());
  CHECK(GetVolume(volume.volume_id()).over_budget());
  Takes({&a, &b}, 8192);
  REQUIRE(SetBudget(volume, kMiB).ok());
  REQUIRE(Await([&] { return !GetVolume(volume.volume_id()).over_budget(); }));
  CHECK(Events("volume_within_budget").size() == 1);
  REQUIRE(SetBudget(volume, 0).ok());
  CHECK(GetVolume(volume.volume_id()).byte_budget() == 0);

  // With a clone from its first moment on.
  v1::CloneVolumeRequest clone;
  clone.set_snapshot_name("s");
  clone.set_name("c");
  clone.set_byte_budget(5);
  v1::CloneVolumeResponse cloned;
  CHECK(Ask(&Volumes::CloneVolume, clone, &cloned).error_code() == StatusCode::INVALID_ARGUMENT);
  clone.set_byte_budget(7 * kMiB);
  REQUIRE(Ask(&Volumes::CloneVolume, clone, &cloned).ok());
  CHECK(cloned.volume().byte_budget() == 7 * kMiB);
}

}  // namespace
}  // namespace tessera::mdm
