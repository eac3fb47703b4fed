#include "services/mgmt/mgmt_options.h"

#include <CLI/CLI.hpp>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/match.h"

namespace tessera::mgmt {
namespace {

class Fixture {
 public:
  Fixture() {
    std::string path = (std::filesystem::temp_directory_path() / "mgmt-options-XXXXXX").string();
    REQUIRE(mkdtemp(path.data()) != nullptr);
    folder_ = path;
  }
  ~Fixture() { std::filesystem::remove_all(folder_); }

  std::string File(const std::string& content) {
    std::ofstream(folder_ + "/mgmt.toml") << content;
    return folder_ + "/mgmt.toml";
  }
  absl::Status Read(const std::vector<std::string>& arguments) {
    options = MgmtOptions();
    SettingsReader reader(&options);
    CLI::App app("test");
    reader.AddFlags(&app);
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app.parse(reversed);
    return reader.Read([this](const char* name) {
      const auto found = environment.find(name);
      return found == environment.end() ? nullptr : found->second.c_str();
    });
  }
  v1::Setting Setting(const std::string& name) const {
    for (const v1::Setting& setting : options.settings) {
      if (setting.name() == name) return setting;
    }
    FAIL("there is no setting " << name);
    return {};
  }

  MgmtOptions options;
  std::map<std::string, std::string> environment;

 private:
  std::string folder_;
};

TEST_CASE("without anything said the defaults hold, and say that they are such") {
  Fixture fixture;
  REQUIRE(fixture.Read({}).ok());
  REQUIRE(fixture.options.listen == "127.0.0.1:5000");
  REQUIRE(fixture.options.poll_interval_ms == 10'000);
  REQUIRE(fixture.Setting("poll-interval").value() == "10000ms");
  for (const v1::Setting& setting : fixture.options.settings) {
    INFO(setting.name());
    CHECK(setting.source() == "default");
    CHECK_FALSE(setting.description().empty());
  }
}

TEST_CASE("a flag goes before the environment, the environment before the file") {
  Fixture fixture;
  const std::string file =
      fixture.File("mdm = 'file:1'\nlisten = 'file:2'\ngrpc-listen = 'file:3'\ninsecure = true\n");
  fixture.environment = {{"TESSERA_MGMT_MDM", "environment:1"},
                         {"TESSERA_MGMT_LISTEN", "environment:2"}};
  REQUIRE(fixture.Read({"--config", file, "--mdm", "flag:1"}).ok());
  REQUIRE(fixture.options.mdm == "flag:1");
  REQUIRE(fixture.options.listen == "environment:2");
  REQUIRE(fixture.options.grpc_listen == "file:3");
  REQUIRE(fixture.options.security.insecure);
  REQUIRE(fixture.Setting("mdm").source() == "flag");
  REQUIRE(fixture.Setting("listen").source() == "environment");
  REQUIRE(fixture.Setting("grpc-listen").source() == "file");
  REQUIRE(fixture.Setting("insecure").value() == "true");
  REQUIRE(fixture.Setting("metrics-listen").source() == "default");
}

TEST_CASE("the file may be named in the environment, and the flag --insecure needs no value") {
  Fixture fixture;
  fixture.environment = {{"TESSERA_MGMT_CONFIG", fixture.File("poll-interval = '2s'\n")}};
  REQUIRE(fixture.Read({"--insecure"}).ok());
  REQUIRE(fixture.options.poll_interval_ms == 2'000);
  REQUIRE(fixture.options.security.insecure);
  REQUIRE(fixture.Setting("insecure").source() == "flag");
}

TEST_CASE("durations are milliseconds or have a unit, sizes bytes or a unit") {
  Fixture fixture;
  REQUIRE(fixture
              .Read({"--poll-interval", "1500", "--session-idle", "10m", "--session-lifetime", "8h",
                     "--database-limit", "512MiB"})
              .ok());
  REQUIRE(fixture.options.poll_interval_ms == 1'500);
  REQUIRE(fixture.options.session_idle_ms == 600'000);
  REQUIRE(fixture.options.session_lifetime_ms == 8 * 3'600'000);
  REQUIRE(fixture.options.database_limit_bytes == uint64_t{512} << 20);
}

TEST_CASE("what can't be read is named with its place, and with what would be right") {
  Fixture fixture;
  const auto message = [&](const std::vector<std::string>& arguments) {
    const absl::Status status = fixture.Read(arguments);
    REQUIRE_FALSE(status.ok());
    return std::string(status.message());
  };
  REQUIRE(absl::StrContains(message({"--poll-interval", "soon"}), "--poll-interval 'soon'"));
  REQUIRE(absl::StrContains(message({"--poll-interval", "-5s"}), "such as 500ms"));
  REQUIRE(absl::StrContains(message({"--log-format", "xml"}), "text or json"));
  REQUIRE(absl::StrContains(message({"--database-limit", "much"}), "512MiB"));
  REQUIRE(absl::StrContains(message({"--config", "/nowhere/x"}), "no file /nowhere/x"));
  REQUIRE(absl::StrContains(message({"--config", fixture.File("mdm = 'a:1'\nmdn = 'b:1'\n")}),
                            "line 2: mdn is no setting"));
  REQUIRE(absl::StrContains(message({"--config", fixture.File("\nmdm = \n")}), "line 2"));
  REQUIRE(absl::StrContains(message({"--config", fixture.File("mdm = [1]\n")}), "must be a text"));
  REQUIRE(absl::StrContains(message({"--config", fixture.File("poll-interval = 'x'\n")}),
                            "poll-interval 'x'"));
  fixture.environment = {{"TESSERA_MGMT_INSECURE", "perhaps"}};
  REQUIRE(absl::StrContains(message({}), "TESSERA_MGMT_INSECURE 'perhaps': must be true or false"));
}

TEST_CASE("settings that can't hold together are refused with the reason") {
  const auto message = [](const std::function<void(MgmtOptions*)>& change) {
    MgmtOptions options;
    options.security.insecure = true;
    change(&options);
    return std::string(options.Check().message());
  };
  REQUIRE(message([](MgmtOptions*) {}).empty());
  REQUIRE(absl::StrContains(message([](MgmtOptions* o) { o->listen = "0.0.0.0:5000"; }),
                            "passwords would cross the network in clear"));
  REQUIRE(message([](MgmtOptions* o) {
            o->listen = "0.0.0.0:5000";
            o->web_certificate_file = "c";
            o->web_key_file = "k";
          }).empty());
  REQUIRE(
      absl::StrContains(message([](MgmtOptions* o) { o->web_key_file = "k"; }), "both or none"));
  REQUIRE(absl::StrContains(message([](MgmtOptions* o) { o->grpc_listen = "0.0.0.0:1"; }),
                            "0.0.0.0:1"));
  REQUIRE(absl::StrContains(message([](MgmtOptions* o) { o->poll_interval_ms = 99; }), "100ms"));
  REQUIRE(absl::StrContains(message([](MgmtOptions* o) { o->session_idle_ms = 999; }), "from 1s"));
  REQUIRE(absl::StrContains(
      message([](MgmtOptions* o) { o->session_idle_ms = o->session_lifetime_ms + 1; }),
      "--session-lifetime"));
  REQUIRE(absl::StrContains(message([](MgmtOptions* o) { o->database_limit_bytes = 1; }), "16MiB"));
  REQUIRE(absl::StrContains(message([](MgmtOptions* o) { o->mdm = "nowhere"; }), "host:port"));
  REQUIRE(
      absl::StrContains(message([](MgmtOptions* o) { o->security.insecure = false; }), "--tls"));
}

}  // namespace
}  // namespace tessera::mgmt
