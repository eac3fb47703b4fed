// Who the registered nodes are, in memory, and the check of their credentials.
//
// Kinds: "sds" and "sdc" with their ids; "admin", "operator", "viewer", "mgmt" and "csi" with id 0,
// whose secrets the MDM leaves in files of its state folder for whoever sets up the cluster.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_NODE_DIRECTORY_H_
#define TESSERA_SERVICES_MDM_NODE_DIRECTORY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/auth.h"
#include "services/mdm/cluster_keys.h"

namespace tessera::mdm {

struct NodeName {
  std::string uuid;
  std::string name;
};

class NodeDirectory final : public Authenticator {
 public:
  // Kinds of callers that are not nodes, each with a secret of its own.
  static const std::vector<std::string>& OperatorKinds();

  explicit NodeDirectory(const ClusterKeys* keys) : keys_(keys) {}

  void Put(const std::string& kind, uint64_t id, const NodeName& name);
  void Remove(const std::string& kind, uint64_t id);
  [[nodiscard]] std::optional<NodeName> Find(const std::string& kind, uint64_t id) const;

  // UNAUTHENTICATED for a node that is not registered or a wrong secret, alike.
  [[nodiscard]] absl::StatusOr<Caller> Authenticate(std::string_view authorization) const override;
  // Whether `secret` is the node's, in constant time.
  [[nodiscard]] bool SecretMatches(const std::string& kind, uint64_t id, const std::string& uuid,
                                   const std::string& secret) const;

 private:
  const ClusterKeys* const keys_;
  mutable absl::Mutex mutex_;
  std::map<std::pair<std::string, uint64_t>, NodeName> nodes_ ABSL_GUARDED_BY(mutex_);
};

[[nodiscard]] bool SameSecret(const std::string& a, const std::string& b);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_NODE_DIRECTORY_H_
