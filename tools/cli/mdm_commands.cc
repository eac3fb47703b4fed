// tessera mdm: work on an MDM's state folder, on its host. The MDM's own program does it: this
// command runs it, so that both always agree about the database.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"

namespace tessera::cli {
namespace {

struct RebuildArguments {
  std::vector<std::string> from_sds;
  std::vector<std::string> accept_missing;
  std::string state_folder = "/var/lib/tessera/mdm";
  bool check = false;
  bool keep_old = false;
};

// Beside this program, or else wherever PATH has it.
std::string MdmProgram() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path beside = self.parent_path() / "tessera-mdm";
  if (!error && access(beside.c_str(), X_OK) == 0) return beside.string();
  return "tessera-mdm";
}

// Does not return when it succeeds.
absl::Status Become(std::vector<std::string> command) {
  std::vector<char*> arguments;
  for (std::string& argument : command) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  return absl::ErrnoToStatus(
      errno, absl::StrCat("cannot run ", command[0],
                          " (this command belongs on the MDM's host, where it is installed)"));
}

std::vector<std::string> CommandLine(const RebuildArguments& arguments,
                                     const SecurityOptions& security) {
  std::vector<std::string> command{MdmProgram(), "rebuild", "--state-dir", arguments.state_folder};
  for (const std::string& address : arguments.from_sds) {
    command.insert(command.end(), {"--from-sds", address});
  }
  for (const std::string& name : arguments.accept_missing) {
    command.insert(command.end(), {"--accept-missing", name});
  }
  if (arguments.check) command.push_back("--check");
  if (arguments.keep_old) command.push_back("--keep-old");
  if (security.insecure) {
    command.push_back("--insecure");
  } else {
    command.insert(command.end(), {"--tls-certificate", security.certificate_file, "--tls-key",
                                   security.key_file, "--tls-ca", security.ca_file});
  }
  return command;
}

}  // namespace

void AddMdmCommands(CLI::App* app, Client* client) {
  CLI::App* group = app->add_subcommand("mdm", "The MDM's own state, on its host");
  group->require_subcommand(1);
  auto* rebuild = group->add_subcommand("rebuild",
                                        "Makes a lost mdm.db anew from what the servers keep, "
                                        "while no MDM runs. secrets.key must still be "
                                        "there: docs/operations/mdm-database-lost.md");
  auto arguments = std::make_shared<RebuildArguments>();  // shared with the callback
  rebuild
      ->add_option(
          "--from-sds", arguments->from_sds,
          "Control addresses (host:port) of one or more servers; the others are found from their "
          "records.")
      ->delimiter(',')
      ->required();
  rebuild->add_option("--state-dir", arguments->state_folder, "The MDM's folder.")
      ->capture_default_str();
  rebuild
      ->add_option("--accept-missing", arguments->accept_missing,
                   "Names of servers to give up: what only they know is lost.")
      ->delimiter(',');
  rebuild->add_flag("--check", arguments->check, "Print what would be made, and change nothing.");
  rebuild->add_flag("--keep-old", arguments->keep_old,
                    "Rename an mdm.db that is there to mdm.db.old-<n> first.");
  rebuild->callback([client, arguments] {
    throw CommandError(Become(CommandLine(*arguments, client->globals().security)));
  });
}

}  // namespace tessera::cli
