// A storage data client that is right in everything but that it takes no notice of its limits. For
// tests: tessera-sdc has no flag for it.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/sdc/control/sdc_process.h"

int main(int argc, char** argv) {
  tessera::SkipDeadlockSearch();
  tessera::BlockTerminationSignals();
  tessera::sdc::SdcOptions options;
  std::string join_token_file;
  CLI::App app{"A client that ignores its limits."};
  app.add_option("--state-dir", options.state_folder)->required();
  app.add_option("--resume-dir", options.resume_folder)->required();
  app.add_option("--mdm", options.mdm_address)->required();
  app.add_option("--join-token-file", join_token_file)->required();
  app.add_option("--name", options.name)->required();
  CLI11_PARSE(app, argc, argv);
  const auto token = tessera::ReadFile(join_token_file);
  if (!token.ok()) {
    std::fprintf(stderr, "greedy_sdc: %s\n", std::string(token.status().message()).c_str());
    return 2;
  }
  options.join_token = token->substr(0, token->find_last_not_of(" \n") + 1);
  options.security.insecure = true;
  options.ignore_limits = true;
  for (std::string* address : {&options.control_listen, &options.management_listen,
                               &options.metrics_listen, &options.nbd_listen}) {
    *address = "127.0.0.1:0";
  }
  if (!tessera::InitLogging({.component = "sdc"}).ok()) return 2;
  auto process = tessera::sdc::SdcProcess::Start(std::move(options));
  if (!process.ok()) {
    tessera::LogError("cannot start", {{"why", process.status()}});
    return 1;
  }
  (void)tessera::WaitForTermination();
  (*process)->Stop();
  return 0;
}
