#include "services/sdc/control/monitoring_service.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"
#include "services/common/version.h"
#include "services/sdc/control/loop_call.h"

namespace tessera::sdc {
namespace {

constexpr std::chrono::milliseconds kLongest = std::chrono::seconds(10);
constexpr uint32_t kDefaultPage = 100;
constexpr uint32_t kLargestPage = 1000;

}  // namespace

grpc::ServerUnaryReactor* MonitoringServiceImpl::GetStatus(grpc::CallbackServerContext* context,
                                                           const v1::GetStatusRequest* request,
                                                           v1::GetStatusResponse* response) {
  return parts_.rpc->Unary(context, request, response,
                           [this](const CallContext& call, const auto&, auto* response) {
                             return Status(call, response);
                           });
}

grpc::ServerUnaryReactor* MonitoringServiceImpl::ListHealthLog(
    grpc::CallbackServerContext* context, const v1::ListHealthLogRequest* request,
    v1::ListHealthLogResponse* response) {
  return parts_.rpc->Unary(
      context, request, response,
      [this](const CallContext&, const auto& request, auto* response) -> absl::Status {
        const uint32_t asked = request.page_size() == 0 ? kDefaultPage : request.page_size();
        for (v1::Event& event :
             parts_.health_log->After(request.after_event_id(), std::min(asked, kLargestPage))) {
          *response->add_events() = std::move(event);
        }
        return absl::OkStatus();
      });
}

absl::Status MonitoringServiceImpl::Status(const CallContext& call,
                                           v1::GetStatusResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(
      *response,
      AskLoop<v1::GetStatusResponse>(*parts_.loop, call.TimeLeft(kLongest), [this](auto answer) {
        v1::GetStatusResponse status;
        const LocalIdentity& identity = parts_.state->identity();
        status.set_component_id(identity.sdc_id);
        status.set_name(identity.name);
        status.set_incarnation(identity.incarnation);
        for (const auto& volume : parts_.engine->Volumes()) {
          const std::string why = volume->WaitingFor();
          if (why.empty()) continue;
          v1::HealthProblem* problem = status.add_problems();
          problem->set_code("io_waits");
          problem->set_message(absl::StrCat(volume->name(), ": IO waits for ", why));
        }
        answer(std::move(status));
      }));
  response->set_kind(v1::COMPONENT_KIND_SDC);
  if (!parts_.link->reachable()) {
    v1::HealthProblem* problem = response->add_problems();
    problem->set_code("mdm_unreachable");
    problem->set_message("the MDM does not answer: IO goes on without it");
  }
  response->set_state(response->problems().empty() ? v1::COMPONENT_STATE_ONLINE
                                                   : v1::COMPONENT_STATE_DEGRADED);
  response->set_software_version(kVersion);
  response->set_uptime_ms((parts_.clock->BootNanos() - started_nanos_) / 1'000'000);
  AddFigures(parts_.metrics, {"tessera_sdc_io_duration_seconds"}, response);
  const MdmTimeEstimator::Estimate time = parts_.link->mdm_time().Now();
  if (time.known) {
    response->set_mdm_time_ms((time.earliest_ms + time.latest_ms) / 2);
    response->set_mdm_time_error_ms((time.latest_ms - time.earliest_ms + 1) / 2);
  }
  return absl::OkStatus();
}

}  // namespace tessera::sdc
