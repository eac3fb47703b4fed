// The audit log in mgmt.db.
//
// All functions run inside a transaction of MgmtDb; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_TABLE_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <vector>

#include "services/mgmt/people/audit_chain.h"
#include "tessera/v1/audit.pb.h"

namespace tessera::mgmt {

// As the database counts it.
[[nodiscard]] uint64_t AuditEntryBytes(const v1::AuditEntry& entry);

// The newest entry, else the anchor, else the chain's beginning.
[[nodiscard]] AuditLink NewestAuditLink(SQLite::Database& db);
// The last entry that was let go.
[[nodiscard]] AuditLink AuditAnchor(SQLite::Database& db);
// The newest id that was ever given.
[[nodiscard]] uint64_t NewestAuditIdEver(SQLite::Database& db);
[[nodiscard]] uint64_t AuditBytes(SQLite::Database& db);
// Sets the entry's id and hash.
void AppendAuditEntry(SQLite::Database& db, v1::AuditEntry* entry);
// Oldest first, those after `after_id`.
[[nodiscard]] std::vector<v1::AuditEntry> ReadAuditEntries(SQLite::Database& db, uint64_t after_id,
                                                           uint32_t limit);
// Newest first, those below `before_id` (0: from the newest).
[[nodiscard]] std::vector<v1::AuditEntry> FindAuditEntries(
    SQLite::Database& db, const v1::ListAuditEntriesRequest& conditions, uint64_t before_id,
    uint32_t limit);
// Makes the entry the anchor, and lets it and all before it go.
void DropAuditEntries(SQLite::Database& db, const AuditLink& last);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_TABLE_H_
