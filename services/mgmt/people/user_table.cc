#include "services/mgmt/people/user_table.h"

#include "services/common/sql.h"

namespace tessera::mgmt {
namespace {

constexpr int kPlacesOfUser = 16;

#define TESSERA_USER_COLUMNS                                              \
  "SELECT id, name, role, password_change_required, locked, created_ms, " \
  "last_sign_in_ms, password_hash FROM user_account "

UserRow ReadUser(Sql& query) {
  UserRow row;
  row.user.set_user_id(query.Unsigned(0));
  row.user.set_user_name(query.Text(1));
  row.user.set_role(static_cast<v1::Role>(query.Unsigned(2)));
  row.user.set_password_change_required(query.Bool(3));
  row.user.set_locked(query.Bool(4));
  row.user.set_created_ms(query.Unsigned(5));
  row.user.set_last_sign_in_ms(query.Unsigned(6));
  row.password_hash = query.Text(7);
  return row;
}

}  // namespace

std::optional<UserRow> FindUser(SQLite::Database& db, uint64_t user_id) {
  Sql query(db, TESSERA_USER_COLUMNS "WHERE id = ?", user_id);
  return query.Next() ? std::optional(ReadUser(query)) : std::nullopt;
}

std::optional<UserRow> FindUserByName(SQLite::Database& db, const std::string& name) {
  Sql query(db, TESSERA_USER_COLUMNS "WHERE name = ?", name);
  return query.Next() ? std::optional(ReadUser(query)) : std::nullopt;
}

std::vector<v1::User> ListUserRows(SQLite::Database& db, const std::string& after_name,
                                   uint32_t limit) {
  std::vector<v1::User> users;
  Sql query(db, TESSERA_USER_COLUMNS "WHERE name > ? ORDER BY name LIMIT ?", after_name, limit);
  while (query.Next()) users.push_back(ReadUser(query).user);
  return users;
}

uint64_t CountUsers(SQLite::Database& db) {
  Sql query(db, "SELECT count(*) FROM user_account");
  return query.Next() ? query.Unsigned(0) : 0;
}

uint64_t CountOtherAdmins(SQLite::Database& db, uint64_t user_id) {
  Sql query(db, "SELECT count(*) FROM user_account WHERE role = ? AND locked = 0 AND id != ?",
            v1::ROLE_ADMIN, user_id);
  return query.Next() ? query.Unsigned(0) : 0;
}

uint64_t InsertUser(SQLite::Database& db, const UserRow& row) {
  Sql(db,
      "INSERT INTO user_account (name, role, password_hash, password_change_required, locked,"
      " created_ms) VALUES (?,?,?,?,?,?)",
      row.user.user_name(), row.user.role(), row.password_hash, row.user.password_change_required(),
      row.user.locked(), row.user.created_ms())
      .Run();
  return LastId(db);
}

void UpdateUserRow(SQLite::Database& db, const UserRow& row) {
  Sql(db,
      "UPDATE user_account SET role = ?, password_hash = ?, password_change_required = ?,"
      " locked = ?, last_sign_in_ms = ? WHERE id = ?",
      row.user.role(), row.password_hash, row.user.password_change_required(), row.user.locked(),
      row.user.last_sign_in_ms(), row.user.user_id())
      .Run();
}

void DeleteUserRow(SQLite::Database& db, uint64_t user_id) {
  Sql(db, "DELETE FROM user_account WHERE id = ?", user_id).Run();
}

bool IsKnownPlace(SQLite::Database& db, uint64_t user_id, const std::string& place) {
  return Sql(db, "SELECT 1 FROM known_address WHERE user_id = ? AND address = ?", user_id, place)
      .Next();
}

void RememberPlace(SQLite::Database& db, uint64_t user_id, const std::string& place,
                   uint64_t now_ms) {
  Sql(db,
      "INSERT INTO known_address (user_id, address, last_used_ms) VALUES (?,?,?)"
      " ON CONFLICT (user_id, address) DO UPDATE SET last_used_ms = excluded.last_used_ms",
      user_id, place, now_ms)
      .Run();
  Sql(db,
      "DELETE FROM known_address WHERE user_id = ? AND address NOT IN (SELECT address"
      " FROM known_address WHERE user_id = ? ORDER BY last_used_ms DESC LIMIT ?)",
      user_id, user_id, kPlacesOfUser)
      .Run();
}

}  // namespace tessera::mgmt
