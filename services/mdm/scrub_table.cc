#include "services/mdm/scrub_table.h"

#include "services/common/sql.h"

namespace tessera::mdm {
namespace {

v1::ScrubSettings ReadSettings(Sql& query) {
  v1::ScrubSettings settings;
  settings.set_pool_id(query.Unsigned(0));
  settings.set_interval_ms(query.Unsigned(1));
  settings.set_bytes_per_second(query.Unsigned(2));
  return settings;
}

ScrubTarget ReadTarget(Sql& query) {
  ScrubTarget target{.operation_id = query.Unsigned(0),
                     .device_id = query.Unsigned(1),
                     .vtree_id = query.Unsigned(2),
                     .bytes_per_second = query.Unsigned(3),
                     .done = query.Bool(4)};
  target.result.set_bytes_done(query.Unsigned(5));
  target.result.set_bytes_total(query.Unsigned(5));
  target.result.set_blocks_found(query.Unsigned(6));
  target.result.set_blocks_repaired(query.Unsigned(7));
  target.result.set_blocks_unreadable(query.Unsigned(8));
  target.result.set_blocks_different(query.Unsigned(9));
  return target;
}

}  // namespace

std::vector<v1::ScrubSettings> ListScrubSettings(SQLite::Database& db) {
  return AllRows(
      Sql(db, "SELECT id, scrub_interval_ms, scrub_bytes_per_second FROM pool ORDER BY id"),
      ReadSettings);
}

std::optional<v1::ScrubSettings> FindScrubSettings(SQLite::Database& db, uint64_t pool_id) {
  return OneRow(
      Sql(db, "SELECT id, scrub_interval_ms, scrub_bytes_per_second FROM pool WHERE id = ?",
          pool_id),
      ReadSettings);
}

void PutScrubSettings(SQLite::Database& db, const v1::ScrubSettings& settings) {
  Sql(db, "UPDATE pool SET scrub_interval_ms = ?, scrub_bytes_per_second = ? WHERE id = ?",
      settings.interval_ms(), settings.bytes_per_second(), settings.pool_id())
      .Run();
}

void InsertScrubTarget(SQLite::Database& db, const ScrubTarget& target) {
  Sql(db,
      "INSERT INTO scrub_target (operation_id, device_id, vtree_id, bytes_per_second)"
      " VALUES (?,?,?,?)",
      target.operation_id, target.device_id, target.vtree_id, target.bytes_per_second)
      .Run();
}

std::vector<ScrubTarget> ListScrubTargets(SQLite::Database& db, uint64_t operation_id) {
  return AllRows(Sql(db,
                     "SELECT operation_id, device_id, vtree_id, bytes_per_second, done, bytes,"
                     " found, repaired, unreadable, different FROM scrub_target"
                     " WHERE operation_id = ? ORDER BY device_id",
                     operation_id),
                 ReadTarget);
}

void FinishScrubTarget(SQLite::Database& db, const ScrubTarget& target) {
  Sql(db,
      "UPDATE scrub_target SET done = 1, bytes = ?, found = ?, repaired = ?, unreadable = ?,"
      " different = ? WHERE operation_id = ? AND device_id = ?",
      target.result.bytes_done(), target.result.blocks_found(), target.result.blocks_repaired(),
      target.result.blocks_unreadable(), target.result.blocks_different(), target.operation_id,
      target.device_id)
      .Run();
}

void SaveScrubFigures(SQLite::Database& db, const v1::Operation& operation) {
  Sql(db,
      "UPDATE operation SET bytes_done = ?, devices_done = ?, devices_total = ?,"
      " blocks_found = ?, blocks_repaired = ?, blocks_unreadable = ?, blocks_different = ?"
      " WHERE id = ?",
      operation.bytes_done(), operation.devices_done(), operation.devices_total(),
      operation.blocks_found(), operation.blocks_repaired(), operation.blocks_unreadable(),
      operation.blocks_different(), operation.operation_id())
      .Run();
}

}  // namespace tessera::mdm
