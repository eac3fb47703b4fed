#include "services/mdm/volume_table.h"

#include "services/mdm/sql.h"

namespace tessera::mdm {
namespace {

#define TESSERA_VOLUME_COLUMNS                                                \
  "SELECT id, name, pool_id, vtree_id, size_bytes, provisioning, generation," \
  " fenced_generation, reconciled_generation, snapshot_sequence, created_ms," \
  " trashed_name, trashed_until_ms, iops_limit, bandwidth_limit_bytes,"       \
  " burst_seconds FROM volume "
#define TESSERA_MAPPING_COLUMNS                                                        \
  "SELECT volume_id, sdc_id, mode, iops_limit, bandwidth_limit_bytes, burst_seconds, " \
  "since_generation FROM mapping "

VolumeRow ReadVolume(Sql& query) {
  VolumeRow row;
  row.volume_id = query.Unsigned(0);
  row.name = query.Text(1);
  row.pool_id = query.Unsigned(2);
  row.vtree_id = query.Unsigned(3);
  row.size_bytes = query.Unsigned(4);
  row.provisioning = static_cast<v1::Provisioning>(query.Unsigned(5));
  row.generation = query.Unsigned(6);
  row.fenced_generation = query.Unsigned(7);
  row.reconciled_generation = query.Unsigned(8);
  row.snapshot_sequence = query.Unsigned(9);
  row.created_ms = query.Unsigned(10);
  row.trashed_name = query.Text(11);
  row.trashed_until_ms = query.Unsigned(12);
  row.limits = {query.Unsigned32(13), query.Unsigned(14), query.Unsigned32(15)};
  return row;
}

MappingRow ReadMapping(Sql& query) {
  MappingRow row;
  row.volume_id = query.Unsigned(0);
  row.sdc_id = query.Unsigned(1);
  row.mode = static_cast<v1::MappingMode>(query.Unsigned(2));
  row.limits = {query.Unsigned32(3), query.Unsigned(4), query.Unsigned32(5)};
  row.since_generation = query.Unsigned(6);
  return row;
}

DeletedVtree ReadDeleted(Sql& query) {
  DeletedVtree row;
  row.vtree_id = query.Unsigned(0);
  row.volume_id = query.Unsigned(1);
  row.volume_name = query.Text(2);
  row.pool_id = query.Unsigned(3);
  row.generation = query.Unsigned(4);
  row.deleted_ms = query.Unsigned(5);
  return row;
}

}  // namespace

std::optional<VolumeRow> FindVolume(SQLite::Database& db, uint64_t volume_id) {
  return OneRow(Sql(db, TESSERA_VOLUME_COLUMNS "WHERE id = ?", volume_id), ReadVolume);
}

std::optional<VolumeRow> FindVolumeByName(SQLite::Database& db, const std::string& name) {
  return OneRow(Sql(db, TESSERA_VOLUME_COLUMNS "WHERE name = ?", name), ReadVolume);
}

std::vector<VolumeRow> ListVolumeRows(SQLite::Database& db, const VolumeFilter& filter,
                                      const Page& page) {
  return AllRows(
      Sql(db,
          TESSERA_VOLUME_COLUMNS
          "WHERE id > ?1 AND (?2 = 0 OR pool_id = ?2)"
          " AND instr(iif(trashed_until_ms > 0, trashed_name, name), ?3) > 0"
          " AND (?5 = '' OR EXISTS (SELECT 1 FROM volume_label WHERE volume_id = volume.id"
          "   AND key = ?5 AND (?6 OR value = ?7)))"
          " AND (?8 = 2 OR (trashed_until_ms > 0) = ?8)"
          " ORDER BY id LIMIT ?4",
          page.after_id, filter.pool_id, filter.name_contains, page.limit, filter.label_key,
          filter.label_value.has_value() ? 0 : 1, filter.label_value.value_or(""),
          filter.trashed.has_value() ? static_cast<int>(*filter.trashed) : 2),
      ReadVolume);
}

uint64_t CountVolumes(SQLite::Database& db, uint64_t pool_id) {
  Sql query(db, "SELECT count(*) FROM volume WHERE pool_id = ?", pool_id);
  return query.Next() ? query.Unsigned(0) : 0;
}

VolumeRow InsertVolume(SQLite::Database& db, VolumeRow row) {
  Sql(db, "INSERT INTO vtree (pool_id) VALUES (?)", row.pool_id).Run();
  row.vtree_id = LastId(db);
  Sql(db,
      "INSERT INTO volume (name, pool_id, vtree_id, size_bytes, provisioning, generation,"
      " fenced_generation, reconciled_generation, snapshot_sequence, created_ms, trashed_name,"
      " trashed_until_ms, iops_limit, bandwidth_limit_bytes, burst_seconds)"
      " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
      row.name, row.pool_id, row.vtree_id, row.size_bytes, row.provisioning, row.generation,
      row.fenced_generation, row.reconciled_generation, row.snapshot_sequence, row.created_ms,
      row.trashed_name, row.trashed_until_ms, row.limits.iops, row.limits.bandwidth_bytes,
      row.limits.burst_seconds)
      .Run();
  row.volume_id = LastId(db);
  return row;
}

void UpdateVolumeRow(SQLite::Database& db, const VolumeRow& row) {
  Sql(db,
      "UPDATE volume SET name = ?, size_bytes = ?, trashed_name = ?, trashed_until_ms = ?,"
      " iops_limit = ?, bandwidth_limit_bytes = ?, burst_seconds = ? WHERE id = ?",
      row.name, row.size_bytes, row.trashed_name, row.trashed_until_ms, row.limits.iops,
      row.limits.bandwidth_bytes, row.limits.burst_seconds, row.volume_id)
      .Run();
}

VolumeLabels ReadLabels(SQLite::Database& db, uint64_t volume_id) {
  VolumeLabels labels;
  Sql query(db, "SELECT key, value FROM volume_label WHERE volume_id = ?", volume_id);
  while (query.Next()) labels[query.Text(0)] = query.Text(1);
  return labels;
}

void WriteLabels(SQLite::Database& db, uint64_t volume_id, const VolumeLabels& labels) {
  Sql(db, "DELETE FROM volume_label WHERE volume_id = ?", volume_id).Run();
  for (const auto& [key, value] : labels) {
    Sql(db, "INSERT INTO volume_label VALUES (?, ?, ?)", volume_id, key, value).Run();
  }
}

std::vector<VolumeRow> ListDueTrash(SQLite::Database& db, uint64_t now_ms) {
  return AllRows(
      Sql(db,
          TESSERA_VOLUME_COLUMNS "WHERE trashed_until_ms > 0 AND trashed_until_ms <= ? ORDER BY id",
          now_ms),
      ReadVolume);
}

void UpdateVolumeGenerations(SQLite::Database& db, const VolumeRow& row) {
  Sql(db,
      "UPDATE volume SET generation = ?, fenced_generation = ?, reconciled_generation = ?"
      " WHERE id = ?",
      row.generation, row.fenced_generation, row.reconciled_generation, row.volume_id)
      .Run();
}

void DeleteVolumeRow(SQLite::Database& db, const VolumeRow& row,
                     const std::vector<uint64_t>& sds_ids, uint64_t now_ms) {
  Sql(db, "DELETE FROM volume WHERE id = ?", row.volume_id).Run();
  Sql(db, "DELETE FROM vtree WHERE id = ?", row.vtree_id).Run();
  Sql(db, "INSERT INTO deleted_vtree VALUES (?,?,?,?,?,?)", row.vtree_id, row.volume_id,
      row.shown_name(), row.pool_id, row.generation, now_ms)
      .Run();
  for (uint64_t sds_id : sds_ids) {
    Sql(db, "INSERT INTO deleted_vtree_pending (sds_id, vtree_id) VALUES (?, ?)", sds_id,
        row.vtree_id)
        .Run();
  }
}

std::vector<MappingRow> ListMappings(SQLite::Database& db, uint64_t volume_id) {
  return AllRows(Sql(db, TESSERA_MAPPING_COLUMNS "WHERE volume_id = ? ORDER BY sdc_id", volume_id),
                 ReadMapping);
}

std::vector<MappingRow> ListMappingsOfSdc(SQLite::Database& db, uint64_t sdc_id) {
  return AllRows(Sql(db, TESSERA_MAPPING_COLUMNS "WHERE sdc_id = ? ORDER BY volume_id", sdc_id),
                 ReadMapping);
}

std::optional<MappingRow> FindMapping(SQLite::Database& db, uint64_t volume_id, uint64_t sdc_id) {
  return OneRow(
      Sql(db, TESSERA_MAPPING_COLUMNS "WHERE volume_id = ? AND sdc_id = ?", volume_id, sdc_id),
      ReadMapping);
}

void InsertMapping(SQLite::Database& db, const MappingRow& row) {
  Sql(db, "INSERT INTO mapping VALUES (?,?,?,?,?,?,?)", row.volume_id, row.sdc_id, row.mode,
      row.limits.iops, row.limits.bandwidth_bytes, row.since_generation, row.limits.burst_seconds)
      .Run();
}

void UpdateMapping(SQLite::Database& db, const MappingRow& row) {
  Sql(db,
      "UPDATE mapping SET iops_limit = ?, bandwidth_limit_bytes = ?, burst_seconds = ?"
      " WHERE volume_id = ? AND sdc_id = ?",
      row.limits.iops, row.limits.bandwidth_bytes, row.limits.burst_seconds, row.volume_id,
      row.sdc_id)
      .Run();
}

void DeleteMapping(SQLite::Database& db, uint64_t volume_id, uint64_t sdc_id) {
  Sql(db, "DELETE FROM mapping WHERE volume_id = ? AND sdc_id = ?", volume_id, sdc_id).Run();
}

bool WasVolumeDeleted(SQLite::Database& db, uint64_t volume_id, const std::string& name) {
  if (volume_id != 0) {
    return Sql(db, "SELECT 1 FROM deleted_vtree WHERE volume_id = ?", volume_id).Next();
  }
  return Sql(db, "SELECT 1 FROM deleted_vtree WHERE volume_name = ? LIMIT 1", name).Next();
}

std::vector<DeletedVtree> ListPendingDeletions(SQLite::Database& db, uint64_t sds_id) {
  return AllRows(Sql(db,
                     "SELECT d.vtree_id, d.volume_id, d.volume_name, d.pool_id, d.generation,"
                     " d.deleted_ms FROM deleted_vtree d JOIN deleted_vtree_pending p"
                     " ON p.vtree_id = d.vtree_id WHERE p.sds_id = ? ORDER BY d.vtree_id",
                     sds_id),
                 ReadDeleted);
}

uint64_t CountPendingDeletions(SQLite::Database& db) {
  Sql query(db, "SELECT count(*) FROM deleted_vtree_pending");
  return query.Next() ? query.Unsigned(0) : 0;
}

void ConfirmDeletion(SQLite::Database& db, uint64_t vtree_id, uint64_t sds_id) {
  Sql(db, "DELETE FROM deleted_vtree_pending WHERE vtree_id = ? AND sds_id = ?", vtree_id, sds_id)
      .Run();
}

}  // namespace tessera::mdm
