// The calls of the control plane by which the MDM makes snapshots, and volumes smaller, and passes
// the right to write a shared one on.
#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/sdc/control/loop_call.h"
#include "services/sdc/control/sdc_control_service.h"

namespace tessera::sdc {
namespace {

constexpr uint32_t kLongestHoldMillis = 10'000;
constexpr std::chrono::milliseconds kLongest = std::chrono::hours(1);

absl::Status CheckDeadline(uint32_t deadline_ms) {
  if (deadline_ms >= 1 && deadline_ms <= kLongestHoldMillis) return absl::OkStatus();
  return InvalidField("deadline_ms",
                      absl::StrCat("is ", deadline_ms, ", must be 1 to ", kLongestHoldMillis));
}

}  // namespace

grpc::ServerUnaryReactor* SdcControlServiceImpl::HoldWrites(grpc::CallbackServerContext* context,
                                                            const v1::HoldWritesRequest* request,
                                                            v1::HoldWritesResponse* response) {
  return rpc_.Unary(context, request, response,
                    [this](const CallContext& call, const auto& request, auto* response) {
                      return Hold(call, request, response);
                    });
}

grpc::ServerUnaryReactor* SdcControlServiceImpl::CutSnapshot(grpc::CallbackServerContext* context,
                                                             const v1::CutSnapshotRequest* request,
                                                             v1::CutSnapshotResponse* response) {
  return rpc_.Unary(context, request, response,
                    [this](const CallContext& call, const auto& request, auto* response) {
                      return Cut(call, request, response);
                    });
}

grpc::ServerUnaryReactor* SdcControlServiceImpl::ReleaseHold(grpc::CallbackServerContext* context,
                                                             const v1::ReleaseHoldRequest* request,
                                                             v1::ReleaseHoldResponse* response) {
  return rpc_.Unary(context, request, response,
                    [this](const CallContext& call, const auto& request, auto*) {
                      return Release(call, request);
                    });
}

absl::Status SdcControlServiceImpl::Hold(const CallContext& call,
                                         const v1::HoldWritesRequest& request,
                                         v1::HoldWritesResponse* response) {
  const uint64_t hold_id = request.hold_id();
  if (hold_id == 0) return InvalidField("hold_id", "must be a snapshot's hold, not 0");
  TESSERA_RETURN_IF_ERROR(CheckDeadline(request.deadline_ms()));
  TESSERA_ASSIGN_OR_RETURN(const Device device, Find(call, request.volume_id(), ""));
  const std::chrono::milliseconds longest(request.deadline_ms());
  TESSERA_ASSIGN_OR_RETURN(const absl::Status held,
                           AskLoop<absl::Status>(loop_, call.TimeLeft(kLongest),
                                                 [device, hold_id, longest](auto answer) {
                                                   device->HoldWrites(hold_id, longest,
                                                                      std::move(answer));
                                                 }));
  TESSERA_RETURN_IF_ERROR(held);
  TESSERA_ASSIGN_OR_RETURN(const uint64_t generation,
                           AskLoop<uint64_t>(loop_, call.TimeLeft(kLongest), [device](auto answer) {
                             answer(device->grant().fields.generation);
                           }));
  response->set_generation(generation);
  return absl::OkStatus();
}

absl::Status SdcControlServiceImpl::Cut(const CallContext& call,
                                        const v1::CutSnapshotRequest& request,
                                        v1::CutSnapshotResponse* response) {
  if (request.hold_id() == 0) TESSERA_RETURN_IF_ERROR(CheckDeadline(request.deadline_ms()));
  if (!request.has_grant()) return InvalidField("grant", "is missing: it names the new layer");
  TESSERA_ASSIGN_OR_RETURN(const absl::StatusOr<uint64_t> held_micros,
                           AskLoop<absl::StatusOr<uint64_t>>(
                               loop_, call.TimeLeft(kLongest), [this, request](auto answer) {
                                 attachments_.CutSnapshot(
                                     request.volume_id(), request.hold_id(), request.grant(),
                                     std::chrono::milliseconds(request.deadline_ms()),
                                     std::move(answer));
                               }));
  TESSERA_RETURN_IF_ERROR(held_micros.status());
  response->set_held_micros(*held_micros);
  return absl::OkStatus();
}

absl::Status SdcControlServiceImpl::Release(const CallContext& call,
                                            const v1::ReleaseHoldRequest& request) {
  return AskLoop<bool>(loop_, call.TimeLeft(kLongest),
                       [this, request](auto answer) {
                         const Device device = engine_.FindVolume(request.volume_id());
                         if (device != nullptr) device->ReleaseHold(request.hold_id());
                         answer(true);
                       })
      .status();
}

grpc::ServerUnaryReactor* SdcControlServiceImpl::YieldWriter(grpc::CallbackServerContext* context,
                                                             const v1::YieldWriterRequest* request,
                                                             v1::YieldWriterResponse* response) {
  return rpc_.Unary(
      context, request, response,
      [this](const CallContext& call, const auto& request, auto*) { return Yield(call, request); });
}

absl::Status SdcControlServiceImpl::Yield(const CallContext& call,
                                          const v1::YieldWriterRequest& request) {
  if (request.volume_id() == 0) return InvalidField("volume_id", "must be a volume's id, not 0");
  TESSERA_RETURN_IF_ERROR(CheckDeadline(request.deadline_ms()));
  TESSERA_ASSIGN_OR_RETURN(
      const absl::Status yielded,
      AskLoop<absl::Status>(loop_, call.TimeLeft(kLongest), [this, request](auto answer) {
        attachments_.YieldWriter(request.volume_id(), request.generation(),
                                 std::chrono::milliseconds(request.deadline_ms()),
                                 std::move(answer));
      }));
  return yielded;
}

grpc::ServerUnaryReactor* SdcControlServiceImpl::ShrinkVolume(
    grpc::CallbackServerContext* context, const v1::ShrinkVolumeRequest* request,
    v1::ShrinkVolumeResponse* response) {
  return rpc_.Unary(context, request, response,
                    [this](const CallContext& call, const auto& request, auto*) {
                      return Shrink(call, request);
                    });
}

absl::Status SdcControlServiceImpl::Shrink(const CallContext& call,
                                           const v1::ShrinkVolumeRequest& request) {
  TESSERA_ASSIGN_OR_RETURN(const Device device, Find(call, request.volume_id(), ""));
  TESSERA_ASSIGN_OR_RETURN(
      const absl::Status shrunk,
      AskLoop<absl::Status>(loop_, call.TimeLeft(kLongest), [device, request](auto answer) {
        const uint64_t generation = device->grant().fields.generation;
        if (generation != request.generation()) {
          return answer(absl::FailedPreconditionError(
              absl::StrCat("the volume is attached in generation ", generation, ", not ",
                           request.generation())));
        }
        device->Shrink(request.size_bytes(), std::move(answer));
      }));
  return shrunk;
}

grpc::ServerUnaryReactor* SdcControlServiceImpl::AdoptLayers(grpc::CallbackServerContext* context,
                                                             const v1::AdoptLayersRequest* request,
                                                             v1::AdoptLayersResponse* response) {
  return rpc_.Unary(
      context, request, response,
      [this](const CallContext& call, const auto& request, auto*) { return Adopt(call, request); });
}

absl::Status SdcControlServiceImpl::Adopt(const CallContext& call,
                                          const v1::AdoptLayersRequest& request) {
  TESSERA_ASSIGN_OR_RETURN(const Device device, Find(call, request.volume_id(), ""));
  TESSERA_ASSIGN_OR_RETURN(
      const absl::Status adopted,
      AskLoop<absl::Status>(loop_, call.TimeLeft(kLongest), [device, request](auto answer) {
        const uint64_t generation = device->grant().fields.generation;
        if (generation != request.generation()) {
          return answer(absl::FailedPreconditionError(
              absl::StrCat("the volume is attached in generation ", generation, ", not ",
                           request.generation())));
        }
        device->AdoptLayers(std::move(answer));
      }));
  return adopted;
}

}  // namespace tessera::sdc
