// Placement groups and their replicas in mdm.db.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_PLACEMENT_TABLE_H_
#define TESSERA_SERVICES_MDM_PLACEMENT_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "services/mdm/node_table.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::mdm {

[[nodiscard]] std::optional<v1::PlacementGroup> FindPlacementGroup(SQLite::Database& db,
                                                                   uint64_t placement_group_id);
// Of a pool, or of all pools (0), in id order.
[[nodiscard]] std::vector<v1::PlacementGroup> ListPlacementGroupRows(SQLite::Database& db,
                                                                     uint64_t pool_id,
                                                                     const Page& page = {});
// Those with a replica on one of the server's devices.
[[nodiscard]] std::vector<v1::PlacementGroup> ListPlacementGroupsOfSds(SQLite::Database& db,
                                                                       uint64_t sds_id);
[[nodiscard]] uint64_t CountPlacementGroups(SQLite::Database& db, uint64_t pool_id);
// Inserts the group, or replaces its epochs (the first must have grown) and all replicas.
void PutPlacementGroup(SQLite::Database& db, const v1::PlacementGroup& group);
// Remembers the highest epoch: servers refuse lower ones for good.
void DeletePlacementGroups(SQLite::Database& db, uint64_t pool_id);
// The epochs of all groups of the pool: grows with each change of one.
[[nodiscard]] uint64_t EpochSum(SQLite::Database& db, uint64_t pool_id);
// The epoch with which a group that has no record begins.
[[nodiscard]] uint64_t FirstEpoch(SQLite::Database& db, uint64_t pool_id);

// How many replicas a device holds in each role.
struct ReplicaCounts {
  uint32_t in_sync = 0;
  uint32_t learning = 0;
  uint32_t out_of_sync = 0;
  [[nodiscard]] uint32_t total() const { return in_sync + learning + out_of_sync; }
};
[[nodiscard]] std::map<uint64_t, ReplicaCounts> CountReplicasByDevice(SQLite::Database& db);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_PLACEMENT_TABLE_H_
