#include "services/mgmt/people/first_admin.h"

#include "services/common/status_macros.h"
#include "services/mgmt/people/api_token_table.h"
#include "services/mgmt/people/secrets.h"
#include "services/mgmt/people/session_table.h"
#include "services/mgmt/people/user_table.h"

namespace tessera::mgmt {

absl::StatusOr<std::string> EnsureFirstAdmin(MgmtDb* db, PasswordHasher* hasher, const Clock* clock,
                                             const KeepPassword& keep) {
  uint64_t users = 0;
  TESSERA_RETURN_IF_ERROR(db->Read([&](SQLite::Database& database) {
    users = CountUsers(database);
    return absl::OkStatus();
  }));
  if (users > 0) return std::string();
  return ResetFirstAdmin(db, hasher, clock, keep);
}

absl::StatusOr<std::string> ResetFirstAdmin(MgmtDb* db, PasswordHasher* hasher, const Clock* clock,
                                            const KeepPassword& keep) {
  const std::string password = NewOneTimePassword();
  TESSERA_ASSIGN_OR_RETURN(const std::string hash, hasher->Hash(password));
  TESSERA_RETURN_IF_ERROR(keep(password));
  TESSERA_RETURN_IF_ERROR(db->Write([&](SQLite::Database& database) {
    const auto found = FindUserByName(database, kFirstAdmin);
    UserRow row = found.value_or(UserRow{});
    row.password_hash = hash;
    row.user.set_user_name(kFirstAdmin);
    row.user.set_role(v1::ROLE_ADMIN);
    row.user.set_locked(false);
    row.user.set_password_change_required(true);
    if (!found.has_value()) {
      row.user.set_created_ms(clock->WallMillis());
      InsertUser(database, row);
      return absl::OkStatus();
    }
    UpdateUserRow(database, row);
    DeleteSessionsOf(database, row.user.user_id());
    DeleteApiTokensOf(database, row.user.user_id());
    return absl::OkStatus();
  }));
  return password;
}

}  // namespace tessera::mgmt
