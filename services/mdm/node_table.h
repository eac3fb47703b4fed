// Servers, devices and clients in mdm.db.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_NODE_TABLE_H_
#define TESSERA_SERVICES_MDM_NODE_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tessera/v1/discovery.pb.h"
#include "tessera/v1/topology.pb.h"
#include "tessera/v1/types.pb.h"

namespace tessera::mdm {

struct SdsRow {
  uint64_t sds_id = 0;
  std::string node_uuid;
  std::string name;
  uint64_t protection_domain_id = 0;  // 0: none yet
  uint64_t fault_set_id = 0;          // 0: its own
  std::string wanted_protection_domain;
  std::string wanted_fault_set;
  v1::Endpoints endpoints;
  uint64_t incarnation = 0;
  std::string software_version;
  uint64_t maintenance_until_ms = 0;  // 0: not in maintenance
  std::string maintenance_reason;
};

struct DeviceRow {
  uint64_t device_id = 0;
  uint64_t sds_id = 0;
  uint64_t pool_id = 0;  // 0: unassigned
  std::string wanted_pool;
  v1::DeviceDescription description;
  uint64_t configured_incarnation = 0;  // of the server when it last confirmed the assignment
  v1::DeviceUse use = v1::DEVICE_USE_NORMAL;
  uint64_t successor_device_id = 0;  // draining: which device takes its place by preference; 0: any
};

struct SdcRow {
  uint64_t sdc_id = 0;
  std::string node_uuid;
  std::string name;
  v1::Endpoints endpoints;
  std::vector<std::string> nbd_uris;
  uint64_t incarnation = 0;
  std::string software_version;
};

// A page of a list: rows with ids above `after_id`, at most `limit`.
struct Page {
  uint64_t after_id = 0;
  uint32_t limit = UINT32_MAX;
};

[[nodiscard]] std::optional<SdsRow> FindSds(SQLite::Database& db, uint64_t sds_id);
[[nodiscard]] std::optional<SdsRow> FindSdsByUuid(SQLite::Database& db,
                                                  const std::string& node_uuid);
[[nodiscard]] std::vector<SdsRow> ListSdsRows(SQLite::Database& db, const Page& page = {});
// Those with devices in the pool.
[[nodiscard]] std::vector<SdsRow> ListSdsRowsOfPool(SQLite::Database& db, uint64_t pool_id);
// Returns the new id; row.sds_id is not read.
uint64_t InsertSds(SQLite::Database& db, const SdsRow& row);
void UpdateSds(SQLite::Database& db, const SdsRow& row);
void DeleteSdsRow(SQLite::Database& db, uint64_t sds_id);

[[nodiscard]] std::optional<DeviceRow> FindDevice(SQLite::Database& db, uint64_t device_id);
[[nodiscard]] std::optional<DeviceRow> FindDeviceByUuid(SQLite::Database& db,
                                                        const std::string& device_uuid);
[[nodiscard]] std::vector<DeviceRow> ListDeviceRows(SQLite::Database& db);
[[nodiscard]] std::vector<DeviceRow> ListDeviceRowsOfSds(SQLite::Database& db, uint64_t sds_id);
[[nodiscard]] std::vector<DeviceRow> ListDeviceRowsOfPool(SQLite::Database& db, uint64_t pool_id);
uint64_t InsertDevice(SQLite::Database& db, const DeviceRow& row);
void UpdateDevice(SQLite::Database& db, const DeviceRow& row);
void DeleteDeviceRow(SQLite::Database& db, uint64_t device_id);

[[nodiscard]] std::optional<SdcRow> FindSdc(SQLite::Database& db, uint64_t sdc_id);
[[nodiscard]] std::optional<SdcRow> FindSdcByUuid(SQLite::Database& db,
                                                  const std::string& node_uuid);
[[nodiscard]] std::optional<SdcRow> FindSdcByName(SQLite::Database& db, const std::string& name);
[[nodiscard]] std::vector<SdcRow> ListSdcRows(SQLite::Database& db, const Page& page = {});
uint64_t InsertSdc(SQLite::Database& db, const SdcRow& row);
void UpdateSdc(SQLite::Database& db, const SdcRow& row);
void DeleteSdcRow(SQLite::Database& db, uint64_t sdc_id);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_NODE_TABLE_H_
