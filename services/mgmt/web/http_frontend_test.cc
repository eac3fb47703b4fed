// The frontend on real sockets: a small handler on one side, a client that misbehaves on the other.
#include "services/mgmt/web/http_frontend.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "services/common/metrics.h"
#include "services/mgmt/web/testing/raw_client.h"

namespace tessera::mgmt {
namespace {

using Catch::Matchers::Contains;
using std::chrono::milliseconds;

// What each path does:
//   /echo     answers method, path and body
//   /stream   answers pieces without end, each when the one before was taken
//   /hold     keeps the exchange until the test ends it
//   /inject   answers with a header whose value would begin a line of its own
class Handler final : public HttpHandler {
 public:
  void Handle(std::shared_ptr<HttpExchange> exchange) override {
    const WebRequest& request = exchange->request();
    if (request.path == "/stream") {
      exchange->OnAbort([this] { Aborted(); });
      exchange->Begin(200, {});
      return Stream(exchange);
    }
    if (request.path == "/hold") {
      exchange->OnAbort([this] { Aborted(); });
      absl::MutexLock lock(&mutex_);
      held_ = std::move(exchange);
      return;
    }
    if (request.path == "/inject") {
      WebResponse response = TextResponse(200, "ok");
      response.headers.emplace_back("X-Good", "1");
      response.headers.emplace_back("X-Bad", "1\r\nX-Planted: 1");
      return exchange->Answer(std::move(response));
    }
    exchange->Answer(
        TextResponse(200, absl::StrCat(request.method, " ", request.path, " ", request.body)));
  }

  // Waits for a request to /hold.
  std::shared_ptr<HttpExchange> Held() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](std::shared_ptr<HttpExchange>* held) { return *held != nullptr; }, &held_));
    return std::exchange(held_, nullptr);
  }
  void WaitForAborts(int count) {
    absl::MutexLock lock(&mutex_);
    wanted_ = count;
    mutex_.Await(absl::Condition(
        +[](Handler* self)
             ABSL_NO_THREAD_SAFETY_ANALYSIS { return self->aborts_ >= self->wanted_; },
        this));
  }
  [[nodiscard]] size_t pieces() const { return pieces_.load(); }

 private:
  void Stream(const std::shared_ptr<HttpExchange>& exchange) {
    pieces_.fetch_add(1);
    exchange->Write(std::string(64 << 10, 's'), [this, exchange] { Stream(exchange); });
  }
  void Aborted() {
    absl::MutexLock lock(&mutex_);
    ++aborts_;
  }

  absl::Mutex mutex_;
  std::shared_ptr<HttpExchange> held_ ABSL_GUARDED_BY(mutex_);
  int aborts_ ABSL_GUARDED_BY(mutex_) = 0;
  int wanted_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<size_t> pieces_{0};
};

class Fixture {
 public:
  void Start(const HttpFrontendOptions& options = {}) {
    auto frontend = HttpFrontend::Start(options, &handler_, &metrics_);
    REQUIRE(frontend.ok());
    frontend_ = *std::move(frontend);
  }
  // The answer to bytes on a connection of their own.
  RawResponse Ask(const std::string& bytes) const {
    RawClient client(frontend_->address());
    client.Send(bytes);
    return client.Read();
  }
  // Another client is answered, so everything before it was handled.
  void Turn() const { CHECK(Ask(GetRequest("/echo")).status == 200); }
  double Figure(const std::string& name) {
    for (const auto& [key, value] : metrics_.Figures()) {
      if (key == name) return value;
    }
    return -1;
  }

 protected:
  MetricRegistry metrics_{"test"};
  Handler handler_;
  std::unique_ptr<HttpFrontend> frontend_;
};

TEST_CASE_METHOD(Fixture, "Requests on one connection are answered in their order") {
  Start();
  RawClient client(frontend_->address());
  std::string all;
  for (int i = 0; i < 50; ++i) {
    all +=
        i % 2 == 0 ? GetRequest(absl::StrCat("/", i)) : PostRequest(absl::StrCat("/", i), {}, "b");
  }
  client.Send(all);
  for (int i = 0; i < 50; ++i) {
    const RawResponse response = client.Read();
    CHECK(response.status == 200);
    CHECK(response.body ==
          absl::StrCat(i % 2 == 0 ? "GET" : "POST", " /", i, " ", i % 2 == 0 ? "" : "b", "\n"));
  }
  CHECK(Figure("tessera_mgmt_http_requests_total{code=\"200\"}") == 50);
}

TEST_CASE_METHOD(Fixture, "A request that comes byte by byte is one request") {
  Start();
  RawClient client(frontend_->address());
  for (const char c : PostRequest("/slow", {{"X-Header", "value"}}, "body")) {
    REQUIRE(client.Send(std::string(1, c)));
  }
  CHECK(client.Read().body == "POST /slow body\n");
}

TEST_CASE_METHOD(Fixture, "A body may come in chunks, and a query is not part of the path") {
  Start();
  CHECK(Ask("POST /x?y=z HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            .body == "POST /x abcde\n");
}

TEST_CASE_METHOD(Fixture, "The client that asks before it sends a body is told to go on") {
  Start();
  RawClient client(frontend_->address());
  client.Send("POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  CHECK(client.Read().status == 100);
  client.Send("body");
  CHECK(client.Read().body == "POST /x body\n");
}

TEST_CASE_METHOD(Fixture, "HEAD has the length and no body, HTTP/1.0 the end of the connection") {
  Start();
  RawClient client(frontend_->address());
  client.Send("HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n");
  const RawResponse head = client.Read(true);
  CHECK(head.status == 200);
  CHECK(head.Header("content-length") == "9");
  client.Send("GET /y HTTP/1.0\r\n\r\n");
  const RawResponse old = client.Read();
  CHECK(old.status == 200);
  CHECK(old.body == "GET /y \n");
  CHECK(old.Header("connection") == "close");
  CHECK(client.ReadToEnd().empty());
}

TEST_CASE_METHOD(Fixture,
                 "What is no HTTP request is refused with the reason, and the connection closed") {
  HttpFrontendOptions options;
  options.header_limit = 1024;
  options.body_limit = 100;
  Start(options);
  const std::string long_header(2000, 'x');
  const std::vector<std::tuple<std::string, int, std::string>> cases = {
      {"nonsense\r\n\r\n", 400, "not an HTTP request"},
      {"GET /\r\n\r\n", 400, "not an HTTP request"},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1"},
      {"GET / HTTP/1.1\r\n\r\n", 400, "exactly one Host"},
      {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "exactly one Host"},
      {"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "path that begins with '/'"},
      {"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 400, "path that begins with '/'"},
      {"GET / HTTP/1.1\r\nHost: h\r\nX: " + long_header + "\r\n\r\n", 431, "more than 1024 bytes"},
      {"GET / HTTP/1.1\r\nHost: h\r\nX: " + long_header, 431, "more than 1024 bytes"},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\n\r\n", 413, "more than 100 bytes"},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n", 400,
       "not an HTTP request"},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400,
       "not an HTTP request"},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: "
       "chunked\r\n\r\n0\r\n\r\n",
       400, "not an HTTP request"},
      {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + std::string("65\r\n") +
           std::string(101, 'x') + "\r\n0\r\n\r\n",
       413, "more than 100 bytes"},
      {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400,
       "not an HTTP request"},
      {"GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n", 400, "not an HTTP request"},
  };
  for (const auto& [bytes, status, reason] : cases) {
    CAPTURE(bytes);
    RawClient client(frontend_->address());
    client.Send(bytes);
    const RawResponse response = client.Read();
    CHECK(response.status == status);
    CHECK_THAT(response.body, Contains(reason));
    CHECK(response.Header("connection") == "close");
    CHECK(client.ReadToEnd().empty());
  }
}

TEST_CASE_METHOD(Fixture, "A refused client gets its answer although it sends on") {
  Start();
  RawClient client(frontend_->address());
  client.Send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n\r\n");
  const std::string piece(100'000, 'x');
  for (int i = 0; i < 80 && client.Send(piece); ++i) {
  }
  CHECK(client.Read().status == 413);
}

TEST_CASE_METHOD(Fixture, "Headers that do not come in time end the connection, said with 408") {
  HttpFrontendOptions options;
  options.header_timeout = milliseconds(30);
  Start(options);
  RawClient client(frontend_->address());
  client.Send("GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ");
  const RawResponse response = client.Read();
  CHECK(response.status == 408);
  CHECK_THAT(response.body, Contains("headers did not come in time"));
  CHECK(client.ReadToEnd().empty());
}

TEST_CASE_METHOD(Fixture, "A body that does not come in time ends the connection, said with 408") {
  HttpFrontendOptions options;
  options.body_timeout = milliseconds(30);
  Start(options);
  RawClient client(frontend_->address());
  client.Send(
      "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\nabc");
  CHECK(client.Read().status == 100);
  CHECK_THAT(client.Read().body, Contains("body did not come in time"));
}

TEST_CASE_METHOD(Fixture, "An idle connection is closed, one that is being answered is not") {
  HttpFrontendOptions options;
  options.idle_timeout = milliseconds(30);
  options.header_timeout = milliseconds(30);
  options.body_timeout = milliseconds(30);
  options.write_timeout = milliseconds(30);
  Start(options);
  RawClient busy(frontend_->address());
  busy.Send(GetRequest("/hold"));
  const auto held = handler_.Held();
  RawClient idle(frontend_->address());
  CHECK(idle.ReadToEnd().empty());
  held->Post([held] { held->Answer(TextResponse(200, "at last")); });
  CHECK(busy.Read().body == "at last\n");
}

TEST_CASE_METHOD(Fixture, "A stream is as fast as its reader, and no faster") {
  Start();
  RawClient client(frontend_->address(), 4096);
  client.Send(GetRequest("/stream"));
  // Once the buffers of the sockets are full, nothing is written for many turns of the server.
  size_t before = 0;
  for (int quiet = 0; quiet < 50;) {
    Turn();
    const size_t now = handler_.pieces();
    quiet = now == before ? quiet + 1 : 0;
    before = now;
  }
  CHECK(before * (64 << 10) < (64 << 20));
  size_t received = 0;
  while (received < 2 * before * (64 << 10)) {
    const std::string piece = client.ReadSome();
    REQUIRE_FALSE(piece.empty());
    received += piece.size();
  }
  CHECK(handler_.pieces() > before);
}

TEST_CASE_METHOD(Fixture,
                 "A client that goes away is noticed, by FIN or RST, before and within an answer") {
  Start();
  {
    RawClient client(frontend_->address());
    client.Send(GetRequest("/hold"));
    const auto held = handler_.Held();
    client.CloseWriting();
    handler_.WaitForAborts(1);
  }
  {
    RawClient client(frontend_->address());
    client.Send(GetRequest("/hold"));
    const auto held = handler_.Held();
    client.Reset();
    handler_.WaitForAborts(2);
    // What is written after that goes nowhere, and harms nobody.
    absl::Notification done;
    held->Post([&] {
      held->Answer(TextResponse(200, "late"));
      held->End();
      done.Notify();
    });
    done.WaitForNotification();
  }
  {
    RawClient client(frontend_->address());
    client.Send(GetRequest("/stream"));
    REQUIRE_FALSE(client.ReadSome().empty());
    client.Reset();
    handler_.WaitForAborts(3);
  }
  Turn();
}

TEST_CASE_METHOD(Fixture, "A client that takes nothing for too long is given up") {
  HttpFrontendOptions options;
  options.write_timeout = milliseconds(50);
  Start(options);
  RawClient client(frontend_->address(), 4096);
  client.Send(GetRequest("/stream"));
  handler_.WaitForAborts(1);
}

TEST_CASE_METHOD(Fixture, "A client may send little beyond the request that is being answered") {
  HttpFrontendOptions options;
  options.read_ahead_limit = 1000;
  Start(options);
  RawClient client(frontend_->address());
  client.Send(GetRequest("/hold"));
  const auto held = handler_.Held();
  std::string more;
  for (int i = 0; i < 1000; ++i) more += GetRequest(absl::StrCat("/", i));
  client.Send(more);
  held->Post([held] { held->Answer(TextResponse(200, "first")); });
  CHECK(client.Read().body == "first\n");
  for (int i = 0; i < 1000; ++i) REQUIRE(client.Read().body == absl::StrCat("GET /", i, " \n"));
}

TEST_CASE_METHOD(Fixture, "When there are too many connections, the longest idle one makes room") {
  HttpFrontendOptions options;
  options.connection_limit = 3;
  Start(options);
  RawClient busy(frontend_->address());
  busy.Send(GetRequest("/hold"));
  const auto held = handler_.Held();
  RawClient first(frontend_->address());
  first.Send(GetRequest("/1"));
  CHECK(first.Read().status == 200);
  RawClient second(frontend_->address());
  second.Send(GetRequest("/2"));
  CHECK(second.Read().status == 200);
  RawClient third(frontend_->address());
  third.Send(GetRequest("/3"));
  CHECK(third.Read().status == 200);
  CHECK(first.ReadToEnd().empty());
  second.Send(GetRequest("/2"));
  CHECK(second.Read().status == 200);
  CHECK(Figure("tessera_mgmt_http_connections") == 3);
  held->Post([held] { held->Answer(TextResponse(200, "held")); });
  CHECK(busy.Read().body == "held\n");
}

TEST_CASE_METHOD(Fixture, "When all connections are busy, more are closed") {
  HttpFrontendOptions options;
  options.connection_limit = 1;
  Start(options);
  RawClient busy(frontend_->address());
  busy.Send(GetRequest("/hold"));
  const auto held = handler_.Held();
  RawClient other(frontend_->address());
  CHECK(other.ReadToEnd().empty());
  held->Post([held] { held->Answer(TextResponse(200, "held")); });
  CHECK(busy.Read().body == "held\n");
}

TEST_CASE_METHOD(Fixture, "Large bodies together have a limit, which is free again afterwards") {
  HttpFrontendOptions options;
  options.body_limit = 1000;
  options.body_limit_in_all = 1500;
  Start(options);
  RawClient first(frontend_->address());
  first.Send(PostRequest("/hold", {}, std::string(900, 'x')));
  const auto held = handler_.Held();
  const std::string large = PostRequest("/echo", {}, std::string(900, 'x'));
  const RawResponse refused = Ask(large);
  CHECK(refused.status == 503);
  CHECK_THAT(refused.body, Contains("too many large requests"));
  CHECK(Ask(PostRequest("/echo", {}, "small")).status == 200);
  held->Post([held] { held->Answer(TextResponse(200, "")); });
  CHECK(first.Read().status == 200);
  CHECK(Ask(large).status == 200);
}

TEST_CASE_METHOD(Fixture, "A header's value cannot begin another header") {
  Start();
  const RawResponse response = Ask(GetRequest("/inject"));
  CHECK(response.Header("x-good") == "1");
  CHECK(response.Header("x-bad").empty());
  CHECK(response.Header("x-planted").empty());
}

TEST_CASE_METHOD(Fixture, "Stop waits for answers under way and ends those that never end") {
  Start();
  RawClient idle(frontend_->address());
  idle.Send(GetRequest("/echo"));
  CHECK(idle.Read().status == 200);
  RawClient streaming(frontend_->address());
  streaming.Send(GetRequest("/stream"));
  REQUIRE_FALSE(streaming.ReadSome().empty());
  RawClient answered(frontend_->address());
  answered.Send(GetRequest("/hold"));
  auto held = handler_.Held();
  std::thread later([held = std::move(held)]() mutable {
    HttpExchange* exchange = held.get();
    exchange->Post([held = std::move(held)] { held->Answer(TextResponse(200, "before the end")); });
  });
  frontend_->Stop(milliseconds(300));
  later.join();
  CHECK(answered.Read().body == "before the end\n");
  CHECK(idle.ReadToEnd().empty());
  handler_.WaitForAborts(1);
  CHECK_THROWS(RawClient(frontend_->address()));
}

TEST_CASE_METHOD(Fixture, "A timer of an exchange runs out once, and not after the end") {
  Start();
  RawClient client(frontend_->address());
  client.Send(GetRequest("/hold"));
  const auto held = handler_.Held();
  held->Post([held] {
    held->ArmTimer(milliseconds(0), [] { FAIL("was armed anew"); });
    held->ArmTimer(milliseconds(1), [held] { held->Answer(TextResponse(200, "in time")); });
  });
  CHECK(client.Read().body == "in time\n");
  Turn();
}

TEST_CASE("Addresses and files that can't be are refused with what would be right") {
  MetricRegistry metrics("test");
  Handler handler;
  const auto refusal = [&](const HttpFrontendOptions& options) {
    const auto frontend = HttpFrontend::Start(options, &handler, &metrics);
    REQUIRE(frontend.status().code() == absl::StatusCode::kInvalidArgument);
    return std::string(frontend.status().message());
  };
  for (const char* listen :
       {"", "5000", "nowhere:1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x"}) {
    CAPTURE(listen);
    CHECK_THAT(refusal({.listen = listen}), Contains("as 127.0.0.1:5000"));
  }
  CHECK_THAT(refusal({.listen = "0.0.0.0:0"}), Contains("plain text"));
  CHECK_THAT(refusal({.certificate_file = "/nonexistent"}), Contains("both or not at all"));
  CHECK_THAT(refusal({.certificate_file = "/nonexistent", .key_file = "/nonexistent"}),
             Contains("/nonexistent"));
  const auto first = HttpFrontend::Start({}, &handler, &metrics);
  REQUIRE(first.ok());
  CHECK(HttpFrontend::Start({.listen = (*first)->address()}, &handler, &metrics).status().code() ==
        absl::StatusCode::kUnavailable);
}

TEST_CASE_METHOD(Fixture, "Mutated requests are answered or refused, and the server serves on") {
  HttpFrontendOptions options;
  options.header_timeout = milliseconds(20);
  options.body_timeout = milliseconds(20);
  options.idle_timeout = milliseconds(20);
  Start(options);
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937 random(seed);
  const std::string good =
      PostRequest("/echo", {{"Content-Type", "application/grpc-web"}, {"Cookie", "a=b"}}, "body") +
      "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
  for (int round = 0; round < 500; ++round) {
    std::string bytes = good;
    for (size_t change = 1 + random() % 4; change > 0; --change) {
      const size_t at = random() % bytes.size();
      if (random() % 2 == 0)
        bytes[at] = static_cast<char>(random());
      else
        bytes.insert(at, 1, "\r\n:\0 ;9"[random() % 7]);
    }
    RawClient client(frontend_->address());
    client.Send(bytes);
    if (random() % 4 == 0)
      client.Reset();
    else
      client.CloseWriting();
    if (random() % 4 != 0) continue;
    Turn();
  }
  Turn();
}

}  // namespace
}  // namespace tessera::mgmt
