#include "services/common/health_service.h"

#include <chrono>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

constexpr std::chrono::milliseconds kCancelCheck{200};

}  // namespace

grpc::Status HealthService::Check(grpc::ServerContext*, const HealthCheckRequest* request,
                                  HealthCheckResponse* response) {
  if (!request->service().empty()) {
    return {grpc::StatusCode::NOT_FOUND,
            absl::StrCat("health is known of the whole server only (service \"\"), not of '",
                         request->service(), "'")};
  }
  response->set_status(HealthCheckResponse::SERVING);
  return grpc::Status::OK;
}

grpc::Status HealthService::Watch(grpc::ServerContext* context, const HealthCheckRequest* request,
                                  grpc::ServerWriter<HealthCheckResponse>* writer) {
  if (watchers_.fetch_add(1) >= kWatchersLimit) {
    watchers_.fetch_sub(1);
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watch this server's health: use Check"};
  }
  HealthCheckResponse response;
  response.set_status(request->service().empty() ? HealthCheckResponse::SERVING
                                                 : HealthCheckResponse::SERVICE_UNKNOWN);
  writer->Write(response);
  // A synchronous call learns of its end by asking only.
  while (!context->IsCancelled()) std::this_thread::sleep_for(kCancelCheck);
  watchers_.fetch_sub(1);
  return grpc::Status::CANCELLED;
}

}  // namespace tessera
