#include "services/mgmt/alerts/outbox.h"

#include <SQLiteCpp/VariadicBind.h>

#include <vector>

namespace tessera::mgmt {

uint64_t QueueNotification(SQLite::Database& db, const Notification& notification,
                           uint64_t max_per_target) {
  SQLite::Statement insert(db,
                           "INSERT INTO notification (target, idempotency_key, event, alert, "
                           "queued_ms) VALUES (?, ?, ?, ?, ?)");
  const std::string alert = notification.alert.SerializeAsString();
  insert.bind(1, notification.target);
  insert.bind(2, notification.idempotency_key);
  insert.bind(3, static_cast<int>(notification.event));
  insert.bind(4, alert.data(), static_cast<int>(alert.size()));
  insert.bind(5, static_cast<int64_t>(notification.queued_ms));
  insert.exec();
  SQLite::Statement remove(
      db,
      "DELETE FROM notification WHERE notification_id IN (SELECT notification_id FROM notification "
      "WHERE target = ? ORDER BY notification_id DESC LIMIT -1 OFFSET ?)");
  SQLite::bind(remove, notification.target, static_cast<int64_t>(max_per_target));
  return static_cast<uint64_t>(remove.exec());
}

std::optional<Notification> NextNotification(SQLite::Database& db, const std::string& target) {
  SQLite::Statement query(db,
                          "SELECT notification_id, idempotency_key, event, alert, queued_ms, tries "
                          "FROM notification WHERE target = ? ORDER BY notification_id LIMIT 1");
  query.bind(1, target);
  if (!query.executeStep()) return std::nullopt;
  Notification next;
  next.notification_id = static_cast<uint64_t>(query.getColumn(0).getInt64());
  next.target = target;
  next.idempotency_key = query.getColumn(1).getString();
  next.event = static_cast<NotificationEvent>(query.getColumn(2).getInt());
  // Own bytes: what can't be parsed stays empty, and is sent as far as it goes.
  static_cast<void>(next.alert.ParseFromString(query.getColumn(3).getString()));
  next.queued_ms = static_cast<uint64_t>(query.getColumn(4).getInt64());
  next.tries = static_cast<uint32_t>(query.getColumn(5).getInt64());
  return next;
}

void RecordTry(SQLite::Database& db, uint64_t notification_id, const std::string& error) {
  SQLite::Statement update(
      db, "UPDATE notification SET tries = tries + 1, last_error = ? WHERE notification_id = ?");
  SQLite::bind(update, error, static_cast<int64_t>(notification_id));
  update.exec();
}

void RemoveNotification(SQLite::Database& db, uint64_t notification_id) {
  SQLite::Statement remove(db, "DELETE FROM notification WHERE notification_id = ?");
  remove.bind(1, static_cast<int64_t>(notification_id));
  remove.exec();
}

uint64_t CountNotifications(SQLite::Database& db, const std::string& target) {
  SQLite::Statement query(db, "SELECT count(*) FROM notification WHERE target = ?");
  query.bind(1, target);
  static_cast<void>(query.executeStep());
  return static_cast<uint64_t>(query.getColumn(0).getInt64());
}

uint64_t RemoveOtherTargets(SQLite::Database& db, const std::set<std::string>& targets) {
  std::vector<std::string> others;
  SQLite::Statement query(db, "SELECT DISTINCT target FROM notification");
  while (query.executeStep()) {
    if (std::string name = query.getColumn(0).getString(); !targets.contains(name)) {
      others.push_back(std::move(name));
    }
  }
  uint64_t removed = 0;
  for (const std::string& name : others) {
    SQLite::Statement remove(db, "DELETE FROM notification WHERE target = ?");
    remove.bind(1, name);
    removed += static_cast<uint64_t>(remove.exec());
  }
  return removed;
}

}  // namespace tessera::mgmt
