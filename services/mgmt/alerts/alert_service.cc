#include "services/mgmt/alerts/alert_service.h"

#include <utility>

#include "services/common/status_macros.h"

namespace tessera::mgmt {

grpc::ServerUnaryReactor* AlertServiceImpl::ListAlerts(grpc::CallbackServerContext* context,
                                                       const v1::ListAlertsRequest* request,
                                                       v1::ListAlertsResponse* response) {
  return rpc_->Unary(
      context, request, response,
      [this](const CallContext&, const v1::ListAlertsRequest& list,
             v1::ListAlertsResponse* answer) { return center_->List(list, answer); });
}

grpc::ServerUnaryReactor* AlertServiceImpl::AcknowledgeAlert(
    grpc::CallbackServerContext* context, const v1::AcknowledgeAlertRequest* request,
    v1::AcknowledgeAlertResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext& call, const v1::AcknowledgeAlertRequest& acknowledge,
                            v1::AcknowledgeAlertResponse* answer) -> absl::Status {
                       TESSERA_ASSIGN_OR_RETURN(
                           *answer->mutable_alert(),
                           center_->Acknowledge(acknowledge.alert_id(), acknowledge.comment(),
                                                call.caller().name));
                       return absl::OkStatus();
                     });
}

grpc::ServerUnaryReactor* AlertServiceImpl::CreateSilence(grpc::CallbackServerContext* context,
                                                          const v1::CreateSilenceRequest* request,
                                                          v1::CreateSilenceResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext& call, const v1::CreateSilenceRequest& create,
                            v1::CreateSilenceResponse* answer) -> absl::Status {
                       TESSERA_ASSIGN_OR_RETURN(*answer->mutable_silence(),
                                                center_->Silence(create, call.caller().name));
                       return absl::OkStatus();
                     });
}

grpc::ServerUnaryReactor* AlertServiceImpl::ListSilences(grpc::CallbackServerContext* context,
                                                         const v1::ListSilencesRequest* request,
                                                         v1::ListSilencesResponse* response) {
  return rpc_->Unary(
      context, request, response,
      [this](const CallContext&, const v1::ListSilencesRequest&, v1::ListSilencesResponse* answer) {
        for (v1::Silence& silence : center_->Silences()) {
          *answer->add_silences() = std::move(silence);
        }
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AlertServiceImpl::DeleteSilence(grpc::CallbackServerContext* context,
                                                          const v1::DeleteSilenceRequest* request,
                                                          v1::DeleteSilenceResponse* response) {
  return rpc_->Unary(
      context, request, response,
      [this](const CallContext&, const v1::DeleteSilenceRequest& remove,
             v1::DeleteSilenceResponse*) { return center_->Unsilence(remove.silence_id()); });
}

grpc::ServerUnaryReactor* AlertServiceImpl::ListAlertRules(grpc::CallbackServerContext* context,
                                                           const v1::ListAlertRulesRequest* request,
                                                           v1::ListAlertRulesResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const v1::ListAlertRulesRequest&,
                            v1::ListAlertRulesResponse* answer) {
                       for (v1::AlertRule& rule : center_->Rules()) {
                         *answer->add_rules() = std::move(rule);
                       }
                       return absl::OkStatus();
                     });
}

grpc::ServerUnaryReactor* AlertServiceImpl::ReloadAlertRules(
    grpc::CallbackServerContext* context, const v1::ReloadAlertRulesRequest* request,
    v1::ReloadAlertRulesResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const v1::ReloadAlertRulesRequest&,
                            v1::ReloadAlertRulesResponse* answer) -> absl::Status {
                       TESSERA_ASSIGN_OR_RETURN(const uint32_t rules, center_->ReloadRules());
                       answer->set_rules(rules);
                       return absl::OkStatus();
                     });
}

}  // namespace tessera::mgmt
