// Where the replicas of a pool's placement groups go.
//
// Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer and
// Schomaker 2005: score -ln(u) / weight, smallest first) picks devices for each group, so that a
// device which comes or goes moves only what must move. Failure domains: replicas of one group are
// on different servers, and in different fault sets where the pool has enough of them. What chance
// left uneven is then evened out by moving single replicas; and devices that share far too many
// groups swap some with others, so that what one of them loses is copied from all the rest. The
// result is stored by the caller and never recomputed by others.
//
// Pure and deterministic: the same input gives the same plan. Threads: any.
#ifndef TESSERA_SERVICES_MDM_PLACEMENT_PLANNER_H_
#define TESSERA_SERVICES_MDM_PLACEMENT_PLANNER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::mdm {

// A device that may hold replicas.
struct PlacementDevice {
  uint64_t device_id = 0;
  uint64_t sds_id = 0;
  uint64_t fault_set_id = 0;    // 0: the server is a fault set of its own
  uint64_t capacity_bytes = 0;  // its weight
};

struct PlacementRequest {
  uint64_t pool_id = 0;
  uint32_t placement_group_count = 0;
  uint32_t replica_count = 0;
  std::vector<PlacementDevice> devices;
};

// For each group, in index order, its devices in order of preference: indices into request.devices.
using PlacementPlan = std::vector<std::vector<size_t>>;

// FAILED_PRECONDITION, saying how many there are, when the devices are on fewer servers than there
// are replicas; INVALID_ARGUMENT for a count of zero.
[[nodiscard]] absl::StatusOr<PlacementPlan> PlanPlacement(const PlacementRequest& request);

// Bytes that a pool can hold as clients see them: each chunk takes its size on `replica_count`
// different servers, so what a large server has beyond its share can't be used.
[[nodiscard]] uint64_t UsableBytes(const std::vector<PlacementDevice>& devices,
                                   uint32_t replica_count);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_PLACEMENT_PLANNER_H_
