#include "services/mgmt/people/mgmt_authenticator.h"

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/mgmt/people/api_token_table.h"
#include "services/mgmt/people/roles.h"
#include "services/mgmt/people/secrets.h"
#include "services/mgmt/people/user_table.h"

namespace tessera::mgmt {
namespace {

constexpr char kSession[] = "session";
constexpr char kToken[] = "token";

absl::Status SignInAgain() {
  return WithReason(absl::UnauthenticatedError("the session is over: sign in again"),
                    "SESSION_EXPIRED");
}

absl::Status NoSuchToken() {
  return WithReason(
      absl::UnauthenticatedError("the API token is wrong, was revoked, or has run out"),
      "CREDENTIAL_INVALID");
}

}  // namespace

absl::StatusOr<Caller> MgmtAuthenticator::Authenticate(std::string_view authorization) const {
  if (authorization.empty()) {
    return WithReason(absl::UnauthenticatedError("sign in first, or give an API token"),
                      "SIGN_IN_REQUIRED");
  }
  const absl::StatusOr<BearerCredential> bearer = ParseBearer(authorization);
  if (!bearer.ok()) return WithReason(bearer.status(), "CREDENTIAL_INVALID");
  uint64_t last_used_ms = 0;
  absl::StatusOr<Caller> caller = absl::UnknownError("");
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    caller = Judge(db, *bearer, true, &last_used_ms);
    return absl::OkStatus();
  }));
  if (caller.ok()) Touch(*bearer, last_used_ms);
  return caller;
}

bool MgmtAuthenticator::IsCredentialGood(const std::string& credential) const {
  if (credential.empty()) return true;
  // Whether the secret fits was seen when the credential was given.
  const absl::StatusOr<BearerCredential> bearer =
      ParseBearer(absl::StrCat("Bearer ", credential, ".-"));
  if (!bearer.ok()) return false;
  uint64_t last_used_ms = 0;
  const absl::Status status = db_->Read(
      [&](SQLite::Database& db) { return Judge(db, *bearer, false, &last_used_ms).status(); });
  return status.ok();
}

absl::StatusOr<Caller> MgmtAuthenticator::Judge(SQLite::Database& db,
                                                const BearerCredential& bearer, bool check_secret,
                                                uint64_t* last_used_ms) const {
  if (bearer.kind == kSession) return JudgeSession(db, bearer, check_secret, last_used_ms);
  if (bearer.kind == kToken) return JudgeToken(db, bearer, check_secret, last_used_ms);
  return WithReason(absl::UnauthenticatedError(absl::StrCat(
                        "credentials here are 'session.<id>.<secret>' and 'token.<id>.<secret>', "
                        "not '",
                        bearer.kind, "'")),
                    "CREDENTIAL_INVALID");
}

absl::StatusOr<Caller> MgmtAuthenticator::JudgeSession(SQLite::Database& db,
                                                       const BearerCredential& bearer,
                                                       bool check_secret,
                                                       uint64_t* last_used_ms) const {
  const auto row = FindSession(db, bearer.id);
  if (!row.has_value() || limits_.IsOver(row->session, clock_->WallMillis())) return SignInAgain();
  if (check_secret && !SameSecretHash(row->secret_hash, SecretHash(bearer.secret))) {
    return SignInAgain();
  }
  const auto user = FindUser(db, row->session.user_id());
  if (!user.has_value() || user->user.locked()) return SignInAgain();
  Caller caller;
  caller.name = user->user.user_name();
  caller.credential = absl::StrCat(kSession, ".", bearer.id);
  caller.roles = user->user.password_change_required() ? std::vector{v1::ROLE_NEWCOMER}
                                                       : RolesWithin(user->user.role());
  *last_used_ms = row->session.last_used_ms();
  return caller;
}

absl::StatusOr<Caller> MgmtAuthenticator::JudgeToken(SQLite::Database& db,
                                                     const BearerCredential& bearer,
                                                     bool check_secret,
                                                     uint64_t* last_used_ms) const {
  const auto row = FindApiToken(db, bearer.id);
  if (!row.has_value() || clock_->WallMillis() >= row->api_token.expires_ms()) return NoSuchToken();
  if (check_secret && !SameSecretHash(row->secret_hash, SecretHash(bearer.secret))) {
    return NoSuchToken();
  }
  const auto user = FindUser(db, row->api_token.user_id());
  if (!user.has_value() || user->user.locked()) return NoSuchToken();
  if (user->user.password_change_required()) {
    return WithReason(
        absl::UnauthenticatedError(absl::StrCat("API tokens of ", user->user.user_name(),
                                                " rest until the password was changed: sign in")),
        "CREDENTIAL_INVALID");
  }
  Caller caller;
  caller.name = user->user.user_name();
  caller.credential = absl::StrCat(kToken, ".", bearer.id);
  caller.roles = RolesWithin(LesserRole(user->user.role(), row->api_token.role()));
  *last_used_ms = row->api_token.last_used_ms();
  return caller;
}

void MgmtAuthenticator::Touch(const BearerCredential& bearer, uint64_t last_used_ms) const {
  const uint64_t now_ms = clock_->WallMillis();
  if (now_ms < last_used_ms + limits_.UseGranularityMs()) return;
  const absl::Status status = db_->Write([&](SQLite::Database& db) {
    if (bearer.kind == kSession) {
      TouchSession(db, bearer.id, now_ms);
    } else {
      TouchApiToken(db, bearer.id, now_ms);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) LogWarning("the last use of a credential was not written", {{"error", status}});
}

}  // namespace tessera::mgmt
