// LatencyService: where the time of a volume's requests goes. Its clients have added it up; here
// their figures are put together and named.
//
// Threads: handlers run on the dispatcher's threads and wait for clients.
#ifndef TESSERA_SERVICES_MDM_LATENCY_SERVICE_H_
#define TESSERA_SERVICES_MDM_LATENCY_SERVICE_H_

#include "services/mdm/mdm_store.h"
#include "services/mdm/node_control.h"
#include "services/mdm/rpc_methods.h"
#include "tessera/v1/latency.grpc.pb.h"

namespace tessera::mdm {

class LatencyService final : public v1::LatencyService::CallbackService {
 public:
  LatencyService(RpcDispatcher* rpc, const MdmStore* store, NodeControl* control)
      : rpc_(rpc), store_(store), control_(control) {}

  TESSERA_MDM_UNARY(ExplainLatency);

 private:
  RpcDispatcher* const rpc_;
  const MdmStore* const store_;
  NodeControl* const control_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_LATENCY_SERVICE_H_
