// API tokens in mgmt.db.
//
// All functions run inside a transaction of MgmtDb; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_API_TOKEN_TABLE_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_API_TOKEN_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "services/mgmt/people/session_table.h"
#include "tessera/v1/auth.pb.h"

namespace tessera::mgmt {

struct ApiTokenRow {
  v1::ApiToken api_token;
  std::string secret_hash;
};

inline constexpr uint64_t kApiTokensOfUserMax = 100;

[[nodiscard]] std::optional<ApiTokenRow> FindApiToken(SQLite::Database& db, uint64_t api_token_id);
// Those that have run out are among them until they are revoked or dropped.
[[nodiscard]] std::vector<v1::ApiToken> ListApiTokenRows(SQLite::Database& db,
                                                         const NewestFirst& page);
[[nodiscard]] uint64_t CountApiTokensOf(SQLite::Database& db, uint64_t user_id);
// Returns its id. Drops those of everybody that ran out 30 days ago.
uint64_t InsertApiToken(SQLite::Database& db, uint64_t now_ms, const ApiTokenRow& row);
void TouchApiToken(SQLite::Database& db, uint64_t api_token_id, uint64_t now_ms);
void DeleteApiToken(SQLite::Database& db, uint64_t api_token_id);
void DeleteApiTokensOf(SQLite::Database& db, uint64_t user_id);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_API_TOKEN_TABLE_H_
