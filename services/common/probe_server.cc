#include "services/common/probe_server.h"

#include <CLI/CLI.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/grpc_server.h"
#include "services/common/health_service.h"
#include "services/common/status_macros.h"

namespace tessera {

ProbeServer::ProbeServer() = default;
ProbeServer::~ProbeServer() {
  if (server_ != nullptr) server_->Shutdown(/*grace_ms=*/100);
}

void ProbeServer::AddFlags(CLI::App* app) {
  app->add_option("--health-listen", listen_,
                  "Address of a port for probes: grpc.health.v1 in plain text and nothing else "
                  "(services liveness, startup, readiness); port 0: any free one. Default: none.");
}

absl::Status ProbeServer::Check() const {
  if (listen_.empty() || listen_.find(':') != std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--health-listen '", listen_, "': must be host:port, such as 0.0.0.0:8007"));
}

absl::Status ProbeServer::Start() {
  if (listen_.empty()) return absl::OkStatus();
  health_ = std::make_unique<HealthService>([this](const std::string& service) {
    const bool known =
        service.empty() || service == "readiness" || service == "startup" || service == "liveness";
    return known ? std::optional<bool>(IsServing(service)) : std::nullopt;
  });
  GrpcServerOptions options;
  options.listen = {listen_};
  options.security.insecure = true;
  options.health = health_.get();
  auto server = GrpcServer::Start(options, {});
  if (!server.ok()) {
    return absl::Status(server.status().code(),
                        absl::StrCat("--health-listen: ", server.status().message()));
  }
  server_ = *std::move(server);
  return absl::OkStatus();
}

std::string ProbeServer::address() const {
  return server_ == nullptr ? "" : server_->addresses().front();
}

void ProbeServer::Started(std::function<std::string()> not_ready_reason) {
  absl::MutexLock lock(&mutex_);
  if (phase_ != Phase::kStarting) return;
  phase_ = Phase::kStarted;
  not_ready_reason_ = std::move(not_ready_reason);
}

void ProbeServer::Stopping() {
  absl::MutexLock lock(&mutex_);
  phase_ = Phase::kStopping;
  not_ready_reason_ = nullptr;
}

bool ProbeServer::IsServing(const std::string& service) const {
  if (service == "liveness") return true;
  absl::MutexLock lock(&mutex_);
  if (service == "startup") return phase_ != Phase::kStarting;
  return phase_ == Phase::kStarted && not_ready_reason_().empty();
}

}  // namespace tessera
