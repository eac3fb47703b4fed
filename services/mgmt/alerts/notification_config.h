// Where notifications go: the administrator's file of --notification-config.
//
// Pure but for reading files. Threads: values, any.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_NOTIFICATION_CONFIG_H_
#define TESSERA_SERVICES_MGMT_ALERTS_NOTIFICATION_CONFIG_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tessera/v1/alert.pb.h"

namespace tessera::mgmt {

enum class NotificationFormat {
  kJson,
  kSlack,  // and Mattermost
  kTeams,
  kPagerDuty,
  kOpsgenie,
  kAlertmanager,
  kSmtp,
};
enum class SmtpSecurity { kStartTls, kTls, kNone };

struct NotificationTarget {
  std::string name;
  NotificationFormat format = NotificationFormat::kJson;
  v1::AlertSeverity severity_min = v1::ALERT_SEVERITY_WARNING;
  bool send_resolved = true;
  uint64_t timeout_ms = 10'000;  // of one try
  std::string ca_file;           // instead of the system's
  std::string console_url;       // told to people; empty: none

  // Of webhooks.
  std::string url;
  std::string secret;  // bearer token, routing key or API key; empty: none
  std::vector<std::pair<std::string, std::string>> headers;

  // Of SMTP.
  std::string server;  // "host:port"
  SmtpSecurity smtp_security = SmtpSecurity::kStartTls;
  std::string from;
  std::vector<std::string> to;
  std::string user;
  std::string password;
};

struct NotificationConfig {
  std::vector<NotificationTarget> targets;
};

// `file` names the text for people. INVALID_ARGUMENT with every mistake and its line; secrets are
// read from the files that it names, which nobody but their owner may read.
[[nodiscard]] absl::StatusOr<NotificationConfig> ReadNotificationConfig(const std::string& file,
                                                                        const std::string& text);
// An empty path: no targets. NOT_FOUND, and as above.
[[nodiscard]] absl::StatusOr<NotificationConfig> LoadNotificationConfig(const std::string& path);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_NOTIFICATION_CONFIG_H_
