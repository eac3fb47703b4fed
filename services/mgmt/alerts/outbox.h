// The outbox: notifications that are still to be sent, in mgmt.db. Written in the transaction that
// changes the alert, so that none is lost and none is made twice.
//
// Free functions inside a body of MgmtDb, as in alert_store.h.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_OUTBOX_H_
#define TESSERA_SERVICES_MGMT_ALERTS_OUTBOX_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "tessera/v1/alert.pb.h"

namespace tessera::mgmt {

// What one target may have waiting: with more, the oldest go.
inline constexpr uint64_t kOutboxMaxPerTarget = 10'000;

enum class NotificationEvent { kRaised = 1, kResolved = 2 };

struct Notification {
  uint64_t notification_id = 0;
  std::string target;
  std::string idempotency_key;  // the same in every try
  NotificationEvent event = NotificationEvent::kRaised;
  v1::Alert alert;  // as it was
  uint64_t queued_ms = 0;
  uint32_t tries = 0;
};

// Returns how many old ones had to go.
[[nodiscard]] uint64_t QueueNotification(SQLite::Database& db, const Notification& notification,
                                         uint64_t max_per_target = kOutboxMaxPerTarget);
// The oldest of a target.
[[nodiscard]] std::optional<Notification> NextNotification(SQLite::Database& db,
                                                           const std::string& target);
void RecordTry(SQLite::Database& db, uint64_t notification_id, const std::string& error);
void RemoveNotification(SQLite::Database& db, uint64_t notification_id);
[[nodiscard]] uint64_t CountNotifications(SQLite::Database& db, const std::string& target);
// Those of targets that are no more; returns how many.
[[nodiscard]] uint64_t RemoveOtherTargets(SQLite::Database& db,
                                          const std::set<std::string>& targets);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_OUTBOX_H_
