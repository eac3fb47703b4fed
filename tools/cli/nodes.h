// Servers by name or id, for the commands that work on them.
#ifndef TESSERA_TOOLS_CLI_NODES_H_
#define TESSERA_TOOLS_CLI_NODES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tessera/v1/topology.pb.h"

namespace tessera::cli {

class Client;

// All pages.
[[nodiscard]] std::vector<v1::Sds> AllSdss(Client* client);
// By name or id; throws CommandError NOT_FOUND.
[[nodiscard]] v1::Sds FindSds(Client* client, const std::string& text);
// MDM time.
[[nodiscard]] uint64_t MdmNow(Client* client);

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_NODES_H_
