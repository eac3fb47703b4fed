// Every built-in rule against a cluster that is well, then is not, then is well again, with time
// injected: when it raises, what it says, when it resolves.
#include <catch2/catch.hpp>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "services/mgmt/alerts/alert_engine.h"
#include "services/mgmt/alerts/subjects.h"
#include "services/mgmt/alerts/testing/healthy_cluster.h"

namespace tessera::mgmt {
namespace {

constexpr uint64_t kStartMs = 1'800'000'000'000;
constexpr uint64_t kHour = 3'600;
constexpr uint64_t kDay = 24 * kHour;

// Puts something wrong into a round; `seconds` since it began.
using Change = std::function<void(ClusterSnapshot& snapshot, double seconds)>;

struct Row {
  const char* rule;
  const char* subject;
  const char* summary;
  Change bad;
  // What stays when it is over, such as a counter that does not fall.
  Change after = nullptr;
  // Of rules over the past: how long all is well first, and how much later than raise_after and
  // resolve_after it may show.
  uint64_t before_s = 600;
  uint64_t raise_slack_s = 0;
  uint64_t resolve_slack_s = 0;
  uint64_t step_s = 5;
  Change before = nullptr;
};

Change ServerState(v1::ComponentState state) {
  return [state](ClusterSnapshot& snapshot, double seconds) {
    v1::Sds& sds = ServerOf(snapshot, 1);
    sds.set_state(state);
    sds.set_last_heartbeat_ms(snapshot.time_ms - static_cast<uint64_t>(seconds * 1000) - 30'000);
  };
}
Change Redundancy(v1::RedundancyState state) {
  return [state](ClusterSnapshot& snapshot, double) {
    PoolOf(snapshot).mutable_pool()->set_redundancy(state);
  };
}
Change Figure(v1::ComponentKind kind, const char* name, double value) {
  return
      [=](ClusterSnapshot& snapshot, double) { PartOf(snapshot, kind, 1).figures[name] = value; };
}
// A counter that jumps, and then stays: it shows until it has left the window.
Row Counter(const char* rule, v1::ComponentKind kind, const char* figure, double value,
            uint64_t window_s, const char* summary) {
  const Change jump = Figure(kind, figure, value);
  const bool server = kind == v1::COMPONENT_KIND_SDS;
  return {rule, server ? "sds/1" : "sdc/1", summary, jump, jump, window_s + 600,
          0,    window_s + window_s / 32,   30};
}
Change Expiry(uint64_t days) {
  return [=](ClusterSnapshot& snapshot, double) {
    snapshot.certificate_expiry_ms["console"] = snapshot.time_ms + days * kDay * 1000;
  };
}
v1::Operation& AddRebuild(ClusterSnapshot& snapshot, v1::OperationState state) {
  v1::Operation& operation = snapshot.operations.emplace_back();
  operation.set_operation_id(9);
  operation.set_kind(v1::OPERATION_KIND_REBUILD);
  operation.set_state(state);
  operation.set_subject("device 12 of sds2");
  operation.set_started_ms(kStartMs);
  operation.set_bytes_total(100 * kGiB);
  operation.set_placement_groups_total(43);
  operation.set_last_error("sds3 does not answer");
  return operation;
}
Change Rebuild(v1::OperationState state, double bytes_per_second) {
  return [=](ClusterSnapshot& snapshot, double seconds) {
    AddRebuild(snapshot, state)
        .set_bytes_done(kGiB + static_cast<uint64_t>(bytes_per_second * seconds));
  };
}

const std::vector<Row>& Rows() {
  static const auto* const rows = new std::vector<Row>{
      {"mdm-silent", "mdm/1", "The MDM does not answer",
       [](ClusterSnapshot& s, double) { SilenceMdm(s); }},
      {"part-stale", "sds/2", "sds2 misses heartbeats", ServerState(v1::COMPONENT_STATE_STALE)},
      {"server-down", "sds/2", "Server sds2 is down", ServerState(v1::COMPONENT_STATE_OFFLINE)},
      {"client-down", "sdc/1", "Client client1 is down with 1 volumes mapped",
       [](ClusterSnapshot& s, double) {
         s.topology.mutable_topology()->mutable_sdcs(0)->set_state(v1::COMPONENT_STATE_OFFLINE);
       }},
      {"part-not-answering", "sds/1", "sds1 does not answer MGMT",
       [](ClusterSnapshot& s, double) {
         PartOf(s, v1::COMPONENT_KIND_SDS, 1).component.set_answers(false);
         PartOf(s, v1::COMPONENT_KIND_SDS, 1).component.set_poll_error("deadline exceeded");
       }},
      {"part-problem", "sds/1", "sds1 tells of a problem",
       [](ClusterSnapshot& s, double) {
         PartOf(s, v1::COMPONENT_KIND_SDS, 1).component.add_problems("disk1 is slow");
       }},
      {"version-mismatch", "cluster", "Parts run different versions",
       [](ClusterSnapshot& s, double) {
         PartOf(s, v1::COMPONENT_KIND_SDS, 3).component.set_software_version("1.3.0");
       }},
      {"clock-error", "sds/3", "sds3 is unsure of MDM time by 800 ms",
       [](ClusterSnapshot& s, double) {
         PartOf(s, v1::COMPONENT_KIND_SDS, 3).mdm_time_error_ms = 800;
       }},
      {"data-unavailable", "pool/1", "Data of pool fast can't be reached",
       Redundancy(v1::REDUNDANCY_STATE_UNAVAILABLE)},
      {"data-single-copy", "pool/1", "Some data of pool fast has a single copy",
       Redundancy(v1::REDUNDANCY_STATE_SINGLE_COPY)},
      {"data-degraded", "pool/1", "Some data of pool fast lacks a copy",
       Redundancy(v1::REDUNDANCY_STATE_DEGRADED)},
      {"one-loss-away", "cluster", "Losing one more server would make data unavailable",
       Redundancy(v1::REDUNDANCY_STATE_SINGLE_COPY)},
      {"volume-damaged", "volume/7", "Blocks of volume data are lost",
       [](ClusterSnapshot& s, double) {
         v1::VolumeHealth& health = s.volume_health.emplace_back();
         health.set_volume_id(7);
         health.set_verdict(v1::VOLUME_VERDICT_DAMAGED);
         health.set_unreadable_blocks(3);
         health.set_cause("They are bad on every replica.");
         health.set_action("Restore a backup.");
       }},
      Counter("corruption-found", v1::COMPONENT_KIND_SDS,
              "tessera_sds_corrupt_blocks_found_total{by=\"read\"}", 2, kHour,
              "Server sds1 found bad blocks"),
      Counter("corruption-unrepairable", v1::COMPONENT_KIND_SDS,
              "tessera_sds_corrupt_blocks_unrepairable_total", 1, kHour,
              "Server sds1 has bad blocks without a good copy"),
      Counter("copies-differ", v1::COMPONENT_KIND_SDS, "tessera_sds_blocks_different_total", 1,
              kHour, "Copies on server sds1 differ from others"),
      {"rebuild-stuck", "operation/9", "The rebuild of device 12 of sds2 makes no progress",
       Rebuild(v1::OPERATION_STATE_RUNNING, 0), Rebuild(v1::OPERATION_STATE_RUNNING, 1e6), 1'800,
       630, 60, 10, Rebuild(v1::OPERATION_STATE_RUNNING, 1e5)},
      {"operation-blocked", "operation/9", "The rebuild of device 12 of sds2 can't go on",
       Rebuild(v1::OPERATION_STATE_BLOCKED, 0), Rebuild(v1::OPERATION_STATE_RUNNING, 0)},
      {"no-room-to-rebuild", "pool/1", "Pool fast could not be rebuilt after losing sds1",
       [](ClusterSnapshot& s, double) { Fill(s, 70); }},
      {"pool-nearly-full", "pool/1", "Pool fast is 85 % full",
       [](ClusterSnapshot& s, double) { Fill(s, 85); }},
      {"pool-full", "pool/1", "Pool fast is 92 % full",
       [](ClusterSnapshot& s, double) { Fill(s, 92); }},
      {"pool-full-soon", "pool/1", "Pool fast is full in",
       [](ClusterSnapshot& s, double seconds) { Fill(s, 30 + 70 * seconds / (3 * kDay)); },
       [](ClusterSnapshot& s, double) { Fill(s, 38); }, 6 * kHour, 6 * kHour, 7 * kHour, 120,
       [](ClusterSnapshot& s, double) { Fill(s, 30); }},
      {"pool-over-committed", "pool/1", "Pool fast has promised 150 % of what it can hold",
       [](ClusterSnapshot& s, double) {
         Fill(s, 60);
         PoolOf(s).mutable_pool()->mutable_capacity()->set_overcommit_percent(150);
       }},
      {"device-nearly-full", "device/11", "device 11 of sds1 is 96 % full",
       [](ClusterSnapshot& s, double) { Fill(s, 96); }},
      {"volume-over-budget", "volume/7", "Volume data takes more than its budget",
       [](ClusterSnapshot& s, double) { s.volumes[0].set_over_budget(true); }},
      {"device-failed", "device/12", "device 12 of sds2 failed",
       [](ClusterSnapshot& s, double) {
         v1::Device* const device = ServerOf(s, 1).mutable_devices(0);
         device->set_state(v1::COMPONENT_STATE_FAILED);
         device->mutable_description()->set_failure("fsync: Input/output error");
       }},
      Counter("client-io-timeouts", v1::COMPONENT_KIND_SDC, "tessera_sdc_io_timeouts_total", 11,
              600, "Requests of client client1 time out"),
      Counter("client-io-errors", v1::COMPONENT_KIND_SDC,
              "tessera_sdc_io_errors_total{op=\"write\"}", 11, 600,
              "Requests of client client1 fail"),
      Counter("grant-failures", v1::COMPONENT_KIND_SDC, "tessera_sdc_grant_failures_total", 11, 600,
              "Client client1 fails to get grants"),
      Counter("token-refusals", v1::COMPONENT_KIND_SDS,
              "tessera_sds_token_refused_total{reason=\"expired\"}", 104, 600,
              "Server sds1 refuses tokens"),
      Counter("token-forgeries", v1::COMPONENT_KIND_SDS,
              "tessera_sds_token_refused_total{reason=\"bad_signature\"}", 4, kHour,
              "Server sds1 was sent forged or replayed tokens"),
      {"read-latency-high", "cluster", "Reads are slow: 20000 µs (99th percentile)",
       [](ClusterSnapshot& s, double) { s.figures.set_read_latency_p99_micros(20'000); }, nullptr,
       7 * kHour, 0, 0, 60},
      {"write-latency-high", "cluster", "Writes are slow: 20000 µs (99th percentile)",
       [](ClusterSnapshot& s, double) { s.figures.set_write_latency_p99_micros(20'000); }, nullptr,
       7 * kHour, 0, 0, 60},
      {"schedule-missed", "schedule/4", "Snapshot schedule hourly missed its time",
       [](ClusterSnapshot& s, double) { s.schedules[0].set_next_run_ms(s.time_ms - 601'000); }},
      {"schedule-failed", "schedule/4", "Snapshot schedule hourly failed",
       [](ClusterSnapshot& s, double) { s.schedules[0].set_last_error("the pool is full"); }},
      {"certificate-expires", "certificate/console", "The certificate console ends in 29 days",
       Expiry(29)},
      {"certificate-expires-soon", "certificate/console", "The certificate console ends in 6 days",
       Expiry(6)},
      {"certificate-expired", "certificate/console", "The certificate console has ended",
       Expiry(0)},
  };
  return *rows;
}

AlertRules BuiltinRules() {
  absl::StatusOr<AlertRules> rules = LoadRules("");
  REQUIRE(rules.ok());
  return *rules;
}

// Plays a row with its rule alone, and keeps what came of the row's subject.
class Play {
 public:
  Play(const Row& row, const std::shared_ptr<AlertRule>& rule) : row_(row), rule_(rule) {
    engine_.SetRules({rule});
  }

  void Run() {
    const Change nothing = [](ClusterSnapshot&, double) {};
    Phase(row_.before ? row_.before : nothing, row_.before_s);
    CHECK(events_.empty());
    const uint64_t bad_s = now_s_;
    const uint64_t raise_s = rule_->raise_after_ms / 1000;
    Phase(row_.bad, raise_s + row_.raise_slack_s + row_.step_s);
    REQUIRE(events_.size() == 1);
    CHECK(events_[0].change.event == AlertEvent::kRaised);
    CHECK(events_[0].at_s >= bad_s + raise_s);
    const AlertChange& raised = events_[0].change;
    CHECK(raised.severity == rule_->severity);
    CHECK(raised.summary.rfind(row_.summary, 0) == 0);
    for (const std::string& text : {raised.summary, raised.detail, raised.remedy}) {
      INFO(text);
      CHECK(text.find("unknown") == std::string::npos);
      CHECK_FALSE(text.empty());
    }
    const uint64_t well_s = now_s_;
    const uint64_t resolve_s = rule_->resolve_after_ms / 1000;
    Phase(row_.after ? row_.after : nothing, resolve_s + row_.resolve_slack_s + 2 * row_.step_s);
    REQUIRE(events_.size() == 2);
    CHECK(events_[1].change.event == AlertEvent::kResolved);
    CHECK(events_[1].at_s >= well_s + resolve_s);
  }

 private:
  struct Seen {
    AlertChange change;
    uint64_t at_s;
  };

  // At first_s = now_s_, now_s_ + step, … for `seconds`.
  void Phase(const Change& change, uint64_t seconds) {
    const uint64_t first_s = now_s_;
    for (; now_s_ < first_s + seconds; now_s_ += row_.step_s) {
      const uint64_t now_ms = kStartMs + now_s_ * 1000;
      ClusterSnapshot snapshot = HealthyCluster(kStartMs, now_ms);
      change(snapshot, static_cast<double>(now_s_ - first_s));
      const EngineStep step =
          engine_.Step(SubjectsOf(snapshot), {5'000 + now_s_ * 1000, now_ms}, false);
      for (const AlertChange& seen : step.changes) {
        if (seen.key.subject == row_.subject) events_.push_back({seen, now_s_});
      }
    }
  }

  const Row& row_;
  const std::shared_ptr<AlertRule> rule_;
  AlertEngine engine_;
  uint64_t now_s_ = 0;
  std::vector<Seen> events_;
};

TEST_CASE("Each built-in rule raises when its condition holds, says what is wrong, and resolves") {
  const AlertRules rules = BuiltinRules();
  for (const Row& row : Rows()) {
    INFO(row.rule);
    const auto rule = std::find_if(rules.begin(), rules.end(),
                                   [&](const auto& r) { return r->name == row.rule; });
    REQUIRE(rule != rules.end());
    Play(row, *rule).Run();
  }
}

TEST_CASE("Every built-in rule has a row in the table, and every row a rule") {
  std::set<std::string> rules;
  for (const auto& rule : BuiltinRules()) rules.insert(rule->name);
  std::set<std::string> rows;
  for (const Row& row : Rows()) rows.insert(row.rule);
  CHECK(rows == rules);
}

TEST_CASE("Every built-in rule says what to do") {
  for (const auto& rule : BuiltinRules()) {
    INFO(rule->name);
    CHECK_FALSE(rule->remedy.text().empty());
    CHECK_FALSE(rule->detail.text().empty());
    CHECK_FALSE(rule->disabled);
  }
}

TEST_CASE("A cluster in which all is well raises nothing in a day") {
  AlertEngine engine;
  engine.SetRules(BuiltinRules());
  for (uint64_t now_s = 0; now_s < kDay; now_s += 300) {
    const uint64_t now_ms = kStartMs + now_s * 1000;
    const EngineStep step = engine.Step(SubjectsOf(HealthyCluster(kStartMs, now_ms)),
                                        {5'000 + now_s * 1000, now_ms}, false);
    for (const AlertChange& change : step.changes) FAIL(change.key.rule << ": " << change.summary);
  }
}

TEST_CASE("Every value and text of a subject stands in the catalogue of its kind") {
  ClusterSnapshot snapshot = HealthyCluster(kStartMs, kStartMs);
  AddRebuild(snapshot, v1::OPERATION_STATE_RUNNING);
  std::map<SubjectKind, std::set<std::string>> produced;
  for (const Subject& subject : SubjectsOf(snapshot).subjects) {
    for (const auto& [name, value] : subject.values) produced[subject.kind].insert(name);
    for (const auto& [name, text] : subject.texts) produced[subject.kind].insert(name);
  }
  for (const SubjectKind kind : kSubjectKinds) {
    INFO(KindName(kind));
    std::set<std::string> known;
    for (const ValueInfo& value : ValuesOf(kind)) known.insert(value.name);
    for (const ValueInfo& text : TextsOf(kind)) known.insert(text.name);
    CHECK(produced[kind] == known);
  }
}

TEST_CASE("With the MDM away its subjects stay, without values, and are not complete") {
  ClusterSnapshot snapshot = HealthyCluster(kStartMs, kStartMs);
  SilenceMdm(snapshot);
  const Subjects subjects = SubjectsOf(snapshot);
  CHECK(subjects.complete ==
        std::set<SubjectKind>{SubjectKind::kCluster, SubjectKind::kMdm, SubjectKind::kCertificate});
  for (const Subject& subject : subjects.subjects) {
    if (subject.kind == SubjectKind::kPool) CHECK(subject.values.empty());
    if (subject.kind == SubjectKind::kSds) {
      CHECK_FALSE(subject.values.contains("down"));
      CHECK(subject.values.at("answers") == 1);
      CHECK(subject.values.at("away") == 0);
    }
  }
}

}  // namespace
}  // namespace tessera::mgmt
