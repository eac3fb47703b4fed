// services/mdm/node_control.h over the simulated network: the MDM's calls to servers and clients.
#include <utility>

#include "integration/sim/sdc_node.h"
#include "integration/sim/sds_node.h"
#include "services/mdm/node_control.h"

namespace tessera::mdm {
namespace {

using sim::Cluster;
using sim::World;

sim::Nanos NanosOf(NodeControl::Milliseconds time) {
  return static_cast<sim::Nanos>(time.count()) * sim::kMillisecond;
}

// Asks all at once and waits for all: each has a deadline.
template <typename Response, typename Answers, typename Serve>
void AskAll(const std::vector<SdsTarget>& targets, NodeControl::Milliseconds timeout,
            const Serve& serve, Answers* answers) {
  const World::Wait wait = World::Get().NewWait();
  size_t left = targets.size();
  if (left == 0) World::Get().Unpark(wait);
  for (size_t i = 0; i < targets.size(); ++i) {
    const sim::NodeId node = sim::NodeOf(targets[i].control);
    Cluster::Get().network().Call<Response>(
        node, NanosOf(timeout),
        [node, serve = serve(i)](Response* response) -> absl::Status {
          sim::SdsNode* sds = Cluster::Get().sds(node);
          if (sds == nullptr || sds->engine() == nullptr) {
            return absl::UnavailableError("the server is not up yet");
          }
          return serve(*sds, response);
        },
        [answers, &left, wait, sds_id = targets[i].sds_id](absl::StatusOr<Response> answer) {
          answers->emplace(sds_id, std::move(answer));
          if (--left == 0) World::Get().Unpark(wait);
        });
  }
  World::Get().Park(wait);
}

// The same of clients; answers in the order of the requests.
template <typename Response, typename Request, typename Serve>
std::vector<absl::StatusOr<Response>> AskSdcs(
    const std::vector<std::pair<SdcRow, Request>>& requests, NodeControl::Milliseconds timeout,
    const Serve& serve) {
  std::vector<absl::StatusOr<Response>> answers(requests.size(), absl::UnknownError("not asked"));
  const World::Wait wait = World::Get().NewWait();
  size_t left = requests.size();
  if (left == 0) World::Get().Unpark(wait);
  for (size_t i = 0; i < requests.size(); ++i) {
    const sim::NodeId node = sim::NodeOf(requests[i].first.endpoints.control());
    Cluster::Get().network().Call<Response>(
        node, NanosOf(timeout),
        [node, serve, request = requests[i].second](Response* response) -> absl::Status {
          sim::SdcNode* sdc = Cluster::Get().sdc(node);
          if (sdc == nullptr) return absl::UnavailableError("the client is not up yet");
          return serve(*sdc, request, response);
        },
        [&answers, &left, wait, i](absl::StatusOr<Response> answer) {
          answers[i] = std::move(answer);
          if (--left == 0) World::Get().Unpark(wait);
        });
  }
  World::Get().Park(wait);
  return answers;
}

}  // namespace

SdsTarget TargetOf(const SdsRow& row) {
  return SdsTarget{row.sds_id, row.endpoints.control(), row.incarnation};
}

std::shared_ptr<grpc::Channel> NodeControl::ChannelTo(const std::string&, uint64_t,
                                                      const std::string&, uint64_t) {
  return nullptr;
}

NodeControl::RaiseAnswers NodeControl::RaiseGeneration(const std::vector<SdsTarget>& targets,
                                                       const v1::RaiseGenerationRequest& request,
                                                       Milliseconds timeout) {
  RaiseAnswers answers;
  AskAll<v1::RaiseGenerationResponse>(
      targets, timeout,
      [&](size_t) {
        return [request](sim::SdsNode& sds, v1::RaiseGenerationResponse* response) {
          return sds.RaiseGeneration(request, response);
        };
      },
      &answers);
  return answers;
}

std::map<uint64_t, absl::Status> NodeControl::ApplyPlacementGroups(const ApplyRequests& requests,
                                                                   Milliseconds timeout) {
  std::vector<SdsTarget> targets;
  for (const auto& [target, request] : requests) targets.push_back(target);
  std::map<uint64_t, absl::StatusOr<v1::ApplyPlacementGroupsResponse>> answers;
  AskAll<v1::ApplyPlacementGroupsResponse>(
      targets, timeout,
      [&](size_t i) {
        return
            [request = requests[i].second](sim::SdsNode& sds, v1::ApplyPlacementGroupsResponse*) {
              return sds.ApplyPlacementGroups(request);
            };
      },
      &answers);
  std::map<uint64_t, absl::Status> statuses;
  for (const auto& [sds_id, answer] : answers) statuses[sds_id] = answer.status();
  return statuses;
}

absl::Status NodeControl::ConfigureDevice(const SdsTarget& target,
                                          const v1::ConfigureDeviceRequest& request,
                                          Milliseconds timeout, Patience) {
  std::map<uint64_t, absl::StatusOr<v1::ConfigureDeviceResponse>> answers;
  AskAll<v1::ConfigureDeviceResponse>(
      {target}, timeout,
      [&](size_t) {
        return [request](sim::SdsNode& sds, v1::ConfigureDeviceResponse*) {
          return sds.ConfigureDevice(request);
        };
      },
      &answers);
  return answers.at(target.sds_id).status();
}

absl::StatusOr<bool> NodeControl::DeleteVtree(const SdsTarget&, const v1::DeleteVtreeRequest&,
                                              Milliseconds) {
  return absl::UnimplementedError("nothing is deleted in the simulated world");
}

absl::StatusOr<v1::DropLayersResponse> NodeControl::DropLayers(const SdsTarget& target,
                                                               const v1::DropLayersRequest& request,
                                                               Milliseconds timeout) {
  std::map<uint64_t, absl::StatusOr<v1::DropLayersResponse>> answers;
  AskAll<v1::DropLayersResponse>(
      {target}, timeout,
      [&](size_t) {
        return [request](sim::SdsNode& sds, v1::DropLayersResponse* response) {
          return sds.DropLayers(request, response);
        };
      },
      &answers);
  return answers.at(target.sds_id);
}

absl::Status NodeControl::ShrinkVolume(const SdcRow& sdc, const v1::ShrinkVolumeRequest& request,
                                       Milliseconds timeout) {
  const SdcRequests<v1::ShrinkVolumeRequest> one{{sdc, request}};
  return AskSdcs<v1::ShrinkVolumeResponse>(
             one, timeout,
             [](sim::SdcNode& node, const auto& asked, auto*) { return node.ShrinkAndWait(asked); })
      .front()
      .status();
}

absl::Status NodeControl::AdoptLayers(const SdcRow& sdc, const v1::AdoptLayersRequest& request,
                                      Milliseconds timeout) {
  const SdcRequests<v1::AdoptLayersRequest> one{{sdc, request}};
  return AskSdcs<v1::AdoptLayersResponse>(
             one, timeout,
             [](sim::SdcNode& node, const auto& asked, auto*) { return node.AdoptAndWait(asked); })
      .front()
      .status();
}

absl::Status NodeControl::YieldWriter(const SdcRow&, const v1::YieldWriterRequest&, Milliseconds) {
  return absl::UnimplementedError("nothing is shared in the simulated world");
}

absl::StatusOr<v1::ListAttachmentsResponse> NodeControl::ListAttachments(const SdcRow&,
                                                                         Milliseconds) {
  return absl::UnimplementedError("nothing is shared in the simulated world");
}

std::vector<absl::StatusOr<v1::ExplainVolumeLatencyResponse>> NodeControl::ExplainVolumeLatency(
    const std::vector<SdcRow>& sdcs, const v1::ExplainVolumeLatencyRequest&, Milliseconds) {
  return {sdcs.size(), absl::UnimplementedError("nobody asks in the simulated world")};
}

NodeControl::SdcAnswers<v1::HoldWritesResponse> NodeControl::HoldWrites(
    const SdcRequests<v1::HoldWritesRequest>& requests, Milliseconds timeout) {
  return AskSdcs<v1::HoldWritesResponse>(
      requests, timeout, [](sim::SdcNode& sdc, const auto& request, auto* response) {
        return sdc.HoldAndWait(request, response);
      });
}

NodeControl::SdcAnswers<v1::CutSnapshotResponse> NodeControl::CutSnapshot(
    const SdcRequests<v1::CutSnapshotRequest>& requests, Milliseconds timeout) {
  return AskSdcs<v1::CutSnapshotResponse>(
      requests, timeout, [](sim::SdcNode& sdc, const auto& request, auto* response) {
        return sdc.CutAndWait(request, response);
      });
}

NodeControl::SdcAnswers<v1::ReleaseHoldResponse> NodeControl::ReleaseHold(
    const SdcRequests<v1::ReleaseHoldRequest>& requests, Milliseconds timeout) {
  return AskSdcs<v1::ReleaseHoldResponse>(requests, timeout,
                                          [](sim::SdcNode& sdc, const auto& request, auto*) {
                                            sdc.ReleaseHold(request);
                                            return absl::OkStatus();
                                          });
}

absl::StatusOr<std::vector<std::string>> NodeControl::AttachVolume(const SdcRow& sdc,
                                                                   uint64_t volume_id,
                                                                   Milliseconds timeout) {
  const sim::NodeId node = sim::NodeOf(sdc.endpoints.control());
  const auto answer = Cluster::Get().network().CallAndWait<v1::AttachVolumeResponse>(
      node, NanosOf(timeout), [node, volume_id](v1::AttachVolumeResponse*) {
        return Cluster::Get().sdc(node)->AttachAndWait(volume_id);
      });
  if (!answer.ok()) return answer.status();
  return std::vector<std::string>{};
}

absl::StatusOr<uint64_t> NodeControl::DetachVolume(const SdcRow& sdc, uint64_t volume_id,
                                                   Detach how, Milliseconds timeout) {
  const sim::NodeId node = sim::NodeOf(sdc.endpoints.control());
  const auto answer = Cluster::Get().network().CallAndWait<v1::DetachVolumeResponse>(
      node, NanosOf(timeout), [node, volume_id, how](v1::DetachVolumeResponse* response) {
        sim::SdcNode* const client = Cluster::Get().sdc(node);
        response->set_incarnation(client->incarnation());
        return client->DetachAndWait(volume_id, how == Detach::kForced);
      });
  if (!answer.ok()) return answer.status();
  return answer->incarnation();
}

}  // namespace tessera::mdm
