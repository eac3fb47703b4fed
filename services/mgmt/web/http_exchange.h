// One HTTP request and its answer, as the parts that answer see them: no sockets, no HTTP library.
//
// Threads: everything happens on the frontend's one thread, callbacks included; only Post may be
// called from any. Nothing here may block.
#ifndef TESSERA_SERVICES_MGMT_WEB_HTTP_EXCHANGE_H_
#define TESSERA_SERVICES_MGMT_WEB_HTTP_EXCHANGE_H_

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"

namespace tessera::mgmt {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct WebRequest {
  std::string method;   // "GET"
  std::string path;     // begins with '/'; as it came, without the query
  HttpHeaders headers;  // names in lower case, as they came in order
  std::string body;
  std::string peer;  // "ipv4:192.0.2.7:4711" or "ipv6:[2001:db8::1]:4711"
  bool tls = false;

  // The first header of that (lower-case) name.
  [[nodiscard]] std::optional<std::string_view> Header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return std::nullopt;
  }
};

struct WebResponse {
  int status = 200;
  HttpHeaders headers;
  std::shared_ptr<const std::string> body;  // shared with a cache of files; null: empty
};

class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  [[nodiscard]] virtual const WebRequest& request() const = 0;

  // Either the whole answer, its length and (for HEAD) its missing body seen to.
  virtual void Answer(WebResponse response) = 0;
  // Or a head, pieces as they come, and the end. `written` is called when the piece is with the
  // operating system: whoever waits for it before the next piece goes as fast as the client reads.
  virtual void Begin(int status, const HttpHeaders& headers) = 0;
  virtual void Write(std::string_view piece, std::function<void()> written) = 0;
  virtual void End() = 0;

  // `aborted` is called once if the client goes away, or is too slow, before the answer's end.
  // Nothing else is called after it, and what is written is dropped.
  virtual void OnAbort(std::function<void()> aborted) = 0;
  // Calls `expired` after that time, unless it is armed anew or the exchange ends before.
  virtual void ArmTimer(std::chrono::milliseconds after, std::function<void()> expired) = 0;
  // Runs the task on the frontend's thread, later. The exchange keeps that thread alive.
  virtual void Post(absl::AnyInvocable<void()> task) = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Answers now or later; keeps the exchange for as long.
  virtual void Handle(std::shared_ptr<HttpExchange> exchange) = 0;
};

// A short answer in plain text.
[[nodiscard]] WebResponse TextResponse(int status, std::string_view text);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_HTTP_EXCHANGE_H_
