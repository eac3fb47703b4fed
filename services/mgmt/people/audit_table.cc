#include "services/mgmt/people/audit_table.h"

#include <algorithm>
#include <limits>

#include "services/common/sql.h"

namespace tessera::mgmt {
namespace {

// Numbers, the hash, and what SQLite keeps beside them.
constexpr uint64_t kFixedBytes = 96;
// What SQLite's numbers can hold.
constexpr uint64_t kNever = std::numeric_limits<int64_t>::max();

#define TESSERA_AUDIT_COLUMNS                                 \
  "SELECT id, time_ms, user_name, credential, peer, method, " \
  "request_json, result, error_message, hash FROM audit_entry "

v1::AuditEntry ReadEntry(Sql& query) {
  v1::AuditEntry entry;
  entry.set_audit_id(query.Unsigned(0));
  entry.set_time_ms(query.Unsigned(1));
  entry.set_user_name(query.Text(2));
  entry.set_credential(query.Text(3));
  entry.set_peer(query.Text(4));
  entry.set_method(query.Text(5));
  entry.set_request_json(query.Text(6));
  entry.set_result(query.Text(7));
  entry.set_error_message(query.Text(8));
  entry.set_hash(query.Text(9));
  return entry;
}

std::vector<v1::AuditEntry> AllEntries(Sql query) {
  std::vector<v1::AuditEntry> entries;
  while (query.Next()) entries.push_back(ReadEntry(query));
  return entries;
}

}  // namespace

uint64_t AuditEntryBytes(const v1::AuditEntry& entry) {
  return kFixedBytes + entry.user_name().size() + entry.credential().size() + entry.peer().size() +
         entry.method().size() + entry.request_json().size() + entry.result().size() +
         entry.error_message().size();
}

AuditLink NewestAuditLink(SQLite::Database& db) {
  Sql query(db, "SELECT id, hash FROM audit_entry ORDER BY id DESC LIMIT 1");
  return query.Next() ? AuditLink{query.Unsigned(0), query.Text(1)} : AuditAnchor(db);
}

AuditLink AuditAnchor(SQLite::Database& db) {
  Sql query(db, "SELECT audit_id, hash FROM audit_anchor ORDER BY audit_id DESC LIMIT 1");
  return query.Next() ? AuditLink{query.Unsigned(0), query.Text(1)} : AuditLink{};
}

uint64_t NewestAuditIdEver(SQLite::Database& db) {
  Sql query(db, "SELECT seq FROM sqlite_sequence WHERE name = 'audit_entry'");
  return query.Next() ? query.Unsigned(0) : 0;
}

uint64_t AuditBytes(SQLite::Database& db) {
  Sql query(db,
            "SELECT coalesce(sum(? + length(CAST(user_name AS BLOB)) + length(credential)"
            " + length(CAST(peer AS BLOB)) + length(method) + length(CAST(request_json AS BLOB))"
            " + length(result) + length(CAST(error_message AS BLOB))), 0) FROM audit_entry",
            kFixedBytes);
  return query.Next() ? query.Unsigned(0) : 0;
}

void AppendAuditEntry(SQLite::Database& db, v1::AuditEntry* entry) {
  const AuditLink newest = NewestAuditLink(db);
  // Where the end was cut off its ids are not given again: it shows.
  entry->set_audit_id(std::max(newest.audit_id, NewestAuditIdEver(db)) + 1);
  entry->set_hash(AuditHash(newest.hash, *entry));
  Sql(db,
      "INSERT INTO audit_entry (id, time_ms, user_name, credential, peer, method, request_json,"
      " result, error_message, hash) VALUES (?,?,?,?,?,?,?,?,?,?)",
      entry->audit_id(), entry->time_ms(), entry->user_name(), entry->credential(), entry->peer(),
      entry->method(), entry->request_json(), entry->result(), entry->error_message(),
      Blob{entry->hash()})
      .Run();
}

std::vector<v1::AuditEntry> ReadAuditEntries(SQLite::Database& db, uint64_t after_id,
                                             uint32_t limit) {
  return AllEntries(
      Sql(db, TESSERA_AUDIT_COLUMNS "WHERE id > ? ORDER BY id LIMIT ?", after_id, limit));
}

std::vector<v1::AuditEntry> FindAuditEntries(SQLite::Database& db,
                                             const v1::ListAuditEntriesRequest& conditions,
                                             uint64_t before_id, uint32_t limit) {
  const auto capped = [](uint64_t time_ms) { return std::min(time_ms, kNever); };
  return AllEntries(Sql(db,
                        TESSERA_AUDIT_COLUMNS
                        "WHERE id < ?1 AND (?2 = '' OR user_name = ?2)"
                        " AND (?3 = '' OR instr(method, ?3) > 0) AND time_ms >= ?4 AND time_ms < ?5"
                        " AND (?6 = 0 OR result != 'OK') ORDER BY id DESC LIMIT ?7",
                        before_id == 0 ? kNever : capped(before_id), conditions.user_name(),
                        conditions.method_contains(), capped(conditions.from_ms()),
                        conditions.until_ms() == 0 ? kNever : capped(conditions.until_ms()),
                        conditions.failed_only(), limit));
}

void DropAuditEntries(SQLite::Database& db, const AuditLink& last) {
  Sql(db, "INSERT INTO audit_anchor (audit_id, hash) VALUES (?,?)", last.audit_id, Blob{last.hash})
      .Run();
  Sql(db, "DELETE FROM audit_entry WHERE id <= ?", last.audit_id).Run();
}

}  // namespace tessera::mgmt
