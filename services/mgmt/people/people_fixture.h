// For tests: the services of people on a database of their own, with a clock that stands still and
// hashes that cost next to nothing.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_PEOPLE_FIXTURE_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_PEOPLE_FIXTURE_H_

#include <memory>
#include <string>

#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/people/audit_log.h"
#include "services/mgmt/people/auth_service.h"
#include "services/mgmt/people/mgmt_authenticator.h"
#include "services/mgmt/people/password_hasher.h"
#include "services/mgmt/people/sign_in_limiter.h"

namespace tessera::mgmt {

inline constexpr char kDesk[] = "ipv4:192.0.2.7:4711";
inline constexpr char kElsewhere[] = "ipv4:198.51.100.9:4711";
inline constexpr char kPassword[] = "correct horse battery";

class PeopleFixture {
 public:
  // Makes the folder, and opens what is in it. The users are "root" (admin), "jo" (operator) and
  // "vi" (viewer), all with kPassword, when it is new.
  PeopleFixture();
  ~PeopleFixture();
  // As a process that starts anew.
  void Reopen();

  // A sign-in at SignIn's handler, from `peer`, by somebody who carries `authorization`.
  absl::StatusOr<v1::SignInResponse> SignIn(const std::string& user_name,
                                            const std::string& password = kPassword,
                                            const std::string& peer = kDesk,
                                            const std::string& authorization = "");
  // The caller that the credential makes, as the dispatcher would; from kDesk.
  absl::StatusOr<Caller> CallerOf(const std::string& bearer) const;
  // Signs in and is let in.
  Caller Enter(const std::string& user_name);
  // Calls a handler.
  template <typename Request, typename Response>
  absl::Status Do(const Caller& caller, const Request& request, Response* response) {
    return auth->Do(caller, request, response);
  }
  uint64_t UserId(const std::string& user_name);
  // Runs SQL on the database, as somebody with the file would.
  void Execute(const std::string& sql);
  // How many rows a table has.
  uint64_t Rows(const std::string& table);

  std::string folder;
  ManualClock clock;
  std::unique_ptr<MetricRegistry> metrics;
  std::unique_ptr<MgmtDb> db;
  std::unique_ptr<PasswordHasher> hasher;
  std::unique_ptr<SignInLimiter> limiter;
  std::unique_ptr<MgmtAuthenticator> authenticator;
  std::unique_ptr<AuthService> auth;
  std::string cookie = "untouched";  // what the last call set
  SessionLimits limits;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_PEOPLE_FIXTURE_H_
