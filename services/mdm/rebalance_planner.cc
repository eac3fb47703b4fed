#include "services/mdm/rebalance_planner.h"

#include <algorithm>
#include <vector>

#include "services/common/placement_hash.h"

namespace tessera::mdm {
namespace {

// A device gets something only while it stays this far below the full mark, so that what relieves
// one device does not fill another to the brim, and nothing goes to and fro.
constexpr uint32_t kFullMarginPercent = 10;
constexpr double kRounding = 1e-6;

double Weight(const RepairDevice& device) {
  return static_cast<double>(std::max<uint64_t>(device.capacity_bytes, 1));
}

bool HasShare(const RepairDevice& device) {
  return device.condition != DeviceCondition::kFailed && !device.draining;
}

}  // namespace

std::map<uint64_t, double> Shares(const RepairPool& pool) {
  const double groups = static_cast<double>(pool.groups.size());
  std::map<uint64_t, double> servers;  // weight of those that can still take more
  std::map<uint64_t, double> of_server;
  for (const RepairDevice& device : pool.devices) {
    if (HasShare(device)) servers[device.sds_id] += Weight(device);
  }
  const std::map<uint64_t, double> weights = servers;
  double left = groups * pool.replica_count;
  for (bool again = true; again;) {
    again = false;
    double weight = 0;
    for (const auto& [sds_id, of_one] : servers) weight += of_one;
    for (const auto& [sds_id, of_one] : servers) {
      of_server[sds_id] = left * of_one / weight;
      if (of_server[sds_id] <= groups) continue;
      of_server[sds_id] = groups;
      left -= groups;
      servers.erase(sds_id);
      again = true;
      break;
    }
  }
  std::map<uint64_t, double> shares;
  for (const RepairDevice& device : pool.devices) {
    shares[device.device_id] =
        HasShare(device) ? of_server[device.sds_id] * Weight(device) / weights.at(device.sds_id)
                         : 0;
  }
  return shares;
}

RebalancePlanner::RebalancePlanner(const RepairRules& rules, const RepairPool& pool,
                                   TargetChooser* chooser)
    : rules_(rules), pool_(pool), chooser_(chooser), shares_(Shares(pool)) {
  for (const RepairGroup& group : pool.groups) {
    for (const v1::Replica& replica : group.entry.replicas()) ++replicas_[replica.device_id()];
  }
}

bool RebalancePlanner::MayMove(const RepairGroup& group) const {
  if (group.move || group.entry.replicas_size() != static_cast<int>(pool_.replica_count)) {
    return false;
  }
  return std::all_of(group.entry.replicas().begin(), group.entry.replicas().end(),
                     [&](const auto& replica) {
                       const RepairDevice* device = chooser_->Find(replica.device_id());
                       return replica.role() == v1::REPLICA_ROLE_IN_SYNC && device != nullptr &&
                              device->condition == DeviceCondition::kReady;
                     });
}

bool RebalancePlanner::Busy(const RepairDevice& device) const {
  if (ignore_bounds_) return false;
  const uint32_t bound = std::min(rules_.rebalance_per_device, rules_.learners_per_target);
  return chooser_->Learners(device.device_id) >= bound;
}

bool RebalancePlanner::Takes(const RepairDevice& device) const {
  return TargetChooser::Usable(device) && !Busy(device);
}

double RebalancePlanner::Excess(const RepairDevice& device) const {
  return chooser_->Load(device.device_id) - shares_.at(device.device_id);
}

RepairDecision RebalancePlanner::Move(const RepairGroup& group, uint64_t from, uint64_t to) const {
  RepairDecision decision;
  decision.action = RepairAction::kStartMove;
  decision.placement_group_id = group.entry.placement_group_id();
  decision.epoch = group.entry.epoch();
  decision.device_id = to;
  decision.move = {.kind = MoveKind::kRebalance, .from_device_id = from, .to_device_id = to};
  return decision;
}

const RepairGroup* RebalancePlanner::Pick(const RepairDevice& from, const RepairDevice& to,
                                          const std::set<uint64_t>& taken) const {
  const RepairGroup* best = nullptr;
  uint64_t best_score = 0;
  for (const RepairGroup& group : pool_.groups) {
    const uint64_t id = group.entry.placement_group_id();
    if (taken.contains(id) || !MayMove(group)) continue;
    if (FindReplica(group.entry, from.device_id) == nullptr || from.sds_id == to.sds_id) continue;
    // A group that is spread over fault sets stays so.
    const bool strict = !chooser_->Crowded(group.entry);
    if (!chooser_->Fits(group.entry, from.device_id, to, strict)) continue;
    if (chooser_->Fill(to, group.bytes) * 100 + kFullMarginPercent > rules_.full_percent) continue;
    Obstacle obstacle = Obstacle::kNone;
    if (!ignore_bounds_ && chooser_->Source(group.entry, &obstacle) == 0) continue;
    const uint64_t score = MixBits(MixBits(id) + to.device_id * 0x9E3779B97F4A7C15ull);
    if (best != nullptr && best_score <= score) continue;
    best = &group;
    best_score = score;
  }
  return best;
}

std::optional<RepairDecision> RebalancePlanner::Uncrowd(const std::set<uint64_t>& taken) {
  for (const RepairGroup& group : pool_.groups) {
    if (taken.contains(group.entry.placement_group_id()) || !MayMove(group) ||
        !chooser_->Crowded(group.entry)) {
      continue;
    }
    // Of all members whose going would leave the rest apart, the one from the fullest device.
    const RepairDevice* from = nullptr;
    const RepairDevice* to = nullptr;
    for (const v1::Replica& replica : group.entry.replicas()) {
      v1::PlacementGroup rest = group.entry;
      (void)DropSurplus(&rest, replica.device_id(), 1);
      if (chooser_->Crowded(rest)) continue;
      const RepairDevice* leaving = chooser_->Find(replica.device_id());
      for (const RepairDevice& device : pool_.devices) {
        if (!Takes(device) || !chooser_->Fits(group.entry, replica.device_id(), device, true)) {
          continue;
        }
        if (chooser_->Fill(device, group.bytes) * 100 > rules_.full_percent) continue;
        const bool better = to == nullptr || Excess(device) < Excess(*to) ||
                            (Excess(device) == Excess(*to) && Excess(*leaving) > Excess(*from));
        if (!better) continue;
        from = leaving;
        to = &device;
      }
    }
    if (to != nullptr) return Move(group, from->device_id, to->device_id);
  }
  return std::nullopt;
}

std::optional<RepairDecision> RebalancePlanner::Relieve(const std::set<uint64_t>& taken) {
  for (const RepairDevice& from : pool_.devices) {
    const auto replicas = replicas_.find(from.device_id);
    if (replicas == replicas_.end()) continue;
    // What the moves that run will take away is away already.
    const double stays = static_cast<double>(chooser_->Load(from.device_id)) / replicas->second;
    const double used = static_cast<double>(from.used_bytes) * std::min(1.0, stays);
    const double fill = used / Weight(from);
    if (fill * 100 <= rules_.full_percent) continue;
    const RepairDevice* to = nullptr;
    const RepairGroup* group = nullptr;
    for (const RepairDevice& device : pool_.devices) {
      if (!Takes(device) || device.device_id == from.device_id) continue;
      if (to != nullptr && chooser_->Fill(device, 0) >= chooser_->Fill(*to, 0)) continue;
      const RepairGroup* candidate = Pick(from, device, taken);
      if (candidate == nullptr) continue;
      to = &device;
      group = candidate;
    }
    if (to != nullptr) {
      return Move(*group, from.device_id, to->device_id);
    }
  }
  return std::nullopt;
}

std::optional<RepairDecision> RebalancePlanner::EvenOut(const std::set<uint64_t>& taken) {
  std::vector<const RepairDevice*> order;
  for (const RepairDevice& device : pool_.devices) order.push_back(&device);
  std::stable_sort(order.begin(), order.end(),
                   [&](const auto* a, const auto* b) { return Excess(*a) > Excess(*b); });
  for (const RepairDevice* from : order) {
    if (Excess(*from) <= 0) break;
    if (from->condition != DeviceCondition::kReady) continue;
    for (auto to = order.rbegin(); to != order.rend(); ++to) {
      // The two come closer by more than one replica.
      if (Excess(*from) - Excess(**to) <= 1.0 + kRounding) break;
      if (!Takes(**to)) continue;
      const RepairGroup* group = Pick(*from, **to, taken);
      if (group != nullptr) return Move(*group, from->device_id, (*to)->device_id);
    }
  }
  return std::nullopt;
}

std::optional<RepairDecision> RebalancePlanner::Next(const std::set<uint64_t>& taken,
                                                     bool ignore_bounds) {
  ignore_bounds_ = ignore_bounds;
  std::optional<RepairDecision> decision = Uncrowd(taken);
  if (!decision) decision = Relieve(taken);
  if (!decision) decision = EvenOut(taken);
  return decision;
}

uint32_t CountMovesNeeded(const RepairRules& rules, const RepairPool& pool) {
  RepairPool after = pool;
  TargetChooser chooser(rules, after);
  RebalancePlanner planner(rules, after, &chooser);
  std::set<uint64_t> taken;
  while (const auto decision = planner.Next(taken, true)) {
    taken.insert(decision->placement_group_id);
    for (const RepairGroup& group : after.groups) {
      if (group.entry.placement_group_id() != decision->placement_group_id) continue;
      chooser.AddIncoming(group, decision->move.from_device_id, decision->move.to_device_id);
    }
  }
  return static_cast<uint32_t>(taken.size());
}

}  // namespace tessera::mdm
