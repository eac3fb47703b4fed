#include "services/mgmt/people/api_token_table.h"

#include "services/common/sql.h"

namespace tessera::mgmt {
namespace {

constexpr uint64_t kShownAfterExpiryMs = 30ull * 86'400'000;

#define TESSERA_API_TOKEN_COLUMNS                                         \
  "SELECT t.id, t.user_id, u.name, t.description, t.role, t.created_ms, " \
  "t.expires_ms, t.last_used_ms, t.secret_hash FROM api_token AS t "      \
  "JOIN user_account AS u ON u.id = t.user_id "

ApiTokenRow ReadApiToken(Sql& query) {
  ApiTokenRow row;
  row.api_token.set_api_token_id(query.Unsigned(0));
  row.api_token.set_user_id(query.Unsigned(1));
  row.api_token.set_user_name(query.Text(2));
  row.api_token.set_description(query.Text(3));
  row.api_token.set_role(static_cast<v1::Role>(query.Unsigned(4)));
  row.api_token.set_created_ms(query.Unsigned(5));
  row.api_token.set_expires_ms(query.Unsigned(6));
  row.api_token.set_last_used_ms(query.Unsigned(7));
  row.secret_hash = query.Text(8);
  return row;
}

}  // namespace

std::optional<ApiTokenRow> FindApiToken(SQLite::Database& db, uint64_t api_token_id) {
  Sql query(db, TESSERA_API_TOKEN_COLUMNS "WHERE t.id = ?", api_token_id);
  return query.Next() ? std::optional(ReadApiToken(query)) : std::nullopt;
}

std::vector<v1::ApiToken> ListApiTokenRows(SQLite::Database& db, const NewestFirst& page) {
  std::vector<v1::ApiToken> tokens;
  Sql query(
      db,
      TESSERA_API_TOKEN_COLUMNS
      "WHERE (?1 = 0 OR t.user_id = ?1) AND (?2 = 0 OR t.id < ?2) ORDER BY t.id DESC LIMIT ?3",
      page.user_id, page.before_id, page.limit);
  while (query.Next()) tokens.push_back(ReadApiToken(query).api_token);
  return tokens;
}

uint64_t CountApiTokensOf(SQLite::Database& db, uint64_t user_id) {
  Sql query(db, "SELECT count(*) FROM api_token WHERE user_id = ?", user_id);
  return query.Next() ? query.Unsigned(0) : 0;
}

uint64_t InsertApiToken(SQLite::Database& db, uint64_t now_ms, const ApiTokenRow& row) {
  Sql(db, "DELETE FROM api_token WHERE expires_ms + ? <= ?", kShownAfterExpiryMs, now_ms).Run();
  Sql(db,
      "INSERT INTO api_token (user_id, secret_hash, description, role, created_ms, expires_ms)"
      " VALUES (?,?,?,?,?,?)",
      row.api_token.user_id(), Blob{row.secret_hash}, row.api_token.description(),
      row.api_token.role(), row.api_token.created_ms(), row.api_token.expires_ms())
      .Run();
  return LastId(db);
}

void TouchApiToken(SQLite::Database& db, uint64_t api_token_id, uint64_t now_ms) {
  Sql(db, "UPDATE api_token SET last_used_ms = ? WHERE id = ?", now_ms, api_token_id).Run();
}

void DeleteApiToken(SQLite::Database& db, uint64_t api_token_id) {
  Sql(db, "DELETE FROM api_token WHERE id = ?", api_token_id).Run();
}

void DeleteApiTokensOf(SQLite::Database& db, uint64_t user_id) {
  Sql(db, "DELETE FROM api_token WHERE user_id = ?", user_id).Run();
}

}  // namespace tessera::mgmt
