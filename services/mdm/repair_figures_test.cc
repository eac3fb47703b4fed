// Rates, what is left of an operation, verdicts on volumes, and whether maintenance is safe: by
// table.
#include <catch2/catch.hpp>

#include "services/common/placement_hash.h"
#include "services/mdm/maintenance_rules.h"
#include "services/mdm/operation_meter.h"
#include "services/mdm/operation_view.h"
#include "services/mdm/progress_meter.h"
#include "services/mdm/volume_health.h"

namespace tessera::mdm {
namespace {

constexpr auto kIn = v1::REPLICA_ROLE_IN_SYNC;
constexpr auto kLearner = v1::REPLICA_ROLE_LEARNER;
constexpr auto kOut = v1::REPLICA_ROLE_OUT_OF_SYNC;

TEST_CASE("a rate is that of the last quarter of a minute, a steady one that of half a minute",
          "[figures]") {
  ProgressMeter meter;
  CHECK(meter.BytesPerSecond() == 0);
  CHECK(meter.SteadyBytesPerSecond() == 0);
  for (uint64_t second = 0; second <= 60; ++second) meter.Add(second * 1'000, second * 500);
  CHECK(meter.BytesPerSecond() == 500);
  CHECK(meter.SteadyBytesPerSecond() == 500);
  // Faster from now on: after the window only the new rate counts.
  for (uint64_t second = 61; second <= 75; ++second) {
    meter.Add(second * 1'000, 30'000 + (second - 60) * 2'000);
  }
  CHECK(meter.BytesPerSecond() == 2'000);
  CHECK(meter.SteadyBytesPerSecond() == 1'250);
  for (uint64_t second = 76; second <= 90; ++second) {
    meter.Add(second * 1'000, 30'000 + (second - 60) * 2'000);
  }
  CHECK(meter.SteadyBytesPerSecond() == 2'000);
  // It stands still: the rate falls, and goes to nothing.
  for (uint64_t second = 91; second <= 105; ++second) meter.Add(second * 1'000, 90'000);
  CHECK(meter.BytesPerSecond() == 0);
  CHECK(meter.SteadyBytesPerSecond() == 0);
  // An attempt began anew: no negative rate.
  meter.Add(106'000, 10);
  CHECK(meter.BytesPerSecond() == 0);
  meter.Add(107'000, 110);
  CHECK(meter.BytesPerSecond() == 100);
}

// Of learners, each with its device, and how far they are.
OperationRest Learning(std::vector<RunningLearner> learners) {
  OperationRest rest;
  for (const RunningLearner& learner : learners) {
    rest.running_left += learner.left;
    rest.left_by_flow[{learner.device_id}] += learner.left;
    if (learner.source_device_id == 0) continue;
    rest.left_by_flow[{.device_id = learner.source_device_id, .out = true}] += learner.left;
  }
  rest.learners = std::move(learners);
  return rest;
}

TEST_CASE("the time left is that of the device that ends last", "[figures]") {
  const OperationMeter::InSync all = [](uint64_t, uint64_t) { return true; };
  OperationMeter meter;
  for (uint64_t second = 0; second <= 30; ++second) {
    // Two devices: 900 and 100 bytes a second, the same left to each.
    meter.Add(second * 1'000, second * 1'000,
              Learning({{1, 1, 0, second * 900, 9'000}, {2, 2, 0, second * 100, 9'000}}), all);
  }
  CHECK(meter.BytesPerSecond() == 1'000);
  // The slow one will go as the two do in the mean.
  CHECK(meter.EtaMillis(18'000) == 18'000);
  // What nobody has been given yet: at least as long as all together need for it.
  CHECK(meter.EtaMillis(200'000) == 200'000);
  CHECK(meter.EtaMillis(0) == 0);
  // Groups that wait for a device count as its own.
  OperationRest more = Learning({{1, 1, 0, 27'000, 9'000}, {2, 2, 0, 3'000, 9'000}});
  more.left_by_flow[{1}] += 90'000;
  more.left_by_flow[{3}] = 1'000'000;  // has not begun
  meter.Add(30'000, 30'000, more, all);
  CHECK(meter.EtaMillis(108'000) == 2'000'000);
  more.left_by_flow.erase({3});
  meter.Add(30'000, 30'000, more, all);
  CHECK(meter.EtaMillis(108'000) == 110'000);
}

TEST_CASE("a source that has much to give sets the end, too", "[figures]") {
  OperationMeter meter;
  for (uint64_t second = 0; second <= 30; ++second) {
    // Two targets that take 500 a second each; nearly all that is left is with device 9.
    meter.Add(second * 1'000, second * 1'000,
              Learning({{1, 1, 9, second * 250, 6'000},
                        {2, 1, 8, second * 250, 500},
                        {3, 2, 9, second * 250, 6'000},
                        {4, 2, 8, second * 250, 500}}),
              {});
  }
  CHECK(meter.EtaMillis(13'000) == 24'000);
}

TEST_CASE("a learner that is done brought its last part, one that was given up did not",
          "[figures]") {
  const auto eta = [](bool done) {
    OperationMeter meter;
    for (uint64_t second = 0; second <= 10; ++second) {
      meter.Add(second * 1'000, second * 120,
                Learning({{1, 1, 0, second * 100, 1'000}, {2, 2, 0, second * 20, 1'000}}), {});
    }
    OperationRest rest = Learning({{2, 2, 0, 400, 800}});
    rest.left_by_flow[{1}] = 12'000;
    meter.Add(20'000, 2'400, rest, [done](uint64_t group, uint64_t device) {
      CHECK(group == 1);
      CHECK(device == 1);
      return done;
    });
    return meter.EtaMillis(12'000);
  };
  CHECK(eta(true) == 120'000);
  CHECK(eta(false) == 200'000);
}

struct Pool {
  Pool() {
    pool.replica_count = 2;
    for (uint64_t id = 1; id <= 3; ++id) {
      pool.devices.push_back({.device_id = id, .sds_id = id, .capacity_bytes = 1 << 20});
    }
  }
  RepairGroup& Add(std::vector<std::pair<uint64_t, v1::ReplicaRole>> members) {
    RepairGroup& group = pool.groups.emplace_back();
    group.bytes = 1'000;
    group.entry.set_placement_group_id(
        PlacementGroupId(1, static_cast<uint32_t>(pool.groups.size() - 1)));
    group.entry.set_epoch(3);
    for (const auto& [device_id, role] : members) {
      v1::Replica* replica = group.entry.add_replicas();
      replica->set_device_id(device_id);
      replica->set_sds_id(device_id);
      replica->set_role(role);
    }
    return group;
  }
  PoolHealth Health(uint32_t min_replicas = 1) const {
    PoolHealth health;
    for (const RepairGroup& group : pool.groups) {
      health.groups.push_back(JudgeGroup(group, pool, min_replicas, status));
    }
    for (const RepairDevice& device : pool.devices) {
      health.devices[device.device_id] = device;
      health.device_names[device.device_id] = "device " + std::to_string(device.device_id);
    }
    return health;
  }
  v1::VolumeHealth Judge(uint32_t min_replicas = 1) const {
    return JudgeVolume(
        {.volume_id = 1, .vtree_id = 1, .size_bytes = 1 << 30, .chunk_bytes = 1 << 20},
        Health(min_replicas));
  }
  RepairPool pool;
  StatusOfLearner status = [](uint64_t, uint64_t, uint64_t) { return std::nullopt; };
  SourceOfLearner source = [](uint64_t, uint64_t) { return 1; };
};

TEST_CASE("verdicts: by the worst placement group, with cause and action", "[figures]") {
  Pool world;
  world.Add({{1, kIn}, {2, kIn}});
  world.Add({{1, kIn}, {3, kIn}});
  CHECK(world.Judge().verdict() == v1::VOLUME_VERDICT_HEALTHY);
  CHECK(world.Judge().cause().empty());
  CHECK(world.Judge().action().empty());
  world.pool.devices[1].condition = DeviceCondition::kAway;
  CHECK(world.Judge().verdict() == v1::VOLUME_VERDICT_SINGLE_COPY);
  CHECK(world.Judge().placement_groups_affected() == 1);
  CHECK(world.Judge().cause() == "copies are missing: device 2 (its server is away)");
  world.pool.devices[1].maintenance = true;
  CHECK(world.Judge().action().find("maintenance") != std::string::npos);
  world.pool.devices[1].maintenance = false;
  world.pool.devices[0].condition = DeviceCondition::kAway;
  CHECK(world.Judge().verdict() == v1::VOLUME_VERDICT_UNAVAILABLE);
  Pool few;
  few.Add({{1, kIn}, {2, kOut}});
  CHECK(few.Judge(2).verdict() == v1::VOLUME_VERDICT_UNAVAILABLE);
}

TEST_CASE("a learner makes it rebuilding, with the share that is copied", "[figures]") {
  Pool world;
  world.Add({{1, kIn}, {2, kLearner}});
  world.status = [](uint64_t, uint64_t, uint64_t) {
    v1::LearnerStatus status;
    status.set_bytes_copied(300);
    status.set_bytes_left(700);
    return status;
  };
  const v1::VolumeHealth health = world.Judge();
  CHECK(health.verdict() == v1::VOLUME_VERDICT_SINGLE_COPY);
  CHECK(health.rebuilding());
  CHECK(health.percent() == 30);
  // A move with all copies there is no lack of redundancy.
  Pool moves;
  moves.Add({{1, kIn}, {2, kIn}, {3, kLearner}}).move = RepairMove{.to_device_id = 3};
  CHECK(moves.Judge().verdict() == v1::VOLUME_VERDICT_HEALTHY);
}

TEST_CASE("a small volume is judged by the groups that hold its chunks", "[figures]") {
  Pool world;
  for (int i = 0; i < 64; ++i) world.Add({{1, kIn}, {2, kIn}});
  const uint32_t index = PlacementGroupIndex(9, 0, 64);
  world.pool.groups[(index + 1) % 64].entry.mutable_replicas(1)->set_role(kOut);
  const VolumeExtent small{
      .volume_id = 1, .vtree_id = 9, .size_bytes = 1 << 20, .chunk_bytes = 1 << 20};
  CHECK(JudgeVolume(small, world.Health()).verdict() == v1::VOLUME_VERDICT_HEALTHY);
  CHECK(JudgeVolume(small, world.Health()).placement_groups() == 1);
  world.pool.groups[index].entry.mutable_replicas(1)->set_role(kOut);
  CHECK(JudgeVolume(small, world.Health()).verdict() == v1::VOLUME_VERDICT_SINGLE_COPY);
}

TEST_CASE("what is left of an operation: waiting, running, and why it waits", "[figures]") {
  Pool world;
  v1::Operation operation;
  operation.set_operation_id(7);
  operation.set_kind(v1::OPERATION_KIND_REBUILD);
  operation.set_pool_id(1);
  operation.set_sds_id(2);
  operation.set_device_id(2);
  operation.set_placement_groups_done(1);
  operation.set_bytes_done(1'000);
  world.Add({{1, kIn}, {2, kOut}});
  world.Add({{1, kIn}, {2, kOut}, {3, kLearner}}).move =
      RepairMove{.from_device_id = 2, .to_device_id = 3, .operation_id = 7};
  world.Add({{1, kIn}, {3, kIn}});
  world.pool.devices[1].condition = DeviceCondition::kAway;
  world.status = [](uint64_t, uint64_t, uint64_t) {
    v1::LearnerStatus status;
    status.set_bytes_copied(400);
    status.set_bytes_left(600);
    status.set_listing_done(true);
    return status;
  };
  OperationRest rest =
      RestOfOperation(operation, {}, world.pool, {}, 0, world.status, world.source);
  CHECK(rest.waiting == 1);
  CHECK(rest.running == 1);
  // The waiting group has its in-sync copy on device 1: it can only go to 3.
  CHECK(rest.left_by_flow == std::map<CopyFlow, uint64_t>{{{.device_id = 3}, 1'600},
                                                          {{.device_id = 1, .out = true}, 1'600}});
  CHECK(rest.learners.size() == 1);
  v1::Operation filled = operation;
  FillProgress(rest, false, &filled);
  CHECK(filled.placement_groups_total() == 3);
  CHECK(filled.bytes_done() == 1'400);
  CHECK(filled.bytes_total() == 3'000);
  CHECK(filled.state() == v1::OPERATION_STATE_RUNNING);
  // Nothing runs, and it can't go on.
  world.pool.groups.erase(world.pool.groups.begin() + 1);
  RepairPlan plan;
  plan.waiting[2][Obstacle::kNoRoom] = 1;
  rest = RestOfOperation(operation, {}, world.pool, plan, 0, world.status, world.source);
  FillProgress(rest, false, &(filled = operation));
  CHECK(filled.state() == v1::OPERATION_STATE_BLOCKED);
  CHECK(filled.last_error().find("no other server has room") == 0);
  FillProgress(rest, true, &(filled = operation));
  CHECK(filled.state() == v1::OPERATION_STATE_PAUSED);
  // The server is back: what is left is a resync.
  world.pool.devices[1].condition = DeviceCondition::kReady;
  CHECK(RestOfOperation(operation, {}, world.pool, plan, 0, world.status, world.source).over());
}

TEST_CASE("maintenance is safe while enough good copies are elsewhere", "[figures]") {
  Pool world;
  world.Add({{1, kIn}, {2, kIn}});
  world.Add({{1, kIn}, {3, kOut}});
  CHECK(GroupsThatNeed(world.pool, 1, 2).empty());
  CHECK(GroupsThatNeed(world.pool, 1, 3).empty());
  CHECK(GroupsThatNeed(world.pool, 1, 1).size() == 1);
  CHECK(GroupsThatNeed(world.pool, 2, 2).size() == 1);
  world.pool.devices[0].maintenance = true;
  CHECK(GroupsThatNeed(world.pool, 1, 2).size() == 1);
  world.pool.devices[0].maintenance = false;
  world.pool.devices[0].condition = DeviceCondition::kAway;
  CHECK(GroupsThatNeed(world.pool, 1, 2).size() == 1);
}

}  // namespace
}  // namespace tessera::mdm
