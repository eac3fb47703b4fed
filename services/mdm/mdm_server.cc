#include "services/mdm/mdm_server.h"

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/certificate_gauge.h"
#include "services/common/http_server.h"
#include "services/common/node.h"
#include "services/common/rpc.h"
#include "services/common/status_macros.h"
#include "services/common/tls.h"
#include "services/mdm/background_loop.h"
#include "services/mdm/budget_keeper.h"
#include "services/mdm/cluster_record_table.h"
#include "services/mdm/discovery_service.h"
#include "services/mdm/health_service.h"
#include "services/mdm/latency_service.h"
#include "services/mdm/layer_reaper.h"
#include "services/mdm/monitoring_service.h"
#include "services/mdm/operation_service.h"
#include "services/mdm/placement_service.h"
#include "services/mdm/repair_service.h"
#include "services/mdm/schedule_runner.h"
#include "services/mdm/schedule_service.h"
#include "services/mdm/scrub_service.h"
#include "services/mdm/state_folder.h"
#include "services/mdm/token_service.h"
#include "services/mdm/topology_service.h"
#include "services/mdm/upkeep.h"
#include "services/mdm/usage_service.h"
#include "services/mdm/volume_expiry.h"
#include "services/mdm/volume_service.h"
#include "services/mdm/vtree_reaper.h"

namespace tessera::mdm {
namespace {

// Calls that wait hold a thread each, so who waits for whom must not share threads: a volume call
// waits for a client, which asks the token service, which waits for servers, whose heartbeats must
// get through.
constexpr size_t kVolumeThreads = 16;
constexpr size_t kTokenThreads = 16;
constexpr size_t kUsageThreads = 4;
constexpr size_t kLatencyThreads = 4;
constexpr size_t kPromptThreads = 24;  // event waits and pool creation among them
// Between two measurements of what volumes with a budget take.
constexpr int kBudgetTicks = 60;

}  // namespace

// Declared in the order in which they need each other; destroyed the other way round.
struct MdmServer::Parts {
  Parts(const MdmOptions& options_in, StateFolder state_in,
        std::unique_ptr<MetricRegistry> metrics_in,
        std::shared_ptr<grpc::ChannelCredentials> credentials)
      : options(options_in),
        metrics(std::move(metrics_in)),
        state(std::move(state_in)),
        events(state.time.get()),
        health({options.stale_after_ms}, state.time.get()),
        control(state.keys.get(), std::move(credentials)),
        publisher(state.store.get(), state.keys.get(), &control, &health, metrics.get()),
        leases(state.store.get(), &real_time),
        fence(options.fence, state.store.get(), &leases, &control, &health, &board, &events,
              state.time.get(), &real_time),
        assigner(options.assigner, state.store.get(), &control, &health, &events, state.time.get()),
        board(options.learners, &health, state.time.get()),
        repair(state.store.get(), &health, &board, &events, state.time.get(), metrics.get()),
        scrub(state.store.get(), &integrity, &health, &events, state.time.get()),
        reaper(state.store.get(), &control, &health),
        layer_reaper(state.store.get(), &control, &health),
        expiry(state.store.get(), &fence, &health, &events, state.time.get(),
               [this] { reaper_loop->Wake(); }),
        measurer(&control, &health),
        budgets(state.store.get(), &measurer, &control, &health, &events, &real_time),
        upkeep(state.store.get(), &health, &governor, &events, state.time.get(), metrics.get()) {}

  [[nodiscard]] absl::Status Serve();
  void MakeServices();
  void StartLoops();
  [[nodiscard]] absl::Status Listen();
  void Stop();

  const MdmOptions options;
  const std::unique_ptr<MetricRegistry> metrics;
  const StateFolder state;
  const EventLog events;
  const SystemClock real_time;  // of waits for others, which go on when a test's time stands still
  HealthMonitor health;
  NodeControl control;
  MapPublisher publisher;
  CacheLeases leases;
  VolumeFence fence;
  DeviceAssigner assigner;
  LearnerBoard board;
  RepairScheduler repair;
  IntegrityBoard integrity;
  LimitGovernor governor;
  ScrubScheduler scrub;
  VtreeReaper reaper;
  LayerReaper layer_reaper;
  VolumeExpiry expiry;
  SpaceMeasurer measurer;
  BudgetKeeper budgets;
  Upkeep upkeep;

  std::unique_ptr<RpcDispatcher> prompt_rpc;
  std::unique_ptr<RpcDispatcher> volume_rpc;
  std::unique_ptr<RpcDispatcher> token_rpc;
  std::unique_ptr<RpcDispatcher> usage_rpc;
  std::unique_ptr<RpcDispatcher> latency_rpc;
  std::unique_ptr<TopologyService> topology;
  std::unique_ptr<HealthService> heartbeat;
  std::unique_ptr<DiscoveryService> discovery;
  std::unique_ptr<VolumeService> volume;
  std::unique_ptr<ScheduleRunner> schedule_runner;
  std::unique_ptr<SnapshotScheduleService> schedules;
  std::unique_ptr<PlacementService> placement;
  std::unique_ptr<TokenService> token;
  std::unique_ptr<MonitoringService> monitoring;
  std::unique_ptr<RepairService> repairs;
  std::unique_ptr<OperationService> operations;
  std::unique_ptr<ScrubService> scrubs;
  std::unique_ptr<UsageService> usage;
  std::unique_ptr<LatencyService> latency;

  std::unique_ptr<BackgroundLoop> judge_loop;      // health: never waits for a server
  std::unique_ptr<BackgroundLoop> placement_loop;  // devices and learners
  std::unique_ptr<BackgroundLoop> reaper_loop;     // deleted vtrees, and layers nobody sees
  std::unique_ptr<BackgroundLoop> schedule_loop;   // snapshots by schedule: waits for clients
  std::unique_ptr<BackgroundLoop> expiry_loop;     // volumes that delete themselves
  std::unique_ptr<BackgroundLoop> budget_loop;
  std::unique_ptr<GrpcServer> server;
  std::unique_ptr<HttpServer> http;
  std::string metrics_address;
  bool stopped = false;
};

absl::Status MdmServer::Parts::Serve() {
  TESSERA_RETURN_IF_ERROR(upkeep.ExpectNodes(state.nodes.get()));
  TESSERA_RETURN_IF_ERROR(leases.Load());
  TESSERA_RETURN_IF_ERROR(state.store->Write([&](WriteTransaction& transaction) {
    RecordOutageLifetime(transaction.db, options.outage_lifetime_ms);
    DropUnfinishedSnapshots(transaction, state.time->NowMillis());
    return absl::OkStatus();
  }));
  std::shared_ptr<const Authenticator> authenticator = state.nodes;
  if (options.security.insecure) {
    authenticator = std::make_shared<InsecureAuthenticator>(state.nodes);
  }
  const auto dispatcher = [&](std::vector<std::string> services, size_t threads) {
    RpcDispatcherOptions rpc_options;
    rpc_options.services = std::move(services);
    rpc_options.unary_threads = threads;
    rpc_options.stream_threads = 1;  // watches are pushed; there are no others
    return RpcDispatcher::Create(rpc_options, authenticator, metrics.get());
  };
  TESSERA_ASSIGN_OR_RETURN(prompt_rpc,
                           dispatcher({"tessera.v1.DiscoveryService", "tessera.v1.TopologyService",
                                       "tessera.v1.PlacementService", "tessera.v1.HealthService",
                                       "tessera.v1.MonitoringService", "tessera.v1.RepairService",
                                       "tessera.v1.OperationService", "tessera.v1.ScrubService"},
                                      kPromptThreads));
  TESSERA_ASSIGN_OR_RETURN(
      volume_rpc, dispatcher({"tessera.v1.VolumeService", "tessera.v1.SnapshotScheduleService"},
                             kVolumeThreads));
  TESSERA_ASSIGN_OR_RETURN(token_rpc, dispatcher({"tessera.v1.TokenService"}, kTokenThreads));
  TESSERA_ASSIGN_OR_RETURN(usage_rpc, dispatcher({"tessera.v1.UsageService"}, kUsageThreads));
  TESSERA_ASSIGN_OR_RETURN(latency_rpc, dispatcher({"tessera.v1.LatencyService"}, kLatencyThreads));
  MakeServices();
  // Before the first heartbeat is answered: without orders servers would end their passes.
  scrub.Run();
  StartLoops();
  return Listen();
}

void MdmServer::Parts::MakeServices() {
  MdmStore* const store = state.store.get();
  ClusterKeys* const keys = state.keys.get();
  const MdmTime* const time = state.time.get();
  RpcDispatcher* const rpc = prompt_rpc.get();
  topology = std::make_unique<TopologyService>(rpc, store, &assigner, state.nodes.get(), &health,
                                               &events, time);
  heartbeat = std::make_unique<HealthService>(rpc, options.heartbeat_interval_ms, store, keys,
                                              &leases, &health, &board, &repair, &integrity, &scrub,
                                              &governor, &events, time, metrics.get());
  const ClusterIdentity cluster{state.cluster_uuid, state.join_token,
                                options.heartbeat_interval_ms};
  discovery = std::make_unique<DiscoveryService>(rpc, cluster, store, keys, state.nodes.get(),
                                                 &health, &events, time, [this] {
                                                   publisher.AddressesChanged();
                                                   placement_loop->Wake();
                                                 });
  const GrantRules grant_rules{options.grant_lifetime_ms, options.outage_lifetime_ms};
  volume = std::make_unique<VolumeService>(
      volume_rpc.get(), grant_rules, store, keys, &control, &fence, &health, &events, time,
      [this] { reaper_loop->Wake(); }, [this] { budget_loop->Wake(); });
  schedule_runner =
      std::make_unique<ScheduleRunner>(store, volume.get(), &events, time, metrics.get());
  schedules = std::make_unique<SnapshotScheduleService>(volume_rpc.get(), store,
                                                        schedule_runner.get(), &events, time);
  placement = std::make_unique<PlacementService>(rpc, store, keys, &publisher, &board, &health,
                                                 &events, time);
  repairs =
      std::make_unique<RepairService>(rpc, store, &assigner, state.nodes.get(), &health, &board,
                                      &events, time, [this] { placement_loop->Wake(); });
  operations = std::make_unique<OperationService>(rpc, store, &repair, &events, time,
                                                  [this] { placement_loop->Wake(); });
  scrubs = std::make_unique<ScrubService>(rpc, store, &scrub, &integrity, &events, time,
                                          [this] { placement_loop->Wake(); });
  usage = std::make_unique<UsageService>(usage_rpc.get(), store, &measurer);
  latency = std::make_unique<LatencyService>(latency_rpc.get(), store, &control);
  repair.SetListener([this] { operations->Changed(); });
  repair.SetScrubFigures([this](v1::Operation* operation) { scrub.FillFigures(operation); });
  token =
      std::make_unique<TokenService>(token_rpc.get(), grant_rules, store, keys, &fence, &publisher,
                                     &health, &governor, &control, &events, time, metrics.get());
  monitoring =
      std::make_unique<MonitoringService>(rpc, state.incarnation, store, metrics.get(), time);
  store->SetCommitListener([this](const ChangeSet& changes) {
    publisher.OnCommit(changes);
    if (changes.topology) topology->Changed();
    if (changes.events) heartbeat->EventsChanged();
  });
}

void MdmServer::Parts::StartLoops() {
  const std::chrono::milliseconds tick(options.tick_ms);
  placement_loop = std::make_unique<BackgroundLoop>(
      BackgroundLoop::Options{.name = "placement", .period = tick}, [this] {
        assigner.Run();
        scrub.Run();
        repair.Run();
      });
  reaper_loop = std::make_unique<BackgroundLoop>(
      BackgroundLoop::Options{.name = "reaper", .period = 2 * tick}, [this] {
        reaper.Run();
        layer_reaper.Run();
      });
  schedule_loop = std::make_unique<BackgroundLoop>(
      BackgroundLoop::Options{.name = "schedules", .period = 2 * tick},
      [this] { schedule_runner->Run(); });
  expiry_loop = std::make_unique<BackgroundLoop>(
      BackgroundLoop::Options{.name = "expiry", .period = 2 * tick}, [this] { expiry.Run(); });
  budget_loop = std::make_unique<BackgroundLoop>(
      BackgroundLoop::Options{.name = "budgets", .period = kBudgetTicks * tick, .pause = 2 * tick},
      [this] { budgets.Run(); });
  judge_loop = std::make_unique<BackgroundLoop>(
      BackgroundLoop::Options{.name = "health", .period = tick}, [this] {
        if (!upkeep.Run()) return;
        publisher.AddressesChanged();
        topology->Changed();
        placement_loop->Wake();
      });
}

absl::Status MdmServer::Parts::Listen() {
  GrpcServerOptions server_options;
  server_options.listen = {options.listen};
  server_options.security = options.security;
  TESSERA_ASSIGN_OR_RETURN(
      server, GrpcServer::Start(
                  server_options,
                  {discovery.get(), topology.get(), volume.get(), placement.get(), token.get(),
                   heartbeat.get(), monitoring.get(), repairs.get(), operations.get(), scrubs.get(),
                   schedules.get(), usage.get(), latency.get()}));
  HttpServerOptions http_options;
  http_options.listen = options.metrics_listen;
  TESSERA_ASSIGN_OR_RETURN(
      http, HttpServer::Start(http_options, MetricsHandler(metrics.get(), [] { return ""; })));
  metrics_address = http->address();
  return WriteEndpointsFile(options.state_folder,
                            {{"grpc", server->addresses()[0]}, {"metrics", metrics_address}});
}

void MdmServer::Parts::Stop() {
  if (std::exchange(stopped, true)) return;
  fence.Stop();
  if (schedule_runner != nullptr) schedule_runner->Stop();
  budgets.Stop();
  if (heartbeat != nullptr) heartbeat->Stop();
  if (topology != nullptr) topology->Stop();
  if (operations != nullptr) operations->Stop();
  publisher.Stop();
  if (server != nullptr) server->Shutdown();
  for (auto* rpc : {&volume_rpc, &token_rpc, &usage_rpc, &latency_rpc, &prompt_rpc}) {
    if (*rpc != nullptr) (*rpc)->Shutdown();
  }
  http.reset();
  for (auto* loop :
       {&judge_loop, &placement_loop, &schedule_loop, &expiry_loop, &reaper_loop, &budget_loop}) {
    if (*loop != nullptr) (*loop)->Stop();
  }
  state.store->SetCommitListener(nullptr);
}

absl::StatusOr<std::unique_ptr<MdmServer>> MdmServer::Start(const MdmOptions& options,
                                                            const Clock* clock) {
  TESSERA_RETURN_IF_ERROR(options.Check());
  auto metrics = std::make_unique<MetricRegistry>("mdm");
  AddCertificateGauge(metrics.get(), "node", options.security.certificate_file);
  TESSERA_ASSIGN_OR_RETURN(
      StateFolder state,
      OpenStateFolder(options.state_folder, options.join_token_file, clock, metrics.get()));
  TESSERA_ASSIGN_OR_RETURN(auto credentials, options.security.ForClient({kRoleSds, kRoleSdc}));
  auto parts = std::make_unique<Parts>(options, std::move(state), std::move(metrics),
                                       std::move(credentials));
  if (absl::Status status = parts->Serve(); !status.ok()) {
    parts->Stop();
    return status;
  }
  return std::unique_ptr<MdmServer>(new MdmServer(std::move(parts)));
}

MdmServer::MdmServer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

MdmServer::~MdmServer() { Stop(); }

const std::string& MdmServer::address() const { return parts_->server->addresses()[0]; }
const std::string& MdmServer::metrics_address() const { return parts_->metrics_address; }
const std::string& MdmServer::join_token() const { return parts_->state.join_token; }

void MdmServer::Tick() {
  parts_->judge_loop->Wake();
  parts_->placement_loop->Wake();
  parts_->reaper_loop->Wake();
  parts_->schedule_loop->Wake();
  parts_->expiry_loop->Wake();
}

void MdmServer::Stop() { parts_->Stop(); }

}  // namespace tessera::mdm
