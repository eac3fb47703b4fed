#include "services/mgmt/mgmt_server.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "services/common/certificate.h"
#include "services/common/certificate_gauge.h"
#include "services/common/errors.h"
#include "services/common/http_server.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/rpc.h"
#include "services/common/status_macros.h"
#include "services/common/tls.h"
#include "services/mgmt/alerts/alert_service.h"
#include "services/mgmt/alerts/alerts.h"
#include "services/mgmt/monitor/monitor.h"
#include "services/mgmt/people/audit_log.h"
#include "services/mgmt/people/audit_service.h"
#include "services/mgmt/people/auth_service.h"
#include "services/mgmt/people/first_admin.h"
#include "services/mgmt/people/mgmt_authenticator.h"
#include "services/mgmt/people/password_hasher.h"
#include "services/mgmt/people/sign_in_limiter.h"
#include "services/mgmt/state_folder.h"
#include "services/mgmt/web/mdm_proxy.h"
#include "services/mgmt/web/web_server.h"

namespace tessera::mgmt {
namespace {

using std::chrono::milliseconds;

// Two hash a password, three wait for their turn, and one is there for whoever wants to know who he
// is.
constexpr size_t kAuthThreads = 6;
constexpr size_t kPromptThreads = 8;
constexpr int kMessageBytesMax = 4 << 20;
constexpr milliseconds kWebGrace{1'000};
// The audit log's part of the database.
constexpr uint64_t kAuditShare = 4;

SessionLimits LimitsOf(const MgmtOptions& options) {
  return {.idle_ms = options.session_idle_ms, .lifetime_ms = options.session_lifetime_ms};
}

AlertsOptions AlertsOf(const MgmtOptions& options) {
  return {.rules_file = options.alert_rules_file, .notification_file = options.notification_file};
}

absl::StatusOr<std::unique_ptr<AuditLog>> OpenAuditLog(const MgmtOptions& options, MgmtDb* db,
                                                       const Clock* clock,
                                                       MetricRegistry* metrics) {
  return AuditLog::Open(db, clock, metrics,
                        std::min(kAuditBytesMax, options.database_limit_bytes / kAuditShare));
}

KeepPassword KeeperIn(const StateFolder* state) {
  return [state](const std::string& password) { return state->KeepOneTimePassword(password); };
}

// When the certificates that this process shows end. One that can't be read is told of by whoever
// uses it.
std::map<std::string, uint64_t> CertificateEnds(const MgmtOptions& options) {
  std::map<std::string, uint64_t> ends;
  for (const auto& [name, path] : {std::pair{"console", options.web_certificate_file},
                                   std::pair{"mgmt", options.security.certificate_file},
                                   std::pair{"authority", options.security.ca_file}}) {
    if (path.empty()) continue;
    if (const auto end = CertificateEndMs(path); end.ok()) ends[name] = *end;
  }
  return ends;
}

}  // namespace

// Declared in the order in which they need each other; destroyed the other way round.
struct MgmtServer::Parts {
  Parts(const MgmtOptions& options_in, const Clock* clock_in)
      : options(options_in), clock(clock_in), metrics("mgmt") {}

  [[nodiscard]] absl::Status Serve();
  [[nodiscard]] absl::Status OpenPeople();
  [[nodiscard]] absl::Status OpenMonitor();
  [[nodiscard]] absl::Status MakeServices();
  [[nodiscard]] absl::Status Listen();
  void Stop();
  [[nodiscard]] absl::StatusOr<std::unique_ptr<RpcDispatcher>> Dispatcher(
      std::vector<std::string> services, size_t threads);

  const MgmtOptions options;
  const Clock* const clock;
  MetricRegistry metrics;
  std::unique_ptr<StateFolder> state;
  std::string one_time_password;

  std::unique_ptr<PasswordHasher> hasher;
  SignInLimiter limiter;
  std::unique_ptr<AuditLog> audit_log;
  std::shared_ptr<MgmtAuthenticator> authenticator;  // shared with the dispatchers
  CallObserver observer;

  std::unique_ptr<Monitor> monitor;
  std::unique_ptr<Alerts> alerts;

  std::unique_ptr<RpcDispatcher> auth_rpc;
  std::unique_ptr<RpcDispatcher> prompt_rpc;
  std::unique_ptr<AuthService> auth;
  std::unique_ptr<AuditService> audit;
  std::unique_ptr<AlertServiceImpl> alert;
  std::unique_ptr<MdmProxy> proxy;

  std::unique_ptr<GrpcServer> server;
  std::unique_ptr<WebServer> web;
  std::unique_ptr<HttpServer> http;
  bool stopped = false;
};

absl::StatusOr<std::unique_ptr<RpcDispatcher>> MgmtServer::Parts::Dispatcher(
    std::vector<std::string> services, size_t threads) {
  RpcDispatcherOptions rpc_options;
  rpc_options.services = std::move(services);
  rpc_options.unary_threads = threads;
  rpc_options.stream_threads = 1;  // watches are pushed; there are no others
  rpc_options.observer = observer;
  return RpcDispatcher::Create(rpc_options, authenticator, &metrics);
}

absl::Status MgmtServer::Parts::OpenPeople() {
  TESSERA_ASSIGN_OR_RETURN(hasher, PasswordHasher::Create({}));
  TESSERA_ASSIGN_OR_RETURN(
      one_time_password, EnsureFirstAdmin(state->db(), hasher.get(), clock, KeeperIn(state.get())));
  TESSERA_ASSIGN_OR_RETURN(audit_log, OpenAuditLog(options, state->db(), clock, &metrics));
  authenticator = std::make_shared<MgmtAuthenticator>(state->db(), LimitsOf(options), clock);
  observer = [this](const Caller& caller, const std::string& method,
                    const google::protobuf::Message& request, const absl::Status& status) {
    audit_log->Observe(caller, method, request, status);
  };
  prometheus::Gauge& sessions =
      metrics.Gauge("tessera_mgmt_sessions", "Sessions that are not over.");
  metrics.AddCollector([this, &sessions] {
    const absl::Status status = state->db()->Read([&](SQLite::Database& db) {
      sessions.Set(static_cast<double>(CountSessions(db, LimitsOf(options), clock->WallMillis())));
      return absl::OkStatus();
    });
    if (!status.ok()) LogWarning("sessions can't be counted", {{"error", status}});
  });
  return absl::OkStatus();
}

absl::Status MgmtServer::Parts::OpenMonitor() {
  MonitorOptions monitor_options;
  monitor_options.mdm = options.mdm;
  monitor_options.poll_interval = milliseconds(options.poll_interval_ms);
  monitor_options.database_limit_bytes = options.database_limit_bytes;
  monitor_options.address = options.grpc_listen;
  monitor_options.settings = options.settings;
  MonitorHooks hooks;
  hooks.active_alerts = [this] { return alerts->Active(); };
  hooks.credential_good = [this](const std::string& credential) {
    return authenticator->IsCredentialGood(credential);
  };
  hooks.certificate_expiry_ms = [this] { return CertificateEnds(options); };
  TESSERA_ASSIGN_OR_RETURN(auto credentials,
                           options.security.ForClient({kRoleMdm, kRoleSds, kRoleSdc}));
  TESSERA_ASSIGN_OR_RETURN(
      monitor, Monitor::Create(std::move(monitor_options), std::move(hooks), state->db(), clock,
                               &metrics, std::move(credentials)));
  TESSERA_ASSIGN_OR_RETURN(
      alerts, Alerts::Create(AlertsOf(options), state->db(), clock, &metrics,
                             [this](const v1::Alert& changed) { monitor->OnAlert(changed); }));
  monitor->AddListener([this](const ClusterSnapshot& snapshot) { alerts->OnSnapshot(snapshot); });
  return absl::OkStatus();
}

absl::Status MgmtServer::Parts::MakeServices() {
  TESSERA_ASSIGN_OR_RETURN(auth_rpc, Dispatcher({"tessera.v1.AuthService"}, kAuthThreads));
  TESSERA_ASSIGN_OR_RETURN(prompt_rpc,
                           Dispatcher({"tessera.v1.AuditService", "tessera.v1.AlertService",
                                       "tessera.v1.ConsoleService", "tessera.v1.MonitoringService"},
                                      kPromptThreads));
  AuthService::Parts parts;
  parts.db = state->db();
  parts.hasher = hasher.get();
  parts.limiter = &limiter;
  parts.clock = clock;
  parts.metrics = &metrics;
  parts.limits = LimitsOf(options);
  parts.password_changed = [this](const std::string& user_name) {
    if (user_name == kFirstAdmin) state->ForgetOneTimePassword();
  };
  auth = std::make_unique<AuthService>(auth_rpc.get(), parts);
  audit = std::make_unique<AuditService>(prompt_rpc.get(), audit_log.get());
  alert = std::make_unique<AlertServiceImpl>(prompt_rpc.get(), &alerts->center());

  MdmProxyOptions proxy_options;
  proxy_options.mdm_address = options.mdm;
  proxy_options.observer = observer;
  TESSERA_ASSIGN_OR_RETURN(auto credentials, options.security.ForClient({kRoleMdm}));
  TESSERA_ASSIGN_OR_RETURN(
      proxy, MdmProxy::Create(proxy_options, NewChannel(options.mdm, credentials), authenticator,
                              &metrics));
  return absl::OkStatus();
}

absl::Status MgmtServer::Parts::Listen() {
  GrpcServerOptions server_options;
  server_options.listen = {options.grpc_listen};
  server_options.security = options.security;
  server_options.max_message_bytes = kMessageBytesMax;
  server_options.generic = proxy.get();
  std::vector<grpc::Service*> services = monitor->MakeServices(prompt_rpc.get());
  services.insert(services.end(), {auth.get(), audit.get(), alert.get()});
  TESSERA_ASSIGN_OR_RETURN(server, GrpcServer::Start(server_options, services));

  WebServerOptions web_options;
  web_options.frontend.listen = options.listen;
  web_options.frontend.certificate_file = options.web_certificate_file;
  web_options.frontend.key_file = options.web_key_file;
  web_options.console_folder = options.console_folder;
  TESSERA_ASSIGN_OR_RETURN(web, WebServer::Start(
                                    web_options, [this] { return server->InProcessChannel(); },
                                    [] { return ""; }, &metrics));
  HttpServerOptions http_options;
  http_options.listen = options.metrics_listen;
  TESSERA_ASSIGN_OR_RETURN(
      http, HttpServer::Start(http_options, MetricsHandler(&metrics, [] { return ""; })));
  return WriteEndpointsFile(
      options.state_folder,
      {{"web", web->address()}, {"grpc", server->addresses()[0]}, {"metrics", http->address()}});
}

absl::Status MgmtServer::Parts::Serve() {
  TESSERA_ASSIGN_OR_RETURN(state, StateFolder::Open(options.state_folder));
  AddCertificateGauge(&metrics, "node", options.security.certificate_file);
  AddCertificateGauge(&metrics, "console", options.web_certificate_file);
  TESSERA_RETURN_IF_ERROR(OpenPeople());
  TESSERA_RETURN_IF_ERROR(OpenMonitor());
  TESSERA_RETURN_IF_ERROR(MakeServices());
  TESSERA_RETURN_IF_ERROR(Listen());
  alerts->Start();
  monitor->Start();
  return absl::OkStatus();
}

void MgmtServer::Parts::Stop() {
  if (std::exchange(stopped, true)) return;
  // Streams end first, so that nobody waits for them.
  if (monitor != nullptr) monitor->Stop();
  if (alerts != nullptr) alerts->Stop();
  if (web != nullptr) web->Stop(kWebGrace);
  web.reset();
  if (server != nullptr) server->Shutdown();
  for (auto* rpc : {&auth_rpc, &prompt_rpc}) {
    if (*rpc != nullptr) (*rpc)->Shutdown();
  }
  http.reset();
}

absl::StatusOr<std::unique_ptr<MgmtServer>> MgmtServer::Start(const MgmtOptions& options,
                                                              const Clock* clock) {
  TESSERA_RETURN_IF_ERROR(options.Check());
  auto parts = std::make_unique<Parts>(options, clock);
  if (absl::Status status = parts->Serve(); !status.ok()) {
    parts->Stop();
    return status;
  }
  return std::unique_ptr<MgmtServer>(new MgmtServer(std::move(parts)));
}

MgmtServer::MgmtServer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

MgmtServer::~MgmtServer() { Stop(); }

const std::string& MgmtServer::web_address() const { return parts_->web->address(); }
const std::string& MgmtServer::grpc_address() const { return parts_->server->addresses()[0]; }
const std::string& MgmtServer::metrics_address() const { return parts_->http->address(); }
const std::string& MgmtServer::one_time_password() const { return parts_->one_time_password; }

void MgmtServer::Stop() { parts_->Stop(); }

absl::Status CheckFiles(const MgmtOptions& options) {
  TESSERA_RETURN_IF_ERROR(options.security.ForServer().status());
  if (!options.web_certificate_file.empty()) {
    TESSERA_RETURN_IF_ERROR(
        Annotate(CertificateEndMs(options.web_certificate_file).status(), "--web-certificate"));
    TESSERA_RETURN_IF_ERROR(Annotate(ReadFile(options.web_key_file).status(), "--web-key"));
  }
  return CheckAlertFiles(AlertsOf(options));
}

absl::StatusOr<std::string> ResetAdminPassword(const MgmtOptions& options, const Clock* clock) {
  TESSERA_ASSIGN_OR_RETURN(const auto state, StateFolder::Open(options.state_folder));
  MetricRegistry metrics("mgmt");
  TESSERA_ASSIGN_OR_RETURN(const auto hasher, PasswordHasher::Create({}));
  TESSERA_ASSIGN_OR_RETURN(const auto audit_log,
                           OpenAuditLog(options, state->db(), clock, &metrics));
  TESSERA_ASSIGN_OR_RETURN(
      const std::string password,
      ResetFirstAdmin(state->db(), hasher.get(), clock, KeeperIn(state.get())));
  audit_log->Record({.user_name = "root of the machine",
                     .credential = "none",
                     .peer = "local",
                     .method = "tessera-mgmt/ResetAdminPassword",
                     .result = absl::OkStatus()});
  return password;
}

}  // namespace tessera::mgmt
