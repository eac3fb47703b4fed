// The migration of space accounting (docs/volumes/space.md): what is set of a pool about space, and
// budgets of volumes.
#include "services/mdm/mdm_schema.h"

namespace tessera::mdm {

const char* SpaceSchema() {
  return R"sql(
ALTER TABLE pool ADD COLUMN warn_percent INTEGER NOT NULL DEFAULT 80
  CHECK (warn_percent BETWEEN 1 AND 100);
ALTER TABLE pool ADD COLUMN critical_percent INTEGER NOT NULL DEFAULT 90
  CHECK (critical_percent BETWEEN 1 AND 100);
ALTER TABLE pool ADD COLUMN overcommit_limit_percent INTEGER NOT NULL DEFAULT 0
  CHECK (overcommit_limit_percent = 0 OR overcommit_limit_percent >= 100);
-- How full the pool was when it was last judged: CapacityState in topology.proto.
CREATE TABLE pool_capacity (
  pool_id INTEGER PRIMARY KEY REFERENCES pool(id) ON DELETE CASCADE,
  state INTEGER NOT NULL
);
CREATE TABLE volume_budget (
  volume_id INTEGER PRIMARY KEY REFERENCES volume(id) ON DELETE CASCADE,
  byte_budget INTEGER NOT NULL CHECK (byte_budget >= 1048576),
  -- As last measured.
  unique_bytes INTEGER NOT NULL DEFAULT 0,
  over_budget INTEGER NOT NULL DEFAULT 0 CHECK (over_budget IN (0, 1))
);
CREATE TRIGGER volume_budget_recorded_new AFTER INSERT ON volume_budget
  BEGIN INSERT INTO touched_record VALUES (8, NEW.volume_id, 0); END;
CREATE TRIGGER volume_budget_recorded AFTER UPDATE ON volume_budget
  WHEN OLD.byte_budget <> NEW.byte_budget
  BEGIN INSERT INTO touched_record VALUES (8, NEW.volume_id, 0); END;
CREATE TRIGGER volume_budget_recorded_gone AFTER DELETE ON volume_budget
  WHEN EXISTS (SELECT 1 FROM volume WHERE id = OLD.volume_id)
  BEGIN INSERT INTO touched_record VALUES (8, OLD.volume_id, 0); END;
)sql";
}

}  // namespace tessera::mdm
