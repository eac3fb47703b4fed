#include "services/sdc/engine/volume_grant.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera::sdc {

absl::StatusOr<VolumeGrant> VolumeGrant::FromIssued(const v1::IssuedGrant& issued,
                                                    uint64_t revision) {
  VolumeGrant grant;
  absl::StatusOr<token::Grant> fields = token::DecodeGrant(issued.grant());
  if (!fields.ok()) return fields.status();
  grant.fields = *fields;
  grant.bytes = issued.grant();
  grant.issued = issued.SerializeAsString();
  grant.over_budget = issued.over_budget();
  grant.revision = revision;
  for (const v1::GrantKeyForSds& from : issued.keys()) {
    token::Key key;
    if (from.key().size() != key.size()) {
      return absl::InvalidArgumentError(absl::StrCat("grant key for server ", from.sds_id(),
                                                     " has ", from.key().size(),
                                                     " bytes, it should have ", key.size()));
    }
    std::copy(from.key().begin(), from.key().end(), key.begin());
    grant.keys.emplace_back(from.sds_id(), token::GrantKey::FromBytes(key));
  }
  return grant;
}

}  // namespace tessera::sdc
