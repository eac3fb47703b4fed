// The console's server, put together: files, probes (/livez, /readyz) and gRPC-Web behind one port.
//
// Threads: Start, Stop and the destructor from one thread; see http_frontend.h.
#ifndef TESSERA_SERVICES_MGMT_WEB_WEB_SERVER_H_
#define TESSERA_SERVICES_MGMT_WEB_WEB_SERVER_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/mgmt/web/gateway.h"
#include "services/mgmt/web/http_frontend.h"
#include "services/mgmt/web/static_files.h"

namespace tessera::mgmt {

struct WebServerOptions {
  HttpFrontendOptions frontend;
  GatewayOptions gateway;
  std::string console_folder;  // empty: a page that says how to build the console
};

class WebServer {
 public:
  // `channels` opens a channel to the gRPC server that answers (GrpcServer::InProcessChannel).
  // `not_ready_reason` is asked for /readyz: empty when all is well; it must not block. Errors as
  // of StaticFiles::Load and HttpFrontend::Start.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<WebServer>> Start(
      const WebServerOptions& options, Gateway::ChannelSource channels,
      std::function<std::string()> not_ready_reason, MetricRegistry* metrics);
  // Stops at once. The gRPC server must still be there.
  ~WebServer();

  [[nodiscard]] const std::string& address() const { return frontend_->address(); }
  void Stop(std::chrono::milliseconds grace) { frontend_->Stop(grace); }

 private:
  class Router;
  WebServer() = default;

  std::unique_ptr<Router> router_;
  std::unique_ptr<HttpFrontend> frontend_;  // after what it calls
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_WEB_SERVER_H_
