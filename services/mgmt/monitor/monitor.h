// Monitoring of the cluster, whole: polls all parts, keeps history, and is what the console reads.
//
// Promises: a part that does not answer delays nothing; with the MDM away the parts that are known
// are polled on, also by a process that has just started; what is kept stays under a stated size.
//
// Threads: one of its own (the poller's), on which listeners run. Everything else: any thread.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_MONITOR_H_
#define TESSERA_SERVICES_MGMT_MONITOR_MONITOR_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/common/rpc.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/monitor/cluster_snapshot.h"
#include "tessera/v1/alert.pb.h"
#include "tessera/v1/console.pb.h"

namespace grpc {
class ChannelCredentials;
class Service;
}  // namespace grpc

namespace tessera::mgmt {

struct MonitorOptions {
  std::string mdm;                                    // "host:port"
  std::chrono::milliseconds poll_interval{10'000};    // 100 or more
  uint64_t database_limit_bytes = uint64_t{2} << 30;  // of mgmt.db as a whole
  std::string name = "mgmt";                          // this process, among the parts
  std::string address;                                // its own gRPC listener, for people
  std::vector<v1::Setting> settings;                  // what GetSettings answers
};

// What the rest of MGMT gives. All are called on the poller's thread or on handlers' threads, and
// may be called until Stop returns. Those that are empty say nothing.
struct MonitorHooks {
  std::function<std::vector<v1::Alert>()> active_alerts;
  // Is the session or token ("session.7") still good?
  std::function<bool(const std::string& credential)> credential_good;
  // When certificates that MGMT knows of end (ms since the epoch), by what they are for.
  std::function<std::map<std::string, uint64_t>()> certificate_expiry_ms;
};

class Monitor {
 public:
  using Listener = std::function<void(const ClusterSnapshot&)>;

  // All pointers must outlive it. Errors of the database.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Monitor>> Create(
      MonitorOptions options, MonitorHooks hooks, MgmtDb* db, const Clock* clock,
      MetricRegistry* metrics, std::shared_ptr<grpc::ChannelCredentials> credentials);
  ~Monitor();

  // Called after each round on the poller's thread. Before Start.
  void AddListener(Listener listener);
  // Tells watchers of a change of an alert. Any thread.
  void OnAlert(const v1::Alert& alert);

  // ConsoleService and MonitoringService, served by `rpc`, which names both
  // ("tessera.v1.ConsoleService", "tessera.v1.MonitoringService"). Before Start, once. They live as
  // long as this.
  [[nodiscard]] std::vector<grpc::Service*> MakeServices(RpcDispatcher* rpc);

  void Start();
  // Ends streams and polls, writes what is still in memory. Idempotent.
  void Stop();

 private:
  struct Parts;
  explicit Monitor(std::unique_ptr<Parts> parts);
  const std::unique_ptr<Parts> parts_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_MONITOR_H_
