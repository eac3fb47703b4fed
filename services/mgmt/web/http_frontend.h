// The HTTP/1.1 server of the console: keep-alive, TLS, streamed answers, and limits that hold
// against clients that are slow, silent, too many or hostile. Boost.Beast behind a small interface,
// one translation unit.
//
// Promises: an answer is delivered whole or its connection is closed; a client that goes away is
// noticed at once (unless it sent more than `read_ahead_limit` beyond its request); pipelined
// requests are answered in order; no client makes the server keep more than the limits below.
//
// Threads: one of its own runs the sockets and the handler. Start, Stop and the destructor from one
// thread, which is not that.
#ifndef TESSERA_SERVICES_MGMT_WEB_HTTP_FRONTEND_H_
#define TESSERA_SERVICES_MGMT_WEB_HTTP_FRONTEND_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/mgmt/web/http_exchange.h"

namespace tessera {
class MetricRegistry;
}

namespace tessera::mgmt {

struct HttpFrontendOptions {
  std::string listen = "127.0.0.1:0";  // "address:port" or "[address]:port"; port 0: any free
  // PEM files for TLS, read again when they change. Both empty: plain text, on loopback only.
  std::string certificate_file;
  std::string key_file;
  std::chrono::milliseconds certificate_check_interval{5'000};

  size_t header_limit = 16 << 10;        // of a request
  size_t body_limit = 4 << 20;           // of a request
  size_t body_limit_in_all = 256 << 20;  // of all requests that are being received or answered
  size_t read_ahead_limit = 64 << 10;    // what a client may send while it is answered
  size_t connection_limit = 1024;        // beyond it idle ones are closed, and then new ones
  std::chrono::milliseconds idle_timeout{60'000};  // between requests
  std::chrono::milliseconds header_timeout{
      10'000};                                      // from a request's first byte to its empty line
  std::chrono::milliseconds body_timeout{60'000};   // from there to the end of its body
  std::chrono::milliseconds write_timeout{60'000};  // in which a client must take a byte
};

class HttpFrontend {
 public:
  // The handler and the registry must outlive the server. INVALID_ARGUMENT for options that can't
  // be, UNAVAILABLE when the address can't be bound.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<HttpFrontend>> Start(
      const HttpFrontendOptions& options, HttpHandler* handler, MetricRegistry* metrics);
  virtual ~HttpFrontend() = default;  // Stop(0)

  // "127.0.0.1:5000", with the real port.
  [[nodiscard]] virtual const std::string& address() const = 0;
  // Takes no more requests, gives those that are being answered the grace time, aborts the rest,
  // and waits until their handlers have let go of them. Idempotent.
  virtual void Stop(std::chrono::milliseconds grace) = 0;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_HTTP_FRONTEND_H_
