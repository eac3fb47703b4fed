// Goal: whatever happens in whatever order, the planner never costs redundancy, keeps its bounds,
// and ends.
//
// Method: random histories from a seed. The world has servers with devices, groups, and learners
// that complete or fail when they like; servers die, return, restart; devices fail, fill, are
// drained, replaced; the MDM restarts. After each event the planner is asked and its decisions are
// applied by the same functions that the MDM uses. At the end everything that can return does, and
// the pool must become healthy, apart, even and quiet within a bound. TESSERA_SEED replays one
// history.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "services/common/placement_hash.h"
#include "services/mdm/rebalance_planner.h"
#include "services/mdm/repair_planner.h"

namespace tessera::mdm {
namespace {

constexpr uint64_t kCapacity = 1ull << 30;

class History {
 public:
  explicit History(uint64_t seed) : random_(seed) {
    rules_.rebuild_delay_ms = 600'000;
    rules_.learners_per_target = 1 + Below(4);
    rules_.learners_per_source = 1 + Below(4);
    rules_.rebalance_per_device = 1 + Below(2);
    pool_.pool_id = 1;
    pool_.replica_count = static_cast<uint32_t>(2 + Below(2));
    const uint64_t servers = pool_.replica_count + 1 + Below(4);
    const bool racks = Below(2) == 0;
    for (uint64_t sds = 1; sds <= servers; ++sds) {
      racks_[sds] = racks ? 1 + sds % (pool_.replica_count + 1) : 0;
      for (uint64_t i = 0; i <= Below(2); ++i) AddDevice(sds);
    }
    const uint64_t groups = 4ull << Below(3);
    for (uint64_t index = 0; index < groups; ++index) {
      RepairGroup& group = pool_.groups.emplace_back();
      group.bytes = kCapacity / 200;
      group.entry.set_placement_group_id(PlacementGroupId(1, static_cast<uint32_t>(index)));
      group.entry.set_epoch(1);
      std::set<uint64_t> used;
      while (used.size() < pool_.replica_count) {
        const RepairDevice& device = pool_.devices[Below(pool_.devices.size())];
        if (!used.insert(device.sds_id).second) continue;
        v1::Replica* replica = group.entry.add_replicas();
        replica->set_device_id(device.device_id);
        replica->set_sds_id(device.sds_id);
        replica->set_role(v1::REPLICA_ROLE_IN_SYNC);
      }
    }
  }

  void Live(int events) {
    for (int i = 0; i < events; ++i) {
      Happen();
      now_ms_ += Below(90'000);
      Observe();
      Tick();
    }
  }

  // Everything returns; true when all is well within the bound.
  void Settle() {
    for (RepairDevice& device : pool_.devices) {
      if (device.condition != DeviceCondition::kFailed) device.condition = DeviceCondition::kReady;
      device.maintenance = device.resting = false;
      device.failures = 0;
      device.used_bytes = 0;
    }
    // Enough servers with a device that works and is not being emptied, in enough racks.
    for (const auto& [sds, rack] : racks_) {
      bool works = false;
      for (const RepairDevice& device : pool_.devices) {
        works |=
            device.sds_id == sds && device.condition == DeviceCondition::kReady && !device.draining;
      }
      if (!works) AddDevice(sds);
    }
    rules_.rebuild_paused = rules_.rebalance_paused = false;
    const size_t bound = 200 + 20 * pool_.groups.size() * pool_.devices.size();
    size_t rounds = 0;
    while (true) {
      INFO("round " << rounds);
      REQUIRE(rounds++ < bound);
      now_ms_ += 1'000;
      Observe();
      const size_t decided = Tick();
      const bool learned = CompleteOne();
      if (decided == 0 && !learned) break;
    }
    CheckHealthy();
  }

  uint64_t starts() const { return starts_; }
  uint64_t decisions() const { return decided_; }

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }

  void AddDevice(uint64_t sds) {
    RepairDevice device;
    device.device_id = pool_.devices.size() + 1;
    device.sds_id = sds;
    device.fault_set_id = racks_[sds];
    device.capacity_bytes = kCapacity * (1 + Below(2));
    pool_.devices.push_back(device);
  }
  RepairDevice& Any() { return pool_.devices[Below(pool_.devices.size())]; }
  RepairDevice& Device(uint64_t id) { return pool_.devices[id - 1]; }

  void ForServer(uint64_t sds, const std::function<void(RepairDevice&)>& change) {
    for (RepairDevice& device : pool_.devices) {
      if (device.sds_id == sds) change(device);
    }
  }

  // A writer reports what does not answer; idle groups are not noticed.
  void Report(uint64_t device_id) {
    for (RepairGroup& group : pool_.groups) {
      if (Below(3) == 0) continue;
      (void)RemoveFailed(&group.entry, group.entry.epoch(), device_id);
    }
  }

  void Happen() {
    RepairDevice& device = Any();
    switch (Below(14)) {
      case 0:
      case 1:  // a server dies
        ForServer(device.sds_id, [&](RepairDevice& one) {
          if (one.condition == DeviceCondition::kFailed) return;
          one.condition = DeviceCondition::kAway;
          Report(one.device_id);
        });
        break;
      case 2:
      case 3:
      case 4:  // one returns; what it learned in memory is forgotten
        ForServer(device.sds_id, [&](RepairDevice& one) {
          if (one.condition == DeviceCondition::kFailed) return;
          one.condition = DeviceCondition::kReady;
          for (RepairGroup& group : pool_.groups) {
            (void)RestartLearners(&group.entry, {one.device_id});
          }
        });
        break;
      case 5:  // a device fails for good, now and then
        if (Below(4) != 0) break;
        device.condition = DeviceCondition::kFailed;
        for (RepairGroup& group : pool_.groups) {
          (void)RemoveDevices(&group.entry, {device.device_id});
        }
        if (Below(2) == 0) AddDevice(device.sds_id);
        break;
      case 6:
        if (CheckDrain(rules_, pool_, {device.device_id}).empty()) device.draining = true;
        break;
      case 7:
        device.draining = false;
        break;
      case 8:
        ForServer(device.sds_id, [](RepairDevice& one) { one.maintenance = !one.maintenance; });
        break;
      case 9:
        device.used_bytes = device.capacity_bytes / 100 * Below(100);
        break;
      case 10:  // the MDM restarts
        for (RepairDevice& one : pool_.devices) {
          if (one.condition == DeviceCondition::kReady) one.condition = DeviceCondition::kUnknown;
          one.failures = 0;
          one.resting = false;
        }
        break;
      case 11:
        FailOne();
        break;
      case 12:
        (Below(2) == 0 ? rules_.rebuild_paused : rules_.rebalance_paused) = Below(2) == 0;
        break;
      default:
        while (Below(3) != 0 && CompleteOne()) {
        }
    }
  }

  // As the scheduler keeps it: unavailable is what can neither serve nor learn.
  void Observe() {
    for (RepairGroup& group : pool_.groups) {
      std::map<uint64_t, uint64_t> since;
      for (const v1::Replica& replica : group.entry.replicas()) {
        const bool ready = Device(replica.device_id()).condition == DeviceCondition::kReady;
        if (ready && replica.role() != v1::REPLICA_ROLE_OUT_OF_SYNC) continue;
        const auto before = group.unavailable_since_ms.find(replica.device_id());
        since[replica.device_id()] =
            before == group.unavailable_since_ms.end() ? now_ms_ : before->second;
      }
      group.unavailable_since_ms = std::move(since);
    }
  }

  size_t Tick() {
    learners_before_.clear();
    for (const auto& [group, device_id] : Learners()) ++learners_before_[device_id];
    const RepairPlan plan = PlanRepair(rules_, pool_, now_ms_);
    std::set<uint64_t> changed;
    for (const RepairDecision& decision : plan.decisions) {
      RepairGroup* group = nullptr;
      for (RepairGroup& candidate : pool_.groups) {
        if (candidate.entry.placement_group_id() == decision.placement_group_id) group = &candidate;
      }
      REQUIRE(group != nullptr);
      // One change of a group at a time.
      REQUIRE(changed.insert(decision.placement_group_id).second);
      const uint32_t in_sync = InSyncCount(group->entry);
      REQUIRE(ApplyDecision(decision, Device(decision.device_id).sds_id, pool_.replica_count,
                            &group->entry, &group->move) == MembershipOutcome::kChanged);
      if (decision.action == RepairAction::kDropSurplus) {
        REQUIRE(InSyncCount(group->entry) >= pool_.replica_count);
      } else {
        REQUIRE(InSyncCount(group->entry) == in_sync);
      }
      if (decision.action == RepairAction::kStartMove) ++starts_;
      CheckGroup(*group);
    }
    decided_ += plan.decisions.size();
    CheckBounds();
    return plan.decisions.size();
  }

  void CheckGroup(const RepairGroup& group) {
    REQUIRE(InSyncCount(group.entry) >= 1);
    std::set<uint64_t> servers;
    for (const v1::Replica& replica : group.entry.replicas()) {
      REQUIRE(servers.insert(replica.sds_id()).second);
    }
    // At most one member more than wanted: the one of the move.
    REQUIRE(group.entry.replicas_size() <= static_cast<int>(pool_.replica_count) + 1);
    if (group.move) REQUIRE(FindReplica(group.entry, group.move->to_device_id) != nullptr);
  }

  void CheckBounds() {
    // Of learners that somebody can teach. Where teachers returned there may be more than the
    // bound, but the planner adds none.
    std::map<uint64_t, uint32_t> learners;
    for (const auto& [group, device_id] : Learners()) ++learners[device_id];
    for (const auto& [device_id, count] : learners) {
      const uint32_t before = learners_before_[device_id];
      REQUIRE(count <= std::max(rules_.learners_per_target, before));
    }
  }

  // Learners that have somebody to copy from, and can.
  std::vector<std::pair<RepairGroup*, uint64_t>> Learners() {
    std::vector<std::pair<RepairGroup*, uint64_t>> learners;
    for (RepairGroup& group : pool_.groups) {
      bool source = false;
      for (const v1::Replica& replica : group.entry.replicas()) {
        source |= replica.role() == v1::REPLICA_ROLE_IN_SYNC &&
                  Device(replica.device_id()).condition == DeviceCondition::kReady;
      }
      if (!source) continue;
      for (const v1::Replica& replica : group.entry.replicas()) {
        if (replica.role() == v1::REPLICA_ROLE_LEARNER &&
            Device(replica.device_id()).condition == DeviceCondition::kReady) {
          learners.emplace_back(&group, replica.device_id());
        }
      }
    }
    return learners;
  }

  bool CompleteOne() {
    const auto learners = Learners();
    if (learners.empty()) return false;
    const auto& [group, device_id] = learners[Below(learners.size())];
    const uint32_t in_sync = InSyncCount(group->entry);
    const uint64_t epoch = group->entry.epoch();
    const Settlement settled =
        PromoteAndSettle(&group->entry, epoch, device_id, pool_.replica_count,
                         group->move ? &*group->move : nullptr);
    REQUIRE(settled.outcome == MembershipOutcome::kChanged);
    REQUIRE(group->entry.epoch() == epoch + 1);
    REQUIRE(InSyncCount(group->entry) >= in_sync);
    if (settled.move_over) group->move.reset();
    Device(device_id).failures = 0;
    CheckGroup(*group);
    return true;
  }

  void FailOne() {
    const auto learners = Learners();
    if (learners.empty()) return;
    const auto& [group, device_id] = learners[Below(learners.size())];
    (void)RemoveFailed(&group->entry, group->entry.epoch(), device_id);
    ++Device(device_id).failures;
    Device(device_id).resting = Below(2) == 0;
  }

  void CheckHealthy() {
    for (const RepairGroup& group : pool_.groups) {
      INFO("group " << group.entry.DebugString());
      bool has_source = false;
      for (const v1::Replica& replica : group.entry.replicas()) {
        has_source |= replica.role() == v1::REPLICA_ROLE_IN_SYNC &&
                      Device(replica.device_id()).condition == DeviceCondition::kReady;
      }
      // The last copy was on a device that failed: nobody can help.
      if (!has_source) continue;
      CHECK_FALSE(group.move.has_value());
      CHECK(group.entry.replicas_size() == static_cast<int>(pool_.replica_count));
      for (const v1::Replica& replica : group.entry.replicas()) {
        CHECK(replica.role() == v1::REPLICA_ROLE_IN_SYNC);
        CHECK(Device(replica.device_id()).condition == DeviceCondition::kReady);
        CHECK_FALSE(Device(replica.device_id()).draining);
      }
      TargetChooser chooser(rules_, pool_);
      CHECK_FALSE(chooser.Crowded(group.entry));
    }
    CHECK(CountMovesNeeded(rules_, pool_) == 0);
  }

  std::mt19937_64 random_;
  RepairRules rules_;
  RepairPool pool_;
  std::map<uint64_t, uint64_t> racks_;  // by server; 0: none
  uint64_t now_ms_ = 1'000'000;
  uint64_t starts_ = 0;
  uint64_t decided_ = 0;
  std::map<uint64_t, uint32_t> learners_before_;  // the last decisions, by device
};

TEST_CASE("thousands of random histories cost no redundancy and end well", "[repair]") {
  const char* replay = std::getenv("TESSERA_SEED");
  const uint64_t first = replay != nullptr ? std::strtoull(replay, nullptr, 10) : 1;
  const uint64_t count = replay != nullptr ? 1 : 3'000;
  uint64_t starts = 0;
  uint64_t decisions = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    INFO("TESSERA_SEED=" << seed);
    History history(seed);
    history.Live(60);
    history.Settle();
    starts += history.starts();
    decisions += history.decisions();
  }
  WARN(count << " histories, " << decisions << " decisions, " << starts << " moves begun");
  CHECK(starts > count);
}

}  // namespace
}  // namespace tessera::mdm
