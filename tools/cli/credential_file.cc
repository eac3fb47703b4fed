#include "tools/cli/credential_file.h"

#include <filesystem>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"

namespace tessera::cli {

absl::StatusOr<CredentialFile> CredentialFile::OfUser(const Environment& environment) {
  const char* const state = environment("XDG_STATE_HOME");
  if (state != nullptr && state[0] == '/') {
    return CredentialFile(absl::StrCat(state, "/tessera/credentials"));
  }
  const char* const home = environment("HOME");
  if (home != nullptr && home[0] == '/') {
    return CredentialFile(absl::StrCat(home, "/.local/state/tessera/credentials"));
  }
  return absl::FailedPreconditionError(
      "there is no place to remember who you are: set HOME or XDG_STATE_HOME, or TESSERA_TOKEN");
}

absl::StatusOr<std::map<std::string, std::string>> CredentialFile::ReadAll() const {
  std::map<std::string, std::string> credentials;
  std::error_code error;
  const auto status = std::filesystem::status(path_, error);
  if (!std::filesystem::exists(status)) return credentials;
  constexpr auto kOthers = std::filesystem::perms::group_all | std::filesystem::perms::others_all;
  if ((status.permissions() & kOthers) != std::filesystem::perms::none) {
    return absl::PermissionDeniedError(
        absl::StrCat(path_, " may be read by others: chmod 600 it, and sign in anew"));
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string content, ReadFile(path_));
  std::istringstream lines(content);
  std::string address;
  std::string credential;
  while (lines >> address >> credential) credentials[address] = credential;
  return credentials;
}

absl::StatusOr<std::string> CredentialFile::Read(const std::string& address) const {
  TESSERA_ASSIGN_OR_RETURN(const auto credentials, ReadAll());
  const auto found = credentials.find(address);
  return found == credentials.end() ? std::string() : found->second;
}

absl::Status CredentialFile::Write(const std::string& address,
                                   const std::string& credential) const {
  TESSERA_ASSIGN_OR_RETURN(auto credentials, ReadAll());
  if (credential.empty()) {
    credentials.erase(address);
  } else {
    credentials[address] = credential;
  }
  const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
  std::error_code error;
  std::filesystem::create_directories(folder.parent_path(), error);
  if (!error) TESSERA_RETURN_IF_ERROR(PrepareStateFolder(folder.string()));
  std::string content;
  for (const auto& [name, value] : credentials) absl::StrAppend(&content, name, " ", value, "\n");
  return WriteFileAtomically(path_, content, 0600);
}

}  // namespace tessera::cli
