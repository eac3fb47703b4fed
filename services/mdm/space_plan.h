// What is to be counted of the cluster's space, on which servers, and how the answers add up
// (docs/volumes/space.md).
//
// Pure, but for reading the plan. Threads: any.
#ifndef TESSERA_SERVICES_MDM_SPACE_PLAN_H_
#define TESSERA_SERVICES_MDM_SPACE_PLAN_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/mdm/node_control.h"
#include "services/mdm/volume_table.h"
#include "tessera/v1/placement.pb.h"
#include "tessera/v1/sds_control.pb.h"
#include "tessera/v1/topology.pb.h"
#include "tessera/v1/usage.pb.h"

namespace tessera::mdm {

struct SpacePlan {
  struct Vtree {
    uint64_t vtree_id = 0;
    std::vector<VolumeRow> rows;  // snapshots that are being made, too
  };
  struct Pool {
    v1::StoragePool pool;
    std::vector<Vtree> vtrees;
    std::vector<v1::PlacementGroup> groups;
    std::map<uint64_t, uint64_t> devices;  // which server has each
  };
  std::vector<Pool> pools;
  std::map<uint64_t, SdsTarget> servers;  // with devices of these pools
  bool one_vtree = false;                 // figures of pools are those of the vtree
};

// What of it.
struct SpaceScope {
  uint64_t pool_id = 0;   // 0: all pools
  uint64_t vtree_id = 0;  // 0: all vtrees
};
// Inside a transaction of MdmStore.
[[nodiscard]] SpacePlan ReadSpacePlan(SQLite::Database& db, const SpaceScope& scope);

// Which replicas count, by server: one in sync of each placement group, on a server that is not in
// `silent`. UNAVAILABLE: which group has none. Empty when there is no vtree.
using CountedReplicas = std::map<uint64_t, std::vector<v1::CountedReplica>>;
[[nodiscard]] absl::StatusOr<CountedReplicas> ChooseCounted(const SpacePlan& plan,
                                                            const std::set<uint64_t>& silent);

// Who sees what of the vtrees, in pieces that a message has room for; one empty piece at least.
[[nodiscard]] std::vector<std::vector<v1::VtreeCatalog>> CatalogsOf(const SpacePlan& plan);

// What one server said, all its answers in one.
struct ServerSpace {
  std::map<uint64_t, v1::VtreeMeasure> vtrees;
  std::map<uint64_t, v1::DeviceMeasure> devices;
};
using SpaceAnswers = std::map<uint64_t, ServerSpace>;  // by server

// Servers of the plan that are not in `answers` are silent.
[[nodiscard]] v1::GetUsageResponse AddUp(const SpacePlan& plan, const SpaceAnswers& answers);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SPACE_PLAN_H_
