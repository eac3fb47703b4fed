// Users in mgmt.db, and the places from which they have signed in.
//
// All functions run inside a transaction of MgmtDb; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_USER_TABLE_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_USER_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tessera/v1/auth.pb.h"

namespace tessera::mgmt {

struct UserRow {
  v1::User user;
  std::string password_hash;
};

[[nodiscard]] std::optional<UserRow> FindUser(SQLite::Database& db, uint64_t user_id);
[[nodiscard]] std::optional<UserRow> FindUserByName(SQLite::Database& db, const std::string& name);
// By name, those after `after_name`.
[[nodiscard]] std::vector<v1::User> ListUserRows(SQLite::Database& db,
                                                 const std::string& after_name, uint32_t limit);
[[nodiscard]] uint64_t CountUsers(SQLite::Database& db);
// Admins other than this one who are not locked.
[[nodiscard]] uint64_t CountOtherAdmins(SQLite::Database& db, uint64_t user_id);
// Returns its id.
uint64_t InsertUser(SQLite::Database& db, const UserRow& row);
// Everything but id, name and time of creation.
void UpdateUserRow(SQLite::Database& db, const UserRow& row);
// With sessions, tokens and places.
void DeleteUserRow(SQLite::Database& db, uint64_t user_id);

[[nodiscard]] bool IsKnownPlace(SQLite::Database& db, uint64_t user_id, const std::string& place);
// Keeps the user's latest 16.
void RememberPlace(SQLite::Database& db, uint64_t user_id, const std::string& place,
                   uint64_t now_ms);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_USER_TABLE_H_
