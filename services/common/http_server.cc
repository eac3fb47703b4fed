#include "services/common/http_server.h"

#include <atomic>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <chrono>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/common/metrics.h"
#include "services/common/version.h"

namespace tessera {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;

constexpr std::chrono::seconds kIdle{60};
constexpr size_t kBodyLimit = 64 * 1024;

// One connection: reads a request, answers, and again while it is kept alive.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, const HttpServer::Handler* handler, std::atomic<size_t>* open)
      : stream_(std::move(socket)), handler_(handler), open_(open) {
    open_->fetch_add(1);
  }
  ~Connection() { open_->fetch_sub(1); }

  void Read() {
    parser_.emplace();
    parser_->body_limit(kBodyLimit);
    stream_.expires_after(kIdle);
    http::async_read(stream_, buffer_, *parser_,
                     beast::bind_front_handler(&Connection::OnRead, shared_from_this()));
  }

 private:
  void OnRead(beast::error_code error, size_t) {
    if (error == http::error::end_of_stream) {
      beast::error_code ignored;
      stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
      return;
    }
    if (error) return;
    const auto& message = parser_->get();
    HttpRequest request;
    request.method = std::string(message.method_string());
    const std::string target(message.target());
    request.path = target.substr(0, target.find('?'));
    HttpResponse answer = (*handler_)(request);
    response_.emplace(static_cast<http::status>(answer.status), message.version());
    response_->set(http::field::server, absl::StrCat("tessera/", kVersion));
    response_->set(http::field::content_type, answer.content_type);
    response_->keep_alive(message.keep_alive());
    if (request.method == "HEAD") {
      response_->content_length(answer.body.size());
    } else {
      response_->body() = std::move(answer.body);
      response_->prepare_payload();
    }
    http::async_write(stream_, *response_,
                      beast::bind_front_handler(&Connection::OnWrite, shared_from_this()));
  }
  void OnWrite(beast::error_code error, size_t) {
    if (error || !response_->keep_alive()) return;
    Read();
  }

  beast::tcp_stream stream_;
  const HttpServer::Handler* const handler_;
  std::atomic<size_t>* const open_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::optional<http::response<http::string_body>> response_;
};

class BeastServer final : public HttpServer {
 public:
  BeastServer(const HttpServerOptions& options, Handler handler)
      : options_(options), handler_(std::move(handler)), acceptor_(context_) {}
  ~BeastServer() override {
    context_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen() {
    const size_t colon = options_.listen.rfind(':');
    uint16_t port = 0;
    const std::string port_text =
        colon == std::string::npos ? "" : options_.listen.substr(colon + 1);
    const auto [end, bad] =
        std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
    beast::error_code error;
    const auto host = asio::ip::make_address(options_.listen.substr(0, colon), error);
    if (colon == std::string::npos || bad != std::errc() ||
        end != port_text.data() + port_text.size() || error) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot listen on '", options_.listen,
                       "': give an IP address and port, as 127.0.0.1:8002"));
    }
    const tcp::endpoint endpoint(host, port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", options_.listen, ": ", error.message()));
    }
    address_ = absl::StrCat(host.to_string(), ":", acceptor_.local_endpoint().port());
    Accept();
    thread_ = std::thread([this] { context_.run(); });
    return absl::OkStatus();
  }
  const std::string& address() const override { return address_; }

 private:
  void Accept() {
    acceptor_.async_accept([this](beast::error_code error, tcp::socket socket) {
      if (!error && open_.load() < options_.connection_limit) {
        std::make_shared<Connection>(std::move(socket), &handler_, &open_)->Read();
      }
      if (acceptor_.is_open()) Accept();
    });
  }

  const HttpServerOptions options_;
  const Handler handler_;
  std::atomic<size_t> open_{0};
  asio::io_context context_{1};
  tcp::acceptor acceptor_;
  std::string address_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                              Handler handler) {
  auto server = std::make_unique<BeastServer>(options, std::move(handler));
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return std::unique_ptr<HttpServer>(std::move(server));
}

HttpServer::Handler MetricsHandler(MetricRegistry* registry,
                                   std::function<std::string()> not_ready_reason) {
  return [registry, not_ready_reason = std::move(not_ready_reason)](const HttpRequest& request) {
    if (request.method != "GET" && request.method != "HEAD") {
      return HttpResponse{.status = 405, .body = "only GET and HEAD are served here\n"};
    }
    if (request.path == "/metrics") {
      return HttpResponse{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                          .body = registry->Text()};
    }
    if (request.path == "/livez") return HttpResponse{.body = "ok\n"};
    if (request.path == "/readyz") {
      const std::string reason = not_ready_reason();
      if (reason.empty()) return HttpResponse{.body = "ok\n"};
      return HttpResponse{.status = 503, .body = reason + "\n"};
    }
    return HttpResponse{.status = 404, .body = "there is /metrics, /livez and /readyz here\n"};
  };
}

}  // namespace tessera
