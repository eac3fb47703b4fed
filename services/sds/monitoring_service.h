// MonitoringService: this server's state and figures.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_SDS_MONITORING_SERVICE_H_
#define TESSERA_SERVICES_SDS_MONITORING_SERVICE_H_

#include <string>
#include <utility>

#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/common/rpc.h"
#include "services/sds/health_board.h"
#include "services/sds/local_state.h"
#include "services/sds/mdm_clock.h"
#include "tessera/v1/monitoring.grpc.pb.h"

namespace tessera::sds {

class MonitoringServiceImpl final : public v1::MonitoringService::CallbackService {
 public:
  // All must outlive the service.
  MonitoringServiceImpl(std::string name, LocalState* state, const HealthBoard* health,
                        const MdmClock* mdm_clock, const Clock* clock, MetricRegistry* registry,
                        RpcDispatcher* rpc)
      : name_(std::move(name)),
        state_(state),
        health_(health),
        mdm_clock_(mdm_clock),
        clock_(clock),
        registry_(registry),
        rpc_(rpc),
        started_ms_(clock->BootMillis()) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* ListHealthLog(grpc::CallbackServerContext* context,
                                          const v1::ListHealthLogRequest* request,
                                          v1::ListHealthLogResponse* response) override;

 private:
  void Describe(v1::GetStatusResponse* response) const;

  const std::string name_;
  LocalState* const state_;
  const HealthBoard* const health_;
  const MdmClock* const mdm_clock_;
  const Clock* const clock_;
  MetricRegistry* const registry_;
  RpcDispatcher* const rpc_;
  const uint64_t started_ms_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_MONITORING_SERVICE_H_
