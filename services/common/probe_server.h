// A port for probes: grpc.health.v1 in plain text and nothing else, for who has no certificate,
// such as Kubernetes' gRPC probes. It is open from early in a part's start to its end.
//
//   service          SERVING while
//   "liveness"       the process answers
//   "startup"        the part has started: its other ports are open
//   "readiness", ""  it can do its work (and is not stopping)
//
// Other names are NOT_FOUND.
//
// Threads: any.
#ifndef TESSERA_SERVICES_COMMON_PROBE_SERVER_H_
#define TESSERA_SERVICES_COMMON_PROBE_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace CLI {
class App;
}

namespace tessera {

class GrpcServer;
class HealthService;

class ProbeServer {
 public:
  ProbeServer();
  ~ProbeServer();
  // --health-listen.
  void AddFlags(CLI::App* app);
  // For who has its flags otherwise.
  void SetListen(const std::string& address) { listen_ = address; }
  // INVALID_ARGUMENT for an address that is none.
  [[nodiscard]] absl::Status Check() const;
  // Opens the port, if there is to be one. UNAVAILABLE when it can't be bound.
  [[nodiscard]] absl::Status Start();
  // "127.0.0.1:8007", with the real port; empty: there is none.
  [[nodiscard]] std::string address() const;
  // The part has started. `not_ready_reason`: empty when it can do its work; must not block, and is
  // asked until Stopping.
  void Started(std::function<std::string()> not_ready_reason);
  // From now on it is not ready.
  void Stopping();

 private:
  enum class Phase { kStarting, kStarted, kStopping };
  [[nodiscard]] bool IsServing(const std::string& service) const;

  std::string listen_;
  mutable absl::Mutex mutex_;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kStarting;
  std::function<std::string()> not_ready_reason_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<HealthService> health_;
  std::unique_ptr<GrpcServer> server_;
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_PROBE_SERVER_H_
