// What the gateway lets through: origins, headers, cookies. Pure rules.
//
// Threads: free functions, any thread.
#ifndef TESSERA_SERVICES_MGMT_WEB_GATEWAY_RULES_H_
#define TESSERA_SERVICES_MGMT_WEB_GATEWAY_RULES_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "services/mgmt/web/grpcweb_codec.h"
#include "services/mgmt/web/http_exchange.h"

namespace tessera::mgmt {

// Why the request is not one that the console's own page made: the answer to give. Nothing when it
// may be. Callers that are no browsers send none of the headers in question.
[[nodiscard]] std::optional<WebResponse> RefuseForeign(const WebRequest& request);

// Whether the path is "/<package>.<Service>/<Method>".
[[nodiscard]] bool IsMethodPath(std::string_view path);

[[nodiscard]] std::string_view SessionCookieName(bool tls);
// The value of the session's cookie. Nothing when there is none, it is not of the form
// "session.<id>.<secret>", or there are several that differ (somebody planted one).
[[nodiscard]] std::optional<std::string> SessionOfCookies(const WebRequest& request);
// The header Set-Cookie for `x-gw-set-session`; empty: the cookie is cleared. Nothing for a value
// that is not of that form.
[[nodiscard]] std::optional<std::string> SetCookie(std::string_view session, bool tls);

// What goes with the call: `authorization`, `x-gw-peer`, `x-gw-user-agent`, and the request's
// headers `x-request-id`, `traceparent` and `tessera-*`. INVALID_ARGUMENT naming a header
// that can't be metadata.
[[nodiscard]] absl::StatusOr<MetadataList> MetadataOfRequest(const WebRequest& request);
// "session.7", "token.3" of the metadata's credential, or else the browser's address: whom calls
// are counted for.
[[nodiscard]] std::string HolderOfCall(const WebRequest& request, const MetadataList& metadata);
// Whether metadata of that name goes to the browser, in header or trailer: the same names, and
// `grpc-status-details-bin`.
[[nodiscard]] bool MayGoToBrowser(std::string_view name);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_GATEWAY_RULES_H_
