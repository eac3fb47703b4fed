#include "services/mgmt/people/people_schema.h"

namespace tessera::mgmt {

// Ids are never used again (AUTOINCREMENT): a session id in the audit log means one session.
// Secrets are never stored: only their SHA-256 (of 32 random bytes), or argon2id of passwords.
const char kPeopleSchema[] = R"sql(
CREATE TABLE user_account (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  role INTEGER NOT NULL,
  password_hash TEXT NOT NULL,
  password_change_required INTEGER NOT NULL,
  locked INTEGER NOT NULL DEFAULT 0,
  created_ms INTEGER NOT NULL,
  last_sign_in_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE user_session (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  user_id INTEGER NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  secret_hash BLOB NOT NULL CHECK (length(secret_hash) = 32),
  peer TEXT NOT NULL,
  user_agent TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  last_used_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX user_session_by_user ON user_session (user_id);

CREATE TABLE api_token (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  user_id INTEGER NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  secret_hash BLOB NOT NULL CHECK (length(secret_hash) = 32),
  description TEXT NOT NULL,
  role INTEGER NOT NULL,
  created_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL,
  last_used_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX api_token_by_user ON api_token (user_id);

-- From where a user has signed in: see sign_in_limiter.h.
CREATE TABLE known_address (
  user_id INTEGER NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  address TEXT NOT NULL,
  last_used_ms INTEGER NOT NULL,
  PRIMARY KEY (user_id, address)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_entry (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time_ms INTEGER NOT NULL,
  user_name TEXT NOT NULL,
  credential TEXT NOT NULL,
  peer TEXT NOT NULL,
  method TEXT NOT NULL,
  request_json TEXT NOT NULL,
  result TEXT NOT NULL,
  error_message TEXT NOT NULL,
  hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
-- The newest entry that was let go, and its hash: the chain's beginning. Grows with each trim.
CREATE TABLE audit_anchor (
  audit_id INTEGER PRIMARY KEY,
  hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE TRIGGER audit_entry_is_never_changed BEFORE UPDATE ON audit_entry
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_entry_is_never_deleted BEFORE DELETE ON audit_entry
WHEN OLD.id > (SELECT coalesce(max(audit_id), 0) FROM audit_anchor)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- REPLACE deletes without the trigger above.
CREATE TRIGGER audit_entry_goes_to_the_end BEFORE INSERT ON audit_entry
WHEN NEW.id <= (SELECT coalesce(max(id), 0) FROM audit_entry)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_anchor_goes_to_the_end BEFORE INSERT ON audit_anchor
WHEN NEW.audit_id <= (SELECT coalesce(max(audit_id), 0) FROM audit_anchor)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_anchor_is_never_changed BEFORE UPDATE ON audit_anchor
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_anchor_is_never_deleted BEFORE DELETE ON audit_anchor
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
)sql";

}  // namespace tessera::mgmt
