// What tessera-mdm is told on its command line.
#ifndef TESSERA_SERVICES_MDM_MDM_OPTIONS_H_
#define TESSERA_SERVICES_MDM_MDM_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "services/common/grpc_server.h"
#include "services/common/logging.h"
#include "services/mdm/device_assigner.h"
#include "services/mdm/learner_board.h"
#include "services/mdm/volume_fence.h"

namespace CLI {
class App;
}

namespace tessera::mdm {

struct MdmOptions {
  std::string state_folder = "/var/lib/tessera/mdm";
  std::string join_token_file;  // empty: <state folder>/join_token, made at the first start
  std::string listen = "127.0.0.1:8001";
  std::string metrics_listen = "127.0.0.1:8002";
  uint32_t heartbeat_interval_ms = 1'000;
  uint32_t stale_after_ms = 30'000;
  uint64_t grant_lifetime_ms = 60'000;
  uint64_t outage_lifetime_ms = 600'000;
  AssignerRules assigner;
  std::string log_level = "info";
  LogFormat log_format = LogFormat::kText;
  bool check_config = false;
  SecurityOptions security;
  // Not on the command line; tests make them shorter.
  FenceRules fence;
  LearnerBackOff learners;
  uint32_t tick_ms = 500;

  void AddFlags(CLI::App* app);
  // INVALID_ARGUMENT naming the flag, its value, and what would be right.
  [[nodiscard]] absl::Status Check() const;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MDM_OPTIONS_H_
