#include "services/mdm/grant_issuer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"
#include "services/mdm/node_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/space_table.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_limits.h"

namespace tessera::mdm {

std::vector<uint64_t> ServersOfPool(SQLite::Database& db, uint64_t pool_id) {
  std::vector<uint64_t> ids;
  for (const SdsRow& row : ListSdsRowsOfPool(db, pool_id)) ids.push_back(row.sds_id);
  return ids;
}

token::Grant GrantIssuer::Draft(SQLite::Database& db, const VolumeRow& volume,
                                const v1::StoragePool& pool) const {
  token::Grant grant;
  grant.key_id = keys_->SigningKeyFor(ServersOfPool(db, volume.pool_id));
  grant.volume_id = volume.volume_id;
  grant.vtree_id = volume.vtree_id;
  grant.pool_id = volume.pool_id;
  grant.volume_size_bytes = volume.size_bytes;
  grant.chunk_bytes = pool.chunk_bytes();
  grant.generation = volume.generation;
  grant.snapshot_sequence = volume.snapshot_sequence;
  grant.path = volume.path;
  grant.issued_ms = time_->NowMillis();
  return grant;
}

void GrantIssuer::Limit(SQLite::Database& db, const VolumeRow& volume, const MappingRow& mapping,
                        token::Grant* grant) const {
  // The writer of a shared volume does the IO of all its clients.
  const size_t mappings =
      mapping.mode == v1::MAPPING_MODE_SHARED ? 1 : ListMappings(db, volume.volume_id).size();
  const VolumeLimits limits = LimitsInForce(volume.limits, mapping.limits, mappings);
  grant->iops_limit = limits.iops;
  grant->bandwidth_limit_bytes = limits.bandwidth_bytes;
  grant->burst_seconds = limits.burst_seconds;
  grant->expiry_ms = grant->issued_ms + rules_.lifetime_ms;
  grant->outage_expiry_ms =
      grant->issued_ms + std::max(rules_.lifetime_ms, rules_.outage_lifetime_ms);
}

absl::Status GrantIssuer::Sign(SQLite::Database& db, const MappingRow& mapping,
                               const token::Grant& grant, v1::IssuedGrant* issued) const {
  issued->Clear();
  issued->set_mapping_id(mapping.since_generation);
  issued->set_grant(token::EncodeGrant(grant));
  for (uint64_t sds_id : ServersOfPool(db, grant.pool_id)) {
    const auto sds_key = keys_->SdsKey(grant.key_id, sds_id);
    if (!sds_key.has_value()) {
      return absl::AbortedError(absl::StrCat("cluster secret ", grant.key_id, " was just revoked"));
    }
    const token::Key key = token::GrantKey::Derive(*sds_key, issued->grant()).bytes();
    v1::GrantKeyForSds* entry = issued->add_keys();
    entry->set_sds_id(sds_id);
    entry->set_key(key.data(), key.size());
  }
  issued->set_mdm_time_ms(time_->NowMillis());
  return absl::OkStatus();
}

absl::Status GrantIssuer::Give(SQLite::Database& db, const VolumeRow& volume,
                               const MappingRow& mapping, v1::IssuedGrant* issued) const {
  const auto pool = FindPool(db, volume.pool_id);
  if (!pool.has_value()) return NoSuch("pool", volume.pool_id);
  token::Grant grant = Draft(db, volume, *pool);
  grant.sdc_id = mapping.sdc_id;
  grant.access =
      IsWriter(volume, mapping) ? token::AccessMode::kReadWrite : token::AccessMode::kReadOnly;
  Limit(db, volume, mapping, &grant);
  TokenRow row;
  row.access = grant.access;
  row.outage_expiry_ms = grant.outage_expiry_ms;
  row.layer = grant.snapshot_sequence;
  row.record.set_volume_id(volume.volume_id);
  row.record.set_sdc_id(mapping.sdc_id);
  row.record.set_generation(grant.generation);
  row.record.set_key_id(grant.key_id);
  row.record.set_issued_ms(grant.issued_ms);
  row.record.set_expiry_ms(grant.expiry_ms);
  grant.grant_id = InsertToken(db, row);
  TESSERA_RETURN_IF_ERROR(Sign(db, mapping, grant, issued));
  issued->set_over_budget(IsOverBudget(db, volume.volume_id));
  return absl::OkStatus();
}

absl::Status GrantIssuer::Renew(SQLite::Database& db, const VolumeRow& volume,
                                const MappingRow& mapping, TokenRow row,
                                v1::IssuedGrant* issued) const {
  const auto pool = FindPool(db, volume.pool_id);
  if (!pool.has_value()) return NoSuch("pool", volume.pool_id);
  token::Grant grant = Draft(db, volume, *pool);
  grant.grant_id = row.record.token_id();
  grant.sdc_id = row.record.sdc_id();
  grant.access = row.access;
  grant.snapshot_sequence = row.layer;
  Limit(db, volume, mapping, &grant);
  row.record.set_key_id(grant.key_id);
  row.record.set_issued_ms(grant.issued_ms);
  row.record.set_expiry_ms(grant.expiry_ms);
  // Never earlier than what was promised before: a fence waits for the latest.
  row.outage_expiry_ms = std::max(row.outage_expiry_ms, grant.outage_expiry_ms);
  RenewToken(db, row);
  TESSERA_RETURN_IF_ERROR(Sign(db, mapping, grant, issued));
  issued->set_over_budget(IsOverBudget(db, volume.volume_id));
  return absl::OkStatus();
}

}  // namespace tessera::mdm
