#include "services/mdm/mdm_options.h"

#include <CLI/CLI.hpp>
#include <map>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"

namespace tessera::mdm {
namespace {

absl::Status Wrong(const std::string& flag, uint64_t value, const std::string& right) {
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, ": ", right));
}

// Seconds on the command line ("90", "1.5"), or with a unit ("500ms", "10m"), as milliseconds.
CLI::Validator Duration() {
  return CLI::AsNumberWithUnit(
      std::map<std::string, uint32_t>{{"ms", 1}, {"s", 1'000}, {"m", 60'000}, {"h", 3'600'000}},
      CLI::AsNumberWithUnit::Options(CLI::AsNumberWithUnit::UNIT_REQUIRED), "DURATION");
}

}  // namespace

void MdmOptions::AddFlags(CLI::App* app) {
  app->add_option("--state-dir", state_folder,
                  "Folder for mdm.db, secrets.key, join_token and endpoints; made with mode 0700.")
      ->capture_default_str();
  app->add_option("--join-token-file", join_token_file,
                  "File with the token that nodes join with; else <state-dir>/join_token, which is "
                  "made at the first start.");
  app->add_option("--listen", listen, "Address of all MDM services (gRPC); port 0: any free one.")
      ->capture_default_str();
  app->add_option("--metrics-listen", metrics_listen,
                  "Address of /metrics, /livez and /readyz (HTTP); port 0: any free one.")
      ->capture_default_str();
  app->add_option("--heartbeat-interval", heartbeat_interval_ms,
                  "How often nodes are to say that they live, such as 1s or 500ms [1s].")
      ->transform(Duration());
  app->add_option(
         "--stale-after", stale_after_ms,
         "A node not heard from for this long is stale; offline after four times more [30s].")
      ->transform(Duration());
  app->add_option("--grant-lifetime", grant_lifetime_ms,
                  "How long a grant is good; clients renew at half of it [60s].")
      ->transform(Duration());
  app->add_option("--outage-lifetime", outage_lifetime_ms,
                  "How long servers honour a grant while the MDM can't be reached [10m].")
      ->transform(Duration());
  app->add_flag("--create-fault-sets", assigner.create_fault_sets,
                "Make a fault set that a new server asks for and that does not exist; else the "
                "server waits until an administrator makes it.");
  app->add_option("--log-level", log_level, "trace, debug, info, warning or error.")
      ->capture_default_str();
  app->add_option("--log-format", log_format, "text or json [text].")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, LogFormat>{{"text", LogFormat::kText},
                                                                   {"json", LogFormat::kJson}})
              .description("text|json"));
  app->add_flag("--check-config", check_config, "Check flags and files, start nothing, and exit.");
  security.AddFlags(app);
}

absl::Status MdmOptions::Check() const {
  TESSERA_RETURN_IF_ERROR(security.Check({listen, metrics_listen}));
  if (state_folder.empty()) return absl::InvalidArgumentError("--state-dir is empty");
  if (heartbeat_interval_ms < 50 || heartbeat_interval_ms > 60'000) {
    return Wrong("--heartbeat-interval in milliseconds", heartbeat_interval_ms,
                 "must be from 50 to 60000");
  }
  if (stale_after_ms < 2 * uint64_t{heartbeat_interval_ms}) {
    return Wrong("--stale-after in milliseconds", stale_after_ms,
                 "must be at least two heartbeat intervals, or a single late one counts");
  }
  if (grant_lifetime_ms < 1'000 || grant_lifetime_ms > 3'600'000) {
    return Wrong("--grant-lifetime in milliseconds", grant_lifetime_ms,
                 "must be from 1 second to 1 hour");
  }
  if (outage_lifetime_ms < grant_lifetime_ms || outage_lifetime_ms > 86'400'000) {
    return Wrong("--outage-lifetime in milliseconds", outage_lifetime_ms,
                 "must be at least the grant lifetime, at most one day");
  }
  return absl::OkStatus();
}

}  // namespace tessera::mdm
