// tessera-mdm: flags, logging, the server, and the wait for the end.
#include <CLI/CLI.hpp>
#include <iostream>

#include "services/common/clock.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/version.h"
#include "services/mdm/mdm_options.h"
#include "services/mdm/mdm_server.h"

namespace {

constexpr int kUsageError = 2;

int Fail(const absl::Status& status, int code) {
  std::cerr << "tessera-mdm: " << status.message() << "\n";
  return code;
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
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageError;
  }
  tessera::LogOptions log;
  log.component = "mdm";
  log.level = options.log_level;
  log.format = options.log_format;
  if (absl::Status status = tessera::InitLogging(log); !status.ok())
    return Fail(status, kUsageError);
  if (absl::Status status = options.Check(); !status.ok()) return Fail(status, kUsageError);
  if (options.check_config) {
    // Certificates are read as the server would read them.
    if (auto credentials = options.security.ForServer(); !credentials.ok()) {
      return Fail(credentials.status(), kUsageError);
    }
    std::cout << "the configuration is good\n";
    return 0;
  }
  static const tessera::SystemClock clock;
  auto server = tessera::mdm::MdmServer::Start(options, &clock);
  if (!server.ok()) return Fail(server.status(), 1);
  tessera::LogInfo("serving", {{"address", (*server)->address()},
                               {"metrics", (*server)->metrics_address()},
                               {"state_folder", options.state_folder},
                               {"version", tessera::kVersion}});
  tessera::NotifyReady();
  const int signal = tessera::WaitForTermination();
  tessera::LogInfo("stopping", {{"signal", signal}});
  (*server)->Stop();
  return 0;
}
