// Grants: what they say of a volume and its mapping, their rows, and their signatures.
//
// All methods run inside a transaction of MdmStore. Threads: any.
#ifndef TESSERA_SERVICES_MDM_GRANT_ISSUER_H_
#define TESSERA_SERVICES_MDM_GRANT_ISSUER_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "libtoken/token.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/mdm_time.h"
#include "services/mdm/token_table.h"
#include "services/mdm/volume_table.h"
#include "tessera/v1/token.pb.h"
#include "tessera/v1/topology.pb.h"

namespace tessera::mdm {

struct GrantRules {
  uint64_t lifetime_ms = 60'000;
  // How long a server honours a grant when it hears nothing of the MDM.
  uint64_t outage_lifetime_ms = 600'000;
};

class GrantIssuer {
 public:
  GrantIssuer(const GrantRules& rules, const ClusterKeys* keys, const MdmTime* time)
      : rules_(rules), keys_(keys), time_(time) {}

  // Everything that a grant issued now says but its id, client, access and expiry.
  [[nodiscard]] token::Grant Draft(SQLite::Database& db, const VolumeRow& volume,
                                   const v1::StoragePool& pool) const;
  // A new grant of the mapping, in the volume's generation, for the layer that it is written to.
  // ABORTED: the cluster secret was revoked just now.
  [[nodiscard]] absl::Status Give(SQLite::Database& db, const VolumeRow& volume,
                                  const MappingRow& mapping, v1::IssuedGrant* issued) const;
  // The same grant with a later expiry. It keeps its layer: with another, a write under it could
  // land in different layers on different replicas.
  [[nodiscard]] absl::Status Renew(SQLite::Database& db, const VolumeRow& volume,
                                   const MappingRow& mapping, TokenRow row,
                                   v1::IssuedGrant* issued) const;

 private:
  // With a key for each server of the pool.
  [[nodiscard]] absl::Status Sign(SQLite::Database& db, const MappingRow& mapping,
                                  const token::Grant& grant, v1::IssuedGrant* issued) const;
  // Limits and expiry.
  void Limit(SQLite::Database& db, const VolumeRow& volume, const MappingRow& mapping,
             token::Grant* grant) const;

  const GrantRules rules_;
  const ClusterKeys* const keys_;
  const MdmTime* const time_;
};

// Servers that a grant of a volume of the pool is for.
[[nodiscard]] std::vector<uint64_t> ServersOfPool(SQLite::Database& db, uint64_t pool_id);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_GRANT_ISSUER_H_
