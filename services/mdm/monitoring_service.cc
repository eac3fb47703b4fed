#include "services/mdm/monitoring_service.h"

#include <utility>

#include "services/common/status_macros.h"
#include "services/common/version.h"
#include "services/mdm/event_table.h"
#include "services/mdm/request_checks.h"

namespace tessera::mdm {

absl::Status MonitoringService::Do(const CallContext&, const v1::GetStatusRequest&,
                                   v1::GetStatusResponse* response) {
  response->set_kind(v1::COMPONENT_KIND_MDM);
  response->set_component_id(1);
  response->set_name("mdm");
  response->set_state(v1::COMPONENT_STATE_ONLINE);
  response->set_software_version(kVersion);
  response->set_uptime_ms(time_->clock().BootMillis() - started_boot_ms_);
  response->set_incarnation(incarnation_);
  AddFigures(metrics_, {"tessera_mdm_commit_duration_seconds"}, response);
  response->set_mdm_time_ms(time_->NowMillis());
  return absl::OkStatus();
}

absl::Status MonitoringService::Do(const CallContext&, const v1::ListHealthLogRequest& request,
                                   v1::ListHealthLogResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(Page page, ParsePage(request.page_size(), ""));
  page.after_id = request.after_event_id();
  return store_->Read([&](SQLite::Database& db) {
    for (v1::Event& event : ListEventRows(db, page)) *response->add_events() = std::move(event);
    return absl::OkStatus();
  });
}

}  // namespace tessera::mdm
