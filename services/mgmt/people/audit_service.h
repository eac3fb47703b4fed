// AuditService: the audit log, for admins.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_SERVICE_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_SERVICE_H_

#include "services/common/rpc.h"
#include "services/mgmt/people/audit_log.h"
#include "tessera/v1/audit.grpc.pb.h"

namespace tessera::mgmt {

class AuditService final : public v1::AuditService::CallbackService {
 public:
  AuditService(RpcDispatcher* rpc, const AuditLog* log) : rpc_(rpc), log_(log) {}

  grpc::ServerUnaryReactor* ListAuditEntries(grpc::CallbackServerContext* context,
                                             const v1::ListAuditEntriesRequest* request,
                                             v1::ListAuditEntriesResponse* response) override {
    return rpc_->Unary(context, request, response,
                       [this](const CallContext&, const auto& message, auto* answer) {
                         return Do(message, answer);
                       });
  }
  grpc::ServerUnaryReactor* VerifyAuditLog(grpc::CallbackServerContext* context,
                                           const v1::VerifyAuditLogRequest* request,
                                           v1::VerifyAuditLogResponse* response) override {
    return rpc_->Unary(context, request, response,
                       [this](const CallContext&, const auto& message, auto* answer) {
                         return Do(message, answer);
                       });
  }
  absl::Status Do(const v1::ListAuditEntriesRequest& request,
                  v1::ListAuditEntriesResponse* response) const;
  absl::Status Do(const v1::VerifyAuditLogRequest& request,
                  v1::VerifyAuditLogResponse* response) const;

 private:
  RpcDispatcher* const rpc_;
  const AuditLog* const log_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_SERVICE_H_
