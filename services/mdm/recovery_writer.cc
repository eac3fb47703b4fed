#include "services/mdm/recovery_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/placement_hash.h"
#include "services/common/sql.h"
#include "services/common/sqlite_db.h"
#include "services/common/status_macros.h"
#include "services/mdm/cache_leases.h"
#include "services/mdm/cluster_record_table.h"
#include "services/mdm/event_table.h"
#include "services/mdm/mdm_schema.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/repair_table.h"
#include "services/mdm/schedule_rules.h"
#include "services/mdm/schedule_table.h"
#include "services/mdm/snapshot_table.h"
#include "services/mdm/space_table.h"
#include "services/mdm/token_table.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

constexpr uint64_t kOutageLifetimeUnknown = 86'400'000;  // the longest that can be set

// Rows get their old ids: the next one that the table gives out is `id`.
void NextId(SQLite::Database& db, const std::string& table, uint64_t id) {
  Sql(db, "DELETE FROM sqlite_sequence WHERE name = ?", table).Run();
  Sql(db, "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", table, id - 1).Run();
}

absl::Status SameId(const char* what, uint64_t wanted, uint64_t given) {
  if (wanted == given) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, " ", wanted, " was written as ", given));
}

absl::Status WriteTopology(SQLite::Database& db, const RecoveredCluster& cluster) {
  for (const auto& [id, domain] : cluster.domains) {
    NextId(db, "protection_domain", id);
    TESSERA_RETURN_IF_ERROR(SameId("protection domain", id, InsertProtectionDomain(db, domain)));
  }
  for (const auto& [id, fault_set] : cluster.fault_sets) {
    NextId(db, "fault_set", id);
    TESSERA_RETURN_IF_ERROR(SameId("fault set", id, InsertFaultSet(db, fault_set)));
  }
  for (const auto& [id, pool] : cluster.pools) {
    NextId(db, "pool", id);
    TESSERA_RETURN_IF_ERROR(SameId("pool", id, InsertPool(db, pool)));
    // Servers refuse lower epochs for good, also in a pool that is laid out only now.
    PutNumber(db, absl::StrCat("epoch_floor/", id), cluster.highest_epoch_seen + kRecoveryStep);
  }
  return absl::OkStatus();
}

absl::Status WriteNodes(SQLite::Database& db, const RecoveredCluster& cluster) {
  for (const auto& [id, sds] : cluster.servers) {
    SdsRow row;
    row.node_uuid = sds.node_uuid();
    row.name = sds.name();
    row.protection_domain_id = sds.protection_domain_id();
    row.fault_set_id = sds.fault_set_id();
    row.endpoints = sds.endpoints();
    row.incarnation = std::max<uint64_t>(sds.incarnation(), 1);
    row.software_version = sds.software_version();
    NextId(db, "sds", id);
    row.sds_id = InsertSds(db, row);
    TESSERA_RETURN_IF_ERROR(SameId("server", id, row.sds_id));
    row.maintenance_until_ms = sds.maintenance_until_ms();
    row.maintenance_reason = sds.maintenance_reason();
    UpdateSds(db, row);
  }
  for (const auto& [id, device] : cluster.devices) {
    DeviceRow row;
    row.sds_id = device.sds_id();
    row.pool_id = device.pool_id();
    row.wanted_pool = device.description().pool_name();
    row.description = device.description();
    NextId(db, "device", id);
    row.device_id = InsertDevice(db, row);
    TESSERA_RETURN_IF_ERROR(SameId("device", id, row.device_id));
    row.use = device.use() == v1::DEVICE_USE_UNSPECIFIED ? v1::DEVICE_USE_NORMAL : device.use();
    if (cluster.configured_device_ids.contains(id)) {
      row.configured_incarnation = cluster.servers.at(device.sds_id()).incarnation();
    }
    UpdateDevice(db, row);
  }
  for (const auto& [id, sdc] : cluster.clients) {
    SdcRow row;
    row.node_uuid = sdc.node_uuid();
    row.name = sdc.name();
    row.endpoints = sdc.endpoints();
    row.nbd_uris.assign(sdc.nbd_uris().begin(), sdc.nbd_uris().end());
    row.incarnation = std::max<uint64_t>(sdc.incarnation(), 1);
    row.software_version = sdc.software_version();
    NextId(db, "sdc", id);
    TESSERA_RETURN_IF_ERROR(SameId("client", id, InsertSdc(db, row)));
  }
  return absl::OkStatus();
}

// Of a volume or a mapping; a record of before bursts has none.
template <typename Message>
VolumeLimits RecordedLimits(const Message& recorded) {
  return {recorded.iops_limit(), recorded.bandwidth_limit_bytes(),
          std::max<uint32_t>(1, recorded.burst_seconds())};
}

// Once for all volumes of it.
absl::Status WriteVtree(SQLite::Database& db, const v1::Volume& volume) {
  if (Sql(db, "SELECT 1 FROM vtree WHERE id = ?", volume.vtree_id()).Next()) {
    return absl::OkStatus();
  }
  NextId(db, "vtree", volume.vtree_id());
  Sql(db, "INSERT INTO vtree (pool_id) VALUES (?)", volume.pool_id()).Run();
  return SameId("vtree", volume.vtree_id(), LastId(db));
}

// What servers have to drop is not recorded: all of them look again.
void WriteVtreeRecords(SQLite::Database& db, const RecoveredCluster& cluster, uint64_t now_ms) {
  std::map<uint64_t, uint64_t> pools;  // by vtree
  for (const auto& [id, recorded] : cluster.volumes) {
    const v1::Volume& volume = recorded.volume();
    pools[volume.vtree_id()] = volume.pool_id();
    if (volume.kind() == v1::VOLUME_KIND_SNAPSHOT || volume.snapshot_sequence() == 0) continue;
    GiveOutLayer(db, volume.vtree_id(), volume.snapshot_sequence());
  }
  for (const auto& [id, vtree] : cluster.vtrees) {
    WriteVtreeRecord(db, vtree);
    std::vector<uint64_t> sds_ids;
    for (const SdsRow& sds : ListSdsRowsOfPool(db, pools[id])) sds_ids.push_back(sds.sds_id);
    MarkLayerDrops(db, id, sds_ids, now_ms);
  }
}

absl::Status WriteVolumes(SQLite::Database& db, const RecoveredCluster& cluster) {
  for (const auto& [id, recorded] : cluster.volumes) {
    const v1::Volume& volume = recorded.volume();
    VolumeRow row;
    row.name = volume.name();
    row.trashed_until_ms = volume.trashed_until_ms();
    if (row.trashed()) row.trashed_name = std::exchange(row.name, TrashName(id));
    row.pool_id = volume.pool_id();
    row.size_bytes = volume.size_bytes();
    row.provisioning = volume.provisioning() == v1::PROVISIONING_THICK ? v1::PROVISIONING_THICK
                                                                       : v1::PROVISIONING_THIN;
    row.generation =
        volume.generation();  // nobody has confirmed it, nothing was reconciled under it
    row.snapshot_sequence = volume.snapshot_sequence();
    row.created_ms = volume.created_ms();
    row.limits = RecordedLimits(volume);
    row.kind = volume.kind() == v1::VOLUME_KIND_SNAPSHOT ? v1::VOLUME_KIND_SNAPSHOT
                                                         : v1::VOLUME_KIND_VOLUME;
    row.parent_id = volume.parent_id();
    row.path = FromMessage(recorded.path());
    row.locked_until_ms = volume.locked_until_ms();
    row.being_made = recorded.being_made();
    // One that is lost is none; who writes then, AcquireGrant decides.
    for (const v1::RecordedMapping& mapping : recorded.mappings()) {
      const bool shared = mapping.mode() == v1::MAPPING_MODE_SHARED;
      if (shared && mapping.sdc_id() == recorded.writer_sdc_id()) {
        row.writer_sdc_id = mapping.sdc_id();
      }
    }
    row.expires_ms = volume.expires_ms();
    TESSERA_RETURN_IF_ERROR(WriteVtree(db, volume));
    row.vtree_id = volume.vtree_id();
    NextId(db, "volume", id);
    row = InsertVolume(db, row);
    TESSERA_RETURN_IF_ERROR(SameId("volume", id, row.volume_id));
    SetBudget(db, id, volume.byte_budget());
    WriteLabels(db, id, {volume.labels().begin(), volume.labels().end()});
    for (const v1::RecordedMapping& recorded_mapping : recorded.mappings()) {
      MappingRow mapping;
      mapping.volume_id = id;
      mapping.sdc_id = recorded_mapping.sdc_id();
      mapping.mode = recorded_mapping.mode();
      mapping.limits = RecordedLimits(recorded_mapping);
      mapping.since_generation = recorded_mapping.mapping_id();
      InsertMapping(db, mapping);
    }
  }
  for (const uint64_t vtree_id : cluster.deleted_vtree_ids) {
    Sql(db, "INSERT INTO deleted_vtree VALUES (?, 0, '', 0, 0, 0)", vtree_id).Run();
  }
  for (const auto& [sds_id, vtree_id] : cluster.pending_deletions) {
    Sql(db, "INSERT INTO deleted_vtree_pending (sds_id, vtree_id) VALUES (?, ?)", sds_id, vtree_id)
        .Run();
  }
  for (const auto& [id, group] : cluster.groups) PutPlacementGroup(db, group);
  return absl::OkStatus();
}

// When they ran last nobody knows: they go on with the next of their times.
absl::Status WriteSchedules(SQLite::Database& db, const RecoveredCluster& cluster,
                            uint64_t now_ms) {
  for (const auto& [id, schedule] : cluster.schedules) {
    ScheduleRow row;
    row.settings = OnlySettings(schedule);
    row.created_ms = schedule.created_ms();
    row.run_time_ms = LastRunTime(schedule, now_ms);
    NextId(db, "snapshot_schedule", id);
    TESSERA_RETURN_IF_ERROR(SameId("schedule", id, InsertSchedule(db, row)));
  }
  return absl::OkStatus();
}

// Ids of the past mean nothing else, ever. Of tokens nobody knows the last: a millisecond has never
// seen more than one, so the time is above it.
void RaiseSequences(SQLite::Database& db, const RecoveredCluster& cluster, uint64_t mdm_time_ms) {
  const auto& known = cluster.cluster.highest_ids();
  const auto highest = [&](const char* table) {
    const auto found = known.find(table);
    return found == known.end() ? uint64_t{0} : found->second;
  };
  for (const char* table : {"protection_domain", "fault_set", "pool", "sds", "device", "sdc",
                            "vtree", "volume", "snapshot_schedule"}) {
    // A cluster that never had any begins at 1.
    if (highest(table) > 0) NextId(db, table, highest(table) + kRecoveredIdStep + 1);
  }
  for (const char* table : {"operation", "event", "snapshot_operation"}) {
    NextId(db, table, highest(table) + kRecoveryStep + 1);
  }
  NextId(db, "token", std::max(highest("token") + kRecoveryStep, mdm_time_ms) + 1);
}

// What was given out under the lost database, nobody knows: for each volume it is as if a grant had
// been renewed just now (volume_fence.h waits for it where a server does not answer).
void WriteOldGrants(SQLite::Database& db, const RecoveredCluster& cluster, uint32_t key_id,
                    uint64_t mdm_time_ms) {
  const uint64_t lifetime = cluster.cluster.outage_lifetime_ms() == 0
                                ? kOutageLifetimeUnknown
                                : cluster.cluster.outage_lifetime_ms();
  for (const auto& [id, recorded] : cluster.volumes) {
    TokenRow row;
    row.access = token::AccessMode::kReadWrite;
    row.outage_expiry_ms = mdm_time_ms + lifetime;
    row.record.set_volume_id(id);
    row.record.set_generation(recorded.volume().generation() - 1);
    row.record.set_key_id(key_id);
    row.record.set_issued_ms(mdm_time_ms);
    row.record.set_expiry_ms(mdm_time_ms);
    (void)InsertToken(db, row);
    RecordCacheLease(db, id, row.record.generation());
    (void)RevokeTokens(db, id, recorded.volume().generation(),
                       "given out before the database was rebuilt");
  }
}

absl::Status WriteAll(SQLite::Database& db, const RecoveredCluster& cluster,
                      const RecoveryWriting& writing) {
  const uint64_t mdm_time_ms = std::max(writing.wall_ms, cluster.mdm_time_ms + 1);
  // Whoever has records of before gets all of them anew.
  StartRecordsAt(db, cluster.records_revision + kRecoveryStep);
  PutSetting(db, "cluster_uuid", cluster.cluster.cluster_uuid());
  PutNumber(db, "time_latest_ms", mdm_time_ms);
  PutNumber(db, "topology_version", mdm_time_ms);
  RecordOutageLifetime(db, cluster.cluster.outage_lifetime_ms());
  if (cluster.cluster.has_repair_settings()) {
    WriteRepairSettings(db, cluster.cluster.repair_settings());
  }
  TESSERA_RETURN_IF_ERROR(WriteTopology(db, cluster));
  TESSERA_RETURN_IF_ERROR(WriteNodes(db, cluster));
  TESSERA_RETURN_IF_ERROR(WriteVolumes(db, cluster));
  WriteVtreeRecords(db, cluster, mdm_time_ms);
  TESSERA_RETURN_IF_ERROR(WriteSchedules(db, cluster, mdm_time_ms));
  RaiseSequences(db, cluster, mdm_time_ms);
  WriteOldGrants(db, cluster, writing.active_key_id, mdm_time_ms);
  v1::Event event;
  event.set_time_ms(mdm_time_ms);
  event.set_severity(v1::EVENT_SEVERITY_WARNING);
  event.set_code("mdm_rebuilt");
  event.set_message(writing.summary);
  WriteTransaction transaction{db, {}};
  AddEvent(transaction, event);
  return absl::OkStatus();
}

absl::Status CheckReferences(SQLite::Database& db) {
  Sql broken(db, "PRAGMA foreign_key_check");
  if (!broken.Next()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("a row of table ", broken.Text(0),
                                          " refers to a missing one of ", broken.Text(2)));
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("rename ", from, " to ", to));
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

absl::Status SyncFolder(const std::string& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", folder));
  const bool synced = fsync(descriptor) == 0;
  const absl::Status status =
      synced ? absl::OkStatus() : absl::ErrnoToStatus(errno, absl::StrCat("fsync ", folder));
  close(descriptor);
  return status;
}

}  // namespace

absl::Status WriteRecoveredDatabase(const std::string& path, const RecoveredCluster& cluster,
                                    const RecoveryWriting& writing) {
  {
    TESSERA_ASSIGN_OR_RETURN(const auto database, SqliteDb::Open(path, MdmMigrations()));
    TESSERA_RETURN_IF_ERROR(database->Transaction(
        [&](SQLite::Database& db) { return WriteAll(db, cluster, writing); }));
    TESSERA_RETURN_IF_ERROR(database->Run(CheckReferences));
    TESSERA_RETURN_IF_ERROR(database->Run([](SQLite::Database& db) {
      db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
      return absl::OkStatus();
    }));
  }
  // Opened again: quick_check reads it as the MDM will.
  TESSERA_ASSIGN_OR_RETURN(const auto database, SqliteDb::Open(path, MdmMigrations()));
  return database->Run([&](SQLite::Database& db) -> absl::Status {
    const size_t volumes = ListVolumeRows(db, {.with_unfinished = true}).size();
    const size_t groups = ListPlacementGroupRows(db, 0).size();
    if (volumes == cluster.volumes.size() && groups == cluster.groups.size()) {
      return absl::OkStatus();
    }
    return absl::InternalError(absl::StrCat(
        "the new database has ", volumes, " volumes and ", groups, " placement groups instead of ",
        cluster.volumes.size(), " and ", cluster.groups.size()));
  });
}

std::string OldDatabaseIn(const std::string& folder) {
  // A log without its database would be played into the new one.
  for (const char* name : {"mdm.db", "mdm.db-wal", "mdm.db-shm"}) {
    if (Exists(absl::StrCat(folder, "/", name))) return name;
  }
  return "";
}

absl::StatusOr<std::string> KeepOldDatabase(const std::string& folder) {
  int number = 1;
  const auto kept = [&](const char* suffix) {
    return absl::StrCat(folder, "/mdm.db.old-", number, suffix);
  };
  while (Exists(kept("")) || Exists(kept("-wal")) || Exists(kept("-shm"))) ++number;
  for (const char* suffix : {"-wal", "-shm", ""}) {
    const std::string from = absl::StrCat(folder, "/mdm.db", suffix);
    if (Exists(from)) TESSERA_RETURN_IF_ERROR(Rename(from, kept(suffix)));
  }
  TESSERA_RETURN_IF_ERROR(SyncFolder(folder));
  return kept("");
}

absl::Status InstallDatabase(const std::string& path, const std::string& folder) {
  TESSERA_RETURN_IF_ERROR(Rename(path, absl::StrCat(folder, "/mdm.db")));
  return SyncFolder(folder);
}

}  // namespace tessera::mdm
