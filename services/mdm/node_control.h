// The MDM's calls to servers and clients: one channel each, credentials, deadlines, and fan-out.
//
// Threads: any. Calls block the caller until the answer or the deadline; no lock is held meanwhile.
#ifndef TESSERA_SERVICES_MDM_NODE_CONTROL_H_
#define TESSERA_SERVICES_MDM_NODE_CONTROL_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/node_table.h"
#include "tessera/v1/sdc_control.grpc.pb.h"
#include "tessera/v1/sds_control.grpc.pb.h"

namespace tessera::mdm {

// A server and where its control plane is.
struct SdsTarget {
  uint64_t sds_id = 0;
  std::string control;       // "host:port"
  uint64_t incarnation = 0;  // of the life that registered last
};
[[nodiscard]] SdsTarget TargetOf(const SdsRow& row);

class NodeControl {
 public:
  using Milliseconds = std::chrono::milliseconds;

  NodeControl(const ClusterKeys* keys, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : keys_(keys), credentials_(std::move(credentials)) {}

  // Asks all targets at once; the answers by server id. A server that can't be reached fails at
  // once with UNAVAILABLE, one that is silent after `timeout` with DEADLINE_EXCEEDED.
  using RaiseAnswers = std::map<uint64_t, absl::StatusOr<v1::RaiseGenerationResponse>>;
  [[nodiscard]] RaiseAnswers RaiseGeneration(const std::vector<SdsTarget>& targets,
                                             const v1::RaiseGenerationRequest& request,
                                             Milliseconds timeout);

  // Each target gets its own request.
  using ApplyRequests = std::vector<std::pair<SdsTarget, v1::ApplyPlacementGroupsRequest>>;
  [[nodiscard]] std::map<uint64_t, absl::Status> ApplyPlacementGroups(const ApplyRequests& requests,
                                                                      Milliseconds timeout);

  // Of a server that just came back the address may not be known here yet, or a connection be about
  // to be made: kAwait waits for it, up to the time-out; kNow fails then.
  enum class Patience : uint8_t { kNow, kAwait };
  [[nodiscard]] absl::Status ConfigureDevice(const SdsTarget& target,
                                             const v1::ConfigureDeviceRequest& request,
                                             Milliseconds timeout, Patience patience);
  // True when nothing of the vtree is left there.
  [[nodiscard]] absl::StatusOr<bool> DeleteVtree(const SdsTarget& target,
                                                 const v1::DeleteVtreeRequest& request,
                                                 Milliseconds timeout);
  [[nodiscard]] absl::StatusOr<v1::DropLayersResponse> DropLayers(
      const SdsTarget& target, const v1::DropLayersRequest& request, Milliseconds timeout);

  // Each target gets its own request, and all are asked at once; the answers by server id, the
  // pieces of each in one. `cancelled` is asked now and then; null: never.
  using MeasureRequests = std::vector<std::pair<SdsTarget, v1::MeasureVtreesRequest>>;
  using MeasureAnswers = std::map<uint64_t, absl::StatusOr<v1::MeasureVtreesResponse>>;
  [[nodiscard]] MeasureAnswers MeasureVtrees(const MeasureRequests& requests, Milliseconds timeout,
                                             const std::function<bool()>& cancelled);

  // Returns where the volume is offered.
  [[nodiscard]] absl::StatusOr<std::vector<std::string>> AttachVolume(const SdcRow& sdc,
                                                                      uint64_t volume_id,
                                                                      Milliseconds timeout);
  enum class Detach { kOrderly, kForced };
  // Returns which life of the client has detached it.
  [[nodiscard]] absl::StatusOr<uint64_t> DetachVolume(const SdcRow& sdc, uint64_t volume_id,
                                                      Detach how, Milliseconds timeout);

  [[nodiscard]] absl::Status ShrinkVolume(const SdcRow& sdc, const v1::ShrinkVolumeRequest& request,
                                          Milliseconds timeout);
  [[nodiscard]] absl::Status AdoptLayers(const SdcRow& sdc, const v1::AdoptLayersRequest& request,
                                         Milliseconds timeout);

  // Of a volume that is mapped shared, to its writer.
  [[nodiscard]] absl::Status YieldWriter(const SdcRow& sdc, const v1::YieldWriterRequest& request,
                                         Milliseconds timeout);
  [[nodiscard]] absl::StatusOr<v1::ListAttachmentsResponse> ListAttachments(const SdcRow& sdc,
                                                                            Milliseconds timeout);

  // All clients are asked at once; the answers are in their order.
  [[nodiscard]] std::vector<absl::StatusOr<v1::ExplainVolumeLatencyResponse>> ExplainVolumeLatency(
      const std::vector<SdcRow>& sdcs, const v1::ExplainVolumeLatencyRequest& request,
      Milliseconds timeout);

  // Snapshots. All clients are asked at once; the answers are in the order of the requests. A
  // client may be asked for several volumes.
  template <typename Request>
  using SdcRequests = std::vector<std::pair<SdcRow, Request>>;
  template <typename Response>
  using SdcAnswers = std::vector<absl::StatusOr<Response>>;
  [[nodiscard]] SdcAnswers<v1::HoldWritesResponse> HoldWrites(
      const SdcRequests<v1::HoldWritesRequest>& requests, Milliseconds timeout);
  [[nodiscard]] SdcAnswers<v1::CutSnapshotResponse> CutSnapshot(
      const SdcRequests<v1::CutSnapshotRequest>& requests, Milliseconds timeout);
  [[nodiscard]] SdcAnswers<v1::ReleaseHoldResponse> ReleaseHold(
      const SdcRequests<v1::ReleaseHoldRequest>& requests, Milliseconds timeout);

 private:
  // begin(stub, context, request, queue) begins one call.
  template <typename Response, typename Request, typename Begin>
  [[nodiscard]] SdcAnswers<Response> AskClients(const SdcRequests<Request>& requests,
                                                Milliseconds timeout, const Begin& begin);
  [[nodiscard]] std::shared_ptr<grpc::Channel> ChannelTo(const std::string& kind, uint64_t id,
                                                         const std::string& address,
                                                         uint64_t incarnation);
  [[nodiscard]] std::unique_ptr<v1::SdsControlService::Stub> StubOf(const SdsTarget& target) {
    return v1::SdsControlService::NewStub(
        ChannelTo("sds", target.sds_id, target.control, target.incarnation));
  }
  [[nodiscard]] std::unique_ptr<v1::SdcControlService::Stub> StubOf(const SdcRow& sdc) {
    return v1::SdcControlService::NewStub(
        ChannelTo("sdc", sdc.sdc_id, sdc.endpoints.control(), sdc.incarnation));
  }

  // A new life of a node gets a new channel: the old one may be waiting before its next attempt,
  // and fails calls until then.
  struct Connection {
    std::string address;
    uint64_t incarnation = 0;
    std::shared_ptr<grpc::Channel> channel;  // shared with calls that are running on it
  };
  const ClusterKeys* const keys_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;  // shared with all channels
  absl::Mutex mutex_;
  std::map<std::pair<std::string, uint64_t>, Connection> connections_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_NODE_CONTROL_H_
