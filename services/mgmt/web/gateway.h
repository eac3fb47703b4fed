// gRPC-Web from browsers to the gRPC server of this process, over a private channel: unary calls
// and server streams by one path, both forms of the protocol, deadlines, metadata by allow-lists.
//
// Credentials: the cookie `tessera-session` (with TLS `__Host-tessera-session`) becomes
// `authorization: Bearer …`, unless the page sent that header itself. A handler sets the cookie by
// initial metadata `x-gw-set-session: session.<id>.<hex>`, and clears it with an empty value.
// Browsers can't send metadata that begins with "x-gw-"; `x-gw-peer` and `x-gw-user-agent` are the
// gateway's word for where the browser is.
//
// Foreign pages are refused before anything is called: only gRPC-Web's content types (no page can
// send them across origins without asking first, and it is never allowed to), no foreign `Origin`,
// no `Sec-Fetch-Site` but same-origin.
//
// Flow control: the next message is read from the server when the one before is with the operating
// system, so a browser that does not read slows the server down and takes no memory.
//
// Threads: Handle on the frontend's thread. The gateway must outlive its calls (HttpFrontend::Stop
// waits for them).
#ifndef TESSERA_SERVICES_MGMT_WEB_GATEWAY_H_
#define TESSERA_SERVICES_MGMT_WEB_GATEWAY_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/mgmt/web/grpcweb_codec.h"
#include "services/mgmt/web/http_exchange.h"

namespace grpc {
class Channel;
}
namespace prometheus {
class Gauge;
}
namespace tessera {
class MetricRegistry;
}

namespace tessera::mgmt {

struct GatewayOptions {
  size_t message_limit = 4 << 20;       // of a request
  size_t calls_per_session_limit = 64;  // open at once; of callers without credentials, by address
  size_t call_limit = 1024;             // open at once in all
  // A call that gets no message for so long is ended; streams have heartbeats.
  std::chrono::milliseconds silence_limit{120'000};
};

class Gateway final : public HttpHandler {
 public:
  // Opens a channel to the gRPC server; called again when the one before broke.
  using ChannelSource = std::function<absl::StatusOr<std::shared_ptr<grpc::Channel>>()>;

  Gateway(const GatewayOptions& options, ChannelSource channels, MetricRegistry* metrics);
  ~Gateway() override;

  // Answers POST to "/<package>.<Service>/<Method>".
  void Handle(std::shared_ptr<HttpExchange> exchange) override;

 private:
  class Call;
  class Reactor;
  struct Line;  // a channel and its stub

  [[nodiscard]] absl::StatusOr<std::shared_ptr<Line>> OpenLine();
  // The channel broke under a call: the next call opens another.
  void Suspect(const std::shared_ptr<Line>& line);
  // RESOURCE_EXHAUSTED when the holder, or all together, have too many calls open.
  [[nodiscard]] absl::Status Enter(const std::string& holder);
  void Leave(const std::string& holder);

  const GatewayOptions options_;
  const ChannelSource channels_;
  prometheus::Gauge* const streams_open_;
  // The frontend's thread.
  std::shared_ptr<Line> line_;  // shared with calls
  std::map<std::string, size_t> open_calls_;
  size_t open_in_all_ = 0;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_GATEWAY_H_
