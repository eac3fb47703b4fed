// What `tessera login` remembers: one credential for each management service, in a file for its
// owner's eyes alone, $XDG_STATE_HOME/tessera/credentials or ~/.local/state/tessera/credentials. A
// line is
// "<host:port> <credential>".
//
// Threads: one.
#ifndef TESSERA_TOOLS_CLI_CREDENTIAL_FILE_H_
#define TESSERA_TOOLS_CLI_CREDENTIAL_FILE_H_

#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::cli {

class CredentialFile {
 public:
  using Environment = std::function<const char*(const char* name)>;
  explicit CredentialFile(std::string path) : path_(std::move(path)) {}
  // Where it is for this user. FAILED_PRECONDITION without $XDG_STATE_HOME and $HOME.
  [[nodiscard]] static absl::StatusOr<CredentialFile> OfUser(const Environment& environment);

  // Empty where there is none. PERMISSION_DENIED for a file that others may read.
  [[nodiscard]] absl::StatusOr<std::string> Read(const std::string& address) const;
  // Makes file and folder where they are not; an empty credential is forgotten.
  [[nodiscard]] absl::Status Write(const std::string& address, const std::string& credential) const;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  [[nodiscard]] absl::StatusOr<std::map<std::string, std::string>> ReadAll() const;

  std::string path_;
};

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_CREDENTIAL_FILE_H_
