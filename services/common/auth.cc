#include "services/common/auth.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr std::string_view kForm =
    "authorization must be 'Bearer <kind>.<id>.<secret>', such as 'Bearer sds.3.<64 hex digits>'";

absl::Status Malformed() {
  return absl::UnauthenticatedError(absl::string_view(kForm.data(), kForm.size()));
}

// What a person with a role may do; empty: there is no such role.
std::vector<v1::Role> RolesOfPerson(std::string_view role) {
  if (role == "admin") return {v1::ROLE_ADMIN, v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
  if (role == "operator") return {v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
  if (role == "viewer") return {v1::ROLE_VIEWER};
  return {};
}

}  // namespace

absl::StatusOr<BearerCredential> ParseBearer(std::string_view authorization) {
  constexpr std::string_view kScheme = "Bearer ";
  if (authorization.substr(0, kScheme.size()) != kScheme) return Malformed();
  authorization.remove_prefix(kScheme.size());
  const size_t first = authorization.find('.');
  const size_t second =
      first == std::string_view::npos ? first : authorization.find('.', first + 1);
  if (second == std::string_view::npos) return Malformed();
  BearerCredential credential;
  credential.kind = authorization.substr(0, first);
  const std::string_view id = authorization.substr(first + 1, second - first - 1);
  const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), credential.id);
  if (error != std::errc() || end != id.data() + id.size()) return Malformed();
  credential.secret = authorization.substr(second + 1);
  if (credential.kind.empty() || credential.secret.empty()) return Malformed();
  return credential;
}

std::string FormatBearer(const BearerCredential& credential) {
  return absl::StrCat("Bearer ", credential.kind, ".", credential.id, ".", credential.secret);
}

bool Caller::Has(v1::Role role) const {
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

std::optional<Caller> CallerOfCertificate(
    const std::vector<std::string>& subject_alternative_names) {
  constexpr std::string_view kScheme = "spiffe://";
  for (const std::string& name : subject_alternative_names) {
    std::string_view rest = name;
    if (rest.substr(0, kScheme.size()) != kScheme) continue;
    rest.remove_prefix(kScheme.size());
    const size_t role_at = rest.find('/');
    const size_t id_at = role_at == std::string_view::npos ? role_at : rest.find('/', role_at + 1);
    if (id_at == std::string_view::npos || role_at == 0 || id_at + 1 == rest.size()) continue;
    const std::string_view role = rest.substr(role_at + 1, id_at - role_at - 1);
    Caller caller;
    caller.roles = role == "mgmt" ? std::vector<v1::Role>{v1::ROLE_MGMT} : RolesOfPerson(role);
    if (caller.roles.empty()) continue;
    caller.name = name;
    return caller;
  }
  return std::nullopt;
}

absl::StatusOr<Caller> ParseOnBehalfOf(std::string_view value) {
  const size_t dot = value.find('.');
  Caller caller;
  if (dot != std::string_view::npos && dot + 1 < value.size()) {
    caller.roles = RolesOfPerson(value.substr(0, dot));
  }
  if (caller.roles.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        kOnBehalfOf, " must be '<role>.<user>' with the role admin, operator or viewer, not '",
        absl::string_view(value.data(), value.size()), "'"));
  }
  caller.name = value.substr(dot + 1);
  return caller;
}

std::string FormatOnBehalfOf(const Caller& person) {
  const char* role = person.Has(v1::ROLE_ADMIN)      ? "admin."
                     : person.Has(v1::ROLE_OPERATOR) ? "operator."
                     : person.Has(v1::ROLE_VIEWER)   ? "viewer."
                                                     : nullptr;
  if (role == nullptr) return "";
  // Metadata is printable ASCII.
  std::string value = role + (person.name.empty() ? std::string("unnamed") : person.name);
  for (char& c : value) {
    if (c < ' ' || c > '~') c = '?';
  }
  return value;
}

absl::StatusOr<Caller> InsecureAuthenticator::Authenticate(std::string_view authorization) const {
  if (!authorization.empty() && nodes_ != nullptr) return nodes_->Authenticate(authorization);
  Caller caller;
  caller.roles = {v1::ROLE_ADMIN, v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
  caller.name = "anonymous";
  return caller;
}

std::string ToHex(std::string_view bytes) {
  return absl::BytesToHexString(absl::string_view(bytes.data(), bytes.size()));
}

absl::StatusOr<std::string> FromHex(std::string_view hex) {
  const bool digits = std::all_of(hex.begin(), hex.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
  });
  if (!digits || hex.size() % 2 != 0) return absl::InvalidArgumentError("not hexadecimal");
  return absl::HexStringToBytes(absl::string_view(hex.data(), hex.size()));
}

}  // namespace tessera
