#include "services/mgmt/people/auth_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mgmt/people/audit_rules.h"
#include "services/mgmt/people/peer_address.h"
#include "services/mgmt/people/request_checks.h"
#include "services/mgmt/people/secrets.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kUserAgentBytesMax = 200;
// Stands for all names that nobody can have.
constexpr char kNoName[] = "?";

absl::Status SignInFailed() {
  return WithReason(
      absl::UnauthenticatedError("the name or the password is wrong, or the user is locked"),
      "SIGN_IN_FAILED");
}

absl::Status SignInLocked(uint64_t closed_ms) {
  const std::string seconds = absl::StrCat((closed_ms + 999) / 1000);
  return WithReason(absl::ResourceExhaustedError(
                        absl::StrCat("too many wrong tries: try again in ", seconds, " seconds")),
                    "SIGN_IN_LOCKED", {{"retry_after_s", seconds}});
}

std::string SessionToken(uint64_t session_id, const std::string& secret) {
  return absl::StrCat("session.", session_id, ".", secret);
}

// Gives the secret by the way that the call asks for.
void Give(const Caller& caller, const SetCookie& set_cookie, const std::string& token,
          std::string* in_answer) {
  if (caller.over_gateway) {
    set_cookie(token);
  } else {
    *in_answer = token;
  }
}

// As shown to people: printable ASCII, no longer than it may be.
std::string Shown(std::string user_agent) {
  user_agent.resize(std::min(user_agent.size(), kUserAgentBytesMax));
  for (char& c : user_agent) {
    if (c < ' ' || c > '~') c = '?';
  }
  return user_agent;
}

}  // namespace

AuthService::AuthService(RpcDispatcher* rpc, const Parts& parts)
    : rpc_(rpc),
      parts_(parts),
      logins_(parts.metrics->Counter("tessera_mgmt_logins_total", "Sessions begun.")),
      failures_(
          parts.metrics->Counter("tessera_mgmt_login_failures_total", "Wrong names or passwords.")),
      locked_(parts.metrics->Counter("tessera_mgmt_logins_locked_total",
                                     "Sign-ins refused after too many wrong tries.")) {}

SetCookie AuthService::SetCookieOf(grpc::CallbackServerContext* context) {
  return [context](const std::string& session_token) {
    context->AddInitialMetadata(kSetSessionKey, session_token);
  };
}

AuthService::Identity AuthService::IdentityOf(SQLite::Database& db, const Caller& caller) {
  Identity identity;
  const auto credential = ParseBearer(absl::StrCat("Bearer ", caller.credential, ".-"));
  if (!credential.ok()) return identity;
  if (credential->kind == "session") {
    const auto row = FindSession(db, credential->id);
    if (row.has_value()) identity = {row->session.user_id(), credential->id};
  } else if (credential->kind == "token") {
    const auto row = FindApiToken(db, credential->id);
    if (row.has_value()) identity.user_id = row->api_token.user_id();
  }
  return identity;
}

absl::StatusOr<AuthService::Verified> AuthService::VerifyPassword(const std::string& user_name,
                                                                  const std::string& password,
                                                                  const std::string& place) {
  Verified verified;
  verified.attempt.user_name = IsUserName(user_name) ? user_name : kNoName;
  verified.attempt.place = place;
  bool exists = false;
  TESSERA_RETURN_IF_ERROR(parts_.db->Read([&](SQLite::Database& db) {
    auto row = FindUserByName(db, user_name);
    exists = row.has_value();
    if (exists) verified.user = *std::move(row);
    // Asked for names that there are not, too: nothing depends on it but the time it takes.
    verified.attempt.known = IsKnownPlace(db, verified.user.user.user_id(), place);
    return absl::OkStatus();
  }));
  const uint64_t closed_ms = parts_.limiter->Begin(verified.attempt, parts_.clock->BootMillis());
  if (closed_ms > 0) {
    locked_.Increment();
    return SignInLocked(closed_ms);
  }
  // An empty hash is one that nothing fits, and costs as much.
  const absl::StatusOr<bool> right =
      parts_.hasher->Verify(password, exists ? verified.user.password_hash : "");
  if (!right.ok()) {
    parts_.limiter->Undecided(verified.attempt);
    return right.status();
  }
  if (!*right || verified.user.user.locked()) {
    failures_.Increment();
    return SignInFailed();
  }
  parts_.limiter->Right(verified.attempt);
  return verified;
}

absl::Status AuthService::Do(const Caller& caller, const SetCookie& set_cookie,
                             const v1::SignInRequest& request, v1::SignInResponse* response) {
  const std::string place = PlaceOf(AddressOf(caller.peer));
  TESSERA_ASSIGN_OR_RETURN(const Verified verified,
                           VerifyPassword(request.user_name(), request.password(), place));
  const std::string secret = NewSecret();
  TESSERA_RETURN_IF_ERROR(BeginSession(caller, verified, secret, response));
  Give(caller, set_cookie, SessionToken(response->session().session_id(), secret),
       response->mutable_session_token());
  logins_.Increment();
  return absl::OkStatus();
}

absl::Status AuthService::BeginSession(const Caller& caller, const Verified& verified,
                                       const std::string& secret, v1::SignInResponse* response) {
  const uint64_t now_ms = parts_.clock->WallMillis();
  return parts_.db->Write([&](SQLite::Database& db) -> absl::Status {
    auto user = FindUser(db, verified.user.user.user_id());
    // It may have changed while the password was looked at.
    if (!user.has_value() || user->user.locked() ||
        user->password_hash != verified.user.password_hash) {
      return SignInFailed();
    }
    const Identity carried = IdentityOf(db, caller);
    if (carried.session_id != 0) DeleteSession(db, carried.session_id);
    SessionRow row;
    row.secret_hash = SecretHash(secret);
    row.session.set_user_id(user->user.user_id());
    row.session.set_user_name(user->user.user_name());
    row.session.set_peer(AddressOf(caller.peer));
    row.session.set_user_agent(Shown(caller.user_agent));
    row.session.set_created_ms(now_ms);
    row.session.set_last_used_ms(now_ms);
    row.session.set_expires_ms(now_ms + parts_.limits.lifetime_ms);
    row.session.set_session_id(InsertSession(db, parts_.limits, now_ms, row));
    row.session.set_current(true);
    user->user.set_last_sign_in_ms(now_ms);
    UpdateUserRow(db, *user);
    RememberPlace(db, user->user.user_id(), verified.attempt.place, now_ms);
    *response->mutable_user() = std::move(user->user);
    *response->mutable_session() = std::move(row.session);
    return absl::OkStatus();
  });
}

absl::Status AuthService::Do(const Caller& caller, const SetCookie& set_cookie,
                             const v1::SignOutRequest&, v1::SignOutResponse*) {
  TESSERA_RETURN_IF_ERROR(parts_.db->Write([&](SQLite::Database& db) {
    const Identity identity = IdentityOf(db, caller);
    if (identity.session_id != 0) DeleteSession(db, identity.session_id);
    return absl::OkStatus();
  }));
  if (caller.over_gateway) set_cookie("");
  return absl::OkStatus();
}

absl::Status AuthService::Do(const Caller& caller, const v1::GetCurrentUserRequest&,
                             v1::GetCurrentUserResponse* response) {
  return parts_.db->Read([&](SQLite::Database& db) {
    const Identity identity = IdentityOf(db, caller);
    const auto user = FindUser(db, identity.user_id);
    if (user.has_value()) {
      *response->mutable_user() = user->user;
    } else {
      response->mutable_user()->set_user_name(caller.name);
    }
    // What the credential allows: a token may be good for less than its user is.
    if (!caller.Has(v1::ROLE_NEWCOMER) && !caller.roles.empty()) {
      response->mutable_user()->set_role(caller.roles.front());
    }
    if (const auto session = FindSession(db, identity.session_id)) {
      *response->mutable_session() = session->session;
      response->mutable_session()->set_current(true);
    }
    return absl::OkStatus();
  });
}

absl::Status AuthService::Do(const Caller& caller, const SetCookie& set_cookie,
                             const v1::ChangePasswordRequest& request,
                             v1::ChangePasswordResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckNewPassword("new_password", request.new_password()));
  Identity identity;
  TESSERA_RETURN_IF_ERROR(parts_.db->Read([&](SQLite::Database& db) {
    identity = IdentityOf(db, caller);
    return absl::OkStatus();
  }));
  if (identity.session_id == 0) {
    return WithReason(absl::FailedPreconditionError(
                          "a password is changed by its user, in a session: sign in for it"),
                      "SESSION_REQUIRED");
  }
  TESSERA_ASSIGN_OR_RETURN(
      const Verified verified,
      VerifyPassword(caller.name, request.old_password(), PlaceOf(AddressOf(caller.peer))));
  if (request.new_password() == request.old_password()) {
    return InvalidField("new_password", "is the old one again");
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string hash, parts_.hasher->Hash(request.new_password()));
  const std::string secret = NewSecret();
  TESSERA_RETURN_IF_ERROR(parts_.db->Write([&](SQLite::Database& db) -> absl::Status {
    auto user = FindUser(db, verified.user.user.user_id());
    if (!user.has_value() || user->password_hash != verified.user.password_hash ||
        !FindSession(db, identity.session_id).has_value()) {
      return SignInFailed();
    }
    user->password_hash = hash;
    user->user.set_password_change_required(false);
    UpdateUserRow(db, *user);
    DeleteSessionsOf(db, user->user.user_id(), identity.session_id);
    ReplaceSessionSecret(db, identity.session_id, SecretHash(secret));
    return absl::OkStatus();
  }));
  Give(caller, set_cookie, SessionToken(identity.session_id, secret),
       response->mutable_session_token());
  if (parts_.password_changed != nullptr) parts_.password_changed(caller.name);
  return absl::OkStatus();
}

}  // namespace tessera::mgmt
