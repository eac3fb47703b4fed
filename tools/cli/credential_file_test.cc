#include "tools/cli/credential_file.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <map>

namespace tessera::cli {
namespace {

class Folder {
 public:
  Folder() {
    path = (std::filesystem::temp_directory_path() / "cli-credentials-XXXXXX").string();
    REQUIRE(mkdtemp(path.data()) != nullptr);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

TEST_CASE("a credential is remembered for its address, for its owner's eyes alone") {
  const Folder folder;
  const CredentialFile file(folder.path + "/state/tessera/credentials");
  REQUIRE(file.Read("a:1").value().empty());
  REQUIRE(file.Write("a:1", "session.1.aa").ok());
  REQUIRE(file.Write("b:2", "session.2.bb").ok());
  REQUIRE(file.Write("a:1", "session.3.cc").ok());
  REQUIRE(file.Read("a:1").value() == "session.3.cc");
  REQUIRE(file.Read("b:2").value() == "session.2.bb");
  REQUIRE((std::filesystem::status(file.path()).permissions() & std::filesystem::perms::mask) ==
          (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
  REQUIRE(file.Write("a:1", "").ok());
  REQUIRE(file.Read("a:1").value().empty());
  REQUIRE(file.Read("b:2").value() == "session.2.bb");
}

TEST_CASE("a file that others may read is not believed") {
  const Folder folder;
  const CredentialFile file(folder.path + "/tessera/credentials");
  REQUIRE(file.Write("a:1", "session.1.aa").ok());
  std::filesystem::permissions(file.path(), std::filesystem::perms::group_read,
                               std::filesystem::perm_options::add);
  REQUIRE(absl::IsPermissionDenied(file.Read("a:1").status()));
}

TEST_CASE("the file is where XDG says, else below the home folder, else nowhere") {
  std::map<std::string, std::string> variables{{"XDG_STATE_HOME", "/x"}, {"HOME", "/h"}};
  const auto environment = [&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
  REQUIRE(CredentialFile::OfUser(environment)->path() == "/x/tessera/credentials");
  variables["XDG_STATE_HOME"] = "not/absolute";
  REQUIRE(CredentialFile::OfUser(environment)->path() == "/h/.local/state/tessera/credentials");
  variables.clear();
  REQUIRE(absl::IsFailedPrecondition(CredentialFile::OfUser(environment).status()));
}

}  // namespace
}  // namespace tessera::cli
