// Which replica moves where to even out a pool: least movement, one after the other.
//
// Three aims, in this order: members of a group in different fault sets where there are enough; no
// device above the full mark beside ones well below it; replicas by capacity. Each move makes the
// larger of two differences from the share smaller, so no move is undone by a later one.
//
// Pure and deterministic. Threads: any.
#ifndef TESSERA_SERVICES_MDM_REBALANCE_PLANNER_H_
#define TESSERA_SERVICES_MDM_REBALANCE_PLANNER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>

#include "services/mdm/repair_view.h"
#include "services/mdm/target_chooser.h"

namespace tessera::mdm {

// Replicas that each device should hold by its part of the capacity of all that take data (also
// those that are away for a while). No server can hold more than one of a group: what it can't take
// is shared by the others.
[[nodiscard]] std::map<uint64_t, double> Shares(const RepairPool& pool);

class RebalancePlanner {
 public:
  // All must outlive the planner. `chooser` is asked for loads and told of the moves.
  RebalancePlanner(const RepairRules& rules, const RepairPool& pool, TargetChooser* chooser);

  // The next move that is worth it, not of groups in `taken`; nullopt: none. `ignore_bounds`: as if
  // nothing ran.
  [[nodiscard]] std::optional<RepairDecision> Next(const std::set<uint64_t>& taken,
                                                   bool ignore_bounds);

 private:
  [[nodiscard]] bool MayMove(const RepairGroup& group) const;
  [[nodiscard]] bool Takes(const RepairDevice& device) const;
  [[nodiscard]] bool Busy(const RepairDevice& device) const;
  [[nodiscard]] double Excess(const RepairDevice& device) const;
  [[nodiscard]] std::optional<RepairDecision> Uncrowd(const std::set<uint64_t>& taken);
  [[nodiscard]] std::optional<RepairDecision> Relieve(const std::set<uint64_t>& taken);
  [[nodiscard]] std::optional<RepairDecision> EvenOut(const std::set<uint64_t>& taken);
  // The group to move from one device to another, the one that the other would have liked best.
  [[nodiscard]] const RepairGroup* Pick(const RepairDevice& from, const RepairDevice& to,
                                        const std::set<uint64_t>& taken) const;
  [[nodiscard]] RepairDecision Move(const RepairGroup& group, uint64_t from, uint64_t to) const;

  const RepairRules& rules_;
  const RepairPool& pool_;
  TargetChooser* const chooser_;
  const std::map<uint64_t, double> shares_;
  std::map<uint64_t, uint32_t> replicas_;  // by device, as the entries stand
  bool ignore_bounds_ = false;
};

// How many moves a pool still needs, if nothing else changed and nothing ran.
[[nodiscard]] uint32_t CountMovesNeeded(const RepairRules& rules, const RepairPool& pool);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_REBALANCE_PLANNER_H_
