#include "services/common/health_service.h"

#include <chrono>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

constexpr std::chrono::milliseconds kChangeCheck{200};

}  // namespace

HealthService::HealthService()
    : answers_([](const std::string& service) {
        return service.empty() ? std::optional<bool>(true) : std::nullopt;
      }) {}

HealthCheckResponse::ServingStatus HealthService::StatusOf(const std::string& service) const {
  const std::optional<bool> serving = answers_(service);
  if (!serving.has_value()) return HealthCheckResponse::SERVICE_UNKNOWN;
  return *serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

grpc::Status HealthService::Check(grpc::ServerContext*, const HealthCheckRequest* request,
                                  HealthCheckResponse* response) {
  const auto status = StatusOf(request->service());
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    return {grpc::StatusCode::NOT_FOUND,
            absl::StrCat("nothing is known of the health of a service '", request->service(),
                         "' here: ask for \"\", the server as a whole")};
  }
  response->set_status(status);
  return grpc::Status::OK;
}

grpc::Status HealthService::Watch(grpc::ServerContext* context, const HealthCheckRequest* request,
                                  grpc::ServerWriter<HealthCheckResponse>* writer) {
  if (watchers_.fetch_add(1) >= kWatchersLimit) {
    watchers_.fetch_sub(1);
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watch this server's health: use Check"};
  }
  HealthCheckResponse response;
  response.set_status(StatusOf(request->service()));
  writer->Write(response);
  // A synchronous call learns of its end by asking only.
  while (!context->IsCancelled()) {
    std::this_thread::sleep_for(kChangeCheck);
    const auto status = StatusOf(request->service());
    if (status == response.status()) continue;
    response.set_status(status);
    writer->Write(response);
  }
  watchers_.fetch_sub(1);
  return grpc::Status::CANCELLED;
}

}  // namespace tessera
