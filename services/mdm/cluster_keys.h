// The cluster's secrets: what tokens, map entries, control calls and node secrets are signed with.
//
// secrets.key holds one key for each cluster secret (key ids 1, 2, …) and the root of node secrets
// under the reserved id 0xFFFFFFFF, so that rotating or revoking an IO key voids no node's secret.
// Everything else is derived when needed: mdm.db holds no secret.
//
//   K_sds        = DeriveSdsKey(cluster secret, sds id)                 (libtoken)
//   node secret  = HMAC(root, "node secret" | "<kind>:<id>:<uuid>")     kind: sds, sdc
//   MDM -> SDS   : mdm.<key id>.<hex HMAC(K_sds, "control" | "<sds id>")>
//   MDM -> SDC   : mdm.<sdc id>.<hex HMAC(node secret, "control" | "<sdc id>")>
//   MDM -> SDS   : mdm.0.<hex HMAC(node secret, "control" | "<sds id>")>, when mdm.db is lost
//   record seal  = HMAC(root, "record" | the record)
//
// A new key signs for a server only once the server is known to have it: a heartbeat answer has
// carried it and a later heartbeat has come. Until then the key before it signs.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_CLUSTER_KEYS_H_
#define TESSERA_SERVICES_MDM_CLUSTER_KEYS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libtoken/token.h"
#include "tessera/v1/cluster_record.pb.h"
#include "tessera/v1/discovery.pb.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::mdm {

class ClusterKeys {
 public:
  static constexpr uint32_t kRootKeyId = 0xFFFFFFFF;

  // Loads the file, or makes it at the first start (mode 0600). The errors of LoadKeyFile, and
  // DATA_LOSS for a file without the root key. With `must_exist` a missing file is
  // FAILED_PRECONDITION: a database that has nodes is worth nothing without its secrets.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<ClusterKeys>> Open(const std::string& path,
                                                                         bool must_exist);

  [[nodiscard]] uint32_t active_key_id() const;
  [[nodiscard]] std::vector<uint32_t> key_ids() const;
  // nullopt: revoked or never heard of.
  [[nodiscard]] std::optional<token::Key> ClusterSecret(uint32_t key_id) const;
  [[nodiscard]] std::optional<token::Key> SdsKey(uint32_t key_id, uint64_t sds_id) const;

  // All valid keys of a server, for the answer to its registration or heartbeat, which the caller
  // is about to send; a later HeardFrom shows that it arrived.
  [[nodiscard]] std::vector<v1::SdsKey> KeysToDeliver(uint64_t sds_id);
  void HeardFrom(uint64_t sds_id);
  // The newest key that all of these servers are known to have.
  [[nodiscard]] uint32_t SigningKeyFor(const std::vector<uint64_t>& sds_ids) const;

  // Makes a new secret the active one. Saved before it returns.
  [[nodiscard]] absl::StatusOr<uint32_t> Rotate();
  // Forgets one. FAILED_PRECONDITION: the active one; NOT_FOUND.
  [[nodiscard]] absl::Status Revoke(uint32_t key_id);

  // 64 lower-case hex digits.
  [[nodiscard]] std::string NodeSecret(const std::string& kind, uint64_t id,
                                       const std::string& uuid) const;
  // Credentials of the MDM towards a server or client: the value of `authorization`.
  [[nodiscard]] std::string BearerForSds(uint64_t sds_id) const;
  [[nodiscard]] std::string BearerForSdc(uint64_t sdc_id, const std::string& uuid) const;
  // The same towards a server of which nothing is known but who it says it is.
  [[nodiscard]] std::string BearerForUnknownSds(uint64_t sds_id, const std::string& uuid) const;

  // Signed for each member's server, and those in `also`, under every key that is valid.
  [[nodiscard]] v1::SignedPlacementGroup SignGroup(const v1::PlacementGroup& group,
                                                   const std::set<uint64_t>& also = {}) const;

  // What servers keep for the MDM: sealed under the root, which no server knows.
  [[nodiscard]] v1::SealedRecord SealRecord(const v1::ClusterRecord& record) const;
  // DATA_LOSS: the seal is not this cluster's, or the record was changed.
  [[nodiscard]] absl::StatusOr<v1::ClusterRecord> OpenRecord(const v1::SealedRecord& sealed) const;

 private:
  ClusterKeys(std::string path, const token::KeyFile& file);
  [[nodiscard]] absl::Status SaveLocked(const token::KeyFile& file)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of the kind "control", under the node's secret.
  [[nodiscard]] std::string BearerByNodeSecret(const std::string& kind, uint64_t id,
                                               const std::string& uuid, uint64_t shown_id) const;
  [[nodiscard]] std::optional<token::Key> FindLocked(uint32_t key_id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  mutable absl::Mutex mutex_;
  token::KeyFile file_ ABSL_GUARDED_BY(mutex_);
  // By server: keys in the last answer, and keys that it is known to have.
  std::map<uint64_t, std::set<uint32_t>> sent_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::set<uint32_t>> known_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_CLUSTER_KEYS_H_
