// `tessera chunk`: looks into a device's store without a server, and without changing it.
#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <memory>

#include "libchunk/env_posix.h"
#include "libchunk/store.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"

namespace tessera::cli {

void AddChunkCommands(CLI::App* app, int* exit_code) {
  auto path = std::make_shared<std::string>();
  auto depth = std::make_shared<chunk::InspectDepth>(chunk::InspectDepth::kSummary);
  auto* group =
      app->add_subcommand("chunk", "Looks into a device's chunk store; its server must not run.")
          ->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, chunk::InspectDepth which) {
    auto* command = group->add_subcommand(name, help);
    command->add_option("PATH", *path, "The device: its folder, or a block device.")->required();
    command->callback([=] {
      chunk::PosixEnv env;
      const absl::Status status = chunk::InspectStore(
          &env, *path, which, [](const std::string& line) { std::cout << line << "\n"; });
      if (status.ok()) return;
      std::cerr << "tessera: " << status.message() << "\n";
      *exit_code = ExitCodeFor(status);
    });
  };
  add("info", "Superblock, journal and space.", chunk::InspectDepth::kSummary);
  add("list", "Every chunk.", chunk::InspectDepth::kChunks);
  add("journal", "Every journal record.", chunk::InspectDepth::kRecords);
  add("verify", "Reads and checks every block.", chunk::InspectDepth::kVerify);
}

}  // namespace tessera::cli
