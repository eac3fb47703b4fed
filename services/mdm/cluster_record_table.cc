#include "services/mdm/cluster_record_table.h"

#include <optional>
#include <utility>

#include "services/common/sql.h"
#include "services/mdm/node_table.h"
#include "services/mdm/repair_table.h"
#include "services/mdm/schedule_table.h"
#include "services/mdm/snapshot_table.h"
#include "services/mdm/space_table.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

constexpr char kOutageLifetime[] = "outage_lifetime_ms";

void FillCluster(SQLite::Database& db, v1::RecordedCluster* cluster) {
  cluster->set_cluster_uuid(GetSetting(db, "cluster_uuid"));
  *cluster->mutable_repair_settings() = ReadRepairSettings(db);
  cluster->set_outage_lifetime_ms(GetNumber(db, kOutageLifetime));
  Sql highest(db, "SELECT name, seq FROM sqlite_sequence");
  while (highest.Next()) {
    (*cluster->mutable_highest_ids())[highest.Text(0)] = highest.Unsigned(1);
  }
}

void FillSds(const SdsRow& row, v1::Sds* sds) {
  sds->set_sds_id(row.sds_id);
  sds->set_name(row.name);
  sds->set_node_uuid(row.node_uuid);
  sds->set_protection_domain_id(row.protection_domain_id);
  sds->set_fault_set_id(row.fault_set_id);
  *sds->mutable_endpoints() = row.endpoints;
  sds->set_incarnation(row.incarnation);
  sds->set_software_version(row.software_version);
  sds->set_maintenance_until_ms(row.maintenance_until_ms);
  sds->set_maintenance_reason(row.maintenance_reason);
}

void FillDevice(const DeviceRow& row, v1::Device* device) {
  device->set_device_id(row.device_id);
  device->set_sds_id(row.sds_id);
  device->set_pool_id(row.pool_id);
  device->set_use(row.use);
  v1::DeviceDescription* description = device->mutable_description();
  description->set_device_uuid(row.description.device_uuid());
  description->set_path(row.description.path());
  description->set_capacity_bytes(row.description.capacity_bytes());
  description->set_chunk_bytes(row.description.chunk_bytes());
}

void FillSdc(const SdcRow& row, v1::Sdc* sdc) {
  sdc->set_sdc_id(row.sdc_id);
  sdc->set_name(row.name);
  sdc->set_node_uuid(row.node_uuid);
  *sdc->mutable_endpoints() = row.endpoints;
  for (const std::string& uri : row.nbd_uris) sdc->add_nbd_uris(uri);
  sdc->set_incarnation(row.incarnation);
  sdc->set_software_version(row.software_version);
}

void FillVolume(SQLite::Database& db, const VolumeRow& row, v1::RecordedVolume* recorded) {
  v1::Volume* volume = recorded->mutable_volume();
  volume->set_volume_id(row.volume_id);
  volume->set_name(row.shown_name());
  volume->set_trashed_until_ms(row.trashed_until_ms);
  for (auto& [key, value] : ReadLabels(db, row.volume_id)) (*volume->mutable_labels())[key] = value;
  volume->set_pool_id(row.pool_id);
  volume->set_vtree_id(row.vtree_id);
  volume->set_size_bytes(row.size_bytes);
  volume->set_provisioning(row.provisioning);
  volume->set_snapshot_sequence(row.snapshot_sequence);
  volume->set_created_ms(row.created_ms);
  volume->set_iops_limit(row.limits.iops);
  volume->set_bandwidth_limit_bytes(row.limits.bandwidth_bytes);
  volume->set_burst_seconds(row.limits.burst_seconds);
  volume->set_kind(row.kind);
  volume->set_parent_id(row.parent_id);
  volume->set_locked_until_ms(row.locked_until_ms);
  volume->set_expires_ms(row.expires_ms);
  if (const auto budget = FindBudget(db, row.volume_id)) {
    volume->set_byte_budget(budget->byte_budget);
  }
  *recorded->mutable_path() = ToMessage(row.path);
  recorded->set_being_made(row.being_made);
  recorded->set_writer_sdc_id(row.writer_sdc_id);
  for (const MappingRow& mapping : ListMappings(db, row.volume_id)) {
    v1::RecordedMapping* entry = recorded->add_mappings();
    entry->set_sdc_id(mapping.sdc_id);
    entry->set_mode(mapping.mode);
    entry->set_iops_limit(mapping.limits.iops);
    entry->set_bandwidth_limit_bytes(mapping.limits.bandwidth_bytes);
    entry->set_burst_seconds(mapping.limits.burst_seconds);
    entry->set_mapping_id(mapping.since_generation);
  }
}

// Kind, id and revision are set; adds what the tables say.
void FillContent(SQLite::Database& db, v1::ClusterRecord* record) {
  const uint64_t id = record->object_id();
  switch (record->kind()) {
    case v1::CLUSTER_RECORD_KIND_CLUSTER:
      FillCluster(db, record->mutable_cluster());
      return;
    case v1::CLUSTER_RECORD_KIND_PROTECTION_DOMAIN:
      if (auto row = FindProtectionDomain(db, id)) *record->mutable_protection_domain() = *row;
      return;
    case v1::CLUSTER_RECORD_KIND_FAULT_SET:
      if (auto row = FindFaultSet(db, id)) *record->mutable_fault_set() = *row;
      return;
    case v1::CLUSTER_RECORD_KIND_POOL:
      if (auto row = FindPool(db, id)) *record->mutable_pool() = *row;
      return;
    case v1::CLUSTER_RECORD_KIND_SDS:
      if (auto row = FindSds(db, id)) FillSds(*row, record->mutable_sds());
      return;
    case v1::CLUSTER_RECORD_KIND_DEVICE:
      if (auto row = FindDevice(db, id)) FillDevice(*row, record->mutable_device());
      return;
    case v1::CLUSTER_RECORD_KIND_SDC:
      if (auto row = FindSdc(db, id)) FillSdc(*row, record->mutable_sdc());
      return;
    case v1::CLUSTER_RECORD_KIND_VOLUME:
      if (auto row = FindVolume(db, id)) FillVolume(db, *row, record->mutable_volume());
      return;
    case v1::CLUSTER_RECORD_KIND_VTREE:
      if (auto vtree = ReadVtreeRecord(db, id)) *record->mutable_vtree() = *vtree;
      return;
    case v1::CLUSTER_RECORD_KIND_SNAPSHOT_SCHEDULE:
      if (auto row = FindSchedule(db, id)) {
        v1::SnapshotSchedule* schedule = record->mutable_snapshot_schedule();
        *schedule = row->settings;
        schedule->set_schedule_id(id);
        schedule->set_created_ms(row->created_ms);
      }
      return;
    default:
      return;
  }
}

std::vector<v1::ClusterRecord> ReadRecords(SQLite::Database& db, Sql query) {
  std::vector<v1::ClusterRecord> records;
  while (query.Next()) {
    v1::ClusterRecord& record = records.emplace_back();
    record.set_kind(static_cast<v1::ClusterRecordKind>(query.Unsigned(0)));
    record.set_object_id(query.Unsigned(1));
    record.set_revision(query.Unsigned(2));
    if (!query.Bool(3)) FillContent(db, &record);
  }
  return records;
}

}  // namespace

RecordClock ReadRecordClock(SQLite::Database& db) {
  Sql query(db, "SELECT revision, floor FROM record_clock");
  if (!query.Next()) return {};
  return {query.Unsigned(0), query.Unsigned(1)};
}

void StartRecordsAt(SQLite::Database& db, uint64_t revision) {
  Sql(db, "UPDATE record_clock SET revision = ?1, floor = ?1", revision).Run();
}

std::vector<v1::ClusterRecord> ReadRecordsAfter(SQLite::Database& db, uint64_t revision) {
  return ReadRecords(db, Sql(db,
                             "SELECT kind, object_id, revision, gone FROM record"
                             " WHERE revision > ? ORDER BY revision",
                             revision));
}

std::vector<v1::ClusterRecord> ReadAllRecords(SQLite::Database& db) {
  return ReadRecords(db, Sql(db,
                             "SELECT kind, object_id, revision, gone FROM record WHERE gone = 0"
                             " ORDER BY kind, object_id"));
}

uint64_t ForgetGoneRecords(SQLite::Database& db, uint64_t keep) {
  Sql oldest(db,
             "SELECT revision FROM record WHERE gone = 1 ORDER BY revision DESC LIMIT 1 OFFSET ?",
             keep);
  if (!oldest.Next()) return 0;
  const uint64_t up_to = oldest.Unsigned(0);
  Sql(db, "UPDATE record_clock SET floor = max(floor, ?)", up_to).Run();
  return static_cast<uint64_t>(
      Sql(db, "DELETE FROM record WHERE gone = 1 AND revision <= ?", up_to).Run());
}

void RecordOutageLifetime(SQLite::Database& db, uint64_t outage_lifetime_ms) {
  if (GetNumber(db, kOutageLifetime) >= outage_lifetime_ms) return;
  PutNumber(db, kOutageLifetime, outage_lifetime_ms);
}

}  // namespace tessera::mdm
