// The HTTP/1.1 server of every part: metrics and probes (and the console, in MGMT). Boost.Beast
// behind a small interface, one translation unit.
//
// Threads: one thread of its own runs sockets and handlers. Handlers are quick and don't block.
#ifndef TESSERA_SERVICES_COMMON_HTTP_SERVER_H_
#define TESSERA_SERVICES_COMMON_HTTP_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

class MetricRegistry;

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // without the query
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

struct HttpServerOptions {
  std::string listen = "127.0.0.1:0";  // "host:port"; port 0 picks a free one
  size_t connection_limit = 256;       // more are closed at once
};

class HttpServer {
 public:
  using Handler = std::function<HttpResponse(const HttpRequest&)>;
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const HttpServerOptions& options, Handler handler);
  virtual ~HttpServer() = default;  // closes all connections
  // "127.0.0.1:8002", with the real port.
  [[nodiscard]] virtual const std::string& address() const = 0;
};

// Serves /metrics from the registry, /livez (the process is not stuck) and /readyz (`ready` says
// OK, or why not, with 503).
[[nodiscard]] HttpServer::Handler MetricsHandler(MetricRegistry* registry,
                                                 std::function<std::string()> not_ready_reason);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_HTTP_SERVER_H_
