// AuthService: signing in and out, users, sessions, API tokens.
//
// A call that came over the gateway gets the session's secret as initial
// metadata `x-gw-set-session`, which the gateway turns into a cookie and passes to nobody; any
// other gets it in the answer. Nobody but the server chooses a session's id or secret: each sign-in
// and each change of password has a fresh one, and ends what the call carried.
//
// Threads: handlers run on the dispatcher's threads. They wait for a turn to hash a password: give
// them a dispatcher of their own, with more threads than PasswordHasher lets run and wait.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_AUTH_SERVICE_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_AUTH_SERVICE_H_

#include <functional>
#include <optional>
#include <string>

#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/common/rpc.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/people/api_token_table.h"
#include "services/mgmt/people/password_hasher.h"
#include "services/mgmt/people/session_table.h"
#include "services/mgmt/people/sign_in_limiter.h"
#include "services/mgmt/people/user_table.h"
#include "tessera/v1/auth.grpc.pb.h"

namespace tessera::mgmt {

// Initial metadata from a handler to the gateway: see above.
inline constexpr char kSetSessionKey[] = "x-gw-set-session";

inline constexpr uint64_t kUsersMax = 10'000;

// Sets the session's cookie of the browser that calls; empty: clears it.
using SetCookie = std::function<void(const std::string& session_token)>;

#define TESSERA_AUTH_UNARY(Method)                                                          \
  grpc::ServerUnaryReactor* Method(grpc::CallbackServerContext* context,                    \
                                   const v1::Method##Request* request,                      \
                                   v1::Method##Response* response) override {               \
    return rpc_->Unary(context, request, response,                                          \
                       [this](const CallContext& call, const auto& message, auto* answer) { \
                         return Do(call.caller(), message, answer);                         \
                       });                                                                  \
  }                                                                                         \
  absl::Status Do(const Caller& caller, const v1::Method##Request& request,                 \
                  v1::Method##Response* response)
#define TESSERA_AUTH_UNARY_OF_SESSION(Method)                                            \
  grpc::ServerUnaryReactor* Method(grpc::CallbackServerContext* context,                 \
                                   const v1::Method##Request* request,                   \
                                   v1::Method##Response* response) override {            \
    return rpc_->Unary(context, request, response,                                       \
                       [this, set_cookie = SetCookieOf(context)](                        \
                           const CallContext& call, const auto& message, auto* answer) { \
                         return Do(call.caller(), set_cookie, message, answer);          \
                       });                                                               \
  }                                                                                      \
  absl::Status Do(const Caller& caller, const SetCookie& set_cookie,                     \
                  const v1::Method##Request& request, v1::Method##Response* response)

class AuthService final : public v1::AuthService::CallbackService {
 public:
  struct Parts {
    MgmtDb* db = nullptr;
    PasswordHasher* hasher = nullptr;
    SignInLimiter* limiter = nullptr;
    const Clock* clock = nullptr;
    MetricRegistry* metrics = nullptr;
    SessionLimits limits;
    // Called after a user has changed the own password.
    std::function<void(const std::string& user_name)> password_changed = nullptr;
  };

  // All must outlive it. `rpc` may be null where only Do is called.
  AuthService(RpcDispatcher* rpc, const Parts& parts);

  TESSERA_AUTH_UNARY_OF_SESSION(SignIn);
  TESSERA_AUTH_UNARY_OF_SESSION(SignOut);
  TESSERA_AUTH_UNARY_OF_SESSION(ChangePassword);
  TESSERA_AUTH_UNARY(GetCurrentUser);
  TESSERA_AUTH_UNARY(ListUsers);
  TESSERA_AUTH_UNARY(CreateUser);
  TESSERA_AUTH_UNARY(UpdateUser);
  TESSERA_AUTH_UNARY(DeleteUser);
  TESSERA_AUTH_UNARY(ListSessions);
  TESSERA_AUTH_UNARY(EndSession);
  TESSERA_AUTH_UNARY(ListApiTokens);
  TESSERA_AUTH_UNARY(CreateApiToken);
  TESSERA_AUTH_UNARY(RevokeApiToken);

 private:
  // Whom a caller's credential belongs to; zeros for what it is not.
  struct Identity {
    uint64_t user_id = 0;
    uint64_t session_id = 0;
  };
  struct Verified {
    UserRow user;
    SignInLimiter::Try attempt;
  };

  [[nodiscard]] static SetCookie SetCookieOf(grpc::CallbackServerContext* context);
  [[nodiscard]] static Identity IdentityOf(SQLite::Database& db, const Caller& caller);
  // The user whose name and password these are, after as long for a name that there is not.
  // UNAUTHENTICATED (SIGN_IN_FAILED) or RESOURCE_EXHAUSTED (SIGN_IN_LOCKED, SIGN_IN_BUSY).
  [[nodiscard]] absl::StatusOr<Verified> VerifyPassword(const std::string& user_name,
                                                        const std::string& password,
                                                        const std::string& place);
  [[nodiscard]] absl::Status BeginSession(const Caller& caller, const Verified& verified,
                                          const std::string& secret, v1::SignInResponse* response);
  [[nodiscard]] static bool OwnsOrAdministers(SQLite::Database& db, const Caller& caller,
                                              uint64_t owner_id);
  [[nodiscard]] static bool IsAdmin(const Caller& caller) { return caller.Has(v1::ROLE_ADMIN); }

  RpcDispatcher* const rpc_;
  const Parts parts_;
  prometheus::Counter& logins_;
  prometheus::Counter& failures_;
  prometheus::Counter& locked_;
};

#undef TESSERA_AUTH_UNARY
#undef TESSERA_AUTH_UNARY_OF_SESSION

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_AUTH_SERVICE_H_
