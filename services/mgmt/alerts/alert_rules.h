// Rules: the built-in ones, and the administrator's file that changes, switches off and adds.
//
// Pure. Threads: a rule is evaluated by one thread at a time.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_ALERT_RULES_H_
#define TESSERA_SERVICES_MGMT_ALERTS_ALERT_RULES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/mgmt/alerts/expression.h"
#include "services/mgmt/alerts/subject.h"
#include "services/mgmt/alerts/text_template.h"
#include "tessera/v1/alert.pb.h"

namespace tessera::mgmt {

struct AlertRule {
  std::string name;
  std::vector<SubjectKind> kinds;
  v1::AlertSeverity severity = v1::ALERT_SEVERITY_UNSPECIFIED;
  std::string condition_text;
  std::unique_ptr<Expression> condition;
  uint64_t raise_after_ms = 0;
  uint64_t resolve_after_ms = 0;
  uint64_t window_ms = 0;  // that functions of the past look at
  std::map<std::string, double> parameters;
  TextTemplate summary;
  TextTemplate detail;
  TextTemplate remedy;
  bool from_file = false;  // the administrator's file names it
  bool disabled = false;
  std::set<std::string> past_values;

  [[nodiscard]] v1::AlertRule ToProto() const;
};

// By name. Shared by the engine and whoever lists them; a reload replaces them all.
using AlertRules = std::vector<std::shared_ptr<AlertRule>>;

// One thing that is wrong in a file.
struct FileMistake {
  std::string file;
  uint32_t line = 0;
  std::string text;
};

struct RulesResult {
  AlertRules rules;                   // only when there are no mistakes
  std::vector<FileMistake> mistakes;  // all of them, by line
};

struct RulesFile {
  std::string name;  // for people
  std::string text;  // TOML
};

// `file` changes `builtin` field by field, rule by rule; null: there is none.
[[nodiscard]] RulesResult ReadRules(const RulesFile& builtin, const RulesFile* file);
// INVALID_ARGUMENT, a line each; OK without mistakes.
[[nodiscard]] absl::Status MistakesToStatus(const std::vector<FileMistake>& mistakes);

// The built-in rules as they stand in builtin_rules.toml.
extern const char kBuiltinRules[];

// Built-in rules with the file at `path` (empty: none). NOT_FOUND, INVALID_ARGUMENT with every
// mistake and its line.
[[nodiscard]] absl::StatusOr<AlertRules> LoadRules(const std::string& path);

// "90s", "5m", "12h", "30d", and sums such as "1h30m".
[[nodiscard]] std::optional<uint64_t> ParseDurationMs(std::string_view text);
// "warning" -> ALERT_SEVERITY_WARNING.
[[nodiscard]] std::optional<v1::AlertSeverity> SeverityOfName(std::string_view name);
[[nodiscard]] std::string SeverityName(v1::AlertSeverity severity);

// The whole file, at most 1 MiB.
[[nodiscard]] absl::StatusOr<std::string> ReadTextFile(const std::string& path);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_ALERT_RULES_H_
