#include "services/mgmt/monitor/monitoring_service.h"

#include <algorithm>
#include <utility>

#include "services/common/version.h"

namespace tessera::mgmt {
namespace {

constexpr uint32_t kDefaultPage = 100;
constexpr uint32_t kLargestPage = 1'000;

}  // namespace

SelfDescription::SelfDescription(std::string name, const MgmtHealth* health, const Clock* clock,
                                 MetricRegistry* metrics)
    : name_(std::move(name)),
      health_(health),
      clock_(clock),
      metrics_(metrics),
      started_boot_ms_(clock->BootMillis()),
      // It keeps no state that an old life could spoil: any number that differs will do.
      incarnation_(clock->WallMillis()) {}

void SelfDescription::Describe(v1::GetStatusResponse* answer) const {
  answer->set_kind(v1::COMPONENT_KIND_MGMT);
  answer->set_component_id(1);
  answer->set_name(name_);
  for (v1::HealthProblem& problem : health_->Problems()) {
    *answer->add_problems() = std::move(problem);
  }
  answer->set_state(answer->problems().empty() ? v1::COMPONENT_STATE_ONLINE
                                               : v1::COMPONENT_STATE_DEGRADED);
  answer->set_software_version(kVersion);
  answer->set_uptime_ms(clock_->BootMillis() - started_boot_ms_);
  answer->set_incarnation(incarnation_);
  AddFigures(metrics_, {"tessera_mgmt_poll_duration_seconds"}, answer);
}

grpc::ServerUnaryReactor* MonitoringService::GetStatus(grpc::CallbackServerContext* context,
                                                       const v1::GetStatusRequest* request,
                                                       v1::GetStatusResponse* response) {
  return rpc_->Unary(
      context, request, response,
      [this](const CallContext&, const v1::GetStatusRequest&, v1::GetStatusResponse* answer) {
        self_->Describe(answer);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* MonitoringService::ListHealthLog(grpc::CallbackServerContext* context,
                                                           const v1::ListHealthLogRequest* request,
                                                           v1::ListHealthLogResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const v1::ListHealthLogRequest& list,
                            v1::ListHealthLogResponse* log) {
                       const uint32_t asked =
                           list.page_size() == 0 ? kDefaultPage : list.page_size();
                       for (v1::Event& event : self_->health().After(
                                list.after_event_id(), std::min(asked, kLargestPage))) {
                         *log->add_events() = std::move(event);
                       }
                       return absl::OkStatus();
                     });
}

}  // namespace tessera::mgmt
