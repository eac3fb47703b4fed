#include "services/common/rpc.h"

#include <catch2/catch.hpp>

#include "services/common/grpc_server.h"
#include "services/common/http_server.h"
#include "tessera/v1/sdc_control.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera {
namespace {

class Service final : public v1::VolumeService::CallbackService {
 public:
  explicit Service(RpcDispatcher* rpc) : rpc_(rpc) {}
  grpc::ServerUnaryReactor* GetVolume(grpc::CallbackServerContext* context,
                                      const v1::GetVolumeRequest* request,
                                      v1::GetVolumeResponse* response) override {
    return rpc_->Unary(context, request, response,
                       [](const CallContext& call, const v1::GetVolumeRequest& get,
                          v1::GetVolumeResponse* answer) -> absl::Status {
                         if (get.name() == "missing") {
                           return WithReason(absl::NotFoundError("no volume 'missing'"),
                                             "NO_VOLUME");
                         }
                         answer->mutable_volume()->set_name(call.caller().name + ":" + get.name());
                         return absl::OkStatus();
                       });
  }
  // Served by no dispatcher that knows its request: see the test.
 private:
  RpcDispatcher* const rpc_;
};

class Streams final : public v1::SdcControlService::CallbackService {
 public:
  explicit Streams(RpcDispatcher* rpc) : rpc_(rpc) {}
  grpc::ServerWriteReactor<v1::ReadVolumeResponse>* ReadVolume(
      grpc::CallbackServerContext* context, const v1::ReadVolumeRequest* request) override {
    return rpc_->ServerStream<v1::ReadVolumeRequest, v1::ReadVolumeResponse>(
        context, request,
        [](const CallContext&, const v1::ReadVolumeRequest& read,
           StreamWriter<v1::ReadVolumeResponse>& writer) -> absl::Status {
          for (uint64_t i = 0; i < read.length_bytes(); ++i) {
            v1::ReadVolumeResponse piece;
            piece.set_data(std::to_string(i));
            if (!writer.Write(piece)) return absl::CancelledError("gone");
          }
          return absl::OkStatus();
        });
  }
  grpc::ServerReadReactor<v1::WriteVolumeRequest>* WriteVolume(
      grpc::CallbackServerContext* context, v1::WriteVolumeResponse* response) override {
    return rpc_->ClientStream<v1::WriteVolumeRequest>(
        context, response,
        [](const CallContext&, StreamReader<v1::WriteVolumeRequest>& reader,
           v1::WriteVolumeResponse* answer) -> absl::Status {
          v1::WriteVolumeRequest piece;
          uint64_t total = 0;
          while (reader.Read(&piece)) total += piece.data().size();
          answer->set_written_bytes(total);
          return absl::OkStatus();
        });
  }

 private:
  RpcDispatcher* const rpc_;
};

// "Bearer <role>.1.x" has that role.
class ByKind final : public Authenticator {
 public:
  absl::StatusOr<Caller> Authenticate(std::string_view authorization) const override {
    auto credential = ParseBearer(authorization);
    if (!credential.ok()) return credential.status();
    Caller caller;
    caller.name = credential->kind;
    if (credential->kind == "viewer") caller.roles = {v1::ROLE_VIEWER};
    if (credential->kind == "sds") caller.roles = {v1::ROLE_SDS};
    if (credential->kind == "admin") caller.roles = {v1::ROLE_ADMIN};
    return caller;
  }
};

class Fixture {
 public:
  Fixture() : metrics_("test") {
    auto rpc = RpcDispatcher::Create(
        {.services = {"tessera.v1.VolumeService", "tessera.v1.SdcControlService"}},
        std::make_shared<ByKind>(), &metrics_);
    REQUIRE(rpc.ok());
    rpc_ = *std::move(rpc);
    service_ = std::make_unique<Service>(rpc_.get());
    streams_ = std::make_unique<Streams>(rpc_.get());
    GrpcServerOptions options;
    options.listen = {"127.0.0.1:0"};
    options.security.insecure = true;
    auto server = GrpcServer::Start(options, {service_.get(), streams_.get()});
    REQUIRE(server.ok());
    server_ = *std::move(server);
    channel_ = NewChannel(server_->addresses()[0], grpc::InsecureChannelCredentials());
    volumes_ = v1::VolumeService::NewStub(channel_);
    sdc_ = v1::SdcControlService::NewStub(channel_);
  }
  absl::Status Get(const std::string& bearer, const std::string& name,
                   v1::GetVolumeResponse* response) {
    grpc::ClientContext context;
    PrepareCall(&context, 20'000, bearer);
    v1::GetVolumeRequest request;
    request.set_name(name);
    return FromGrpcStatus(volumes_->GetVolume(&context, request, response));
  }

 protected:
  MetricRegistry metrics_;
  std::unique_ptr<RpcDispatcher> rpc_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<Streams> streams_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::VolumeService::Stub> volumes_;
  std::unique_ptr<v1::SdcControlService::Stub> sdc_;
};

TEST_CASE_METHOD(Fixture, "The access option of the proto decides who may call") {
  v1::GetVolumeResponse response;
  REQUIRE(Get("Bearer viewer.1.x", "a", &response).ok());
  CHECK(response.volume().name() == "viewer:a");
  CHECK(Get("Bearer sds.1.x", "a", &response).code() == absl::StatusCode::kPermissionDenied);
  CHECK(Get("", "a", &response).code() == absl::StatusCode::kUnauthenticated);
  CHECK(Get("Bearer nonsense", "a", &response).code() == absl::StatusCode::kUnauthenticated);
}

TEST_CASE_METHOD(Fixture, "A handler's error arrives with code and reason, and is counted") {
  v1::GetVolumeResponse response;
  const absl::Status status = Get("Bearer admin.1.x", "missing", &response);
  CHECK(status.code() == absl::StatusCode::kNotFound);
  CHECK(ReasonOf(status) == "NO_VOLUME");
  const std::string text = metrics_.Text();
  CHECK(text.find("tessera_grpc_server_handled_total{code=\"NOT_FOUND\",method=\"GetVolume\"") !=
        std::string::npos);
}

TEST_CASE_METHOD(Fixture, "Streams run both ways") {
  grpc::ClientContext context;
  PrepareCall(&context, 20'000, "Bearer admin.1.x");
  v1::ReadVolumeRequest request;
  request.set_length_bytes(1000);
  auto reader = sdc_->ReadVolume(&context, request);
  v1::ReadVolumeResponse piece;
  int count = 0;
  while (reader->Read(&piece)) CHECK(piece.data() == std::to_string(count++));
  CHECK(reader->Finish().ok());
  CHECK(count == 1000);

  grpc::ClientContext write_context;
  PrepareCall(&write_context, 20'000, "Bearer admin.1.x");
  v1::WriteVolumeResponse written;
  auto writer = sdc_->WriteVolume(&write_context, &written);
  for (int i = 0; i < 100; ++i) {
    v1::WriteVolumeRequest part;
    part.set_data(std::string(1000, 'x'));
    REQUIRE(writer->Write(part));
  }
  writer->WritesDone();
  CHECK(writer->Finish().ok());
  CHECK(written.written_bytes() == 100'000);
}

TEST_CASE("Plain text is refused off loopback, and TLS names the flag that is missing") {
  SecurityOptions security;
  CHECK(security.Check({"127.0.0.1:1"}).message().find("--tls-certificate") != std::string::npos);
  security.insecure = true;
  CHECK(security.Check({"127.0.0.1:1", "unix:/x", "[::1]:1", ""}).ok());
  CHECK(security.Check({"0.0.0.0:1"}).code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("A client certificate stands for a person, never for a part") {
  const auto roles_of = [](const std::vector<std::string>& names) {
    const auto caller = CallerOfCertificate(names);
    return caller.has_value() ? caller->roles : std::vector<v1::Role>{};
  };
  CHECK(roles_of({"localhost", "spiffe://c1/admin/jo"}) ==
        std::vector<v1::Role>{v1::ROLE_ADMIN, v1::ROLE_OPERATOR, v1::ROLE_VIEWER});
  CHECK(roles_of({"spiffe://c1/operator/jo"}) ==
        std::vector<v1::Role>{v1::ROLE_OPERATOR, v1::ROLE_VIEWER});
  CHECK(roles_of({"spiffe://c1/viewer/jo"}) == std::vector<v1::Role>{v1::ROLE_VIEWER});
  for (const char* name : {"admin", "spiffe://c1/admin", "spiffe://c1/admin/", "spiffe:///admin/jo",
                           "spiffe://c1/sds/7", "spiffe://c1/mdm/1", "https://c1/admin/jo",
                           "xspiffe://c1/admin/jo", ""}) {
    CAPTURE(name);
    CHECK(roles_of({name}).empty());
  }
  CHECK(CallerOfCertificate({"spiffe://c1/admin/jo"})->name == "spiffe://c1/admin/jo");
}

TEST_CASE("A dispatcher of an unknown service does not start") {
  MetricRegistry metrics("test");
  CHECK(RpcDispatcher::Create({.services = {"tessera.v1.NoService"}}, std::make_shared<ByKind>(),
                              &metrics)
            .status()
            .code() == absl::StatusCode::kNotFound);
}

TEST_CASE("A taken port is said to be taken") {
  GrpcServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.security.insecure = true;
  Service none(nullptr);
  auto first = GrpcServer::Start(options, {&none});
  REQUIRE(first.ok());
  Service other(nullptr);
  options.listen = (*first)->addresses();
  const auto second = GrpcServer::Start(options, {&other});
  CHECK(second.status().code() == absl::StatusCode::kUnavailable);
}

TEST_CASE("Metrics and probes are served over HTTP") {
  MetricRegistry metrics("test");
  std::string reason = "still opening";
  const auto handler = MetricsHandler(&metrics, [&] { return reason; });
  CHECK(handler({.method = "GET", .path = "/metrics"}).body.find("tessera_build_info{") !=
        std::string::npos);
  CHECK(handler({.method = "GET", .path = "/readyz"}).status == 503);
  reason.clear();
  CHECK(handler({.method = "GET", .path = "/readyz"}).status == 200);
  CHECK(handler({.method = "GET", .path = "/livez"}).status == 200);
  CHECK(handler({.method = "POST", .path = "/metrics"}).status == 405);
  CHECK(handler({.method = "GET", .path = "/nothing"}).status == 404);
  CHECK(HttpServer::Start({.listen = "127.0.0.1:0"}, handler).ok());
  CHECK(HttpServer::Start({.listen = "nowhere"}, handler).status().code() ==
        absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera
