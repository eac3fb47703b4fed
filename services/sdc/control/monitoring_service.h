// MonitoringService of the client.
//
// Threads: gRPC's and the dispatcher's.
#ifndef TESSERA_SERVICES_SDC_CONTROL_MONITORING_SERVICE_H_
#define TESSERA_SERVICES_SDC_CONTROL_MONITORING_SERVICE_H_

#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/common/rpc.h"
#include "services/sdc/control/health_log.h"
#include "services/sdc/control/mdm_link.h"
#include "services/sdc/engine/io_engine.h"
#include "tessera/v1/monitoring.grpc.pb.h"

namespace tessera::sdc {

class MonitoringServiceImpl final : public v1::MonitoringService::CallbackService {
 public:
  struct Parts {
    RpcDispatcher* rpc = nullptr;
    EventLoop* loop = nullptr;
    const Clock* clock = nullptr;
    MetricRegistry* metrics = nullptr;
    const HealthLog* health_log = nullptr;
    const MdmLink* link = nullptr;
    const IoEngine* engine = nullptr;
    const LocalState* state = nullptr;  // read on the loop
  };
  // All must outlive it.
  explicit MonitoringServiceImpl(const Parts& parts)
      : parts_(parts), started_nanos_(parts.clock->BootNanos()) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* ListHealthLog(grpc::CallbackServerContext* context,
                                          const v1::ListHealthLogRequest* request,
                                          v1::ListHealthLogResponse* response) override;

 private:
  [[nodiscard]] absl::Status Status(const CallContext& call, v1::GetStatusResponse* response);

  const Parts parts_;
  const uint64_t started_nanos_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_MONITORING_SERVICE_H_
