#include "services/mdm/node_directory.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera::mdm {
namespace {

std::span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::vector<v1::Role> RolesOf(const std::string& kind) {
  if (kind == "sds") return {v1::ROLE_SDS};
  if (kind == "sdc") return {v1::ROLE_SDC};
  if (kind == "mgmt") return {v1::ROLE_MGMT};
  if (kind == "csi") return {v1::ROLE_CSI};
  if (kind == "admin") return {v1::ROLE_ADMIN, v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
  if (kind == "operator") return {v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
  if (kind == "viewer") return {v1::ROLE_VIEWER};
  return {};
}

}  // namespace

bool SameSecret(const std::string& a, const std::string& b) {
  return token::ConstantTimeEquals(AsBytes(a), AsBytes(b));
}

const std::vector<std::string>& NodeDirectory::OperatorKinds() {
  static const auto* const kinds =
      new std::vector<std::string>{"admin", "operator", "viewer", "mgmt", "csi"};
  return *kinds;
}

void NodeDirectory::Put(const std::string& kind, uint64_t id, const NodeName& name) {
  absl::MutexLock lock(&mutex_);
  nodes_[{kind, id}] = name;
}

void NodeDirectory::Remove(const std::string& kind, uint64_t id) {
  absl::MutexLock lock(&mutex_);
  nodes_.erase({kind, id});
}

std::optional<NodeName> NodeDirectory::Find(const std::string& kind, uint64_t id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = nodes_.find({kind, id});
  if (found == nodes_.end()) return std::nullopt;
  return found->second;
}

bool NodeDirectory::SecretMatches(const std::string& kind, uint64_t id, const std::string& uuid,
                                  const std::string& secret) const {
  return SameSecret(keys_->NodeSecret(kind, id, uuid), secret);
}

absl::StatusOr<Caller> NodeDirectory::Authenticate(std::string_view authorization) const {
  absl::StatusOr<BearerCredential> credential = ParseBearer(authorization);
  if (!credential.ok()) return credential.status();
  const absl::Status wrong = absl::UnauthenticatedError(
      absl::StrCat("no ", credential->kind, " with id ", credential->id, " has this secret"));
  const auto& operators = OperatorKinds();
  Caller caller;
  caller.roles = RolesOf(credential->kind);
  caller.node_id = credential->id;
  std::string uuid;
  if (std::find(operators.begin(), operators.end(), credential->kind) != operators.end()) {
    if (credential->id != 0) return wrong;
    caller.name = credential->kind;
  } else {
    const std::optional<NodeName> node = Find(credential->kind, credential->id);
    if (!node.has_value()) return wrong;
    uuid = node->uuid;
    caller.name = node->name;
  }
  if (!SecretMatches(credential->kind, credential->id, uuid, credential->secret)) return wrong;
  return caller;
}

}  // namespace tessera::mdm
