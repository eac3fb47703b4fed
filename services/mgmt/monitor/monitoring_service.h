// MonitoringService of MGMT itself.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_MONITORING_SERVICE_H_
#define TESSERA_SERVICES_MGMT_MONITOR_MONITORING_SERVICE_H_

#include <cstdint>
#include <string>

#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/common/rpc.h"
#include "services/mgmt/monitor/mgmt_health.h"
#include "tessera/v1/monitoring.grpc.pb.h"

namespace tessera::mgmt {

// What MGMT says of itself.
class SelfDescription {
 public:
  // All must outlive it.
  SelfDescription(std::string name, const MgmtHealth* health, const Clock* clock,
                  MetricRegistry* metrics);
  void Describe(v1::GetStatusResponse* answer) const;
  [[nodiscard]] const MgmtHealth& health() const { return *health_; }

 private:
  const std::string name_;
  const MgmtHealth* const health_;
  const Clock* const clock_;
  MetricRegistry* const metrics_;
  const uint64_t started_boot_ms_;
  const uint64_t incarnation_;
};

class MonitoringService final : public v1::MonitoringService::CallbackService {
 public:
  MonitoringService(const SelfDescription* self, RpcDispatcher* rpc) : self_(self), rpc_(rpc) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* ListHealthLog(grpc::CallbackServerContext* context,
                                          const v1::ListHealthLogRequest* request,
                                          v1::ListHealthLogResponse* response) override;

 private:
  const SelfDescription* const self_;
  RpcDispatcher* const rpc_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_MONITORING_SERVICE_H_
