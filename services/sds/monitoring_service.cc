#include "services/sds/monitoring_service.h"

#include <algorithm>

#include "services/common/status_macros.h"
#include "services/common/version.h"

namespace tessera::sds {
namespace {

constexpr uint32_t kDefaultPage = 100;
constexpr uint32_t kLargestPage = 1'000;

}  // namespace

grpc::ServerUnaryReactor* MonitoringServiceImpl::GetStatus(grpc::CallbackServerContext* context,
                                                           const v1::GetStatusRequest* request,
                                                           v1::GetStatusResponse* response) {
  return rpc_->Unary(
      context, request, response,
      [this](const CallContext&, const v1::GetStatusRequest&, v1::GetStatusResponse* status) {
        Describe(status);
        return absl::OkStatus();
      });
}

void MonitoringServiceImpl::Describe(v1::GetStatusResponse* response) const {
  const token::MdmTime now = mdm_clock_->Now();
  response->set_kind(v1::COMPONENT_KIND_SDS);
  response->set_component_id(state_->node().sds_id);
  response->set_name(name_);
  response->set_state(health_->state());
  for (const v1::HealthProblem& problem : health_->Problems()) *response->add_problems() = problem;
  response->set_software_version(std::string(kVersion));
  response->set_uptime_ms(clock_->BootMillis() - started_ms_);
  response->set_incarnation(state_->node().incarnation);
  AddFigures(registry_,
             {"tessera_sds_apply_duration_seconds", "tessera_sds_cold_read_duration_seconds",
              "tessera_sds_flush_duration_seconds", "tessera_sds_io_duration_seconds",
              "tessera_sds_queue_duration_seconds"},
             response);
  response->set_mdm_time_ms(now.earliest_ms + (now.latest_ms - now.earliest_ms) / 2);
  response->set_mdm_time_error_ms((now.latest_ms - now.earliest_ms + 1) / 2);
}

grpc::ServerUnaryReactor* MonitoringServiceImpl::ListHealthLog(
    grpc::CallbackServerContext* context, const v1::ListHealthLogRequest* request,
    v1::ListHealthLogResponse* response) {
  return rpc_->Unary(
      context, request, response,
      [this](const CallContext&, const v1::ListHealthLogRequest& list,
             v1::ListHealthLogResponse* log) -> absl::Status {
        const uint32_t asked = list.page_size() == 0 ? kDefaultPage : list.page_size();
        TESSERA_ASSIGN_OR_RETURN(
            const std::vector<v1::Event> events,
            state_->HealthEvents(list.after_event_id(), std::min(asked, kLargestPage)));
        for (const v1::Event& event : events) *log->add_events() = event;
        return absl::OkStatus();
      });
}

}  // namespace tessera::sds
