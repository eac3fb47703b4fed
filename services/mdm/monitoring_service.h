// MonitoringService: what the MDM says of itself.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MDM_MONITORING_SERVICE_H_
#define TESSERA_SERVICES_MDM_MONITORING_SERVICE_H_

#include <cstdint>

#include "services/mdm/mdm_store.h"
#include "services/mdm/mdm_time.h"
#include "services/mdm/rpc_methods.h"
#include "tessera/v1/monitoring.grpc.pb.h"

namespace tessera::mdm {

class MonitoringService final : public v1::MonitoringService::CallbackService {
 public:
  MonitoringService(RpcDispatcher* rpc, uint64_t incarnation, const MdmStore* store,
                    MetricRegistry* metrics, const MdmTime* time)
      : rpc_(rpc),
        incarnation_(incarnation),
        started_boot_ms_(time->clock().BootMillis()),
        store_(store),
        metrics_(metrics),
        time_(time) {}

  TESSERA_MDM_UNARY(GetStatus);
  TESSERA_MDM_UNARY(ListHealthLog);

 private:
  RpcDispatcher* const rpc_;
  const uint64_t incarnation_;
  const uint64_t started_boot_ms_;
  const MdmStore* const store_;
  MetricRegistry* const metrics_;
  const MdmTime* const time_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MONITORING_SERVICE_H_
