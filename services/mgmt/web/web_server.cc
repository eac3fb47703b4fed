#include "services/mgmt/web/web_server.h"

#include <utility>

#include "services/mgmt/web/gateway_rules.h"

namespace tessera::mgmt {

class WebServer::Router final : public HttpHandler {
 public:
  Router(StaticFiles files, const GatewayOptions& gateway, Gateway::ChannelSource channels,
         std::function<std::string()> not_ready_reason, MetricRegistry* metrics)
      : files_(std::move(files)),
        not_ready_reason_(std::move(not_ready_reason)),
        gateway_(gateway, std::move(channels), metrics) {}

  void Handle(std::shared_ptr<HttpExchange> exchange) override {
    const WebRequest& request = exchange->request();
    if (IsMethodPath(request.path)) return gateway_.Handle(std::move(exchange));
    if (request.path == "/livez") return exchange->Answer(TextResponse(200, "ok"));
    if (request.path == "/readyz") {
      const std::string reason = not_ready_reason_();
      return exchange->Answer(reason.empty() ? TextResponse(200, "ok") : TextResponse(503, reason));
    }
    exchange->Answer(files_.Answer(request));
  }

 private:
  const StaticFiles files_;
  const std::function<std::string()> not_ready_reason_;
  Gateway gateway_;
};

absl::StatusOr<std::unique_ptr<WebServer>> WebServer::Start(
    const WebServerOptions& options, Gateway::ChannelSource channels,
    std::function<std::string()> not_ready_reason, MetricRegistry* metrics) {
  absl::StatusOr<StaticFiles> files = StaticFiles::Load(options.console_folder);
  if (!files.ok()) return files.status();
  std::unique_ptr<WebServer> server(new WebServer);
  server->router_ =
      std::make_unique<Router>(*std::move(files), options.gateway, std::move(channels),
                               std::move(not_ready_reason), metrics);
  absl::StatusOr<std::unique_ptr<HttpFrontend>> frontend =
      HttpFrontend::Start(options.frontend, server->router_.get(), metrics);
  if (!frontend.ok()) return frontend.status();
  server->frontend_ = *std::move(frontend);
  return server;
}

WebServer::~WebServer() = default;

}  // namespace tessera::mgmt
