// AuthService's methods about sessions and API tokens.
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mgmt/people/auth_service.h"
#include "services/mgmt/people/request_checks.h"
#include "services/mgmt/people/roles.h"
#include "services/mgmt/people/secrets.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kDescriptionBytesMax = 100;
constexpr uint64_t kLifetimeSecondsMax = 366ull * 86'400;

absl::Status CheckApiToken(const v1::CreateApiTokenRequest& request) {
  if (request.description().empty() || request.description().size() > kDescriptionBytesMax) {
    return InvalidField("description",
                        absl::StrCat("has ", request.description().size(),
                                     " bytes, must have from 1 to ", kDescriptionBytesMax));
  }
  if (!IsRoleOfPeople(request.role())) {
    return InvalidField("role", absl::StrCat(static_cast<int>(request.role()),
                                             " is not ROLE_ADMIN, ROLE_OPERATOR or ROLE_VIEWER"));
  }
  if (request.lifetime_s() == 0 || request.lifetime_s() > kLifetimeSecondsMax) {
    return InvalidField(
        "lifetime_s", absl::StrCat(request.lifetime_s(), " must be from 1 to ", kLifetimeSecondsMax,
                                   " (366 days): every token ends"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AuthService::Do(const Caller& caller, const v1::ListSessionsRequest& request,
                             v1::ListSessionsResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(NewestFirst page,
                           ParseNewestFirst(request.page_size(), request.page_token()));
  return parts_.db->Read([&](SQLite::Database& db) {
    const Identity identity = IdentityOf(db, caller);
    if (!IsAdmin(caller)) {
      if (identity.user_id == 0) return absl::OkStatus();
      page.user_id = identity.user_id;
    }
    for (v1::Session& session :
         ListSessionRows(db, parts_.limits, parts_.clock->WallMillis(), page)) {
      session.set_current(session.session_id() == identity.session_id);
      *response->add_sessions() = std::move(session);
    }
    const int rows = response->sessions_size();
    if (rows > 0) {
      response->set_next_page_token(NextPageToken(page.limit, static_cast<size_t>(rows),
                                                  response->sessions(rows - 1).session_id()));
    }
    return absl::OkStatus();
  });
}

absl::Status AuthService::Do(const Caller& caller, const v1::EndSessionRequest& request,
                             v1::EndSessionResponse*) {
  return parts_.db->Write([&](SQLite::Database& db) -> absl::Status {
    const auto row = FindSession(db, request.session_id());
    if (!row.has_value() || parts_.limits.IsOver(row->session, parts_.clock->WallMillis()) ||
        !OwnsOrAdministers(db, caller, row->session.user_id())) {
      return NoSuch("session", request.session_id());
    }
    DeleteSession(db, request.session_id());
    return absl::OkStatus();
  });
}

bool AuthService::OwnsOrAdministers(SQLite::Database& db, const Caller& caller, uint64_t owner_id) {
  return IsAdmin(caller) || IdentityOf(db, caller).user_id == owner_id;
}

absl::Status AuthService::Do(const Caller& caller, const v1::ListApiTokensRequest& request,
                             v1::ListApiTokensResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(NewestFirst page,
                           ParseNewestFirst(request.page_size(), request.page_token()));
  return parts_.db->Read([&](SQLite::Database& db) {
    if (!IsAdmin(caller)) {
      page.user_id = IdentityOf(db, caller).user_id;
      if (page.user_id == 0) return absl::OkStatus();
    }
    for (v1::ApiToken& token : ListApiTokenRows(db, page)) {
      *response->add_api_tokens() = std::move(token);
    }
    const int rows = response->api_tokens_size();
    if (rows > 0) {
      response->set_next_page_token(NextPageToken(page.limit, static_cast<size_t>(rows),
                                                  response->api_tokens(rows - 1).api_token_id()));
    }
    return absl::OkStatus();
  });
}

absl::Status AuthService::Do(const Caller& caller, const v1::CreateApiTokenRequest& request,
                             v1::CreateApiTokenResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckApiToken(request));
  if (!caller.Has(request.role())) {
    return WithReason(absl::PermissionDeniedError(
                          absl::StrCat("a token can't have a greater role than who makes it: ",
                                       v1::Role_Name(request.role()), " is not yours")),
                      "ROLE_MISSING");
  }
  const std::string secret = NewSecret();
  const uint64_t now_ms = parts_.clock->WallMillis();
  TESSERA_RETURN_IF_ERROR(parts_.db->Write([&](SQLite::Database& db) -> absl::Status {
    const Identity identity = IdentityOf(db, caller);
    const auto user = FindUser(db, identity.user_id);
    // A token that makes tokens would live for ever, and so would one that was stolen.
    if (identity.session_id == 0 || !user.has_value()) {
      return WithReason(absl::FailedPreconditionError(
                            "API tokens are made by a user, in a session: sign in for it"),
                        "SESSION_REQUIRED");
    }
    if (CountApiTokensOf(db, identity.user_id) >= kApiTokensOfUserMax) {
      return absl::ResourceExhaustedError(absl::StrCat(
          user->user.user_name(), " has ", kApiTokensOfUserMax, " tokens: revoke some first"));
    }
    ApiTokenRow row;
    row.secret_hash = SecretHash(secret);
    row.api_token.set_user_id(identity.user_id);
    row.api_token.set_user_name(user->user.user_name());
    row.api_token.set_description(request.description());
    row.api_token.set_role(request.role());
    row.api_token.set_created_ms(now_ms);
    row.api_token.set_expires_ms(now_ms + request.lifetime_s() * 1000);
    row.api_token.set_api_token_id(InsertApiToken(db, now_ms, row));
    *response->mutable_api_token() = std::move(row.api_token);
    return absl::OkStatus();
  }));
  response->set_secret(absl::StrCat("token.", response->api_token().api_token_id(), ".", secret));
  return absl::OkStatus();
}

absl::Status AuthService::Do(const Caller& caller, const v1::RevokeApiTokenRequest& request,
                             v1::RevokeApiTokenResponse*) {
  return parts_.db->Write([&](SQLite::Database& db) -> absl::Status {
    const auto row = FindApiToken(db, request.api_token_id());
    if (!row.has_value() || !OwnsOrAdministers(db, caller, row->api_token.user_id())) {
      return NoSuch("API token", request.api_token_id());
    }
    DeleteApiToken(db, request.api_token_id());
    return absl::OkStatus();
  });
}

}  // namespace tessera::mgmt
