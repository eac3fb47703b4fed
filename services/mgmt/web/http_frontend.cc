#include "services/mgmt/web/http_frontend.h"

#include <algorithm>
#include <array>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <filesystem>
#include <list>
#include <map>
#include <sstream>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/metrics.h"
#include "services/common/version.h"

namespace tessera::mgmt {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;
using WorkGuard = asio::executor_work_guard<asio::io_context::executor_type>;

constexpr size_t kReadBytes = 16 << 10;
// How long a connection that is being closed is read on, so that its last answer is not lost to a
// reset.
constexpr std::chrono::milliseconds kLinger{2'000};
constexpr std::chrono::milliseconds kAcceptRetry{100};

class Exchange;
class Connection;

// What connections share: options, metrics, the list of connections. The frontend's thread only.
struct Shared {
  HttpFrontendOptions options;
  HttpHandler* handler = nullptr;
  MetricRegistry* metrics = nullptr;
  asio::io_context* context = nullptr;
  prometheus::Gauge* open_connections = nullptr;
  prometheus::Counter* received_bytes = nullptr;
  prometheus::Counter* sent_bytes = nullptr;
  std::map<int, prometheus::Counter*> requests;  // by status
  std::list<Connection*> connections;            // open ones, the longest idle last
  size_t body_bytes = 0;                         // reserved for requests
  bool draining = false;

  void CountRequest(int status) {
    prometheus::Counter*& counter = requests[status];
    if (counter == nullptr) {
      counter = &metrics->Counter("tessera_mgmt_http_requests_total",
                                  "HTTP requests answered, by status code.",
                                  {{"code", absl::StrCat(status)}});
    }
    counter->Increment();
  }
};

std::string PeerName(const tcp::endpoint& endpoint) {
  const auto address = endpoint.address();
  if (address.is_v4()) {
    return absl::StrCat("ipv4:", address.to_string(), ":", endpoint.port());
  }
  return absl::StrCat("ipv6:[", address.to_string(), "]:", endpoint.port());
}

// A header's value may hold anything but what would end the line.
bool IsHeaderValue(std::string_view value) {
  return std::all_of(value.begin(), value.end(),
                     [](char c) { return c == '\t' || (c >= ' ' && c != '\x7f') || c < 0; });
}

// The first lines of an answer.
std::string Head(unsigned version, int status, const HttpHeaders& headers) {
  http::response_header<> head;
  head.version(version);
  head.result(static_cast<unsigned>(status));
  head.set(http::field::server, absl::StrCat("tessera/", kVersion));
  for (const auto& [name, value] : headers) {
    if (IsHeaderValue(value)) head.insert(name, value);
  }
  std::ostringstream text;
  text << head;
  return text.str();
}

// A socket with or without TLS on it.
class Transport {
 public:
  using Done = std::function<void(beast::error_code, size_t)>;

  Transport(tcp::socket socket, std::shared_ptr<asio::ssl::context> tls)
      : socket_(std::move(socket)), tls_context_(std::move(tls)) {
    if (tls_context_ != nullptr) tls_.emplace(socket_, *tls_context_);
  }
  [[nodiscard]] bool has_tls() const { return tls_.has_value(); }
  void Handshake(std::function<void(beast::error_code)> done) {
    tls_->async_handshake(asio::ssl::stream_base::server, std::move(done));
  }
  void ReadSome(asio::mutable_buffer buffer, Done done) {
    if (tls_) {
      tls_->async_read_some(buffer, std::move(done));
    } else {
      socket_.async_read_some(buffer, std::move(done));
    }
  }
  void WriteSome(asio::const_buffer buffer, Done done) {
    if (tls_) {
      tls_->async_write_some(buffer, std::move(done));
    } else {
      socket_.async_write_some(buffer, std::move(done));
    }
  }
  void ShutdownSend() {
    beast::error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
  }
  void Close() {
    beast::error_code ignored;
    socket_.close(ignored);
  }

 private:
  tcp::socket socket_;
  std::shared_ptr<asio::ssl::context> tls_context_;  // shared with connections of its time
  std::optional<asio::ssl::stream<tcp::socket&>> tls_;
};

// One connection. Bytes are read all the time, also while a request is answered, so that the
// client's end is noticed; requests are taken from them one after another.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, std::string peer, std::shared_ptr<asio::ssl::context> tls,
             Shared* shared)
      : shared_(shared),
        peer_(std::move(peer)),
        transport_(std::move(socket), std::move(tls)),
        timer_(*shared->context) {
    place_ = shared_->connections.insert(shared_->connections.begin(), this);
    shared_->open_connections->Increment();
  }

  void Start();
  // No request is being received or answered.
  [[nodiscard]] bool idle() const { return current_ == nullptr && !parser_ && !closing_; }
  // After what is being answered, or at once.
  void CloseWhenAnswered();
  // At once; the exchange is told.
  void Abort();

  // For the exchange.
  [[nodiscard]] bool closed() const { return closed_; }
  void Send(std::string_view bytes, std::function<void()> written);
  void AnswerEnds();
  [[nodiscard]] bool keep_alive() const { return keep_alive_ && !shared_->draining; }
  [[nodiscard]] Shared* shared() const { return shared_; }

 private:
  using Parser = http::request_parser<http::string_body>;

  void Read();
  void OnRead(beast::error_code error, size_t bytes);
  void OnReadEnd();
  void Parse();
  // False when the request is refused.
  [[nodiscard]] bool AdmitHead();
  void Dispatch();
  void Refuse(int status, std::string_view text);
  void RefuseMalformed(beast::error_code error);
  void ReleaseBody();
  void WriteMore();
  void OnWritten(beast::error_code error, size_t bytes);
  void AnswerIsOut();
  void SetDeadline(std::chrono::milliseconds after);
  void NoDeadline() { timer_.cancel(); }
  void OnDeadline();

  Shared* const shared_;
  const std::string peer_;
  Transport transport_;
  asio::steady_timer timer_;
  std::list<Connection*>::iterator place_;

  beast::flat_buffer in_;
  std::optional<Parser> parser_;  // while a request is received
  bool head_admitted_ = false;
  size_t reserved_body_ = 0;
  bool reading_ = false;
  bool read_ended_ = false;

  std::shared_ptr<Exchange> current_;  // shared with the handler
  bool keep_alive_ = true;
  bool answer_ended_ = false;

  std::string out_;     // to be written next
  std::string flying_;  // being written
  size_t flown_ = 0;
  std::vector<std::function<void()>> out_written_;
  std::vector<std::function<void()>> flying_written_;
  bool writing_ = false;
  bool closing_ = false;  // the last answer is out
  bool closed_ = false;
};

class Exchange final : public HttpExchange, public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(WebRequest request, unsigned version, std::shared_ptr<Connection> connection)
      : request_(std::move(request)),
        version_(version),
        connection_(std::move(connection)),
        guard_(asio::make_work_guard(*connection_->shared()->context)),
        timer_(*connection_->shared()->context) {}

  const WebRequest& request() const override { return request_; }

  void Answer(WebResponse response) override {
    if (finished_ || connection_->closed()) return;
    const std::string& body = response.body == nullptr ? kNothing : *response.body;
    HttpHeaders headers = std::move(response.headers);
    // 304 speaks of the body that it leaves out.
    if (response.status != 304) headers.emplace_back("Content-Length", absl::StrCat(body.size()));
    SendHead(response.status, std::move(headers));
    if (request_.method != "HEAD" && response.status != 304) connection_->Send(body, nullptr);
    End();
  }
  void Begin(int status, const HttpHeaders& headers) override {
    if (finished_ || connection_->closed()) return;
    HttpHeaders all = headers;
    chunked_ = version_ >= 11;
    // Of an HTTP/1.0 client's answer the end is the connection's.
    if (chunked_) all.emplace_back("Transfer-Encoding", "chunked");
    SendHead(status, std::move(all));
  }
  void Write(std::string_view piece, std::function<void()> written) override {
    if (finished_ || connection_->closed()) return;
    if (piece.empty()) return connection_->Send(piece, std::move(written));
    if (!chunked_) return connection_->Send(piece, std::move(written));
    connection_->Send(
        beast::buffers_to_string(http::make_chunk(asio::buffer(piece.data(), piece.size()))),
        std::move(written));
  }
  void End() override {
    if (finished_ || connection_->closed()) return;
    if (chunked_) connection_->Send(beast::buffers_to_string(http::make_chunk_last()), nullptr);
    finished_ = true;
    timer_.cancel();
    expired_ = nullptr;
    aborted_ = nullptr;
    connection_->AnswerEnds();
  }
  void OnAbort(std::function<void()> aborted) override {
    if (!finished_) aborted_ = std::move(aborted);
  }
  void ArmTimer(std::chrono::milliseconds after, std::function<void()> expired) override {
    if (finished_) return;
    expired_ = std::move(expired);
    timer_.expires_after(after);
    timer_.async_wait([self = weak_from_this()](beast::error_code error) {
      const auto exchange = self.lock();
      if (error || exchange == nullptr || exchange->expired_ == nullptr) return;
      std::exchange(exchange->expired_, nullptr)();
    });
  }
  void Post(absl::AnyInvocable<void()> task) override {
    // Asio copies its handlers.
    auto shared = std::make_shared<absl::AnyInvocable<void()>>(std::move(task));
    asio::post(guard_.get_executor(), [shared] { (*shared)(); });
  }

  // For the connection: the client is gone.
  void Aborted() {
    timer_.cancel();
    expired_ = nullptr;
    if (std::exchange(finished_, true)) return;
    if (auto aborted = std::exchange(aborted_, nullptr)) aborted();
  }

 private:
  void SendHead(int status, HttpHeaders headers) {
    connection_->shared()->CountRequest(status);
    if (!connection_->keep_alive()) headers.emplace_back("Connection", "close");
    connection_->Send(Head(version_, status, headers), nullptr);
  }

  inline static const std::string kNothing;
  const WebRequest request_;
  const unsigned version_;  // 10 or 11
  const std::shared_ptr<Connection> connection_;
  const WorkGuard guard_;
  asio::steady_timer timer_;
  std::function<void()> expired_;
  std::function<void()> aborted_;
  bool chunked_ = false;
  bool finished_ = false;
};

void Connection::Start() {
  if (!transport_.has_tls()) {
    SetDeadline(shared_->options.idle_timeout);
    return Read();
  }
  SetDeadline(shared_->options.header_timeout);
  transport_.Handshake([self = shared_from_this()](beast::error_code error) {
    if (error) return self->Abort();
    self->SetDeadline(self->shared_->options.idle_timeout);
    self->Read();
  });
}

void Connection::Read() {
  if (reading_ || read_ended_ || closed_) return;
  if (current_ != nullptr && in_.size() >= shared_->options.read_ahead_limit) return;
  reading_ = true;
  transport_.ReadSome(in_.prepare(kReadBytes),
                      [self = shared_from_this()](beast::error_code error, size_t bytes) {
                        self->reading_ = false;
                        self->OnRead(error, bytes);
                      });
}

void Connection::OnRead(beast::error_code error, size_t bytes) {
  if (closed_) return;
  if (error) return OnReadEnd();
  shared_->received_bytes->Increment(static_cast<double>(bytes));
  if (closing_) return Read();  // not committed: dropped
  in_.commit(bytes);
  if (current_ == nullptr) Parse();
  Read();
}

void Connection::OnReadEnd() {
  read_ended_ = true;
  // Whoever sent a whole request and closed its side still gets an answer that is ready.
  if (current_ != nullptr && answer_ended_) {
    keep_alive_ = false;
    return;
  }
  Abort();
}

void Connection::Parse() {
  while (current_ == nullptr && !closed_ && !closing_ && in_.size() > 0) {
    if (!parser_) {
      parser_.emplace();
      parser_->header_limit(static_cast<uint32_t>(shared_->options.header_limit));
      parser_->body_limit(shared_->options.body_limit);
      head_admitted_ = false;
      SetDeadline(shared_->options.header_timeout);
    }
    beast::error_code error;
    const size_t used = parser_->put(in_.data(), error);
    in_.consume(used);
    if (error && error != http::error::need_more) return RefuseMalformed(error);
    if (parser_->is_header_done() && !head_admitted_) {
      head_admitted_ = true;
      if (!AdmitHead()) return;
    }
    if (parser_->is_done()) {
      Dispatch();
    } else if (error == http::error::need_more || used == 0) {
      return;
    }
  }
}

bool Connection::AdmitHead() {
  const auto& head = parser_->get();
  keep_alive_ = head.keep_alive() && head.version() >= 11;
  if (head.target().empty() || head.target()[0] != '/') {
    Refuse(400, "the request's target must be a path that begins with '/'");
    return false;
  }
  if (head.version() >= 11 && head.count(http::field::host) != 1) {
    Refuse(400, "a request has exactly one Host header");
    return false;
  }
  const auto length = parser_->content_length();
  reserved_body_ = length ? static_cast<size_t>(*length)
                          : (parser_->chunked() ? shared_->options.body_limit : 0);
  shared_->body_bytes += reserved_body_;
  if (shared_->body_bytes > shared_->options.body_limit_in_all) {
    Refuse(503, "too many large requests at once: try again");
    return false;
  }
  SetDeadline(shared_->options.body_timeout);
  if (!parser_->is_done() && beast::iequals(head[http::field::expect], "100-continue")) {
    Send("HTTP/1.1 100 Continue\r\n\r\n", nullptr);
  }
  return true;
}

void Connection::Dispatch() {
  auto message = parser_->release();
  parser_.reset();
  NoDeadline();
  WebRequest request;
  request.method = std::string(message.method_string());
  const std::string target(message.target());
  request.path = target.substr(0, target.find('?'));
  for (const auto& field : message) {
    std::string name(field.name_string());
    absl::AsciiStrToLower(&name);
    request.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  request.body = std::move(message.body());
  request.peer = peer_;
  request.tls = transport_.has_tls();
  answer_ended_ = false;
  current_ = std::make_shared<Exchange>(std::move(request), message.version(), shared_from_this());
  // Busy ones are not closed for want of room.
  shared_->connections.splice(shared_->connections.begin(), shared_->connections, place_);
  shared_->handler->Handle(current_);
}

void Connection::Refuse(int status, std::string_view text) {
  const unsigned version = parser_ && parser_->is_header_done() ? parser_->get().version() : 11;
  parser_.reset();
  keep_alive_ = false;
  in_.clear();
  NoDeadline();
  answer_ended_ = false;
  current_ = std::make_shared<Exchange>(WebRequest{}, version, shared_from_this());
  const std::shared_ptr<Exchange> exchange = current_;
  exchange->Answer(TextResponse(status, text));
}

void Connection::RefuseMalformed(beast::error_code error) {
  const HttpFrontendOptions& options = shared_->options;
  if (error == http::error::header_limit) {
    return Refuse(
        431, absl::StrCat("the request's headers have more than ", options.header_limit, " bytes"));
  }
  if (error == http::error::body_limit) {
    return Refuse(413,
                  absl::StrCat("the request's body has more than ", options.body_limit, " bytes"));
  }
  if (error == http::error::bad_version)
    return Refuse(505, "HTTP/1.1 and HTTP/1.0 are spoken here");
  Refuse(400, absl::StrCat("not an HTTP request: ", error.message()));
}

void Connection::ReleaseBody() {
  shared_->body_bytes -= reserved_body_;
  reserved_body_ = 0;
}

void Connection::Send(std::string_view bytes, std::function<void()> written) {
  if (closed_) return;
  out_.append(bytes);
  if (written != nullptr) out_written_.push_back(std::move(written));
  if (writing_) return;
  // What is sent in one go is written in one go.
  writing_ = true;
  asio::post(*shared_->context, [self = shared_from_this()] { self->WriteMore(); });
}

void Connection::AnswerEnds() {
  answer_ended_ = true;
  if (!writing_) AnswerIsOut();
}

void Connection::WriteMore() {
  if (closed_) return;
  if (flown_ == flying_.size()) {
    flying_.clear();
    flown_ = 0;
    std::vector<std::function<void()>> written;
    written.swap(flying_written_);
    for (auto& callback : written) callback();
    if (closed_) return;
    if (out_.empty() && out_written_.empty()) {
      writing_ = false;
      // What was written while a request is received was '100 Continue'.
      parser_ ? SetDeadline(shared_->options.body_timeout) : NoDeadline();
      if (answer_ended_ && current_ != nullptr) AnswerIsOut();
      return;
    }
    flying_.swap(out_);
    flying_written_.swap(out_written_);
    if (flying_.empty()) return WriteMore();
  }
  SetDeadline(shared_->options.write_timeout);
  transport_.WriteSome(asio::buffer(flying_.data() + flown_, flying_.size() - flown_),
                       [self = shared_from_this()](beast::error_code error, size_t bytes) {
                         self->OnWritten(error, bytes);
                       });
}

void Connection::OnWritten(beast::error_code error, size_t bytes) {
  if (closed_) return;
  if (error) return Abort();
  shared_->sent_bytes->Increment(static_cast<double>(bytes));
  flown_ += bytes;
  WriteMore();
}

void Connection::AnswerIsOut() {
  current_.reset();
  ReleaseBody();
  if (!keep_alive() || read_ended_) {
    if (read_ended_) return Abort();
    closing_ = true;
    in_.clear();
    transport_.ShutdownSend();
    SetDeadline(kLinger);
    return Read();
  }
  SetDeadline(shared_->options.idle_timeout);
  // Not from here: a client that pipelines many requests would nest as many answers.
  asio::post(*shared_->context, [self = shared_from_this()] {
    if (self->closed_) return;
    self->Parse();
    self->Read();
  });
}

void Connection::CloseWhenAnswered() {
  if (current_ == nullptr) return Abort();
  keep_alive_ = false;
}

void Connection::Abort() {
  if (std::exchange(closed_, true)) return;
  timer_.cancel();
  transport_.Close();
  shared_->connections.erase(place_);
  shared_->open_connections->Decrement();
  ReleaseBody();
  out_written_.clear();
  flying_written_.clear();
  if (const auto exchange = std::exchange(current_, nullptr)) exchange->Aborted();
}

void Connection::SetDeadline(std::chrono::milliseconds after) {
  timer_.expires_after(after);
  timer_.async_wait([self = weak_from_this()](beast::error_code error) {
    const auto connection = self.lock();
    if (error || connection == nullptr || connection->closed_) return;
    // Set anew since this one ran out.
    if (connection->timer_.expiry() > std::chrono::steady_clock::now()) return;
    connection->OnDeadline();
  });
}

void Connection::OnDeadline() {
  const bool receiving = parser_.has_value() && current_ == nullptr;
  if (!receiving) return Abort();
  Refuse(408, head_admitted_ ? "the request's body did not come in time"
                             : "the request's headers did not come in time");
}

// "127.0.0.1:5000", "[::1]:5000".
absl::StatusOr<tcp::endpoint> ParseEndpoint(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  std::string host = listen.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  beast::error_code error;
  const auto address = asio::ip::make_address(host, error);
  uint32_t port = 0;
  if (colon == std::string::npos || error || !absl::SimpleAtoi(listen.substr(colon + 1), &port) ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on '", listen,
                     "': give an IP address and a port, as 127.0.0.1:5000 or [::1]:5000"));
  }
  return tcp::endpoint(address, static_cast<uint16_t>(port));
}

absl::StatusOr<std::shared_ptr<asio::ssl::context>> LoadTls(const HttpFrontendOptions& options) {
  auto tls = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv3 |
                   asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1);
  beast::error_code error;
  tls->use_certificate_chain_file(options.certificate_file, error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the certificate file ", options.certificate_file, " cannot be used: ", error.message()));
  }
  tls->use_private_key_file(options.key_file, asio::ssl::context::pem, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("the key file ", options.key_file, " cannot be used, or is not the key of ",
                     options.certificate_file, ": ", error.message()));
  }
  return tls;
}

class BeastFrontend final : public HttpFrontend {
 public:
  BeastFrontend(const HttpFrontendOptions& options, HttpHandler* handler, MetricRegistry* metrics)
      : guard_(asio::make_work_guard(context_)),
        acceptor_(context_),
        accept_timer_(context_),
        certificate_timer_(context_),
        stop_timer_(context_) {
    shared_.options = options;
    shared_.handler = handler;
    shared_.metrics = metrics;
    shared_.context = &context_;
    shared_.open_connections =
        &metrics->Gauge("tessera_mgmt_http_connections", "Open HTTP connections.");
    shared_.received_bytes = &metrics->Counter("tessera_mgmt_http_received_bytes_total",
                                               "Bytes received from HTTP clients, before TLS.");
    shared_.sent_bytes = &metrics->Counter("tessera_mgmt_http_sent_bytes_total",
                                           "Bytes sent to HTTP clients, before TLS.");
  }
  ~BeastFrontend() override { Stop(std::chrono::milliseconds(0)); }

  absl::Status Listen() {
    const absl::StatusOr<tcp::endpoint> endpoint = ParseEndpoint(shared_.options.listen);
    if (!endpoint.ok()) return endpoint.status();
    if (absl::Status status = PrepareTls(*endpoint); !status.ok()) return status;
    beast::error_code error;
    acceptor_.open(endpoint->protocol(), error);
    if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(*endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", shared_.options.listen, ": ", error.message()));
    }
    const std::string& listen = shared_.options.listen;
    address_ =
        absl::StrCat(listen.substr(0, listen.rfind(':')), ":", acceptor_.local_endpoint().port());
    Accept();
    if (tls_ != nullptr) WatchCertificate();
    thread_ = std::thread([this] { context_.run(); });
    return absl::OkStatus();
  }
  const std::string& address() const override { return address_; }

  void Stop(std::chrono::milliseconds grace) override {
    if (!thread_.joinable()) return;
    asio::post(context_, [this, grace] { Drain(grace); });
    thread_.join();
  }

 private:
  absl::Status PrepareTls(const tcp::endpoint& endpoint) {
    const HttpFrontendOptions& options = shared_.options;
    if (options.certificate_file.empty() != options.key_file.empty()) {
      return absl::InvalidArgumentError("a certificate and its key are given both or not at all");
    }
    if (options.certificate_file.empty()) {
      if (endpoint.address().is_loopback()) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat("without a certificate passwords would travel in plain text: listen on "
                       "127.0.0.1 or [::1] instead of ",
                       options.listen, ", or give a certificate and its key"));
    }
    absl::StatusOr<std::shared_ptr<asio::ssl::context>> tls = LoadTls(options);
    if (!tls.ok()) return tls.status();
    tls_ = *std::move(tls);
    certificate_stamp_ = CertificateStamp();
    return absl::OkStatus();
  }

  void Accept() {
    acceptor_.async_accept([this](beast::error_code error, tcp::socket socket) {
      if (!acceptor_.is_open()) return;
      if (error) {
        // Out of descriptors, most likely.
        accept_timer_.expires_after(kAcceptRetry);
        accept_timer_.async_wait([this](beast::error_code stopped) {
          if (!stopped) Accept();
        });
        return;
      }
      Take(std::move(socket));
      Accept();
    });
  }

  void Take(tcp::socket socket) {
    beast::error_code error;
    const tcp::endpoint peer = socket.remote_endpoint(error);
    if (error || !MakeRoom()) return;
    socket.set_option(tcp::no_delay(true), error);
    std::make_shared<Connection>(std::move(socket), PeerName(peer), tls_, &shared_)->Start();
  }

  // Closes the longest idle connection when there are too many.
  bool MakeRoom() {
    if (shared_.connections.size() < shared_.options.connection_limit) return true;
    for (auto it = shared_.connections.rbegin(); it != shared_.connections.rend(); ++it) {
      if (!(*it)->idle()) continue;
      (*it)->Abort();
      return true;
    }
    return false;
  }

  // Changes when one of the files does.
  std::string CertificateStamp() const {
    std::string stamp;
    for (const std::string& file : {shared_.options.certificate_file, shared_.options.key_file}) {
      std::error_code error;
      const auto time = std::filesystem::last_write_time(file, error).time_since_epoch().count();
      absl::StrAppend(&stamp, error ? 0 : time, "/");
    }
    return stamp;
  }

  void WatchCertificate() {
    certificate_timer_.expires_after(shared_.options.certificate_check_interval);
    certificate_timer_.async_wait([this](beast::error_code stopped) {
      if (stopped) return;
      const std::string stamp = CertificateStamp();
      if (stamp != certificate_stamp_) {
        absl::StatusOr<std::shared_ptr<asio::ssl::context>> tls = LoadTls(shared_.options);
        if (tls.ok()) {
          tls_ = *std::move(tls);
          certificate_stamp_ = stamp;
          LogInfo("console certificate renewed", {{"file", shared_.options.certificate_file}});
        } else if (stamp != certificate_complaint_) {
          // Perhaps one of the two files is still to come: the old certificate stays.
          certificate_complaint_ = stamp;
          LogWarning("console certificate not renewed",
                     {{"reason", std::string(tls.status().message())}});
        }
      }
      WatchCertificate();
    });
  }

  void Drain(std::chrono::milliseconds grace) {
    shared_.draining = true;
    beast::error_code ignored;
    acceptor_.close(ignored);
    accept_timer_.cancel();
    certificate_timer_.cancel();
    for (Connection* connection :
         std::vector<Connection*>(shared_.connections.begin(), shared_.connections.end())) {
      connection->CloseWhenAnswered();
    }
    guard_.reset();
    if (shared_.connections.empty()) return;
    CloseTheRest(std::chrono::steady_clock::now() + grace);
  }

  // Looks often, so that nobody waits for the grace time who need not.
  void CloseTheRest(std::chrono::steady_clock::time_point latest) {
    if (shared_.connections.empty()) return;
    const auto now = std::chrono::steady_clock::now();
    if (now >= latest) {
      while (!shared_.connections.empty()) shared_.connections.front()->Abort();
      return;
    }
    stop_timer_.expires_at(std::min(latest, now + std::chrono::milliseconds(20)));
    stop_timer_.async_wait([this, latest](beast::error_code) { CloseTheRest(latest); });
  }

  asio::io_context context_{1};
  WorkGuard guard_;
  Shared shared_;
  tcp::acceptor acceptor_;
  asio::steady_timer accept_timer_;
  asio::steady_timer certificate_timer_;
  asio::steady_timer stop_timer_;
  std::shared_ptr<asio::ssl::context> tls_;  // shared with connections; null: plain text
  std::string certificate_stamp_;
  std::string certificate_complaint_;  // the stamp of files that could not be used
  std::string address_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpFrontend>> HttpFrontend::Start(
    const HttpFrontendOptions& options, HttpHandler* handler, MetricRegistry* metrics) {
  auto frontend = std::make_unique<BeastFrontend>(options, handler, metrics);
  if (absl::Status status = frontend->Listen(); !status.ok()) return status;
  return std::unique_ptr<HttpFrontend>(std::move(frontend));
}

WebResponse TextResponse(int status, std::string_view text) {
  WebResponse response;
  response.status = status;
  response.headers = {{"Content-Type", "text/plain; charset=utf-8"},
                      {"Cache-Control", "no-store"},
                      {"X-Content-Type-Options", "nosniff"}};
  response.body = std::make_shared<const std::string>(
      absl::StrCat(absl::string_view(text.data(), text.size()), "\n"));
  return response;
}

}  // namespace tessera::mgmt
