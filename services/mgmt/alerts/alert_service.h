// AlertService: the gRPC face of AlertCenter.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_ALERT_SERVICE_H_
#define TESSERA_SERVICES_MGMT_ALERTS_ALERT_SERVICE_H_

#include "services/common/rpc.h"
#include "services/mgmt/alerts/alert_center.h"
#include "tessera/v1/alert.grpc.pb.h"

namespace tessera::mgmt {

class AlertServiceImpl final : public v1::AlertService::CallbackService {
 public:
  // Both must outlive it. `rpc` names "tessera.v1.AlertService".
  AlertServiceImpl(RpcDispatcher* rpc, AlertCenter* center) : rpc_(rpc), center_(center) {}

  grpc::ServerUnaryReactor* ListAlerts(grpc::CallbackServerContext* context,
                                       const v1::ListAlertsRequest* request,
                                       v1::ListAlertsResponse* response) override;
  grpc::ServerUnaryReactor* AcknowledgeAlert(grpc::CallbackServerContext* context,
                                             const v1::AcknowledgeAlertRequest* request,
                                             v1::AcknowledgeAlertResponse* response) override;
  grpc::ServerUnaryReactor* CreateSilence(grpc::CallbackServerContext* context,
                                          const v1::CreateSilenceRequest* request,
                                          v1::CreateSilenceResponse* response) override;
  grpc::ServerUnaryReactor* ListSilences(grpc::CallbackServerContext* context,
                                         const v1::ListSilencesRequest* request,
                                         v1::ListSilencesResponse* response) override;
  grpc::ServerUnaryReactor* DeleteSilence(grpc::CallbackServerContext* context,
                                          const v1::DeleteSilenceRequest* request,
                                          v1::DeleteSilenceResponse* response) override;
  grpc::ServerUnaryReactor* ListAlertRules(grpc::CallbackServerContext* context,
                                           const v1::ListAlertRulesRequest* request,
                                           v1::ListAlertRulesResponse* response) override;
  grpc::ServerUnaryReactor* ReloadAlertRules(grpc::CallbackServerContext* context,
                                             const v1::ReloadAlertRulesRequest* request,
                                             v1::ReloadAlertRulesResponse* response) override;

 private:
  RpcDispatcher* const rpc_;
  AlertCenter* const center_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_ALERT_SERVICE_H_
