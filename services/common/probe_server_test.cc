#include "services/common/probe_server.h"

#include <CLI/CLI.hpp>
#include <catch2/catch.hpp>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "services/common/grpc_server.h"

namespace tessera {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

class Prober {
 public:
  explicit Prober(const std::string& address)
      : stub_(grpc::health::v1::Health::NewStub(
            NewChannel(address, grpc::InsecureChannelCredentials()))) {}

  // "1": serving, "2": not serving, else the call's code.
  std::string Ask(const std::string& service) {
    HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    grpc::ClientContext call;
    PrepareCall(&call, 20'000, "");
    const grpc::Status status = stub_->Check(&call, request, &response);
    if (!status.ok()) return "code " + std::to_string(status.error_code());
    return HealthCheckResponse::ServingStatus_Name(response.status());
  }
  grpc::health::v1::Health::Stub* stub() { return stub_.get(); }

 private:
  std::unique_ptr<grpc::health::v1::Health::Stub> stub_;
};

TEST_CASE("Probes see a part's start, its readiness, and its end") {
  std::string reason = "3 placement groups are behind";
  ProbeServer probes;
  probes.SetListen("127.0.0.1:0");
  REQUIRE(probes.Check().ok());
  REQUIRE(probes.Start().ok());
  Prober prober(probes.address());
  const auto states = [&] {
    return prober.Ask("liveness") + " " + prober.Ask("startup") + " " + prober.Ask("readiness");
  };
  CHECK(states() == "SERVING NOT_SERVING NOT_SERVING");
  probes.Started([&reason] { return reason; });
  CHECK(states() == "SERVING SERVING NOT_SERVING");
  CHECK(prober.Ask("") == "NOT_SERVING");
  reason.clear();
  CHECK(states() == "SERVING SERVING SERVING");
  CHECK(prober.Ask("") == "SERVING");
  CHECK(prober.Ask("tessera.v1.VolumeService") == "code 5");
  probes.Stopping();
  CHECK(states() == "SERVING SERVING NOT_SERVING");
  probes.Started([] { return std::string(); });
  CHECK(prober.Ask("readiness") == "NOT_SERVING");
}

TEST_CASE("Who watches is told of each change") {
  ProbeServer probes;
  probes.SetListen("127.0.0.1:0");
  REQUIRE(probes.Start().ok());
  Prober prober(probes.address());
  grpc::ClientContext call;
  PrepareCall(&call, 60'000, "");
  HealthCheckRequest request;
  request.set_service("readiness");
  const auto reader = prober.stub()->Watch(&call, request);
  HealthCheckResponse response;
  REQUIRE(reader->Read(&response));
  CHECK(response.status() == HealthCheckResponse::NOT_SERVING);
  probes.Started([] { return std::string(); });
  REQUIRE(reader->Read(&response));
  CHECK(response.status() == HealthCheckResponse::SERVING);
  probes.Stopping();
  REQUIRE(reader->Read(&response));
  CHECK(response.status() == HealthCheckResponse::NOT_SERVING);
  call.TryCancel();
  CHECK(reader->Finish().error_code() == grpc::StatusCode::CANCELLED);
}

TEST_CASE("Without an address there is no port, and a wrong one is told") {
  ProbeServer none;
  CHECK(none.Check().ok());
  CHECK(none.Start().ok());
  CHECK(none.address().empty());
  ProbeServer wrong;
  CLI::App app("a part");
  wrong.AddFlags(&app);
  std::vector<std::string> arguments{"8007", "--health-listen"};
  app.parse(arguments);
  CHECK(absl::StrContains(wrong.Check().message(), "--health-listen '8007'"));
  ProbeServer first;
  first.SetListen("127.0.0.1:0");
  REQUIRE(first.Start().ok());
  ProbeServer second;
  second.SetListen(first.address());
  const absl::Status taken = second.Start();
  CHECK(absl::IsUnavailable(taken));
  CHECK(absl::StrContains(taken.message(), "--health-listen"));
}

}  // namespace
}  // namespace tessera
