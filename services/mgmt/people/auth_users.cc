// AuthService's methods about users.
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

absl::Status CheckRole(const std::string& field, v1::Role role) {
  if (IsRoleOfPeople(role)) return absl::OkStatus();
  return InvalidField(field, absl::StrCat(static_cast<int>(role),
                                          " is not ROLE_ADMIN, ROLE_OPERATOR or ROLE_VIEWER"));
}

bool IsAdminWhoCanSignIn(const v1::User& user) {
  return user.role() == v1::ROLE_ADMIN && !user.locked();
}

absl::Status CheckNotLastAdmin(SQLite::Database& db, const v1::User& user) {
  if (!IsAdminWhoCanSignIn(user) || CountOtherAdmins(db, user.user_id()) > 0) {
    return absl::OkStatus();
  }
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        user.user_name(),
                        " is the last one with the role admin who can sign in: give that role to "
                        "somebody else first")),
                    "LAST_ADMIN");
}

}  // namespace

absl::Status AuthService::Do(const Caller&, const v1::ListUsersRequest& request,
                             v1::ListUsersResponse* response) {
  const uint32_t limit = PageLimit(request.page_size());
  return parts_.db->Read([&](SQLite::Database& db) {
    for (v1::User& user : ListUserRows(db, request.page_token(), limit)) {
      *response->add_users() = std::move(user);
    }
    const int users = response->users_size();
    if (users == static_cast<int>(limit)) {
      response->set_next_page_token(response->users(users - 1).user_name());
    }
    return absl::OkStatus();
  });
}

absl::Status AuthService::Do(const Caller&, const v1::CreateUserRequest& request,
                             v1::CreateUserResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckUserName("user_name", request.user_name()));
  TESSERA_RETURN_IF_ERROR(CheckRole("role", request.role()));
  const bool made_up = request.password().empty();
  if (!made_up) TESSERA_RETURN_IF_ERROR(CheckNewPassword("password", request.password()));
  const std::string password = made_up ? NewOneTimePassword() : request.password();
  UserRow row;
  TESSERA_ASSIGN_OR_RETURN(row.password_hash, parts_.hasher->Hash(password));
  row.user.set_user_name(request.user_name());
  row.user.set_role(request.role());
  row.user.set_password_change_required(made_up);
  row.user.set_created_ms(parts_.clock->WallMillis());
  TESSERA_RETURN_IF_ERROR(parts_.db->Write([&](SQLite::Database& db) -> absl::Status {
    if (FindUserByName(db, request.user_name()).has_value()) {
      return WithReason(absl::AlreadyExistsError(
                            absl::StrCat("there is a user '", request.user_name(), "' already")),
                        "USER_EXISTS");
    }
    if (CountUsers(db) >= kUsersMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("there are ", kUsersMax, " users: delete some first"));
    }
    row.user.set_user_id(InsertUser(db, row));
    return absl::OkStatus();
  }));
  *response->mutable_user() = std::move(row.user);
  if (made_up) response->set_one_time_password(password);
  return absl::OkStatus();
}

absl::Status AuthService::Do(const Caller&, const v1::UpdateUserRequest& request,
                             v1::UpdateUserResponse* response) {
  if (request.has_role()) TESSERA_RETURN_IF_ERROR(CheckRole("role", request.role()));
  std::string password;
  std::string hash;
  if (request.reset_password()) {
    password = NewOneTimePassword();
    TESSERA_ASSIGN_OR_RETURN(hash, parts_.hasher->Hash(password));
  }
  TESSERA_RETURN_IF_ERROR(parts_.db->Write([&](SQLite::Database& db) -> absl::Status {
    const auto before = FindUser(db, request.user_id());
    if (!before.has_value()) return NoSuch("user", request.user_id());
    UserRow row = *before;
    if (request.has_role()) row.user.set_role(request.role());
    if (request.has_locked()) row.user.set_locked(request.locked());
    if (request.reset_password()) {
      row.password_hash = hash;
      row.user.set_password_change_required(true);
    }
    if (!IsAdminWhoCanSignIn(row.user)) {
      TESSERA_RETURN_IF_ERROR(CheckNotLastAdmin(db, before->user));
    }
    UpdateUserRow(db, row);
    if (row.user.role() != before->user.role() || row.user.locked() != before->user.locked() ||
        request.reset_password()) {
      DeleteSessionsOf(db, request.user_id());
    }
    *response->mutable_user() = std::move(row.user);
    return absl::OkStatus();
  }));
  if ((request.has_locked() && !request.locked()) || request.reset_password()) {
    parts_.limiter->ForgetName(response->user().user_name());
  }
  response->set_one_time_password(password);
  return absl::OkStatus();
}

absl::Status AuthService::Do(const Caller&, const v1::DeleteUserRequest& request,
                             v1::DeleteUserResponse*) {
  return parts_.db->Write([&](SQLite::Database& db) -> absl::Status {
    const auto row = FindUser(db, request.user_id());
    if (!row.has_value()) return NoSuch("user", request.user_id());
    TESSERA_RETURN_IF_ERROR(CheckNotLastAdmin(db, row->user));
    DeleteUserRow(db, request.user_id());
    return absl::OkStatus();
  });
}

}  // namespace tessera::mgmt
