// The rules of space by themselves: thresholds, percentages, which replicas count, and sums.
#include <catch2/catch.hpp>

#include "services/common/errors.h"
#include "services/mdm/capacity_rules.h"
#include "services/mdm/space_plan.h"

namespace tessera::mdm {
namespace {

constexpr v1::CapacityState kNormal = v1::CAPACITY_STATE_NORMAL;
constexpr v1::CapacityState kWarning = v1::CAPACITY_STATE_WARNING;
constexpr v1::CapacityState kCritical = v1::CAPACITY_STATE_CRITICAL;
constexpr v1::CapacityState kUnknown = v1::CAPACITY_STATE_UNSPECIFIED;

TEST_CASE("percentages are rounded up, and do not overflow", "[space]") {
  CHECK(PercentOf(0, 0) == 0);
  CHECK(PercentOf(0, 7) == 0);
  CHECK(PercentOf(1, 0) == UINT32_MAX);
  CHECK(PercentOf(1, 1'000'000) == 1);
  CHECK(PercentOf(80, 100) == 80);
  CHECK(PercentOf(801, 1'000) == 81);
  CHECK(PercentOf(UINT64_MAX, UINT64_MAX) == 100);
  CHECK(PercentOf(UINT64_MAX, 1) == UINT32_MAX);
}

TEST_CASE("a threshold that was reached counts until three percent below it", "[space]") {
  const v1::CapacityPolicy policy = WithDefaults({});
  CHECK(policy.warn_percent() == 80);
  CHECK(policy.critical_percent() == 90);
  const auto judge = [&](v1::CapacityState before, uint64_t percent) {
    return JudgeCapacity(before, percent, 100, policy);
  };
  CHECK(JudgeCapacity(kCritical, 0, 0, policy) == kUnknown);
  CHECK(judge(kUnknown, 79) == kNormal);
  CHECK(judge(kUnknown, 80) == kWarning);
  CHECK(judge(kNormal, 79) == kNormal);
  CHECK(judge(kWarning, 78) == kWarning);
  CHECK(judge(kWarning, 77) == kWarning);
  CHECK(judge(kWarning, 76) == kNormal);
  CHECK(judge(kWarning, 89) == kWarning);
  CHECK(judge(kWarning, 90) == kCritical);
  CHECK(judge(kCritical, 87) == kCritical);
  CHECK(judge(kCritical, 86) == kWarning);
  CHECK(judge(kCritical, 10) == kNormal);
  CHECK(judge(kNormal, 100) == kCritical);
}

TEST_CASE("a policy that makes no sense is refused by the field", "[space]") {
  const auto field = [](uint32_t warn, uint32_t critical, uint32_t limit) {
    v1::CapacityPolicy policy;
    policy.set_warn_percent(warn);
    policy.set_critical_percent(critical);
    policy.set_overcommit_limit_percent(limit);
    const absl::Status status = CheckPolicy("p.", WithDefaults(policy));
    return status.ok() ? "" : std::string(status.message());
  };
  CHECK(field(0, 0, 0).empty());
  CHECK(field(1, 1, 100).empty());
  CHECK(field(100, 100, 0).empty());
  CHECK_THAT(field(95, 0, 0), Catch::Contains("p.warn_percent"));
  CHECK_THAT(field(0, 101, 0), Catch::Contains("p.critical_percent"));
  CHECK_THAT(field(0, 0, 99), Catch::Contains("p.overcommit_limit_percent"));
}

// Pool 1 with device 10 * s of each server s, and groups with the replicas given: (server, role).
SpacePlan PlanOf(const std::vector<std::vector<std::pair<uint64_t, v1::ReplicaRole>>>& groups) {
  SpacePlan plan;
  SpacePlan::Pool& pool = plan.pools.emplace_back();
  pool.pool.set_pool_id(1);
  pool.pool.set_name("gold");
  pool.pool.set_replica_count(2);
  for (size_t i = 0; i < groups.size(); ++i) {
    v1::PlacementGroup& group = pool.groups.emplace_back();
    group.set_placement_group_id(65'536 + i);
    for (const auto& [sds_id, role] : groups[i]) {
      v1::Replica* replica = group.add_replicas();
      replica->set_sds_id(sds_id);
      replica->set_device_id(10 * sds_id);
      replica->set_role(role);
      plan.servers[sds_id] = {.sds_id = sds_id};
      pool.devices[10 * sds_id] = sds_id;
    }
  }
  VolumeRow volume;
  volume.volume_id = 5;
  volume.name = "v";
  volume.size_bytes = 1 << 20;
  VolumeRow snapshot = volume;
  snapshot.volume_id = 6;
  snapshot.name = "s";
  snapshot.kind = v1::VOLUME_KIND_SNAPSHOT;
  snapshot.parent_id = 5;
  VolumeRow unfinished = snapshot;
  unfinished.volume_id = 7;
  unfinished.being_made = true;
  pool.vtrees.push_back({5, {volume, snapshot, unfinished}});
  return plan;
}

TEST_CASE("each group counts once, in sync, on a server that answers, and servers share it",
          "[space]") {
  constexpr v1::ReplicaRole kInSync = v1::REPLICA_ROLE_IN_SYNC;
  const SpacePlan plan = PlanOf({{{1, kInSync}, {2, kInSync}},
                                 {{1, kInSync}, {2, kInSync}},
                                 {{1, v1::REPLICA_ROLE_LEARNER}, {3, kInSync}}});
  const auto counted = ChooseCounted(plan, {});
  REQUIRE(counted.ok());
  CHECK(counted->at(1).size() == 1);
  CHECK(counted->at(2).size() == 1);
  CHECK(counted->at(3).size() == 1);
  CHECK(counted->at(3)[0].device_id() == 30);
  CHECK(counted->at(3)[0].placement_group_id() == 65'538);
  const auto without = ChooseCounted(plan, {2});
  REQUIRE(without.ok());
  CHECK(without->at(1).size() == 2);
  const absl::Status status = ChooseCounted(plan, {3}).status();
  CHECK(absl::IsUnavailable(status));
  CHECK_THAT(std::string(status.message()), Catch::Contains("65538"));
  SpacePlan empty = plan;
  empty.pools[0].vtrees.clear();
  CHECK(ChooseCounted(empty, {1, 2, 3})->empty());
}

TEST_CASE("catalogs go in pieces, in the order of the rows", "[space]") {
  SpacePlan plan = PlanOf({});
  CHECK(CatalogsOf(plan).size() == 1);
  CHECK(CatalogsOf(plan)[0][0].paths_size() == 3);
  SpacePlan::Vtree many{9, std::vector<VolumeRow>(30'000)};
  plan.pools[0].vtrees = {many, many, many};
  const auto pieces = CatalogsOf(plan);
  REQUIRE(pieces.size() == 2);
  CHECK(pieces[0].size() == 2);
  CHECK(pieces[1].size() == 1);
  plan.pools[0].vtrees.clear();
  CHECK(CatalogsOf(plan).size() == 1);
}

TEST_CASE("what servers say adds up", "[space]") {
  SpacePlan plan = PlanOf({{{1, v1::REPLICA_ROLE_IN_SYNC}, {2, v1::REPLICA_ROLE_IN_SYNC}},
                           {{3, v1::REPLICA_ROLE_LEARNER}}});
  SpaceAnswers answers;
  for (const uint64_t sds_id : {1, 2}) {
    v1::VtreeMeasure& vtree = answers[sds_id].vtrees[5];
    for (const uint64_t view : {100, 10, 1}) {
      v1::ViewMeasure* measure = vtree.add_views();
      measure->set_logical_bytes(view * sds_id);
      measure->set_unique_bytes(view);
    }
    vtree.set_data_bytes(200 * sds_id);
    vtree.set_unseen_bytes(3);
    vtree.set_snapshot_only_bytes(7);
    vtree.set_raw_data_bytes(1'000);
    v1::DeviceMeasure& device = answers[sds_id].devices[10 * sds_id];
    device.set_data_bytes(1'500);
    device.set_used_bytes(4'000);
    device.set_capacity_bytes(10'000);
  }
  const v1::GetUsageResponse whole = AddUp(plan, answers);
  REQUIRE(whole.pools_size() == 1);
  const v1::PoolUsage& pool = whole.pools(0);
  REQUIRE(pool.vtrees_size() == 1);
  const v1::VtreeUsage& vtree = pool.vtrees(0);
  // What is being made nobody knows of, but what it sees counts.
  REQUIRE(vtree.volumes_size() == 2);
  CHECK(vtree.volumes(0).logical_bytes() == 300);
  CHECK(vtree.volumes(0).unique_bytes() == 200);
  CHECK(vtree.volumes(1).logical_bytes() == 30);
  CHECK(vtree.volumes(1).parent_id() == 5);
  CHECK(vtree.provisioned_bytes() == 1 << 20);
  CHECK(vtree.data_bytes() == 600);
  CHECK(vtree.snapshot_bytes() == 14);
  CHECK(vtree.reclaimable_bytes() == 6);
  CHECK(vtree.raw_data_bytes() == 2'000);
  CHECK(pool.logical_bytes() == 300);
  CHECK(pool.data_bytes() == 600);
  CHECK(pool.raw_data_bytes() == 3'000);
  CHECK(pool.raw_deleted_bytes() == 1'000);
  CHECK(pool.raw_overhead_bytes() == 5'000);
  CHECK(pool.raw_used_bytes() == 8'000);
  CHECK(pool.raw_capacity_bytes() == 20'000);
  REQUIRE(pool.silent_sds_ids_size() == 1);
  CHECK(pool.silent_sds_ids(0) == 3);

  plan.one_vtree = true;
  const v1::GetUsageResponse one = AddUp(plan, answers);
  CHECK(one.pools(0).raw_data_bytes() == 2'000);
  CHECK(one.pools(0).raw_used_bytes() == 2'000);
  CHECK(one.pools(0).raw_overhead_bytes() == 0);
  CHECK(one.pools(0).raw_deleted_bytes() == 0);
}

}  // namespace
}  // namespace tessera::mdm
