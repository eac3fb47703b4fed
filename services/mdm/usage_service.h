// UsageService: what volumes, snapshots, pools and the cluster take.
//
// Threads: handlers run on the dispatcher's threads and wait for servers.
#ifndef TESSERA_SERVICES_MDM_USAGE_SERVICE_H_
#define TESSERA_SERVICES_MDM_USAGE_SERVICE_H_

#include "services/mdm/mdm_store.h"
#include "services/mdm/rpc_methods.h"
#include "services/mdm/space_measurer.h"
#include "tessera/v1/usage.grpc.pb.h"

namespace tessera::mdm {

class UsageService final : public v1::UsageService::CallbackService {
 public:
  UsageService(RpcDispatcher* rpc, const MdmStore* store, SpaceMeasurer* measurer)
      : rpc_(rpc), store_(store), measurer_(measurer) {}

  TESSERA_MDM_UNARY(GetUsage);

 private:
  RpcDispatcher* const rpc_;
  const MdmStore* const store_;
  SpaceMeasurer* const measurer_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_USAGE_SERVICE_H_
