// Asks servers for what they keep of the cluster, and checks that it is genuine: seals of records,
// and signatures of placement groups. Servers that nobody named are found from the records of the
// others.
//
// Threads: one.
#ifndef TESSERA_SERVICES_MDM_RECOVERY_READER_H_
#define TESSERA_SERVICES_MDM_RECOVERY_READER_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/recovery_rules.h"
#include "tessera/v1/sds_control.grpc.pb.h"

namespace tessera::mdm {

class RecoveryReader {
 public:
  static constexpr int kIdentityTimeoutMillis = 5'000;
  static constexpr int kCopyTimeoutMillis = 600'000;

  // `progress` gets one line for each server.
  RecoveryReader(const ClusterKeys* keys, std::shared_ptr<grpc::ChannelCredentials> credentials,
                 std::function<void(const std::string&)> progress)
      : keys_(keys), credentials_(std::move(credentials)), progress_(std::move(progress)) {}

  // Copies of all servers that can be reached, from the control addresses of some. UNAVAILABLE:
  // none answers. DATA_LOSS: something is not this cluster's (which server, what).
  [[nodiscard]] absl::StatusOr<std::vector<ServerCopy>> ReadAll(
      const std::vector<std::string>& addresses);

 private:
  [[nodiscard]] absl::StatusOr<ServerCopy> ReadOne(const std::string& address) const;
  [[nodiscard]] absl::Status TakePiece(const v1::ReadClusterCopyResponse& piece,
                                       ServerCopy* copy) const;
  [[nodiscard]] absl::Status TakeEntry(const v1::SignedPlacementGroup& entry,
                                       ServerCopy* copy) const;

  const ClusterKeys* const keys_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;  // shared with the channels
  const std::function<void(const std::string&)> progress_;
};

// True unless the entry has a signature for the server that is wrong, or none at all. Signatures
// under keys that were revoked since can't be judged and are left aside.
[[nodiscard]] bool IsGenuineEntry(const ClusterKeys& keys, uint64_t sds_id,
                                  const v1::SignedPlacementGroup& entry);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_RECOVERY_READER_H_
