#include "services/mdm/node_table.h"

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/common/sql.h"

namespace tessera::mdm {
namespace {

#define TESSERA_SDS_COLUMNS                                                                \
  "SELECT id, node_uuid, name, ifnull(protection_domain_id, 0), ifnull(fault_set_id, 0),"  \
  " wanted_protection_domain, wanted_fault_set, endpoints, incarnation, software_version," \
  " maintenance_until_ms, maintenance_reason FROM sds "
#define TESSERA_DEVICE_COLUMNS                                                               \
  "SELECT id, sds_id, ifnull(pool_id, 0), wanted_pool, description, configured_incarnation," \
  " use, successor_device_id FROM device "
#define TESSERA_SDC_COLUMNS \
  "SELECT id, node_uuid, name, endpoints, nbd_uris, incarnation, software_version FROM sdc "

SdsRow ReadSds(Sql& query) {
  SdsRow row;
  row.sds_id = query.Unsigned(0);
  row.node_uuid = query.Text(1);
  row.name = query.Text(2);
  row.protection_domain_id = query.Unsigned(3);
  row.fault_set_id = query.Unsigned(4);
  row.wanted_protection_domain = query.Text(5);
  row.wanted_fault_set = query.Text(6);
  row.endpoints.ParseFromString(query.Text(7));
  row.incarnation = query.Unsigned(8);
  row.software_version = query.Text(9);
  row.maintenance_until_ms = query.Unsigned(10);
  row.maintenance_reason = query.Text(11);
  return row;
}

DeviceRow ReadDevice(Sql& query) {
  DeviceRow row;
  row.device_id = query.Unsigned(0);
  row.sds_id = query.Unsigned(1);
  row.pool_id = query.Unsigned(2);
  row.wanted_pool = query.Text(3);
  row.description.ParseFromString(query.Text(4));
  row.configured_incarnation = query.Unsigned(5);
  row.use = static_cast<v1::DeviceUse>(query.Unsigned(6));
  row.successor_device_id = query.Unsigned(7);
  return row;
}

SdcRow ReadSdc(Sql& query) {
  SdcRow row;
  row.sdc_id = query.Unsigned(0);
  row.node_uuid = query.Text(1);
  row.name = query.Text(2);
  row.endpoints.ParseFromString(query.Text(3));
  row.nbd_uris = absl::StrSplit(query.Text(4), '\n', absl::SkipEmpty());
  row.incarnation = query.Unsigned(5);
  row.software_version = query.Text(6);
  return row;
}

}  // namespace

std::optional<SdsRow> FindSds(SQLite::Database& db, uint64_t sds_id) {
  return OneRow(Sql(db, TESSERA_SDS_COLUMNS "WHERE id = ?", sds_id), ReadSds);
}

std::optional<SdsRow> FindSdsByUuid(SQLite::Database& db, const std::string& node_uuid) {
  return OneRow(Sql(db, TESSERA_SDS_COLUMNS "WHERE node_uuid = ?", node_uuid), ReadSds);
}

std::vector<SdsRow> ListSdsRows(SQLite::Database& db, const Page& page) {
  return AllRows(
      Sql(db, TESSERA_SDS_COLUMNS "WHERE id > ? ORDER BY id LIMIT ?", page.after_id, page.limit),
      ReadSds);
}

std::vector<SdsRow> ListSdsRowsOfPool(SQLite::Database& db, uint64_t pool_id) {
  return AllRows(Sql(db,
                     TESSERA_SDS_COLUMNS
                     "WHERE id IN (SELECT sds_id FROM device WHERE pool_id = ?) ORDER BY id",
                     pool_id),
                 ReadSds);
}

uint64_t InsertSds(SQLite::Database& db, const SdsRow& row) {
  Sql(db,
      "INSERT INTO sds (node_uuid, name, protection_domain_id, fault_set_id, "
      "wanted_protection_domain,"
      " wanted_fault_set, endpoints, incarnation, software_version) VALUES (?,?,?,?,?,?,?,?,?)",
      row.node_uuid, row.name, Reference(row.protection_domain_id), Reference(row.fault_set_id),
      row.wanted_protection_domain, row.wanted_fault_set, row.endpoints.SerializeAsString(),
      row.incarnation, row.software_version)
      .Run();
  return LastId(db);
}

void UpdateSds(SQLite::Database& db, const SdsRow& row) {
  Sql(db,
      "UPDATE sds SET name = ?, protection_domain_id = ?, fault_set_id = ?,"
      " wanted_protection_domain = ?, wanted_fault_set = ?, endpoints = ?, incarnation = ?,"
      " software_version = ?, maintenance_until_ms = ?, maintenance_reason = ? WHERE id = ?",
      row.name, Reference(row.protection_domain_id), Reference(row.fault_set_id),
      row.wanted_protection_domain, row.wanted_fault_set, row.endpoints.SerializeAsString(),
      row.incarnation, row.software_version, row.maintenance_until_ms, row.maintenance_reason,
      row.sds_id)
      .Run();
}

void DeleteSdsRow(SQLite::Database& db, uint64_t sds_id) {
  Sql(db, "DELETE FROM device WHERE sds_id = ?", sds_id).Run();
  Sql(db, "DELETE FROM sds WHERE id = ?", sds_id).Run();
}

std::optional<DeviceRow> FindDevice(SQLite::Database& db, uint64_t device_id) {
  return OneRow(Sql(db, TESSERA_DEVICE_COLUMNS "WHERE id = ?", device_id), ReadDevice);
}

std::optional<DeviceRow> FindDeviceByUuid(SQLite::Database& db, const std::string& device_uuid) {
  return OneRow(Sql(db, TESSERA_DEVICE_COLUMNS "WHERE device_uuid = ?", device_uuid), ReadDevice);
}

std::vector<DeviceRow> ListDeviceRows(SQLite::Database& db) {
  return AllRows(Sql(db, TESSERA_DEVICE_COLUMNS "ORDER BY id"), ReadDevice);
}

std::vector<DeviceRow> ListDeviceRowsOfSds(SQLite::Database& db, uint64_t sds_id) {
  return AllRows(Sql(db, TESSERA_DEVICE_COLUMNS "WHERE sds_id = ? ORDER BY id", sds_id),
                 ReadDevice);
}

std::vector<DeviceRow> ListDeviceRowsOfPool(SQLite::Database& db, uint64_t pool_id) {
  return AllRows(Sql(db, TESSERA_DEVICE_COLUMNS "WHERE pool_id = ? ORDER BY id", pool_id),
                 ReadDevice);
}

uint64_t InsertDevice(SQLite::Database& db, const DeviceRow& row) {
  Sql(db,
      "INSERT INTO device (device_uuid, sds_id, pool_id, wanted_pool, description) VALUES "
      "(?,?,?,?,?)",
      row.description.device_uuid(), row.sds_id, Reference(row.pool_id), row.wanted_pool,
      row.description.SerializeAsString())
      .Run();
  return LastId(db);
}

void UpdateDevice(SQLite::Database& db, const DeviceRow& row) {
  Sql(db,
      "UPDATE device SET sds_id = ?, pool_id = ?, wanted_pool = ?, description = ?,"
      " configured_incarnation = ?, use = ?, successor_device_id = ? WHERE id = ?",
      row.sds_id, Reference(row.pool_id), row.wanted_pool, row.description.SerializeAsString(),
      row.configured_incarnation, row.use, row.successor_device_id, row.device_id)
      .Run();
}

void DeleteDeviceRow(SQLite::Database& db, uint64_t device_id) {
  Sql(db, "DELETE FROM device WHERE id = ?", device_id).Run();
}

std::optional<SdcRow> FindSdc(SQLite::Database& db, uint64_t sdc_id) {
  return OneRow(Sql(db, TESSERA_SDC_COLUMNS "WHERE id = ?", sdc_id), ReadSdc);
}

std::optional<SdcRow> FindSdcByUuid(SQLite::Database& db, const std::string& node_uuid) {
  return OneRow(Sql(db, TESSERA_SDC_COLUMNS "WHERE node_uuid = ?", node_uuid), ReadSdc);
}

std::optional<SdcRow> FindSdcByName(SQLite::Database& db, const std::string& name) {
  return OneRow(Sql(db, TESSERA_SDC_COLUMNS "WHERE name = ?", name), ReadSdc);
}

std::vector<SdcRow> ListSdcRows(SQLite::Database& db, const Page& page) {
  return AllRows(
      Sql(db, TESSERA_SDC_COLUMNS "WHERE id > ? ORDER BY id LIMIT ?", page.after_id, page.limit),
      ReadSdc);
}

uint64_t InsertSdc(SQLite::Database& db, const SdcRow& row) {
  Sql(db,
      "INSERT INTO sdc (node_uuid, name, endpoints, nbd_uris, incarnation, software_version)"
      " VALUES (?,?,?,?,?,?)",
      row.node_uuid, row.name, row.endpoints.SerializeAsString(), absl::StrJoin(row.nbd_uris, "\n"),
      row.incarnation, row.software_version)
      .Run();
  return LastId(db);
}

void UpdateSdc(SQLite::Database& db, const SdcRow& row) {
  Sql(db,
      "UPDATE sdc SET name = ?, endpoints = ?, nbd_uris = ?, incarnation = ?, software_version = ?"
      " WHERE id = ?",
      row.name, row.endpoints.SerializeAsString(), absl::StrJoin(row.nbd_uris, "\n"),
      row.incarnation, row.software_version, row.sdc_id)
      .Run();
}

void DeleteSdcRow(SQLite::Database& db, uint64_t sdc_id) {
  Sql(db, "DELETE FROM sdc WHERE id = ?", sdc_id).Run();
}

}  // namespace tessera::mdm
