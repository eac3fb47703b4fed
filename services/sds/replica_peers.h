// The other in-sync replicas of a placement group, to repair from and to compare with: asked of the
// MDM, which signs for each that this server may read it in this epoch, and remembered for a while.
//
// Threads: any. Calls block; Stop cancels them.
#ifndef TESSERA_SERVICES_SDS_REPLICA_PEERS_H_
#define TESSERA_SERVICES_SDS_REPLICA_PEERS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/sds/learner.h"
#include "tessera/v1/replica.grpc.pb.h"

namespace tessera::sds {

class ReplicaPeers {
 public:
  // All must outlive this.
  ReplicaPeers(PlacementAuthority* authority, Learner::Connect connect, const Clock* clock)
      : authority_(authority), connect_(std::move(connect)), clock_(clock) {}

  struct Peer {
    uint64_t device_id = 0;
    v1::LearningTicket ticket;
    std::shared_ptr<v1::ReplicaService::StubInterface> stub;  // shared with the connection cache
  };
  struct Peers {
    std::vector<Peer> reachable;
    uint32_t unreachable = 0;
  };
  // ABORTED: the epoch moved on, or `device_id` is not in sync in it.
  [[nodiscard]] absl::StatusOr<Peers> Of(uint64_t placement_group_id, uint64_t epoch,
                                         uint64_t device_id);
  // Asks the MDM again next time: a peer could not be reached, or refused its ticket.
  void Forget(uint64_t placement_group_id);

  [[nodiscard]] absl::StatusOr<v1::FetchBlocksResponse> FetchBlocks(
      const Peer& peer, const v1::FetchBlocksRequest& request);
  [[nodiscard]] absl::StatusOr<v1::ListBlockChecksumsResponse> ListBlockChecksums(
      const Peer& peer, const v1::ListBlockChecksumsRequest& request);

  void Stop();

 private:
  class Call;
  struct Known {
    uint64_t epoch = 0;
    uint64_t device_id = 0;
    uint64_t until_ms = 0;
    Peers peers;
  };

  PlacementAuthority* const authority_;
  const Learner::Connect connect_;
  const Clock* const clock_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Known> known_ ABSL_GUARDED_BY(mutex_);  // by placement group
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_REPLICA_PEERS_H_
