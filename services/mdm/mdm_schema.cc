#include "services/mdm/mdm_schema.h"

namespace tessera::mdm {
namespace {

constexpr char kTopology[] = R"sql(
CREATE TABLE setting (
  name TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE protection_domain (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 63),
  created_ms INTEGER NOT NULL
);
CREATE TABLE fault_set (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  protection_domain_id INTEGER NOT NULL REFERENCES protection_domain(id),
  name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 63),
  UNIQUE (protection_domain_id, name)
);
CREATE TABLE pool (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  protection_domain_id INTEGER NOT NULL REFERENCES protection_domain(id),
  name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 63),
  replica_count INTEGER NOT NULL CHECK (replica_count BETWEEN 1 AND 3),
  min_replicas INTEGER NOT NULL CHECK (min_replicas BETWEEN 1 AND replica_count),
  chunk_bytes INTEGER NOT NULL CHECK (chunk_bytes BETWEEN 262144 AND 4194304
                                      AND (chunk_bytes & (chunk_bytes - 1)) = 0),
  placement_group_count INTEGER NOT NULL CHECK (placement_group_count BETWEEN 1 AND 4096
                                      AND (placement_group_count & (placement_group_count - 1)) = 0),
  created_ms INTEGER NOT NULL
);
CREATE TABLE sds (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  node_uuid TEXT NOT NULL UNIQUE CHECK (length(node_uuid) > 0),
  name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 63),
  protection_domain_id INTEGER REFERENCES protection_domain(id),
  fault_set_id INTEGER REFERENCES fault_set(id),
  wanted_protection_domain TEXT NOT NULL,
  wanted_fault_set TEXT NOT NULL,
  endpoints BLOB NOT NULL,
  incarnation INTEGER NOT NULL CHECK (incarnation > 0),
  software_version TEXT NOT NULL,
  CHECK (fault_set_id IS NULL OR protection_domain_id IS NOT NULL)
);
CREATE TABLE device (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  device_uuid TEXT NOT NULL UNIQUE CHECK (length(device_uuid) > 0),
  sds_id INTEGER NOT NULL REFERENCES sds(id),
  pool_id INTEGER REFERENCES pool(id),
  wanted_pool TEXT NOT NULL,
  description BLOB NOT NULL,
  -- The server's incarnation that has confirmed the assignment; 0: none yet.
  configured_incarnation INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX device_by_sds ON device (sds_id);
CREATE INDEX device_by_pool ON device (pool_id);
CREATE TABLE sdc (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  node_uuid TEXT NOT NULL UNIQUE CHECK (length(node_uuid) > 0),
  name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 63),
  endpoints BLOB NOT NULL,
  nbd_uris TEXT NOT NULL,
  incarnation INTEGER NOT NULL CHECK (incarnation > 0),
  software_version TEXT NOT NULL
);
)sql";

constexpr char kVolumes[] = R"sql(
CREATE TABLE vtree (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  pool_id INTEGER NOT NULL REFERENCES pool(id)
);
CREATE TABLE volume (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 63),
  pool_id INTEGER NOT NULL REFERENCES pool(id),
  vtree_id INTEGER NOT NULL REFERENCES vtree(id),
  size_bytes INTEGER NOT NULL CHECK (size_bytes > 0 AND size_bytes % 4096 = 0),
  provisioning INTEGER NOT NULL CHECK (provisioning IN (1, 2)),
  generation INTEGER NOT NULL CHECK (generation > 0),
  -- Every server has confirmed at least this generation, or all older grants have run out.
  fenced_generation INTEGER NOT NULL CHECK (fenced_generation <= generation),
  -- In-sync replicas were found or made equal under this generation.
  reconciled_generation INTEGER NOT NULL CHECK (reconciled_generation <= generation),
  snapshot_sequence INTEGER NOT NULL DEFAULT 0,
  created_ms INTEGER NOT NULL
);
CREATE INDEX volume_by_pool ON volume (pool_id);
CREATE TRIGGER volume_generation_only_grows BEFORE UPDATE OF generation ON volume
  WHEN NEW.generation < OLD.generation
  BEGIN SELECT RAISE(ABORT, 'a generation only grows'); END;
CREATE TABLE mapping (
  volume_id INTEGER NOT NULL REFERENCES volume(id),
  sdc_id INTEGER NOT NULL REFERENCES sdc(id),
  mode INTEGER NOT NULL CHECK (mode IN (1, 2)),
  iops_limit INTEGER NOT NULL,
  bandwidth_limit_bytes INTEGER NOT NULL,
  PRIMARY KEY (volume_id, sdc_id)
) WITHOUT ROWID;
CREATE INDEX mapping_by_sdc ON mapping (sdc_id);
-- One writer, and no reader beside it.
CREATE TRIGGER mapping_one_writer BEFORE INSERT ON mapping
  WHEN EXISTS (SELECT 1 FROM mapping WHERE volume_id = NEW.volume_id
               AND (mode = 1 OR NEW.mode = 1))
  BEGIN SELECT RAISE(ABORT, 'a writer has the volume for itself'); END;
CREATE TABLE deleted_vtree (
  vtree_id INTEGER PRIMARY KEY,
  volume_id INTEGER NOT NULL,
  volume_name TEXT NOT NULL,
  pool_id INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  deleted_ms INTEGER NOT NULL
);
CREATE INDEX deleted_vtree_by_volume ON deleted_vtree (volume_id);
CREATE TABLE deleted_vtree_pending (
  sds_id INTEGER NOT NULL REFERENCES sds(id) ON DELETE CASCADE,
  vtree_id INTEGER NOT NULL REFERENCES deleted_vtree(vtree_id),
  PRIMARY KEY (sds_id, vtree_id)
) WITHOUT ROWID;
CREATE TABLE request (
  request_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  resource_id INTEGER NOT NULL,
  created_ms INTEGER NOT NULL,
  PRIMARY KEY (kind, request_id)
) WITHOUT ROWID;
CREATE INDEX request_by_age ON request (created_ms);
)sql";

constexpr char kPlacement[] = R"sql(
CREATE TABLE placement_group (
  id INTEGER PRIMARY KEY,
  pool_id INTEGER NOT NULL REFERENCES pool(id),
  epoch INTEGER NOT NULL CHECK (epoch > 0),
  CHECK (id / 65536 = pool_id)
);
CREATE INDEX placement_group_by_pool ON placement_group (pool_id);
CREATE TRIGGER placement_group_epoch_only_grows BEFORE UPDATE OF epoch ON placement_group
  WHEN NEW.epoch <= OLD.epoch
  BEGIN SELECT RAISE(ABORT, 'an epoch only grows'); END;
CREATE TABLE replica (
  placement_group_id INTEGER NOT NULL REFERENCES placement_group(id) ON DELETE CASCADE,
  device_id INTEGER NOT NULL REFERENCES device(id),
  sds_id INTEGER NOT NULL REFERENCES sds(id),
  role INTEGER NOT NULL CHECK (role BETWEEN 1 AND 3),
  PRIMARY KEY (placement_group_id, device_id),
  UNIQUE (placement_group_id, sds_id)
) WITHOUT ROWID;
CREATE INDEX replica_by_device ON replica (device_id);
CREATE INDEX replica_by_sds ON replica (sds_id, role);
)sql";

constexpr char kTokensAndEvents[] = R"sql(
CREATE TABLE token (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  is_transaction INTEGER NOT NULL,
  volume_id INTEGER NOT NULL,
  sdc_id INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  key_id INTEGER NOT NULL,
  access INTEGER NOT NULL CHECK (access BETWEEN 1 AND 3),
  operation INTEGER NOT NULL,
  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4),
  issued_ms INTEGER NOT NULL,
  expiry_ms INTEGER NOT NULL,
  outage_expiry_ms INTEGER NOT NULL CHECK (outage_expiry_ms >= expiry_ms),
  reads INTEGER NOT NULL DEFAULT 0,
  writes INTEGER NOT NULL DEFAULT 0,
  read_bytes INTEGER NOT NULL DEFAULT 0,
  write_bytes INTEGER NOT NULL DEFAULT 0,
  errors INTEGER NOT NULL DEFAULT 0,
  unacknowledged INTEGER NOT NULL DEFAULT 0,
  end_reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX token_by_volume ON token (volume_id, generation);
CREATE INDEX token_by_state ON token (state, expiry_ms);
CREATE TABLE ack_report (
  sds_id INTEGER PRIMARY KEY REFERENCES sds(id) ON DELETE CASCADE,
  incarnation INTEGER NOT NULL,
  report_sequence INTEGER NOT NULL
);
CREATE TABLE event (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time_ms INTEGER NOT NULL,
  severity INTEGER NOT NULL,
  code TEXT NOT NULL,
  message TEXT NOT NULL,
  kind INTEGER NOT NULL,
  component_id INTEGER NOT NULL
);
)sql";

// Maintenance, drain, moves, operations and the settings of repair.
constexpr char kRepair[] = R"sql(
ALTER TABLE sds ADD COLUMN maintenance_until_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sds ADD COLUMN maintenance_reason TEXT NOT NULL DEFAULT '';
-- 1 normal, 2 draining, 3 removed: DeviceUse in topology.proto.
ALTER TABLE device ADD COLUMN use INTEGER NOT NULL DEFAULT 1 CHECK (use BETWEEN 1 AND 3);
ALTER TABLE device ADD COLUMN successor_device_id INTEGER NOT NULL DEFAULT 0;
CREATE TABLE repair_setting (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  rebuild_delay_ms INTEGER NOT NULL DEFAULT 600000 CHECK (rebuild_delay_ms BETWEEN 0 AND 86400000),
  learners_per_target_device INTEGER NOT NULL DEFAULT 4
    CHECK (learners_per_target_device BETWEEN 1 AND 64),
  learners_per_source_device INTEGER NOT NULL DEFAULT 4
    CHECK (learners_per_source_device BETWEEN 1 AND 64),
  rebalance_moves_per_device INTEGER NOT NULL DEFAULT 1
    CHECK (rebalance_moves_per_device BETWEEN 1 AND 64),
  bytes_per_second_per_server INTEGER NOT NULL DEFAULT 0 CHECK (bytes_per_second_per_server >= 0),
  rebuild_paused INTEGER NOT NULL DEFAULT 0 CHECK (rebuild_paused IN (0, 1)),
  rebalance_paused INTEGER NOT NULL DEFAULT 0 CHECK (rebalance_paused IN (0, 1)),
  full_percent INTEGER NOT NULL DEFAULT 85 CHECK (full_percent BETWEEN 50 AND 95)
);
INSERT INTO repair_setting (id) VALUES (1);
CREATE TABLE operation (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 5),
  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 5),
  subject TEXT NOT NULL,
  pool_id INTEGER NOT NULL,
  sds_id INTEGER NOT NULL,
  device_id INTEGER NOT NULL,
  started_ms INTEGER NOT NULL,
  ended_ms INTEGER NOT NULL DEFAULT 0,
  groups_done INTEGER NOT NULL DEFAULT 0,
  bytes_done INTEGER NOT NULL DEFAULT 0,
  retries INTEGER NOT NULL DEFAULT 0,
  last_error TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX operation_runs_once ON operation (kind, pool_id, sds_id, device_id)
  WHERE ended_ms = 0;
-- A member that is being replaced; one for a group. It goes with its group.
CREATE TABLE move (
  placement_group_id INTEGER PRIMARY KEY REFERENCES placement_group(id) ON DELETE CASCADE,
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 3),
  from_device_id INTEGER NOT NULL,
  to_device_id INTEGER NOT NULL CHECK (to_device_id <> from_device_id),
  operation_id INTEGER NOT NULL REFERENCES operation(id)
);
CREATE INDEX move_by_operation ON move (operation_id);
-- Members that can neither serve nor learn, since when.
CREATE TABLE unavailable_replica (
  placement_group_id INTEGER NOT NULL REFERENCES placement_group(id) ON DELETE CASCADE,
  device_id INTEGER NOT NULL,
  since_ms INTEGER NOT NULL,
  PRIMARY KEY (placement_group_id, device_id)
) WITHOUT ROWID;
)sql";

// Mappings of one volume to one client are told apart; the proofs of fences.
constexpr char kFenceReceipts[] = R"sql(
ALTER TABLE mapping ADD COLUMN since_generation INTEGER NOT NULL DEFAULT 0;
-- Outlives volume and server. `proof`: FenceProof in volume.proto; `signature`: hex.
CREATE TABLE fence_receipt (
  volume_id INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  sds_id INTEGER NOT NULL,
  proof INTEGER NOT NULL CHECK (proof IN (1, 2)),
  recorded_ms INTEGER NOT NULL,
  sds_incarnation INTEGER NOT NULL,
  key_id INTEGER NOT NULL,
  signature TEXT NOT NULL,
  PRIMARY KEY (volume_id, generation, sds_id)
) WITHOUT ROWID;
CREATE INDEX fence_receipt_by_age ON fence_receipt (recorded_ms);
)sql";

// The schedules of scrub, and the devices of scrub operations.
constexpr char kScrub[] = R"sql(
ALTER TABLE pool ADD COLUMN scrub_interval_ms INTEGER NOT NULL DEFAULT 604800000
  CHECK (scrub_interval_ms >= 0);
ALTER TABLE pool ADD COLUMN scrub_bytes_per_second INTEGER NOT NULL DEFAULT 67108864
  CHECK (scrub_bytes_per_second > 0);
ALTER TABLE operation ADD COLUMN devices_done INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operation ADD COLUMN devices_total INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operation ADD COLUMN blocks_found INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operation ADD COLUMN blocks_repaired INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operation ADD COLUMN blocks_unreadable INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operation ADD COLUMN blocks_different INTEGER NOT NULL DEFAULT 0;
CREATE TABLE scrub_target (
  operation_id INTEGER NOT NULL REFERENCES operation(id) ON DELETE CASCADE,
  device_id INTEGER NOT NULL,
  vtree_id INTEGER NOT NULL,
  bytes_per_second INTEGER NOT NULL,
  done INTEGER NOT NULL DEFAULT 0 CHECK (done IN (0, 1)),
  bytes INTEGER NOT NULL DEFAULT 0,
  found INTEGER NOT NULL DEFAULT 0,
  repaired INTEGER NOT NULL DEFAULT 0,
  unreadable INTEGER NOT NULL DEFAULT 0,
  different INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (operation_id, device_id)
) WITHOUT ROWID;
)sql";

// The last epoch in which a group may have lost what was not flushed.
constexpr char kLosses[] = R"sql(
ALTER TABLE placement_group ADD COLUMN loss_epoch INTEGER NOT NULL DEFAULT 0;
)sql";

// Labels, and volumes in the trash. Such a volume's name is '~' and its id, which no caller can
// give, so that its own is free.
constexpr char kLabelsAndTrash[] = R"sql(
ALTER TABLE volume ADD COLUMN trashed_name TEXT NOT NULL DEFAULT '';
ALTER TABLE volume ADD COLUMN trashed_until_ms INTEGER NOT NULL DEFAULT 0;
CREATE INDEX volume_by_trash ON volume (trashed_until_ms) WHERE trashed_until_ms > 0;
CREATE TRIGGER volume_in_trash_is_not_mapped BEFORE INSERT ON mapping
  WHEN (SELECT trashed_until_ms FROM volume WHERE id = NEW.volume_id) > 0
  BEGIN SELECT RAISE(ABORT, 'a volume in the trash is not mapped'); END;
CREATE TRIGGER volume_trash_recorded AFTER UPDATE ON volume
  WHEN OLD.trashed_until_ms <> NEW.trashed_until_ms OR OLD.trashed_name <> NEW.trashed_name
  BEGIN INSERT INTO touched_record VALUES (8, NEW.id, 0); END;
CREATE TABLE volume_label (
  volume_id INTEGER NOT NULL REFERENCES volume(id) ON DELETE CASCADE,
  key TEXT NOT NULL CHECK (length(key) BETWEEN 1 AND 63),
  value TEXT NOT NULL,
  PRIMARY KEY (volume_id, key)
) WITHOUT ROWID;
CREATE INDEX volume_label_by_key ON volume_label (key, value);
CREATE TRIGGER volume_label_recorded_new AFTER INSERT ON volume_label
  BEGIN INSERT INTO touched_record VALUES (8, NEW.volume_id, 0); END;
CREATE TRIGGER volume_label_recorded_gone AFTER DELETE ON volume_label
  WHEN EXISTS (SELECT 1 FROM volume WHERE id = OLD.volume_id)
  BEGIN INSERT INTO touched_record VALUES (8, OLD.volume_id, 0); END;
)sql";

// Limits of volumes, and how much of a limit may be saved up.
constexpr char kLimits[] = R"sql(
ALTER TABLE mapping ADD COLUMN burst_seconds INTEGER NOT NULL DEFAULT 1
  CHECK (burst_seconds BETWEEN 1 AND 3600);
ALTER TABLE volume ADD COLUMN iops_limit INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume ADD COLUMN bandwidth_limit_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume ADD COLUMN burst_seconds INTEGER NOT NULL DEFAULT 1
  CHECK (burst_seconds BETWEEN 1 AND 3600);
CREATE TRIGGER volume_limits_recorded AFTER UPDATE ON volume
  WHEN OLD.iops_limit <> NEW.iops_limit OR OLD.burst_seconds <> NEW.burst_seconds
    OR OLD.bandwidth_limit_bytes <> NEW.bandwidth_limit_bytes
  BEGIN INSERT INTO touched_record VALUES (8, NEW.id, 0); END;
)sql";

// Volumes that a client may read from its cache: up to which generation a lease was given. And the
// last generation under which somebody got a token to write without being a client of the volume.
constexpr char kCacheLeases[] = R"sql(
CREATE TABLE cache_lease (
  volume_id INTEGER PRIMARY KEY REFERENCES volume(id) ON DELETE CASCADE,
  generation INTEGER NOT NULL
);
CREATE TABLE write_token_generation (
  volume_id INTEGER PRIMARY KEY REFERENCES volume(id) ON DELETE CASCADE,
  generation INTEGER NOT NULL
);
)sql";

// Shared mappings (3), and which client has the right to write such a volume. SQLite changes no
// CHECK of a table that is there: the mappings move into a new one.
constexpr char kSharing[] = R"sql(
CREATE TABLE mapping_before AS SELECT * FROM mapping;
DROP TABLE mapping;
CREATE TABLE mapping (
  volume_id INTEGER NOT NULL REFERENCES volume(id),
  sdc_id INTEGER NOT NULL REFERENCES sdc(id),
  mode INTEGER NOT NULL CHECK (mode BETWEEN 1 AND 3),
  iops_limit INTEGER NOT NULL,
  bandwidth_limit_bytes INTEGER NOT NULL,
  since_generation INTEGER NOT NULL DEFAULT 0,
  burst_seconds INTEGER NOT NULL DEFAULT 1 CHECK (burst_seconds BETWEEN 1 AND 3600),
  PRIMARY KEY (volume_id, sdc_id)
) WITHOUT ROWID;
INSERT INTO mapping SELECT volume_id, sdc_id, mode, iops_limit, bandwidth_limit_bytes,
  since_generation, burst_seconds FROM mapping_before;
DROP TABLE mapping_before;
CREATE INDEX mapping_by_sdc ON mapping (sdc_id);
CREATE TRIGGER mapping_of_one_mode BEFORE INSERT ON mapping
  WHEN EXISTS (SELECT 1 FROM mapping WHERE volume_id = NEW.volume_id
               AND (mode = 1 OR mode <> NEW.mode))
  BEGIN SELECT RAISE(ABORT, 'one client writes, or several read, or several share'); END;
CREATE TRIGGER volume_in_trash_is_not_mapped BEFORE INSERT ON mapping
  WHEN (SELECT trashed_until_ms FROM volume WHERE id = NEW.volume_id) > 0
  BEGIN SELECT RAISE(ABORT, 'a volume in the trash is not mapped'); END;
CREATE TRIGGER snapshot_is_only_read BEFORE INSERT ON mapping
  WHEN NEW.mode <> 2 AND (SELECT kind FROM volume WHERE id = NEW.volume_id) = 2
  BEGIN SELECT RAISE(ABORT, 'a snapshot is only read'); END;
CREATE TRIGGER mapping_recorded_new AFTER INSERT ON mapping
  BEGIN INSERT INTO touched_record VALUES (8, NEW.volume_id, 0); END;
CREATE TRIGGER mapping_recorded AFTER UPDATE ON mapping
  BEGIN INSERT INTO touched_record VALUES (8, NEW.volume_id, 0); END;
CREATE TRIGGER mapping_recorded_gone AFTER DELETE ON mapping
  BEGIN INSERT INTO touched_record VALUES (8, OLD.volume_id, 0); END;
ALTER TABLE volume ADD COLUMN writer_sdc_id INTEGER NOT NULL DEFAULT 0;
CREATE INDEX volume_by_writer ON volume (writer_sdc_id) WHERE writer_sdc_id > 0;
CREATE TRIGGER volume_writer_recorded AFTER UPDATE ON volume
  WHEN OLD.writer_sdc_id <> NEW.writer_sdc_id
  BEGIN INSERT INTO touched_record VALUES (8, NEW.id, 0); END;
)sql";

}  // namespace

const std::vector<std::string>& MdmMigrations() {
  static const auto* const migrations = new std::vector<std::string>{kTopology,
                                                                     kVolumes,
                                                                     kPlacement,
                                                                     kTokensAndEvents,
                                                                     kRepair,
                                                                     kFenceReceipts,
                                                                     ClusterRecordSchema(),
                                                                     kScrub,
                                                                     kLosses,
                                                                     kLabelsAndTrash,
                                                                     kLimits,
                                                                     SnapshotSchema(),
                                                                     kCacheLeases,
                                                                     kSharing,
                                                                     ScheduleSchema(),
                                                                     ExpirySchema(),
                                                                     SpaceSchema()};
  return *migrations;
}

}  // namespace tessera::mdm
