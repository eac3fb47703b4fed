#include "services/mgmt/mgmt_options.h"

#include <toml++/toml.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/common/status_macros.h"

namespace tessera::mgmt {
namespace {

constexpr char kConfig[] = "config";
constexpr uint64_t kDatabaseBytesMin = 16 << 20;
constexpr uint64_t kDayMs = 86'400'000;

std::string Variable(const std::string& name) {
  return absl::StrCat("TESSERA_MGMT_",
                      absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"-", "_"}})));
}

absl::Status Wrong(const std::string& name, const std::string& value, const std::string& right) {
  return absl::InvalidArgumentError(absl::StrCat(name, " '", value, "': ", right));
}

// The number that the text means, as text; false where it means none.
bool Convert(const CLI::Validator& units, std::string* text) {
  try {
    return units(*text).empty();
  } catch (const CLI::ValidationError&) {
    return false;
  }
}

// "1500" (milliseconds), "90s", "10m".
absl::Status ParseDuration(const std::string& text, uint64_t* milliseconds) {
  std::string number = text;
  const CLI::AsNumberWithUnit units(
      std::map<std::string, uint64_t>{{"ms", 1}, {"s", 1'000}, {"m", 60'000}, {"h", 3'600'000}},
      CLI::AsNumberWithUnit::UNIT_OPTIONAL);
  if (!Convert(units, &number) || !CLI::detail::lexical_cast(number, *milliseconds)) {
    return absl::InvalidArgumentError(
        "must be milliseconds, or a number with a unit, such as 500ms, 10s, 30m or 12h");
  }
  return absl::OkStatus();
}

absl::Status ParseSize(const std::string& text, uint64_t* bytes) {
  std::string number = text;
  if (!Convert(CLI::AsSizeValue(false), &number) || !CLI::detail::lexical_cast(number, *bytes)) {
    return absl::InvalidArgumentError("must be bytes, or a number with a unit, such as 512MiB");
  }
  return absl::OkStatus();
}

absl::Status ParseBool(const std::string& text, bool* value) {
  const std::string lower = absl::AsciiStrToLower(text);
  *value = lower == "true" || lower == "1" || lower == "yes" || lower == "on";
  if (*value || lower == "false" || lower == "0" || lower == "no" || lower == "off") {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("must be true or false");
}

absl::Status ParseLogFormat(const std::string& text, LogFormat* format) {
  if (text != "text" && text != "json") return absl::InvalidArgumentError("must be text or json");
  *format = text == "json" ? LogFormat::kJson : LogFormat::kText;
  return absl::OkStatus();
}

// A value of the file as it would stand on the command line; nothing for tables, lists and times.
std::optional<std::string> TextOf(const toml::node& node) {
  if (const auto text = node.value<std::string>(); node.is_string()) return text;
  if (const auto number = node.value<int64_t>(); node.is_integer()) return absl::StrCat(*number);
  if (const auto flag = node.value<bool>(); node.is_boolean()) return *flag ? "true" : "false";
  return std::nullopt;
}

}  // namespace

struct SettingsReader::Entry {
  std::string name;
  std::string description;
  std::function<absl::Status(const std::string& text)> set;
  std::function<std::string()> get;
  bool flag = false;  // takes no value on the command line
};

SettingsReader::~SettingsReader() = default;

SettingsReader::SettingsReader(MgmtOptions* options) : options_(options) {
  const auto add = [this](const std::string& name, auto set, auto get,
                          const std::string& description) {
    entries_.push_back({name, description, std::move(set), std::move(get), false});
  };
  const auto text = [&](const std::string& name, std::string* value,
                        const std::string& description) {
    add(
        name,
        [value](const std::string& given) {
          *value = given;
          return absl::OkStatus();
        },
        [value] { return *value; }, description);
  };
  const auto duration = [&](const std::string& name, uint64_t* value,
                            const std::string& description) {
    add(
        name, [value](const std::string& given) { return ParseDuration(given, value); },
        [value] { return absl::StrCat(*value, "ms"); }, description);
  };
  text("state-dir", &options->state_folder,
       "Folder for mgmt.db, one_time_password and endpoints; made with mode 0700.");
  text("mdm", &options->mdm, "The metadata manager, as host:port.");
  text("listen", &options->listen, "Address of the console (HTTP); port 0: any free one.");
  text("grpc-listen", &options->grpc_listen,
       "Address of all services (gRPC); port 0: any free one.");
  text("metrics-listen", &options->metrics_listen,
       "Address of /metrics, /livez and /readyz (HTTP); port 0: any free one.");
  text("health-listen", &options->health_listen,
       "Address of a port for probes: grpc.health.v1 in plain text and nothing else (services "
       "liveness, startup, readiness); empty: none.");
  text("console-dir", &options->console_folder, "The built console; empty: a page that says how.");
  text("web-certificate", &options->web_certificate_file,
       "PEM chain for browsers; without it the console is plain HTTP, on loopback only.");
  text("web-key", &options->web_key_file, "PEM key for browsers.");
  duration("poll-interval", &options->poll_interval_ms,
           "How often all parts are asked how they are, such as 10s.");
  add(
      "database-limit",
      [options](const std::string& given) {
        return ParseSize(given, &options->database_limit_bytes);
      },
      [options] { return absl::StrCat(options->database_limit_bytes); },
      "What mgmt.db may take, such as 2GiB: history is thinned out to stay below.");
  text("alert-rules", &options->alert_rules_file,
       "TOML file that changes, switches off and adds to the built-in alert rules.");
  text("notification-config", &options->notification_file,
       "TOML file that says where alerts are sent; empty: nowhere.");
  duration("session-idle", &options->session_idle_ms, "A session ends when unused for so long.");
  duration("session-lifetime", &options->session_lifetime_ms, "A session ends after so long.");
  text("log-level", &options->log_level, "trace, debug, info, warning or error.");
  add(
      "log-format",
      [options](const std::string& given) { return ParseLogFormat(given, &options->log_format); },
      [options] { return options->log_format == LogFormat::kJson ? "json" : "text"; },
      "text or json.");
  add(
      "insecure",
      [options](const std::string& given) { return ParseBool(given, &options->security.insecure); },
      [options] { return options->security.insecure ? "true" : "false"; },
      "gRPC in plain text, on loopback only. People sign in all the same.");
  entries_.back().flag = true;
  text("tls-certificate", &options->security.certificate_file,
       "PEM chain; its URI spiffe://<cluster>/mgmt/<id> is what the MDM believes.");
  text("tls-key", &options->security.key_file, "PEM key.");
  text("tls-ca", &options->security.ca_file, "PEM: peers must have certificates of it.");
}

void SettingsReader::AddFlags(CLI::App* app) {
  app->add_option("--config", config_file_,
                  "TOML file with settings named as these flags are [$TESSERA_MGMT_CONFIG].");
  for (const Entry& entry : entries_) {
    const std::string flag = "--" + entry.name;
    if (entry.flag) {
      app->add_flag_callback(
          flag, [this, name = entry.name] { flags_[name] = "true"; }, entry.description);
      continue;
    }
    const std::string value = entry.get();
    app->add_option_function<std::string>(
        flag, [this, name = entry.name](const std::string& given) { flags_[name] = given; },
        value.empty() ? entry.description : absl::StrCat(entry.description, " [", value, "]"));
  }
}

const SettingsReader::Entry* SettingsReader::Find(const std::string& name) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&name](const Entry& entry) { return entry.name == name; });
  return found == entries_.end() ? nullptr : &*found;
}

absl::Status SettingsReader::ReadFile(const std::string& path,
                                      std::map<std::string, std::string>* values) const {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return absl::NotFoundError(absl::StrCat("--config: there is no file ", path));
  }
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, " line ", error.source().begin.line, ": ",
                                                   std::string(error.description())));
  }
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const std::string where = absl::StrCat(path, " line ", node.source().begin.line, ": ", name);
    if (Find(name) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, " is no setting: they are called as the flags of --help, without --"));
    }
    const std::optional<std::string> text = TextOf(node);
    if (!text.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, " must be a text, a whole number, true or false"));
    }
    (*values)[name] = *text;
  }
  return absl::OkStatus();
}

absl::Status SettingsReader::Read(const Environment& environment) {
  std::string file = config_file_;
  if (file.empty()) {
    const char* const variable = environment(Variable(kConfig).c_str());
    if (variable != nullptr) file = variable;
  }
  std::map<std::string, std::string> in_file;
  if (!file.empty()) TESSERA_RETURN_IF_ERROR(ReadFile(file, &in_file));
  options_->settings.clear();
  for (const Entry& entry : entries_) {
    v1::Setting setting;
    setting.set_name(entry.name);
    setting.set_description(entry.description);
    setting.set_source("default");
    std::string where;
    std::optional<std::string> value;
    const char* const variable = environment(Variable(entry.name).c_str());
    if (const auto flag = flags_.find(entry.name); flag != flags_.end()) {
      setting.set_source("flag");
      where = "--" + entry.name;
      value = flag->second;
    } else if (variable != nullptr) {
      setting.set_source("environment");
      where = Variable(entry.name);
      value = variable;
    } else if (const auto found = in_file.find(entry.name); found != in_file.end()) {
      setting.set_source("file");
      where = absl::StrCat(file, ": ", entry.name);
      value = found->second;
    }
    if (value.has_value()) {
      if (absl::Status status = entry.set(*value); !status.ok()) {
        return Wrong(where, *value, std::string(status.message()));
      }
    }
    setting.set_value(entry.get());
    options_->settings.push_back(std::move(setting));
  }
  std::sort(options_->settings.begin(), options_->settings.end(),
            [](const v1::Setting& a, const v1::Setting& b) { return a.name() < b.name(); });
  return absl::OkStatus();
}

absl::Status MgmtOptions::Check() const {
  TESSERA_RETURN_IF_ERROR(security.Check({grpc_listen, metrics_listen}));
  if (state_folder.empty()) return absl::InvalidArgumentError("--state-dir is empty");
  if (mdm.find(':') == std::string::npos) return Wrong("--mdm", mdm, "must be host:port");
  if (web_certificate_file.empty() != web_key_file.empty()) {
    return absl::InvalidArgumentError(
        "--web-certificate and --web-key belong together: give both or none");
  }
  if (web_certificate_file.empty()) {
    // The rule of --insecure is the rule of plain HTTP.
    const SecurityOptions plain{.insecure = true};
    if (!plain.Check({listen}).ok()) {
      return Wrong("--listen", listen,
                   "without --web-certificate and --web-key passwords would cross the network in "
                   "clear: must be on loopback");
    }
  }
  if (poll_interval_ms < 100 || poll_interval_ms > 3'600'000) {
    return Wrong("--poll-interval", absl::StrCat(poll_interval_ms, "ms"),
                 "must be from 100ms to 1h");
  }
  if (database_limit_bytes < kDatabaseBytesMin) {
    return Wrong("--database-limit", absl::StrCat(database_limit_bytes), "must be at least 16MiB");
  }
  if (session_idle_ms < 1'000 || session_idle_ms > session_lifetime_ms) {
    return Wrong("--session-idle", absl::StrCat(session_idle_ms, "ms"),
                 "must be from 1s to --session-lifetime");
  }
  if (session_lifetime_ms > 30 * kDayMs) {
    return Wrong("--session-lifetime", absl::StrCat(session_lifetime_ms, "ms"),
                 "must be at most 720h");
  }
  return absl::OkStatus();
}

}  // namespace tessera::mgmt
