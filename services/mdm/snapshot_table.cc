#include "services/mdm/snapshot_table.h"

#include <algorithm>

#include "services/common/sql.h"
#include "services/mdm/node_table.h"

namespace tessera::mdm {
namespace {

PendingLayerDrop ReadPending(Sql& query) { return {query.Unsigned(0), query.Unsigned(1)}; }

// Branch 0 has a row only when it has more than its first layer.
template <typename Heads>
void AddHeads(SQLite::Database& db, uint64_t vtree_id, Heads* heads) {
  Sql query(db,
            "SELECT branch, max(ordinal_max) FROM (SELECT 0 AS branch, 0 AS ordinal_max UNION ALL"
            " SELECT branch, ordinal_max FROM layer_branch WHERE vtree_id = ?)"
            " GROUP BY branch ORDER BY branch",
            vtree_id);
  while (query.Next()) {
    v1::LayerPathPart* head = heads->Add();
    head->set_branch(query.Unsigned32(0));
    head->set_ordinal_max(query.Unsigned32(1));
  }
}

// A new revision, also for one server: an answer to an earlier one does not count any more.
void Mark(SQLite::Database& db, uint64_t vtree_id, const std::vector<uint64_t>& sds_ids) {
  Sql(db, "UPDATE vtree SET catalog_revision = catalog_revision + 1 WHERE id = ?", vtree_id).Run();
  for (const uint64_t sds_id : sds_ids) {
    Sql(db,
        "INSERT OR REPLACE INTO layer_drop_pending"
        " SELECT ?, id, catalog_revision FROM vtree WHERE id = ?",
        sds_id, vtree_id)
        .Run();
  }
}

}  // namespace

uint32_t TakeBranch(SQLite::Database& db, uint64_t vtree_id) {
  Sql(db, "UPDATE vtree SET next_branch = next_branch + 1 WHERE id = ?", vtree_id).Run();
  Sql query(db, "SELECT next_branch - 1 FROM vtree WHERE id = ?", vtree_id);
  if (!query.Next()) throw SQLite::Exception("there is no such vtree");
  const uint32_t branch = query.Unsigned32(0);
  GiveOutLayer(db, vtree_id, MakeLayer(branch, 0));
  return branch;
}

void GiveOutLayer(SQLite::Database& db, uint64_t vtree_id, uint64_t layer) {
  // Two statements: with ON CONFLICT, the triggers of records would not replace their rows.
  Sql known(db, "SELECT ordinal_max FROM layer_branch WHERE vtree_id = ? AND branch = ?", vtree_id,
            BranchOf(layer));
  if (!known.Next()) {
    Sql(db, "INSERT INTO layer_branch VALUES (?, ?, ?)", vtree_id, BranchOf(layer),
        OrdinalOf(layer))
        .Run();
  } else if (known.Unsigned32(0) < OrdinalOf(layer)) {
    Sql(db, "UPDATE layer_branch SET ordinal_max = ? WHERE vtree_id = ? AND branch = ?",
        OrdinalOf(layer), vtree_id, BranchOf(layer))
        .Run();
  }
}

v1::VtreeCatalog ReadCatalog(SQLite::Database& db, uint64_t vtree_id) {
  v1::VtreeCatalog catalog;
  catalog.set_vtree_id(vtree_id);
  for (const VolumeRow& row : ListVolumeRows(db, {.vtree_id = vtree_id, .with_unfinished = true})) {
    *catalog.add_paths() = ToMessage(row.path);
  }
  AddHeads(db, vtree_id, catalog.mutable_heads());
  return catalog;
}

std::optional<v1::RecordedVtree> ReadVtreeRecord(SQLite::Database& db, uint64_t vtree_id) {
  Sql query(db,
            "SELECT next_branch FROM vtree WHERE id = ?1"
            " AND EXISTS (SELECT 1 FROM layer_branch WHERE vtree_id = ?1)",
            vtree_id);
  if (!query.Next()) return std::nullopt;
  v1::RecordedVtree vtree;
  vtree.set_vtree_id(vtree_id);
  vtree.set_next_branch(query.Unsigned32(0));
  AddHeads(db, vtree_id, vtree.mutable_heads());
  return vtree;
}

void WriteVtreeRecord(SQLite::Database& db, const v1::RecordedVtree& vtree) {
  Sql(db, "UPDATE vtree SET next_branch = ? WHERE id = ?",
      std::max<uint32_t>(1, vtree.next_branch()), vtree.vtree_id())
      .Run();
  for (const v1::LayerPathPart& head : vtree.heads()) {
    GiveOutLayer(db, vtree.vtree_id(), MakeLayer(head.branch(), head.ordinal_max()));
  }
}

void MarkLayerDrops(SQLite::Database& db, uint64_t vtree_id, const std::vector<uint64_t>& sds_ids,
                    uint64_t now_ms) {
  Mark(db, vtree_id, sds_ids);
  Sql(db, "UPDATE vtree SET catalog_marked_ms = ? WHERE id = ?", now_ms, vtree_id).Run();
}

void MarkLayerDropsOfServer(SQLite::Database& db, uint64_t pool_id, uint64_t sds_id) {
  std::vector<uint64_t> vtree_ids;
  Sql query(db, "SELECT id FROM vtree WHERE pool_id = ? AND catalog_revision > 0", pool_id);
  while (query.Next()) vtree_ids.push_back(query.Unsigned(0));
  for (const uint64_t vtree_id : vtree_ids) Mark(db, vtree_id, {sds_id});
}

void MarkLayerDropsAgain(SQLite::Database& db, uint64_t before_ms, uint64_t now_ms) {
  std::vector<std::pair<uint64_t, uint64_t>> due;
  Sql query(db,
            "SELECT id, pool_id FROM vtree WHERE catalog_revision > 0 AND catalog_marked_ms < ?",
            before_ms);
  while (query.Next()) due.emplace_back(query.Unsigned(0), query.Unsigned(1));
  for (const auto& [vtree_id, pool_id] : due) {
    std::vector<uint64_t> sds_ids;
    for (const SdsRow& sds : ListSdsRowsOfPool(db, pool_id)) sds_ids.push_back(sds.sds_id);
    MarkLayerDrops(db, vtree_id, sds_ids, now_ms);
  }
}

std::vector<PendingLayerDrop> ListPendingLayerDrops(SQLite::Database& db, uint64_t sds_id) {
  return AllRows(Sql(db,
                     "SELECT vtree_id, revision FROM layer_drop_pending WHERE sds_id = ?"
                     " ORDER BY vtree_id",
                     sds_id),
                 ReadPending);
}

uint64_t CountPendingLayerDrops(SQLite::Database& db) {
  Sql query(db, "SELECT count(*) FROM layer_drop_pending");
  return query.Next() ? query.Unsigned(0) : 0;
}

void ConfirmLayerDrops(SQLite::Database& db, const PendingLayerDrop& drop, uint64_t sds_id) {
  Sql(db, "DELETE FROM layer_drop_pending WHERE sds_id = ? AND vtree_id = ? AND revision = ?",
      sds_id, drop.vtree_id, drop.revision)
      .Run();
}

uint64_t InsertSnapshotOperation(SQLite::Database& db, uint64_t now_ms) {
  Sql(db, "INSERT INTO snapshot_operation (started_ms) VALUES (?)", now_ms).Run();
  return LastId(db);
}

void SetHeldMicros(SQLite::Database& db, uint64_t operation_id, uint64_t held_micros) {
  Sql(db, "UPDATE snapshot_operation SET held_micros = ? WHERE id = ?", held_micros, operation_id)
      .Run();
}

uint64_t HeldMicros(SQLite::Database& db, uint64_t operation_id) {
  Sql query(db, "SELECT held_micros FROM snapshot_operation WHERE id = ?", operation_id);
  return query.Next() ? query.Unsigned(0) : 0;
}

std::vector<VolumeRow> ListSnapshotsOfOperation(SQLite::Database& db, uint64_t operation_id) {
  return ListVolumeRows(db, {.operation_id = operation_id});
}

std::vector<VolumeRow> ListUnfinishedSnapshots(SQLite::Database& db) {
  std::vector<VolumeRow> rows =
      ListVolumeRows(db, {.kind = v1::VOLUME_KIND_SNAPSHOT, .with_unfinished = true});
  std::erase_if(rows, [](const VolumeRow& row) { return !row.being_made; });
  return rows;
}

void ForgetSnapshotOperations(SQLite::Database& db, uint64_t before_ms) {
  Sql(db, "DELETE FROM snapshot_operation WHERE started_ms < ?", before_ms).Run();
}

}  // namespace tessera::mdm
