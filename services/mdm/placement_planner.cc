#include "services/mdm/placement_planner.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/placement_hash.h"

namespace tessera::mdm {
namespace {

// Servers and fault sets share one number space: a server without a fault set is its own.
using FailureDomain = std::pair<bool, uint64_t>;

FailureDomain DomainOf(const PlacementDevice& device) {
  return device.fault_set_id == 0 ? FailureDomain{false, device.sds_id}
                                  : FailureDomain{true, device.fault_set_id};
}

double Weight(const PlacementDevice& device) {
  return static_cast<double>(std::max<uint64_t>(device.capacity_bytes, 1));
}

// Smaller is better. u is in (0, 1].
double Score(uint64_t placement_group_id, const PlacementDevice& device) {
  const uint64_t hash =
      MixBits(MixBits(placement_group_id) + device.device_id * 0x9E3779B97F4A7C15ull);
  const double u = (static_cast<double>(hash >> 11) + 1.0) / 9007199254740992.0;
  return -std::log(u) / Weight(device);
}

class Planner {
 public:
  explicit Planner(const PlacementRequest& request) : request_(request) {
    std::set<FailureDomain> domains;
    for (const PlacementDevice& device : request.devices) domains.insert(DomainOf(device));
    separate_domains_ = domains.size() >= request.replica_count;
  }

  PlacementPlan Plan() {
    load_.assign(request_.devices.size(), 0);
    for (uint32_t index = 0; index < request_.placement_group_count; ++index) {
      plan_.push_back(Pick(PlacementGroupId(request_.pool_id, index)));
      for (size_t device : plan_.back()) ++load_[device];
    }
    EvenOut();
    SpreadPartners();
    return std::move(plan_);
  }

 private:
  // Whether `candidate` may stand beside the group's other members (without the one at `skip`).
  bool Fits(const std::vector<size_t>& members, size_t candidate, size_t skip) const {
    const PlacementDevice& device = request_.devices[candidate];
    for (size_t i = 0; i < members.size(); ++i) {
      if (i == skip) continue;
      const PlacementDevice& other = request_.devices[members[i]];
      if (other.sds_id == device.sds_id) return false;
      if (separate_domains_ && DomainOf(other) == DomainOf(device)) return false;
    }
    return true;
  }

  std::vector<size_t> Pick(uint64_t placement_group_id) const {
    std::vector<std::pair<double, size_t>> order;
    for (size_t i = 0; i < request_.devices.size(); ++i) {
      order.emplace_back(Score(placement_group_id, request_.devices[i]), i);
    }
    std::sort(order.begin(), order.end());
    std::vector<size_t> members;
    for (const auto& [score, device] : order) {
      if (members.size() == request_.replica_count) break;
      if (Fits(members, device, members.size())) members.push_back(device);
    }
    return members;
  }

  // Replicas that a device should hold, by weight; none can hold more than one of a group, so what
  // a device can't take is shared by the others.
  std::vector<double> Targets() const {
    const double groups = request_.placement_group_count;
    std::vector<double> targets(request_.devices.size(), 0);
    std::vector<bool> full(request_.devices.size(), false);
    double left = groups * request_.replica_count;
    for (bool again = true; again;) {
      again = false;
      double weight = 0;
      for (size_t i = 0; i < targets.size(); ++i) {
        if (!full[i]) weight += Weight(request_.devices[i]);
      }
      for (size_t i = 0; i < targets.size() && weight > 0; ++i) {
        if (full[i]) continue;
        targets[i] = left * Weight(request_.devices[i]) / weight;
        if (targets[i] > groups) {
          targets[i] = groups;
          full[i] = true;
          left -= groups;
          again = true;
          break;
        }
      }
    }
    return targets;
  }

  // Moves one replica from a device above its share to one below, while there is such a move.
  void EvenOut() {
    const std::vector<double> targets = Targets();
    const size_t moves_max = plan_.size() * request_.replica_count;
    for (size_t moves = 0; moves < moves_max; ++moves) {
      if (!MoveOne(targets)) return;
    }
  }

  bool MoveOne(const std::vector<double>& targets) {
    std::vector<size_t> by_excess(load_.size());
    for (size_t i = 0; i < by_excess.size(); ++i) by_excess[i] = i;
    const auto excess = [&](size_t device) {
      return static_cast<double>(load_[device]) - targets[device];
    };
    std::sort(by_excess.begin(), by_excess.end(), [&](size_t a, size_t b) {
      return std::pair(-excess(a), a) < std::pair(-excess(b), b);
    });
    for (size_t from : by_excess) {
      if (excess(from) <= 0.5) return false;
      for (auto to = by_excess.rbegin(); to != by_excess.rend(); ++to) {
        // A move must make things better: the two come closer by more than one replica.
        if (excess(from) - excess(*to) <= 1.0) break;
        if (MoveReplica(from, *to)) return true;
      }
    }
    return false;
  }

  // Of the groups that may move, the one that `to` would have liked best.
  bool MoveReplica(size_t from, size_t to) {
    size_t best_group = plan_.size();
    size_t best_slot = 0;
    double best_score = 0;
    for (size_t group = 0; group < plan_.size(); ++group) {
      const auto& members = plan_[group];
      const auto slot = std::find(members.begin(), members.end(), from);
      if (slot == members.end()) continue;
      const auto index = static_cast<size_t>(slot - members.begin());
      if (!Fits(members, to, index)) continue;
      const double score = Score(PlacementGroupId(request_.pool_id, static_cast<uint32_t>(group)),
                                 request_.devices[to]);
      if (best_group == plan_.size() || score < best_score) {
        best_group = group;
        best_slot = index;
        best_score = score;
      }
    }
    if (best_group == plan_.size()) return false;
    plan_[best_group][best_slot] = to;
    --load_[from];
    ++load_[to];
    return true;
  }

  // Groups that two devices should have in common, by their loads and those of the others that may
  // stand beside them.
  void ExpectPartners() {
    const size_t count = load_.size();
    std::vector<double> beside(count, 0);
    const auto may = [&](size_t a, size_t b) { return a != b && Fits({a}, b, 1); };
    for (size_t a = 0; a < count; ++a) {
      for (size_t b = 0; b < count; ++b) beside[a] += may(a, b) ? load_[b] : 0;
    }
    expected_.assign(count, std::vector<double>(count, 0));
    for (size_t a = 0; a < count; ++a) {
      for (size_t b = 0; b < count; ++b) {
        if (!may(a, b)) continue;
        const double both = static_cast<double>(load_[a]) * load_[b] * (request_.replica_count - 1);
        expected_[a][b] = both * (1 / beside[a] + 1 / beside[b]) / 2;
      }
    }
    common_.assign(count, std::vector<int>(count, 0));
    for (const std::vector<size_t>& members : plan_) {
      for (size_t a : members) {
        for (size_t b : members) common_[a][b] += a != b;
      }
    }
  }
  // What one group more (or less) in common costs: the sum of squares of what is not as expected.
  double Cost(size_t a, size_t b, int more) const {
    const double off = common_[a][b] - expected_[a][b];
    return (2 * off * more + 1) / std::max(expected_[a][b], 1.0);
  }
  // Two groups change a member each: of `group` the one at `slot`, of `other` that at `other_slot`.
  double CostOfSwap(size_t group, size_t slot, size_t other, size_t other_slot) const {
    const size_t out = plan_[group][slot];
    const size_t in = plan_[other][other_slot];
    double cost = 0;
    for (size_t i = 0; i < plan_[group].size(); ++i) {
      if (i != slot) cost += Cost(plan_[group][i], out, -1) + Cost(plan_[group][i], in, 1);
    }
    for (size_t i = 0; i < plan_[other].size(); ++i) {
      if (i != other_slot) cost += Cost(plan_[other][i], in, -1) + Cost(plan_[other][i], out, 1);
    }
    return cost;
  }
  void Swap(size_t group, size_t slot, size_t other, size_t other_slot) {
    const size_t out = plan_[group][slot];
    const size_t in = plan_[other][other_slot];
    const auto count = [this](size_t a, size_t b, int more) {
      common_[a][b] += more;
      common_[b][a] += more;
    };
    for (size_t i = 0; i < plan_[group].size(); ++i) {
      if (i == slot) continue;
      count(plan_[group][i], out, -1);
      count(plan_[group][i], in, 1);
    }
    for (size_t i = 0; i < plan_[other].size(); ++i) {
      if (i == other_slot) continue;
      count(plan_[other][i], in, -1);
      count(plan_[other][i], out, 1);
    }
    std::swap(plan_[group][slot], plan_[other][other_slot]);
  }

  // When a device is lost each of its groups is copied from a partner. So that this is the work of
  // all devices, and not of one that happens to share most groups with it, two that have far too
  // many in common give some away, for groups of other devices: the load stays as it is.
  void SpreadPartners() {
    if (request_.replica_count < 2) return;
    ExpectPartners();
    for (size_t swaps = 0; swaps < plan_.size() && SpreadOne(); ++swaps) {
    }
  }
  bool SpreadOne() {
    std::pair<size_t, size_t> worst;
    double most = 0;
    for (size_t a = 0; a < common_.size(); ++a) {
      for (size_t b = a + 1; b < common_.size(); ++b) {
        const double over = common_[a][b] - expected_[a][b] * (1 + kPartnersSpare) - 1;
        if (over <= most) continue;
        most = over;
        worst = {a, b};
      }
    }
    if (most <= 0) return false;
    double best = 0;
    std::array<size_t, 4> swap{};
    size_t looked = 0;
    for (size_t group = 0; group < plan_.size() && looked < kSwapsLooked; ++group) {
      const std::vector<size_t>& members = plan_[group];
      const auto at = [&](size_t device) {
        return std::find(members.begin(), members.end(), device) - members.begin();
      };
      const auto end = static_cast<ptrdiff_t>(members.size());
      if (at(worst.first) == end || at(worst.second) == end) continue;
      for (const auto slot :
           {static_cast<size_t>(at(worst.first)), static_cast<size_t>(at(worst.second))}) {
        for (size_t other = 0; other < plan_.size(); ++other) {
          for (size_t other_slot = 0; other_slot < plan_[other].size(); ++other_slot) {
            ++looked;
            if (plan_[other][other_slot] == members[slot]) continue;
            if (!Fits(members, plan_[other][other_slot], slot) ||
                !Fits(plan_[other], members[slot], other_slot)) {
              continue;
            }
            const double cost = CostOfSwap(group, slot, other, other_slot);
            if (cost >= best) continue;
            best = cost;
            swap = {group, slot, other, other_slot};
          }
        }
      }
    }
    if (best >= -1e-9) return false;
    Swap(swap[0], swap[1], swap[2], swap[3]);
    return true;
  }

  static constexpr double kPartnersSpare = 0.1;
  static constexpr size_t kSwapsLooked = 200'000;

  const PlacementRequest& request_;
  bool separate_domains_ = false;
  PlacementPlan plan_;
  std::vector<uint32_t> load_;                 // replicas by device
  std::vector<std::vector<double>> expected_;  // groups that two devices should have in common
  std::vector<std::vector<int>> common_;       // and have
};

}  // namespace

absl::StatusOr<PlacementPlan> PlanPlacement(const PlacementRequest& request) {
  if (request.placement_group_count == 0 || request.replica_count == 0) {
    return absl::InvalidArgumentError("a pool has at least one placement group and one replica");
  }
  std::set<uint64_t> servers;
  for (const PlacementDevice& device : request.devices) servers.insert(device.sds_id);
  if (servers.size() < request.replica_count) {
    return absl::FailedPreconditionError(absl::StrCat("the pool's devices are on ", servers.size(),
                                                      " servers, its ", request.replica_count,
                                                      " replicas need as many different ones"));
  }
  PlacementPlan plan = Planner(request).Plan();
  // Fault sets of very different sizes can leave a group without a place although there are enough
  // servers; then servers alone count.
  const auto complete = [&](const std::vector<size_t>& members) {
    return members.size() == request.replica_count;
  };
  if (!std::all_of(plan.begin(), plan.end(), complete)) {
    PlacementRequest flat = request;
    for (PlacementDevice& device : flat.devices) device.fault_set_id = 0;
    return Planner(flat).Plan();
  }
  return plan;
}

uint64_t UsableBytes(const std::vector<PlacementDevice>& devices, uint32_t replica_count) {
  std::map<uint64_t, uint64_t> by_server;
  for (const PlacementDevice& device : devices) by_server[device.sds_id] += device.capacity_bytes;
  if (replica_count == 0 || by_server.size() < replica_count) return 0;
  std::vector<uint64_t> capacities;
  for (const auto& [sds_id, bytes] : by_server) capacities.push_back(bytes);
  std::sort(capacities.begin(), capacities.end());
  // The answer u is the largest with sum(min(capacity, u)) >= replica_count * u: servers above u
  // count with u alone. Taking the k largest as such, u = (sum of the others) / (replica_count -
  // k).
  uint64_t rest = 0;
  for (uint64_t bytes : capacities) rest += bytes;
  uint64_t usable = rest / replica_count;
  for (uint32_t k = 1; k < replica_count; ++k) {
    const uint64_t largest = capacities[capacities.size() - k];
    if (largest <= usable) break;
    rest -= largest;
    usable = rest / (replica_count - k);
  }
  return usable;
}

}  // namespace tessera::mdm
