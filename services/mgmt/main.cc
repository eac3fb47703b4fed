// tessera-mgmt: flags, logging, the server, and the wait for the end.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

#include "services/common/clock.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/probe_server.h"
#include "services/common/version.h"
#include "services/mgmt/mgmt_options.h"
#include "services/mgmt/mgmt_server.h"

namespace {

constexpr int kUsageError = 2;

int Fail(const absl::Status& status, int code) {
  std::cerr << "tessera-mgmt: " << status.message() << "\n";
  return code;
}

void PrintAdmin(const std::string& password) {
  std::cout << "sign in as: admin\none-time password: " << password << "\n" << std::flush;
}

// As `tessera` ends: 1 failed, 4 refused in this state.
int ResetAdminPassword(const tessera::mgmt::MgmtOptions& options, const tessera::Clock& clock) {
  const auto password = tessera::mgmt::ResetAdminPassword(options, &clock);
  if (!password.ok()) {
    return Fail(password.status(), absl::IsFailedPrecondition(password.status()) ? 4 : 1);
  }
  PrintAdmin(*password);
  return 0;
}

int CheckConfiguration(const tessera::mgmt::MgmtOptions& options) {
  if (const absl::Status status = CheckFiles(options); !status.ok()) {
    return Fail(status, kUsageError);
  }
  std::cout << "the configuration is good\n";
  return 0;
}

int Serve(const tessera::mgmt::MgmtOptions& options, const tessera::Clock& clock,
          tessera::ProbeServer* probes) {
  if (const absl::Status status = probes->Start(); !status.ok()) return Fail(status, 1);
  auto server = tessera::mgmt::MgmtServer::Start(options, &clock);
  if (!server.ok()) return Fail(server.status(), 1);
  // Once, and not in the log.
  if (!(*server)->one_time_password().empty()) PrintAdmin((*server)->one_time_password());
  tessera::LogInfo("serving", {{"console", (*server)->web_address()},
                               {"grpc", (*server)->grpc_address()},
                               {"metrics", (*server)->metrics_address()},
                               {"state_folder", options.state_folder},
                               {"version", tessera::kVersion}});
  probes->Started([] { return std::string(); });
  tessera::NotifyReady();
  const int signal = tessera::WaitForTermination();
  probes->Stopping();
  tessera::LogInfo("stopping", {{"signal", signal}});
  (*server)->Stop();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  tessera::SkipDeadlockSearch();
  tessera::BlockTerminationSignals();
  tessera::mgmt::MgmtOptions options;
  tessera::mgmt::SettingsReader reader(&options);
  CLI::App app(
      "Tessera's management service: console, alerts, monitoring, and the people who use them.",
      "tessera-mgmt");
  app.set_version_flag("--version", std::string(tessera::kVersion));
  app.footer(
      "Each setting is also TESSERA_MGMT_<NAME> in the environment, and <name> in the file of "
      "--config.");
  bool check_config = false;
  bool reset_admin_password = false;
  reader.AddFlags(&app);
  CLI::Option* const check = app.add_flag("--check-config", check_config,
                                          "Check settings and files, start nothing, and exit.");
  app.add_flag(
         "--reset-admin-password", reset_admin_password,
         "While no server runs: give the user admin a new one-time password, print it, and exit.")
      ->excludes(check);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageError;
  }
  if (const absl::Status status = reader.Read([](const char* name) { return std::getenv(name); });
      !status.ok()) {
    return Fail(status, kUsageError);
  }
  tessera::LogOptions log;
  log.component = "mgmt";
  log.level = options.log_level;
  log.format = options.log_format;
  if (absl::Status status = tessera::InitLogging(log); !status.ok()) {
    return Fail(status, kUsageError);
  }
  static const tessera::SystemClock clock;
  if (reset_admin_password) return ResetAdminPassword(options, clock);
  if (absl::Status status = options.Check(); !status.ok()) return Fail(status, kUsageError);
  tessera::ProbeServer probes;
  probes.SetListen(options.health_listen);
  if (absl::Status status = probes.Check(); !status.ok()) return Fail(status, kUsageError);
  if (check_config) return CheckConfiguration(options);
  return Serve(options, clock, &probes);
}
