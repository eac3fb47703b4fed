#include "services/mgmt/alerts/alert_store.h"

#include <SQLiteCpp/VariadicBind.h>

#include "absl/strings/str_cat.h"

namespace tessera::mgmt {
namespace {

constexpr char kColumns[] =
    "alert_id, rule, subject, subject_name, severity, summary, detail, remedy, raised_ms, "
    "last_seen_ms, resolved_ms, acknowledged_by, acknowledged_ms, comment, flaps, notified";

int64_t Number(uint64_t value) { return static_cast<int64_t>(value); }

uint64_t Unsigned(SQLite::Statement& row, int column) {
  return static_cast<uint64_t>(row.getColumn(column).getInt64());
}

StoredAlert FromRow(SQLite::Statement& row) {
  StoredAlert stored;
  v1::Alert& alert = stored.alert;
  alert.set_alert_id(Unsigned(row, 0));
  alert.set_rule(row.getColumn(1).getString());
  alert.set_subject(row.getColumn(2).getString());
  alert.set_subject_name(row.getColumn(3).getString());
  alert.set_severity(static_cast<v1::AlertSeverity>(row.getColumn(4).getInt()));
  alert.set_summary(row.getColumn(5).getString());
  alert.set_detail(row.getColumn(6).getString());
  alert.set_remedy(row.getColumn(7).getString());
  alert.set_raised_ms(Unsigned(row, 8));
  alert.set_last_seen_ms(Unsigned(row, 9));
  alert.set_resolved_ms(Unsigned(row, 10));
  alert.set_acknowledged_by(row.getColumn(11).getString());
  alert.set_acknowledged_ms(Unsigned(row, 12));
  alert.set_comment(row.getColumn(13).getString());
  alert.set_flaps(static_cast<uint32_t>(Unsigned(row, 14)));
  stored.notified = row.getColumn(15).getInt() != 0;
  alert.set_state(alert.resolved_ms() != 0           ? v1::ALERT_STATE_RESOLVED
                  : !alert.acknowledged_by().empty() ? v1::ALERT_STATE_ACKNOWLEDGED
                                                     : v1::ALERT_STATE_ACTIVE);
  return stored;
}

std::vector<StoredAlert> Collect(SQLite::Statement& query) {
  std::vector<StoredAlert> alerts;
  while (query.executeStep()) alerts.push_back(FromRow(query));
  return alerts;
}

v1::Silence SilenceOf(SQLite::Statement& row) {
  v1::Silence silence;
  silence.set_silence_id(Unsigned(row, 0));
  silence.set_rule(row.getColumn(1).getString());
  silence.set_subject(row.getColumn(2).getString());
  silence.set_starts_ms(Unsigned(row, 3));
  silence.set_ends_ms(Unsigned(row, 4));
  silence.set_created_by(row.getColumn(5).getString());
  silence.set_comment(row.getColumn(6).getString());
  return silence;
}

}  // namespace

uint64_t InsertAlert(SQLite::Database& db, const StoredAlert& stored) {
  const v1::Alert& alert = stored.alert;
  SQLite::Statement insert(
      db,
      "INSERT INTO alert (rule, subject, subject_name, severity, summary, detail, remedy, "
      "raised_ms, last_seen_ms, flaps, notified) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  SQLite::bind(insert, alert.rule(), alert.subject(), alert.subject_name(),
               static_cast<int>(alert.severity()), alert.summary(), alert.detail(), alert.remedy(),
               Number(alert.raised_ms()), Number(alert.last_seen_ms()), Number(alert.flaps()),
               stored.notified ? 1 : 0);
  insert.exec();
  return static_cast<uint64_t>(db.getLastInsertRowid());
}

void UpdateAlert(SQLite::Database& db, const StoredAlert& stored) {
  const v1::Alert& alert = stored.alert;
  SQLite::Statement update(
      db,
      "UPDATE alert SET subject_name = ?, severity = ?, summary = ?, detail = ?, remedy = ?, "
      "last_seen_ms = ?, resolved_ms = ?, acknowledged_by = ?, acknowledged_ms = ?, comment = ?, "
      "flaps = ?, notified = ? WHERE alert_id = ?");
  SQLite::bind(update, alert.subject_name(), static_cast<int>(alert.severity()), alert.summary(),
               alert.detail(), alert.remedy(), Number(alert.last_seen_ms()),
               Number(alert.resolved_ms()), alert.acknowledged_by(),
               Number(alert.acknowledged_ms()), alert.comment(), Number(alert.flaps()),
               stored.notified ? 1 : 0, Number(alert.alert_id()));
  update.exec();
}

std::optional<StoredAlert> FindAlert(SQLite::Database& db, uint64_t alert_id) {
  SQLite::Statement query(db, absl::StrCat("SELECT ", kColumns, " FROM alert WHERE alert_id = ?"));
  query.bind(1, Number(alert_id));
  if (!query.executeStep()) return std::nullopt;
  return FromRow(query);
}

std::vector<StoredAlert> ListActiveAlerts(SQLite::Database& db) {
  SQLite::Statement query(
      db, absl::StrCat("SELECT ", kColumns, " FROM alert WHERE resolved_ms = 0 ORDER BY alert_id"));
  return Collect(query);
}

std::vector<StoredAlert> ListAlerts(SQLite::Database& db, const v1::ListAlertsRequest& request,
                                    uint64_t before_id, uint32_t limit) {
  std::string sql = absl::StrCat("SELECT ", kColumns, " FROM alert WHERE severity >= :severity");
  if (!request.include_resolved()) sql += " AND resolved_ms = 0";
  if (before_id != 0) sql += " AND alert_id < :before";
  if (!request.rule().empty()) sql += " AND rule = :rule";
  if (!request.subject().empty()) sql += " AND subject = :subject";
  if (request.from_ms() != 0) sql += " AND raised_ms >= :from";
  if (request.until_ms() != 0) sql += " AND raised_ms < :until";
  sql += " ORDER BY alert_id DESC LIMIT :limit";
  SQLite::Statement query(db, sql);
  query.bind(":severity", static_cast<int>(request.severity_min()));
  if (before_id != 0) query.bind(":before", Number(before_id));
  if (!request.rule().empty()) query.bind(":rule", request.rule());
  if (!request.subject().empty()) query.bind(":subject", request.subject());
  if (request.from_ms() != 0) query.bind(":from", Number(request.from_ms()));
  if (request.until_ms() != 0) query.bind(":until", Number(request.until_ms()));
  query.bind(":limit", static_cast<int64_t>(limit));
  return Collect(query);
}

void PruneAlerts(SQLite::Database& db, uint64_t now_ms, uint64_t history_max) {
  SQLite::Statement old(db, "DELETE FROM alert WHERE resolved_ms > 0 AND resolved_ms < ?");
  old.bind(1, Number(now_ms > kAlertHistoryMs ? now_ms - kAlertHistoryMs : 0));
  old.exec();
  SQLite::Statement many(
      db,
      "DELETE FROM alert WHERE alert_id IN (SELECT alert_id FROM alert WHERE resolved_ms > 0 "
      "ORDER BY resolved_ms DESC, alert_id DESC LIMIT -1 OFFSET ?)");
  many.bind(1, Number(history_max));
  many.exec();
}

uint64_t InsertSilence(SQLite::Database& db, const v1::Silence& silence) {
  SQLite::Statement insert(db,
                           "INSERT INTO silence (rule, subject, starts_ms, ends_ms, created_by, "
                           "comment) VALUES (?, ?, ?, ?, ?, ?)");
  SQLite::bind(insert, silence.rule(), silence.subject(), Number(silence.starts_ms()),
               Number(silence.ends_ms()), silence.created_by(), silence.comment());
  insert.exec();
  return static_cast<uint64_t>(db.getLastInsertRowid());
}

std::vector<v1::Silence> ListSilences(SQLite::Database& db, uint64_t now_ms) {
  SQLite::Statement query(db,
                          "SELECT silence_id, rule, subject, starts_ms, ends_ms, created_by, "
                          "comment FROM silence WHERE ends_ms > ? ORDER BY ends_ms, silence_id");
  query.bind(1, Number(now_ms));
  std::vector<v1::Silence> silences;
  while (query.executeStep()) silences.push_back(SilenceOf(query));
  return silences;
}

bool DeleteSilence(SQLite::Database& db, uint64_t silence_id) {
  SQLite::Statement remove(db, "DELETE FROM silence WHERE silence_id = ?");
  remove.bind(1, Number(silence_id));
  return remove.exec() > 0;
}

void PruneSilences(SQLite::Database& db, uint64_t now_ms) {
  SQLite::Statement remove(db, "DELETE FROM silence WHERE ends_ms <= ?");
  remove.bind(1, Number(now_ms));
  remove.exec();
}

bool Silences(const v1::Silence& silence, const v1::Alert& alert, uint64_t now_ms) {
  if (silence.ends_ms() <= now_ms) return false;
  if (!silence.rule().empty() && silence.rule() != alert.rule()) return false;
  return silence.subject().empty() || silence.subject() == alert.subject();
}

}  // namespace tessera::mgmt
