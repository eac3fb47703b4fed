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
  // Answers with what is known of the caller, if it had the certificate that the metadata
  // `test-certificate` names.
  grpc::ServerUnaryReactor* ListVolumes(grpc::CallbackServerContext* context,
                                        const v1::ListVolumesRequest* request,
                                        v1::ListVolumesResponse* response) override {
    RpcDispatcher::Admission admission =
        rpc_->Admit(*context, request->GetDescriptor()->full_name());
    const auto& metadata = context->client_metadata();
    if (const auto name = metadata.find("test-certificate"); name != metadata.end()) {
      admission.certificate_names.emplace_back(name->second.data(), name->second.size());
    }
    const absl::StatusOr<Caller> caller = rpc_->Authorize(admission);
    if (caller.ok()) {
      for (const std::string& fact :
           {caller->name, std::string(caller->Has(v1::ROLE_ADMIN) ? "admin" : "no admin"),
            std::string(caller->over_gateway ? "gateway" : "no gateway"), caller->peer,
            caller->user_agent}) {
        response->add_volumes()->set_name(fact);
      }
    }
    auto* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(caller.status()));
    return reactor;
  }

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
    if (authorization == "Bearer old.1.x") {
      return WithReason(absl::UnauthenticatedError("the session is over"), "SESSION_EXPIRED");
    }
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
  // What the server knows of a caller with that metadata.
  absl::StatusOr<std::vector<std::string>> Ask(
      const std::shared_ptr<grpc::Channel>& channel,
      const std::vector<std::pair<std::string, std::string>>& metadata) {
    grpc::ClientContext context;
    PrepareCall(&context, 20'000, "");
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    v1::ListVolumesResponse response;
    const absl::Status status =
        FromGrpcStatus(v1::VolumeService::NewStub(channel)->ListVolumes(&context, {}, &response));
    if (!status.ok()) return status;
    std::vector<std::string> facts;
    for (const auto& volume : response.volumes()) facts.push_back(volume.name());
    return facts;
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

TEST_CASE_METHOD(Fixture, "The authenticator's own reason reaches the caller") {
  v1::GetVolumeResponse response;
  CHECK(ReasonOf(Get("Bearer old.1.x", "a", &response)) == "SESSION_EXPIRED");
  CHECK(ReasonOf(Get("Bearer nonsense", "a", &response)) == "UNAUTHENTICATED");
}

TEST_CASE_METHOD(Fixture, "Where a browser is, is believed of this process alone") {
  const auto in_process = server_->InProcessChannel();
  REQUIRE(in_process.ok());
  const std::vector<std::pair<std::string, std::string>> metadata = {
      {"authorization", "Bearer viewer.1.x"},
      {"x-gw-peer", "ipv4:192.0.2.7:1234"},
      {"x-gw-user-agent", std::string(300, 'a')}};
  const auto believed = Ask(*in_process, metadata);
  REQUIRE(believed.ok());
  CHECK((*believed)[2] == "gateway");
  CHECK((*believed)[3] == "ipv4:192.0.2.7:1234");
  CHECK((*believed)[4] == std::string(200, 'a'));

  const auto outside = Ask(channel_, metadata);
  REQUIRE(outside.ok());
  CHECK((*outside)[2] == "no gateway");
  CHECK((*outside)[3].substr(0, 15) == "ipv4:127.0.0.1:");
  CHECK((*outside)[4].empty());

  const auto no_browser = Ask(*in_process, {{"authorization", "Bearer viewer.1.x"}});
  REQUIRE(no_browser.ok());
  CHECK((*no_browser)[2] == "no gateway");
}

TEST_CASE_METHOD(Fixture, "A socket pair carries a thousand calls and large messages") {
  const auto in_process = server_->InProcessChannel();
  REQUIRE(in_process.ok());
  const auto volumes = v1::VolumeService::NewStub(*in_process);
  for (int i = 0; i < 1000; ++i) {
    grpc::ClientContext context;
    PrepareCall(&context, 20'000, "Bearer viewer.1.x");
    v1::GetVolumeRequest request;
    request.set_name(i % 100 == 0 ? std::string(1 << 20, 'v') : std::to_string(i));
    v1::GetVolumeResponse response;
    REQUIRE(volumes->GetVolume(&context, request, &response).ok());
    REQUIRE(response.volume().name() == "viewer:" + request.name());
  }
}

TEST_CASE_METHOD(Fixture, "The management service's certificate may call for a person") {
  const auto as = [&](const std::string& certificate, const std::string& person) {
    return Ask(channel_, {{"test-certificate", certificate}, {kOnBehalfOf, person}});
  };
  const auto jo = as("spiffe://c1/mgmt/1", "viewer.jo.s");
  REQUIRE(jo.ok());
  CHECK((*jo)[0] == "jo.s");
  CHECK((*jo)[1] == "no admin");
  const auto root = as("spiffe://c1/mgmt/1", "admin.root");
  REQUIRE(root.ok());
  CHECK((*root)[1] == "admin");
  CHECK(ReasonOf(as("spiffe://c1/viewer/jo", "admin.root").status()) == "ON_BEHALF_OF_REFUSED");
  CHECK(ReasonOf(as("spiffe://c1/admin/jo", "viewer.jo").status()) == "ON_BEHALF_OF_REFUSED");
  CHECK(as("spiffe://c1/sds/1", "admin.root").status().code() ==
        absl::StatusCode::kUnauthenticated);
  for (const char* person : {"jo", "boss.jo", "admin.", ".jo", "mgmt.1", "ROLE_ADMIN.jo"}) {
    CAPTURE(person);
    CHECK(ReasonOf(as("spiffe://c1/mgmt/1", person).status()) == "ON_BEHALF_OF_MALFORMED");
  }
  const auto itself = Ask(channel_, {{"test-certificate", "spiffe://c1/mgmt/1"}});
  REQUIRE(itself.ok());
  CHECK((*itself)[0] == "spiffe://c1/mgmt/1");
  CHECK((*itself)[1] == "no admin");
}

TEST_CASE_METHOD(Fixture, "Whoever proves himself calls for nobody else") {
  const auto answer =
      Ask(channel_, {{"authorization", "Bearer admin.1.x"}, {kOnBehalfOf, "viewer.jo"}});
  CHECK(ReasonOf(answer.status()) == "ON_BEHALF_OF_REFUSED");
}

TEST_CASE("A person's greatest role and name go on behalf of, in printable characters") {
  Caller person;
  CHECK(FormatOnBehalfOf(person).empty());
  person.name = "jo\r\nx";
  person.roles = {v1::ROLE_VIEWER, v1::ROLE_OPERATOR};
  CHECK(FormatOnBehalfOf(person) == "operator.jo??x");
  person.roles = {v1::ROLE_ADMIN, v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
  person.name = "jo";
  const auto back = ParseOnBehalfOf(FormatOnBehalfOf(person));
  REQUIRE(back.ok());
  CHECK(back->name == "jo");
  CHECK(back->roles == person.roles);
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

TEST_CASE(
    "A client certificate stands for a person or the management service, never for another part") {
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
  CHECK(roles_of({"spiffe://c1/mgmt/1"}) == std::vector<v1::Role>{v1::ROLE_MGMT});
  CHECK(CallerOfCertificate({"spiffe://c1/admin/jo"})->name == "spiffe://c1/admin/jo");
}

TEST_CASE("The observer is told who was refused, and that nobody was who proved nothing") {
  MetricRegistry metrics("test");
  std::vector<std::string> told;
  absl::Mutex mutex;
  RpcDispatcherOptions rpc_options;
  rpc_options.services = {"tessera.v1.VolumeService"};
  rpc_options.observer = [&](const Caller& caller, const std::string& method,
                             const google::protobuf::Message& request, const absl::Status& status) {
    absl::MutexLock lock(&mutex);
    told.push_back(caller.name + " " + method + " " + request.ShortDebugString() + " " +
                   absl::StatusCodeToString(status.code()));
  };
  auto rpc = RpcDispatcher::Create(rpc_options, std::make_shared<ByKind>(), &metrics);
  REQUIRE(rpc.ok());
  Service service(rpc->get());
  GrpcServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.security.insecure = true;
  auto server = GrpcServer::Start(options, {&service});
  REQUIRE(server.ok());
  const auto stub = v1::VolumeService::NewStub(
      NewChannel((*server)->addresses()[0], grpc::InsecureChannelCredentials()));
  for (const char* bearer : {"Bearer viewer.1.x", "Bearer sds.1.x", "Bearer nonsense"}) {
    grpc::ClientContext context;
    PrepareCall(&context, 20'000, bearer);
    v1::GetVolumeRequest request;
    request.set_name("a");
    v1::GetVolumeResponse response;
    (void)stub->GetVolume(&context, request, &response);
  }
  absl::MutexLock lock(&mutex);
  const std::string call = " tessera.v1.VolumeService/GetVolume name: \"a\" ";
  CHECK(told == std::vector<std::string>{"viewer" + call + "OK", "sds" + call + "PERMISSION_DENIED",
                                         call + "UNAUTHENTICATED"});
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
