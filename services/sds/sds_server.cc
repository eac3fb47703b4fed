#include "services/sds/sds_server.h"

#include <unistd.h>
#include <algorithm>

#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/common/auth.h"
#include "services/common/certificate_gauge.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"
#include "services/common/tls.h"

namespace tessera::sds {
namespace {

void ExportWorkerFigures(MetricRegistry* registry, const IoEngine& engine) {
  constexpr v1::LatencyStage kStages[] = {
      v1::LATENCY_STAGE_SERVER_QUEUE, v1::LATENCY_STAGE_TOKEN_CHECK, v1::LATENCY_STAGE_LIMIT_HELD,
      v1::LATENCY_STAGE_JOURNAL,      v1::LATENCY_STAGE_MEMORY_READ, v1::LATENCY_STAGE_DISK_READ,
      v1::LATENCY_STAGE_FLUSH_WAIT,   v1::LATENCY_STAGE_FLUSH_SYNC,  v1::LATENCY_STAGE_REPLY_QUEUE};
  std::vector<const StageHistograms*> of_workers;
  for (const auto& worker : engine.workers()) of_workers.push_back(worker->stages());
  ExportStages(registry, "tessera_sds_stage_duration_seconds",
               "Where the time of operations went, from a message's arrival to its reply.", kStages,
               of_workers);
  std::vector<const IoTally*> tallies;
  for (const auto& worker : engine.workers()) tallies.push_back(worker->tally());
  ExportIoDurations(registry, tallies);
}

// The longest path that fits a socket's address.
constexpr size_t kSocketPathLimit = 107;
// A learner waits this long for its source to repair a chunk before it is told to come again.
constexpr absl::Duration kSettleWait = absl::Seconds(2);

std::string Advertised(const std::string& address, const std::string& host) {
  if (host.empty()) return address;
  return absl::StrCat(host, address.substr(address.rfind(':')));
}

}  // namespace

SdsServer::SdsServer(SdsOptions options, const Clock* clock)
    : options_(std::move(options)),
      clock_(clock),
      mdm_clock_(clock),
      budget_(options_.budget_mib << 20) {}

absl::StatusOr<std::unique_ptr<SdsServer>> SdsServer::Start(const SdsOptions& options,
                                                            const Clock* clock, StoreOpener opener,
                                                            std::function<void()> on_superseded) {
  std::unique_ptr<SdsServer> server(new SdsServer(options, clock));
  TESSERA_RETURN_IF_ERROR(server->OpenState(std::move(opener)));
  TESSERA_RETURN_IF_ERROR(server->StartEngine());
  TESSERA_RETURN_IF_ERROR(server->StartListeners());
  TESSERA_RETURN_IF_ERROR(server->StartLink(std::move(on_superseded)));
  return server;
}

absl::Status SdsServer::OpenState(StoreOpener opener) {
  TESSERA_RETURN_IF_ERROR(PrepareStateFolder(options_.state_folder));
  TESSERA_ASSIGN_OR_RETURN(state_, LocalState::Open(options_.state_folder + "/sds_local.db"));
  sds_id_ = state_->node().sds_id;
  health_ = std::make_unique<HealthBoard>(state_.get(), clock_);
  TESSERA_ASSIGN_OR_RETURN(auto generations, state_->Generations());
  volumes_ = std::make_unique<VolumeTable>(
      std::move(generations),
      [this](std::span<const VolumeGeneration> raised) { return state_->SaveGenerations(raised); });
  placements_ = std::make_unique<PlacementTable>([this](std::span<const PlacementRecord> records) {
    return state_->SavePlacementGroups(records);
  });
  TESSERA_ASSIGN_OR_RETURN(const std::vector<UnservedRange> unserved, state_->Unserved());
  unserved_ = std::make_unique<UnservedWrites>(
      unserved, [this](const UnservedRange& range) { return state_->SaveUnserved(range); });
  accounting_ = std::make_unique<TokenAccounting>(state_->node().incarnation, clock_->BootMillis());
  TESSERA_ASSIGN_OR_RETURN(const std::vector<uint64_t> deleted, state_->DeletedVtrees());
  for (const uint64_t vtree_id : deleted) deleted_vtrees_.Add(vtree_id);
  TESSERA_ASSIGN_OR_RETURN(const std::vector<DeviceOptions> devices, options_.Devices());
  for (const DeviceOptions& device : devices) {
    TESSERA_ASSIGN_OR_RETURN(auto found, Device::Find(device, opener, state_.get()));
    if (found->failed()) {
      health_->Raise("device_failed", found->path(), v1::EVENT_SEVERITY_ERROR, found->failure());
    }
    devices_.push_back(std::move(found));
  }
  return absl::OkStatus();
}

absl::Status SdsServer::StartEngine() {
  context_.clock = clock_;
  context_.mdm_clock = &mdm_clock_;
  context_.keys = &keys_;
  context_.volumes = volumes_.get();
  context_.placements = placements_.get();
  context_.windows = &windows_;
  context_.limits = &limits_;
  context_.metrics = &metrics_;
  context_.accounting = accounting_.get();
  context_.deleted_vtrees = &deleted_vtrees_;
  context_.unserved = unserved_.get();
  context_.pacer = &pacer_;
  context_.sds_id = &sds_id_;
  context_.incarnation = state_->node().incarnation;
  context_.on_device_failed = [this](Device* device, const absl::Status& why) {
    health_->Raise("device_failed", device->path(), v1::EVENT_SEVERITY_ERROR,
                   absl::StrCat(device->path(), ": ", std::string(why.message())));
  };
  context_.on_learner = [this](uint64_t group, uint64_t epoch, Device* device) {
    Learner* learner = learner_ready_.load(std::memory_order_acquire);
    if (learner == nullptr) return;
    for (const auto& worker : engine_->workers()) {
      if (worker->device() == device) learner->Learn(group, epoch, worker.get());
    }
  };
  context_.on_retired = [this](uint64_t group, Device* device) {
    for (const auto& worker : engine_->workers()) {
      if (worker->device() == device) janitor_->OnRetired(group, worker.get());
    }
  };
  context_.on_bad_blocks = [this](const BadRange& range) {
    BlockRepairer* repairer = repairer_ready_.load(std::memory_order_acquire);
    if (repairer != nullptr) repairer->Found(range);
  };
  context_.settle_bad_blocks = [this](const BadRange& range) {
    BlockRepairer* repairer = repairer_ready_.load(std::memory_order_acquire);
    return repairer != nullptr && repairer->Settle(range, kSettleWait);
  };
  std::vector<Device*> devices;
  for (const auto& device : devices_) devices.push_back(device.get());
  engine_ = std::make_unique<IoEngine>(&context_, devices, options_.reader_threads);
  janitor_ = std::make_unique<Janitor>(engine_.get(), state_.get(), &deleted_vtrees_);
  records_ = std::make_unique<RecordKeeper>(state_.get());
  registry_.AddCollector([this] { CollectGauges(); });
  AddCertificateGauge(&registry_, "node", options_.security.certificate_file);
  ExportWorkerFigures(&registry_, *engine_);
  engine_->Start();
  return absl::OkStatus();
}

absl::Status SdsServer::StartListeners() {
  std::shared_ptr<const Authenticator> authenticator = std::make_shared<MdmAuthenticator>(
      &keys_, &sds_id_, [this] { return state_->node().node_secret; });
  if (options_.security.insecure) {
    authenticator = std::make_shared<InsecureAuthenticator>(authenticator);
  }
  RpcDispatcherOptions rpc_options;
  rpc_options.services = {"tessera.v1.ChunkService", "tessera.v1.ReplicaService",
                          "tessera.v1.SdsControlService", "tessera.v1.MonitoringService"};
  TESSERA_ASSIGN_OR_RETURN(rpc_, RpcDispatcher::Create(rpc_options, authenticator, &registry_));
  chunk_service_ = std::make_unique<ChunkServiceImpl>(engine_.get(), &budget_, &metrics_, clock_,
                                                      rpc_.get(), [this] { return Hello(); });
  replica_service_ = std::make_unique<ReplicaServiceImpl>(engine_.get(), &context_, rpc_.get());
  copy_ = std::make_unique<ClusterCopy>(options_.name, state_.get(), &context_, engine_.get());
  control_service_ = std::make_unique<SdsControlServiceImpl>(
      engine_.get(), &context_, janitor_.get(), copy_.get(), rpc_.get());
  monitoring_service_ = std::make_unique<MonitoringServiceImpl>(
      options_.name, state_.get(), health_.get(), &mdm_clock_, clock_, &registry_, rpc_.get());

  const std::string socket = options_.state_folder + "/data.sock";
  GrpcServerOptions data{.listen = {options_.data_listen}, .security = options_.security};
  data.data_plane = true;
  data.queues = static_cast<int>(engine_->workers().size());
  const bool has_socket = socket.size() <= kSocketPathLimit;
  if (has_socket) data.listen.push_back("unix:" + socket);
  TESSERA_ASSIGN_OR_RETURN(data_server_,
                           GrpcServer::Start(data, {chunk_service_.get(), replica_service_.get()}));
  std::vector<grpc::ServerCompletionQueue*> queues;
  for (size_t i = 0; i < data_server_->queues().size(); ++i) {
    queues.push_back(data_server_->queues()[i].get());
    engine_->workers()[i]->EnterQueue(queues.back());
  }
  chunk_service_->AcceptStreams(std::move(queues));
  TESSERA_ASSIGN_OR_RETURN(control_server_, GrpcServer::Start({.listen = {options_.control_listen},
                                                               .security = options_.security},
                                                              {control_service_.get()}));
  TESSERA_ASSIGN_OR_RETURN(
      management_server_,
      GrpcServer::Start({.listen = {options_.management_listen}, .security = options_.security},
                        {monitoring_service_.get()}));
  TESSERA_ASSIGN_OR_RETURN(
      http_server_,
      HttpServer::Start({.listen = options_.metrics_listen},
                        MetricsHandler(&registry_, [this] { return NotReadyReason(); })));
  endpoints_.set_host_id(options_.host_id.empty() ? HostId() : options_.host_id);
  endpoints_.set_control(Advertised(control_server_->addresses()[0], options_.advertise_host));
  endpoints_.set_management(
      Advertised(management_server_->addresses()[0], options_.advertise_host));
  endpoints_.set_metrics(Advertised(http_server_->address(), options_.advertise_host));
  endpoints_.set_data(Advertised(data_server_->addresses()[0], options_.advertise_host));
  if (has_socket) endpoints_.set_data_unix("unix:" + socket);
  copy_->SetEndpoints(endpoints_);
  return WriteEndpointsFile(options_.state_folder,
                            {{"control", control_server_->addresses()[0]},
                             {"management", management_server_->addresses()[0]},
                             {"metrics", http_server_->address()},
                             {"data", data_server_->addresses()[0]},
                             {"data_unix", endpoints_.data_unix()}});
}

absl::Status SdsServer::StartLink(std::function<void()> on_superseded) {
  TESSERA_ASSIGN_OR_RETURN(const std::string fault_set, options_.FaultSet());
  MdmLinkOptions link_options{.name = options_.name,
                              .protection_domain = options_.protection_domain,
                              .fault_set = fault_set,
                              .endpoints = endpoints_};
  if (!options_.join_token_file.empty()) {
    TESSERA_ASSIGN_OR_RETURN(link_options.join_token, ReadFile(options_.join_token_file));
    absl::StripAsciiWhitespace(&link_options.join_token);
  }
  TESSERA_ASSIGN_OR_RETURN(const auto credentials, options_.security.ForClient({kRoleMdm}));
  TESSERA_ASSIGN_OR_RETURN(to_servers_, options_.security.ForClient({kRoleSds}));
  MdmLinkParts parts{.clock = clock_,
                     .state = state_.get(),
                     .sds_id = &sds_id_,
                     .keys = &keys_,
                     .mdm_clock = &mdm_clock_,
                     .placements = placements_.get(),
                     .engine = engine_.get(),
                     .janitor = janitor_.get(),
                     .records = records_.get(),
                     .health = health_.get(),
                     .metrics = &metrics_,
                     .accounting = accounting_.get(),
                     .limits = &limits_};
  for (const auto& device : devices_) parts.devices.push_back(device.get());
  link_ =
      std::make_unique<MdmLink>(std::move(link_options), std::move(parts),
                                NewChannel(options_.mdm, credentials), std::move(on_superseded));
  LearnerOptions learner_options;
  learner_options.groups_at_once = options_.learn_groups;
  learner_options.bytes_per_second = options_.learn_mib_per_second << 20;
  learner_ = std::make_unique<Learner>(
      learner_options, engine_.get(), link_.get(),
      [this](const v1::SdsAddress& source) { return ConnectToSource(source); }, &context_);
  learner_ready_.store(learner_.get(), std::memory_order_release);
  TESSERA_RETURN_IF_ERROR(RestoreMap());
  StartIntegrity();
  link_->Start();
  return absl::OkStatus();
}

void SdsServer::StartIntegrity() {
  peers_ = std::make_unique<ReplicaPeers>(
      link_.get(), [this](const v1::SdsAddress& source) { return ConnectToSource(source); },
      clock_);
  repairer_ = std::make_unique<BlockRepairer>(engine_.get(), peers_.get(), &context_, state_.get(),
                                              health_.get());
  scrubber_ = std::make_unique<Scrubber>(engine_.get(), repairer_.get(), peers_.get(), &context_,
                                         state_.get());
  repairer_->Start();
  scrubber_->Start();
  repairer_ready_.store(repairer_.get(), std::memory_order_release);
  link_->SetIntegrity(this);
}

void SdsServer::FillHeartbeat(v1::HeartbeatRequest* request) {
  repairer_->FillHeartbeat(request);
  for (v1::ScrubStatus& status : scrubber_->Status()) *request->add_scrubs() = std::move(status);
}

void SdsServer::OnHeartbeatAnswered(const v1::HeartbeatRequest& request,
                                    const v1::HeartbeatResponse& response) {
  repairer_->Confirm(request.corrupt_block_report());
  scrubber_->TakeOrders(response.scrub_orders());
}

absl::Status SdsServer::RestoreMap() {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<v1::PoolLayout> pools, state_->Pools());
  for (const v1::PoolLayout& pool : pools) placements_->SetPool(pool);
  if (sds_id_ == 0) return absl::OkStatus();
  placements_->SetSdsId(sds_id_);
  TESSERA_RETURN_IF_ERROR(RestoreMdmContact());
  TESSERA_ASSIGN_OR_RETURN(const std::vector<PlacementRecord> records, state_->PlacementGroups());
  engine_->RestoreEntries(records);
  return absl::OkStatus();
}

// With the MDM away a restarted server goes on as it stopped: it has its keys, its map, and MDM
// time. After a reboot of the host nobody can say how MDM time went on, so that no token is good
// before the MDM answers; and what was not flushed may be lost, which the MDM has to hear first.
absl::Status SdsServer::RestoreMdmContact() {
  TESSERA_ASSIGN_OR_RETURN(const MdmContact contact, state_->LastMdmContact());
  if (contact.keys.empty()) return absl::OkStatus();
  const std::string boot_id = BootId();
  if (boot_id.empty() || contact.boot_id != boot_id) return absl::OkStatus();
  keys_.Replace({contact.keys.begin(), contact.keys.end()});
  mdm_clock_.Restore(contact.sample, contact.heartbeat_interval_ms);
  LogInfo("keys and MDM time of the last life are in use until the MDM answers",
          {{"keys", contact.keys.size()}, {"age_ms", mdm_clock_.AgeMillis()}});
  return absl::OkStatus();
}

void SdsServer::CollectGauges() {
  metrics_.in_flight_bytes->Set(static_cast<double>(budget_.used_bytes()));
  registry_
      .Gauge("tessera_sds_recovery_bytes_per_second",
             "What the control loop allows for copying beside clients now.")
      .Set(static_cast<double>(pacer_.bytes_per_second()));
  registry_
      .Gauge("tessera_sds_disk_reads_queued",
             "Reads that wait for one of the threads that wait for disks.")
      .Set(static_cast<double>(engine_->disk_reads_queued()));
  registry_.Gauge("tessera_sds_mdm_reachable", "Heartbeats are answered by the MDM.")
      .Set(mdm_clock_.reachable() ? 1 : 0);
  CollectClock();
  for (const auto& worker : engine_->workers()) CollectDevice(*worker);
}

void SdsServer::CollectClock() {
  const token::MdmTime now = mdm_clock_.Now();
  if (now.latest_ms == 0) return;  // never heard of the MDM
  const double middle =
      (static_cast<double>(now.earliest_ms) + static_cast<double>(now.latest_ms)) / 2;
  registry_.Gauge("tessera_clock_offset_seconds", "Wall clock less MDM time.")
      .Set((static_cast<double>(clock_->WallMillis()) - middle) * 1e-3);
  registry_
      .Gauge("tessera_clock_error_seconds",
             "MDM time, as it is known here, is wrong by at most this.")
      .Set(static_cast<double>(now.latest_ms - now.earliest_ms) * 0.5e-3);
}

void SdsServer::CollectDevice(const DeviceWorker& worker) {
  const Device* device = worker.device();
  const MetricRegistry::Labels labels{{"device", device->uuid()}};
  const v1::DeviceDescription description = device->Describe();
  const auto set = [&](const char* name, const char* help, double value) {
    registry_.Gauge(name, help, labels).Set(value);
  };
  set("tessera_device_capacity_bytes", "Bytes that the device's store may use.",
      static_cast<double>(description.capacity_bytes()));
  set("tessera_device_used_bytes", "Bytes that the device's store uses.",
      static_cast<double>(description.used_bytes()));
  if (chunk::Store* store = device->store(); store != nullptr) {
    const chunk::StoreStats stats = store->stats();
    set("tessera_device_data_bytes",
        "Bytes of blocks with a content; one that snapshots share counts once.",
        static_cast<double>(stats.data_bytes));
    set("tessera_device_journal_bytes", "Size of the store's journal.",
        static_cast<double>(stats.journal_bytes));
    set("tessera_device_journal_used_bytes",
        "Bytes of the journal that no checkpoint has made superfluous yet.",
        static_cast<double>(stats.journal_used_bytes));
  }
  set("tessera_device_failed", "1 when the device failed.", device->failed() ? 1 : 0);
  set("tessera_device_queue_depth", "Tasks waiting for the device's worker.",
      static_cast<double>(worker.queued()));
  prometheus::Counter& cpu = registry_.Counter(
      "tessera_device_thread_cpu_seconds_total",
      "CPU time of the thread that serves the device and its share of clients.", labels);
  if (const double used = worker.cpu_seconds(); used > cpu.Value())
    cpu.Increment(used - cpu.Value());
}

v1::SdsHello SdsServer::Hello() const {
  v1::SdsHello hello;
  hello.set_sds_id(sds_id_);
  hello.set_incarnation(context_.incarnation);
  hello.set_window_bytes(options_.window_mib << 20);
  hello.set_mdm_time_ms(mdm_clock_.Now().earliest_ms);
  return hello;
}

std::shared_ptr<v1::ReplicaService::StubInterface> SdsServer::ConnectToSource(
    const v1::SdsAddress& source) {
  const bool same_host = source.endpoints().host_id() == endpoints_.host_id() &&
                         !source.endpoints().data_unix().empty();
  const std::string& address =
      same_host ? source.endpoints().data_unix() : source.endpoints().data();
  absl::MutexLock lock(&sources_mutex_);
  auto& stub = sources_[address];
  if (stub == nullptr) {
    stub = v1::ReplicaService::NewStub(NewChannel(address, to_servers_));
  }
  return stub;
}

std::string SdsServer::NotReadyReason() const {
  // Set after the link.
  if (learner_ready_.load(std::memory_order_acquire) == nullptr || !link_->registered()) {
    return "not registered";
  }
  if (!link_->has_map()) return "has not heard the map yet";
  const bool works = std::any_of(devices_.begin(), devices_.end(),
                                 [](const auto& device) { return !device->failed(); });
  if (!works) return absl::StrCat("no device works: ", devices_.front()->failure());
  const size_t behind = placements_->BehindCount();
  if (behind > 0) return absl::StrCat(behind, " placement groups are behind and catch up");
  return "";
}

void SdsServer::Stop() {
  if (stopped_) return;
  stopped_ = true;
  learner_ready_ = nullptr;
  if (learner_ != nullptr) learner_->Stop();
  if (peers_ != nullptr) peers_->Stop();
  if (scrubber_ != nullptr) scrubber_->Stop();
  if (repairer_ != nullptr) repairer_->Stop();
  if (engine_ != nullptr) engine_->EndHolding();
  if (chunk_service_ != nullptr) chunk_service_->CloseStreams();
  if (link_ != nullptr) link_->Stop();
  if (janitor_ != nullptr) janitor_->Stop();
  http_server_ = nullptr;
  for (GrpcServer* server : {data_server_.get(), control_server_.get(), management_server_.get()}) {
    if (server != nullptr) server->Shutdown(1'000);
  }
  if (engine_ != nullptr) {
    for (const auto& worker : engine_->workers()) worker->LeaveQueue();
  }
  if (rpc_ != nullptr) rpc_->Shutdown();
  if (engine_ != nullptr) engine_->Stop();
  for (const auto& device : devices_) {
    if (const absl::Status closed = device->Close(); !closed.ok()) {
      LogError("a store did not close cleanly", {{"path", device->path()}, {"error", closed}});
    }
  }
  if (!options_.state_folder.empty()) unlink((options_.state_folder + "/data.sock").c_str());
}

}  // namespace tessera::sds
