// Which calls are written to the audit log, and what of a request is shown there.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_RULES_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_RULES_H_

#include <google/protobuf/message.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "services/common/auth.h"

namespace tessera::mgmt {

inline constexpr char kSignInMethod[] = "tessera.v1.AuthService/SignIn";

// Whether a method changes something: all but those whose last part begins with the word Get, List,
// Watch, Query, Verify or Explain.
[[nodiscard]] bool IsChange(std::string_view method_full_name);

// Changes, and tries of one, by somebody who is known; and sign-ins whose password was looked at.
// Not what nobody in particular was refused: whoever reaches the port could fill the log with it.
[[nodiscard]] bool IsRecorded(const Caller& caller, std::string_view method_full_name,
                              const absl::Status& result);

// 1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a letter.
[[nodiscard]] bool IsUserName(std::string_view name);

inline constexpr size_t kRequestJsonBytesMax = 4096;
// As JSON, at most kRequestJsonBytesMax bytes. What fields named password, secret, token, key, or
// with such a last word (join_token, old_password, …; but not page_token) hold is "***", at any
// depth. A longer request is {"truncated": "<its beginning>"}.
[[nodiscard]] std::string MaskedJson(const google::protobuf::Message& request);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_RULES_H_
