// The server's settings: flags of tessera-sds, and their checks.
//
// Threads: a value.
#ifndef TESSERA_SERVICES_SDS_SDS_OPTIONS_H_
#define TESSERA_SERVICES_SDS_SDS_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/grpc_server.h"
#include "services/sds/device.h"

namespace CLI {
class App;
}

namespace tessera::sds {

struct SdsOptions {
  std::string state_folder = "/var/lib/tessera/sds";
  std::string name = "sds-0";
  std::string mdm = "127.0.0.1:8001";
  std::string join_token_file;
  std::string protection_domain;
  std::string fault_set;
  std::string fault_set_file;
  std::vector<std::string> devices;  // as ParseDevice takes them

  std::string control_listen = "127.0.0.1:9100";
  std::string management_listen = "127.0.0.1:9200";
  std::string metrics_listen = "127.0.0.1:9400";
  std::string data_listen = "127.0.0.1:9700";
  std::string advertise_host;  // empty: the listen addresses as they are
  std::string host_id;         // empty: this host's
  SecurityOptions security;

  uint64_t window_mib = 16;          // a stream
  uint64_t budget_mib = 256;         // all streams
  uint64_t metadata_cache_mib = 64;  // a device
  uint64_t journal_mib = 256;        // a device, when its store is made
  size_t reader_threads = 4;
  size_t learn_groups = 4;
  uint64_t learn_mib_per_second = 0;  // 0: no limit
  std::string log_level = "info";
  std::string log_format = "text";
  bool check_config = false;

  void AddFlags(CLI::App* app);
  // INVALID_ARGUMENT naming the flag.
  [[nodiscard]] absl::Status Check() const;
  // What --fault-set or the file of --fault-set-file says; empty: a fault set of its own. Errors
  // naming the file.
  [[nodiscard]] absl::StatusOr<std::string> FaultSet() const;
  // Of all --device flags.
  [[nodiscard]] absl::StatusOr<std::vector<DeviceOptions>> Devices() const;
};

// "PATH[,pool=NAME][,capacity=BYTES]".
[[nodiscard]] absl::StatusOr<DeviceOptions> ParseDevice(const std::string& text);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_SDS_OPTIONS_H_
