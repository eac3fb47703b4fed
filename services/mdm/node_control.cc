#include "services/mdm/node_control.h"

#include <deque>

#include "services/common/errors.h"
#include "services/common/grpc_server.h"

namespace tessera::mdm {
namespace {

// One call of a fan-out.
template <typename Response>
struct Call {
  uint64_t sds_id = 0;  // of servers
  grpc::ClientContext context;
  Response response;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<Response>> reader;
};

// Waits for all calls of a queue, each of which has a deadline.
void WaitForAll(grpc::CompletionQueue* queue, size_t calls) {
  void* tag = nullptr;
  bool ok = false;
  for (size_t i = 0; i < calls; ++i) {
    if (!queue->Next(&tag, &ok)) return;
  }
}

int Count(NodeControl::Milliseconds timeout) { return static_cast<int>(timeout.count()); }

}  // namespace

SdsTarget TargetOf(const SdsRow& row) {
  return SdsTarget{row.sds_id, row.endpoints.control(), row.incarnation};
}

std::shared_ptr<grpc::Channel> NodeControl::ChannelTo(const std::string& kind, uint64_t id,
                                                      const std::string& address,
                                                      uint64_t incarnation) {
  std::shared_ptr<grpc::Channel> old;  // destroyed after the lock
  absl::MutexLock lock(&mutex_);
  Connection& connection = connections_[{kind, id}];
  if (connection.channel == nullptr || connection.address != address ||
      connection.incarnation != incarnation) {
    old = std::move(connection.channel);
    connection.address = address;
    connection.incarnation = incarnation;
    connection.channel = NewChannel(address, credentials_);
  }
  return connection.channel;
}

NodeControl::RaiseAnswers NodeControl::RaiseGeneration(const std::vector<SdsTarget>& targets,
                                                       const v1::RaiseGenerationRequest& request,
                                                       Milliseconds timeout) {
  grpc::CompletionQueue queue;
  std::deque<Call<v1::RaiseGenerationResponse>> calls;
  for (const SdsTarget& target : targets) {
    auto& call = calls.emplace_back();
    call.sds_id = target.sds_id;
    PrepareCall(&call.context, Count(timeout), keys_->BearerForSds(target.sds_id));
    const auto stub = StubOf(target);
    call.reader = stub->AsyncRaiseGeneration(&call.context, request, &queue);
    call.reader->Finish(&call.response, &call.status, &call);
  }
  WaitForAll(&queue, calls.size());
  queue.Shutdown();
  RaiseAnswers answers;
  for (auto& call : calls) {
    if (call.status.ok()) {
      answers.emplace(call.sds_id, std::move(call.response));
    } else {
      answers.emplace(call.sds_id, FromGrpcStatus(call.status));
    }
  }
  return answers;
}

std::map<uint64_t, absl::Status> NodeControl::ApplyPlacementGroups(const ApplyRequests& requests,
                                                                   Milliseconds timeout) {
  grpc::CompletionQueue queue;
  std::deque<Call<v1::ApplyPlacementGroupsResponse>> calls;
  for (const auto& [target, request] : requests) {
    auto& call = calls.emplace_back();
    call.sds_id = target.sds_id;
    PrepareCall(&call.context, Count(timeout), keys_->BearerForSds(target.sds_id));
    const auto stub = StubOf(target);
    call.reader = stub->AsyncApplyPlacementGroups(&call.context, request, &queue);
    call.reader->Finish(&call.response, &call.status, &call);
  }
  WaitForAll(&queue, calls.size());
  queue.Shutdown();
  std::map<uint64_t, absl::Status> answers;
  for (const auto& call : calls) answers[call.sds_id] = FromGrpcStatus(call.status);
  return answers;
}

absl::Status NodeControl::ConfigureDevice(const SdsTarget& target,
                                          const v1::ConfigureDeviceRequest& request,
                                          Milliseconds timeout, Patience patience) {
  grpc::ClientContext context;
  context.set_wait_for_ready(patience == Patience::kAwait);
  PrepareCall(&context, Count(timeout), keys_->BearerForSds(target.sds_id));
  v1::ConfigureDeviceResponse response;
  return FromGrpcStatus(StubOf(target)->ConfigureDevice(&context, request, &response));
}

absl::StatusOr<bool> NodeControl::DeleteVtree(const SdsTarget& target,
                                              const v1::DeleteVtreeRequest& request,
                                              Milliseconds timeout) {
  grpc::ClientContext context;
  PrepareCall(&context, Count(timeout), keys_->BearerForSds(target.sds_id));
  v1::DeleteVtreeResponse response;
  const grpc::Status status = StubOf(target)->DeleteVtree(&context, request, &response);
  if (!status.ok()) return FromGrpcStatus(status);
  return response.done();
}

absl::StatusOr<v1::DropLayersResponse> NodeControl::DropLayers(const SdsTarget& target,
                                                               const v1::DropLayersRequest& request,
                                                               Milliseconds timeout) {
  grpc::ClientContext context;
  PrepareCall(&context, Count(timeout), keys_->BearerForSds(target.sds_id));
  v1::DropLayersResponse response;
  const grpc::Status status = StubOf(target)->DropLayers(&context, request, &response);
  if (!status.ok()) return FromGrpcStatus(status);
  return response;
}

absl::Status NodeControl::ShrinkVolume(const SdcRow& sdc, const v1::ShrinkVolumeRequest& request,
                                       Milliseconds timeout) {
  grpc::ClientContext context;
  PrepareCall(&context, Count(timeout), keys_->BearerForSdc(sdc.sdc_id, sdc.node_uuid));
  v1::ShrinkVolumeResponse response;
  return FromGrpcStatus(StubOf(sdc)->ShrinkVolume(&context, request, &response));
}

absl::Status NodeControl::YieldWriter(const SdcRow& sdc, const v1::YieldWriterRequest& request,
                                      Milliseconds timeout) {
  grpc::ClientContext context;
  PrepareCall(&context, Count(timeout), keys_->BearerForSdc(sdc.sdc_id, sdc.node_uuid));
  v1::YieldWriterResponse response;
  return FromGrpcStatus(StubOf(sdc)->YieldWriter(&context, request, &response));
}

absl::StatusOr<v1::ListAttachmentsResponse> NodeControl::ListAttachments(const SdcRow& sdc,
                                                                         Milliseconds timeout) {
  grpc::ClientContext context;
  PrepareCall(&context, Count(timeout), keys_->BearerForSdc(sdc.sdc_id, sdc.node_uuid));
  v1::ListAttachmentsResponse response;
  const grpc::Status status =
      StubOf(sdc)->ListAttachments(&context, v1::ListAttachmentsRequest(), &response);
  if (!status.ok()) return FromGrpcStatus(status);
  return response;
}

absl::Status NodeControl::AdoptLayers(const SdcRow& sdc, const v1::AdoptLayersRequest& request,
                                      Milliseconds timeout) {
  grpc::ClientContext context;
  PrepareCall(&context, Count(timeout), keys_->BearerForSdc(sdc.sdc_id, sdc.node_uuid));
  v1::AdoptLayersResponse response;
  return FromGrpcStatus(StubOf(sdc)->AdoptLayers(&context, request, &response));
}

absl::StatusOr<std::vector<std::string>> NodeControl::AttachVolume(const SdcRow& sdc,
                                                                   uint64_t volume_id,
                                                                   Milliseconds timeout) {
  grpc::ClientContext context;
  PrepareCall(&context, Count(timeout), keys_->BearerForSdc(sdc.sdc_id, sdc.node_uuid));
  v1::AttachVolumeRequest request;
  request.set_volume_id(volume_id);
  v1::AttachVolumeResponse response;
  const grpc::Status status = StubOf(sdc)->AttachVolume(&context, request, &response);
  if (!status.ok()) return FromGrpcStatus(status);
  return std::vector<std::string>(response.nbd_uris().begin(), response.nbd_uris().end());
}

absl::StatusOr<uint64_t> NodeControl::DetachVolume(const SdcRow& sdc, uint64_t volume_id,
                                                   Detach how, Milliseconds timeout) {
  grpc::ClientContext context;
  PrepareCall(&context, Count(timeout), keys_->BearerForSdc(sdc.sdc_id, sdc.node_uuid));
  v1::DetachVolumeRequest request;
  request.set_volume_id(volume_id);
  request.set_force(how == Detach::kForced);
  v1::DetachVolumeResponse response;
  const grpc::Status status = StubOf(sdc)->DetachVolume(&context, request, &response);
  if (!status.ok()) return FromGrpcStatus(status);
  return response.incarnation();
}

template <typename Response, typename Request, typename Begin>
NodeControl::SdcAnswers<Response> NodeControl::AskClients(const SdcRequests<Request>& requests,
                                                          Milliseconds timeout,
                                                          const Begin& begin) {
  grpc::CompletionQueue queue;
  std::deque<Call<Response>> calls;
  for (const auto& [sdc, request] : requests) {
    auto& call = calls.emplace_back();
    PrepareCall(&call.context, Count(timeout), keys_->BearerForSdc(sdc.sdc_id, sdc.node_uuid));
    call.reader = begin(*StubOf(sdc), &call.context, request, &queue);
    call.reader->Finish(&call.response, &call.status, &call);
  }
  WaitForAll(&queue, calls.size());
  queue.Shutdown();
  SdcAnswers<Response> answers;
  for (auto& call : calls) {
    if (call.status.ok()) {
      answers.emplace_back(std::move(call.response));
    } else {
      answers.emplace_back(FromGrpcStatus(call.status));
    }
  }
  return answers;
}

NodeControl::SdcAnswers<v1::HoldWritesResponse> NodeControl::HoldWrites(
    const SdcRequests<v1::HoldWritesRequest>& requests, Milliseconds timeout) {
  return AskClients<v1::HoldWritesResponse>(
      requests, timeout, [](auto& stub, auto* context, const auto& request, auto* queue) {
        return stub.AsyncHoldWrites(context, request, queue);
      });
}

std::vector<absl::StatusOr<v1::ExplainVolumeLatencyResponse>> NodeControl::ExplainVolumeLatency(
    const std::vector<SdcRow>& sdcs, const v1::ExplainVolumeLatencyRequest& request,
    Milliseconds timeout) {
  SdcRequests<v1::ExplainVolumeLatencyRequest> requests;
  for (const SdcRow& sdc : sdcs) requests.emplace_back(sdc, request);
  return AskClients<v1::ExplainVolumeLatencyResponse>(
      requests, timeout, [](auto& stub, auto* context, const auto& asked, auto* queue) {
        return stub.AsyncExplainVolumeLatency(context, asked, queue);
      });
}

NodeControl::SdcAnswers<v1::CutSnapshotResponse> NodeControl::CutSnapshot(
    const SdcRequests<v1::CutSnapshotRequest>& requests, Milliseconds timeout) {
  return AskClients<v1::CutSnapshotResponse>(
      requests, timeout, [](auto& stub, auto* context, const auto& request, auto* queue) {
        return stub.AsyncCutSnapshot(context, request, queue);
      });
}

NodeControl::SdcAnswers<v1::ReleaseHoldResponse> NodeControl::ReleaseHold(
    const SdcRequests<v1::ReleaseHoldRequest>& requests, Milliseconds timeout) {
  return AskClients<v1::ReleaseHoldResponse>(
      requests, timeout, [](auto& stub, auto* context, const auto& request, auto* queue) {
        return stub.AsyncReleaseHold(context, request, queue);
      });
}

}  // namespace tessera::mdm
