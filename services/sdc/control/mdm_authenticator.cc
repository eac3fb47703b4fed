#include "services/sdc/control/mdm_authenticator.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "libtoken/token.h"

namespace tessera::sdc {
namespace {

std::span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

void MdmAuthenticator::SetIdentity(uint64_t sdc_id, const std::string& node_secret) {
  const absl::StatusOr<std::string> bytes = FromHex(node_secret);
  token::Key key;
  absl::MutexLock lock(&mutex_);
  sdc_id_ = sdc_id;
  expected_.clear();
  if (!bytes.ok() || bytes->size() != key.size()) return;
  std::copy(bytes->begin(), bytes->end(), key.begin());
  const token::Key signature = token::SignMessage(key, "control", absl::StrCat(sdc_id));
  expected_.assign(signature.begin(), signature.end());
}

absl::StatusOr<Caller> MdmAuthenticator::Authenticate(std::string_view authorization) const {
  const absl::StatusOr<BearerCredential> credential = ParseBearer(authorization);
  if (!credential.ok()) return credential.status();
  const absl::StatusOr<std::string> shown = FromHex(credential->secret);
  absl::MutexLock lock(&mutex_);
  if (credential->kind != "mdm" || credential->id != sdc_id_ || !shown.ok() || expected_.empty() ||
      !token::ConstantTimeEquals(AsBytes(*shown), AsBytes(expected_))) {
    return absl::UnauthenticatedError("these are not the MDM's credentials for this client");
  }
  Caller caller;
  caller.roles = {v1::ROLE_MDM};
  caller.name = "mdm";
  return caller;
}

}  // namespace tessera::sdc
