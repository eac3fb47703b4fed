// The monitor whole: as tessera-mgmt runs it, asked over gRPC.
#include "services/mgmt/monitor/monitor.h"

#include <catch2/catch.hpp>
#include <set>

#include "services/common/grpc_server.h"
#include "services/mgmt/monitor/history_schema.h"
#include "services/mgmt/monitor/testing/fake_cluster.h"
#include "services/mgmt/monitor/testing/temporary_folder.h"
#include "tessera/v1/console.grpc.pb.h"

namespace tessera::mgmt {
namespace {

constexpr v1::ComponentKind kSds = v1::COMPONENT_KIND_SDS;

class ViewerAuthenticator final : public Authenticator {
 public:
  absl::StatusOr<Caller> Authenticate(std::string_view authorization) const override {
    if (authorization.empty()) return absl::UnauthenticatedError("sign in");
    Caller caller;
    caller.roles = {v1::ROLE_VIEWER};
    caller.credential = std::string(authorization);
    return caller;
  }
};

class Fixture {
 public:
  Fixture() {
    std::vector<grpc::Service*> services = mdm.services();
    services.push_back(&mdm_part);
    mdm_server = std::make_unique<FakeServer>(services);
    part_server = std::make_unique<FakeServer>(std::vector<grpc::Service*>{&part});
    mdm.Change([&](FakeMdm::State* state) {
      state->topology.set_cluster_uuid("the-cluster");
      AddPart(kSds, 1, part_server->address(), &state->topology);
      v1::Volume& volume = state->volumes.emplace_back();
      volume.set_volume_id(7);
      volume.set_name("db");
    });
  }
  ~Fixture() {
    Stop();
    StopMdm();
  }

  void Start() {
    auto opened = MgmtDb::Open(folder.path() + "/mgmt.db", {kHistorySchema});
    REQUIRE(opened.ok());
    db = *std::move(opened);
    MonitorOptions options;
    options.mdm = mdm_server->address();
    options.poll_interval = std::chrono::milliseconds(100);
    v1::Setting& setting = options.settings.emplace_back();
    setting.set_name("mdm");
    setting.set_value(options.mdm);
    MonitorHooks hooks;
    hooks.active_alerts = [this] {
      absl::MutexLock lock(&mutex);
      return alerts;
    };
    hooks.credential_good = [this](const std::string& credential) {
      absl::MutexLock lock(&mutex);
      return !ended.contains(credential);
    };
    auto created = Monitor::Create(options, hooks, db.get(), &clock, &metrics,
                                   grpc::InsecureChannelCredentials());
    INFO(created.status());
    REQUIRE(created.ok());
    monitor = *std::move(created);
    monitor->AddListener([this](const ClusterSnapshot&) {
      absl::MutexLock lock(&mutex);
      ++rounds;
    });
    auto dispatcher = RpcDispatcher::Create(
        {.services = {"tessera.v1.ConsoleService", "tessera.v1.MonitoringService"}},
        std::make_shared<ViewerAuthenticator>(), &metrics);
    REQUIRE(dispatcher.ok());
    rpc = *std::move(dispatcher);
    server = std::make_unique<FakeServer>(monitor->MakeServices(rpc.get()));
    channel = NewChannel(server->address(), grpc::InsecureChannelCredentials());
    console = v1::ConsoleService::NewStub(channel);
    monitor->Start();
  }
  void Stop() {
    if (monitor == nullptr) return;
    monitor->Stop();
    rpc->Shutdown();
    server->Stop();
    console.reset();
    channel.reset();
    server.reset();
    rpc.reset();
    monitor.reset();
    db.reset();
  }
  void StopMdm() {
    mdm.EndWatches();
    mdm_server->Stop();
  }
  // Asks until it holds.
  v1::GetOverviewResponse AwaitOverview(
      const std::function<bool(const v1::GetOverviewResponse&)>& holds) {
    while (true) {
      const v1::GetOverviewResponse overview = Overview();
      if (holds(overview)) return overview;
      AwaitRound();
    }
  }
  v1::GetOverviewResponse Overview() {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "session.1");
    v1::GetOverviewResponse response;
    const grpc::Status status = console->GetOverview(&context, {}, &response);
    INFO(status.error_message());
    REQUIRE(status.ok());
    return response;
  }
  void AwaitRound() {
    absl::MutexLock lock(&mutex);
    const int now = rounds;
    const auto next = [this, now] {
      mutex.AssertHeld();
      return rounds > now;
    };
    mutex.Await(absl::Condition(&next));
  }

  const TemporaryFolder folder;
  SystemClock clock;
  MetricRegistry metrics{"mgmt"};
  FakeMdm mdm;
  FakePart mdm_part{[](v1::GetStatusResponse* answer) {
    DescribePart(v1::COMPONENT_KIND_MDM, 1, 1'000, answer);
  }};
  FakePart part{[](v1::GetStatusResponse* answer) { DescribePart(kSds, 1, 1'000, answer); }};
  std::unique_ptr<FakeServer> mdm_server;
  std::unique_ptr<FakeServer> part_server;
  absl::Mutex mutex;
  std::vector<v1::Alert> alerts ABSL_GUARDED_BY(mutex);
  std::set<std::string> ended ABSL_GUARDED_BY(mutex);
  int rounds ABSL_GUARDED_BY(mutex) = 0;
  std::unique_ptr<MgmtDb> db;
  std::unique_ptr<Monitor> monitor;
  std::unique_ptr<RpcDispatcher> rpc;
  std::unique_ptr<FakeServer> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::ConsoleService::Stub> console;
};

bool ServerAnswers(const v1::GetOverviewResponse& overview) {
  for (const v1::MonitoredComponent& component : overview.components()) {
    if (component.kind() == kSds) return component.answers();
  }
  return false;
}

}  // namespace

TEST_CASE("the overview, series, history and settings are answered over gRPC") {
  Fixture fixture;
  fixture.Start();
  const v1::GetOverviewResponse overview = fixture.AwaitOverview(ServerAnswers);
  CHECK(overview.verdict() == "All data has its copies. 1 server, 0 clients.");
  CHECK(overview.cluster_name() == "the-cluster");
  CHECK(overview.mdm_answers());
  CHECK(overview.components_size() == 3);
  fixture.AwaitRound();

  grpc::ClientContext series_context;
  series_context.AddMetadata("authorization", "session.1");
  v1::ListSeriesRequest of_server;
  of_server.set_kind(kSds);
  v1::ListSeriesResponse series;
  REQUIRE(fixture.console->ListSeries(&series_context, of_server, &series).ok());
  REQUIRE(series.series_size() >= 4);

  grpc::ClientContext history_context;
  history_context.AddMetadata("authorization", "session.1");
  v1::QueryHistoryRequest query;
  v1::SeriesKey* key = query.add_series();
  key->set_kind(kSds);
  key->set_component_id(1);
  key->set_figure("used_bytes");
  v1::QueryHistoryResponse history;
  REQUIRE(fixture.console->QueryHistory(&history_context, query, &history).ok());
  REQUIRE(history.series(0).mean_size() > 0);
  CHECK(history.series(0).mean(0) == Approx(8e11));

  grpc::ClientContext settings_context;
  settings_context.AddMetadata("authorization", "session.1");
  v1::GetSettingsResponse settings;
  REQUIRE(fixture.console->GetSettings(&settings_context, {}, &settings).ok());
  REQUIRE(settings.settings_size() == 1);
  CHECK(settings.database_bytes() > 0);
  CHECK(settings.database_limit_bytes() == uint64_t{2} << 30);

  grpc::ClientContext status_context;
  status_context.AddMetadata("authorization", "session.1");
  v1::GetStatusResponse status;
  const auto monitoring = v1::MonitoringService::NewStub(fixture.channel);
  REQUIRE(monitoring->GetStatus(&status_context, {}, &status).ok());
  CHECK(status.kind() == v1::COMPONENT_KIND_MGMT);
  CHECK(status.state() == v1::COMPONENT_STATE_ONLINE);
  CHECK(status.histograms_size() == 2);

  grpc::ClientContext anonymous;
  v1::GetOverviewResponse refused;
  CHECK(fixture.console->GetOverview(&anonymous, {}, &refused).error_code() ==
        grpc::StatusCode::UNAUTHENTICATED);
}

TEST_CASE("one stream brings everything that changes, until its session ends") {
  Fixture fixture;
  fixture.Start();
  fixture.AwaitOverview(ServerAnswers);
  grpc::ClientContext context;
  context.AddMetadata("authorization", "session.1");
  const auto stream = fixture.console->WatchConsole(&context, {});
  v1::WatchConsoleResponse message;
  REQUIRE(stream->Read(&message));
  CHECK(message.has_overview());
  const auto await = [&](const std::function<bool(const v1::WatchConsoleResponse&)>& holds) {
    do {
      REQUIRE(stream->Read(&message));
    } while (!holds(message));
  };
  await([](const auto& next) { return next.has_heartbeat(); });
  fixture.mdm.Change([](FakeMdm::State* state) {
    state->volumes.emplace_back().set_volume_id(8);
    state->operations.emplace_back().set_operation_id(3);
  });
  bool operation = false;
  bool objects = false;
  await([&](const auto& next) {
    operation = operation || (next.has_operation() && next.operation().operation_id() == 3);
    objects = objects || (next.has_objects() && next.objects().volumes());
    return operation && objects;
  });
  v1::Alert alert;
  alert.set_alert_id(5);
  fixture.monitor->OnAlert(alert);
  await([](const auto& next) { return next.has_alert() && next.alert().alert_id() == 5; });
  // A server that dies is in the next overviews, without anybody asking.
  fixture.part_server->Stop();
  await([](const auto& next) {
    return next.has_overview() &&
           next.overview().verdict() == "Server sds1 does not answer. 1 server, 0 clients.";
  });
  {
    absl::MutexLock lock(&fixture.mutex);
    fixture.ended.insert("session.1");
  }
  while (stream->Read(&message)) {
  }
  CHECK(stream->Finish().error_code() == grpc::StatusCode::UNAUTHENTICATED);
}

TEST_CASE("restarted while the MDM is away, it shows the parts and says what it can't see") {
  Fixture fixture;
  fixture.Start();
  fixture.AwaitOverview(ServerAnswers);
  fixture.Stop();
  fixture.StopMdm();
  fixture.Start();
  const v1::GetOverviewResponse overview = fixture.AwaitOverview(ServerAnswers);
  CHECK_FALSE(overview.mdm_answers());
  CHECK(overview.mdm_answered_ms() == 0);
  CHECK_THAT(overview.verdict(), Catch::StartsWith("The MDM has not answered yet"));
  grpc::ClientContext context;
  context.AddMetadata("authorization", "session.1");
  v1::ListHealthLogResponse log;
  const auto monitoring = v1::MonitoringService::NewStub(fixture.channel);
  REQUIRE(monitoring->ListHealthLog(&context, {}, &log).ok());
  REQUIRE(log.events_size() == 1);
  CHECK(log.events(0).code() == "mdm_unreachable");
}

TEST_CASE("settings that can't work are refused with what would") {
  Fixture fixture;
  auto db = MgmtDb::Open(fixture.folder.path() + "/mgmt.db", {kHistorySchema});
  REQUIRE(db.ok());
  MonitorOptions options;
  options.poll_interval = std::chrono::milliseconds(99);
  const auto refused = [&] {
    return std::string(Monitor::Create(options, {}, db->get(), &fixture.clock, &fixture.metrics,
                                       grpc::InsecureChannelCredentials())
                           .status()
                           .message());
  };
  CHECK_THAT(refused(), Catch::Contains("100 or more"));
  options.poll_interval = std::chrono::milliseconds(10'000);
  options.database_limit_bytes = 1'000;
  CHECK_THAT(refused(), Catch::Contains("database_limit"));
}

}  // namespace tessera::mgmt
