// Settings, protection domains, fault sets and pools in mdm.db.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_TOPOLOGY_TABLE_H_
#define TESSERA_SERVICES_MDM_TOPOLOGY_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "services/mdm/node_table.h"
#include "tessera/v1/topology.pb.h"

namespace tessera::mdm {

// Named values: cluster_uuid, topology_version, …. Empty when there is none.
[[nodiscard]] std::string GetSetting(SQLite::Database& db, const std::string& name);
[[nodiscard]] uint64_t GetNumber(SQLite::Database& db, const std::string& name);
void PutSetting(SQLite::Database& db, const std::string& name, const std::string& value);
void PutNumber(SQLite::Database& db, const std::string& name, uint64_t value);

[[nodiscard]] std::optional<v1::ProtectionDomain> FindProtectionDomain(SQLite::Database& db,
                                                                       uint64_t id);
[[nodiscard]] std::optional<v1::ProtectionDomain> FindProtectionDomainByName(
    SQLite::Database& db, const std::string& name);
[[nodiscard]] std::vector<v1::ProtectionDomain> ListProtectionDomainRows(SQLite::Database& db,
                                                                         const Page& page = {});
uint64_t InsertProtectionDomain(SQLite::Database& db, const v1::ProtectionDomain& row);
void DeleteProtectionDomainRow(SQLite::Database& db, uint64_t id);

[[nodiscard]] std::optional<v1::FaultSet> FindFaultSet(SQLite::Database& db, uint64_t id);
[[nodiscard]] std::optional<v1::FaultSet> FindFaultSetByName(SQLite::Database& db,
                                                             uint64_t protection_domain_id,
                                                             const std::string& name);
[[nodiscard]] std::vector<v1::FaultSet> ListFaultSetRows(SQLite::Database& db);
uint64_t InsertFaultSet(SQLite::Database& db, const v1::FaultSet& row);
void DeleteFaultSetRow(SQLite::Database& db, uint64_t id);

// `capacity` and `redundancy` are not stored: they are left empty.
[[nodiscard]] std::optional<v1::StoragePool> FindPool(SQLite::Database& db, uint64_t id);
[[nodiscard]] std::optional<v1::StoragePool> FindPoolByName(SQLite::Database& db,
                                                            const std::string& name);
[[nodiscard]] std::vector<v1::StoragePool> ListPoolRows(SQLite::Database& db,
                                                        const Page& page = {});
uint64_t InsertPool(SQLite::Database& db, const v1::StoragePool& row);
void UpdatePoolPolicy(SQLite::Database& db, uint64_t id, const v1::CapacityPolicy& policy);
void DeletePoolRow(SQLite::Database& db, uint64_t id);

// What a create call with this request id made before; nullopt: nothing, or it was forgotten.
[[nodiscard]] std::optional<uint64_t> FindRequest(SQLite::Database& db, const std::string& kind,
                                                  const std::string& request_id);
// Remembers it. An empty request id is not remembered.
void RememberRequest(SQLite::Database& db, const std::string& kind, const std::string& request_id,
                     uint64_t resource_id, uint64_t now_ms);
// Forgets requests made before.
void ForgetRequests(SQLite::Database& db, uint64_t before_ms);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_TOPOLOGY_TABLE_H_
