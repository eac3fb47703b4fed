// grpc.health.v1 with synchronous methods, for servers on which gRPC's own (with callback methods)
// can't be: see services/common/grpc_queue.h; and for ports that know more than that they answer.
//
// Threads: any.
#ifndef TESSERA_SERVICES_COMMON_HEALTH_SERVICE_H_
#define TESSERA_SERVICES_COMMON_HEALTH_SERVICE_H_

#include <atomic>
#include <functional>
#include <optional>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"

namespace tessera {

class HealthService final : public grpc::health::v1::Health::Service {
 public:
  // Whether a service is serving; nothing: there is no such service. Must not block.
  using Answers = std::function<std::optional<bool>(const std::string& service)>;
  // Knows "", the server as a whole, which is serving as it answers.
  HealthService();
  explicit HealthService(Answers answers) : answers_(std::move(answers)) {}
  // NOT_FOUND for a service that it does not know.
  grpc::Status Check(grpc::ServerContext* context,
                     const grpc::health::v1::HealthCheckRequest* request,
                     grpc::health::v1::HealthCheckResponse* response) override;
  // An answer now and after each change (seen within 0.2 s), until the caller or the server ends
  // it. RESOURCE_EXHAUSTED for more than kWatchersLimit: each occupies a thread.
  grpc::Status Watch(grpc::ServerContext* context,
                     const grpc::health::v1::HealthCheckRequest* request,
                     grpc::ServerWriter<grpc::health::v1::HealthCheckResponse>* writer) override;

 private:
  static constexpr int kWatchersLimit = 16;
  [[nodiscard]] grpc::health::v1::HealthCheckResponse::ServingStatus StatusOf(
      const std::string& service) const;

  const Answers answers_;
  std::atomic<int> watchers_{0};
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_HEALTH_SERVICE_H_
