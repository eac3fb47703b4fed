#include "services/sds/replica_peers.h"

#include <utility>

#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/common/status_macros.h"

namespace tessera::sds {
namespace {

constexpr int kCallTimeoutMillis = 10'000;
// Far less than a ticket lives, so that addresses and reachability are not old.
constexpr uint64_t kKnownMillis = 20'000;
constexpr size_t kKnownMax = 4'096;

}  // namespace

// A call that Stop cancels.
class ReplicaPeers::Call {
 public:
  explicit Call(ReplicaPeers* peers) : peers_(peers) {
    PrepareCall(&context_, kCallTimeoutMillis, "");
    absl::MutexLock lock(&peers_->mutex_);
    peers_->calls_.insert(&context_);
    if (peers_->stopping_) context_.TryCancel();
  }
  ~Call() {
    absl::MutexLock lock(&peers_->mutex_);
    peers_->calls_.erase(&context_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  [[nodiscard]] grpc::ClientContext* context() { return &context_; }

 private:
  ReplicaPeers* const peers_;
  grpc::ClientContext context_;
};

absl::StatusOr<ReplicaPeers::Peers> ReplicaPeers::Of(uint64_t placement_group_id, uint64_t epoch,
                                                     uint64_t device_id) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return absl::CancelledError("the server stops");
    const auto found = known_.find(placement_group_id);
    if (found != known_.end() && found->second.epoch == epoch &&
        found->second.device_id == device_id && clock_->BootMillis() < found->second.until_ms) {
      return found->second.peers;
    }
  }
  v1::BeginRepairRequest request;
  request.set_placement_group_id(placement_group_id);
  request.set_epoch(epoch);
  request.set_device_id(device_id);
  TESSERA_ASSIGN_OR_RETURN(const v1::BeginRepairResponse response,
                           authority_->BeginRepair(request));
  Known known{.epoch = epoch, .device_id = device_id};
  known.until_ms = clock_->BootMillis() + kKnownMillis;
  known.peers.unreachable = response.unreachable();
  for (const v1::RepairSource& source : response.sources()) {
    known.peers.reachable.push_back({.device_id = source.device_id(),
                                     .ticket = source.ticket(),
                                     .stub = connect_(source.address())});
  }
  absl::MutexLock lock(&mutex_);
  if (known_.size() >= kKnownMax) known_.clear();
  // Who is away is asked for anew each time.
  if (known.peers.unreachable == 0) known_[placement_group_id] = known;
  return known.peers;
}

void ReplicaPeers::Forget(uint64_t placement_group_id) {
  absl::MutexLock lock(&mutex_);
  known_.erase(placement_group_id);
}

absl::StatusOr<v1::FetchBlocksResponse> ReplicaPeers::FetchBlocks(
    const Peer& peer, const v1::FetchBlocksRequest& request) {
  v1::FetchBlocksResponse response;
  Call call(this);
  TESSERA_RETURN_IF_ERROR(
      FromGrpcStatus(peer.stub->FetchBlocks(call.context(), request, &response)));
  return response;
}

absl::StatusOr<v1::ListBlockChecksumsResponse> ReplicaPeers::ListBlockChecksums(
    const Peer& peer, const v1::ListBlockChecksumsRequest& request) {
  v1::ListBlockChecksumsResponse response;
  Call call(this);
  TESSERA_RETURN_IF_ERROR(
      FromGrpcStatus(peer.stub->ListBlockChecksums(call.context(), request, &response)));
  return response;
}

void ReplicaPeers::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  for (grpc::ClientContext* call : calls_) call->TryCancel();
}

}  // namespace tessera::sds
