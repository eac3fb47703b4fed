// Sessions in mgmt.db, and the rule of when one is over.
//
// All functions with a database run inside a transaction of MgmtDb; exceptions of SQLite pass
// through to it.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_SESSION_TABLE_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_SESSION_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tessera/v1/auth.pb.h"

namespace tessera::mgmt {

struct SessionLimits {
  uint64_t idle_ms = 30 * 60'000;
  uint64_t lifetime_ms = 12 * 3'600'000;

  // How exactly the last use is known: it is not written at each call.
  [[nodiscard]] uint64_t UseGranularityMs() const {
    return std::min<uint64_t>(60'000, idle_ms / 4);
  }
  [[nodiscard]] bool IsOver(const v1::Session& session, uint64_t now_ms) const {
    return now_ms >= session.expires_ms() || now_ms >= session.last_used_ms() + idle_ms;
  }
};

struct SessionRow {
  v1::Session session;
  std::string secret_hash;
};

// A page: newest first, ids below `before_id` (0: from the newest), of one user (0: of all).
struct NewestFirst {
  uint64_t user_id = 0;
  uint64_t before_id = 0;
  uint32_t limit = 100;
};

inline constexpr uint64_t kSessionsOfUserMax = 100;

[[nodiscard]] std::optional<SessionRow> FindSession(SQLite::Database& db, uint64_t session_id);
// Those that are not over.
[[nodiscard]] std::vector<v1::Session> ListSessionRows(SQLite::Database& db,
                                                       const SessionLimits& limits, uint64_t now_ms,
                                                       const NewestFirst& page);
[[nodiscard]] uint64_t CountSessions(SQLite::Database& db, const SessionLimits& limits,
                                     uint64_t now_ms);
// Returns its id. Drops those of everybody that are over, and the user's oldest beyond
// kSessionsOfUserMax.
uint64_t InsertSession(SQLite::Database& db, const SessionLimits& limits, uint64_t now_ms,
                       const SessionRow& row);
void TouchSession(SQLite::Database& db, uint64_t session_id, uint64_t now_ms);
void ReplaceSessionSecret(SQLite::Database& db, uint64_t session_id,
                          const std::string& secret_hash);
void DeleteSession(SQLite::Database& db, uint64_t session_id);
// All of the user but one (0: really all).
void DeleteSessionsOf(SQLite::Database& db, uint64_t user_id, uint64_t except_id = 0);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_SESSION_TABLE_H_
