// What tessera-mgmt is told: by flags, by environment variables, by a TOML file, in this order of
// precedence; each setting has one name in all three ("poll-interval" is `--poll-interval`,
// TESSERA_MGMT_POLL_INTERVAL, and `poll-interval = "10s"` in the file).
#ifndef TESSERA_SERVICES_MGMT_MGMT_OPTIONS_H_
#define TESSERA_SERVICES_MGMT_MGMT_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/common/grpc_server.h"
#include "services/common/logging.h"
#include "tessera/v1/console.pb.h"

namespace CLI {
class App;
}

namespace tessera::mgmt {

struct MgmtOptions {
  std::string state_folder = "/var/lib/tessera/mgmt";
  std::string mdm = "127.0.0.1:8001";
  std::string listen = "127.0.0.1:5000";
  std::string grpc_listen = "127.0.0.1:5001";
  std::string metrics_listen = "127.0.0.1:5002";
  std::string health_listen;  // empty: none
  std::string console_folder;
  std::string web_certificate_file;
  std::string web_key_file;
  uint64_t poll_interval_ms = 10'000;
  uint64_t database_limit_bytes = uint64_t{2} << 30;
  std::string alert_rules_file;
  std::string notification_file;
  uint64_t session_idle_ms = 30 * 60'000;
  uint64_t session_lifetime_ms = 12 * 3'600'000;
  std::string log_level = "info";
  LogFormat log_format = LogFormat::kText;
  SecurityOptions security;
  // What GetSettings answers: made by SettingsReader::Read.
  std::vector<v1::Setting> settings;

  // INVALID_ARGUMENT naming the setting, its value, and what would be right.
  [[nodiscard]] absl::Status Check() const;
};

// Reads MgmtOptions and remembers where each setting came from.
//
//   SettingsReader reader(&options);
//   reader.AddFlags(&app);          // then app.parse
//   status = reader.Read(getenv);
class SettingsReader {
 public:
  using Environment = std::function<const char*(const char* name)>;

  explicit SettingsReader(MgmtOptions* options);
  ~SettingsReader();

  // One for each setting, and --config. They write nothing to the options yet.
  void AddFlags(CLI::App* app);
  // Fills the options. INVALID_ARGUMENT naming the flag, variable, or file and line; NOT_FOUND for
  // a file that is not there.
  [[nodiscard]] absl::Status Read(const Environment& environment);

 private:
  struct Entry;
  [[nodiscard]] absl::Status ReadFile(const std::string& path,
                                      std::map<std::string, std::string>* values) const;
  [[nodiscard]] const Entry* Find(const std::string& name) const;

  MgmtOptions* const options_;
  std::vector<Entry> entries_;
  std::map<std::string, std::string> flags_;  // those that were given
  std::string config_file_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MGMT_OPTIONS_H_
