#include "services/mgmt/monitor/poller.h"

#include <catch2/catch.hpp>
#include <deque>
#include <thread>

#include "services/common/grpc_server.h"
#include "services/mgmt/monitor/testing/fake_cluster.h"

namespace tessera::mgmt {
namespace {

constexpr v1::ComponentKind kSds = v1::COMPONENT_KIND_SDS;
constexpr v1::ComponentKind kSdc = v1::COMPONENT_KIND_SDC;
// Rounds by time alone never come within a test's life: what is seen came for another cause.
constexpr uint64_t kNeverMs = 3'600'000;

FakePart::Answer Steady(v1::ComponentKind kind, uint64_t id) {
  return [kind, id, count = 0.0](v1::GetStatusResponse* answer) mutable {
    DescribePart(kind, id, count += 1'000, answer);
  };
}

// A poller on a thread of its own, against fake parts. Waits have no limit of their own.
class Fixture {
 public:
  struct Served {
    FakePart part;
    std::unique_ptr<FakeServer> server;
    explicit Served(FakePart::Answer answer) : part(std::move(answer)) {}
  };

  Fixture() {
    std::vector<grpc::Service*> services = mdm.services();
    services.push_back(&mdm_part);
    mdm_server = std::make_unique<FakeServer>(services);
    options.mdm = mdm_server->address();
    options.settle_ms = 100;
    options.early_gap_ms = 20;
  }
  ~Fixture() {
    Stop();
    for (const auto& served : parts) served->part.Release();
    StopMdm();
  }

  Served& AddServed(v1::ComponentKind kind, uint64_t id) {
    parts.push_back(std::make_unique<Served>(Steady(kind, id)));
    Served& served = *parts.back();
    served.server = std::make_unique<FakeServer>(std::vector<grpc::Service*>{&served.part});
    mdm.Change([&](FakeMdm::State* state) {
      AddPart(kind, id, served.server->address(), &state->topology);
    });
    return served;
  }
  void StopMdm() {
    mdm.EndWatches();
    if (mdm_server != nullptr) mdm_server->Stop();
  }
  void Start(const std::vector<KnownPart>& known = {}) {
    PollerEvents events;
    events.on_snapshot = [this](std::shared_ptr<const ClusterSnapshot> snapshot) {
      absl::MutexLock lock(&mutex);
      snapshots.push_back(std::move(snapshot));
    };
    events.on_operation = [this](const v1::Operation& operation) {
      absl::MutexLock lock(&mutex);
      operations.push_back(operation);
    };
    events.on_parts = [this](const std::vector<KnownPart>& saved) {
      absl::MutexLock lock(&mutex);
      saved_parts = saved;
    };
    events.on_tick = [] {};
    events.describe_self = [](v1::GetStatusResponse* answer) {
      answer->set_kind(v1::COMPONENT_KIND_MGMT);
      answer->set_component_id(1);
      answer->set_name("mgmt");
    };
    events.certificate_expiry_ms = [] { return std::map<std::string, uint64_t>{{"web", 7}}; };
    poller = std::make_unique<Poller>(
        options, known,
        [](const std::string& address) {
          return NewChannel(address, grpc::InsecureChannelCredentials());
        },
        &clock, &metrics, std::move(events));
    thread = std::thread([this] { poller->Run(); });
  }
  void Stop() {
    if (!thread.joinable()) return;
    poller->Stop();
    thread.join();
    poller.reset();
  }
  // The first snapshot from now on, those not looked at yet included, of which this holds.
  std::shared_ptr<const ClusterSnapshot> Await(
      const std::function<bool(const ClusterSnapshot&)>& holds) {
    absl::MutexLock lock(&mutex);
    while (true) {
      const auto any = [this] {
        mutex.AssertHeld();
        return !snapshots.empty();
      };
      mutex.Await(absl::Condition(&any));
      const auto next = std::move(snapshots.front());
      snapshots.pop_front();
      if (holds(*next)) return next;
    }
  }

  SystemClock clock;
  MetricRegistry metrics{"mgmt"};
  FakeMdm mdm;
  FakePart mdm_part{Steady(v1::COMPONENT_KIND_MDM, 1)};
  std::unique_ptr<FakeServer> mdm_server;
  std::vector<std::unique_ptr<Served>> parts;
  PollerOptions options;
  std::unique_ptr<Poller> poller;
  std::thread thread;
  absl::Mutex mutex;
  std::deque<std::shared_ptr<const ClusterSnapshot>> snapshots ABSL_GUARDED_BY(mutex);
  std::vector<v1::Operation> operations ABSL_GUARDED_BY(mutex);
  std::vector<KnownPart> saved_parts ABSL_GUARDED_BY(mutex);
};

const PolledPart* Find(const ClusterSnapshot& snapshot, v1::ComponentKind kind, uint64_t id) {
  for (const PolledPart& part : snapshot.parts) {
    if (part.component.kind() == kind && part.component.component_id() == id) return &part;
  }
  return nullptr;
}

bool Answers(const ClusterSnapshot& snapshot, v1::ComponentKind kind, uint64_t id) {
  const PolledPart* part = Find(snapshot, kind, id);
  return part != nullptr && part->component.answers();
}

}  // namespace

TEST_CASE("everything that the parts and the MDM say is in the snapshot, page by page") {
  Fixture fixture;
  fixture.AddServed(kSds, 1);
  fixture.AddServed(kSdc, 5);
  fixture.mdm.Change([](FakeMdm::State* state) {
    for (uint64_t id = 1; id <= 2'345; ++id) state->volumes.emplace_back().set_volume_id(id);
    for (const auto verdict : {v1::VOLUME_VERDICT_HEALTHY, v1::VOLUME_VERDICT_DEGRADED}) {
      state->volume_health.emplace_back().set_verdict(verdict);
    }
    state->schedules.emplace_back().set_name("daily");
    state->health.set_verdict(v1::CLUSTER_VERDICT_DEGRADED);
  });
  fixture.Start();
  const auto snapshot = fixture.Await([](const ClusterSnapshot& candidate) {
    return candidate.mdm_answers && Answers(candidate, kSds, 1) && Answers(candidate, kSdc, 5);
  });
  CHECK(snapshot->volumes.size() == 2'345);
  CHECK(snapshot->volume_health.size() == 1);
  CHECK(snapshot->schedules.size() == 1);
  CHECK(snapshot->health.verdict() == v1::CLUSTER_VERDICT_DEGRADED);
  CHECK(snapshot->certificate_expiry_ms.at("web") == 7);
  CHECK(Answers(*snapshot, v1::COMPONENT_KIND_MDM, 1));
  CHECK(Answers(*snapshot, v1::COMPONENT_KIND_MGMT, 1));
  const PolledPart* server = Find(*snapshot, kSds, 1);
  CHECK(server->component.name() == "sds1");
  CHECK(server->component.state() == v1::COMPONENT_STATE_ONLINE);
  CHECK(server->component.last_answer_ms() > 0);
  CHECK(server->figures.at("used_bytes") == Approx(8e11));
  CHECK(snapshot->figures.capacity_bytes() == 2'000'000'000'000);
  CHECK(snapshot->figures.volumes_degraded() == 1);
}

TEST_CASE("one part that never answers delays nobody") {
  Fixture fixture;
  fixture.options.interval_ms = 50;
  fixture.options.part_timeout_ms = kNeverMs;
  for (uint64_t id = 1; id <= 5; ++id) fixture.AddServed(kSds, id);
  FakePart& silent = fixture.parts[2]->part;
  silent.Hold();
  fixture.Start();
  // Round after round, while the one call to the silent part is still waiting.
  for (int round = 0; round < 5; ++round) {
    const auto snapshot = fixture.Await([](const ClusterSnapshot& candidate) {
      return Answers(candidate, kSds, 1) && Answers(candidate, kSds, 2) &&
             Answers(candidate, kSds, 4) && Answers(candidate, kSds, 5);
    });
    CHECK_FALSE(Answers(*snapshot, kSds, 3));
  }
  CHECK(fixture.parts[4]->part.over() >= 3);
  CHECK(silent.begun() == 1);
  CHECK(silent.over() == 0);
  silent.Release();
  fixture.Await([](const ClusterSnapshot& candidate) { return Answers(candidate, kSds, 3); });
}

TEST_CASE("a part that answers late is told without waiting for the next round") {
  Fixture fixture;
  fixture.options.interval_ms = kNeverMs;
  fixture.options.part_timeout_ms = kNeverMs;
  fixture.AddServed(kSds, 1).part.Hold();
  fixture.AddServed(kSds, 2);
  fixture.Start();
  fixture.Await([](const ClusterSnapshot& candidate) {
    return Answers(candidate, kSds, 2) && !Answers(candidate, kSds, 1);
  });
  fixture.parts[0]->part.Release();
  fixture.Await([](const ClusterSnapshot& candidate) { return Answers(candidate, kSds, 1); });
}

TEST_CASE("a part that runs into its deadline is stale, and why is said") {
  Fixture fixture;
  fixture.options.interval_ms = 100;
  fixture.AddServed(kSds, 1);
  fixture.Start();
  fixture.Await([](const ClusterSnapshot& candidate) { return Answers(candidate, kSds, 1); });
  fixture.Stop();
  fixture.options.part_timeout_ms = 50;
  fixture.parts[0]->part.Hold();
  fixture.Start();
  const auto snapshot = fixture.Await([](const ClusterSnapshot& candidate) {
    const PolledPart* part = Find(candidate, kSds, 1);
    return part != nullptr && !part->component.poll_error().empty();
  });
  const PolledPart* part = Find(*snapshot, kSds, 1);
  CHECK(part->component.state() == v1::COMPONENT_STATE_STALE);
  CHECK_THAT(part->component.poll_error(), Catch::Contains("50 ms"));
}

TEST_CASE("a killed part turns up long before the next round, and so does its return") {
  Fixture fixture;
  fixture.options.interval_ms = kNeverMs;
  Fixture::Served& served = fixture.AddServed(kSds, 1);
  fixture.Start();
  fixture.Await([](const ClusterSnapshot& candidate) { return Answers(candidate, kSds, 1); });
  const int port = served.server->port();
  served.server->Stop();
  fixture.Await([](const ClusterSnapshot& candidate) { return !Answers(candidate, kSds, 1); });
  served.server = std::make_unique<FakeServer>(std::vector<grpc::Service*>{&served.part}, port);
  fixture.Await([](const ClusterSnapshot& candidate) { return Answers(candidate, kSds, 1); });
}

TEST_CASE("a part that joins is asked at once, one that is forgotten is asked no more") {
  Fixture fixture;
  fixture.options.interval_ms = kNeverMs;
  fixture.AddServed(kSds, 1);
  fixture.Start();
  fixture.Await([](const ClusterSnapshot& candidate) { return Answers(candidate, kSds, 1); });
  fixture.AddServed(kSdc, 9);
  fixture.Await([](const ClusterSnapshot& candidate) { return Answers(candidate, kSdc, 9); });
  {
    absl::MutexLock lock(&fixture.mutex);
    REQUIRE(fixture.saved_parts.size() == 2);
    CHECK(fixture.saved_parts[1].address == fixture.parts[1]->server->address());
  }
  fixture.mdm.Change([](FakeMdm::State* state) { state->topology.clear_sdcs(); });
  fixture.Await(
      [](const ClusterSnapshot& candidate) { return Find(candidate, kSdc, 9) == nullptr; });
}

TEST_CASE("an operation's begin and end are told at once") {
  Fixture fixture;
  fixture.options.interval_ms = kNeverMs;
  fixture.Start();
  fixture.Await([](const ClusterSnapshot& candidate) { return candidate.mdm_answers; });
  fixture.mdm.Change(
      [](FakeMdm::State* state) { state->operations.emplace_back().set_operation_id(3); });
  fixture.Await([](const ClusterSnapshot& candidate) { return candidate.operations.size() == 1; });
  absl::MutexLock lock(&fixture.mutex);
  const auto told = [&] {
    fixture.mutex.AssertHeld();
    return !fixture.operations.empty();
  };
  fixture.mutex.Await(absl::Condition(&told));
  CHECK(fixture.operations[0].operation_id() == 3);
}

TEST_CASE("with the MDM away the parts are asked on, and it is said since when") {
  Fixture fixture;
  fixture.options.interval_ms = 50;
  fixture.AddServed(kSds, 1);
  fixture.Start();
  fixture.Await([](const ClusterSnapshot& candidate) { return Answers(candidate, kSds, 1); });
  fixture.StopMdm();
  const auto away =
      fixture.Await([](const ClusterSnapshot& candidate) { return !candidate.mdm_answers; });
  CHECK(away->mdm_answered_ms > 0);
  CHECK_FALSE(away->mdm_error.empty());
  CHECK(away->topology.topology().protection_domains_size() == 1);
  const int asked = fixture.parts[0]->part.over();
  const auto later = fixture.Await([&](const ClusterSnapshot& candidate) {
    return !candidate.mdm_answers && fixture.parts[0]->part.over() > asked + 3;
  });
  CHECK(Answers(*later, kSds, 1));
  CHECK(later->mdm_answered_ms == away->mdm_answered_ms);
}

TEST_CASE("a poller that starts while the MDM is away asks the parts of its last life") {
  Fixture fixture;
  fixture.options.interval_ms = 100;
  const std::string address = fixture.AddServed(kSds, 4).server->address();
  fixture.StopMdm();
  fixture.Start({{kSds, 4, "four", address}});
  const auto snapshot =
      fixture.Await([](const ClusterSnapshot& candidate) { return Answers(candidate, kSds, 4); });
  CHECK_FALSE(snapshot->mdm_answers);
  CHECK(snapshot->mdm_answered_ms == 0);
  CHECK(Find(*snapshot, kSds, 4)->component.name() == "four");
}

TEST_CASE("an MDM without watches, schedules or operations is read all the same") {
  Fixture fixture;
  fixture.StopMdm();
  FakeMdm older;
  older.EndWatches();
  std::vector<grpc::Service*> services = older.services();
  services.resize(3);  // topology, health, volumes
  const FakeServer server(services);
  fixture.options.mdm = server.address();
  fixture.Start();
  fixture.Await([](const ClusterSnapshot& candidate) { return candidate.mdm_answers; });
  fixture.Stop();
}

TEST_CASE("rates are there from the second answer on, of volumes and of the cluster, too") {
  Fixture fixture;
  fixture.options.interval_ms = 200;
  fixture.AddServed(kSdc, 1);
  fixture.Start();
  const auto snapshot = fixture.Await(
      [](const ClusterSnapshot& candidate) { return candidate.figures.reads_per_second() > 0; });
  CHECK(Find(*snapshot, kSdc, 1)->figures.at("reads_per_second") ==
        Approx(snapshot->figures.reads_per_second()));
  CHECK(snapshot->figures.read_latency_p50_micros() == Approx(100).margin(1));
}

}  // namespace tessera::mgmt
