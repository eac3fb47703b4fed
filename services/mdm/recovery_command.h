// `tessera-mdm rebuild`: makes mdm.db anew from the servers, while no MDM runs
// (docs/operations/mdm-database-lost.md).
#ifndef TESSERA_SERVICES_MDM_RECOVERY_COMMAND_H_
#define TESSERA_SERVICES_MDM_RECOVERY_COMMAND_H_

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/common/clock.h"
#include "services/common/grpc_server.h"

namespace CLI {
class App;
}

namespace tessera::mdm {

struct RecoveryOptions {
  std::vector<std::string> addresses;  // of the control planes of some servers
  std::string state_folder = "/var/lib/tessera/mdm";
  std::vector<std::string> accepted_missing;  // names of servers
  bool check_only = false;
  bool keep_old = false;
  SecurityOptions security;

  void AddFlags(CLI::App* app);
};

// Prints what it finds and does to `out`. FAILED_PRECONDITION: it must not be done, for the reasons
// printed; nothing was changed then.
[[nodiscard]] absl::Status RunRecovery(const RecoveryOptions& options, const Clock& clock,
                                       std::ostream& out);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_RECOVERY_COMMAND_H_
