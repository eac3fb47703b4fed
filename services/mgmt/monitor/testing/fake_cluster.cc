#include "services/mgmt/monitor/testing/fake_cluster.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::mgmt {
namespace {

// How often a handler that waits looks whether its caller is still there.
constexpr absl::Duration kLook = absl::Milliseconds(20);

template <typename Items, typename Add>
void Page(const Items& items, uint32_t page_size, const std::string& token, std::string* next,
          Add add) {
  const size_t begin = token.empty() ? 0 : std::stoul(token);
  const size_t end = std::min<size_t>(items.size(), begin + page_size);
  for (size_t i = begin; i < end; ++i) add(items[i]);
  if (end < items.size()) *next = std::to_string(end);
}

}  // namespace

void FakePart::Hold() {
  absl::MutexLock lock(&mutex_);
  held_ = true;
}

void FakePart::Release() {
  absl::MutexLock lock(&mutex_);
  held_ = false;
}

int FakePart::begun() const {
  absl::MutexLock lock(&mutex_);
  return begun_;
}

int FakePart::over() const {
  absl::MutexLock lock(&mutex_);
  return over_;
}

grpc::Status FakePart::GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest*,
                                 v1::GetStatusResponse* response) {
  absl::MutexLock lock(&mutex_);
  ++begun_;
  const auto free = [this] {
    mutex_.AssertHeld();
    return !held_;
  };
  while (!mutex_.AwaitWithTimeout(absl::Condition(&free), kLook) && !context->IsCancelled()) {
  }
  ++over_;
  answer_(response);
  return grpc::Status::OK;
}

class FakeMdm::Topology final : public v1::TopologyService::Service {
 public:
  explicit Topology(Shared* shared) : shared_(shared) {}
  grpc::Status GetTopology(grpc::ServerContext*, const v1::GetTopologyRequest*,
                           v1::GetTopologyResponse* response) override {
    absl::MutexLock lock(&shared_->mutex);
    ++shared_->readings;
    *response->mutable_topology() = shared_->state.topology;
    return grpc::Status::OK;
  }
  grpc::Status WatchTopology(grpc::ServerContext* context, const v1::WatchTopologyRequest*,
                             grpc::ServerWriter<v1::WatchTopologyResponse>* writer) override {
    uint64_t told = UINT64_MAX;
    while (!context->IsCancelled()) {
      v1::WatchTopologyResponse message;
      {
        absl::MutexLock lock(&shared_->mutex);
        const auto news = [&] {
          shared_->mutex.AssertHeld();
          return shared_->ending || shared_->changes != told;
        };
        if (!shared_->mutex.AwaitWithTimeout(absl::Condition(&news), kLook)) continue;
        if (shared_->ending) break;
        told = shared_->changes;
        *message.mutable_topology() = shared_->state.topology;
      }
      if (!writer->Write(message)) break;
    }
    return {grpc::StatusCode::UNAVAILABLE, "ending"};
  }

 private:
  Shared* const shared_;
};

class FakeMdm::Health final : public v1::HealthService::Service {
 public:
  explicit Health(Shared* shared) : shared_(shared) {}
  grpc::Status GetClusterHealth(grpc::ServerContext*, const v1::GetClusterHealthRequest*,
                                v1::GetClusterHealthResponse* response) override {
    absl::MutexLock lock(&shared_->mutex);
    *response = shared_->state.health;
    return grpc::Status::OK;
  }
  grpc::Status ListVolumeHealth(grpc::ServerContext*, const v1::ListVolumeHealthRequest* request,
                                v1::ListVolumeHealthResponse* response) override {
    absl::MutexLock lock(&shared_->mutex);
    Page(shared_->state.volume_health, request->page_size(), request->page_token(),
         response->mutable_next_page_token(),
         [&](const v1::VolumeHealth& volume) { *response->add_volumes() = volume; });
    return grpc::Status::OK;
  }

 private:
  Shared* const shared_;
};

class FakeMdm::Volumes final : public v1::VolumeService::Service {
 public:
  explicit Volumes(Shared* shared) : shared_(shared) {}
  grpc::Status ListVolumes(grpc::ServerContext*, const v1::ListVolumesRequest* request,
                           v1::ListVolumesResponse* response) override {
    absl::MutexLock lock(&shared_->mutex);
    Page(shared_->state.volumes, request->page_size(), request->page_token(),
         response->mutable_next_page_token(),
         [&](const v1::Volume& volume) { *response->add_volumes() = volume; });
    return grpc::Status::OK;
  }

 private:
  Shared* const shared_;
};

class FakeMdm::Operations final : public v1::OperationService::Service {
 public:
  explicit Operations(Shared* shared) : shared_(shared) {}
  grpc::Status ListOperations(grpc::ServerContext*, const v1::ListOperationsRequest* request,
                              v1::ListOperationsResponse* response) override {
    absl::MutexLock lock(&shared_->mutex);
    Page(shared_->state.operations, request->page_size(), request->page_token(),
         response->mutable_next_page_token(),
         [&](const v1::Operation& operation) { *response->add_operations() = operation; });
    return grpc::Status::OK;
  }
  grpc::Status WatchOperations(grpc::ServerContext* context, const v1::WatchOperationsRequest*,
                               grpc::ServerWriter<v1::WatchOperationsResponse>* writer) override {
    uint64_t told = UINT64_MAX;
    while (!context->IsCancelled()) {
      v1::WatchOperationsResponse message;
      {
        absl::MutexLock lock(&shared_->mutex);
        const auto news = [&] {
          shared_->mutex.AssertHeld();
          return shared_->ending || shared_->changes != told;
        };
        if (!shared_->mutex.AwaitWithTimeout(absl::Condition(&news), kLook)) continue;
        if (shared_->ending) break;
        told = shared_->changes;
        for (const auto& operation : shared_->state.operations) {
          *message.add_operations() = operation;
        }
      }
      if (!writer->Write(message)) break;
    }
    return {grpc::StatusCode::UNAVAILABLE, "ending"};
  }

 private:
  Shared* const shared_;
};

class FakeMdm::Schedules final : public v1::SnapshotScheduleService::Service {
 public:
  explicit Schedules(Shared* shared) : shared_(shared) {}
  grpc::Status ListSnapshotSchedules(grpc::ServerContext*,
                                     const v1::ListSnapshotSchedulesRequest* request,
                                     v1::ListSnapshotSchedulesResponse* response) override {
    absl::MutexLock lock(&shared_->mutex);
    Page(shared_->state.schedules, request->page_size(), request->page_token(),
         response->mutable_next_page_token(),
         [&](const v1::SnapshotSchedule& schedule) { *response->add_schedules() = schedule; });
    return grpc::Status::OK;
  }

 private:
  Shared* const shared_;
};

FakeMdm::FakeMdm() {
  services_.push_back(std::make_unique<Topology>(&shared_));
  services_.push_back(std::make_unique<Health>(&shared_));
  services_.push_back(std::make_unique<Volumes>(&shared_));
  services_.push_back(std::make_unique<Operations>(&shared_));
  services_.push_back(std::make_unique<Schedules>(&shared_));
}

FakeMdm::~FakeMdm() { EndWatches(); }

void FakeMdm::Change(const std::function<void(State*)>& change) {
  absl::MutexLock lock(&shared_.mutex);
  change(&shared_.state);
  ++shared_.changes;
  shared_.state.topology.set_version(shared_.changes);
}

std::vector<grpc::Service*> FakeMdm::services() {
  std::vector<grpc::Service*> services;
  for (const auto& service : services_) services.push_back(service.get());
  return services;
}

void FakeMdm::EndWatches() {
  absl::MutexLock lock(&shared_.mutex);
  shared_.ending = true;
}

int FakeMdm::readings() const {
  absl::MutexLock lock(&shared_.mutex);
  return shared_.readings;
}

FakeServer::FakeServer(const std::vector<grpc::Service*>& services, int port) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                           &port_);
  for (grpc::Service* service : services) builder.RegisterService(service);
  server_ = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port_);
}

FakeServer::~FakeServer() { Stop(); }

void FakeServer::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

void DescribePart(v1::ComponentKind kind, uint64_t component_id, double count,
                  v1::GetStatusResponse* answer) {
  answer->set_kind(kind);
  answer->set_component_id(component_id);
  answer->set_state(v1::COMPONENT_STATE_ONLINE);
  answer->set_software_version("0.1.0");
  answer->set_uptime_ms(60'000);
  answer->set_incarnation(1);
  const auto figure = [&](const std::string& name, double value) {
    v1::Figure* added = answer->add_figures();
    added->set_name(name);
    added->set_value(value);
  };
  const auto histogram = [&](const std::string& name) {
    v1::Histogram* added = answer->add_histograms();
    added->set_name(name);
    for (const double bound : {1e-4, 1e-3, 1e-2, 1e-1}) added->add_bounds_seconds(bound);
    for (const double share : {0.5, 0.9, 0.99, 1.0, 1.0}) {
      added->add_cumulative_counts(static_cast<uint64_t>(count * share));
    }
  };
  figure("process_cpu_seconds_total", count / 1'000);
  figure("process_resident_memory_bytes", 50e6);
  if (kind == v1::COMPONENT_KIND_SDC) {
    for (const char* operation : {"read", "write", "flush", "trim"}) {
      const std::string labels = absl::StrCat("{op=\"", operation, "\"}");
      figure("tessera_sdc_io_requests_total" + labels, count);
      figure("tessera_sdc_io_bytes_total" + labels, count * 4'096);
      figure("tessera_sdc_io_errors_total" + labels, 0);
      histogram("tessera_sdc_io_duration_seconds" + labels);
    }
    figure("tessera_sdc_io_in_flight", 3);
  } else if (kind == v1::COMPONENT_KIND_SDS) {
    figure("tessera_sds_io_requests_total{op=\"read\"}", count);
    figure("tessera_sds_io_requests_total{op=\"write\"}", count);
    figure("tessera_sds_read_bytes_total", count * 4'096);
    figure("tessera_sds_write_bytes_total", count * 4'096);
    for (const char* device : {"a", "b"}) {
      const std::string labels = absl::StrCat("{device=\"", device, "\"}");
      figure("tessera_device_capacity_bytes" + labels, 1e12);
      figure("tessera_device_used_bytes" + labels, 4e11);
      figure("tessera_device_failed" + labels, 0);
    }
    histogram("tessera_sds_apply_duration_seconds");
    histogram("tessera_sds_queue_duration_seconds");
  } else {
    figure("tessera_mdm_commits_total", count);
    figure("tessera_mdm_snapshots", 5);
    histogram("tessera_mdm_commit_duration_seconds");
  }
}

void AddPart(v1::ComponentKind kind, uint64_t component_id, const std::string& address,
             v1::Topology* topology) {
  if (kind == v1::COMPONENT_KIND_SDC) {
    v1::Sdc* sdc = topology->add_sdcs();
    sdc->set_sdc_id(component_id);
    sdc->set_name(absl::StrCat("sdc", component_id));
    sdc->set_state(v1::COMPONENT_STATE_ONLINE);
    sdc->mutable_endpoints()->set_management(address);
    return;
  }
  if (topology->protection_domains().empty()) {
    topology->add_protection_domains()->mutable_protection_domain()->set_protection_domain_id(1);
  }
  v1::Sds* sds = topology->mutable_protection_domains(0)->add_sdss();
  sds->set_sds_id(component_id);
  sds->set_name(absl::StrCat("sds", component_id));
  sds->set_state(v1::COMPONENT_STATE_ONLINE);
  sds->mutable_endpoints()->set_management(address);
  for (const uint64_t device : {1, 2}) {
    v1::Device* added = sds->add_devices();
    added->set_device_id(component_id * 10 + device);
    added->set_sds_id(component_id);
    added->set_state(v1::COMPONENT_STATE_ONLINE);
    added->mutable_description()->set_capacity_bytes(1'000'000'000'000);
    added->mutable_description()->set_used_bytes(400'000'000'000);
  }
}

}  // namespace tessera::mgmt
