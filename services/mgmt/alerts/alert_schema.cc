#include "services/mgmt/alerts/alert_schema.h"

namespace tessera::mgmt {

const char kAlertSchema[] = R"sql(
-- `notified`: its raise was put into the outbox; while a silence matches it is not.
CREATE TABLE alert (
  alert_id INTEGER PRIMARY KEY AUTOINCREMENT,
  rule TEXT NOT NULL,
  subject TEXT NOT NULL,
  subject_name TEXT NOT NULL,
  severity INTEGER NOT NULL CHECK (severity BETWEEN 1 AND 4),
  summary TEXT NOT NULL,
  detail TEXT NOT NULL,
  remedy TEXT NOT NULL,
  raised_ms INTEGER NOT NULL,
  last_seen_ms INTEGER NOT NULL,
  resolved_ms INTEGER NOT NULL DEFAULT 0,
  acknowledged_by TEXT NOT NULL DEFAULT '',
  acknowledged_ms INTEGER NOT NULL DEFAULT 0,
  comment TEXT NOT NULL DEFAULT '',
  flaps INTEGER NOT NULL DEFAULT 0,
  notified INTEGER NOT NULL DEFAULT 0 CHECK (notified IN (0, 1))
);
CREATE UNIQUE INDEX alert_active ON alert (rule, subject) WHERE resolved_ms = 0;
CREATE INDEX alert_resolved ON alert (resolved_ms) WHERE resolved_ms > 0;
CREATE INDEX alert_by_rule ON alert (rule, alert_id);
CREATE INDEX alert_by_subject ON alert (subject, alert_id);

CREATE TABLE silence (
  silence_id INTEGER PRIMARY KEY AUTOINCREMENT,
  rule TEXT NOT NULL,
  subject TEXT NOT NULL,
  starts_ms INTEGER NOT NULL,
  ends_ms INTEGER NOT NULL,
  created_by TEXT NOT NULL,
  comment TEXT NOT NULL,
  CHECK (rule <> '' OR subject <> '')
);
CREATE INDEX silence_by_end ON silence (ends_ms);

-- What is still to be sent, oldest first for each target. `idempotency_key` is the same in every try.
-- `event`: 1 raised, 2 resolved. `alert`: v1.Alert as it was then.
CREATE TABLE notification (
  notification_id INTEGER PRIMARY KEY AUTOINCREMENT,
  target TEXT NOT NULL,
  idempotency_key TEXT NOT NULL UNIQUE,
  event INTEGER NOT NULL CHECK (event IN (1, 2)),
  alert BLOB NOT NULL,
  queued_ms INTEGER NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0,
  last_error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX notification_by_target ON notification (target, notification_id);
)sql";

}  // namespace tessera::mgmt
