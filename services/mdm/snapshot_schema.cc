// The migration of snapshots (docs/decisions/0010-snapshots.md): kinds and paths of volumes,
// branches of vtrees, and what servers have to drop.
#include "services/mdm/mdm_schema.h"

namespace tessera::mdm {

const char* SnapshotSchema() {
  return R"sql(
-- 1 volume, 2 snapshot: VolumeKind in volume.proto. `path`: FormatPath in layer_paths.h.
ALTER TABLE volume ADD COLUMN kind INTEGER NOT NULL DEFAULT 1 CHECK (kind IN (1, 2));
ALTER TABLE volume ADD COLUMN parent_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume ADD COLUMN path TEXT NOT NULL DEFAULT '';
ALTER TABLE volume ADD COLUMN locked_until_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume ADD COLUMN operation_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume ADD COLUMN being_made INTEGER NOT NULL DEFAULT 0 CHECK (being_made IN (0, 1));
CREATE INDEX volume_by_parent ON volume (parent_id) WHERE parent_id > 0;
CREATE INDEX volume_by_vtree ON volume (vtree_id);
CREATE INDEX volume_by_operation ON volume (operation_id) WHERE operation_id > 0;
-- A replica that has cut does not take what is below.
CREATE TRIGGER volume_layer_only_grows BEFORE UPDATE OF snapshot_sequence ON volume
  WHEN NEW.snapshot_sequence < OLD.snapshot_sequence
  BEGIN SELECT RAISE(ABORT, 'the layer of a volume only grows'); END;
CREATE TRIGGER snapshot_is_only_read BEFORE INSERT ON mapping
  WHEN NEW.mode = 1 AND (SELECT kind FROM volume WHERE id = NEW.volume_id) = 2
  BEGIN SELECT RAISE(ABORT, 'a snapshot is only read'); END;
CREATE TRIGGER volume_snapshot_recorded AFTER UPDATE ON volume
  WHEN OLD.path <> NEW.path OR OLD.locked_until_ms <> NEW.locked_until_ms
    OR OLD.being_made <> NEW.being_made
  BEGIN INSERT INTO touched_record VALUES (8, NEW.id, 0); END;

-- The layer of a grant's writes.
ALTER TABLE token ADD COLUMN layer INTEGER NOT NULL DEFAULT 0;

ALTER TABLE vtree ADD COLUMN next_branch INTEGER NOT NULL DEFAULT 1 CHECK (next_branch > 0);
-- Grows whenever a server has to look again for layers that nobody sees; 0: never yet.
ALTER TABLE vtree ADD COLUMN catalog_revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vtree ADD COLUMN catalog_marked_ms INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER vtree_only_grows BEFORE UPDATE ON vtree
  WHEN NEW.next_branch < OLD.next_branch OR NEW.catalog_revision < OLD.catalog_revision
  BEGIN SELECT RAISE(ABORT, 'branches and revisions only grow'); END;
-- The greatest ordinal that was given out in each branch, also of those whose volumes are gone. A
-- vtree without rows has branch 0 and its ordinal 0 alone.
CREATE TABLE layer_branch (
  vtree_id INTEGER NOT NULL REFERENCES vtree(id) ON DELETE CASCADE,
  branch INTEGER NOT NULL,
  ordinal_max INTEGER NOT NULL,
  PRIMARY KEY (vtree_id, branch)
) WITHOUT ROWID;
CREATE TRIGGER layer_branch_only_grows BEFORE UPDATE ON layer_branch
  WHEN NEW.ordinal_max < OLD.ordinal_max
  BEGIN SELECT RAISE(ABORT, 'an ordinal only grows'); END;
-- Servers that have not said yet that nothing is left to drop by the catalog of this revision.
CREATE TABLE layer_drop_pending (
  sds_id INTEGER NOT NULL REFERENCES sds(id) ON DELETE CASCADE,
  vtree_id INTEGER NOT NULL REFERENCES vtree(id) ON DELETE CASCADE,
  revision INTEGER NOT NULL,
  PRIMARY KEY (sds_id, vtree_id)
) WITHOUT ROWID;
CREATE INDEX layer_drop_pending_by_vtree ON layer_drop_pending (vtree_id);
-- Volumes whose vtree went on without them.
CREATE TABLE deleted_volume (
  volume_id INTEGER PRIMARY KEY,
  volume_name TEXT NOT NULL,
  deleted_ms INTEGER NOT NULL
);
CREATE INDEX deleted_volume_by_age ON deleted_volume (deleted_ms);
CREATE TABLE snapshot_operation (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  started_ms INTEGER NOT NULL,
  held_micros INTEGER NOT NULL DEFAULT 0
);

-- Records of one more kind: 9, the branches of a vtree.
CREATE TABLE record_before AS SELECT * FROM record;
DROP TRIGGER touch_record;
DROP VIEW touched_record;
DROP TABLE record;
CREATE TABLE record (
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 9),
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
CREATE TRIGGER layer_branch_recorded_new AFTER INSERT ON layer_branch
  BEGIN INSERT INTO touched_record VALUES (9, NEW.vtree_id, 0); END;
CREATE TRIGGER layer_branch_recorded AFTER UPDATE ON layer_branch
  WHEN OLD.ordinal_max <> NEW.ordinal_max
  BEGIN INSERT INTO touched_record VALUES (9, NEW.vtree_id, 0); END;
CREATE TRIGGER vtree_recorded AFTER UPDATE ON vtree
  WHEN OLD.next_branch <> NEW.next_branch
  BEGIN INSERT INTO touched_record VALUES (9, NEW.id, 0); END;
CREATE TRIGGER vtree_recorded_gone AFTER DELETE ON vtree
  WHEN EXISTS (SELECT 1 FROM record WHERE kind = 9 AND object_id = OLD.id AND gone = 0)
  BEGIN INSERT INTO touched_record VALUES (9, OLD.id, 1); END;
)sql";
}

}  // namespace tessera::mdm
