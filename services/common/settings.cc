#include "services/common/settings.h"

#include <toml++/toml.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "services/common/status_macros.h"

namespace tessera {
namespace {

constexpr char kConfig[] = "config";
constexpr std::string_view kNoSettings[] = {kConfig, "help", "version", "check-config"};

// What a source says of one setting.
struct Given {
  std::string where;
  std::vector<std::string> values;
};

std::string Variable(const std::string& prefix, const std::string& name) {
  return absl::StrCat(prefix, "_", absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"-", "_"}})));
}

// The options that are settings, by name.
std::map<std::string, CLI::Option*> SettingsOf(CLI::App* app) {
  std::map<std::string, CLI::Option*> found;
  for (CLI::Option* const option : app->get_options()) {
    if (option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    const auto* const end = std::end(kNoSettings);
    if (std::find(std::begin(kNoSettings), end, name) == end) found[name] = option;
  }
  return found;
}

bool Repeats(const CLI::Option& option) { return option.get_items_expected_max() > 1; }

// A value as it would stand on the command line; nothing for tables, lists and times.
std::optional<std::string> TextOf(const toml::node& node) {
  if (node.is_string()) return node.value<std::string>();
  if (node.is_integer()) return absl::StrCat(node.value<int64_t>().value_or(0));
  if (node.is_floating_point()) return absl::StrCat(node.value<double>().value_or(0));
  if (node.is_boolean()) return node.value<bool>().value_or(false) ? "true" : "false";
  return std::nullopt;
}

absl::StatusOr<std::vector<std::string>> ValuesOf(const std::string& where, const toml::node& node,
                                                  bool repeats) {
  std::vector<std::string> values;
  if (const std::optional<std::string> text = TextOf(node); text.has_value()) {
    values.push_back(*text);
    return values;
  }
  if (repeats && node.is_array()) {
    for (const toml::node& element : *node.as_array()) {
      const std::optional<std::string> text = TextOf(element);
      if (!text.has_value()) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, " must be a list of texts and numbers"));
      }
      values.push_back(*text);
    }
    return values;
  }
  return absl::InvalidArgumentError(absl::StrCat(where, " must be a text, a number, true or false",
                                                 repeats ? ", or a list of these" : ""));
}

absl::StatusOr<std::map<std::string, Given>> ReadSettingsFile(
    const std::string& path, const std::map<std::string, CLI::Option*>& settings) {
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
  std::map<std::string, Given> given;
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const std::string where = absl::StrCat(path, " line ", node.source().begin.line, ": ", name);
    const auto found = settings.find(name);
    if (found == settings.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, " is no setting: they are called as the flags of --help, without --"));
    }
    TESSERA_ASSIGN_OR_RETURN(std::vector<std::string> values,
                             ValuesOf(where, node, Repeats(*found->second)));
    given[name] = {where, std::move(values)};
  }
  return given;
}

// What the command line would do with these values.
absl::Status Give(CLI::Option* option, const Given& given) {
  if (given.values.empty()) return absl::OkStatus();
  try {
    for (const std::string& value : given.values) option->add_result(value);
    option->run_callback();
  } catch (const CLI::Error& error) {
    return absl::InvalidArgumentError(absl::StrCat(given.where, ": ", error.what()));
  }
  return absl::OkStatus();
}

}  // namespace

void Settings::AddFlags(CLI::App* app) {
  app->add_option("--config", config_file_,
                  absl::StrCat("TOML file with settings, called as these flags are [$",
                               Variable(prefix_, kConfig), "]."));
  const std::string before = app->get_footer();
  app->footer(absl::StrCat(before, before.empty() ? "" : "\n", "Each setting is also ", prefix_,
                           "_<NAME> in the environment, and <name> in the file of --config. A flag "
                           "beats the environment, which beats the file."));
}

absl::Status Settings::Apply(CLI::App* app, const Environment& environment) const {
  std::string file = config_file_;
  if (file.empty()) {
    const char* const variable = environment(Variable(prefix_, kConfig).c_str());
    if (variable != nullptr) file = variable;
  }
  const std::map<std::string, CLI::Option*> settings = SettingsOf(app);
  std::map<std::string, Given> in_file;
  if (!file.empty()) {
    TESSERA_ASSIGN_OR_RETURN(in_file, ReadSettingsFile(file, settings));
  }
  for (const auto& [name, option] : settings) {
    if (option->count() > 0) continue;
    const std::string variable = Variable(prefix_, name);
    if (const char* const value = environment(variable.c_str()); value != nullptr) {
      Given given{variable, {value}};
      if (Repeats(*option)) {
        given.values = absl::StrSplit(value, absl::ByAnyChar(" \t\n"), absl::SkipEmpty());
      }
      TESSERA_RETURN_IF_ERROR(Give(option, given));
    } else if (const auto found = in_file.find(name); found != in_file.end()) {
      TESSERA_RETURN_IF_ERROR(Give(option, found->second));
    }
  }
  return absl::OkStatus();
}

}  // namespace tessera
