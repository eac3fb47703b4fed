// SdcControlService: where the time of a volume's requests went, as this client saw it.
#include "services/common/latency_explainer.h"
#include "services/common/status_macros.h"
#include "services/sdc/control/loop_call.h"
#include "services/sdc/control/sdc_control_service.h"

namespace tessera::sdc {
namespace {

constexpr std::chrono::milliseconds kLongest = std::chrono::seconds(30);

}  // namespace

grpc::ServerUnaryReactor* SdcControlServiceImpl::ExplainVolumeLatency(
    grpc::CallbackServerContext* context, const v1::ExplainVolumeLatencyRequest* request,
    v1::ExplainVolumeLatencyResponse* response) {
  return rpc_.Unary(context, request, response,
                    [this](const CallContext& call, const auto& request, auto* response) {
                      return Explain(call, request, response);
                    });
}

absl::Status SdcControlServiceImpl::Explain(const CallContext& call,
                                            const v1::ExplainVolumeLatencyRequest& request,
                                            v1::ExplainVolumeLatencyResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const uint32_t window_s, CheckLatencyWindow(request.window_s()));
  TESSERA_ASSIGN_OR_RETURN(const Device device,
                           Find(call, request.volume_id(), request.volume_name()));
  TESSERA_ASSIGN_OR_RETURN(
      *response->mutable_figures(),
      AskLoop<v1::LatencyFigures>(loop_, call.TimeLeft(kLongest),
                                  [device, window_s, operation = request.operation()](auto answer) {
                                    answer(device->Latency(window_s, operation));
                                  }));
  *response->mutable_explanation() = ExplainLatency(response->figures(), {});
  response->mutable_explanation()->set_volume_id(device->volume_id());
  response->mutable_explanation()->set_volume_name(device->name());
  return absl::OkStatus();
}

}  // namespace tessera::sdc
