#include "services/common/settings.h"

#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/common/node.h"

namespace tessera {
namespace {

// A part with settings of each kind.
class Part {
 public:
  Part() {
    char name[] = "/tmp/settings_test.XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    folder_ = name;
    app_.add_option("--data-listen", listen)->capture_default_str();
    app_.add_option("--device", devices);
    app_.add_option("--budget-mib", budget)->check(CLI::Range(1, 1000));
    app_.add_option("--ratio", ratio);
    app_.add_option("--log-format", format)->check(CLI::IsMember({"text", "json"}));
    app_.add_flag("--insecure", insecure);
    app_.add_flag("--check-config", check);
    settings_.AddFlags(&app_);
  }
  ~Part() { std::filesystem::remove_all(folder_); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  std::string File(const std::string& content) {
    const std::string path = folder_ + "/part.toml";
    REQUIRE(WriteFileAtomically(path, content, 0600).ok());
    return path;
  }
  absl::Status Read(std::vector<std::string> arguments,
                    std::map<std::string, std::string> environment = {}) {
    std::reverse(arguments.begin(), arguments.end());
    app_.parse(arguments);
    return settings_.Apply(&app_, [&](const char* name) {
      const auto found = environment.find(name);
      return found == environment.end() ? nullptr : found->second.c_str();
    });
  }
  std::string Help() const { return app_.help(); }

  std::string listen = "127.0.0.1:9700";
  std::vector<std::string> devices;
  int budget = 256;
  double ratio = 0.5;
  std::string format = "text";
  bool insecure = false;
  bool check = false;

 private:
  std::string folder_;
  CLI::App app_{"a part"};
  Settings settings_{"TESSERA_PART"};
};

using Values = std::vector<std::string>;

TEST_CASE("Settings come from the file, the environment and flags, the later the stronger") {
  Part part;
  const std::string file = part.File(
      "# comment\ndata-listen = \"0.0.0.0:1\"\nbudget-mib = 7\nratio = 0.25\ninsecure = true\n"
      "device = [\"/a,pool=x\", \"/b\"]\n");
  SECTION("the file") {
    REQUIRE(part.Read({"--config", file}).ok());
    CHECK(part.listen == "0.0.0.0:1");
    CHECK(part.budget == 7);
    CHECK(part.ratio == 0.25);
    CHECK(part.insecure);
    CHECK(part.devices == Values{"/a,pool=x", "/b"});
    CHECK(part.format == "text");
  }
  SECTION("the file, named by the environment") {
    REQUIRE(part.Read({}, {{"TESSERA_PART_CONFIG", file}}).ok());
    CHECK(part.budget == 7);
  }
  SECTION("the environment beats it") {
    REQUIRE(part.Read({"--config", file}, {{"TESSERA_PART_BUDGET_MIB", "8"},
                                           {"TESSERA_PART_INSECURE", "false"},
                                           {"TESSERA_PART_DEVICE", " /c\t/d,pool=y\n"},
                                           {"TESSERA_PART_PORT", "tcp://10.0.0.1:80"}})
                .ok());
    CHECK(part.budget == 8);
    CHECK_FALSE(part.insecure);
    CHECK(part.devices == Values{"/c", "/d,pool=y"});
    CHECK(part.listen == "0.0.0.0:1");
  }
  SECTION("a flag beats both") {
    REQUIRE(part.Read({"--config", file, "--budget-mib", "9", "--device", "/e"},
                      {{"TESSERA_PART_BUDGET_MIB", "8"}})
                .ok());
    CHECK(part.budget == 9);
    CHECK(part.devices == Values{"/e"});
  }
  SECTION("an empty text is a value") {
    REQUIRE(part.Read({}, {{"TESSERA_PART_DATA_LISTEN", ""}}).ok());
    CHECK(part.listen.empty());
  }
}

TEST_CASE("What is wrong in a file or variable is told with its place, and what would be right") {
  Part part;
  const auto error = [&](const std::string& content) {
    const absl::Status status = part.Read({"--config", part.File(content)});
    CHECK(absl::IsInvalidArgument(status));
    return std::string(status.message());
  };
  CHECK(absl::StrContains(error("\nbudget_mib = 7\n"), "line 2: budget_mib is no setting"));
  CHECK(absl::StrContains(error("check-config = true\n"), "is no setting"));
  CHECK(absl::StrContains(error("config = \"x\"\n"), "is no setting"));
  CHECK(absl::StrContains(error("budget-mib = 7\nbudget-mib = 8\n"), "line 2"));
  CHECK(absl::StrContains(error("[part]\nbudget-mib = 7\n"), "part is no setting"));
  CHECK(absl::StrContains(error("budget-mib = [7]\n"), "must be a text, a number, true or false"));
  CHECK(absl::StrContains(error("device = [[\"x\"]]\n"), "must be a list of texts"));
  CHECK(absl::StrContains(error("data-listen = 07:32:00\n"), "line 1: data-listen must be"));
  CHECK(absl::StrContains(error("data-listen = \n"), "line 1"));

  const absl::Status missing = part.Read({"--config", "/does/not/exist.toml"});
  CHECK(absl::IsNotFound(missing));
  CHECK(absl::StrContains(missing.message(), "/does/not/exist.toml"));
}

TEST_CASE("A value is refused as its flag would refuse it") {
  {
    Part part;
    const absl::Status status = part.Read({"--config", part.File("\nbudget-mib = 5000\n")});
    CHECK(absl::StrContains(status.message(), "line 2: budget-mib: "));
    CHECK(absl::StrContains(status.message(), "5000"));
  }
  {
    Part part;
    const absl::Status status = part.Read({}, {{"TESSERA_PART_LOG_FORMAT", "xml"}});
    CHECK(absl::StrContains(status.message(), "TESSERA_PART_LOG_FORMAT: "));
    CHECK(absl::StrContains(status.message(), "json"));
  }
  {
    Part part;
    CHECK(absl::StrContains(part.Read({}, {{"TESSERA_PART_BUDGET_MIB", "many"}}).message(),
                            "TESSERA_PART_BUDGET_MIB"));
  }
}

TEST_CASE("The help says how") {
  CHECK(absl::StrContains(Part().Help(), "TESSERA_PART_<NAME>"));
  CHECK(absl::StrContains(Part().Help(), "$TESSERA_PART_CONFIG"));
}

}  // namespace
}  // namespace tessera
