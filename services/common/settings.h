// A part's settings from more than its command line: the environment, and one TOML file.
//
// A flag beats the environment, which beats the file, which beats the default. In the environment a
// setting is called <PREFIX>_<NAME> ("TESSERA_SDS_DATA_LISTEN" for --data-listen), values of a flag
// that may be repeated are separated by white space; in the file it is called as the flag is,
// without "--", and a list stands for a flag that is repeated:
//
//   data-listen = "0.0.0.0:9700"
//   device = ["/var/lib/tessera/disk0,pool=fast", "/var/lib/tessera/disk1"]
//
// Threads: one.
#ifndef TESSERA_SERVICES_COMMON_SETTINGS_H_
#define TESSERA_SERVICES_COMMON_SETTINGS_H_

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace tessera {

// The value of a variable, or null, as getenv.
using Environment = std::function<const char*(const char* name)>;

class Settings {
 public:
  // `prefix`: "TESSERA_SDS".
  explicit Settings(std::string prefix) : prefix_(std::move(prefix)) {}
  // Adds --config; says in the footer how the others are given. After all other flags.
  void AddFlags(CLI::App* app);
  // Gives the options that the command line did not name what the environment and the file say.
  // After the command line was parsed. INVALID_ARGUMENT or NOT_FOUND naming the variable, or the
  // file and line, for a value that the flag would refuse, and for names that are no settings.
  [[nodiscard]] absl::Status Apply(CLI::App* app, const Environment& environment) const;

 private:
  const std::string prefix_;
  std::string config_file_;
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_SETTINGS_H_
