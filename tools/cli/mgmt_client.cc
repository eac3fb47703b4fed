#include "tools/cli/mgmt_client.h"

#include <termios.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>
#include <map>

#include "absl/strings/str_cat.h"

namespace tessera::cli {
namespace {

// The terminal shows nothing of what is typed, as long as this lives.
class NoEcho {
 public:
  NoEcho() {
    if (tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios silent = before_;
    silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    changed_ = tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent) == 0;
  }
  ~NoEcho() {
    if (!changed_) return;
    (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &before_);
    std::cerr << "\n";
  }
  NoEcho(const NoEcho&) = delete;
  NoEcho& operator=(const NoEcho&) = delete;

 private:
  termios before_{};
  bool changed_ = false;
};

}  // namespace

CredentialFile MgmtClient::File() {
  auto file = CredentialFile::OfUser([](const char* name) { return std::getenv(name); });
  if (!file.ok()) throw CommandError(file.status());
  return *std::move(file);
}

void MgmtClient::Prepare(grpc::ClientContext* context) {
  std::string credential = client_->globals().token;
  if (credential.empty()) {
    const auto remembered = File().Read(address());
    if (!remembered.ok()) throw CommandError(remembered.status());
    credential = *remembered;
  }
  PrepareCall(context, client_->globals().timeout_seconds * 1000,
              credential.empty() ? "" : absl::StrCat("Bearer ", credential));
}

void MgmtClient::Remember(const std::string& credential) {
  if (absl::Status status = File().Write(address(), credential); !status.ok()) {
    throw CommandError(status);
  }
}

std::string ReadSecret(const std::string& prompt) {
  std::string secret;
  bool read = false;
  if (isatty(STDIN_FILENO) == 1) {
    std::cerr << prompt << ": " << std::flush;
    const NoEcho no_echo;
    read = static_cast<bool>(std::getline(std::cin, secret));
  } else {
    read = static_cast<bool>(std::getline(std::cin, secret));
  }
  if (!read) {
    throw CommandError(absl::InvalidArgumentError(
        absl::StrCat(prompt, ": is read from the terminal, or from standard input, a line each")));
  }
  return secret;
}

uint64_t ParseSeconds(const std::string& option, const std::string& text) {
  static const CLI::AsNumberWithUnit kUnits(
      std::map<std::string, uint64_t>{
          {"s", 1}, {"m", 60}, {"h", 3'600}, {"d", 86'400}, {"w", 604'800}},
      CLI::AsNumberWithUnit::UNIT_REQUIRED);
  std::string number = text;
  uint64_t seconds = 0;
  bool good = false;
  try {
    good = kUnits(number).empty() && CLI::detail::lexical_cast(number, seconds);
  } catch (const CLI::ValidationError&) {
    good = false;
  }
  if (!good) {
    throw CommandError(absl::InvalidArgumentError(
        absl::StrCat(option, " '", text, "': must be like 90s, 30m, 12h, 30d or 2w")));
  }
  return seconds;
}

}  // namespace tessera::cli
