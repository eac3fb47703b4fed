#include "services/sds/sds_options.h"

#include <CLI/CLI.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/common/errors.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"

namespace tessera::sds {
void SdsOptions::AddFlags(CLI::App* app) {
  app->add_option("--state-dir", state_folder,
                  "Folder for sds_local.db, the endpoints file and the data socket.")
      ->capture_default_str();
  app->add_option("--name", name, "Name for people, unique among servers: a-z, 0-9, '-', '.'.")
      ->capture_default_str();
  app->add_option("--mdm", mdm, "Address of the MDM, host:port.")->capture_default_str();
  app->add_option("--join-token-file", join_token_file,
                  "File with the cluster's join token; needed at the first contact only.");
  app->add_option(
      "--protection-domain", protection_domain,
      "Protection domain to join at the first contact; else an administrator assigns it.");
  app->add_option("--fault-set", fault_set,
                  "Fault set (rack) of this server; else one of its own.");
  app->add_option("--fault-set-file", fault_set_file,
                  "File that holds its name instead; empty: one of its own.");
  app->add_option(
      "--device", devices,
      "PATH[,pool=NAME][,capacity=BYTES]: a folder or block device for chunks, the pool "
      "it asks for, and how much of it may be used. May be repeated.");
  app->add_option("--control-listen", control_listen, "Control plane (gRPC); port 0: any free one.")
      ->capture_default_str();
  app->add_option("--management-listen", management_listen, "Management plane (gRPC).")
      ->capture_default_str();
  app->add_option("--metrics-listen", metrics_listen, "HTTP: /metrics, /livez, /readyz.")
      ->capture_default_str();
  app->add_option("--data-listen", data_listen,
                  "Data plane (gRPC). The unix socket data.sock in the state folder serves it too.")
      ->capture_default_str();
  app->add_option(
      "--advertise-host", advertise_host,
      "Host name or address that others reach this server by, if not that of the flags.");
  app->add_option("--host-id", host_id,
                  "Identity of this host; parts with the same one use unix sockets. Default: "
                  "/etc/machine-id.");
  app->add_option("--window-mib", window_mib, "MiB in flight on one data stream.")
      ->capture_default_str();
  app->add_option("--budget-mib", budget_mib, "MiB in flight on all data streams together.")
      ->capture_default_str();
  app->add_option("--metadata-cache-mib", metadata_cache_mib,
                  "MiB of chunk metadata cached a device.")
      ->capture_default_str();
  app->add_option("--journal-mib", journal_mib, "MiB of journal a device, when its store is made.")
      ->capture_default_str();
  app->add_option("--reader-threads", reader_threads, "Threads for reads that wait for a disk.")
      ->capture_default_str();
  app->add_option("--learn-groups", learn_groups, "Placement groups brought up to date at once.")
      ->capture_default_str();
  app->add_option("--learn-mib-per-second", learn_mib_per_second,
                  "MiB a second copied to bring replicas up to date; 0: no limit.")
      ->capture_default_str();
  security.AddFlags(app);
  app->add_option("--log-level", log_level, "trace, debug, info, warning or error.")
      ->capture_default_str();
  app->add_option("--log-format", log_format, "text or json.")->capture_default_str();
  app->add_flag("--check-config", check_config, "Check flags and files, start nothing, and exit.");
}

absl::StatusOr<std::string> SdsOptions::FaultSet() const {
  if (fault_set_file.empty()) return fault_set;
  absl::StatusOr<std::string> name = ReadFile(fault_set_file);
  if (!name.ok()) return Annotate(name.status(), "--fault-set-file");
  absl::StripAsciiWhitespace(&*name);
  return name;
}

absl::Status SdsOptions::Check() const {
  if (!IsNodeName(name)) {
    return absl::InvalidArgumentError(absl::StrCat("--name '", name, "' must be ", kNodeNameRule));
  }
  if (!fault_set.empty() && !fault_set_file.empty()) {
    return absl::InvalidArgumentError("give --fault-set or --fault-set-file, not both");
  }
  TESSERA_RETURN_IF_ERROR(FaultSet().status());
  if (devices.empty()) return absl::InvalidArgumentError("--device is missing: give at least one");
  TESSERA_RETURN_IF_ERROR(Devices().status());
  if (window_mib == 0 || window_mib > 1024) {
    return absl::InvalidArgumentError("--window-mib must be 1 to 1024");
  }
  if (budget_mib < window_mib) {
    return absl::InvalidArgumentError("--budget-mib must be at least --window-mib");
  }
  if (reader_threads == 0 || learn_groups == 0) {
    return absl::InvalidArgumentError("--reader-threads and --learn-groups must be at least 1");
  }
  if (log_format != "text" && log_format != "json") {
    return absl::InvalidArgumentError("--log-format must be text or json");
  }
  return security.Check({control_listen, management_listen, metrics_listen, data_listen});
}

absl::StatusOr<std::vector<DeviceOptions>> SdsOptions::Devices() const {
  std::vector<DeviceOptions> parsed;
  for (const std::string& text : devices) {
    TESSERA_ASSIGN_OR_RETURN(DeviceOptions device, ParseDevice(text));
    for (const DeviceOptions& other : parsed) {
      if (other.path == device.path) {
        return absl::InvalidArgumentError(
            absl::StrCat("--device ", device.path, " is given twice"));
      }
    }
    device.store.metadata_cache_bytes = metadata_cache_mib << 20;
    device.store.journal_bytes = journal_mib << 20;
    parsed.push_back(std::move(device));
  }
  return parsed;
}

absl::StatusOr<DeviceOptions> ParseDevice(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  DeviceOptions device;
  device.path = parts[0];
  if (device.path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--device '", text, "' has no path"));
  }
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::vector<std::string> setting = absl::StrSplit(parts[i], absl::MaxSplits('=', 1));
    const bool has_value = setting.size() == 2 && !setting[1].empty();
    if (has_value && setting[0] == "pool") {
      device.pool_name = setting[1];
    } else if (!has_value || setting[0] != "capacity" ||
               !absl::SimpleAtoi(setting[1], &device.store.capacity_bytes)) {
      return absl::InvalidArgumentError(absl::StrCat("--device '", text, "': '", parts[i],
                                                     "' is neither pool=NAME nor capacity=BYTES"));
    }
  }
  return device;
}

}  // namespace tessera::sds
