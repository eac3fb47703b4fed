// The migration that keeps account of what the servers have to be told (cluster_record_table.h).
//
// Triggers, so that no change can be forgotten: whatever is written to a recorded table raises the
// revision in the same transaction. Figures that change all the time (generations, what devices
// hold) are in no record.
#include "services/mdm/mdm_schema.h"

namespace tessera::mdm {

const char* ClusterRecordSchema() {
  return R"sql(
CREATE TABLE record_clock (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  revision INTEGER NOT NULL,
  -- Who has less gets everything: records of what was gone by then are forgotten.
  floor INTEGER NOT NULL
);
INSERT INTO record_clock VALUES (1, 1, 0);
-- `kind`: ClusterRecordKind in cluster_record.proto.
CREATE TABLE record (
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 8),
  object_id INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  gone INTEGER NOT NULL CHECK (gone IN (0, 1)),
  PRIMARY KEY (kind, object_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX record_by_revision ON record (revision);
CREATE TRIGGER record_clock_only_grows BEFORE UPDATE ON record_clock
  WHEN NEW.revision < OLD.revision OR NEW.floor < OLD.floor
  BEGIN SELECT RAISE(ABORT, 'a revision only grows'); END;

CREATE VIEW touched_record AS SELECT kind, object_id, gone FROM record;
CREATE TRIGGER touch_record INSTEAD OF INSERT ON touched_record BEGIN
  UPDATE record_clock SET revision = revision + 1;
  INSERT OR REPLACE INTO record
    VALUES (NEW.kind, NEW.object_id, (SELECT revision FROM record_clock), NEW.gone);
END;

-- What there is already.
INSERT INTO touched_record VALUES (1, 1, 0);
INSERT INTO touched_record SELECT 2, id, 0 FROM protection_domain;
INSERT INTO touched_record SELECT 3, id, 0 FROM fault_set;
INSERT INTO touched_record SELECT 4, id, 0 FROM pool;
INSERT INTO touched_record SELECT 5, id, 0 FROM sds;
INSERT INTO touched_record SELECT 6, id, 0 FROM device;
INSERT INTO touched_record SELECT 7, id, 0 FROM sdc;
INSERT INTO touched_record SELECT 8, id, 0 FROM volume;

CREATE TRIGGER setting_recorded_new AFTER INSERT ON setting
  WHEN NEW.name IN ('cluster_uuid', 'outage_lifetime_ms')
  BEGIN INSERT INTO touched_record VALUES (1, 1, 0); END;
CREATE TRIGGER setting_recorded AFTER UPDATE OF value ON setting
  WHEN NEW.name IN ('cluster_uuid', 'outage_lifetime_ms') AND OLD.value <> NEW.value
  BEGIN INSERT INTO touched_record VALUES (1, 1, 0); END;
CREATE TRIGGER repair_setting_recorded AFTER UPDATE ON repair_setting
  BEGIN INSERT INTO touched_record VALUES (1, 1, 0); END;

-- A new id changes the cluster's record as well: it has the highest ids.
CREATE TRIGGER protection_domain_recorded_new AFTER INSERT ON protection_domain BEGIN
  INSERT INTO touched_record VALUES (2, NEW.id, 0);
  INSERT INTO touched_record VALUES (1, 1, 0);
END;
CREATE TRIGGER protection_domain_recorded_gone AFTER DELETE ON protection_domain
  BEGIN INSERT INTO touched_record VALUES (2, OLD.id, 1); END;
CREATE TRIGGER fault_set_recorded_new AFTER INSERT ON fault_set BEGIN
  INSERT INTO touched_record VALUES (3, NEW.id, 0);
  INSERT INTO touched_record VALUES (1, 1, 0);
END;
CREATE TRIGGER fault_set_recorded_gone AFTER DELETE ON fault_set
  BEGIN INSERT INTO touched_record VALUES (3, OLD.id, 1); END;
CREATE TRIGGER pool_recorded_new AFTER INSERT ON pool BEGIN
  INSERT INTO touched_record VALUES (4, NEW.id, 0);
  INSERT INTO touched_record VALUES (1, 1, 0);
END;
CREATE TRIGGER pool_recorded AFTER UPDATE ON pool
  BEGIN INSERT INTO touched_record VALUES (4, NEW.id, 0); END;
CREATE TRIGGER pool_recorded_gone AFTER DELETE ON pool
  BEGIN INSERT INTO touched_record VALUES (4, OLD.id, 1); END;
CREATE TRIGGER sds_recorded_new AFTER INSERT ON sds BEGIN
  INSERT INTO touched_record VALUES (5, NEW.id, 0);
  INSERT INTO touched_record VALUES (1, 1, 0);
END;
CREATE TRIGGER sds_recorded AFTER UPDATE ON sds
  WHEN OLD.name <> NEW.name OR OLD.protection_domain_id IS NOT NEW.protection_domain_id
    OR OLD.fault_set_id IS NOT NEW.fault_set_id OR OLD.endpoints <> NEW.endpoints
    OR OLD.incarnation <> NEW.incarnation OR OLD.software_version <> NEW.software_version
    OR OLD.maintenance_until_ms <> NEW.maintenance_until_ms
    OR OLD.maintenance_reason <> NEW.maintenance_reason
  BEGIN INSERT INTO touched_record VALUES (5, NEW.id, 0); END;
CREATE TRIGGER sds_recorded_gone AFTER DELETE ON sds
  BEGIN INSERT INTO touched_record VALUES (5, OLD.id, 1); END;
CREATE TRIGGER device_recorded_new AFTER INSERT ON device BEGIN
  INSERT INTO touched_record VALUES (6, NEW.id, 0);
  INSERT INTO touched_record VALUES (1, 1, 0);
END;
CREATE TRIGGER device_recorded AFTER UPDATE ON device
  WHEN OLD.sds_id <> NEW.sds_id OR OLD.pool_id IS NOT NEW.pool_id OR OLD.use <> NEW.use
  BEGIN INSERT INTO touched_record VALUES (6, NEW.id, 0); END;
CREATE TRIGGER device_recorded_gone AFTER DELETE ON device
  BEGIN INSERT INTO touched_record VALUES (6, OLD.id, 1); END;
CREATE TRIGGER sdc_recorded_new AFTER INSERT ON sdc BEGIN
  INSERT INTO touched_record VALUES (7, NEW.id, 0);
  INSERT INTO touched_record VALUES (1, 1, 0);
END;
CREATE TRIGGER sdc_recorded AFTER UPDATE ON sdc
  WHEN OLD.name <> NEW.name OR OLD.endpoints <> NEW.endpoints OR OLD.nbd_uris <> NEW.nbd_uris
    OR OLD.incarnation <> NEW.incarnation OR OLD.software_version <> NEW.software_version
  BEGIN INSERT INTO touched_record VALUES (7, NEW.id, 0); END;
CREATE TRIGGER sdc_recorded_gone AFTER DELETE ON sdc
  BEGIN INSERT INTO touched_record VALUES (7, OLD.id, 1); END;
CREATE TRIGGER vtree_recorded_new AFTER INSERT ON vtree
  BEGIN INSERT INTO touched_record VALUES (1, 1, 0); END;
CREATE TRIGGER volume_recorded_new AFTER INSERT ON volume
  BEGIN INSERT INTO touched_record VALUES (8, NEW.id, 0); END;
CREATE TRIGGER volume_recorded AFTER UPDATE ON volume
  WHEN OLD.name <> NEW.name OR OLD.size_bytes <> NEW.size_bytes
    OR OLD.provisioning <> NEW.provisioning OR OLD.snapshot_sequence <> NEW.snapshot_sequence
    OR OLD.pool_id <> NEW.pool_id OR OLD.vtree_id <> NEW.vtree_id
  BEGIN INSERT INTO touched_record VALUES (8, NEW.id, 0); END;
CREATE TRIGGER volume_recorded_gone AFTER DELETE ON volume
  BEGIN INSERT INTO touched_record VALUES (8, OLD.id, 1); END;
CREATE TRIGGER mapping_recorded_new AFTER INSERT ON mapping
  BEGIN INSERT INTO touched_record VALUES (8, NEW.volume_id, 0); END;
CREATE TRIGGER mapping_recorded AFTER UPDATE ON mapping
  BEGIN INSERT INTO touched_record VALUES (8, NEW.volume_id, 0); END;
CREATE TRIGGER mapping_recorded_gone AFTER DELETE ON mapping
  BEGIN INSERT INTO touched_record VALUES (8, OLD.volume_id, 0); END;
)sql";
}

}  // namespace tessera::mdm
