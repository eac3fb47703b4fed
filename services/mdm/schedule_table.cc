#include "services/mdm/schedule_table.h"

#include "absl/strings/str_cat.h"
#include "services/common/sql.h"
#include "services/mdm/schedule_rules.h"

namespace tessera::mdm {
namespace {

#define TESSERA_SCHEDULE_COLUMNS                                             \
  "SELECT id, name, settings, created_ms, run_time_ms, named_ms, run_ended," \
  " last_run_ms, last_error, failure FROM snapshot_schedule "

ScheduleRow ReadSchedule(Sql& query) {
  ScheduleRow row;
  row.schedule_id = query.Unsigned(0);
  if (!row.settings.ParseFromString(query.Text(2))) {
    throw SQLite::Exception(
        absl::StrCat("the settings of schedule ", row.schedule_id, " are none"));
  }
  row.settings.set_name(query.Text(1));
  row.created_ms = query.Unsigned(3);
  row.run_time_ms = query.Unsigned(4);
  row.named_ms = query.Unsigned(5);
  row.run_ended = query.Bool(6);
  row.last_run_ms = query.Unsigned(7);
  row.last_error = query.Text(8);
  row.failure = query.Text(9);
  return row;
}

std::string Settings(const ScheduleRow& row) {
  v1::SnapshotSchedule settings = OnlySettings(row.settings);
  settings.clear_name();
  return settings.SerializeAsString();
}

}  // namespace

std::optional<ScheduleRow> FindSchedule(SQLite::Database& db, uint64_t schedule_id) {
  return OneRow(Sql(db, TESSERA_SCHEDULE_COLUMNS "WHERE id = ?", schedule_id), ReadSchedule);
}

std::optional<ScheduleRow> FindScheduleByName(SQLite::Database& db, const std::string& name) {
  return OneRow(Sql(db, TESSERA_SCHEDULE_COLUMNS "WHERE name = ?", name), ReadSchedule);
}

std::vector<ScheduleRow> ListScheduleRows(SQLite::Database& db, const Page& page) {
  return AllRows(Sql(db, TESSERA_SCHEDULE_COLUMNS "WHERE id > ? ORDER BY id LIMIT ?", page.after_id,
                     page.limit),
                 ReadSchedule);
}

uint64_t InsertSchedule(SQLite::Database& db, const ScheduleRow& row) {
  Sql(db,
      "INSERT INTO snapshot_schedule (id, name, settings, created_ms, run_time_ms)"
      " VALUES (?,?,?,?,?)",
      Reference(row.schedule_id), row.settings.name(), Settings(row), row.created_ms,
      row.run_time_ms)
      .Run();
  return LastId(db);
}

void UpdateScheduleSettings(SQLite::Database& db, const ScheduleRow& row) {
  Sql(db, "UPDATE snapshot_schedule SET name = ?, settings = ? WHERE id = ?", row.settings.name(),
      Settings(row), row.schedule_id)
      .Run();
}

void UpdateScheduleRuns(SQLite::Database& db, const ScheduleRow& row) {
  Sql(db,
      "UPDATE snapshot_schedule SET run_time_ms = ?, named_ms = ?, run_ended = ?, last_run_ms = ?,"
      " last_error = ?, failure = ? WHERE id = ?",
      row.run_time_ms, row.named_ms, row.run_ended, row.last_run_ms, row.last_error, row.failure,
      row.schedule_id)
      .Run();
}

void DeleteScheduleRow(SQLite::Database& db, uint64_t schedule_id) {
  Sql(db, "DELETE FROM snapshot_schedule WHERE id = ?", schedule_id).Run();
}

v1::SnapshotSchedule ToMessage(const ScheduleRow& row) {
  v1::SnapshotSchedule schedule = row.settings;
  schedule.set_schedule_id(row.schedule_id);
  schedule.set_created_ms(row.created_ms);
  schedule.set_last_run_ms(row.last_run_ms);
  schedule.set_last_error(row.last_error);
  schedule.set_next_run_ms(schedule.paused() ? 0 : NextRunTime(schedule, row.run_time_ms));
  return schedule;
}

v1::SnapshotSchedule OnlySettings(v1::SnapshotSchedule schedule) {
  schedule.clear_schedule_id();
  schedule.clear_created_ms();
  schedule.clear_last_run_ms();
  schedule.clear_last_error();
  schedule.clear_next_run_ms();
  return schedule;
}

}  // namespace tessera::mdm
