// Parts that answer what a test tells them to: an MDM with the services that MGMT reads, and parts
// with MonitoringService, each on a port of its own.
//
// Threads: any. What is asked is answered on gRPC's threads.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_TESTING_FAKE_CLUSTER_H_
#define TESSERA_SERVICES_MGMT_MONITOR_TESTING_FAKE_CLUSTER_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tessera/v1/health.grpc.pb.h"
#include "tessera/v1/monitoring.grpc.pb.h"
#include "tessera/v1/operation.grpc.pb.h"
#include "tessera/v1/schedule.grpc.pb.h"
#include "tessera/v1/topology.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::mgmt {

// MonitoringService of one part, or of several that say the same.
class FakePart final : public v1::MonitoringService::Service {
 public:
  // Makes an answer; it may keep counts of its own.
  using Answer = std::function<void(v1::GetStatusResponse*)>;
  explicit FakePart(Answer answer) : answer_(std::move(answer)) {}
  ~FakePart() override { Release(); }

  // Calls wait until Release, or until the caller has given up.
  void Hold();
  void Release();
  // Calls that have begun, and those that are over.
  [[nodiscard]] int begun() const;
  [[nodiscard]] int over() const;

  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest* request,
                         v1::GetStatusResponse* response) override;

 private:
  mutable absl::Mutex mutex_;
  const Answer answer_ ABSL_GUARDED_BY(mutex_);
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  int begun_ ABSL_GUARDED_BY(mutex_) = 0;
  int over_ ABSL_GUARDED_BY(mutex_) = 0;
};

// What the MDM knows, and its services.
class FakeMdm {
 public:
  FakeMdm();
  ~FakeMdm();

  struct State {
    v1::Topology topology;
    v1::GetClusterHealthResponse health;
    std::vector<v1::VolumeHealth> volume_health;
    std::vector<v1::Volume> volumes;
    std::vector<v1::Operation> operations;
    std::vector<v1::SnapshotSchedule> schedules;
  };
  // Changes it; the topology's version grows and watchers are told.
  void Change(const std::function<void(State*)>& change);
  [[nodiscard]] std::vector<grpc::Service*> services();
  // Watches end. Before its server is stopped.
  void EndWatches();
  [[nodiscard]] int readings() const;  // of the topology

 private:
  class Topology;
  class Health;
  class Volumes;
  class Operations;
  class Schedules;
  struct Shared {
    mutable absl::Mutex mutex;
    State state ABSL_GUARDED_BY(mutex);
    uint64_t changes ABSL_GUARDED_BY(mutex) = 0;
    bool ending ABSL_GUARDED_BY(mutex) = false;
    int readings ABSL_GUARDED_BY(mutex) = 0;
  };
  Shared shared_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
};

// A server for services, on any free port of the loopback or on the given one. Stopped at the end.
class FakeServer {
 public:
  explicit FakeServer(const std::vector<grpc::Service*>& services, int port = 0);
  ~FakeServer();
  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] int port() const { return port_; }
  // As kill: connections break.
  void Stop();

 private:
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::string address_;
};

// An answer as the kind's parts make it: identity, state, and its usual figures and histograms.
// `count` scales its counters.
void DescribePart(v1::ComponentKind kind, uint64_t component_id, double count,
                  v1::GetStatusResponse* answer);
// Adds a server or client with its management address to the topology, in protection domain 1.
void AddPart(v1::ComponentKind kind, uint64_t component_id, const std::string& address,
             v1::Topology* topology);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_TESTING_FAKE_CLUSTER_H_
