// tessera-sds: flags, logging, the server, and the wait for the end.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

#include "libchunk/env_posix.h"
#include "libchunk/store.h"
#include "services/common/clock.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/probe_server.h"
#include "services/common/settings.h"
#include "services/common/version.h"
#include "services/sds/sds_options.h"
#include "services/sds/sds_server.h"

namespace {

constexpr int kUsageError = 2;

int Fail(const absl::Status& status, int code) {
  std::cerr << "tessera-sds: " << status.message() << "\n";
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  tessera::SkipDeadlockSearch();
  tessera::BlockTerminationSignals();
  tessera::KeepFreedMemory();
  tessera::sds::SdsOptions options;
  CLI::App app("Tessera's storage data server: chunks on local disks, replication, resync.",
               "tessera-sds");
  app.set_version_flag("--version", std::string(tessera::kVersion));
  options.AddFlags(&app);
  tessera::ProbeServer probes;
  probes.AddFlags(&app);
  tessera::Settings settings("TESSERA_SDS");
  settings.AddFlags(&app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageError;
  }
  if (absl::Status status = settings.Apply(&app, [](const char* name) { return getenv(name); });
      !status.ok()) {
    return Fail(status, kUsageError);
  }
  tessera::LogOptions log;
  log.component = "sds";
  log.level = options.log_level;
  log.format = options.log_format == "json" ? tessera::LogFormat::kJson : tessera::LogFormat::kText;
  if (absl::Status status = tessera::InitLogging(log); !status.ok())
    return Fail(status, kUsageError);
  if (absl::Status status = options.Check(); !status.ok()) return Fail(status, kUsageError);
  if (absl::Status status = probes.Check(); !status.ok()) return Fail(status, kUsageError);
  if (options.check_config) {
    if (auto credentials = options.security.ForServer(); !credentials.ok()) {
      return Fail(credentials.status(), kUsageError);
    }
    std::cout << "the configuration is good\n";
    return 0;
  }
  static const tessera::SystemClock clock;
  static tessera::chunk::PosixEnv env;
  if (absl::Status status = probes.Start(); !status.ok()) return Fail(status, 1);
  auto server = tessera::sds::SdsServer::Start(
      options, &clock,
      [](const std::string& path, const tessera::chunk::StoreOptions& store) {
        return tessera::chunk::Store::Open(&env, path, store);
      },
      [] { kill(getpid(), SIGTERM); });
  if (!server.ok()) return Fail(server.status(), 1);
  tessera::LogInfo("serving", {{"control", (*server)->endpoints().control()},
                               {"data", (*server)->endpoints().data()},
                               {"state_folder", options.state_folder},
                               {"version", tessera::kVersion}});
  probes.Started([&server] { return (*server)->NotReadyReason(); });
  tessera::NotifyReady();
  const int signal = tessera::WaitForTermination();
  probes.Stopping();
  tessera::LogInfo("stopping", {{"signal", signal}});
  (*server)->Stop();
  return 0;
}
