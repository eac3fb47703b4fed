#include "services/mdm/repair_planner.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "services/mdm/rebalance_planner.h"
#include "services/mdm/target_chooser.h"

namespace tessera::mdm {
namespace {

class Planner {
 public:
  Planner(const RepairRules& rules, const RepairPool& pool, uint64_t now_ms)
      : rules_(rules), pool_(pool), now_ms_(now_ms), chooser_(rules, pool) {}

  RepairPlan Plan() {
    CountLearners();
    for (const RepairGroup& group : pool_.groups) Settle(group);
    CatchUp();
    Rebuild();
    Drain();
    Rebalance();
    return std::move(plan_);
  }

 private:
  // A member that needs a successor.
  struct Want {
    const RepairGroup* group = nullptr;
    uint64_t device_id = 0;  // 0: the group just has too few members
    uint32_t safe = 0;
    uint64_t since_ms = 0;
    uint32_t rivals = 0;  // groups that its least wanted source has to give
  };

  RepairDecision* Decide(const RepairGroup& group, RepairAction action, uint64_t device_id) {
    touched_.insert(group.entry.placement_group_id());
    RepairDecision& decision = plan_.decisions.emplace_back();
    decision.action = action;
    decision.placement_group_id = group.entry.placement_group_id();
    decision.epoch = group.entry.epoch();
    decision.device_id = device_id;
    return &decision;
  }
  bool Touched(const RepairGroup& group) const {
    return touched_.contains(group.entry.placement_group_id());
  }

  // Learners count against the bounds of their devices, each with the least busy of its sources.
  // One that nobody can teach now does nothing, maybe for ever: it keeps nobody out.
  void CountLearners() {
    for (const RepairGroup& group : pool_.groups) {
      for (const v1::Replica& replica : group.entry.replicas()) {
        if (replica.role() != v1::REPLICA_ROLE_LEARNER) continue;
        Obstacle obstacle = Obstacle::kNone;
        const uint64_t source = chooser_.Source(group.entry, &obstacle);
        if (obstacle != Obstacle::kNoSource) chooser_.AddLearner(replica.device_id(), source);
      }
    }
  }

  // In-sync members that are not known to be away.
  uint32_t SafeCount(const v1::PlacementGroup& entry) const {
    uint32_t safe = 0;
    for (const v1::Replica& replica : entry.replicas()) {
      const RepairDevice* device = chooser_.Find(replica.device_id());
      const bool there = device != nullptr && (device->condition == DeviceCondition::kReady ||
                                               device->condition == DeviceCondition::kUnknown);
      if (there && replica.role() == v1::REPLICA_ROLE_IN_SYNC) ++safe;
    }
    return safe;
  }

  bool Waited(const RepairGroup& group, uint64_t device_id, uint64_t delay_ms,
              uint64_t* since_ms = nullptr) const {
    const auto since = group.unavailable_since_ms.find(device_id);
    if (since == group.unavailable_since_ms.end()) return false;
    if (since_ms != nullptr) *since_ms = since->second;
    return now_ms_ >= since->second && now_ms_ - since->second >= delay_ms;
  }

  // ---- Moves that run

  // Why the move should end; empty: it should go on.
  std::string WhyAbandon(const RepairGroup& group, const v1::Replica& to) const {
    const RepairMove& move = *group.move;
    const RepairDevice* target = chooser_.Find(move.to_device_id);
    if (target == nullptr || target->condition == DeviceCondition::kFailed) {
      return "the new device failed";
    }
    if (target->draining) return "the new device is being drained";
    const v1::Replica* from = FindReplica(group.entry, move.from_device_id);
    const RepairDevice* old = chooser_.Find(move.from_device_id);
    if (move.kind == MoveKind::kRebuild && from != nullptr && old != nullptr &&
        from->role() == v1::REPLICA_ROLE_IN_SYNC && old->condition == DeviceCondition::kReady &&
        !old->draining) {
      return "the lost replica is back";
    }
    if (move.kind == MoveKind::kDrain && (old == nullptr || !old->draining)) {
      return "the drain was cancelled";
    }
    if (to.role() != v1::REPLICA_ROLE_IN_SYNC) {
      if (target->failures >= rules_.failures_max && to.role() == v1::REPLICA_ROLE_OUT_OF_SYNC) {
        return "the new device fails again and again";
      }
      if (Waited(group, move.to_device_id, rules_.target_patience_ms)) {
        return "the new device is away";
      }
    }
    return "";
  }

  void Settle(const RepairGroup& group) {
    if (group.move) {
      const v1::Replica* to = FindReplica(group.entry, group.move->to_device_id);
      if (to == nullptr || to->role() == v1::REPLICA_ROLE_IN_SYNC) {
        Decide(group, RepairAction::kForgetMove, group.move->to_device_id)->reason =
            "the placement group was laid out anew";
        return;
      }
      const std::string why = WhyAbandon(group, *to);
      if (why.empty()) return;
      chooser_.Undo(group);
      Decide(group, RepairAction::kAbandonMove, group.move->to_device_id)->reason = why;
      return;
    }
    if (group.entry.replicas_size() <= static_cast<int>(pool_.replica_count)) return;
    DropOneTooMany(group);
  }

  // More members than wanted and no move: one that is not in sync goes, else one that is.
  void DropOneTooMany(const RepairGroup& group) {
    const v1::Replica* worst = nullptr;
    std::tuple<bool, bool, bool, uint32_t> worst_rank;
    for (const v1::Replica& replica : group.entry.replicas()) {
      const RepairDevice* device = chooser_.Find(replica.device_id());
      const bool ready = device != nullptr && device->condition == DeviceCondition::kReady;
      const std::tuple<bool, bool, bool, uint32_t> rank(
          replica.role() != v1::REPLICA_ROLE_IN_SYNC, !ready, device == nullptr || device->draining,
          chooser_.Load(replica.device_id()));
      if (worst != nullptr && rank <= worst_rank) continue;
      worst = &replica;
      worst_rank = rank;
    }
    const bool in_sync = worst->role() == v1::REPLICA_ROLE_IN_SYNC;
    Decide(group, in_sync ? RepairAction::kDropSurplus : RepairAction::kDropMember,
           worst->device_id())
        ->reason = "more replicas than the pool wants";
  }

  // ---- Members that catch up

  void CatchUp() {
    std::vector<std::pair<uint32_t, const RepairGroup*>> order;
    for (const RepairGroup& group : pool_.groups) {
      order.emplace_back(SafeCount(group.entry), &group);
    }
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [safe, group] : order) {
      if (Touched(*group)) continue;
      for (const v1::Replica& replica : group->entry.replicas()) {
        const RepairDevice* device = chooser_.Find(replica.device_id());
        if (replica.role() != v1::REPLICA_ROLE_OUT_OF_SYNC || device == nullptr ||
            device->condition != DeviceCondition::kReady || device->resting ||
            chooser_.Learners(replica.device_id()) >= rules_.learners_per_target) {
          continue;
        }
        Obstacle obstacle = Obstacle::kNone;
        const uint64_t source = chooser_.Source(group->entry, &obstacle);
        if (source == 0) break;
        chooser_.AddLearner(replica.device_id(), source);
        Decide(*group, RepairAction::kMakeLearner, replica.device_id())->source_device_id = source;
        break;
      }
    }
  }

  // ---- Rebuild

  bool Urgent(uint32_t safe) const { return safe <= 1 && pool_.replica_count > 1; }

  // Whether the member needs a successor by now.
  bool Lost(const RepairGroup& group, const v1::Replica& replica, Want* want) const {
    const RepairDevice* device = chooser_.Find(replica.device_id());
    const bool out = replica.role() == v1::REPLICA_ROLE_OUT_OF_SYNC;
    if (device == nullptr || device->condition == DeviceCondition::kFailed) return true;
    if (device->draining) return out;
    if (device->maintenance) return false;
    const bool waited =
        Waited(group, replica.device_id(), rules_.rebuild_delay_ms, &want->since_ms);
    switch (device->condition) {
      case DeviceCondition::kAway:
        return waited || Urgent(want->safe);
      case DeviceCondition::kUnknown:
        return waited;
      default:
        return out && device->failures >= rules_.failures_max && (waited || Urgent(want->safe));
    }
  }

  template <typename Visit>
  static void ForSources(const Want& want, const Visit& visit) {
    for (const v1::Replica& replica : want.group->entry.replicas()) {
      if (replica.role() == v1::REPLICA_ROLE_IN_SYNC) visit(replica.device_id());
    }
  }

  std::vector<Want> Wants() const {
    std::vector<Want> wants;
    for (const RepairGroup& group : pool_.groups) {
      if (group.move || Touched(group)) continue;
      Want want{.group = &group, .safe = SafeCount(group.entry), .since_ms = now_ms_};
      if (group.entry.replicas_size() < static_cast<int>(pool_.replica_count)) {
        wants.push_back(want);
        continue;
      }
      // What is out of sync before what may still be good.
      for (const bool in_sync : {false, true}) {
        for (const v1::Replica& replica : group.entry.replicas()) {
          if ((replica.role() == v1::REPLICA_ROLE_IN_SYNC) != in_sync || want.device_id != 0 ||
              !Lost(group, replica, &want)) {
            continue;
          }
          want.device_id = replica.device_id();
          wants.push_back(want);
        }
      }
    }
    // Where much is to be copied from one device that begins first: it would be the last to end.
    std::map<uint64_t, uint32_t> given;
    for (const Want& want : wants) ForSources(want, [&](uint64_t device) { ++given[device]; });
    for (Want& want : wants) {
      want.rivals = std::numeric_limits<uint32_t>::max();
      ForSources(want,
                 [&](uint64_t device) { want.rivals = std::min(want.rivals, given[device]); });
    }
    std::stable_sort(wants.begin(), wants.end(), [](const Want& a, const Want& b) {
      return std::tuple(a.safe, a.since_ms, b.rivals) < std::tuple(b.safe, b.since_ms, a.rivals);
    });
    return wants;
  }

  void Rebuild() {
    for (const RepairGroup& group : pool_.groups) {
      Obstacle obstacle = Obstacle::kNone;
      (void)chooser_.Source(group.entry, &obstacle);
      rebuilding_ |=
          group.move && group.move->kind == MoveKind::kRebuild && obstacle != Obstacle::kNoSource;
    }
    for (const Want& want : Wants()) {
      const RepairDevice* device = chooser_.Find(want.device_id);
      const bool drains = device != nullptr && device->draining;
      if (rules_.rebuild_paused && !drains) {
        ++plan_.waiting[want.device_id][Obstacle::kPaused];
        continue;
      }
      const Obstacle obstacle =
          Begin(*want.group, want.device_id, drains ? MoveKind::kDrain : MoveKind::kRebuild);
      if (obstacle == Obstacle::kNone || obstacle == Obstacle::kBusy) rebuilding_ = true;
      if (obstacle != Obstacle::kNone) ++plan_.waiting[want.device_id][obstacle];
    }
  }

  Obstacle Begin(const RepairGroup& group, uint64_t leaving, MoveKind kind) {
    Obstacle obstacle = Obstacle::kNone;
    const uint64_t source = chooser_.Source(group.entry, &obstacle);
    if (source == 0) return obstacle;
    const TargetChoice choice = chooser_.Choose(group, leaving);
    if (choice.device == nullptr) return choice.obstacle;
    const uint64_t to = choice.device->device_id;
    chooser_.AddLearner(to, source);
    chooser_.AddIncoming(group, leaving, to);
    RepairDecision* decision = Decide(group, RepairAction::kStartMove, to);
    decision->source_device_id = source;
    decision->swap = choice.swap;
    decision->move = {.kind = kind, .from_device_id = leaving, .to_device_id = to};
    return Obstacle::kNone;
  }

  // ---- Drain and rebalance

  void Drain() {
    for (const RepairGroup& group : pool_.groups) {
      if (group.move || Touched(group)) continue;
      for (const v1::Replica& replica : group.entry.replicas()) {
        const RepairDevice* device = chooser_.Find(replica.device_id());
        if (device == nullptr || !device->draining) continue;
        // While redundancy is made elsewhere in the pool, its replicas that are good wait.
        const Obstacle obstacle =
            rebuilding_ ? Obstacle::kBusy : Begin(group, replica.device_id(), MoveKind::kDrain);
        if (obstacle != Obstacle::kNone) ++plan_.waiting[replica.device_id()][obstacle];
        break;
      }
    }
  }

  void Rebalance() {
    if (rules_.rebalance_paused || rebuilding_) return;
    RebalancePlanner planner(rules_, pool_, &chooser_);
    std::set<uint64_t> taken = touched_;
    while (std::optional<RepairDecision> decision = planner.Next(taken, false)) {
      const auto group =
          std::find_if(pool_.groups.begin(), pool_.groups.end(), [&](const RepairGroup& candidate) {
            return candidate.entry.placement_group_id() == decision->placement_group_id;
          });
      taken.insert(decision->placement_group_id);
      Obstacle obstacle = Obstacle::kNone;
      decision->source_device_id = chooser_.Source(group->entry, &obstacle);
      if (decision->source_device_id == 0) continue;
      chooser_.AddLearner(decision->move.to_device_id, decision->source_device_id);
      chooser_.AddIncoming(*group, decision->move.from_device_id, decision->move.to_device_id);
      plan_.decisions.push_back(*std::move(decision));
    }
  }

  const RepairRules& rules_;
  const RepairPool& pool_;
  const uint64_t now_ms_;
  TargetChooser chooser_;
  std::set<uint64_t> touched_;  // groups with a decision
  bool rebuilding_ = false;     // a rebuild runs, begins, or waits for its turn
  RepairPlan plan_;
};

}  // namespace

RepairPlan PlanRepair(const RepairRules& rules, const RepairPool& pool, uint64_t now_ms) {
  return Planner(rules, pool, now_ms).Plan();
}

MembershipOutcome ApplyDecision(const RepairDecision& decision, uint64_t target_sds_id,
                                uint32_t replica_count, v1::PlacementGroup* entry,
                                std::optional<RepairMove>* move) {
  if (entry->epoch() != decision.epoch) return MembershipOutcome::kStaleEpoch;
  switch (decision.action) {
    case RepairAction::kMakeLearner:
      return MakeLearner(entry, decision.device_id);
    case RepairAction::kStartMove: {
      if (move->has_value()) return MembershipOutcome::kNotMember;
      const MembershipOutcome outcome = AddLearner(
          entry, {.device_id = decision.device_id,
                  .sds_id = target_sds_id,
                  .swapped_device_id = decision.swap ? decision.move.from_device_id : 0});
      if (outcome != MembershipOutcome::kChanged) return outcome;
      *move = decision.move;
      if (decision.swap) (*move)->from_device_id = 0;
      return outcome;
    }
    case RepairAction::kAbandonMove: {
      const MembershipOutcome outcome = DropMember(entry, decision.device_id);
      if (outcome == MembershipOutcome::kChanged) move->reset();
      return outcome;
    }
    case RepairAction::kForgetMove:
      move->reset();
      return MembershipOutcome::kChanged;
    case RepairAction::kDropMember:
      return DropMember(entry, decision.device_id);
    case RepairAction::kDropSurplus:
      return DropSurplus(entry, decision.device_id, replica_count);
  }
  return MembershipOutcome::kNotMember;
}

std::vector<DrainObstacle> CheckDrain(const RepairRules& rules, RepairPool pool,
                                      const std::vector<uint64_t>& device_ids) {
  for (RepairDevice& device : pool.devices) {
    if (std::find(device_ids.begin(), device_ids.end(), device.device_id) != device_ids.end()) {
      device.draining = true;
    }
    device.resting = false;  // for a moment only
  }
  TargetChooser chooser(rules, pool);
  std::vector<DrainObstacle> obstacles;
  for (RepairGroup& group : pool.groups) {
    for (v1::Replica& replica : *group.entry.mutable_replicas()) {
      if (std::find(device_ids.begin(), device_ids.end(), replica.device_id()) ==
          device_ids.end()) {
        continue;
      }
      if (group.move && group.move->from_device_id == replica.device_id()) continue;
      Obstacle obstacle = Obstacle::kNone;
      const TargetChoice choice = chooser.Choose(group, replica.device_id(), true);
      if (choice.device == nullptr) {
        obstacle = choice.obstacle;
      } else if (chooser.Source(group.entry, &obstacle) != 0) {
        chooser.AddIncoming(group, replica.device_id(), choice.device->device_id);
        replica.set_device_id(choice.device->device_id);
        replica.set_sds_id(choice.device->sds_id);
        continue;
      }
      obstacles.push_back({group.entry.placement_group_id(), obstacle});
    }
  }
  return obstacles;
}

}  // namespace tessera::mdm
