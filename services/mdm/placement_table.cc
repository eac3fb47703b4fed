#include "services/mdm/placement_table.h"

#include "absl/strings/str_cat.h"
#include "services/common/placement_hash.h"
#include "services/common/sql.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {
namespace {

// Rows of one group follow each other: gathers them.
std::vector<v1::PlacementGroup> Gather(Sql query) {
  std::vector<v1::PlacementGroup> groups;
  while (query.Next()) {
    const uint64_t id = query.Unsigned(0);
    if (groups.empty() || groups.back().placement_group_id() != id) {
      v1::PlacementGroup& group = groups.emplace_back();
      group.set_placement_group_id(id);
      group.set_epoch(query.Unsigned(1));
      group.set_loss_epoch(query.Unsigned(5));
    }
    v1::Replica* replica = groups.back().add_replicas();
    replica->set_device_id(query.Unsigned(2));
    replica->set_sds_id(query.Unsigned(3));
    replica->set_role(static_cast<v1::ReplicaRole>(query.Unsigned(4)));
  }
  return groups;
}

#define TESSERA_GROUP_COLUMNS                                                                \
  "SELECT g.id, g.epoch, r.device_id, r.sds_id, r.role, g.loss_epoch FROM placement_group g" \
  " JOIN replica r ON r.placement_group_id = g.id "

}  // namespace

std::optional<v1::PlacementGroup> FindPlacementGroup(SQLite::Database& db,
                                                     uint64_t placement_group_id) {
  auto groups = Gather(
      Sql(db, TESSERA_GROUP_COLUMNS "WHERE g.id = ? ORDER BY r.device_id", placement_group_id));
  if (groups.empty()) return std::nullopt;
  return std::move(groups.front());
}

std::vector<v1::PlacementGroup> ListPlacementGroupRows(SQLite::Database& db, uint64_t pool_id,
                                                       const Page& page) {
  return Gather(
      Sql(db,
          TESSERA_GROUP_COLUMNS
          "WHERE g.id IN (SELECT id FROM placement_group WHERE id > ?1"
          " AND (?2 = 0 OR pool_id = ?2) ORDER BY id LIMIT ?3) ORDER BY g.id, r.device_id",
          page.after_id, pool_id, page.limit));
}

std::vector<v1::PlacementGroup> ListPlacementGroupsOfSds(SQLite::Database& db, uint64_t sds_id) {
  return Gather(Sql(db,
                    TESSERA_GROUP_COLUMNS
                    "WHERE g.id IN (SELECT placement_group_id FROM replica WHERE sds_id = ?)"
                    " ORDER BY g.id, r.device_id",
                    sds_id));
}

uint64_t CountPlacementGroups(SQLite::Database& db, uint64_t pool_id) {
  Sql query(db, "SELECT count(*) FROM placement_group WHERE pool_id = ?", pool_id);
  return query.Next() ? query.Unsigned(0) : 0;
}

void PutPlacementGroup(SQLite::Database& db, const v1::PlacementGroup& group) {
  const uint64_t id = group.placement_group_id();
  if (Sql(db, "UPDATE placement_group SET epoch = ?, loss_epoch = ? WHERE id = ?", group.epoch(),
          group.loss_epoch(), id)
          .Run() == 0) {
    Sql(db, "INSERT INTO placement_group (id, pool_id, epoch, loss_epoch) VALUES (?,?,?,?)", id,
        PoolOfPlacementGroup(id), group.epoch(), group.loss_epoch())
        .Run();
  }
  Sql(db, "DELETE FROM replica WHERE placement_group_id = ?", id).Run();
  for (const v1::Replica& replica : group.replicas()) {
    Sql(db, "INSERT INTO replica VALUES (?,?,?,?)", id, replica.device_id(), replica.sds_id(),
        replica.role())
        .Run();
  }
}

uint64_t EpochSum(SQLite::Database& db, uint64_t pool_id) {
  Sql query(db, "SELECT ifnull(sum(epoch), 0) FROM placement_group WHERE pool_id = ?", pool_id);
  return query.Next() ? query.Unsigned(0) : 0;
}

uint64_t FirstEpoch(SQLite::Database& db, uint64_t pool_id) {
  return GetNumber(db, absl::StrCat("epoch_floor/", pool_id)) + 1;
}

void DeletePlacementGroups(SQLite::Database& db, uint64_t pool_id) {
  Sql query(db, "SELECT ifnull(max(epoch), 0) FROM placement_group WHERE pool_id = ?", pool_id);
  const uint64_t highest = query.Next() ? query.Unsigned(0) : 0;
  if (highest >= FirstEpoch(db, pool_id)) {
    PutNumber(db, absl::StrCat("epoch_floor/", pool_id), highest);
  }
  Sql(db, "DELETE FROM placement_group WHERE pool_id = ?", pool_id).Run();
}

std::map<uint64_t, ReplicaCounts> CountReplicasByDevice(SQLite::Database& db) {
  std::map<uint64_t, ReplicaCounts> counts;
  Sql query(db, "SELECT device_id, role, count(*) FROM replica GROUP BY device_id, role");
  while (query.Next()) {
    ReplicaCounts& of_device = counts[query.Unsigned(0)];
    const uint32_t count = query.Unsigned32(2);
    switch (static_cast<v1::ReplicaRole>(query.Unsigned(1))) {
      case v1::REPLICA_ROLE_IN_SYNC:
        of_device.in_sync = count;
        break;
      case v1::REPLICA_ROLE_LEARNER:
        of_device.learning = count;
        break;
      default:
        of_device.out_of_sync = count;
    }
  }
  return counts;
}

}  // namespace tessera::mdm
