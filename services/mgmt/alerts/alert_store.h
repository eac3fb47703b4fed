// Alerts and silences in mgmt.db.
//
// Free functions inside a body of MgmtDb: SQLite's exceptions pass through, MgmtDb turns them into
// statuses. Threads: those of the body.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_ALERT_STORE_H_
#define TESSERA_SERVICES_MGMT_ALERTS_ALERT_STORE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tessera/v1/alert.pb.h"

namespace tessera::mgmt {

// What is kept of resolved alerts: two years, and no more than so many.
inline constexpr uint64_t kAlertHistoryMs = uint64_t{2} * 366 * 86'400'000;
inline constexpr uint64_t kAlertHistoryMax = 100'000;
inline constexpr uint64_t kSilencesMax = 1'000;

struct StoredAlert {
  v1::Alert alert;  // without `silenced`
  bool notified = false;
};

// Returns the new alert's id.
[[nodiscard]] uint64_t InsertAlert(SQLite::Database& db, const StoredAlert& stored);
// All fields of the alert with its id.
void UpdateAlert(SQLite::Database& db, const StoredAlert& stored);
[[nodiscard]] std::optional<StoredAlert> FindAlert(SQLite::Database& db, uint64_t alert_id);
[[nodiscard]] std::vector<StoredAlert> ListActiveAlerts(SQLite::Database& db);
// Newest first, ids below `before_id` (0: all), at most `limit`.
[[nodiscard]] std::vector<StoredAlert> ListAlerts(SQLite::Database& db,
                                                  const v1::ListAlertsRequest& request,
                                                  uint64_t before_id, uint32_t limit);
// Forgets resolved alerts that are too old, or too many.
void PruneAlerts(SQLite::Database& db, uint64_t now_ms, uint64_t history_max = kAlertHistoryMax);

[[nodiscard]] uint64_t InsertSilence(SQLite::Database& db, const v1::Silence& silence);
// Those that have not ended, soonest end first.
[[nodiscard]] std::vector<v1::Silence> ListSilences(SQLite::Database& db, uint64_t now_ms);
[[nodiscard]] bool DeleteSilence(SQLite::Database& db, uint64_t silence_id);
void PruneSilences(SQLite::Database& db, uint64_t now_ms);

// All conditions of the silence that are set hold, and the time is within.
[[nodiscard]] bool Silences(const v1::Silence& silence, const v1::Alert& alert, uint64_t now_ms);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_ALERT_STORE_H_
