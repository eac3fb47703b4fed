// Snapshot schedules in mdm.db.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_SCHEDULE_TABLE_H_
#define TESSERA_SERVICES_MDM_SCHEDULE_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "services/mdm/node_table.h"
#include "tessera/v1/schedule.pb.h"

namespace tessera::mdm {

struct ScheduleRow {
  uint64_t schedule_id = 0;
  v1::SnapshotSchedule settings;  // as it was asked for: without ids, times and errors
  uint64_t created_ms = 0;
  // The newest of its times that it was run at, or that was passed over.
  uint64_t run_time_ms = 0;
  uint64_t named_ms = 0;  // what the snapshots of that run are named by
  bool run_ended = true;
  uint64_t last_run_ms = 0;  // of the newest run that ended, one by hand included; 0: none
  std::string last_error;    // for people
  std::string failure;       // the same as long as the cause is
};

[[nodiscard]] std::optional<ScheduleRow> FindSchedule(SQLite::Database& db, uint64_t schedule_id);
[[nodiscard]] std::optional<ScheduleRow> FindScheduleByName(SQLite::Database& db,
                                                            const std::string& name);
[[nodiscard]] std::vector<ScheduleRow> ListScheduleRows(SQLite::Database& db,
                                                        const Page& page = {});
// Returns its id.
uint64_t InsertSchedule(SQLite::Database& db, const ScheduleRow& row);
void UpdateScheduleSettings(SQLite::Database& db, const ScheduleRow& row);
// Writes what is known of its runs.
void UpdateScheduleRuns(SQLite::Database& db, const ScheduleRow& row);
void DeleteScheduleRow(SQLite::Database& db, uint64_t schedule_id);

// Ids are those of the message.
[[nodiscard]] v1::SnapshotSchedule ToMessage(const ScheduleRow& row);
// What a caller gives, without what it can't.
[[nodiscard]] v1::SnapshotSchedule OnlySettings(v1::SnapshotSchedule schedule);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SCHEDULE_TABLE_H_
