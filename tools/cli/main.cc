// tessera: the administrator's command. Data goes to standard output, messages to standard error.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

#include "services/common/version.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"

namespace {

constexpr char kFooter[] =
    "Exit codes: 0 done, 1 failed, 2 wrong usage or argument, 3 not found, 4 refused in this "
    "state,\n"
    "5 not allowed, 6 not reachable, 7 timed out, 8 degraded (status, volume verify).\n"
    "Sizes: 4096, 512MiB, 10GiB (binary), 10GB (decimal).";

// The end of the process. Not by way of exit(): gRPC's threads may be in a handshake with somebody
// who does not answer, and OpenSSL's exit handlers would take it from under them.
[[noreturn]] void End(int code) {
  std::cout.flush();
  std::cerr.flush();
  std::_Exit(code);
}

int Run(int argc, char** argv) {
  tessera::cli::Globals globals;
  tessera::cli::Client client(&globals);
  int exit_code = tessera::cli::kDone;

  CLI::App app("Administers a Tessera cluster.", "tessera");
  app.require_subcommand(1);
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("tessera ") + tessera::kVersion);
  app.add_option("--endpoint", globals.endpoint, "The MDM, as host:port.")
      ->envname("TESSERA_MDM")
      ->capture_default_str();
  app.add_option("--mgmt", globals.mgmt, "The management service, as host:port.")
      ->envname("TESSERA_MGMT")
      ->capture_default_str();
  app.add_option("--token", globals.token, "Bearer credential.")->envname("TESSERA_TOKEN");
  app.add_option("-o,--output", globals.output, "table or json")
      ->transform(CLI::CheckedTransformer(std::map<std::string, tessera::cli::Output>{
                                              {"table", tessera::cli::Output::kTable},
                                              {"json", tessera::cli::Output::kJson}})
                      .description(""))
      ->type_name("FORMAT");
  app.add_option("--timeout", globals.timeout_seconds, "Seconds that a call may take.")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  app.add_option("--tls-certificate", globals.security.certificate_file, "PEM file; turns TLS on.")
      ->envname("TESSERA_TLS_CERTIFICATE");
  app.add_option("--tls-key", globals.security.key_file, "PEM file.")->envname("TESSERA_TLS_KEY");
  app.add_option("--tls-ca", globals.security.ca_file, "PEM file.")->envname("TESSERA_TLS_CA");
  app.fallthrough();
  app.parse_complete_callback(
      [&] { globals.security.insecure = globals.security.certificate_file.empty(); });

  tessera::cli::AddStatusCommands(&app, &client, &exit_code);
  tessera::cli::AddVolumeCommands(&app, &client);
  tessera::cli::AddSnapshotCommands(&app, &client);
  tessera::cli::AddScheduleCommands(&app, &client);
  tessera::cli::AddVerifyCommand(app.get_subcommand("volume"), &client, &exit_code);
  tessera::cli::AddImageCommands(app.get_subcommand("volume"), &client);
  tessera::cli::AddLatencyCommand(app.get_subcommand("volume"), &client);
  tessera::cli::AddPoolCommands(&app, &client);
  tessera::cli::AddUsageCommands(&app, &client);
  tessera::cli::AddRepairCommands(&app, &client, &exit_code);
  tessera::cli::AddScrubCommands(&app, &client, &exit_code);
  tessera::cli::AddTokenCommands(&app, &client);
  tessera::cli::AddChunkCommands(&app, &exit_code);
  tessera::cli::AddMdmCommands(&app, &client);
  tessera::cli::AddUserCommands(&app, &client);
  tessera::cli::AddAuditCommands(&app, &client);
  tessera::cli::AddAlertCommands(&app, &client);
  tessera::cli::AddCompletionCommand(&app);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, std::cout, std::cerr);
    return code == 0 ? tessera::cli::kDone : tessera::cli::kUsage;
  } catch (const tessera::cli::CommandError& error) {
    std::cerr << "tessera: " << error.status().message() << "\n";
    return tessera::cli::ExitCodeFor(error.status());
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) { End(Run(argc, argv)); }
