#include "services/mdm/topology_table.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/sql.h"
#include "services/mdm/capacity_rules.h"

namespace tessera::mdm {
namespace {

#define TESSERA_DOMAIN_COLUMNS "SELECT id, name, created_ms FROM protection_domain "
#define TESSERA_FAULT_SET_COLUMNS "SELECT id, protection_domain_id, name FROM fault_set "
#define TESSERA_POOL_COLUMNS                                                         \
  "SELECT id, protection_domain_id, name, replica_count, min_replicas, chunk_bytes," \
  " placement_group_count, created_ms, warn_percent, critical_percent,"              \
  " overcommit_limit_percent FROM pool "

v1::ProtectionDomain ReadDomain(Sql& query) {
  v1::ProtectionDomain row;
  row.set_protection_domain_id(query.Unsigned(0));
  row.set_name(query.Text(1));
  row.set_created_ms(query.Unsigned(2));
  return row;
}

v1::FaultSet ReadFaultSet(Sql& query) {
  v1::FaultSet row;
  row.set_fault_set_id(query.Unsigned(0));
  row.set_protection_domain_id(query.Unsigned(1));
  row.set_name(query.Text(2));
  return row;
}

v1::StoragePool ReadPool(Sql& query) {
  v1::StoragePool row;
  row.set_pool_id(query.Unsigned(0));
  row.set_protection_domain_id(query.Unsigned(1));
  row.set_name(query.Text(2));
  row.set_replica_count(query.Unsigned32(3));
  row.set_min_replicas(query.Unsigned32(4));
  row.set_chunk_bytes(query.Unsigned32(5));
  row.set_placement_group_count(query.Unsigned32(6));
  row.set_created_ms(query.Unsigned(7));
  v1::CapacityPolicy* policy = row.mutable_capacity_policy();
  policy->set_warn_percent(query.Unsigned32(8));
  policy->set_critical_percent(query.Unsigned32(9));
  policy->set_overcommit_limit_percent(query.Unsigned32(10));
  return row;
}

}  // namespace

std::string GetSetting(SQLite::Database& db, const std::string& name) {
  Sql query(db, "SELECT value FROM setting WHERE name = ?", name);
  return query.Next() ? query.Text(0) : "";
}

uint64_t GetNumber(SQLite::Database& db, const std::string& name) {
  uint64_t value = 0;
  return absl::SimpleAtoi(GetSetting(db, name), &value) ? value : 0;
}

void PutSetting(SQLite::Database& db, const std::string& name, const std::string& value) {
  Sql(db,
      "INSERT INTO setting VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
      name, value)
      .Run();
}

void PutNumber(SQLite::Database& db, const std::string& name, uint64_t value) {
  PutSetting(db, name, absl::StrCat(value));
}

std::optional<v1::ProtectionDomain> FindProtectionDomain(SQLite::Database& db, uint64_t id) {
  return OneRow(Sql(db, TESSERA_DOMAIN_COLUMNS "WHERE id = ?", id), ReadDomain);
}

std::optional<v1::ProtectionDomain> FindProtectionDomainByName(SQLite::Database& db,
                                                               const std::string& name) {
  return OneRow(Sql(db, TESSERA_DOMAIN_COLUMNS "WHERE name = ?", name), ReadDomain);
}

std::vector<v1::ProtectionDomain> ListProtectionDomainRows(SQLite::Database& db, const Page& page) {
  return AllRows(
      Sql(db, TESSERA_DOMAIN_COLUMNS "WHERE id > ? ORDER BY id LIMIT ?", page.after_id, page.limit),
      ReadDomain);
}

uint64_t InsertProtectionDomain(SQLite::Database& db, const v1::ProtectionDomain& row) {
  Sql(db, "INSERT INTO protection_domain (name, created_ms) VALUES (?, ?)", row.name(),
      row.created_ms())
      .Run();
  return LastId(db);
}

void DeleteProtectionDomainRow(SQLite::Database& db, uint64_t id) {
  Sql(db, "DELETE FROM protection_domain WHERE id = ?", id).Run();
}

std::optional<v1::FaultSet> FindFaultSet(SQLite::Database& db, uint64_t id) {
  return OneRow(Sql(db, TESSERA_FAULT_SET_COLUMNS "WHERE id = ?", id), ReadFaultSet);
}

std::optional<v1::FaultSet> FindFaultSetByName(SQLite::Database& db, uint64_t protection_domain_id,
                                               const std::string& name) {
  return OneRow(Sql(db, TESSERA_FAULT_SET_COLUMNS "WHERE protection_domain_id = ? AND name = ?",
                    protection_domain_id, name),
                ReadFaultSet);
}

std::vector<v1::FaultSet> ListFaultSetRows(SQLite::Database& db) {
  return AllRows(Sql(db, TESSERA_FAULT_SET_COLUMNS "ORDER BY id"), ReadFaultSet);
}

uint64_t InsertFaultSet(SQLite::Database& db, const v1::FaultSet& row) {
  Sql(db, "INSERT INTO fault_set (protection_domain_id, name) VALUES (?, ?)",
      row.protection_domain_id(), row.name())
      .Run();
  return LastId(db);
}

void DeleteFaultSetRow(SQLite::Database& db, uint64_t id) {
  Sql(db, "DELETE FROM fault_set WHERE id = ?", id).Run();
}

std::optional<v1::StoragePool> FindPool(SQLite::Database& db, uint64_t id) {
  return OneRow(Sql(db, TESSERA_POOL_COLUMNS "WHERE id = ?", id), ReadPool);
}

std::optional<v1::StoragePool> FindPoolByName(SQLite::Database& db, const std::string& name) {
  return OneRow(Sql(db, TESSERA_POOL_COLUMNS "WHERE name = ?", name), ReadPool);
}

std::vector<v1::StoragePool> ListPoolRows(SQLite::Database& db, const Page& page) {
  return AllRows(
      Sql(db, TESSERA_POOL_COLUMNS "WHERE id > ? ORDER BY id LIMIT ?", page.after_id, page.limit),
      ReadPool);
}

uint64_t InsertPool(SQLite::Database& db, const v1::StoragePool& row) {
  const v1::CapacityPolicy policy = WithDefaults(row.capacity_policy());
  Sql(db,
      "INSERT INTO pool (protection_domain_id, name, replica_count, min_replicas, chunk_bytes,"
      " placement_group_count, created_ms, warn_percent, critical_percent,"
      " overcommit_limit_percent) VALUES (?,?,?,?,?,?,?,?,?,?)",
      row.protection_domain_id(), row.name(), row.replica_count(), row.min_replicas(),
      row.chunk_bytes(), row.placement_group_count(), row.created_ms(), policy.warn_percent(),
      policy.critical_percent(), policy.overcommit_limit_percent())
      .Run();
  return LastId(db);
}

void UpdatePoolPolicy(SQLite::Database& db, uint64_t id, const v1::CapacityPolicy& policy) {
  Sql(db,
      "UPDATE pool SET warn_percent = ?, critical_percent = ?, overcommit_limit_percent = ?"
      " WHERE id = ?",
      policy.warn_percent(), policy.critical_percent(), policy.overcommit_limit_percent(), id)
      .Run();
}

void DeletePoolRow(SQLite::Database& db, uint64_t id) {
  Sql(db, "DELETE FROM pool WHERE id = ?", id).Run();
}

std::optional<uint64_t> FindRequest(SQLite::Database& db, const std::string& kind,
                                    const std::string& request_id) {
  if (request_id.empty()) return std::nullopt;
  Sql query(db, "SELECT resource_id FROM request WHERE kind = ? AND request_id = ?", kind,
            request_id);
  if (!query.Next()) return std::nullopt;
  return query.Unsigned(0);
}

void RememberRequest(SQLite::Database& db, const std::string& kind, const std::string& request_id,
                     uint64_t resource_id, uint64_t now_ms) {
  if (request_id.empty()) return;
  Sql(db, "INSERT INTO request (request_id, kind, resource_id, created_ms) VALUES (?,?,?,?)",
      request_id, kind, resource_id, now_ms)
      .Run();
}

void ForgetRequests(SQLite::Database& db, uint64_t before_ms) {
  Sql(db, "DELETE FROM request WHERE created_ms < ?", before_ms).Run();
}

}  // namespace tessera::mdm
