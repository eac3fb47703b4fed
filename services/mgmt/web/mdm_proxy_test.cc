// The proxy between a real gRPC server and a fake MDM on another.
#include "services/mgmt/web/mdm_proxy.h"

#include <google/protobuf/descriptor.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/common/metrics.h"
#include "tessera/v1/operation.grpc.pb.h"
#include "tessera/v1/placement.grpc.pb.h"
#include "tessera/v1/token.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::mgmt {
namespace {

using Catch::Matchers::Contains;

std::string Sent(const grpc::ServerContextBase& context, const char* name) {
  const auto found = context.client_metadata().find(name);
  if (found == context.client_metadata().end()) return "";
  return std::string(found->second.data(), found->second.size());
}

// GetVolume answers with who asked; "missing", "unbelieved", "slow" behave so.
class FakeVolumes final : public v1::VolumeService::CallbackService {
 public:
  grpc::ServerUnaryReactor* GetVolume(grpc::CallbackServerContext* context,
                                      const v1::GetVolumeRequest* request,
                                      v1::GetVolumeResponse* response) override {
    calls.fetch_add(1);
    class Slow final : public grpc::ServerUnaryReactor {
     public:
      explicit Slow(std::atomic<int>* cancelled) : cancelled_(cancelled) {}
      void OnCancel() override {
        cancelled_->fetch_add(1);
        Finish(grpc::Status::CANCELLED);
      }
      void OnDone() override { delete this; }

     private:
      std::atomic<int>* const cancelled_;
    };
    if (request->name() == "slow") return new Slow(&cancelled);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::Status status;
    if (request->name() == "missing") {
      status = WithReason(absl::NotFoundError("no volume 'missing'"), "NO_VOLUME");
    } else if (request->name() == "unbelieved") {
      status = absl::UnauthenticatedError("who are you");
    }
    response->mutable_volume()->set_name(Sent(*context, kOnBehalfOf) + "|" +
                                         Sent(*context, "authorization") + "|" + request->name());
    response->mutable_volume()->set_size_bytes(
        static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                  context->deadline() - std::chrono::system_clock::now())
                                  .count()));
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }
  grpc::ServerUnaryReactor* DeleteVolume(grpc::CallbackServerContext* context,
                                         const v1::DeleteVolumeRequest*,
                                         v1::DeleteVolumeResponse*) override {
    calls.fetch_add(1);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  std::atomic<int> calls{0};
  std::atomic<int> cancelled{0};
};

// WatchOperations counts in the next page's token without end, as fast as it is read.
class FakeOperations final : public v1::OperationService::CallbackService {
 public:
  grpc::ServerWriteReactor<v1::WatchOperationsResponse>* WatchOperations(
      grpc::CallbackServerContext*, const v1::WatchOperationsRequest*) override {
    class Stream final : public grpc::ServerWriteReactor<v1::WatchOperationsResponse> {
     public:
      explicit Stream(std::atomic<int>* open) : open_(open) {
        open_->fetch_add(1);
        Next();
      }
      void Next() {
        message_.add_operations()->set_operation_id(++number_);
        if (message_.operations_size() > 1) message_.mutable_operations()->DeleteSubrange(0, 1);
        StartWrite(&message_);
      }
      void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
      void OnDone() override {
        open_->fetch_sub(1);
        delete this;
      }

     private:
      std::atomic<int>* const open_;
      uint64_t number_ = 0;
      v1::WatchOperationsResponse message_;
    };
    return new Stream(&open);
  }
  std::atomic<int> open{0};
};

// "Bearer viewer.1.x" is the viewer "jo".
class ByKind final : public Authenticator {
 public:
  absl::StatusOr<Caller> Authenticate(std::string_view authorization) const override {
    auto credential = ParseBearer(authorization);
    if (!credential.ok()) return credential.status();
    Caller caller;
    caller.name = "jo";
    if (credential->kind == "viewer") caller.roles = {v1::ROLE_VIEWER};
    if (credential->kind == "operator") caller.roles = {v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
    if (credential->kind == "newcomer") caller.roles = {v1::ROLE_NEWCOMER};
    return caller;
  }
};

struct Told {
  std::string name;
  std::string method;
  std::string request;
  absl::StatusCode code;
};

class Fixture {
 public:
  Fixture() {
    GrpcServerOptions options;
    options.listen = {"127.0.0.1:0"};
    options.security.insecure = true;
    auto mdm = GrpcServer::Start(options, {&volumes_, &operations_});
    REQUIRE(mdm.ok());
    mdm_ = *std::move(mdm);
    auto proxy = MdmProxy::Create(
        {.mdm_address = "mdm.example:4000",
         .observer =
             [this](const Caller& caller, const std::string& method,
                    const google::protobuf::Message& request, const absl::Status& status) {
               absl::MutexLock lock(&mutex_);
               told_.push_back({caller.name, method, request.ShortDebugString(), status.code()});
             }},
        NewChannel(mdm_->addresses()[0], grpc::InsecureChannelCredentials()),
        std::make_shared<ByKind>(), &metrics_);
    REQUIRE(proxy.ok());
    proxy_ = *std::move(proxy);
    options.generic = proxy_.get();
    auto server = GrpcServer::Start(options, {});
    REQUIRE(server.ok());
    server_ = *std::move(server);
    channel_ = NewChannel(server_->addresses()[0], grpc::InsecureChannelCredentials());
    stub_ = v1::VolumeService::NewStub(channel_);
  }

  absl::StatusOr<v1::Volume> Get(const std::string& bearer, const std::string& name) {
    grpc::ClientContext context;
    PrepareCall(&context, 60'000, bearer);
    v1::GetVolumeRequest request;
    request.set_name(name);
    v1::GetVolumeResponse response;
    const absl::Status status = FromGrpcStatus(stub_->GetVolume(&context, request, &response));
    if (!status.ok()) return status;
    return response.volume();
  }
  std::vector<Told> TakeTold() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(told_, {});
  }

 protected:
  MetricRegistry metrics_{"test"};
  FakeVolumes volumes_;
  FakeOperations operations_;
  absl::Mutex mutex_;
  std::vector<Told> told_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<GrpcServer> mdm_;
  std::unique_ptr<MdmProxy> proxy_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::VolumeService::Stub> stub_;
};

TEST_CASE_METHOD(Fixture, "A call goes to the MDM in its caller's name, and without his secret") {
  const auto volume = Get("Bearer operator.1.x", "v");
  REQUIRE(volume.ok());
  CHECK(volume->name() == "operator.jo||v");
  // The caller's deadline goes with it.
  CHECK(volume->size_bytes() > 0);
  CHECK(volume->size_bytes() <= 60);
  const auto told = TakeTold();
  REQUIRE(told.size() == 1);
  CHECK(told[0].name == "jo");
  CHECK(told[0].method == "tessera.v1.VolumeService/GetVolume");
  CHECK(told[0].request == "name: \"v\"");
  CHECK(told[0].code == absl::StatusCode::kOk);
}

TEST_CASE_METHOD(Fixture, "Who may not, does not reach the MDM, and the observer is told") {
  const auto remove = [&](const std::string& bearer) {
    grpc::ClientContext context;
    PrepareCall(&context, 60'000, bearer);
    v1::DeleteVolumeRequest request;
    request.set_volume_id(7);
    v1::DeleteVolumeResponse response;
    return FromGrpcStatus(stub_->DeleteVolume(&context, request, &response));
  };
  CHECK(remove("Bearer viewer.1.x").code() == absl::StatusCode::kPermissionDenied);
  CHECK(remove("Bearer newcomer.1.x").code() == absl::StatusCode::kPermissionDenied);
  CHECK(remove("").code() == absl::StatusCode::kUnauthenticated);
  CHECK(volumes_.calls == 0);
  const auto told = TakeTold();
  REQUIRE(told.size() == 3);
  CHECK(told[0].name == "jo");
  CHECK(told[0].request == "volume_id: 7");
  CHECK(told[0].code == absl::StatusCode::kPermissionDenied);
  CHECK(told[2].name.empty());
  CHECK(remove("Bearer operator.1.x").ok());
  CHECK(volumes_.calls == 1);
}

TEST_CASE_METHOD(Fixture, "The MDM's errors pass with their details") {
  const auto volume = Get("Bearer viewer.1.x", "missing");
  CHECK(volume.status().code() == absl::StatusCode::kNotFound);
  CHECK(volume.status().message() == "no volume 'missing'");
  CHECK(ReasonOf(volume.status()) == "NO_VOLUME");
  CHECK(TakeTold().at(0).code == absl::StatusCode::kNotFound);
}

TEST_CASE_METHOD(Fixture, "That the MDM does not believe the service is not the caller's fault") {
  const auto volume = Get("Bearer viewer.1.x", "unbelieved");
  CHECK(volume.status().code() == absl::StatusCode::kUnavailable);
  CHECK(ReasonOf(volume.status()) == "MDM_REFUSES_MGMT");
}

TEST_CASE_METHOD(Fixture, "An MDM that is away is named") {
  mdm_->Shutdown(0);
  const auto volume = Get("Bearer viewer.1.x", "v");
  CHECK(volume.status().code() == absl::StatusCode::kUnavailable);
  CHECK(ReasonOf(volume.status()) == "MDM_UNAVAILABLE");
  CHECK_THAT(std::string(volume.status().message()), Contains("mdm.example:4000"));
}

TEST_CASE_METHOD(Fixture, "A cancelled call is cancelled at the MDM") {
  grpc::ClientContext context;
  PrepareCall(&context, 600'000, "Bearer viewer.1.x");
  std::thread canceller([&] {
    while (volumes_.calls == 0) std::this_thread::yield();
    context.TryCancel();
  });
  v1::GetVolumeRequest request;
  request.set_name("slow");
  v1::GetVolumeResponse response;
  CHECK(stub_->GetVolume(&context, request, &response).error_code() == grpc::StatusCode::CANCELLED);
  canceller.join();
  while (volumes_.cancelled == 0) std::this_thread::yield();
}

TEST_CASE_METHOD(Fixture, "A deadline ends the call here and there") {
  grpc::ClientContext context;
  PrepareCall(&context, 50, "Bearer viewer.1.x");
  v1::GetVolumeRequest request;
  request.set_name("slow");
  v1::GetVolumeResponse response;
  CHECK(stub_->GetVolume(&context, request, &response).error_code() ==
        grpc::StatusCode::DEADLINE_EXCEEDED);
  while (volumes_.calls > volumes_.cancelled) std::this_thread::yield();
}

TEST_CASE_METHOD(Fixture, "A stream passes in order until its reader goes") {
  const auto operations = v1::OperationService::NewStub(channel_);
  for (int round = 0; round < 20; ++round) {
    grpc::ClientContext context;
    PrepareCall(&context, 600'000, "Bearer viewer.1.x");
    auto reader = operations->WatchOperations(&context, {});
    v1::WatchOperationsResponse message;
    for (uint64_t i = 1; i <= 100; ++i) {
      REQUIRE(reader->Read(&message));
      REQUIRE(message.operations(0).operation_id() == i);
    }
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    CHECK(reader->Finish().error_code() == grpc::StatusCode::CANCELLED);
  }
  while (operations_.open != 0) std::this_thread::yield();
  CHECK(TakeTold().empty());
}

TEST_CASE_METHOD(Fixture, "A stream without credentials is refused before it begins") {
  const auto operations = v1::OperationService::NewStub(channel_);
  grpc::ClientContext context;
  PrepareCall(&context, 600'000, "");
  auto reader = operations->WatchOperations(&context, {});
  v1::WatchOperationsResponse message;
  CHECK_FALSE(reader->Read(&message));
  CHECK(reader->Finish().error_code() == grpc::StatusCode::UNAUTHENTICATED);
}

TEST_CASE_METHOD(Fixture, "What is not for people is not passed on") {
  grpc::ClientContext context;
  PrepareCall(&context, 60'000, "Bearer operator.1.x");
  v1::AcquireGrantResponse response;
  const auto status =
      FromGrpcStatus(v1::TokenService::NewStub(channel_)->AcquireGrant(&context, {}, &response));
  CHECK(status.code() == absl::StatusCode::kUnimplemented);
  CHECK_THAT(std::string(status.message()), Contains("AcquireGrant"));
}

TEST_CASE("Of the MDM's methods those are passed on that people use") {
  const auto is_passed = [](const std::string& name) {
    const auto* method =
        google::protobuf::DescriptorPool::generated_pool()->FindMethodByName("tessera.v1." + name);
    REQUIRE(method != nullptr);
    return IsPassedToMdm(*method);
  };
  for (const char* name :
       {"TopologyService.GetTopology", "TopologyService.WatchTopology",
        "VolumeService.DeleteVolume", "OperationService.WatchOperations",
        "RepairService.StartDrain", "ScrubService.StartScrub", "UsageService.GetUsage",
        "SnapshotScheduleService.RunSnapshotSchedule", "HealthService.ListEvents",
        "PlacementService.ListPlacementGroups", "TokenService.ListTokens",
        "TokenService.GetTokenStats", "DiscoveryService.GetClusterInfo"}) {
    CAPTURE(name);
    CHECK(is_passed(name));
  }
  for (const char* name : {"HealthService.Heartbeat", "PlacementService.BeginRepair",
                           "PlacementService.WatchPlacementGroups", "TokenService.RotateKey",
                           "TokenService.RequestToken", "TokenService.AcquireGrant",
                           "DiscoveryService.RegisterSds", "AuthService.SignIn"}) {
    CAPTURE(name);
    if (google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(
            "tessera.v1." + std::string(name)) != nullptr) {
      CHECK_FALSE(is_passed(name));
    }
  }
}

}  // namespace
}  // namespace tessera::mgmt
