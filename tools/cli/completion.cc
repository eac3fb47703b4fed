// Shell completion, generated from the command tree itself.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>

#include "tools/cli/commands.h"

namespace tessera::cli {
namespace {

// Lines "case path in": for each command path the words that may follow.
void Collect(const CLI::App* app, const std::string& path,
             std::vector<std::pair<std::string, std::string>>* out) {
  std::string words;
  for (const CLI::App* sub : app->get_subcommands([](const CLI::App*) { return true; })) {
    words += sub->get_name() + " ";
  }
  for (const CLI::Option* option : app->get_options()) {
    for (const std::string& name : option->get_lnames()) words += "--" + name + " ";
  }
  out->emplace_back(path, words);
  for (const CLI::App* sub : app->get_subcommands([](const CLI::App*) { return true; })) {
    Collect(sub, path.empty() ? sub->get_name() : path + " " + sub->get_name(), out);
  }
}

void Print(const CLI::App* root, const std::string& shell) {
  std::vector<std::pair<std::string, std::string>> table;
  Collect(root, "", &table);
  if (shell == "fish") {
    for (const auto& [path, words] : table) {
      std::cout << "complete -c tessera -f -n 'test (string join \" \" (commandline -opc)[2..] | "
                   "string replace -r \" *-.*\" \"\") = \""
                << path << "\"' -a '" << words << "'\n";
    }
    return;
  }
  if (shell == "zsh") std::cout << "autoload -U +X bashcompinit && bashcompinit\n";
  std::cout << "_tessera() {\n  local path=\"\" word\n"
               "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
               "    case \"$word\" in -*) ;; *) path=\"${path:+$path }$word\" ;; esac\n  done\n"
               "  local words=\"\"\n  while :; do\n    case \"$path\" in\n";
  for (const auto& [path, words] : table) {
    std::cout << "      \"" << path << "\") words=\"" << words << "\"; break ;;\n";
  }
  std::cout << "      *) path=\"${path% *}\"; [[ \"$path\" == *\" \"* ]] || { [[ -n \"$path\" ]] "
               "&& words=\"\"; "
               "break; } ;;\n    esac\n  done\n"
               "  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n}\n"
               "complete -F _tessera tessera\n";
}

}  // namespace

void AddCompletionCommand(CLI::App* app) {
  auto shell = std::make_shared<std::string>();
  auto* completion = app->add_subcommand("completion", "Prints a completion script for a shell.");
  completion->add_option("SHELL", *shell, "bash, zsh or fish.")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  completion->callback([=] { Print(app, *shell); });
}

}  // namespace tessera::cli
