// The repair planner by table. A group is written as its members: "1i 2l 3o" is device 1 in sync, 2
// a learner, 3 out of sync. Device n is on server n unless a test says otherwise.
#include "services/mdm/repair_planner.h"

#include <catch2/catch.hpp>
#include <set>
#include <sstream>
#include <string>

#include "services/common/placement_hash.h"
#include "services/mdm/rebalance_planner.h"

namespace tessera::mdm {
namespace {

constexpr uint64_t kNow = 10'000'000;
constexpr uint64_t kMinute = 60'000;

struct World {
  explicit World(uint32_t replicas, uint64_t devices) {
    pool.pool_id = 1;
    pool.replica_count = replicas;
    for (uint64_t id = 1; id <= devices; ++id) {
      pool.devices.push_back({.device_id = id, .sds_id = id, .capacity_bytes = 1 << 30});
    }
  }
  RepairDevice& device(uint64_t id) { return pool.devices.at(id - 1); }
  RepairGroup& Add(const std::string& members) {
    RepairGroup& group = pool.groups.emplace_back();
    group.bytes = 1 << 20;
    group.entry.set_placement_group_id(
        PlacementGroupId(1, static_cast<uint32_t>(pool.groups.size() - 1)));
    group.entry.set_epoch(5);
    std::istringstream words(members);
    uint64_t id = 0;
    char role = 0;
    while (words >> id >> role) {
      v1::Replica* replica = group.entry.add_replicas();
      replica->set_device_id(id);
      replica->set_sds_id(device(id).sds_id);
      replica->set_role(role == 'i'   ? v1::REPLICA_ROLE_IN_SYNC
                        : role == 'l' ? v1::REPLICA_ROLE_LEARNER
                                      : v1::REPLICA_ROLE_OUT_OF_SYNC);
      if (role == 'o') group.unavailable_since_ms[id] = kNow - kMinute;
    }
    return group;
  }
  void Away(uint64_t id, uint64_t for_ms = kMinute) {
    device(id).condition = DeviceCondition::kAway;
    for (RepairGroup& group : pool.groups) group.unavailable_since_ms[id] = kNow - for_ms;
  }
  RepairPlan Plan() const { return PlanRepair(rules, pool, kNow); }
  // "start 2->4", "learn 2", … in order.
  std::string Says() const {
    std::string text;
    for (const RepairDecision& decision : Plan().decisions) {
      if (!text.empty()) text += ", ";
      const std::string device = std::to_string(decision.device_id);
      switch (decision.action) {
        case RepairAction::kMakeLearner:
          text += "learn " + device;
          break;
        case RepairAction::kStartMove:
          text += decision.swap ? "swap " : "start ";
          text += std::to_string(decision.move.from_device_id) + "->" + device;
          break;
        case RepairAction::kAbandonMove:
          text += "abandon " + device;
          break;
        case RepairAction::kForgetMove:
          text += "forget " + device;
          break;
        default:
          text += "drop " + device;
      }
    }
    return text;
  }
  Obstacle WaitsFor(uint64_t device_id) const {
    const auto waiting = Plan().waiting;
    const auto found = waiting.find(device_id);
    return found == waiting.end() ? Obstacle::kNone : found->second.begin()->first;
  }

  RepairRules rules{.rebalance_paused = true};
  RepairPool pool;
};

TEST_CASE("a lost replica of three waits for the delay, then gets another device", "[repair]") {
  World world(3, 4);
  world.Add("1i 2i 3o");
  world.Away(3, 9 * kMinute);
  CHECK(world.Says().empty());
  world.Away(3, 10 * kMinute);
  CHECK(world.Says() == "start 3->4");
  CHECK(world.Plan().decisions[0].move.kind == MoveKind::kRebuild);
}

TEST_CASE("the device that has most to give begins first", "[repair]") {
  World world(2, 4);
  world.rules.learners_per_target = 1;
  for (const char* members : {"1i 4o", "2i 4o", "3i 4o", "3i 4o", "3i 4o"}) world.Add(members);
  world.Away(4, 20 * kMinute);
  std::multiset<uint64_t> sources;
  for (const RepairDecision& decision : world.Plan().decisions) {
    sources.insert(decision.source_device_id);
  }
  // It gives to both of the others, who take one group each; the third takes from one of these.
  CHECK(sources.size() == 3);
  CHECK(sources.count(3) == 2);
}

TEST_CASE("a single copy is made two at once, and before others", "[repair]") {
  World world(2, 4);
  world.Add("1i 2o");
  world.Away(2, 0);
  CHECK((world.Says() == "start 2->3" || world.Says() == "start 2->4"));

  World mixed(3, 8);
  mixed.rules.learners_per_source = 1;
  mixed.Add("1i 2i 3o");  // lost for long
  mixed.Add("1i 4o 3o");
  mixed.Away(3, 20 * kMinute);
  mixed.Away(4, 0);
  REQUIRE_FALSE(mixed.Plan().decisions.empty());
  CHECK(mixed.Plan().decisions[0].placement_group_id == PlacementGroupId(1, 1));
}

TEST_CASE("an idle group whose server is away keeps it in sync until another is", "[repair]") {
  World world(2, 3);
  world.Add("1i 2i");
  world.Away(2, 0);
  CHECK(world.Says() == "start 2->3");
  RepairGroup& group = world.pool.groups[0];
  REQUIRE(ApplyDecision(world.Plan().decisions[0], 3, 2, &group.entry, &group.move) ==
          MembershipOutcome::kChanged);
  CHECK(InSyncCount(group.entry) == 2);
  CHECK(group.entry.epoch() == 6);
  const Settlement settled = PromoteAndSettle(&group.entry, 6, 3, 2, &*group.move);
  CHECK(settled.move_over);
  CHECK(settled.dropped_device_id == 2);
  CHECK(settled.dropped_sds_id == 2);
  CHECK(InSyncCount(group.entry) == 2);
  CHECK(group.entry.replicas_size() == 2);
  CHECK(group.entry.epoch() == 7);
}

TEST_CASE("after a restart of the MDM nobody is away until silent for long enough", "[repair]") {
  World world(2, 3);
  world.Add("1i 2i");
  world.device(2).condition = DeviceCondition::kUnknown;
  world.pool.groups[0].unavailable_since_ms[2] = kNow - 1;
  CHECK(world.Says().empty());
}

TEST_CASE("what can catch up by difference does, and is not rebuilt", "[repair]") {
  World world(2, 3);
  world.Add("1i 2o");
  CHECK(world.Says() == "learn 2");
  world.device(2).resting = true;
  CHECK(world.Says().empty());
  // Unless it fails again and again.
  world.device(2).failures = 5;
  CHECK(world.Says() == "start 2->3");
}

TEST_CASE("catching up: single copies first, bounded, one change of a group at a time",
          "[repair]") {
  World world(3, 4);
  world.rules.learners_per_target = 2;
  world.Add("1i 2i 3o");
  world.Add("1i 3o");
  world.Add("2i 3o 4o");
  world.Add("1i 3l");
  const RepairPlan plan = world.Plan();
  std::set<uint64_t> learners;
  for (const RepairDecision& decision : plan.decisions) {
    if (decision.action != RepairAction::kMakeLearner) continue;
    learners.insert(decision.placement_group_id);
  }
  CHECK(learners == std::set<uint64_t>{PlacementGroupId(1, 1), PlacementGroupId(1, 2)});
  CHECK(plan.decisions[0].placement_group_id == PlacementGroupId(1, 1));
  world.device(1).condition = world.device(2).condition = DeviceCondition::kAway;
  for (const RepairDecision& decision : world.Plan().decisions) {
    CHECK(decision.action != RepairAction::kMakeLearner);
  }
}

TEST_CASE("the replica that returns first ends the rebuild; the newcomer may serve another",
          "[repair]") {
  World world(2, 3);
  RepairGroup& group = world.Add("1i 2l 3l");
  group.move = RepairMove{.from_device_id = 2, .to_device_id = 3};
  CHECK(world.Says().empty());
  const Settlement settled = PromoteAndSettle(&group.entry, 5, 2, 2, &*group.move);
  CHECK(settled.move_over);
  CHECK(settled.dropped_device_id == 3);
  CHECK(InSyncCount(group.entry) == 2);

  World three(3, 4);
  RepairGroup& two_lost = three.Add("1i 2l 3o 4l");
  two_lost.move = RepairMove{.from_device_id = 2, .to_device_id = 4};
  const Settlement goes_on = PromoteAndSettle(&two_lost.entry, 5, 2, 3, &*two_lost.move);
  CHECK_FALSE(goes_on.move_over);
  CHECK(goes_on.dropped_device_id == 0);
  CHECK(two_lost.move->from_device_id == 3);
}

TEST_CASE("a replica that was only away ends the rebuild when it is back", "[repair]") {
  World world(2, 3);
  world.Add("1i 2i 3l").move = RepairMove{.from_device_id = 2, .to_device_id = 3};
  CHECK(world.Says() == "abandon 3");
  world.device(2).condition = DeviceCondition::kAway;
  CHECK(world.Says().empty());
}

TEST_CASE("a new member that is lost itself is given time, then another is chosen", "[repair]") {
  World world(2, 4);
  RepairGroup& group = world.Add("1i 2o 3o");
  group.move = RepairMove{.from_device_id = 2, .to_device_id = 3};
  world.Away(2);
  world.Away(3, kMinute - 1);
  CHECK(world.Says().empty());
  world.Away(3, kMinute);
  CHECK(world.Says() == "abandon 3");
  world.device(3).condition = DeviceCondition::kReady;
  CHECK(world.Says() == "abandon 3");
  group.unavailable_since_ms[3] = kNow;
  CHECK(world.Says() == "learn 3");  // by difference: what it has counts
  world.device(3).condition = DeviceCondition::kFailed;
  CHECK(world.Says() == "abandon 3");
}

TEST_CASE("maintenance: no rebuild while it lasts, nothing is put there", "[repair]") {
  World world(2, 4);
  world.Add("1i 2o");
  world.Away(2, 60 * kMinute);
  world.device(2).maintenance = true;
  CHECK(world.Says().empty());
  world.device(2).maintenance = false;
  world.device(3).maintenance = true;
  CHECK(world.Says() == "start 2->4");
}

TEST_CASE("a failed device is replaced at once, by its server's other one where no other is",
          "[repair]") {
  World world(2, 3);
  world.device(3).sds_id = 2;
  world.Add("1i 2o");
  world.device(2).condition = DeviceCondition::kFailed;
  CHECK(world.Says() == "swap 2->3");
  RepairGroup& group = world.pool.groups[0];
  REQUIRE(ApplyDecision(world.Plan().decisions[0], 2, 2, &group.entry, &group.move) ==
          MembershipOutcome::kChanged);
  CHECK(group.entry.replicas_size() == 2);
  CHECK(group.move->from_device_id == 0);
  // A device that is only away may come back: its server is not asked twice.
  World away(2, 3);
  away.device(3).sds_id = 2;
  away.Add("1i 2o");
  away.Away(2);
  CHECK(away.Says().empty());
  CHECK(away.WaitsFor(2) == Obstacle::kNoOtherServer);
}

TEST_CASE("the successor of a replaced device is preferred", "[repair]") {
  for (const uint64_t successor : {3, 4, 5}) {
    World world(2, 5);
    world.Add("1i 2o");
    world.device(2).condition = DeviceCondition::kFailed;
    world.device(2).draining = true;
    world.device(2).successor_device_id = successor;
    CHECK(world.Says() == "start 2->" + std::to_string(successor));
  }
}

TEST_CASE("fault sets stay apart where a device allows it; servers always", "[repair]") {
  World world(2, 4);
  for (uint64_t id = 1; id <= 4; ++id)
    world.device(id).fault_set_id = id <= 2 ? 1 : (id == 3 ? 2 : 3);
  world.Add("1i 3o");
  world.Away(3);
  CHECK(world.Says() == "start 3->4");
  // No other fault set works: another server of the same one is better than a single copy.
  world.device(4).condition = DeviceCondition::kAway;
  CHECK(world.Says() == "start 3->2");
  // It works but is busy: that is worth waiting for.
  world.device(4).condition = DeviceCondition::kReady;
  world.rules.learners_per_target = 1;
  world.Add("1i 3i 4l").move = RepairMove{.from_device_id = 3, .to_device_id = 4};
  CHECK(world.Says().empty());
  CHECK(world.WaitsFor(3) == Obstacle::kBusy);
}

TEST_CASE("full devices take nothing, and say so", "[repair]") {
  World world(2, 3);
  world.Add("1i 2o");
  world.Away(2);
  world.device(3).used_bytes = (1 << 30) / 100 * 85;
  CHECK(world.Says().empty());
  CHECK(world.WaitsFor(2) == Obstacle::kNoRoom);
  world.device(3).used_bytes = 0;
  world.device(1).condition = DeviceCondition::kAway;
  CHECK(world.Says().empty());
  CHECK(world.WaitsFor(2) == Obstacle::kNoSource);
}

TEST_CASE("bounds for each target and each source", "[repair]") {
  World world(2, 4);
  for (int i = 0; i < 20; ++i) world.Add("1i 2o");
  world.Away(2);
  world.rules.learners_per_source = 100;
  world.rules.learners_per_target = 3;
  CHECK(world.Plan().decisions.size() == 6);  // three on each of two devices
  world.rules.learners_per_source = 5;
  CHECK(world.Plan().decisions.size() == 5);
  world.rules.rebuild_paused = true;
  CHECK(world.Says().empty());
  CHECK(world.WaitsFor(2) == Obstacle::kPaused);
}

TEST_CASE("a drained device's good copies stay until others are there", "[repair]") {
  World world(2, 3);
  world.Add("1i 2i");
  world.device(2).draining = true;
  CHECK(world.Says() == "start 2->3");
  CHECK(world.Plan().decisions[0].move.kind == MoveKind::kDrain);
  // Cancelled: the new member goes.
  World cancelled(2, 3);
  cancelled.Add("1i 2i 3l").move =
      RepairMove{.kind = MoveKind::kDrain, .from_device_id = 2, .to_device_id = 3};
  CHECK(cancelled.Says() == "abandon 3");
}

TEST_CASE("a drain is checked before it begins", "[repair]") {
  World world(2, 3);
  world.Add("1i 2i");
  world.Add("2i 3i");
  CHECK(CheckDrain(world.rules, world.pool, {2}).empty());
  const auto both = CheckDrain(world.rules, world.pool, {2, 3});
  REQUIRE(both.size() == 2);
  CHECK(both[0].obstacle == Obstacle::kNoOtherServer);
  world.device(3).used_bytes = world.device(3).capacity_bytes;
  const auto full = CheckDrain(world.rules, world.pool, {2});
  REQUIRE(full.size() == 1);
  CHECK(full[0].obstacle == Obstacle::kNoRoom);
  // Each fits alone, all together do not.
  World tight(2, 3);
  for (int i = 0; i < 100; ++i) tight.Add("1i 2i").bytes = 1 << 24;
  CHECK(CheckDrain(tight.rules, tight.pool, {2}).size() > 40);
}

TEST_CASE("more members than wanted: one that is not in sync goes, never a good one that is needed",
          "[repair]") {
  World world(2, 3);
  world.Add("1i 2i 3o");
  CHECK(world.Says() == "drop 3");
  World all(2, 3);
  all.Add("1i 2i 3i");
  REQUIRE(all.Plan().decisions.size() == 1);
  CHECK(all.Plan().decisions[0].action == RepairAction::kDropSurplus);
  v1::PlacementGroup two = world.pool.groups[0].entry;
  CHECK(DropSurplus(&two, 1, 2) == MembershipOutcome::kLastInSync);
  CHECK(DropMember(&two, 1) == MembershipOutcome::kLastInSync);
}

TEST_CASE("a group with too few members gets one more", "[repair]") {
  World world(2, 2);
  world.Add("1i");
  CHECK(world.Says() == "start 0->2");
}

TEST_CASE("a decision about an older entry changes nothing", "[repair]") {
  World world(2, 3);
  world.Add("1i 2i");
  world.device(2).draining = true;
  RepairGroup& group = world.pool.groups[0];
  const RepairDecision decision = world.Plan().decisions[0];
  group.entry.set_epoch(6);
  CHECK(ApplyDecision(decision, 3, 2, &group.entry, &group.move) == MembershipOutcome::kStaleEpoch);
  CHECK_FALSE(group.move.has_value());
}

// ---- Rebalance

// Groups laid out evenly over devices 1..n, two replicas each.
void LayOut(World* world, uint64_t devices, int groups) {
  for (int i = 0; i < groups; ++i) {
    const uint64_t a = static_cast<uint64_t>(i) % devices;
    const uint64_t b = (a + 1 + static_cast<uint64_t>(i) / devices % (devices - 1)) % devices;
    world->Add(std::to_string(a + 1) + "i " + std::to_string(b + 1) + "i");
  }
}

TEST_CASE("a device that joins takes its share, and nothing else moves", "[repair]") {
  World world(2, 5);
  LayOut(&world, 4, 64);
  world.rules = {};
  world.rules.rebalance_per_device = world.rules.learners_per_target = 64;
  world.rules.learners_per_source = 64;
  const RepairPlan plan = world.Plan();
  for (const RepairDecision& decision : plan.decisions) {
    CHECK(decision.move.to_device_id == 5);
    CHECK(decision.move.kind == MoveKind::kRebalance);
  }
  // 128 replicas over five devices are 25.6 each.
  CHECK(plan.decisions.size() >= 25);
  CHECK(plan.decisions.size() <= 26);
  CHECK(CountMovesNeeded(world.rules, world.pool) == plan.decisions.size());
  world.rules.rebalance_per_device = 2;
  CHECK(world.Plan().decisions.size() == 2);
  world.rules.rebalance_paused = true;
  CHECK(world.Says().empty());
}

TEST_CASE("a move that is given up makes no room for another", "[repair]") {
  World world(2, 3);
  world.rules = {};
  // As before the drain of device 2 was cancelled: 3, 2 and 3 groups.
  world.Add("1i 3i");
  world.Add("1i 3i");
  world.Add("1i 2i 3l").move =
      RepairMove{.kind = MoveKind::kDrain, .from_device_id = 2, .to_device_id = 3};
  world.Add("3i 2i 1l").move =
      RepairMove{.kind = MoveKind::kDrain, .from_device_id = 2, .to_device_id = 1};
  CHECK(world.Says() == "abandon 3, abandon 1");
}

TEST_CASE("what is even stays, and a device that is away keeps its share", "[repair]") {
  World world(2, 4);
  LayOut(&world, 4, 64);
  world.rules = {};
  CHECK(world.Says().empty());
  world.device(4).maintenance = true;
  world.Away(4, 0);
  CHECK(world.Says().empty());
}

TEST_CASE("rebalance waits for rebuild", "[repair]") {
  World world(2, 5);
  LayOut(&world, 3, 30);
  world.rules = {};
  REQUIRE_FALSE(world.Says().empty());
  world.pool.groups[0].move = RepairMove{.from_device_id = 1, .to_device_id = 5};
  *world.pool.groups[0].entry.add_replicas() = [] {
    v1::Replica replica;
    replica.set_device_id(5);
    replica.set_sds_id(5);
    replica.set_role(v1::REPLICA_ROLE_LEARNER);
    return replica;
  }();
  world.device(1).condition = DeviceCondition::kAway;
  for (const RepairDecision& decision : world.Plan().decisions) {
    CHECK(decision.move.kind == MoveKind::kRebuild);
  }
}

TEST_CASE("a device above the full mark is relieved by those well below", "[repair]") {
  World world(2, 4);
  LayOut(&world, 4, 40);
  world.rules = {};
  for (uint64_t id = 1; id <= 4; ++id) world.device(id).used_bytes = (1 << 30) / 100 * 40;
  CHECK(world.Says().empty());
  world.device(2).used_bytes = (1 << 30) / 100 * 90;
  const RepairPlan plan = world.Plan();
  REQUIRE_FALSE(plan.decisions.empty());
  for (const RepairDecision& decision : plan.decisions) {
    CHECK(decision.move.from_device_id == 2);
  }
  // Where all are as full there is nowhere to go.
  for (uint64_t id = 1; id <= 4; ++id) world.device(id).used_bytes = (1 << 30) / 100 * 80;
  world.device(2).used_bytes = (1 << 30) / 100 * 90;
  CHECK(world.Says().empty());
}

TEST_CASE("members that share a fault set are parted once there is another", "[repair]") {
  World world(2, 3);
  for (uint64_t id = 1; id <= 3; ++id) world.device(id).fault_set_id = id == 3 ? 2 : 1;
  world.Add("1i 2i");
  world.rules = {};
  REQUIRE(world.Plan().decisions.size() == 1);
  CHECK(world.Plan().decisions[0].move.to_device_id == 3);
}

TEST_CASE("shares follow capacity, as far as one replica a server allows", "[repair]") {
  World world(2, 4);
  for (int i = 0; i < 10; ++i) world.Add("1i 2i");
  world.device(1).capacity_bytes = 10ull << 30;
  world.device(4).sds_id = 3;
  auto shares = Shares(world.pool);
  CHECK(shares[1] == Approx(10));  // no more than the groups
  CHECK(shares[2] == Approx(10.0 / 3));
  world.device(2).draining = true;
  shares = Shares(world.pool);
  CHECK(shares[2] == 0);
  CHECK(shares[3] + shares[4] == Approx(10));
}

}  // namespace
}  // namespace tessera::mdm
