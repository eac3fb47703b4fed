// The command groups of `tessera`. Each adds its subcommands to the app; a command's callback makes
// the calls, prints to standard output, and throws CommandError.
#ifndef TESSERA_TOOLS_CLI_COMMANDS_H_
#define TESSERA_TOOLS_CLI_COMMANDS_H_

#include <cstdint>
#include <string>

namespace CLI {
class App;
}

namespace tessera::cli {

class Client;

void AddStatusCommands(CLI::App* app, Client* client,
                       int* exit_code);  // status, health, topology, event
void AddVolumeCommands(CLI::App* app, Client* client);
void AddSnapshotCommands(CLI::App* app, Client* client);
void AddScheduleCommands(CLI::App* app, Client* client);
void AddVerifyCommand(CLI::App* volume, Client* client, int* exit_code);  // volume verify
void AddLatencyCommand(CLI::App* volume, Client* client);                 // volume latency
void AddImageCommands(CLI::App* volume, Client* client);  // volume export, import, check-image
void AddPoolCommands(CLI::App* app, Client* client);  // domain, faultset, pool, sds, device, sdc
// rebuild, rebalance, operation, and more of sds and device. After AddPoolCommands.
void AddUsageCommands(CLI::App* app, Client* client);  // usage, pool set: after the pools
void AddRepairCommands(CLI::App* app, Client* client, int* exit_code);
void AddScrubCommands(CLI::App* app, Client* client, int* exit_code);  // scrub
void AddTokenCommands(CLI::App* app, Client* client);
void AddChunkCommands(CLI::App* app, int* exit_code);  // chunk: reads a store's files, no server
void AddMdmCommands(CLI::App* app, Client* client);    // mdm: the MDM's own state, on its host
void AddUserCommands(CLI::App* app, Client* client);   // login, logout, whoami, user, session
void AddAuditCommands(CLI::App* app, Client* client);  // audit
void AddAlertCommands(CLI::App* app, Client* client);  // alert
void AddCompletionCommand(CLI::App* app);

// Reads names or numeric ids: "7" is an id, anything else a name.
struct NameOrId {
  uint64_t id = 0;
  std::string name;
};
[[nodiscard]] NameOrId ParseNameOrId(const std::string& text);

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_COMMANDS_H_
