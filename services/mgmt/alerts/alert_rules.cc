#include "services/mgmt/alerts/alert_rules.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/status_macros.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kRulesMax = 500;
constexpr size_t kFileBytesMax = 1 << 20;
constexpr uint64_t kHourMs = 3'600'000;
constexpr uint64_t kDayMs = 24 * kHourMs;
constexpr uint64_t kHoldMaxMs = 31 * kDayMs;
constexpr uint64_t kWindowMinMs = 60'000;
constexpr uint64_t kWindowMaxMs = 31 * kDayMs;

// A field as it stands in a file.
struct Field {
  std::string file;
  uint32_t line = 0;
  std::variant<std::string, bool, std::vector<std::string>, std::map<std::string, double>> value;
};
struct RawRule {
  std::string name;
  std::string file;  // where it stands first
  uint32_t line = 0;
  bool from_file = false;
  std::map<std::string, Field> fields;
  std::map<std::string, Field> parameters;  // by name: each a number, merged one by one
};

uint32_t LineOf(const toml::node& node) { return node.source().begin.line; }

// Reads one file into raw rules.
class FileReader {
 public:
  FileReader(const RulesFile& file, std::vector<FileMistake>* mistakes)
      : file_(file), mistakes_(mistakes) {}

  std::vector<RawRule> Read() {
    toml::table table;
    try {
      table = toml::parse(file_.text, file_.name);
    } catch (const toml::parse_error& error) {
      Tell(error.source().begin.line, std::string(error.description()));
      return {};
    }
    for (const auto& [key, node] : table) {
      if (key.str() != "rule") {
        Tell(LineOf(node), absl::StrCat("'", std::string(key.str()),
                                        "' is unknown: a file holds [[rule]] tables and no more"));
      }
    }
    const toml::node* const list = table.get("rule");
    if (list == nullptr) return {};
    if (list->as_array() == nullptr) {
      Tell(LineOf(*list), "write [[rule]], with two brackets: there may be several");
      return {};
    }
    for (const toml::node& node : *list->as_array()) {
      if (node.as_table() == nullptr) {
        Tell(LineOf(node), "a rule is a table: [[rule]]");
        continue;
      }
      ReadRule(*node.as_table());
    }
    if (rules_.size() > kRulesMax) {
      Tell(rules_[kRulesMax].line, absl::StrCat("more than ", kRulesMax, " rules"));
    }
    return std::move(rules_);
  }

 private:
  void Tell(uint32_t line, std::string text) {
    mistakes_->push_back({file_.name, line, std::move(text)});
  }

  void ReadRule(const toml::table& table) {
    RawRule rule;
    rule.file = file_.name;
    rule.line = LineOf(table);
    const toml::node* const name = table.get("name");
    if (name == nullptr || !name->is_string()) {
      Tell(name == nullptr ? rule.line : LineOf(*name), "a rule needs a name: name = \"…\"");
      return;
    }
    rule.name = *name->value<std::string>();
    const bool well = !rule.name.empty() && rule.name.size() <= 63 &&
                      std::all_of(rule.name.begin(), rule.name.end(), [](char c) {
                        return absl::ascii_islower(static_cast<unsigned char>(c)) ||
                               absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '-';
                      });
    if (!well) Tell(LineOf(*name), "a rule's name is 1 to 63 of a-z, 0-9 and '-'");
    for (const RawRule& other : rules_) {
      if (other.name == rule.name) {
        Tell(LineOf(*name), absl::StrCat("rule '", rule.name, "' stands at line ", other.line,
                                         ", too: name a rule once"));
      }
    }
    for (const auto& [key, node] : table) ReadField(std::string(key.str()), node, &rule);
    rules_.push_back(std::move(rule));
  }

  void ReadField(const std::string& key, const toml::node& node, RawRule* rule) {
    static const std::set<std::string> texts{"condition",     "severity", "raise_after",
                                             "resolve_after", "window",   "summary",
                                             "detail",        "remedy"};
    Field field{file_.name, LineOf(node), {}};
    if (key == "name") return;
    if (key == "parameters") return ReadParameters(node, rule);
    if (key == "disabled") {
      if (!node.is_boolean()) return Tell(field.line, "disabled is true or false");
      field.value = *node.value<bool>();
    } else if (key == "subject") {
      if (!ReadSubject(node, &field)) {
        return Tell(field.line,
                    "subject is a kind, \"sds\", or a list of kinds, [\"sds\", \"sdc\"]");
      }
    } else if (texts.contains(key)) {
      if (!node.is_string()) return Tell(field.line, absl::StrCat(key, " is a text in quotes"));
      field.value = *node.value<std::string>();
    } else {
      return Tell(field.line,
                  absl::StrCat("'", key, "' is no field of a rule; there are: name, subject, ",
                               "disabled, parameters, ", absl::StrJoin(texts, ", ")));
    }
    rule->fields[key] = std::move(field);
  }

  static bool ReadSubject(const toml::node& node, Field* field) {
    std::vector<std::string> kinds;
    if (node.is_string()) kinds.push_back(*node.value<std::string>());
    if (const toml::array* const list = node.as_array()) {
      for (const toml::node& kind : *list) {
        if (!kind.is_string()) return false;
        kinds.push_back(*kind.value<std::string>());
      }
    }
    const bool some = !kinds.empty();
    field->value = std::move(kinds);
    return some;
  }

  void ReadParameters(const toml::node& node, RawRule* rule) {
    if (node.as_table() == nullptr) {
      return Tell(LineOf(node), "parameters is a table of numbers: parameters = { days = 4 }");
    }
    for (const auto& [key, value] : *node.as_table()) {
      const std::string name(key.str());
      const bool well = !name.empty() && name.size() <= 63 &&
                        absl::ascii_islower(static_cast<unsigned char>(name[0])) &&
                        std::all_of(name.begin(), name.end(), [](char c) {
                          return absl::ascii_islower(static_cast<unsigned char>(c)) ||
                                 absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '_';
                        });
      if (!well) {
        Tell(LineOf(value), absl::StrCat("a parameter's name is 1 to 63 of a-z, 0-9 and '_' and "
                                         "begins with a letter, not '",
                                         name, "'"));
        continue;
      }
      if (!value.is_number() || !std::isfinite(*value.value<double>())) {
        Tell(LineOf(value), absl::StrCat("parameter '", name, "' is a number"));
        continue;
      }
      rule->parameters[name] = {file_.name, LineOf(value),
                                std::map<std::string, double>{{name, *value.value<double>()}}};
    }
  }

  const RulesFile& file_;
  std::vector<FileMistake>* const mistakes_;
  std::vector<RawRule> rules_;
};

// Makes a rule of its fields.
class Compiler {
 public:
  Compiler(const RawRule& raw, std::vector<FileMistake>* mistakes)
      : raw_(raw), mistakes_(mistakes), rule_(std::make_shared<AlertRule>()) {}

  std::shared_ptr<AlertRule> Compile() {
    rule_->name = raw_.name;
    rule_->from_file = raw_.from_file;
    if (const Field* field = Find("disabled")) rule_->disabled = std::get<bool>(field->value);
    ReadKinds();
    ReadSeverity();
    rule_->raise_after_ms = ReadDuration("raise_after", 0, 0, kHoldMaxMs);
    rule_->resolve_after_ms = ReadDuration("resolve_after", 60'000, 0, kHoldMaxMs);
    rule_->window_ms = ReadDuration("window", kHourMs, kWindowMinMs, kWindowMaxMs);
    if (rule_->kinds.empty()) return rule_;
    MakeScope();
    ReadCondition();
    rule_->summary = ReadTemplate("summary", true);
    rule_->detail = ReadTemplate("detail", false);
    rule_->remedy = ReadTemplate("remedy", false);
    for (const TextTemplate* text : {&rule_->summary, &rule_->detail, &rule_->remedy}) {
      const std::set<std::string> more = text->past_values();
      rule_->past_values.insert(more.begin(), more.end());
    }
    return rule_;
  }

 private:
  const Field* Find(const std::string& name) const {
    const auto found = raw_.fields.find(name);
    return found == raw_.fields.end() ? nullptr : &found->second;
  }
  // The field as text; tells that it is missing when it must be there.
  const std::string* Text(const std::string& name, bool needed) {
    const Field* const field = Find(name);
    if (field != nullptr) return &std::get<std::string>(field->value);
    if (needed) {
      mistakes_->push_back(
          {raw_.file, raw_.line,
           absl::StrCat("rule '", raw_.name, "' needs ", name,
                        raw_.from_file ? ": no built-in rule of this name has it" : "")});
    }
    return nullptr;
  }
  void Tell(const std::string& name, const std::string& text) {
    const Field* const field = Find(name);
    mistakes_->push_back({field == nullptr ? raw_.file : field->file,
                          field == nullptr ? raw_.line : field->line,
                          absl::StrCat(name, " of rule '", raw_.name, "': ", text)});
  }

  void ReadKinds() {
    const Field* const field = Find("subject");
    std::vector<std::string> all;
    for (const SubjectKind kind : kSubjectKinds) all.emplace_back(KindName(kind));
    if (field == nullptr) {
      static_cast<void>(Text("subject", true));
      return;
    }
    for (const std::string& name : std::get<std::vector<std::string>>(field->value)) {
      if (const std::optional<SubjectKind> kind = KindOfName(name); kind.has_value()) {
        rule_->kinds.push_back(*kind);
      } else {
        Tell("subject",
             absl::StrCat("'", name, "' is no kind; there are: ", absl::StrJoin(all, ", ")));
      }
    }
  }

  void ReadSeverity() {
    const std::string* const text = Text("severity", true);
    if (text == nullptr) return;
    const std::optional<v1::AlertSeverity> severity = SeverityOfName(*text);
    if (!severity.has_value()) {
      return Tell("severity",
                  absl::StrCat("'", *text, "' is none; there are: info, warning, error, critical"));
    }
    rule_->severity = *severity;
  }

  uint64_t ReadDuration(const std::string& name, uint64_t otherwise, uint64_t least,
                        uint64_t most) {
    const std::string* const text = Text(name, false);
    if (text == nullptr) return otherwise;
    const std::optional<uint64_t> duration = ParseDurationMs(*text);
    if (!duration.has_value() || *duration < least || *duration > most) {
      Tell(name, absl::StrCat("'", *text, "' is not ", least / 1000, "s to ", most / kDayMs,
                              "d, such as \"90s\", \"5m\", \"12h\" or \"1d\""));
      return otherwise;
    }
    return *duration;
  }

  // What every kind of the rule has.
  static std::set<std::string> Common(const std::vector<SubjectKind>& kinds,
                                      const std::vector<ValueInfo>& (*of)(SubjectKind)) {
    std::set<std::string> names;
    for (size_t i = 0; i < kinds.size(); ++i) {
      std::set<std::string> of_kind;
      for (const ValueInfo& info : of(kinds[i])) of_kind.insert(info.name);
      if (i == 0) {
        names = std::move(of_kind);
      } else {
        std::erase_if(names, [&](const std::string& name) { return !of_kind.contains(name); });
      }
    }
    return names;
  }

  void MakeScope() {
    scope_.values = Common(rule_->kinds, &ValuesOf);
    texts_ = Common(rule_->kinds, &TextsOf);
    texts_.insert({"name", "id", "subject"});
    for (const auto& [name, field] : raw_.parameters) {
      if (scope_.values.contains(name) || texts_.contains(name)) {
        mistakes_->push_back({field.file, field.line,
                              absl::StrCat("parameter '", name, "' of rule '", raw_.name,
                                           "' is called as a value is: rename it")});
        continue;
      }
      const double number = std::get<std::map<std::string, double>>(field.value).at(name);
      scope_.parameters[name] = number;
    }
    rule_->parameters = scope_.parameters;
  }

  void ReadCondition() {
    const std::string* const text = Text("condition", true);
    if (text == nullptr) return;
    rule_->condition_text = *text;
    absl::StatusOr<std::unique_ptr<Expression>> condition = Expression::Parse(*text, scope_);
    if (!condition.ok()) return Tell("condition", std::string(condition.status().message()));
    rule_->condition = *std::move(condition);
    rule_->past_values = rule_->condition->past_values();
  }

  TextTemplate ReadTemplate(const std::string& name, bool needed) {
    const std::string* const text = Text(name, needed);
    if (text == nullptr) return {};
    absl::StatusOr<TextTemplate> parsed = TextTemplate::Parse(*text, scope_, texts_);
    if (!parsed.ok()) {
      Tell(name, std::string(parsed.status().message()));
      return {};
    }
    return *std::move(parsed);
  }

  const RawRule& raw_;
  std::vector<FileMistake>* const mistakes_;
  const std::shared_ptr<AlertRule> rule_;
  ExpressionScope scope_;
  std::set<std::string> texts_;
};

}  // namespace

v1::AlertRule AlertRule::ToProto() const {
  v1::AlertRule proto;
  proto.set_rule(name);
  proto.set_severity(severity);
  proto.set_condition(condition_text);
  for (const auto& [parameter, value] : parameters) {
    proto.mutable_condition()->append(
        absl::StrCat(proto.condition().find("  [") == std::string::npos ? "  [" : ", ", parameter,
                     " = ", FormatNumber(value, "number")));
  }
  if (!parameters.empty()) proto.mutable_condition()->append("]");
  proto.set_raise_after_ms(raise_after_ms);
  proto.set_resolve_after_ms(resolve_after_ms);
  proto.set_summary(summary.text());
  proto.set_remedy(remedy.text());
  proto.set_from_file(from_file);
  proto.set_disabled(disabled);
  return proto;
}

RulesResult ReadRules(const RulesFile& builtin, const RulesFile* file) {
  RulesResult result;
  std::map<std::string, RawRule> merged;
  for (RawRule& rule : FileReader(builtin, &result.mistakes).Read()) {
    const std::string name = rule.name;
    merged[name] = std::move(rule);
  }
  if (file != nullptr) {
    for (RawRule& rule : FileReader(*file, &result.mistakes).Read()) {
      RawRule& target = merged[rule.name];
      target.name = rule.name;
      target.from_file = true;
      target.file = rule.file;
      target.line = rule.line;
      for (auto& [key, field] : rule.fields) target.fields[key] = std::move(field);
      for (auto& [key, field] : rule.parameters) target.parameters[key] = std::move(field);
    }
  }
  for (const auto& [name, raw] : merged) {
    result.rules.push_back(Compiler(raw, &result.mistakes).Compile());
  }
  if (!result.mistakes.empty()) result.rules.clear();
  std::stable_sort(result.mistakes.begin(), result.mistakes.end(),
                   [](const FileMistake& a, const FileMistake& b) { return a.line < b.line; });
  return result;
}

absl::Status MistakesToStatus(const std::vector<FileMistake>& mistakes) {
  if (mistakes.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrJoin(mistakes, "\n", [](std::string* out, const FileMistake& mistake) {
        absl::StrAppend(out, mistake.file, ":", mistake.line, ": ", mistake.text);
      }));
}

absl::StatusOr<AlertRules> LoadRules(const std::string& path) {
  const RulesFile builtin{"built-in rules", kBuiltinRules};
  RulesFile file{path, ""};
  if (!path.empty()) {
    TESSERA_ASSIGN_OR_RETURN(file.text, ReadTextFile(path));
  }
  RulesResult result = ReadRules(builtin, path.empty() ? nullptr : &file);
  TESSERA_RETURN_IF_ERROR(MistakesToStatus(result.mistakes));
  return std::move(result.rules);
}

std::optional<uint64_t> ParseDurationMs(std::string_view text) {
  static const std::map<char, uint64_t> units{
      {'s', 1000}, {'m', 60'000}, {'h', kHourMs}, {'d', kDayMs}};
  if (text.empty() || text.size() > 20) return std::nullopt;
  uint64_t sum = 0;
  size_t at = 0;
  while (at < text.size()) {
    uint64_t number = 0;
    const size_t begin = at;
    while (at < text.size() && absl::ascii_isdigit(static_cast<unsigned char>(text[at]))) {
      number = number * 10 + static_cast<uint64_t>(text[at++] - '0');
      if (number > 1'000'000'000) return std::nullopt;
    }
    const auto unit = at < text.size() ? units.find(text[at]) : units.end();
    if (at == begin || unit == units.end()) return std::nullopt;
    sum += number * unit->second;
    ++at;
  }
  return sum;
}

std::optional<v1::AlertSeverity> SeverityOfName(std::string_view name) {
  for (int i = v1::ALERT_SEVERITY_INFO; i <= v1::ALERT_SEVERITY_CRITICAL; ++i) {
    const auto severity = static_cast<v1::AlertSeverity>(i);
    if (SeverityName(severity) == name) return severity;
  }
  return std::nullopt;
}

std::string SeverityName(v1::AlertSeverity severity) {
  return absl::AsciiStrToLower(
      v1::AlertSeverity_Name(severity).substr(sizeof("ALERT_SEVERITY_") - 1));
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("can't read ", path));
  std::string text(kFileBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return absl::NotFoundError(absl::StrCat("can't read ", path));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has more than 1 MiB"));
  }
  return text;
}

}  // namespace tessera::mgmt
