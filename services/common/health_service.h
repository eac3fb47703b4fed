// grpc.health.v1 with synchronous methods, for servers on which gRPC's own (with callback methods)
// can't be: see services/common/grpc_queue.h. A server that answers is serving.
//
// Threads: any.
#ifndef TESSERA_SERVICES_COMMON_HEALTH_SERVICE_H_
#define TESSERA_SERVICES_COMMON_HEALTH_SERVICE_H_

#include <atomic>

#include "grpc/health/v1/health.grpc.pb.h"

namespace tessera {

class HealthService final : public grpc::health::v1::Health::Service {
 public:
  // NOT_FOUND for any service but "", the server as a whole.
  grpc::Status Check(grpc::ServerContext* context,
                     const grpc::health::v1::HealthCheckRequest* request,
                     grpc::health::v1::HealthCheckResponse* response) override;
  // One answer, then nothing until the caller or the server ends it. RESOURCE_EXHAUSTED for more
  // than kWatchersLimit: each occupies a thread.
  grpc::Status Watch(grpc::ServerContext* context,
                     const grpc::health::v1::HealthCheckRequest* request,
                     grpc::ServerWriter<grpc::health::v1::HealthCheckResponse>* writer) override;

 private:
  static constexpr int kWatchersLimit = 16;
  std::atomic<int> watchers_{0};
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_HEALTH_SERVICE_H_
