// What to do next for the redundancy of one pool: which members catch up, which moves begin, which
// are given up (docs/REPLICATION.md, Changing members). Called again and again with what is there
// now; it remembers nothing, so a restart of the MDM changes nothing.
//
// Promises, which repair_planner_test.cc checks over random histories:
//  - no decision lowers the number of in-sync members of a group;
//  - a group has at most one move, and one change at a time;
//  - the bounds for each source and target device hold;
//  - with enough devices everything ends healthy, even, and without further decisions.
//
// Pure and deterministic. Threads: any.
#ifndef TESSERA_SERVICES_MDM_REPAIR_PLANNER_H_
#define TESSERA_SERVICES_MDM_REPAIR_PLANNER_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "services/mdm/repair_view.h"

namespace tessera::mdm {

// `now_ms`: MDM time.
[[nodiscard]] RepairPlan PlanRepair(const RepairRules& rules, const RepairPool& pool,
                                    uint64_t now_ms);

// Carries a decision out on the entry and its move, if the entry is still at the decision's epoch.
// The caller stores both in one transaction.
MembershipOutcome ApplyDecision(const RepairDecision& decision, uint64_t target_sds_id,
                                uint32_t replica_count, v1::PlacementGroup* entry,
                                std::optional<RepairMove>* move);

// What a drain of these devices would find: for each group that has no place to go to, why.
struct DrainObstacle {
  uint64_t placement_group_id = 0;
  Obstacle obstacle = Obstacle::kNone;
};
// As if they were drained now and nothing else ran. Empty: it can be done.
[[nodiscard]] std::vector<DrainObstacle> CheckDrain(const RepairRules& rules, RepairPool pool,
                                                    const std::vector<uint64_t>& device_ids);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_REPAIR_PLANNER_H_
