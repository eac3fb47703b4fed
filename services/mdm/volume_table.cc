#include "services/mdm/volume_table.h"

#include "absl/strings/str_cat.h"
#include "services/common/sql.h"
#include "services/mdm/snapshot_table.h"

namespace tessera::mdm {
namespace {

#define TESSERA_VOLUME_COLUMNS                                                \
  "SELECT id, name, pool_id, vtree_id, size_bytes, provisioning, generation," \
  " fenced_generation, reconciled_generation, snapshot_sequence, created_ms," \
  " trashed_name, trashed_until_ms, iops_limit, bandwidth_limit_bytes,"       \
  " burst_seconds, kind, parent_id, path, locked_until_ms, operation_id,"     \
  " being_made, writer_sdc_id, expires_ms, expiry_waits FROM volume "
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
  row.kind = static_cast<v1::VolumeKind>(query.Unsigned(16));
  row.parent_id = query.Unsigned(17);
  auto path = ParsePath(query.Text(18));
  // Nothing may be read by a path that is a guess.
  if (!path.has_value()) {
    throw SQLite::Exception(absl::StrCat("volume ", row.volume_id, " has the path '",
                                         query.Text(18), "', which is none"));
  }
  row.path = *std::move(path);
  row.locked_until_ms = query.Unsigned(19);
  row.operation_id = query.Unsigned(20);
  row.being_made = query.Bool(21);
  row.writer_sdc_id = query.Unsigned(22);
  row.expires_ms = query.Unsigned(23);
  row.expiry_waits = query.Bool(24);
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
          " AND (?9 = 0 OR kind = ?9) AND (?10 = 0 OR parent_id = ?10)"
          " AND (?11 = 0 OR vtree_id = ?11) AND (?12 = 0 OR operation_id = ?12)"
          " AND (?13 OR being_made = 0)"
          " ORDER BY id LIMIT ?4",
          page.after_id, filter.pool_id, filter.name_contains, page.limit, filter.label_key,
          filter.label_value.has_value() ? 0 : 1, filter.label_value.value_or(""),
          filter.trashed.has_value() ? static_cast<int>(*filter.trashed) : 2, filter.kind,
          filter.parent_id, filter.vtree_id, filter.operation_id, filter.with_unfinished),
      ReadVolume);
}

uint64_t CountVolumes(SQLite::Database& db, uint64_t pool_id, v1::VolumeKind kind) {
  Sql query(db,
            "SELECT count(*) FROM volume WHERE (?1 = 0 OR pool_id = ?1) AND (?2 = 0 OR kind = ?2)",
            pool_id, kind);
  return query.Next() ? query.Unsigned(0) : 0;
}

SnapshotCount CountSnapshots(SQLite::Database& db, uint64_t volume_id) {
  Sql query(db,
            "SELECT count(*), ifnull(sum(being_made = 0), 0), ifnull(sum(trashed_until_ms > 0), 0)"
            " FROM volume WHERE parent_id = ? AND kind = 2",
            volume_id);
  if (!query.Next()) return {};
  return {query.Unsigned(0), query.Unsigned(1), query.Unsigned(2)};
}

VolumeRow InsertVolume(SQLite::Database& db, VolumeRow row) {
  if (row.vtree_id == 0) {
    // One number for both: what is found of a vtree without a record is this volume's.
    Sql highest(db, "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name IN (?, ?)", "vtree",
                "volume");
    row.vtree_id = row.volume_id = 1 + (highest.Next() ? highest.Unsigned(0) : 0);
    Sql(db, "INSERT INTO vtree (id, pool_id) VALUES (?, ?)", row.vtree_id, row.pool_id).Run();
  }
  Sql(db,
      "INSERT INTO volume (id, name, pool_id, vtree_id, size_bytes, provisioning, generation,"
      " fenced_generation, reconciled_generation, snapshot_sequence, created_ms, trashed_name,"
      " trashed_until_ms, iops_limit, bandwidth_limit_bytes, burst_seconds, kind, parent_id, path,"
      " locked_until_ms, operation_id, being_made, writer_sdc_id, expires_ms)"
      " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
      Reference(row.volume_id), row.name, row.pool_id, row.vtree_id, row.size_bytes,
      row.provisioning, row.generation, row.fenced_generation, row.reconciled_generation,
      row.snapshot_sequence, row.created_ms, row.trashed_name, row.trashed_until_ms,
      row.limits.iops, row.limits.bandwidth_bytes, row.limits.burst_seconds, row.kind,
      row.parent_id, FormatPath(row.path), row.locked_until_ms, row.operation_id, row.being_made,
      row.writer_sdc_id, row.expires_ms)
      .Run();
  row.volume_id = LastId(db);
  return row;
}

void UpdateVolumeRow(SQLite::Database& db, const VolumeRow& row) {
  Sql(db,
      "UPDATE volume SET name = ?, size_bytes = ?, trashed_name = ?, trashed_until_ms = ?,"
      " iops_limit = ?, bandwidth_limit_bytes = ?, burst_seconds = ?, locked_until_ms = ?,"
      " expires_ms = ?, expiry_waits = ? WHERE id = ?",
      row.name, row.size_bytes, row.trashed_name, row.trashed_until_ms, row.limits.iops,
      row.limits.bandwidth_bytes, row.limits.burst_seconds, row.locked_until_ms, row.expires_ms,
      row.expiry_waits, row.volume_id)
      .Run();
}

void UpdateVolumeLayers(SQLite::Database& db, const VolumeRow& row) {
  Sql(db, "UPDATE volume SET snapshot_sequence = ?, path = ?, being_made = ? WHERE id = ?",
      row.snapshot_sequence, FormatPath(row.path), row.being_made, row.volume_id)
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

std::vector<VolumeRow> ListExpired(SQLite::Database& db, uint64_t now_ms) {
  return AllRows(Sql(db,
                     TESSERA_VOLUME_COLUMNS
                     "WHERE expires_ms > 0 AND expires_ms <= ? AND being_made = 0 ORDER BY id",
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

void UpdateVolumeWriter(SQLite::Database& db, const VolumeRow& row) {
  Sql(db, "UPDATE volume SET writer_sdc_id = ? WHERE id = ?", row.writer_sdc_id, row.volume_id)
      .Run();
}

bool ForgetWriter(SQLite::Database& db, uint64_t sdc_id) {
  return Sql(db, "UPDATE volume SET writer_sdc_id = 0 WHERE writer_sdc_id = ?", sdc_id).Run() > 0;
}

bool DeleteVolumeRow(SQLite::Database& db, const VolumeRow& row,
                     const std::vector<uint64_t>& sds_ids, uint64_t now_ms) {
  Sql(db, "DELETE FROM volume WHERE id = ?", row.volume_id).Run();
  if (Sql(db, "SELECT 1 FROM volume WHERE vtree_id = ? LIMIT 1", row.vtree_id).Next()) {
    Sql(db, "INSERT INTO deleted_volume VALUES (?,?,?)", row.volume_id, row.shown_name(), now_ms)
        .Run();
    MarkLayerDrops(db, row.vtree_id, sds_ids, now_ms);
    return false;
  }
  Sql(db, "DELETE FROM vtree WHERE id = ?", row.vtree_id).Run();
  Sql(db, "INSERT INTO deleted_vtree VALUES (?,?,?,?,?,?)", row.vtree_id, row.volume_id,
      row.shown_name(), row.pool_id, row.generation, now_ms)
      .Run();
  for (uint64_t sds_id : sds_ids) {
    Sql(db, "INSERT INTO deleted_vtree_pending (sds_id, vtree_id) VALUES (?, ?)", sds_id,
        row.vtree_id)
        .Run();
  }
  return true;
}

void ForgetDeletedVolumes(SQLite::Database& db, uint64_t before_ms) {
  Sql(db, "DELETE FROM deleted_volume WHERE deleted_ms < ?", before_ms).Run();
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
    return Sql(db,
               "SELECT 1 FROM deleted_vtree WHERE volume_id = ?1"
               " UNION ALL SELECT 1 FROM deleted_volume WHERE volume_id = ?1",
               volume_id)
        .Next();
  }
  return Sql(db,
             "SELECT 1 FROM deleted_vtree WHERE volume_name = ?1"
             " UNION ALL SELECT 1 FROM deleted_volume WHERE volume_name = ?1",
             name)
      .Next();
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
