#include "services/mdm/repair_table.h"

#include "services/common/sql.h"

namespace tessera::mdm {
namespace {

#define TESSERA_OPERATION_COLUMNS                                                      \
  "SELECT id, kind, state, subject, pool_id, sds_id, device_id, started_ms, ended_ms," \
  " groups_done, bytes_done, retries, last_error, devices_done, devices_total,"        \
  " blocks_found, blocks_repaired, blocks_unreadable, blocks_different FROM operation "

v1::Operation ReadOperation(Sql& query) {
  v1::Operation row;
  row.set_operation_id(query.Unsigned(0));
  row.set_kind(static_cast<v1::OperationKind>(query.Unsigned(1)));
  row.set_state(static_cast<v1::OperationState>(query.Unsigned(2)));
  row.set_subject(query.Text(3));
  row.set_pool_id(query.Unsigned(4));
  row.set_sds_id(query.Unsigned(5));
  row.set_device_id(query.Unsigned(6));
  row.set_started_ms(query.Unsigned(7));
  row.set_ended_ms(query.Unsigned(8));
  row.set_placement_groups_done(query.Unsigned32(9));
  row.set_bytes_done(query.Unsigned(10));
  row.set_retries(query.Unsigned32(11));
  row.set_last_error(query.Text(12));
  row.set_devices_done(query.Unsigned32(13));
  row.set_devices_total(query.Unsigned32(14));
  row.set_blocks_found(query.Unsigned(15));
  row.set_blocks_repaired(query.Unsigned(16));
  row.set_blocks_unreadable(query.Unsigned(17));
  row.set_blocks_different(query.Unsigned(18));
  if (row.ended_ms() != 0) {
    row.set_placement_groups_total(row.placement_groups_done());
    row.set_bytes_total(row.bytes_done());
  }
  return row;
}

RepairMove ReadMove(Sql& query, int first) {
  return {.kind = static_cast<MoveKind>(query.Unsigned(first)),
          .from_device_id = query.Unsigned(first + 1),
          .to_device_id = query.Unsigned(first + 2),
          .operation_id = query.Unsigned(first + 3)};
}

}  // namespace

v1::RepairSettings ReadRepairSettings(SQLite::Database& db) {
  v1::RepairSettings settings;
  Sql query(db,
            "SELECT rebuild_delay_ms, learners_per_target_device, learners_per_source_device,"
            " rebalance_moves_per_device, bytes_per_second_per_server, rebuild_paused,"
            " rebalance_paused, full_percent FROM repair_setting");
  if (!query.Next()) return settings;
  settings.set_rebuild_delay_ms(query.Unsigned(0));
  settings.set_learners_per_target_device(query.Unsigned32(1));
  settings.set_learners_per_source_device(query.Unsigned32(2));
  settings.set_rebalance_moves_per_device(query.Unsigned32(3));
  settings.set_bytes_per_second_per_server(query.Unsigned(4));
  settings.set_rebuild_paused(query.Bool(5));
  settings.set_rebalance_paused(query.Bool(6));
  settings.set_full_percent(query.Unsigned32(7));
  return settings;
}

void WriteRepairSettings(SQLite::Database& db, const v1::RepairSettings& settings) {
  Sql(db,
      "UPDATE repair_setting SET rebuild_delay_ms = ?, learners_per_target_device = ?,"
      " learners_per_source_device = ?, rebalance_moves_per_device = ?,"
      " bytes_per_second_per_server = ?, rebuild_paused = ?, rebalance_paused = ?,"
      " full_percent = ?",
      settings.rebuild_delay_ms(), settings.learners_per_target_device(),
      settings.learners_per_source_device(), settings.rebalance_moves_per_device(),
      settings.bytes_per_second_per_server(), settings.rebuild_paused(),
      settings.rebalance_paused(), settings.full_percent())
      .Run();
}

std::optional<RepairMove> FindMove(SQLite::Database& db, uint64_t placement_group_id) {
  Sql query(db,
            "SELECT kind, from_device_id, to_device_id, operation_id FROM move"
            " WHERE placement_group_id = ?",
            placement_group_id);
  if (!query.Next()) return std::nullopt;
  return ReadMove(query, 0);
}

std::map<uint64_t, RepairMove> ListMoves(SQLite::Database& db) {
  std::map<uint64_t, RepairMove> moves;
  Sql query(
      db, "SELECT placement_group_id, kind, from_device_id, to_device_id, operation_id FROM move");
  while (query.Next()) moves[query.Unsigned(0)] = ReadMove(query, 1);
  return moves;
}

void PutMove(SQLite::Database& db, uint64_t placement_group_id, const RepairMove& move) {
  Sql(db,
      "INSERT INTO move VALUES (?,?,?,?,?) ON CONFLICT (placement_group_id) DO UPDATE SET"
      " kind = excluded.kind, from_device_id = excluded.from_device_id,"
      " to_device_id = excluded.to_device_id, operation_id = excluded.operation_id",
      placement_group_id, static_cast<uint64_t>(move.kind), move.from_device_id, move.to_device_id,
      move.operation_id)
      .Run();
}

void DeleteMove(SQLite::Database& db, uint64_t placement_group_id) {
  Sql(db, "DELETE FROM move WHERE placement_group_id = ?", placement_group_id).Run();
}

UnavailableSince ListUnavailable(SQLite::Database& db) {
  UnavailableSince all;
  Sql query(db, "SELECT placement_group_id, device_id, since_ms FROM unavailable_replica");
  while (query.Next()) all[query.Unsigned(0)][query.Unsigned(1)] = query.Unsigned(2);
  return all;
}

void ReplaceUnavailable(SQLite::Database& db, const UnavailableSince& before,
                        const UnavailableSince& after) {
  for (const auto& [id, devices] : before) {
    const auto now = after.find(id);
    for (const auto& [device_id, since_ms] : devices) {
      if (now != after.end() && now->second.contains(device_id)) continue;
      Sql(db, "DELETE FROM unavailable_replica WHERE placement_group_id = ? AND device_id = ?", id,
          device_id)
          .Run();
    }
  }
  for (const auto& [id, devices] : after) {
    const auto old = before.find(id);
    for (const auto& [device_id, since_ms] : devices) {
      if (old != before.end() && old->second.contains(device_id)) continue;
      // The group may have been laid out anew since it was looked at.
      Sql(db,
          "INSERT OR REPLACE INTO unavailable_replica SELECT id, ?2, ?3 FROM placement_group"
          " WHERE id = ?1",
          id, device_id, since_ms)
          .Run();
    }
  }
}

std::optional<v1::Operation> FindOperation(SQLite::Database& db, uint64_t operation_id) {
  return OneRow(Sql(db, TESSERA_OPERATION_COLUMNS "WHERE id = ?", operation_id), ReadOperation);
}

std::optional<v1::Operation> FindRunning(SQLite::Database& db, const OperationKey& key) {
  return OneRow(
      Sql(db,
          TESSERA_OPERATION_COLUMNS "WHERE ended_ms = 0 AND kind = ? AND pool_id = ? AND sds_id = ?"
                                    " AND device_id = ?",
          key.kind, key.pool_id, key.sds_id, key.device_id),
      ReadOperation);
}

std::vector<v1::Operation> ListRunning(SQLite::Database& db) {
  return AllRows(Sql(db, TESSERA_OPERATION_COLUMNS "WHERE ended_ms = 0 ORDER BY id"),
                 ReadOperation);
}

std::vector<v1::Operation> ListOperationRows(SQLite::Database& db, const Page& page) {
  return AllRows(Sql(db, TESSERA_OPERATION_COLUMNS "WHERE id > ? ORDER BY id LIMIT ?",
                     page.after_id, page.limit),
                 ReadOperation);
}

uint64_t InsertOperation(SQLite::Database& db, const v1::Operation& operation) {
  Sql(db,
      "INSERT INTO operation (kind, state, subject, pool_id, sds_id, device_id, started_ms)"
      " VALUES (?,?,?,?,?,?,?)",
      operation.kind(), operation.state(), operation.subject(), operation.pool_id(),
      operation.sds_id(), operation.device_id(), operation.started_ms())
      .Run();
  return LastId(db);
}

void EndOperation(SQLite::Database& db, uint64_t operation_id, v1::OperationState state,
                  uint64_t now_ms) {
  Sql(db, "UPDATE operation SET state = ?, ended_ms = ? WHERE id = ? AND ended_ms = 0", state,
      now_ms, operation_id)
      .Run();
  Sql(db,
      "DELETE FROM operation WHERE id IN (SELECT id FROM operation WHERE ended_ms <> 0"
      " AND NOT EXISTS (SELECT 1 FROM move WHERE operation_id = operation.id)"
      " ORDER BY id DESC LIMIT -1 OFFSET ?)",
      kEndedOperationsMax)
      .Run();
}

void CountGroupDone(SQLite::Database& db, uint64_t operation_id, uint64_t bytes) {
  Sql(db,
      "UPDATE operation SET groups_done = groups_done + 1, bytes_done = bytes_done + ?"
      " WHERE id = ?",
      bytes, operation_id)
      .Run();
}

void CountRetry(SQLite::Database& db, uint64_t operation_id, const std::string& why) {
  Sql(db, "UPDATE operation SET retries = retries + 1, last_error = ? WHERE id = ?",
      why.substr(0, 200), operation_id)
      .Run();
}

}  // namespace tessera::mdm
