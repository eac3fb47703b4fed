#include "services/sds/local_state.h"

#include "absl/strings/str_cat.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"

namespace tessera::sds {
namespace {

// Ids and counters are 64-bit unsigned in the protocol; SQLite's integers are signed. The bits are
// the same.
int64_t Signed(uint64_t value) { return static_cast<int64_t>(value); }
uint64_t Unsigned(const SQLite::Column& column) { return static_cast<uint64_t>(column.getInt64()); }
std::string Blob(const SQLite::Column& column) {
  return std::string(static_cast<const char*>(column.getBlob()),
                     static_cast<size_t>(column.getBytes()));
}

constexpr char kMdmContact[] = R"sql(
-- What a restart needs while the MDM is away: the keys, and one sample of MDM time, which means
-- something within one boot of the host.
CREATE TABLE mdm_key (key_id INTEGER PRIMARY KEY, key BLOB NOT NULL) STRICT;
CREATE TABLE mdm_contact (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  boot_id TEXT NOT NULL,
  mdm_time_ms INTEGER NOT NULL,
  sent_boot_nanos INTEGER NOT NULL,
  received_boot_nanos INTEGER NOT NULL,
  heartbeat_interval_ms INTEGER NOT NULL
) STRICT;
-- Writes that were taken without their data, for want of space: of each stream's newest generation in
-- which that happened, the first sequence, and one that is not before the last.
CREATE TABLE unserved (
  volume_id INTEGER NOT NULL,
  placement_group_id INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  first_sequence INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  PRIMARY KEY (volume_id, placement_group_id)
) STRICT, WITHOUT ROWID;
)sql";

constexpr char kClusterRecords[] = R"sql(
CREATE TABLE cluster_record (
  kind INTEGER NOT NULL,
  object_id INTEGER NOT NULL,
  record BLOB NOT NULL,
  PRIMARY KEY (kind, object_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE cluster_record_state (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  revision INTEGER NOT NULL
) STRICT;
INSERT INTO cluster_record_state VALUES (1, 0);
)sql";

constexpr char kIntegrity[] = R"sql(
CREATE TABLE unreadable_block (
  device_id INTEGER NOT NULL,
  vtree_id INTEGER NOT NULL,
  chunk_index INTEGER NOT NULL,
  snapshot_sequence INTEGER NOT NULL,
  block INTEGER NOT NULL,
  placement_group_id INTEGER NOT NULL,
  finder INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (device_id, vtree_id, chunk_index, snapshot_sequence, block)
) STRICT, WITHOUT ROWID;
CREATE TABLE scrub (
  device_uuid TEXT PRIMARY KEY,
  started_ms INTEGER NOT NULL,
  operation_id INTEGER NOT NULL,
  vtree_id INTEGER NOT NULL,
  placement_group_id INTEGER NOT NULL,
  key_vtree_id INTEGER NOT NULL,
  key_chunk_index INTEGER NOT NULL,
  key_snapshot_sequence INTEGER NOT NULL,
  bytes_done INTEGER NOT NULL,
  completed_ms INTEGER NOT NULL,
  completed_operation_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
)sql";

constexpr char kLastInSync[] = R"sql(
-- The last epoch in which this server knew its replica to be in sync, and on which device; 0: none.
ALTER TABLE placement_group ADD COLUMN in_sync_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE placement_group ADD COLUMN in_sync_device_id INTEGER NOT NULL DEFAULT 0;
)sql";

const std::vector<std::string>& Migrations() {
  static const std::vector<std::string>* const kMigrations =
      new std::vector<std::string>{R"sql(
CREATE TABLE node (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  node_uuid TEXT NOT NULL,
  sds_id INTEGER NOT NULL DEFAULT 0,
  node_secret TEXT NOT NULL DEFAULT '',
  cluster_uuid TEXT NOT NULL DEFAULT '',
  incarnation INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE placement_group (
  placement_group_id INTEGER PRIMARY KEY,
  epoch INTEGER NOT NULL CHECK (epoch > 0),
  entry BLOB NOT NULL
) STRICT;
CREATE TABLE volume (
  volume_id INTEGER PRIMARY KEY,
  lowest_generation INTEGER NOT NULL CHECK (lowest_generation > 0)
) STRICT;
CREATE TABLE deleted_vtree (vtree_id INTEGER PRIMARY KEY) STRICT;
CREATE TABLE device (
  device_uuid TEXT PRIMARY KEY,
  path TEXT NOT NULL UNIQUE,
  device_id INTEGER NOT NULL DEFAULT 0,
  pool_id INTEGER NOT NULL DEFAULT 0,
  chunk_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE pool (pool_id INTEGER PRIMARY KEY, layout BLOB NOT NULL) STRICT;
CREATE TABLE health_log (
  event_id INTEGER PRIMARY KEY AUTOINCREMENT,
  event BLOB NOT NULL
) STRICT;
)sql",
                                   kMdmContact, kClusterRecords, kIntegrity, kLastInSync};
  return *kMigrations;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalState>> LocalState::Open(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(auto database, SqliteDb::Open(path, Migrations()));
  std::unique_ptr<LocalState> state(new LocalState(std::move(database)));
  TESSERA_RETURN_IF_ERROR(state->BeginLife());
  return state;
}

absl::Status LocalState::Write(const std::function<absl::Status(SQLite::Database&)>& body) {
  absl::MutexLock lock(&mutex_);
  return database_->Transaction(body);
}

absl::Status LocalState::Read(const std::function<absl::Status(SQLite::Database&)>& body) {
  absl::MutexLock lock(&mutex_);
  return database_->Run(body);
}

absl::Status LocalState::BeginLife() {
  return Write(
      [this](SQLite::Database& database) ABSL_NO_THREAD_SAFETY_ANALYSIS {  // under Write's lock
        SQLite::Statement make(database,
                               "INSERT OR IGNORE INTO node (one, node_uuid) VALUES (1, ?)");
        make.bind(1, NewUuid());
        make.exec();
        database.exec("UPDATE node SET incarnation = incarnation + 1");
        SQLite::Statement read(
            database, "SELECT node_uuid, sds_id, node_secret, cluster_uuid, incarnation FROM node");
        read.executeStep();
        node_.node_uuid = read.getColumn(0).getString();
        node_.sds_id = Unsigned(read.getColumn(1));
        node_.node_secret = read.getColumn(2).getString();
        node_.cluster_uuid = read.getColumn(3).getString();
        node_.incarnation = Unsigned(read.getColumn(4));
        return absl::OkStatus();
      });
}

NodeState LocalState::node() const {
  absl::MutexLock lock(&mutex_);
  return node_;
}

absl::Status LocalState::SaveRegistration(uint64_t sds_id, const std::string& node_secret,
                                          const std::string& cluster_uuid) {
  TESSERA_RETURN_IF_ERROR(Write([&](SQLite::Database& database) {
    SQLite::Statement save(database,
                           "UPDATE node SET sds_id = ?, node_secret = ?, cluster_uuid = ?");
    save.bind(1, Signed(sds_id));
    save.bind(2, node_secret);
    save.bind(3, cluster_uuid);
    save.exec();
    return absl::OkStatus();
  }));
  absl::MutexLock lock(&mutex_);
  node_.sds_id = sds_id;
  node_.node_secret = node_secret;
  node_.cluster_uuid = cluster_uuid;
  return absl::OkStatus();
}

absl::Status LocalState::SavePlacementGroups(std::span<const PlacementRecord> records) {
  return Write([&](SQLite::Database& database) -> absl::Status {
    SQLite::Statement save(
        database,
        "INSERT INTO placement_group (placement_group_id, epoch, entry, in_sync_epoch, "
        "in_sync_device_id) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (placement_group_id) DO UPDATE "
        "SET epoch = ?2, entry = ?3, in_sync_epoch = ?4, in_sync_device_id = ?5 WHERE epoch < ?2");
    for (const PlacementRecord& record : records) {
      v1::PlacementGroup group;
      if (!group.ParseFromString(record.entry.placement_group())) {
        return absl::InvalidArgumentError("a map entry is no valid PlacementGroup");
      }
      const std::string bytes = record.entry.SerializeAsString();
      save.reset();
      save.bind(1, Signed(group.placement_group_id()));
      save.bind(2, Signed(group.epoch()));
      save.bind(3, bytes.data(), static_cast<int>(bytes.size()));
      save.bind(4, Signed(record.in_sync_epoch));
      save.bind(5, Signed(record.in_sync_device_id));
      save.exec();
    }
    return absl::OkStatus();
  });
}

absl::Status LocalState::ForgetPlacementGroup(uint64_t placement_group_id) {
  return Write([&](SQLite::Database& database) {
    SQLite::Statement forget(database, "DELETE FROM placement_group WHERE placement_group_id = ?");
    forget.bind(1, Signed(placement_group_id));
    forget.exec();
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<PlacementRecord>> LocalState::PlacementGroups() {
  std::vector<PlacementRecord> records;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) -> absl::Status {
    SQLite::Statement read(database,
                           "SELECT placement_group_id, entry, in_sync_epoch, in_sync_device_id "
                           "FROM placement_group");
    while (read.executeStep()) {
      PlacementRecord& record = records.emplace_back();
      if (!record.entry.ParseFromString(Blob(read.getColumn(1)))) {
        return absl::DataLossError(absl::StrCat("sds_local.db: the entry of placement group ",
                                                read.getColumn(0).getInt64(), " is damaged"));
      }
      record.in_sync_epoch = Unsigned(read.getColumn(2));
      record.in_sync_device_id = Unsigned(read.getColumn(3));
    }
    return absl::OkStatus();
  }));
  return records;
}

absl::Status LocalState::SaveGenerations(std::span<const VolumeGeneration> generations) {
  return Write([&](SQLite::Database& database) {
    SQLite::Statement save(database,
                           "INSERT INTO volume VALUES (?1, ?2) ON CONFLICT (volume_id) DO UPDATE "
                           "SET lowest_generation = ?2 WHERE lowest_generation < ?2");
    for (const auto& [volume_id, generation] : generations) {
      save.reset();
      save.bind(1, Signed(volume_id));
      save.bind(2, Signed(generation));
      save.exec();
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<VolumeGeneration>> LocalState::Generations() {
  std::vector<VolumeGeneration> generations;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) {
    SQLite::Statement read(database, "SELECT volume_id, lowest_generation FROM volume");
    while (read.executeStep()) {
      generations.emplace_back(Unsigned(read.getColumn(0)), Unsigned(read.getColumn(1)));
    }
    return absl::OkStatus();
  }));
  return generations;
}

absl::Status LocalState::SaveDeletedVtrees(std::span<const uint64_t> vtree_ids) {
  return Write([&](SQLite::Database& database) {
    SQLite::Statement save(database, "INSERT OR IGNORE INTO deleted_vtree (vtree_id) VALUES (?)");
    for (const uint64_t vtree_id : vtree_ids) {
      save.reset();
      save.bind(1, Signed(vtree_id));
      save.exec();
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<uint64_t>> LocalState::DeletedVtrees() {
  std::vector<uint64_t> vtree_ids;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) {
    SQLite::Statement read(database, "SELECT vtree_id FROM deleted_vtree");
    while (read.executeStep()) vtree_ids.push_back(Unsigned(read.getColumn(0)));
    return absl::OkStatus();
  }));
  return vtree_ids;
}

absl::Status LocalState::SaveDevice(const DeviceRecord& device) {
  return Write([&](SQLite::Database& database) {
    // The device that was at this path before is elsewhere, or gone: known by its uuid alone.
    SQLite::Statement displace(
        database, "UPDATE device SET path = device_uuid WHERE path = ?2 AND device_uuid <> ?1");
    displace.bind(1, device.device_uuid);
    displace.bind(2, device.path);
    displace.exec();
    SQLite::Statement save(
        database,
        "INSERT INTO device (device_uuid, path, device_id, pool_id, chunk_bytes) "
        "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (device_uuid) DO UPDATE "
        "SET path = ?2, device_id = ?3, pool_id = ?4, chunk_bytes = ?5");
    save.bind(1, device.device_uuid);
    save.bind(2, device.path);
    save.bind(3, Signed(device.device_id));
    save.bind(4, Signed(device.pool_id));
    save.bind(5, static_cast<int64_t>(device.chunk_bytes));
    save.exec();
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<DeviceRecord>> LocalState::Devices() {
  std::vector<DeviceRecord> devices;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) {
    SQLite::Statement read(database,
                           "SELECT device_uuid, path, device_id, pool_id, chunk_bytes FROM device");
    while (read.executeStep()) {
      devices.push_back({.device_uuid = read.getColumn(0).getString(),
                         .path = read.getColumn(1).getString(),
                         .device_id = Unsigned(read.getColumn(2)),
                         .pool_id = Unsigned(read.getColumn(3)),
                         .chunk_bytes = static_cast<uint32_t>(read.getColumn(4).getInt64())});
    }
    return absl::OkStatus();
  }));
  return devices;
}

absl::Status LocalState::SavePools(std::span<const v1::PoolLayout> pools) {
  return Write([&](SQLite::Database& database) {
    SQLite::Statement save(database, "INSERT OR REPLACE INTO pool (pool_id, layout) VALUES (?, ?)");
    for (const v1::PoolLayout& pool : pools) {
      const std::string bytes = pool.SerializeAsString();
      save.reset();
      save.bind(1, Signed(pool.pool_id()));
      save.bind(2, bytes.data(), static_cast<int>(bytes.size()));
      save.exec();
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<v1::PoolLayout>> LocalState::Pools() {
  std::vector<v1::PoolLayout> pools;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) -> absl::Status {
    SQLite::Statement read(database, "SELECT layout FROM pool");
    while (read.executeStep()) {
      if (!pools.emplace_back().ParseFromString(Blob(read.getColumn(0)))) {
        return absl::DataLossError("sds_local.db: a pool's layout is damaged");
      }
    }
    return absl::OkStatus();
  }));
  return pools;
}

absl::Status LocalState::SaveMdmContact(const MdmContact& contact) {
  return Write([&](SQLite::Database& database) {
    database.exec("DELETE FROM mdm_key");
    SQLite::Statement key(database, "INSERT INTO mdm_key (key_id, key) VALUES (?, ?)");
    for (const v1::SdsKey& one : contact.keys) {
      key.reset();
      key.bind(1, static_cast<int64_t>(one.key_id()));
      key.bind(2, one.key().data(), static_cast<int>(one.key().size()));
      key.exec();
    }
    SQLite::Statement save(database,
                           "INSERT OR REPLACE INTO mdm_contact (one, boot_id, mdm_time_ms, "
                           "sent_boot_nanos, received_boot_nanos, heartbeat_interval_ms) VALUES "
                           "(1, ?, ?, ?, ?, ?)");
    save.bind(1, contact.boot_id);
    save.bind(2, Signed(contact.sample.mdm_time_ms));
    save.bind(3, Signed(contact.sample.sent_boot_nanos));
    save.bind(4, Signed(contact.sample.received_boot_nanos));
    save.bind(5, Signed(contact.heartbeat_interval_ms));
    save.exec();
    return absl::OkStatus();
  });
}

absl::StatusOr<MdmContact> LocalState::LastMdmContact() {
  MdmContact contact;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) {
    SQLite::Statement keys(database, "SELECT key_id, key FROM mdm_key ORDER BY key_id");
    while (keys.executeStep()) {
      v1::SdsKey& key = contact.keys.emplace_back();
      key.set_key_id(static_cast<uint32_t>(Unsigned(keys.getColumn(0))));
      key.set_key(Blob(keys.getColumn(1)));
    }
    SQLite::Statement read(database,
                           "SELECT boot_id, mdm_time_ms, sent_boot_nanos, received_boot_nanos, "
                           "heartbeat_interval_ms FROM mdm_contact");
    if (!read.executeStep()) return absl::OkStatus();
    contact.boot_id = read.getColumn(0).getString();
    contact.sample = {Unsigned(read.getColumn(1)), Unsigned(read.getColumn(2)),
                      Unsigned(read.getColumn(3))};
    contact.heartbeat_interval_ms = Unsigned(read.getColumn(4));
    return absl::OkStatus();
  }));
  return contact;
}

absl::Status LocalState::SaveUnserved(const UnservedRange& range) {
  return Write([&](SQLite::Database& database) {
    SQLite::Statement save(database, "INSERT OR REPLACE INTO unserved VALUES (?, ?, ?, ?, ?)");
    save.bind(1, Signed(range.volume_id));
    save.bind(2, Signed(range.placement_group_id));
    save.bind(3, Signed(range.generation));
    save.bind(4, Signed(range.first_sequence));
    save.bind(5, Signed(range.last_sequence));
    save.exec();
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<UnservedRange>> LocalState::Unserved() {
  std::vector<UnservedRange> ranges;
  TESSERA_RETURN_IF_ERROR(Write([&](SQLite::Database& database) {
    // What a newer writer has made meaningless.
    database.exec(
        "DELETE FROM unserved WHERE EXISTS (SELECT 1 FROM volume WHERE volume.volume_id = "
        "unserved.volume_id AND lowest_generation > generation)");
    SQLite::Statement read(database,
                           "SELECT volume_id, placement_group_id, generation, first_sequence, "
                           "last_sequence FROM unserved");
    while (read.executeStep()) {
      ranges.push_back({Unsigned(read.getColumn(0)), Unsigned(read.getColumn(1)),
                        Unsigned(read.getColumn(2)), Unsigned(read.getColumn(3)),
                        Unsigned(read.getColumn(4))});
    }
    return absl::OkStatus();
  }));
  return ranges;
}

absl::Status LocalState::SaveRecords(const v1::ClusterRecords& records) {
  return Write([&](SQLite::Database& database) -> absl::Status {
    SQLite::Statement advance(database,
                              "UPDATE cluster_record_state SET revision = ?1 WHERE revision <= ?1");
    advance.bind(1, Signed(records.revision()));
    if (advance.exec() == 0) {
      return absl::FailedPreconditionError(absl::StrCat("records of revision ", records.revision(),
                                                        " are older than those that are kept"));
    }
    if (records.snapshot()) database.exec("DELETE FROM cluster_record");
    SQLite::Statement forget(database,
                             "DELETE FROM cluster_record WHERE kind = ? AND object_id = ?");
    SQLite::Statement save(database, "INSERT OR REPLACE INTO cluster_record VALUES (?, ?, ?)");
    for (const v1::SealedRecord& record : records.records()) {
      SQLite::Statement& change = record.gone() ? forget : save;
      const std::string bytes = record.SerializeAsString();
      change.reset();
      change.bind(1, static_cast<int64_t>(record.kind()));
      change.bind(2, Signed(record.object_id()));
      if (!record.gone()) change.bind(3, bytes.data(), static_cast<int>(bytes.size()));
      change.exec();
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<uint64_t> LocalState::RecordsRevision() {
  uint64_t revision = 0;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) {
    revision = Unsigned(database.execAndGet("SELECT revision FROM cluster_record_state"));
    return absl::OkStatus();
  }));
  return revision;
}

absl::StatusOr<std::vector<v1::SealedRecord>> LocalState::Records() {
  std::vector<v1::SealedRecord> records;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) -> absl::Status {
    SQLite::Statement read(database, "SELECT record FROM cluster_record");
    while (read.executeStep()) {
      if (!records.emplace_back().ParseFromString(Blob(read.getColumn(0)))) {
        return absl::DataLossError("sds_local.db: a record of the cluster is damaged");
      }
    }
    return absl::OkStatus();
  }));
  return records;
}

absl::Status LocalState::SaveUnreadableBlock(const CorruptBlock& block) {
  return Write([&](SQLite::Database& database) {
    SQLite::Statement save(database,
                           "INSERT OR REPLACE INTO unreadable_block VALUES (?,?,?,?,?,?,?,?)");
    save.bind(1, Signed(block.id.device_id));
    save.bind(2, Signed(block.id.key.vtree_id));
    save.bind(3, Signed(block.id.key.chunk_index));
    save.bind(4, Signed(block.id.key.layer));
    save.bind(5, static_cast<int64_t>(block.id.block));
    save.bind(6, Signed(block.placement_group_id));
    save.bind(7, static_cast<int>(block.finder));
    save.bind(8, block.reason);
    save.exec();
    return absl::OkStatus();
  });
}

absl::Status LocalState::ForgetUnreadableBlock(const BlockId& id) {
  return Write([&](SQLite::Database& database) {
    SQLite::Statement forget(
        database,
        "DELETE FROM unreadable_block WHERE device_id = ? AND vtree_id = ? AND "
        "chunk_index = ? AND snapshot_sequence = ? AND block = ?");
    forget.bind(1, Signed(id.device_id));
    forget.bind(2, Signed(id.key.vtree_id));
    forget.bind(3, Signed(id.key.chunk_index));
    forget.bind(4, Signed(id.key.layer));
    forget.bind(5, static_cast<int64_t>(id.block));
    forget.exec();
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<CorruptBlock>> LocalState::UnreadableBlocks() {
  std::vector<CorruptBlock> blocks;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) {
    SQLite::Statement read(database,
                           "SELECT device_id, vtree_id, chunk_index, snapshot_sequence, block, "
                           "placement_group_id, finder, reason FROM unreadable_block");
    while (read.executeStep()) {
      CorruptBlock& block = blocks.emplace_back();
      block.id = {.device_id = Unsigned(read.getColumn(0)),
                  .key = {Unsigned(read.getColumn(1)), Unsigned(read.getColumn(2)),
                          Unsigned(read.getColumn(3))},
                  .block = static_cast<uint32_t>(read.getColumn(4).getInt64())};
      block.placement_group_id = Unsigned(read.getColumn(5));
      block.finder = static_cast<v1::CorruptBlockFinder>(read.getColumn(6).getInt());
      block.reason = read.getColumn(7).getString();
      block.unreadable = true;
    }
    return absl::OkStatus();
  }));
  return blocks;
}

absl::Status LocalState::SaveScrub(const ScrubRecord& record) {
  return Write([&](SQLite::Database& database) {
    SQLite::Statement save(database, "INSERT OR REPLACE INTO scrub VALUES (?,?,?,?,?,?,?,?,?,?,?)");
    save.bind(1, record.device_uuid);
    int column = 1;
    for (const uint64_t value :
         {record.started_ms, record.operation_id, record.vtree_id, record.placement_group_id,
          record.key.vtree_id, record.key.chunk_index, record.key.layer, record.bytes_done,
          record.completed_ms, record.completed_operation_id}) {
      save.bind(++column, Signed(value));
    }
    save.exec();
    return absl::OkStatus();
  });
}

absl::StatusOr<ScrubRecord> LocalState::Scrub(const std::string& device_uuid) {
  ScrubRecord record{.device_uuid = device_uuid};
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) {
    SQLite::Statement read(database,
                           "SELECT started_ms, operation_id, vtree_id, placement_group_id, "
                           "key_vtree_id, key_chunk_index, key_snapshot_sequence, bytes_done, "
                           "completed_ms, completed_operation_id FROM scrub WHERE device_uuid = ?");
    read.bind(1, device_uuid);
    if (!read.executeStep()) return absl::OkStatus();
    int column = -1;
    for (uint64_t* value :
         {&record.started_ms, &record.operation_id, &record.vtree_id, &record.placement_group_id,
          &record.key.vtree_id, &record.key.chunk_index, &record.key.layer, &record.bytes_done,
          &record.completed_ms, &record.completed_operation_id}) {
      *value = Unsigned(read.getColumn(++column));
    }
    return absl::OkStatus();
  }));
  return record;
}

absl::Status LocalState::AppendHealthEvent(const v1::Event& event) {
  return Write([&](SQLite::Database& database) {
    const std::string bytes = event.SerializeAsString();
    SQLite::Statement append(database, "INSERT INTO health_log (event) VALUES (?)");
    append.bind(1, bytes.data(), static_cast<int>(bytes.size()));
    append.exec();
    SQLite::Statement trim(database, "DELETE FROM health_log WHERE event_id <= ?");
    trim.bind(1, database.getLastInsertRowid() - kHealthLogLimit);
    trim.exec();
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<v1::Event>> LocalState::HealthEvents(uint64_t after_event_id,
                                                                uint32_t limit) {
  std::vector<v1::Event> events;
  TESSERA_RETURN_IF_ERROR(Read([&](SQLite::Database& database) -> absl::Status {
    SQLite::Statement read(database,
                           "SELECT event_id, event FROM health_log WHERE event_id > ? "
                           "ORDER BY event_id LIMIT ?");
    read.bind(1, Signed(after_event_id));
    read.bind(2, static_cast<int64_t>(limit));
    while (read.executeStep()) {
      if (!events.emplace_back().ParseFromString(Blob(read.getColumn(1)))) {
        return absl::DataLossError("sds_local.db: a health event is damaged");
      }
      events.back().set_event_id(Unsigned(read.getColumn(0)));
    }
    return absl::OkStatus();
  }));
  return events;
}

}  // namespace tessera::sds
