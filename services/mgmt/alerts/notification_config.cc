#include "services/mgmt/alerts/notification_config.h"

#include <sys/stat.h>
#include <toml++/toml.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/status_macros.h"
#include "services/mgmt/alerts/alert_rules.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kTargetsMax = 50;
constexpr size_t kSecretMax = 4'096;
constexpr size_t kReceiversMax = 100;

const std::map<std::string, NotificationFormat>& Formats() {
  static const auto* const formats = new std::map<std::string, NotificationFormat>{
      {"json", NotificationFormat::kJson},
      {"slack", NotificationFormat::kSlack},
      {"mattermost", NotificationFormat::kSlack},
      {"teams", NotificationFormat::kTeams},
      {"pagerduty", NotificationFormat::kPagerDuty},
      {"opsgenie", NotificationFormat::kOpsgenie},
      {"alertmanager", NotificationFormat::kAlertmanager},
      {"smtp", NotificationFormat::kSmtp}};
  return *formats;
}

bool Printable(const std::string& text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isprint(static_cast<unsigned char>(c)); });
}
bool Word(const std::string& text) {
  return !text.empty() && Printable(text) && text.find(' ') == std::string::npos;
}
bool MailAddress(const std::string& text) {
  const size_t at = text.find('@');
  return Word(text) && text.size() <= 254 && at != std::string::npos && at > 0 &&
         at + 1 < text.size() && text.find_first_of("<>,;\"\\") == std::string::npos;
}
bool HostPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  return Word(text) && colon != std::string::npos && colon > 0 &&
         text.find_first_of("/@?#") == std::string::npos &&
         absl::SimpleAtoi(text.substr(colon + 1), &port) && port > 0 && port <= 65'535;
}
bool Loopback(const std::string& server) {
  const std::string host = server.substr(0, server.rfind(':'));
  return host == "localhost" || host == "127.0.0.1" || host == "[::1]";
}
bool HttpUrl(const std::string& url) {
  std::string rest;
  if (absl::StartsWithIgnoreCase(url, "https://")) rest = url.substr(8);
  if (absl::StartsWithIgnoreCase(url, "http://")) rest = url.substr(7);
  const std::string host = rest.substr(0, rest.find_first_of("/?#"));
  return Word(url) && !host.empty() && host.find('@') == std::string::npos;
}

// The first line of a file that only its owner may read.
absl::StatusOr<std::string> ReadSecret(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("there is no file ", path));
  }
  if ((info.st_mode & 077) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " can be read by others than its owner: chmod 600 it"));
  }
  TESSERA_ASSIGN_OR_RETURN(std::string text, ReadTextFile(path));
  text = text.substr(0, text.find('\n'));
  text = std::string(absl::StripAsciiWhitespace(text));
  if (text.empty() || text.size() > kSecretMax || !Printable(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the first line of ", path, " is no secret: 1 to 4,096 printable characters"));
  }
  return text;
}

class ConfigReader {
 public:
  explicit ConfigReader(std::string file) : file_(std::move(file)) {}

  absl::StatusOr<NotificationConfig> Read(const std::string& text) {
    toml::table table;
    try {
      table = toml::parse(text, file_);
    } catch (const toml::parse_error& error) {
      Tell(error.source().begin.line, std::string(error.description()));
      return MistakesToStatus(mistakes_);
    }
    NotificationConfig config;
    std::string console_url;
    for (const auto& [key, node] : table) {
      if (key.str() == "console_url") {
        console_url = node.value_or(std::string());
        if (!HttpUrl(console_url)) Tell(Line(node), "console_url is the console's http(s) address");
      } else if (key.str() == "target") {
        ReadTargets(node, &config);
      } else {
        Tell(Line(node), absl::StrCat("'", std::string(key.str()),
                                      "' is unknown; there are: console_url, [[target]]"));
      }
    }
    for (NotificationTarget& target : config.targets) target.console_url = console_url;
    std::stable_sort(mistakes_.begin(), mistakes_.end(),
                     [](const FileMistake& a, const FileMistake& b) { return a.line < b.line; });
    TESSERA_RETURN_IF_ERROR(MistakesToStatus(mistakes_));
    return config;
  }

 private:
  static uint32_t Line(const toml::node& node) { return node.source().begin.line; }
  void Tell(uint32_t line, std::string text) {
    mistakes_.push_back({file_, line, std::move(text)});
  }

  void ReadTargets(const toml::node& node, NotificationConfig* config) {
    if (node.as_array() == nullptr) return Tell(Line(node), "write [[target]], with two brackets");
    std::set<std::string> names;
    for (const toml::node& entry : *node.as_array()) {
      if (entry.as_table() == nullptr) {
        Tell(Line(entry), "a target is a table: [[target]]");
        continue;
      }
      NotificationTarget target = ReadTarget(*entry.as_table());
      if (!target.name.empty() && !names.insert(target.name).second) {
        Tell(Line(entry), absl::StrCat("target '", target.name, "' is there twice"));
      }
      config->targets.push_back(std::move(target));
    }
    if (config->targets.size() > kTargetsMax) {
      Tell(Line(node), absl::StrCat("more than ", kTargetsMax, " targets"));
    }
  }

  NotificationTarget ReadTarget(const toml::table& table) {
    target_ = {};
    line_ = Line(table);
    ReadName(table);
    const std::optional<std::string> type = Text(table, "type");
    const auto format = type.has_value() ? Formats().find(*type) : Formats().end();
    if (format == Formats().end()) {
      std::vector<std::string> names;
      for (const auto& [name, value] : Formats()) names.push_back(name);
      Tell(LineOf(table, "type"), absl::StrCat("type is one of: ", absl::StrJoin(names, ", ")));
      return target_;
    }
    target_.format = format->second;
    ReadCommon(table);
    const bool smtp = target_.format == NotificationFormat::kSmtp;
    if (smtp) {
      ReadSmtp(table);
    } else {
      ReadWebhook(table);
    }
    std::set<std::string> known{"name",          "type",    "severity_min",
                                "send_resolved", "timeout", "ca_file"};
    if (smtp) {
      known.insert({"server", "security", "from", "to", "user", "password_file"});
    } else {
      known.insert({"url", "url_file", "secret_file", "headers"});
    }
    for (const auto& [key, node] : table) {
      if (!known.contains(std::string(key.str()))) {
        Tell(Line(node), absl::StrCat("'", std::string(key.str()), "' is no field of a ", *type,
                                      " target; there are: ", absl::StrJoin(known, ", ")));
      }
    }
    return target_;
  }

  uint32_t LineOf(const toml::table& table, const std::string& key) const {
    const toml::node* const node = table.get(key);
    return node == nullptr ? line_ : Line(*node);
  }
  std::optional<std::string> Text(const toml::table& table, const std::string& key) {
    const toml::node* const node = table.get(key);
    if (node == nullptr) return std::nullopt;
    if (!node->is_string()) {
      Tell(Line(*node), absl::StrCat(key, " is a text in quotes"));
      return std::nullopt;
    }
    return node->value<std::string>();
  }

  void ReadName(const toml::table& table) {
    target_.name = Text(table, "name").value_or("");
    const bool well =
        !target_.name.empty() && target_.name.size() <= 63 &&
        std::all_of(target_.name.begin(), target_.name.end(), [](char c) {
          return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
        });
    if (!well)
      Tell(LineOf(table, "name"), "a target has a name: 1 to 63 of a-z, A-Z, 0-9, '-', '_'");
  }

  void ReadCommon(const toml::table& table) {
    if (const auto text = Text(table, "severity_min"); text.has_value()) {
      const std::optional<v1::AlertSeverity> severity = SeverityOfName(*text);
      if (!severity.has_value()) {
        Tell(LineOf(table, "severity_min"), "severity_min is info, warning, error or critical");
      }
      target_.severity_min = severity.value_or(v1::ALERT_SEVERITY_WARNING);
    }
    if (const toml::node* node = table.get("send_resolved"); node != nullptr) {
      if (!node->is_boolean()) Tell(Line(*node), "send_resolved is true or false");
      target_.send_resolved = node->value_or(true);
    }
    if (const auto text = Text(table, "timeout"); text.has_value()) {
      const std::optional<uint64_t> timeout = ParseDurationMs(*text);
      if (!timeout.has_value() || *timeout < 1'000 || *timeout > 120'000) {
        Tell(LineOf(table, "timeout"), "timeout is \"1s\" to \"2m\"");
      } else {
        target_.timeout_ms = *timeout;
      }
    }
    target_.ca_file = Text(table, "ca_file").value_or("");
    if (!target_.ca_file.empty() && !ReadTextFile(target_.ca_file).ok()) {
      Tell(LineOf(table, "ca_file"), absl::StrCat("can't read ", target_.ca_file));
    }
  }

  std::string Secret(const toml::table& table, const std::string& key) {
    const std::optional<std::string> path = Text(table, key);
    if (!path.has_value()) return "";
    absl::StatusOr<std::string> secret = ReadSecret(*path);
    if (secret.ok()) return *std::move(secret);
    Tell(LineOf(table, key), absl::StrCat(key, ": ", secret.status().message()));
    return "";
  }

  void ReadWebhook(const toml::table& table) {
    target_.secret = Secret(table, "secret_file");
    const std::optional<std::string> url = Text(table, "url");
    if (url.has_value() && table.contains("url_file")) {
      Tell(LineOf(table, "url_file"), "url or url_file, not both");
    }
    target_.url = url.has_value() ? *url : Secret(table, "url_file");
    const bool pagerduty = target_.format == NotificationFormat::kPagerDuty;
    const bool opsgenie = target_.format == NotificationFormat::kOpsgenie;
    if (target_.url.empty() && !url.has_value() && !table.contains("url_file")) {
      if (pagerduty) target_.url = "https://events.pagerduty.com/v2/enqueue";
      if (opsgenie) target_.url = "https://api.opsgenie.com/v2/alerts";
      if (target_.url.empty()) Tell(line_, "a webhook needs url, or url_file");
    } else if (!target_.url.empty() || url.has_value()) {
      if (!HttpUrl(target_.url)) {
        Tell(LineOf(table, url.has_value() ? "url" : "url_file"),
             "the URL is http://… or https://… with a host, and without user or password");
      }
    }
    if ((pagerduty || opsgenie) && !table.contains("secret_file")) {
      Tell(line_, pagerduty ? "secret_file is needed: it holds the integration's routing key"
                            : "secret_file is needed: it holds the integration's API key");
    }
    ReadHeaders(table);
  }

  void ReadHeaders(const toml::table& table) {
    const toml::node* const node = table.get("headers");
    if (node == nullptr) return;
    if (node->as_table() == nullptr) {
      return Tell(Line(*node), "headers is a table of texts: headers = { X-Team = \"storage\" }");
    }
    for (const auto& [key, value] : *node->as_table()) {
      const std::string name(key.str());
      const bool named = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
        return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
      });
      const std::string text = value.value_or(std::string());
      if (!named || text.empty() || !Printable(text)) {
        Tell(Line(value), "a header has a name of letters, digits and '-', and a printable text");
        continue;
      }
      target_.headers.emplace_back(name, text);
    }
  }

  void ReadSmtp(const toml::table& table) {
    static const std::map<std::string, SmtpSecurity> securities{
        {"starttls", SmtpSecurity::kStartTls},
        {"tls", SmtpSecurity::kTls},
        {"none", SmtpSecurity::kNone}};
    target_.server = Text(table, "server").value_or("");
    if (!HostPort(target_.server)) {
      Tell(LineOf(table, "server"), "server is host:port, such as \"mail.example.org:587\"");
    }
    const auto security = securities.find(Text(table, "security").value_or("starttls"));
    if (security == securities.end()) {
      Tell(LineOf(table, "security"), "security is starttls, tls or none");
    } else {
      target_.smtp_security = security->second;
    }
    target_.from = Text(table, "from").value_or("");
    if (!MailAddress(target_.from)) Tell(LineOf(table, "from"), "from is a mail address");
    ReadReceivers(table);
    target_.user = Text(table, "user").value_or("");
    target_.password = Secret(table, "password_file");
    if (table.contains("user") != table.contains("password_file")) {
      Tell(line_, "user and password_file go together");
    }
    if (!Printable(target_.user)) Tell(LineOf(table, "user"), "user is printable text");
    if (!target_.user.empty() && target_.smtp_security == SmtpSecurity::kNone &&
        !Loopback(target_.server)) {
      Tell(LineOf(table, "security"),
           "a password is not sent without TLS, but to this host: security = \"starttls\"");
    }
  }

  void ReadReceivers(const toml::table& table) {
    const toml::node* const node = table.get("to");
    const toml::array* const list = node == nullptr ? nullptr : node->as_array();
    if (list == nullptr || list->empty() || list->size() > kReceiversMax) {
      return Tell(LineOf(table, "to"),
                  "to is a list of 1 to 100 mail addresses: [\"a@example.org\"]");
    }
    for (const toml::node& entry : *list) {
      const std::string address = entry.value_or(std::string());
      if (!MailAddress(address)) {
        Tell(Line(entry), absl::StrCat("'", address, "' is no mail address"));
      }
      target_.to.push_back(address);
    }
  }

  const std::string file_;
  std::vector<FileMistake> mistakes_;
  NotificationTarget target_;  // being read
  uint32_t line_ = 0;          // of it
};

}  // namespace

absl::StatusOr<NotificationConfig> ReadNotificationConfig(const std::string& file,
                                                          const std::string& text) {
  return ConfigReader(file).Read(text);
}

absl::StatusOr<NotificationConfig> LoadNotificationConfig(const std::string& path) {
  if (path.empty()) return NotificationConfig{};
  TESSERA_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  return ReadNotificationConfig(path, text);
}

}  // namespace tessera::mgmt
