// The migration of snapshot schedules (docs/volumes/schedules.md).
#include "services/mdm/mdm_schema.h"

namespace tessera::mdm {

const char* ScheduleSchema() {
  return R"sql(
-- `settings`: SnapshotSchedule in schedule.proto, as it was asked for. `run_time_ms`: the newest of
-- its times that it was run at, or that was passed over. `named_ms`: what the snapshots of that run
-- are named by; as long as `run_ended` is 0 it is made again after a restart. `failure`: what
-- failed, in words that are the same as long as the cause is.
CREATE TABLE snapshot_schedule (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 24),
  settings BLOB NOT NULL,
  created_ms INTEGER NOT NULL,
  run_time_ms INTEGER NOT NULL,
  named_ms INTEGER NOT NULL DEFAULT 0,
  run_ended INTEGER NOT NULL DEFAULT 1 CHECK (run_ended IN (0, 1)),
  last_run_ms INTEGER NOT NULL DEFAULT 0,
  last_error TEXT NOT NULL DEFAULT '',
  failure TEXT NOT NULL DEFAULT ''
);

-- Records of one more kind: 10, schedules.
CREATE TABLE record_before AS SELECT * FROM record;
DROP TRIGGER touch_record;
DROP VIEW touched_record;
DROP TABLE record;
CREATE TABLE record (
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 10),
  object_id INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  gone INTEGER NOT NULL CHECK (gone IN (0, 1)),
  PRIMARY KEY (kind, object_id)
) WITHOUT ROWID;
INSERT INTO record SELECT kind, object_id, revision, gone FROM record_before;
DROP TABLE record_before;
CREATE UNIQUE INDEX record_by_revision ON record (revision);
CREATE VIEW touched_record AS SELECT kind, object_id, gone FROM record;
CREATE TRIGGER touch_record INSTEAD OF INSERT ON touched_record BEGIN
  UPDATE record_clock SET revision = revision + 1;
  INSERT OR REPLACE INTO record
    VALUES (NEW.kind, NEW.object_id, (SELECT revision FROM record_clock), NEW.gone);
END;
-- When it ran last is no record: that changes all the time.
CREATE TRIGGER snapshot_schedule_recorded_new AFTER INSERT ON snapshot_schedule BEGIN
  INSERT INTO touched_record VALUES (10, NEW.id, 0);
  INSERT INTO touched_record VALUES (1, 1, 0);
END;
CREATE TRIGGER snapshot_schedule_recorded AFTER UPDATE ON snapshot_schedule
  WHEN OLD.name <> NEW.name OR OLD.settings <> NEW.settings
  BEGIN INSERT INTO touched_record VALUES (10, NEW.id, 0); END;
CREATE TRIGGER snapshot_schedule_recorded_gone AFTER DELETE ON snapshot_schedule
  BEGIN INSERT INTO touched_record VALUES (10, OLD.id, 1); END;
)sql";
}

const char* ExpirySchema() {
  return R"sql(
-- When the volume deletes itself; 0: never. `expiry_waits`: it was told that snapshots keep it.
ALTER TABLE volume ADD COLUMN expires_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume ADD COLUMN expiry_waits INTEGER NOT NULL DEFAULT 0 CHECK (expiry_waits IN (0, 1));
CREATE INDEX volume_by_expiry ON volume (expires_ms) WHERE expires_ms > 0;
CREATE TRIGGER volume_expiry_recorded AFTER UPDATE ON volume WHEN OLD.expires_ms <> NEW.expires_ms
  BEGIN INSERT INTO touched_record VALUES (8, NEW.id, 0); END;
)sql";
}

}  // namespace tessera::mdm
