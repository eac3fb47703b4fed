// Who calls MGMT: sessions and API tokens.
//
// A user whose password has to be changed has only ROLE_NEWCOMER, and tokens of such a user are no
// good until it was. A token has the lesser of its own role and the user's present one. Whoever
// comes without a credential is nobody, with `--insecure` too.
//
// The last use is written at most once a minute (more often where the idle limit is short); where
// it can't be written the call goes on, and the session merely ends early.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_MGMT_AUTHENTICATOR_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_MGMT_AUTHENTICATOR_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "services/common/auth.h"
#include "services/common/clock.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/people/session_table.h"

namespace tessera::mgmt {

class MgmtAuthenticator final : public Authenticator {
 public:
  // All must outlive it.
  MgmtAuthenticator(MgmtDb* db, const SessionLimits& limits, const Clock* clock)
      : db_(db), limits_(limits), clock_(clock) {}

  // UNAUTHENTICATED (SIGN_IN_REQUIRED: without a credential; SESSION_EXPIRED: the session is over;
  // CREDENTIAL_INVALID: anything else).
  [[nodiscard]] absl::StatusOr<Caller> Authenticate(std::string_view authorization) const override;

  // Whether what Caller::credential names ("session.7", "token.3") would still be let in. Does not
  // count as a use. True for "": what a client certificate proved holds as long as its connection.
  [[nodiscard]] bool IsCredentialGood(const std::string& credential) const;

 private:
  [[nodiscard]] absl::StatusOr<Caller> Judge(SQLite::Database& db, const BearerCredential& bearer,
                                             bool check_secret, uint64_t* last_used_ms) const;
  [[nodiscard]] absl::StatusOr<Caller> JudgeSession(SQLite::Database& db,
                                                    const BearerCredential& bearer,
                                                    bool check_secret,
                                                    uint64_t* last_used_ms) const;
  [[nodiscard]] absl::StatusOr<Caller> JudgeToken(SQLite::Database& db,
                                                  const BearerCredential& bearer, bool check_secret,
                                                  uint64_t* last_used_ms) const;
  void Touch(const BearerCredential& bearer, uint64_t last_used_ms) const;

  MgmtDb* const db_;
  const SessionLimits limits_;
  const Clock* const clock_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_MGMT_AUTHENTICATOR_H_
