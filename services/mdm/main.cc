// tessera-mdm: flags, logging, the server, and the wait for the end.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

#include "services/common/clock.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/probe_server.h"
#include "services/common/settings.h"
#include "services/common/version.h"
#include "services/mdm/mdm_options.h"
#include "services/mdm/mdm_server.h"
#include "services/mdm/recovery_command.h"

namespace {

constexpr int kUsageError = 2;

int Fail(const absl::Status& status, int code) {
  std::cerr << "tessera-mdm: " << status.message() << "\n";
  return code;
}

// As `tessera` ends: 1 failed, 2 wrong usage, 4 refused in this state, 6 not reachable.
int Rebuild(const tessera::mdm::RecoveryOptions& options, const tessera::Clock& clock) {
  const absl::Status status = tessera::mdm::RunRecovery(options, clock, std::cout);
  std::cout.flush();
  if (status.ok()) return 0;
  if (absl::IsInvalidArgument(status)) return Fail(status, kUsageError);
  if (absl::IsFailedPrecondition(status)) return Fail(status, 4);
  return Fail(status, absl::IsUnavailable(status) ? 6 : 1);
}

}  // namespace

int main(int argc, char** argv) {
  tessera::SkipDeadlockSearch();
  tessera::BlockTerminationSignals();
  tessera::mdm::MdmOptions options;
  CLI::App app(
      "Tessera's metadata manager: registry, topology, volumes, placement, tokens, health.",
      "tessera-mdm");
  app.set_version_flag("--version", std::string(tessera::kVersion));
  options.AddFlags(&app);
  tessera::ProbeServer probes;
  probes.AddFlags(&app);
  tessera::Settings settings("TESSERA_MDM");
  settings.AddFlags(&app);
  tessera::mdm::RecoveryOptions recovery;
  CLI::App* const rebuild = app.add_subcommand(
      "rebuild", "Makes a lost mdm.db anew from the servers, while no MDM runs, and exits.");
  recovery.AddFlags(rebuild);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageError;
  }
  if (!rebuild->parsed()) {
    const absl::Status status = settings.Apply(&app, [](const char* name) { return getenv(name); });
    if (!status.ok()) return Fail(status, kUsageError);
  }
  tessera::LogOptions log;
  log.component = "mdm";
  log.level = options.log_level;
  log.format = options.log_format;
  if (absl::Status status = tessera::InitLogging(log); !status.ok())
    return Fail(status, kUsageError);
  static const tessera::SystemClock clock;
  if (rebuild->parsed()) return Rebuild(recovery, clock);
  if (absl::Status status = options.Check(); !status.ok()) return Fail(status, kUsageError);
  if (absl::Status status = probes.Check(); !status.ok()) return Fail(status, kUsageError);
  if (options.check_config) {
    // Certificates are read as the server would read them.
    if (auto credentials = options.security.ForServer(); !credentials.ok()) {
      return Fail(credentials.status(), kUsageError);
    }
    std::cout << "the configuration is good\n";
    return 0;
  }
  if (absl::Status status = probes.Start(); !status.ok()) return Fail(status, 1);
  auto server = tessera::mdm::MdmServer::Start(options, &clock);
  if (!server.ok()) return Fail(server.status(), 1);
  tessera::LogInfo("serving", {{"address", (*server)->address()},
                               {"metrics", (*server)->metrics_address()},
                               {"state_folder", options.state_folder},
                               {"version", tessera::kVersion}});
  probes.Started([] { return std::string(); });
  tessera::NotifyReady();
  const int signal = tessera::WaitForTermination();
  probes.Stopping();
  tessera::LogInfo("stopping", {{"signal", signal}});
  (*server)->Stop();
  return 0;
}
