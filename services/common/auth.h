// Who calls: credentials in `authorization: Bearer <kind>.<id>.<secret>` metadata, roles out.
//
// Threads: Authenticators are called from any thread.
#ifndef TESSERA_SERVICES_COMMON_AUTH_H_
#define TESSERA_SERVICES_COMMON_AUTH_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tessera/v1/access.pb.h"

namespace tessera {

// The parts of a bearer credential.
struct BearerCredential {
  std::string kind;    // "sds", "sdc", "mdm", …
  uint64_t id = 0;     // the node's, or for "mdm" to an SDS the key id
  std::string secret;  // lower-case hex
};

// UNAUTHENTICATED, saying the expected form, for anything else.
[[nodiscard]] absl::StatusOr<BearerCredential> ParseBearer(std::string_view authorization);
[[nodiscard]] std::string FormatBearer(const BearerCredential& credential);

// A caller that was authenticated.
struct Caller {
  std::vector<v1::Role> roles;
  uint64_t node_id = 0;       // of nodes
  std::string name;           // for logs and audit
  std::string credential;     // what proved it, without its secret: "session.7"; empty: none
  std::string peer;           // "ipv4:127.0.0.1:4711"; of a browser, its own and not the gateway's
  bool over_gateway = false;  // a browser's call, which MGMT's gateway made for it
  std::string user_agent;     // of that browser, at most 200 bytes

  [[nodiscard]] bool Has(v1::Role role) const;
};

// Whom a verified client certificate stands for, by its SAN URI "spiffe://<cluster>/<role>/<id>":
// a person with the role admin, operator or viewer, or the management service ("mgmt"); nothing for
// others. Other parts prove who they are by their secrets: a certificate alone says nothing of an
// incarnation.
[[nodiscard]] std::optional<Caller> CallerOfCertificate(
    const std::vector<std::string>& subject_alternative_names);

// For whom the management service calls, from the metadata `x-tessera-on-behalf-of`:
// "<role>.<user>", such as "operator.jo". INVALID_ARGUMENT, saying the expected form, for anything
// else.
inline constexpr char kOnBehalfOf[] = "x-tessera-on-behalf-of";
[[nodiscard]] absl::StatusOr<Caller> ParseOnBehalfOf(std::string_view value);
[[nodiscard]] std::string FormatOnBehalfOf(
    const Caller& person);  // empty: it has none of the roles

class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // `authorization` is empty when the call carries none. UNAUTHENTICATED when it is no good.
  [[nodiscard]] virtual absl::StatusOr<Caller> Authenticate(
      std::string_view authorization) const = 0;
};

// Without credentials: an administrator, as `--insecure` on loopback means; with them: as `nodes`
// says (null: no node can call here).
class InsecureAuthenticator final : public Authenticator {
 public:
  explicit InsecureAuthenticator(std::shared_ptr<const Authenticator> nodes)
      : nodes_(std::move(nodes)) {}
  [[nodiscard]] absl::StatusOr<Caller> Authenticate(std::string_view authorization) const override;

 private:
  const std::shared_ptr<const Authenticator> nodes_;  // shared with the service that owns the nodes
};

// Hex of bytes and back; lower case.
[[nodiscard]] std::string ToHex(std::string_view bytes);
[[nodiscard]] absl::StatusOr<std::string> FromHex(std::string_view hex);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_AUTH_H_
