// docs/operations/alerts.md lists the built-in rules and the values as they are.
#include <catch2/catch.hpp>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/mgmt/alerts/alert_rules.h"

namespace tessera::mgmt {
namespace {

std::string Duration(uint64_t ms) {
  const uint64_t seconds = ms / 1000;
  if (seconds % 3'600 == 0 && seconds > 0) return absl::StrCat(seconds / 3'600, " h");
  if (seconds % 60 == 0 && seconds > 0) return absl::StrCat(seconds / 60, " min");
  return seconds == 0 ? "at once" : absl::StrCat(seconds, " s");
}

std::string RulesTable() {
  const absl::StatusOr<AlertRules> rules = LoadRules("");
  REQUIRE(rules.ok());
  std::string text =
      "| rule | severity | about | raised after | resolved after | says "
      "|\n|---|---|---|---|---|---|\n";
  for (const auto& rule : *rules) {
    std::vector<std::string> kinds;
    for (const SubjectKind kind : rule->kinds) kinds.emplace_back(KindName(kind));
    absl::StrAppend(&text, "| `", rule->name, "` | ", SeverityName(rule->severity), " | ",
                    absl::StrJoin(kinds, ", "), " | ", Duration(rule->raise_after_ms), " | ",
                    Duration(rule->resolve_after_ms), " | ", rule->summary.text(), " |\n");
  }
  return text;
}

std::string ValuesTables() {
  std::string text;
  for (const SubjectKind kind : kSubjectKinds) {
    absl::StrAppend(&text, "### ", std::string(KindName(kind)),
                    "\n\n| value | what it is |\n|---|---|\n");
    for (const ValueInfo& value : ValuesOf(kind)) {
      absl::StrAppend(&text, "| `", value.name, "` | ", value.description, " |\n");
    }
    for (const ValueInfo& value : TextsOf(kind)) {
      absl::StrAppend(&text, "| `", value.name, "` (text) | ", value.description, " |\n");
    }
    text += "\n";
  }
  return text;
}

std::string SectionOf(const std::string& document, const std::string& name) {
  const std::string begin = "<!-- " + name + ": begin -->\n\n";
  const size_t from = document.find(begin);
  const size_t to = document.find("\n<!-- " + name + ": end -->");
  if (from == std::string::npos || to == std::string::npos) return "";
  return document.substr(from + begin.size(), to - from - begin.size());
}

TEST_CASE("The page on alerts lists the built-in rules as they are") {
  const absl::StatusOr<std::string> page = ReadTextFile(TESSERA_ALERTS_PAGE);
  REQUIRE(page.ok());
  CHECK(SectionOf(*page, "built-in rules") == RulesTable());
}

TEST_CASE("The page on alerts lists every value of every kind") {
  const absl::StatusOr<std::string> page = ReadTextFile(TESSERA_ALERTS_PAGE);
  REQUIRE(page.ok());
  CHECK(SectionOf(*page, "values") + "\n" == ValuesTables());
}

}  // namespace
}  // namespace tessera::mgmt
