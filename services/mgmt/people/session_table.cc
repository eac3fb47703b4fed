#include "services/mgmt/people/session_table.h"

#include "services/common/sql.h"

namespace tessera::mgmt {
namespace {

#define TESSERA_SESSION_COLUMNS                                          \
  "SELECT s.id, s.user_id, u.name, s.peer, s.user_agent, s.created_ms, " \
  "s.last_used_ms, s.expires_ms, s.secret_hash FROM user_session AS s "  \
  "JOIN user_account AS u ON u.id = s.user_id "

SessionRow ReadSession(Sql& query) {
  SessionRow row;
  row.session.set_session_id(query.Unsigned(0));
  row.session.set_user_id(query.Unsigned(1));
  row.session.set_user_name(query.Text(2));
  row.session.set_peer(query.Text(3));
  row.session.set_user_agent(query.Text(4));
  row.session.set_created_ms(query.Unsigned(5));
  row.session.set_last_used_ms(query.Unsigned(6));
  row.session.set_expires_ms(query.Unsigned(7));
  row.secret_hash = query.Text(8);
  return row;
}

// When a session must have been used last, so as not to be over.
uint64_t UsedAfter(const SessionLimits& limits, uint64_t now_ms) {
  return now_ms > limits.idle_ms ? now_ms - limits.idle_ms : 0;
}

}  // namespace

std::optional<SessionRow> FindSession(SQLite::Database& db, uint64_t session_id) {
  Sql query(db, TESSERA_SESSION_COLUMNS "WHERE s.id = ?", session_id);
  return query.Next() ? std::optional(ReadSession(query)) : std::nullopt;
}

std::vector<v1::Session> ListSessionRows(SQLite::Database& db, const SessionLimits& limits,
                                         uint64_t now_ms, const NewestFirst& page) {
  std::vector<v1::Session> sessions;
  Sql query(db,
            TESSERA_SESSION_COLUMNS
            "WHERE s.expires_ms > ?1 AND s.last_used_ms > ?2 AND (?3 = 0 OR s.user_id = ?3)"
            " AND (?4 = 0 OR s.id < ?4) ORDER BY s.id DESC LIMIT ?5",
            now_ms, UsedAfter(limits, now_ms), page.user_id, page.before_id, page.limit);
  while (query.Next()) sessions.push_back(ReadSession(query).session);
  return sessions;
}

uint64_t CountSessions(SQLite::Database& db, const SessionLimits& limits, uint64_t now_ms) {
  Sql query(db, "SELECT count(*) FROM user_session WHERE expires_ms > ? AND last_used_ms > ?",
            now_ms, UsedAfter(limits, now_ms));
  return query.Next() ? query.Unsigned(0) : 0;
}

uint64_t InsertSession(SQLite::Database& db, const SessionLimits& limits, uint64_t now_ms,
                       const SessionRow& row) {
  Sql(db, "DELETE FROM user_session WHERE expires_ms <= ? OR last_used_ms <= ?", now_ms,
      UsedAfter(limits, now_ms))
      .Run();
  Sql(db,
      "DELETE FROM user_session WHERE user_id = ?1 AND id NOT IN (SELECT id FROM user_session"
      " WHERE user_id = ?1 ORDER BY id DESC LIMIT ?2)",
      row.session.user_id(), kSessionsOfUserMax - 1)
      .Run();
  Sql(db,
      "INSERT INTO user_session (user_id, secret_hash, peer, user_agent, created_ms, last_used_ms,"
      " expires_ms) VALUES (?,?,?,?,?,?,?)",
      row.session.user_id(), Blob{row.secret_hash}, row.session.peer(), row.session.user_agent(),
      row.session.created_ms(), row.session.last_used_ms(), row.session.expires_ms())
      .Run();
  return LastId(db);
}

void TouchSession(SQLite::Database& db, uint64_t session_id, uint64_t now_ms) {
  Sql(db, "UPDATE user_session SET last_used_ms = ? WHERE id = ?", now_ms, session_id).Run();
}

void ReplaceSessionSecret(SQLite::Database& db, uint64_t session_id,
                          const std::string& secret_hash) {
  Sql(db, "UPDATE user_session SET secret_hash = ? WHERE id = ?", Blob{secret_hash}, session_id)
      .Run();
}

void DeleteSession(SQLite::Database& db, uint64_t session_id) {
  Sql(db, "DELETE FROM user_session WHERE id = ?", session_id).Run();
}

void DeleteSessionsOf(SQLite::Database& db, uint64_t user_id, uint64_t except_id) {
  Sql(db, "DELETE FROM user_session WHERE user_id = ? AND id != ?", user_id, except_id).Run();
}

}  // namespace tessera::mgmt
