// The gateway with the real frontend and a real gRPC server behind it, and a client on a raw
// socket.
#include "services/mgmt/web/gateway.h"

#include <grpc/grpc.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "services/common/auth.h"
#include "services/common/grpc_server.h"
#include "services/common/metrics.h"
#include "services/mgmt/web/testing/echo_service.h"
#include "services/mgmt/web/testing/raw_client.h"
#include "services/mgmt/web/web_server.h"

namespace tessera::mgmt {
namespace {

using Catch::Matchers::Contains;
using test::v1::EchoRequest;
using test::v1::EchoResponse;
using test::v1::EchoStreamRequest;
using test::v1::EchoStreamResponse;

constexpr char kEcho[] = "/tessera.test.v1.EchoService/Echo";
constexpr char kEchoStream[] = "/tessera.test.v1.EchoService/EchoStream";

// An answer's body, taken apart.
struct Frames {
  std::vector<std::string> messages;
  MetadataList trailers;

  [[nodiscard]] std::string Trailer(const std::string& name) const {
    for (const auto& [key, value] : trailers) {
      if (key == name) return value;
    }
    return "";
  }
};

Frames TakeApart(std::string body, GrpcWebForm form) {
  if (form == GrpcWebForm::kText) body = *DecodeBase64Runs(body);
  Frames frames;
  while (!body.empty()) {
    REQUIRE(body.size() >= kFrameHeaderBytes);
    REQUIRE(frames.trailers.empty());  // they are the end
    size_t length = 0;
    for (size_t i = 1; i < kFrameHeaderBytes; ++i) {
      length = length << 8 | static_cast<uint8_t>(body[i]);
    }
    REQUIRE(body.size() >= kFrameHeaderBytes + length);
    const std::string content = body.substr(kFrameHeaderBytes, length);
    if (body[0] == 0) {
      frames.messages.push_back(content);
    } else {
      REQUIRE(static_cast<uint8_t>(body[0]) == 0x80);
      for (const absl::string_view line : absl::StrSplit(content, "\r\n", absl::SkipEmpty())) {
        const size_t colon = line.find(": ");
        frames.trailers.emplace_back(std::string(line.substr(0, colon)),
                                     std::string(line.substr(colon + 2)));
      }
    }
    body.erase(0, kFrameHeaderBytes + length);
  }
  return frames;
}

struct Answer {
  RawResponse http;
  Frames frames;
};

class Fixture {
 public:
  explicit Fixture(const GatewayOptions& gateway = {}) {
    // After a write that was held up, gRPC's shutdown waits up to 10 s for a poller of its own. So
    // gRPC is kept for the process.
    static const bool kept = [] {
      grpc_init();
      return true;
    }();
    REQUIRE(kept);
    GrpcServerOptions options;
    options.listen = {"127.0.0.1:0"};
    options.security.insecure = true;
    auto server = GrpcServer::Start(options, {&echo_});
    REQUIRE(server.ok());
    grpc_ = *std::move(server);
    WebServerOptions web;
    web.gateway = gateway;
    auto web_server = WebServer::Start(
        web,
        [this] {
          ++channels_;
          return grpc_->InProcessChannel();
        },
        [this] { return not_ready_; }, &metrics_);
    REQUIRE(web_server.ok());
    web_ = *std::move(web_server);
  }

  static std::string Bytes(const google::protobuf::Message& request, const std::string& path,
                           HttpHeaders headers = {}, GrpcWebForm form = GrpcWebForm::kBinary) {
    headers.emplace_back("Content-Type", std::string(ContentTypeOf(form)));
    return PostRequest(path, headers, EncodeMessage(form, request.SerializeAsString()));
  }
  Answer Call(const google::protobuf::Message& request, const std::string& path = kEcho,
              const HttpHeaders& headers = {}, GrpcWebForm form = GrpcWebForm::kBinary) {
    RawClient client(web_->address());
    client.Send(Bytes(request, path, headers, form));
    Answer answer{.http = client.Read(), .frames = {}};
    if (answer.http.status == 200) answer.frames = TakeApart(answer.http.body, form);
    return answer;
  }
  // As many streams as the server has open; waits until it has that many.
  void WaitForStreams(uint64_t count) const {
    while (echo_.counts().open_streams.load() != count) std::this_thread::yield();
  }
  RawResponse Ask(const std::string& bytes) {
    RawClient client(web_->address());
    client.Send(bytes);
    return client.Read();
  }
  double OpenCalls() {
    for (const auto& [name, value] : metrics_.Figures()) {
      if (name == "tessera_mgmt_http_streams_open") return value;
    }
    return -1;
  }

 protected:
  MetricRegistry metrics_{"test"};
  EchoService echo_;
  std::string not_ready_;
  std::atomic<int> channels_{0};
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<WebServer> web_;
};

std::string MetadataSeen(const Answer& answer, const std::string& name) {
  EchoResponse response;
  REQUIRE(answer.frames.messages.size() == 1);
  REQUIRE(response.ParseFromString(answer.frames.messages[0]));
  std::string seen;
  for (const std::string& line : response.metadata()) {
    if (line.substr(0, name.size() + 2) == name + ": ") seen += line.substr(name.size() + 2) + ";";
  }
  return seen;
}

TEST_CASE_METHOD(Fixture,
                 "A unary call is answered with message, status and metadata in both forms") {
  EchoRequest request;
  request.set_text("hällo");
  request.set_padding_bytes(100'000);
  for (const GrpcWebForm form : {GrpcWebForm::kBinary, GrpcWebForm::kText}) {
    const Answer answer = Call(request, kEcho, {}, form);
    REQUIRE(answer.http.status == 200);
    CHECK(answer.http.Header("content-type") == ContentTypeOf(form));
    CHECK(answer.http.Header("tessera-initial") == "first");
    CHECK(answer.http.Header("tessera-initial-bin") == "AA0K/w");
    REQUIRE(answer.frames.messages.size() == 1);
    EchoResponse response;
    REQUIRE(response.ParseFromString(answer.frames.messages[0]));
    CHECK(response.text() == "hällo");
    CHECK(response.padding().size() == 100'000);
    CHECK(answer.frames.Trailer("grpc-status") == "0");
    CHECK(answer.frames.Trailer("tessera-trailing") == "last");
  }
}

TEST_CASE_METHOD(Fixture, "A thousand calls on one connection are each answered whole") {
  RawClient client(web_->address());
  for (int i = 0; i < 1000; ++i) {
    EchoStreamRequest request;
    request.set_text(absl::StrCat(i));
    request.set_count(static_cast<uint32_t>(1 + i % 5));
    client.Send(Bytes(request, kEchoStream));
    const RawResponse response = client.Read();
    REQUIRE(response.status == 200);
    REQUIRE(response.Header("content-type") == "application/grpc-web+proto");
    const Frames frames = TakeApart(response.body, GrpcWebForm::kBinary);
    REQUIRE(frames.messages.size() == request.count());
    REQUIRE(frames.Trailer("grpc-status") == "0");
  }
}

TEST_CASE_METHOD(Fixture, "A stream's messages come in order, then its status") {
  EchoStreamRequest request;
  request.set_text("s");
  request.set_count(2000);
  request.mutable_failure()->set_code(9);
  request.mutable_failure()->set_message("that was all");
  for (const GrpcWebForm form : {GrpcWebForm::kBinary, GrpcWebForm::kText}) {
    const Answer answer = Call(request, kEchoStream, {}, form);
    REQUIRE(answer.frames.messages.size() == 2000);
    for (uint32_t i = 0; i < 2000; ++i) {
      EchoStreamResponse response;
      REQUIRE(response.ParseFromString(answer.frames.messages[i]));
      REQUIRE(response.number() == i);
    }
    CHECK(answer.frames.Trailer("grpc-status") == "9");
    CHECK(answer.frames.Trailer("grpc-message") == "that was all");
  }
}

TEST_CASE_METHOD(Fixture, "The head of a stream comes before its first message") {
  EchoStreamRequest request;
  request.set_count(2);
  request.set_interval_ms(3'600'000);
  RawClient client(web_->address());
  client.Send(Bytes(request, kEchoStream));
  // The first message; the second is an hour away.
  CHECK_THAT(client.ReadSome(), Contains("HTTP/1.1 200"));
}

TEST_CASE_METHOD(Fixture, "An error keeps its code, its message in any script, and its details") {
  EchoRequest request;
  request.mutable_failure()->set_code(5);
  request.mutable_failure()->set_message("kein Volumen 'ü'\n100%");
  request.mutable_failure()->set_reason("NO_VOLUME");
  const Answer answer = Call(request);
  CHECK(answer.http.status == 200);
  CHECK(answer.frames.messages.empty());
  CHECK(answer.frames.Trailer("grpc-status") == "5");
  CHECK(answer.frames.Trailer("grpc-message") == "kein Volumen '%C3%BC'%0A100%25");
  google::rpc::Status details;
  REQUIRE(
      details.ParseFromString(*DecodeBase64Runs(answer.frames.Trailer("grpc-status-details-bin"))));
  google::rpc::ErrorInfo info;
  REQUIRE(details.details(0).UnpackTo(&info));
  CHECK(info.reason() == "NO_VOLUME");
}

TEST_CASE_METHOD(Fixture, "A method that nobody serves is UNIMPLEMENTED") {
  CHECK(Call(EchoRequest(), "/tessera.test.v1.EchoService/Nothing").frames.Trailer("grpc-status") ==
        "12");
  CHECK(Call(EchoRequest(), "/no.Service/Nothing").frames.Trailer("grpc-status") == "12");
}

TEST_CASE_METHOD(Fixture, "A deadline reaches the server and ends the call") {
  EchoRequest request;
  const Answer answer = Call(request, kEcho, {{"grpc-timeout", "100S"}});
  EchoResponse response;
  REQUIRE(response.ParseFromString(answer.frames.messages.at(0)));
  CHECK(response.time_left_ms() > 0);
  // gRPC rounds up what it sends.
  CHECK(response.time_left_ms() <= 102'000);
  EchoStreamRequest endless;
  endless.set_interval_ms(10);
  CHECK(Call(endless, kEchoStream, {{"grpc-timeout", "50m"}}).frames.Trailer("grpc-status") == "4");
  CHECK(Call(request, kEcho, {{"grpc-timeout", "soon"}}).frames.Trailer("grpc-status") == "3");
}

TEST_CASE_METHOD(Fixture, "The cookie becomes the credential, and the server sets and clears it") {
  EchoRequest request;
  CHECK(MetadataSeen(Call(request, kEcho, {{"Cookie", "a=b; tessera-session=session.7.abc"}}),
                     "authorization") == "Bearer session.7.abc;");
  CHECK(
      MetadataSeen(Call(request, kEcho, {{"Cookie", "tessera-session=nonsense"}}), "authorization")
          .empty());
  request.set_set_session("session.7.abc");
  const Answer set = Call(request);
  CHECK(set.http.Header("set-cookie") ==
        "tessera-session=session.7.abc; Path=/; HttpOnly; SameSite=Strict");
  CHECK(set.http.Header("x-gw-set-session").empty());
  request.set_set_session("");
  CHECK_THAT(Call(request).http.Header("set-cookie"), Contains("Max-Age=0"));
}

TEST_CASE_METHOD(Fixture,
                 "A browser cannot say where it is, nor set cookies or CORS through a service") {
  const Answer answer = Call(EchoRequest(), kEcho,
                             {{"x-gw-peer", "ipv4:10.0.0.1:1"},
                              {"X-GW-User-Agent", "forged"},
                              {"x-tessera-on-behalf-of", "admin.root"},
                              {"User-Agent", "Browser 1"}});
  CHECK_THAT(MetadataSeen(answer, "x-gw-peer"), Catch::Matchers::StartsWith("ipv4:127.0.0.1:"));
  CHECK(MetadataSeen(answer, "x-gw-user-agent") == "Browser 1;");
  CHECK(MetadataSeen(answer, "x-tessera-on-behalf-of").empty());
  CHECK(answer.http.Header("set-cookie").empty());
  CHECK(answer.http.Header("access-control-allow-origin").empty());
  CHECK(answer.http.Header("x-gw-inner").empty());
  CHECK(answer.frames.Trailer("x-gw-inner").empty());
}

TEST_CASE_METHOD(Fixture, "Metadata that is no metadata is refused before the call") {
  const uint64_t before = echo_.counts().started;
  for (const HttpHeaders& headers :
       {HttpHeaders{{"tessera-a", "\xc3\xbc"}}, HttpHeaders{{"authorization", "Bearer \xc3"}},
        HttpHeaders{{"tessera-a-bin", "%"}}}) {
    const Answer answer = Call(EchoRequest(), kEcho, headers);
    CHECK(answer.frames.Trailer("grpc-status") == "3");
    CHECK_THAT(answer.frames.Trailer("grpc-message"), Contains(headers[0].first));
  }
  CHECK(echo_.counts().started == before);
}

TEST_CASE_METHOD(Fixture, "Foreign pages, other content types and other methods call nothing") {
  const std::string body = EncodeMessage(GrpcWebForm::kBinary, "");
  const auto status = [&](const HttpHeaders& headers) {
    const RawResponse response = Ask(PostRequest(kEcho, headers, body));
    CHECK(response.Header("access-control-allow-origin").empty());
    return response.status;
  };
  const std::pair<std::string, std::string> type = {"Content-Type", "application/grpc-web+proto"};
  CHECK(status({type, {"Origin", "http://localhost"}}) == 200);
  const uint64_t before = echo_.counts().started;
  CHECK(status({type, {"Origin", "http://evil.example"}}) == 403);
  CHECK(status({type, {"Origin", "null"}}) == 403);
  CHECK(status({type, {"Sec-Fetch-Site", "cross-site"}}) == 403);
  for (const char* other : {"text/plain", "application/x-www-form-urlencoded", "application/json",
                            "multipart/form-data", "application/grpc"}) {
    CAPTURE(other);
    CHECK(status({{"Content-Type", other}}) == 415);
  }
  CHECK(status({}) == 415);
  const RawResponse preflight =
      Ask("OPTIONS " + std::string(kEcho) +
          " HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
          "Access-Control-Request-Method: POST\r\n\r\n");
  CHECK(preflight.status == 405);
  CHECK(preflight.Header("access-control-allow-methods").empty());
  CHECK(Ask(GetRequest(kEcho)).status == 405);
  CHECK(echo_.counts().started == before);
}

TEST_CASE_METHOD(Fixture, "A body that is no frame is refused by a status that says why") {
  const HttpHeaders headers = {{"Content-Type", "application/grpc-web+proto"}};
  for (const auto& [body, code] :
       std::vector<std::pair<std::string, std::string>>{{"", "3"},
                                                        {"abc", "3"},
                                                        {std::string("\1\0\0\0\0", 5), "12"},
                                                        {"\xff\xff\xff\xff\xff", "3"}}) {
    const RawResponse response = Ask(PostRequest(kEcho, headers, body));
    REQUIRE(response.status == 200);
    const Frames frames = TakeApart(response.body, GrpcWebForm::kBinary);
    CHECK(frames.Trailer("grpc-status") == code);
    CHECK_FALSE(frames.Trailer("grpc-message").empty());
  }
}

TEST_CASE_METHOD(Fixture, "A browser that goes away cancels its call, whether it reads or not") {
  EchoStreamRequest quiet;
  quiet.set_interval_ms(3'600'000);
  EchoStreamRequest fast;
  fast.set_padding_bytes(100'000);
  for (const EchoStreamRequest& request : {quiet, fast}) {
    const uint64_t before = echo_.counts().cancelled;
    RawClient client(web_->address(), 4096);
    client.Send(Bytes(request, kEchoStream));
    WaitForStreams(1);
    client.Reset();
    WaitForStreams(0);
    CHECK(echo_.counts().cancelled == before + 1);
  }
  while (OpenCalls() != 0) std::this_thread::yield();
}

TEST_CASE_METHOD(Fixture, "A browser that does not read slows the server down") {
  EchoStreamRequest request;
  request.set_padding_bytes(100'000);
  RawClient client(web_->address(), 4096);
  client.Send(Bytes(request, kEchoStream));
  WaitForStreams(1);
  // Quiet for many turns of everybody else: all buffers are full.
  uint64_t before = 0;
  for (int quiet = 0; quiet < 50;) {
    CHECK(Call(EchoRequest()).frames.Trailer("grpc-status") == "0");
    const uint64_t now = echo_.counts().written;
    quiet = now == before ? quiet + 1 : 0;
    before = now;
  }
  CHECK(before * 100'000 < (64 << 20));
  client.Reset();
  WaitForStreams(0);
}

class FewCalls : public Fixture {
 public:
  FewCalls() : Fixture({.calls_per_session_limit = 2, .call_limit = 3}) {}
};

TEST_CASE_METHOD(FewCalls, "A session, and all together, have so many calls open and no more") {
  EchoStreamRequest endless;
  endless.set_interval_ms(50);
  const auto as = [](int session) {
    return HttpHeaders{{"Cookie", absl::StrCat("tessera-session=session.", session, ".ab")}};
  };
  std::vector<std::unique_ptr<RawClient>> clients;
  for (const int session : {1, 1, 2}) {
    clients.push_back(std::make_unique<RawClient>(web_->address()));
    clients.back()->Send(Bytes(endless, kEchoStream, as(session)));
    WaitForStreams(clients.size());
    if (clients.size() == 2) {
      const Answer refused = Call(EchoRequest(), kEcho, as(1));
      CHECK(refused.frames.Trailer("grpc-status") == "8");
      CHECK_THAT(refused.frames.Trailer("grpc-message"), Contains("of this session"));
      CHECK_FALSE(refused.frames.Trailer("grpc-status-details-bin").empty());
      CHECK(Call(EchoRequest(), kEcho, as(2)).frames.Trailer("grpc-status") == "0");
    }
  }
  const Answer refused = Call(EchoRequest(), kEcho, as(3));
  CHECK(refused.frames.Trailer("grpc-status") == "8");
  CHECK_THAT(refused.frames.Trailer("grpc-message"), Contains("in all"));
  clients.clear();
  while (OpenCalls() != 0) std::this_thread::yield();
  CHECK(Call(EchoRequest(), kEcho, as(1)).frames.Trailer("grpc-status") == "0");
}

class Impatient : public Fixture {
 public:
  Impatient() : Fixture({.message_limit = 1000, .silence_limit = std::chrono::milliseconds(50)}) {}
};

TEST_CASE_METHOD(Impatient, "A stream that says nothing for too long is ended with the reason") {
  EchoStreamRequest request;
  request.set_count(2);
  request.set_interval_ms(3'000);
  const Answer answer = Call(request, kEchoStream);
  CHECK(answer.frames.messages.size() == 1);
  CHECK(answer.frames.Trailer("grpc-status") == "14");
  CHECK_THAT(answer.frames.Trailer("grpc-message"), Contains("said nothing"));
}

TEST_CASE_METHOD(Impatient, "A message over the limit is refused with both sizes") {
  EchoRequest request;
  request.set_text(std::string(1000, 'x'));
  const Answer answer = Call(request);
  CHECK(answer.frames.Trailer("grpc-status") == "8");
  CHECK_THAT(answer.frames.Trailer("grpc-message"), Contains("at most 1000"));
}

TEST_CASE_METHOD(Fixture, "After the channel broke, the next call opens another") {
  EchoRequest request;
  CHECK(Call(request).frames.Trailer("grpc-status") == "0");
  CHECK(Call(request).frames.Trailer("grpc-status") == "0");
  CHECK(channels_ == 1);
  request.mutable_failure()->set_code(14);
  CHECK(Call(request).frames.Trailer("grpc-status") == "14");
  request.clear_failure();
  CHECK(Call(request).frames.Trailer("grpc-status") == "0");
  CHECK(channels_ == 2);
}

TEST_CASE_METHOD(Fixture, "Probes say whether the service is ready, and files are served beside") {
  CHECK(Ask(GetRequest("/livez")).status == 200);
  CHECK(Ask(GetRequest("/readyz")).status == 200);
  not_ready_ = "the MDM was not reached yet";
  const RawResponse not_ready = Ask(GetRequest("/readyz"));
  CHECK(not_ready.status == 503);
  CHECK(not_ready.body == "the MDM was not reached yet\n");
  CHECK_THAT(Ask(GetRequest("/")).body, Contains("was not built"));
}

TEST_CASE_METHOD(Fixture, "Stopping ends open streams and leaves nothing behind") {
  EchoStreamRequest endless;
  endless.set_interval_ms(20);
  RawClient client(web_->address());
  client.Send(Bytes(endless, kEchoStream));
  WaitForStreams(1);
  web_->Stop(std::chrono::milliseconds(0));
  CHECK(OpenCalls() == 0);
  WaitForStreams(0);
}

}  // namespace
}  // namespace tessera::mgmt
