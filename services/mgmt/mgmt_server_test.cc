// The composed service, in this process: over gRPC and over the gateway's port, without an MDM.
#include "services/mgmt/mgmt_server.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "tessera/v1/alert.grpc.pb.h"
#include "tessera/v1/audit.grpc.pb.h"
#include "tessera/v1/auth.grpc.pb.h"
#include "tessera/v1/console.grpc.pb.h"
#include "tessera/v1/monitoring.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::mgmt {
namespace {

constexpr char kPassword[] = "correct horse battery";
constexpr int kDeadlineMs = 60'000;

class Fixture {
 public:
  explicit Fixture(uint64_t poll_interval_ms = 10'000) {
    std::string path = (std::filesystem::temp_directory_path() / "mgmt-server-XXXXXX").string();
    REQUIRE(mkdtemp(path.data()) != nullptr);
    folder = path;
    options.state_folder = folder;
    options.mdm = "127.0.0.1:1";  // nobody is there
    options.listen = options.grpc_listen = options.metrics_listen = "127.0.0.1:0";
    options.security.insecure = true;
    options.poll_interval_ms = poll_interval_ms;
    Start();
  }
  ~Fixture() {
    Stop();
    std::filesystem::remove_all(folder);
  }

  void Start() {
    auto started = MgmtServer::Start(options, &clock);
    INFO(started.status().ToString());
    REQUIRE(started.ok());
    server = *std::move(started);
    channel = NewChannel(server->grpc_address(), grpc::InsecureChannelCredentials());
  }
  void Stop() {
    channel.reset();
    server.reset();
  }

  // One call with the credential ("session.…", or none).
  template <typename Service, typename Request, typename Response>
  absl::Status Call(grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&,
                                                          Response*),
                    const std::string& credential, const Request& request, Response* response) {
    auto stub = Service::NewStub(channel);
    grpc::ClientContext context;
    PrepareCall(&context, kDeadlineMs, credential.empty() ? "" : "Bearer " + credential);
    return FromGrpcStatus(((*stub).*method)(&context, request, response));
  }
  absl::StatusOr<std::string> SignIn(const std::string& name, const std::string& password) {
    v1::SignInRequest request;
    request.set_user_name(name);
    request.set_password(password);
    v1::SignInResponse response;
    const absl::Status status =
        Call<v1::AuthService>(&v1::AuthService::Stub::SignIn, "", request, &response);
    if (!status.ok()) return status;
    return response.session_token();
  }
  // The first admin, with kPassword from now on.
  std::string BecomeAdmin() {
    const std::string first = SignIn("admin", server->one_time_password()).value();
    v1::ChangePasswordRequest request;
    request.set_old_password(server->one_time_password());
    request.set_new_password(kPassword);
    v1::ChangePasswordResponse response;
    REQUIRE(Call<v1::AuthService>(&v1::AuthService::Stub::ChangePassword, first, request, &response)
                .ok());
    return response.session_token();
  }
  void MakeUser(const std::string& admin, const std::string& name, v1::Role role) {
    v1::CreateUserRequest request;
    request.set_user_name(name);
    request.set_role(role);
    request.set_password(kPassword);
    v1::CreateUserResponse response;
    REQUIRE(
        Call<v1::AuthService>(&v1::AuthService::Stub::CreateUser, admin, request, &response).ok());
  }
  absl::Status ListUsers(const std::string& credential, v1::ListUsersResponse* response) {
    return Call<v1::AuthService>(&v1::AuthService::Stub::ListUsers, credential,
                                 v1::ListUsersRequest(), response);
  }
  v1::ListAuditEntriesResponse Audit(const std::string& credential) {
    v1::ListAuditEntriesResponse response;
    REQUIRE(Call<v1::AuditService>(&v1::AuditService::Stub::ListAuditEntries, credential,
                                   v1::ListAuditEntriesRequest(), &response)
                .ok());
    return response;
  }
  std::string File(const std::string& name) const {
    std::stringstream content;
    content << std::ifstream(folder + "/" + name).rdbuf();
    return content.str();
  }

  std::string folder;
  MgmtOptions options;
  SystemClock clock;
  std::unique_ptr<MgmtServer> server;
  std::shared_ptr<grpc::Channel> channel;
};

TEST_CASE("the first start has one user, whose password is in a file until it was changed") {
  Fixture fixture;
  const std::string password = fixture.server->one_time_password();
  REQUIRE(password.size() == 23);
  REQUIRE(fixture.File("one_time_password") == password + "\n");
  REQUIRE((std::filesystem::status(fixture.folder + "/one_time_password").permissions() &
           std::filesystem::perms::mask) ==
          (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
  const std::string newcomer = fixture.SignIn("admin", password).value();
  v1::ListUsersResponse users;
  REQUIRE(absl::IsPermissionDenied(fixture.ListUsers(newcomer, &users)));
  const std::string admin = fixture.BecomeAdmin();
  REQUIRE(fixture.ListUsers(admin, &users).ok());
  REQUIRE(users.users_size() == 1);
  REQUIRE_FALSE(std::filesystem::exists(fixture.folder + "/one_time_password"));
}

TEST_CASE("the endpoints file says where the console, the services and the metrics are") {
  Fixture fixture;
  const std::string endpoints = fixture.File("endpoints");
  REQUIRE(absl::StrContains(endpoints, "web=" + fixture.server->web_address() + "\n"));
  REQUIRE(absl::StrContains(endpoints, "grpc=" + fixture.server->grpc_address() + "\n"));
  REQUIRE(absl::StrContains(endpoints, "metrics=" + fixture.server->metrics_address() + "\n"));
}

TEST_CASE("without a credential nobody is anybody, with --insecure neither") {
  Fixture fixture;
  v1::ListUsersResponse users;
  const absl::Status refused = fixture.ListUsers("", &users);
  REQUIRE(absl::IsUnauthenticated(refused));
  REQUIRE(ReasonOf(refused) == "SIGN_IN_REQUIRED");
  v1::GetOverviewResponse overview;
  REQUIRE(absl::IsUnauthenticated(fixture.Call<v1::ConsoleService>(
      &v1::ConsoleService::Stub::GetOverview, "", v1::GetOverviewRequest(), &overview)));
  v1::DeleteVolumeResponse deleted;
  REQUIRE(absl::IsUnauthenticated(fixture.Call<v1::VolumeService>(
      &v1::VolumeService::Stub::DeleteVolume, "", v1::DeleteVolumeRequest(), &deleted)));
}

TEST_CASE("roles are enforced on MGMT's own services and on the MDM's behind them") {
  Fixture fixture;
  const std::string admin = fixture.BecomeAdmin();
  fixture.MakeUser(admin, "vi", v1::ROLE_VIEWER);
  const std::string viewer = fixture.SignIn("vi", kPassword).value();
  v1::ListUsersResponse users;
  REQUIRE(absl::IsPermissionDenied(fixture.ListUsers(viewer, &users)));
  v1::ListAuditEntriesResponse entries;
  REQUIRE(absl::IsPermissionDenied(fixture.Call<v1::AuditService>(
      &v1::AuditService::Stub::ListAuditEntries, viewer, v1::ListAuditEntriesRequest(), &entries)));
  v1::CreateSilenceResponse silence;
  REQUIRE(absl::IsPermissionDenied(fixture.Call<v1::AlertService>(
      &v1::AlertService::Stub::CreateSilence, viewer, v1::CreateSilenceRequest(), &silence)));
  v1::DeleteVolumeResponse deleted;
  REQUIRE(absl::IsPermissionDenied(fixture.Call<v1::VolumeService>(
      &v1::VolumeService::Stub::DeleteVolume, viewer, v1::DeleteVolumeRequest(), &deleted)));
  // What a viewer may do gets as far as the MDM, which is not there.
  v1::ListVolumesResponse volumes;
  REQUIRE(absl::IsUnavailable(fixture.Call<v1::VolumeService>(
      &v1::VolumeService::Stub::ListVolumes, viewer, v1::ListVolumesRequest(), &volumes)));
  v1::ListAlertsResponse alerts;
  REQUIRE(fixture
              .Call<v1::AlertService>(&v1::AlertService::Stub::ListAlerts, viewer,
                                      v1::ListAlertsRequest(), &alerts)
              .ok());
  v1::GetSettingsResponse settings;
  REQUIRE(fixture
              .Call<v1::ConsoleService>(&v1::ConsoleService::Stub::GetSettings, viewer,
                                        v1::GetSettingsRequest(), &settings)
              .ok());
  v1::GetStatusResponse status;
  REQUIRE(fixture
              .Call<v1::MonitoringService>(&v1::MonitoringService::Stub::GetStatus, viewer,
                                           v1::GetStatusRequest(), &status)
              .ok());
}

TEST_CASE(
    "changes on all services are in one audit log, refused ones too, and the chain is whole") {
  Fixture fixture;
  const std::string admin = fixture.BecomeAdmin();
  fixture.MakeUser(admin, "vi", v1::ROLE_VIEWER);
  const std::string viewer = fixture.SignIn("vi", kPassword).value();
  v1::DeleteVolumeRequest request;
  request.set_volume_id(7);
  v1::DeleteVolumeResponse deleted;
  (void)fixture.Call<v1::VolumeService>(&v1::VolumeService::Stub::DeleteVolume, viewer, request,
                                        &deleted);
  (void)fixture.SignIn("vi", "a wrong password");
  const v1::ListAuditEntriesResponse log = fixture.Audit(admin);
  const auto count = [&](const std::string& method, const std::string& user,
                         const std::string& result) {
    int found = 0;
    for (const v1::AuditEntry& entry : log.entries()) {
      found += entry.method() == method && entry.user_name() == user && entry.result() == result;
    }
    return found;
  };
  REQUIRE(count("tessera.v1.AuthService/SignIn", "admin", "OK") == 1);
  REQUIRE(count("tessera.v1.AuthService/ChangePassword", "admin", "OK") == 1);
  REQUIRE(count("tessera.v1.AuthService/CreateUser", "admin", "OK") == 1);
  REQUIRE(count("tessera.v1.VolumeService/DeleteVolume", "vi", "PERMISSION_DENIED") == 1);
  REQUIRE(count("tessera.v1.AuthService/SignIn", "vi", "UNAUTHENTICATED") == 1);
  REQUIRE_FALSE(absl::StrContains(log.DebugString(), kPassword));
  v1::VerifyAuditLogResponse verdict;
  REQUIRE(fixture
              .Call<v1::AuditService>(&v1::AuditService::Stub::VerifyAuditLog, admin,
                                      v1::VerifyAuditLogRequest(), &verdict)
              .ok());
  REQUIRE(verdict.problem().empty());
  REQUIRE(verdict.entries() == static_cast<uint64_t>(log.entries_size()));
}

TEST_CASE("users, sessions and the audit log outlive a restart") {
  Fixture fixture;
  const std::string admin = fixture.BecomeAdmin();
  fixture.MakeUser(admin, "jo", v1::ROLE_OPERATOR);
  const int entries = fixture.Audit(admin).entries_size();
  fixture.Stop();
  fixture.Start();
  REQUIRE(fixture.server->one_time_password().empty());
  v1::ListUsersResponse users;
  REQUIRE(fixture.ListUsers(admin, &users).ok());
  REQUIRE(users.users_size() == 2);
  REQUIRE(fixture.SignIn("jo", kPassword).ok());
  REQUIRE(fixture.Audit(admin).entries_size() == entries + 1);
}

TEST_CASE("two servers never use one state folder, nor does a reset beside a running one") {
  Fixture fixture;
  REQUIRE(absl::IsFailedPrecondition(MgmtServer::Start(fixture.options, &fixture.clock).status()));
  REQUIRE(absl::IsFailedPrecondition(ResetAdminPassword(fixture.options, &fixture.clock).status()));
}

TEST_CASE("who has the machine gets admin back, and the audit log says so") {
  Fixture fixture;
  const std::string lost = fixture.BecomeAdmin();
  fixture.Stop();
  const std::string password = ResetAdminPassword(fixture.options, &fixture.clock).value();
  REQUIRE(fixture.File("one_time_password") == password + "\n");
  fixture.Start();
  v1::ListUsersResponse users;
  REQUIRE(absl::IsUnauthenticated(fixture.ListUsers(lost, &users)));
  REQUIRE_FALSE(fixture.SignIn("admin", kPassword).ok());
  const std::string session = fixture.SignIn("admin", password).value();
  v1::ChangePasswordRequest request;
  request.set_old_password(password);
  request.set_new_password("another password");
  v1::ChangePasswordResponse changed;
  REQUIRE(
      fixture
          .Call<v1::AuthService>(&v1::AuthService::Stub::ChangePassword, session, request, &changed)
          .ok());
  bool said = false;
  const v1::ListAuditEntriesResponse log = fixture.Audit(changed.session_token());
  for (const v1::AuditEntry& entry : log.entries()) {
    said |= entry.method() == "tessera-mgmt/ResetAdminPassword";
  }
  REQUIRE(said);
}

TEST_CASE("an ended session's stream is ended") {
  Fixture fixture(100);  // streams are looked at after each round
  const std::string admin = fixture.BecomeAdmin();
  const std::string other = fixture.SignIn("admin", kPassword).value();
  auto stub = v1::ConsoleService::NewStub(fixture.channel);
  grpc::ClientContext context;
  PrepareCall(&context, kDeadlineMs, "Bearer " + other);
  auto stream = stub->WatchConsole(&context, v1::WatchConsoleRequest());
  v1::WatchConsoleResponse message;
  REQUIRE(stream->Read(&message));
  v1::GetCurrentUserResponse who;
  REQUIRE(fixture
              .Call<v1::AuthService>(&v1::AuthService::Stub::GetCurrentUser, other,
                                     v1::GetCurrentUserRequest(), &who)
              .ok());
  v1::EndSessionRequest request;
  request.set_session_id(who.session().session_id());
  v1::EndSessionResponse ended;
  REQUIRE(fixture.Call<v1::AuthService>(&v1::AuthService::Stub::EndSession, admin, request, &ended)
              .ok());
  while (stream->Read(&message)) {
  }
  REQUIRE(absl::IsUnauthenticated(FromGrpcStatus(stream->Finish())));
}

}  // namespace
}  // namespace tessera::mgmt
