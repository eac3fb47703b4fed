// The storage data client as a whole: makes the parts, starts the threads, ends them in order.
//
// Threads: the event loop has one of its own; gRPC and HTTP servers have theirs. The methods are
// for one thread.
#ifndef TESSERA_SERVICES_SDC_CONTROL_SDC_PROCESS_H_
#define TESSERA_SERVICES_SDC_CONTROL_SDC_PROCESS_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/common/grpc_server.h"
#include "services/sdc/nbd/options.h"

namespace tessera::sdc {

struct SdcOptions {
  std::string state_folder;
  std::string name;         // used at the first start only
  std::string mdm_address;  // "host:port"
  std::string join_token;   // first contact only
  std::string control_listen = "127.0.0.1:8003";
  std::string management_listen = "127.0.0.1:8004";
  std::string metrics_listen = "127.0.0.1:8006";
  std::string nbd_listen = "127.0.0.1:8005";  // empty: no TCP
  std::string nbd_socket;  // empty: <state folder>/nbd.sock; "none": no unix socket
  // Host that others reach this one by, where the listening addresses don't say; empty: those.
  std::string advertised_host;
  std::string host_id;  // empty: this host's
  SecurityOptions security;
  NbdServerOptions nbd;
  std::chrono::milliseconds replica_timeout{2'000};
  std::chrono::milliseconds full_wait{0};
  uint64_t unflushed_bytes = 128u << 20;
  bool ignore_limits = false;  // for tests: EngineOptions
  // Where the file for the next life is; empty: none, and a restart needs the MDM.
  std::string resume_folder = "/dev/shm";
  // Where reads are cached; empty: nowhere.
  std::string cache_folder;
  uint64_t cache_bytes = 10ull << 30;
  std::chrono::milliseconds flush_timeout{10'000};
  std::chrono::milliseconds io_timeout{0};
  // How long an orderly stop waits for IO in flight.
  std::chrono::milliseconds stop_timeout{10'000};
  // Called from the loop thread when this process must end: another life of it has registered.
  std::function<void()> superseded = [] {};
};

// INVALID_ARGUMENT naming the flag, or errors naming a file: what Start would say of them.
[[nodiscard]] absl::Status CheckOptions(const SdcOptions& options);

class SdcProcess {
 public:
  // Listens, writes <state folder>/endpoints, and begins to register. Errors name the flag or
  // address.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<SdcProcess>> Start(SdcOptions options);
  virtual ~SdcProcess() = default;
  // Empty: it has registered, or goes on from its last life. Any thread.
  [[nodiscard]] virtual std::string NotReadyReason() const = 0;
  // Finishes IO in flight, flushes, says goodbye, ends all threads. Once.
  virtual void Stop() = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_SDC_PROCESS_H_
