// The user `admin`: made at the first start, and brought back when nobody can sign in any more.
//
// Threads: any; for the time before the server serves, or instead of it.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_FIRST_ADMIN_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_FIRST_ADMIN_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/clock.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/people/password_hasher.h"

namespace tessera::mgmt {

inline constexpr char kFirstAdmin[] = "admin";

// Keeps a password before it is good for anything: whoever is killed in between has not lost it.
using KeepPassword = std::function<absl::Status(const std::string& password)>;

// Makes the user with a password that is good until the first sign-in, where there are no users at
// all. Returns the password; empty: there are users.
[[nodiscard]] absl::StatusOr<std::string> EnsureFirstAdmin(MgmtDb* db, PasswordHasher* hasher,
                                                           const Clock* clock,
                                                           const KeepPassword& keep);

// Makes the user, or makes it an unlocked admin again: with a new such password, which it returns,
// and without the sessions and API tokens that it had.
[[nodiscard]] absl::StatusOr<std::string> ResetFirstAdmin(MgmtDb* db, PasswordHasher* hasher,
                                                          const Clock* clock,
                                                          const KeepPassword& keep);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_FIRST_ADMIN_H_
