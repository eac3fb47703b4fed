#include "services/mgmt/monitor/overview.h"

#include <catch2/catch.hpp>
#include <functional>

#include "services/mgmt/monitor/cluster_figures.h"

namespace tessera::mgmt {
namespace {

constexpr uint64_t kNow = 1'700'000'000'000;

PolledPart* AddPart(v1::ComponentKind kind, const std::string& name, bool answers,
                    ClusterSnapshot* snapshot) {
  PolledPart& part = snapshot->parts.emplace_back();
  part.component.set_kind(kind);
  part.component.set_component_id(snapshot->parts.size());
  part.component.set_name(name);
  part.component.set_answers(answers);
  part.component.set_last_answer_ms(kNow - 60'000);
  return &part;
}

// Three servers, one client, two volumes; all is well.
ClusterSnapshot Healthy() {
  ClusterSnapshot snapshot;
  snapshot.time_ms = kNow;
  snapshot.mdm_answers = true;
  snapshot.mdm_answered_ms = kNow;
  for (const char* name : {"sds1", "sds2", "sds3"}) {
    AddPart(v1::COMPONENT_KIND_SDS, name, true, &snapshot);
  }
  AddPart(v1::COMPONENT_KIND_SDC, "host1", true, &snapshot);
  snapshot.figures.set_volumes(2);
  return snapshot;
}

void AddHealth(const std::string& name, v1::VolumeVerdict verdict, ClusterSnapshot* snapshot) {
  v1::VolumeHealth& health = snapshot->volume_health.emplace_back();
  health.set_name(name);
  health.set_verdict(verdict);
}

v1::Alert MakeAlert(v1::AlertSeverity severity, const std::string& summary, uint64_t raised_ms) {
  v1::Alert alert;
  alert.set_severity(severity);
  alert.set_summary(summary);
  alert.set_raised_ms(raised_ms);
  return alert;
}

}  // namespace

TEST_CASE("the verdict says in plain words what is wrong, worst first") {
  struct Case {
    const char* verdict;
    std::function<void(ClusterSnapshot*)> spoil;
  };
  const std::vector<Case> cases = {
      {"All data has its copies. 3 servers, 1 client.", [](auto*) {}},
      {"All is well. There are no volumes yet. 3 servers, 1 client.",
       [](auto* snapshot) { snapshot->figures.set_volumes(0); }},
      {"The cluster has not been looked at yet.", [](auto* snapshot) { snapshot->time_ms = 0; }},
      {"Server sds2 does not answer. 3 servers, 1 client.",
       [](auto* snapshot) { snapshot->parts[1].component.set_answers(false); }},
      {"Servers sds1 and sds3 do not answer. Client host1 does not answer. 3 servers, 1 client.",
       [](auto* snapshot) {
         for (const size_t i : {0, 2, 3}) snapshot->parts[i].component.set_answers(false);
       }},
      // One that nobody has asked yet is not said to be silent.
      {"All data has its copies. 4 servers, 1 client.",
       [](auto* snapshot) {
         AddPart(v1::COMPONENT_KIND_SDS, "sds4", false, snapshot)->component.set_last_answer_ms(0);
       }},
      {"1 volume has fewer copies than it should: db. 3 servers, 1 client.",
       [](auto* snapshot) { AddHealth("db", v1::VOLUME_VERDICT_DEGRADED, snapshot); }},
      {"5 volumes have a single copy left of some data: a, b, c and 2 more. 3 servers, 1 client.",
       [](auto* snapshot) {
         for (const char* name : {"a", "b", "c", "d", "e"}) {
           AddHealth(name, v1::VOLUME_VERDICT_SINGLE_COPY, snapshot);
         }
       }},
      {"1 volume has lost blocks: y. 2 volumes can't be used in part: x and z. Server sds1 does "
       "not "
       "answer. 3 servers, 1 client.",
       [](auto* snapshot) {
         AddHealth("x", v1::VOLUME_VERDICT_UNAVAILABLE, snapshot);
         AddHealth("y", v1::VOLUME_VERDICT_DAMAGED, snapshot);
         AddHealth("z", v1::VOLUME_VERDICT_UNAVAILABLE, snapshot);
         snapshot->parts[0].component.set_answers(false);
       }},
      {"The MDM does not answer (connection refused): volumes and redundancy are as of 5 min ago. "
       "3 "
       "servers, 1 client.",
       [](auto* snapshot) {
         snapshot->mdm_answers = false;
         snapshot->mdm_answered_ms = kNow - 300'000;
         snapshot->mdm_error = "connection refused";
       }},
      {"The MDM has not answered yet (connection refused): what it knows is not shown. 3 servers, "
       "1 "
       "client.",
       [](auto* snapshot) {
         snapshot->mdm_answers = false;
         snapshot->mdm_answered_ms = 0;
         snapshot->mdm_error = "connection refused";
       }},
      {"2 devices of sds2 have failed. Missing copies are being made: 1.5 GiB left, about 3 min. 3 "
       "servers, 1 client.",
       [](auto* snapshot) {
         v1::Sds* sds = snapshot->topology.mutable_topology()->add_unassigned_sdss();
         sds->set_name("sds2");
         for (int i = 0; i < 2; ++i) sds->add_devices()->set_state(v1::COMPONENT_STATE_FAILED);
         v1::Operation& rebuild = snapshot->operations.emplace_back();
         rebuild.set_kind(v1::OPERATION_KIND_REBUILD);
         rebuild.set_eta_ms(180'000);
         snapshot->figures.set_rebuild_remaining_bytes(uint64_t{3} << 29);
       }},
      {"host1: db: IO waits for a server. 3 servers, 1 client.",
       [](auto* snapshot) {
         snapshot->parts[3].component.add_problems("db: IO waits for a server");
       }},
      {"1 volume has lost blocks: a. 1 volume can't be used in part: b. 1 volume has a single copy "
       "left of some data: c. And 2 more findings. 3 servers, 1 client.",
       [](auto* snapshot) {
         AddHealth("a", v1::VOLUME_VERDICT_DAMAGED, snapshot);
         AddHealth("b", v1::VOLUME_VERDICT_UNAVAILABLE, snapshot);
         AddHealth("c", v1::VOLUME_VERDICT_SINGLE_COPY, snapshot);
         AddHealth("d", v1::VOLUME_VERDICT_DEGRADED, snapshot);
         snapshot->parts[0].component.set_answers(false);
       }},
  };
  for (const Case& test : cases) {
    ClusterSnapshot snapshot = Healthy();
    test.spoil(&snapshot);
    CHECK(VerdictLine(snapshot, {}, kNow) == test.verdict);
  }
}

TEST_CASE("alerts are in the verdict when nothing else says it, else counted") {
  const std::vector<v1::Alert> alerts = {
      MakeAlert(v1::ALERT_SEVERITY_ERROR, "Pool p is 91 % full", 1),
      MakeAlert(v1::ALERT_SEVERITY_WARNING, "Certificate ends in 9 days", 1),
      MakeAlert(v1::ALERT_SEVERITY_INFO, "Good to know", 1)};
  ClusterSnapshot snapshot = Healthy();
  CHECK(VerdictLine(snapshot, alerts, kNow) ==
        "Pool p is 91 % full. 1 more alert is active. 3 servers, 1 client.");
  CHECK(VerdictLine(snapshot, {alerts[2]}, kNow) ==
        "All data has its copies. 3 servers, 1 client.");
  snapshot.parts[0].component.set_answers(false);
  CHECK(VerdictLine(snapshot, alerts, kNow) ==
        "Server sds1 does not answer. 2 alerts are active. 3 servers, 1 client.");
}

TEST_CASE("the overview has the alerts worst first, newest first, and no more than a hundred") {
  std::vector<v1::Alert> alerts;
  for (uint64_t i = 0; i < 150; ++i) {
    alerts.push_back(MakeAlert(v1::ALERT_SEVERITY_WARNING, "w", i));
  }
  alerts.push_back(MakeAlert(v1::ALERT_SEVERITY_CRITICAL, "c", 3));
  const v1::GetOverviewResponse overview = MakeOverview(Healthy(), alerts, kNow + 5);
  REQUIRE(overview.alerts_size() == 100);
  CHECK(overview.worst() == v1::ALERT_SEVERITY_CRITICAL);
  CHECK(overview.alerts(0).summary() == "c");
  CHECK(overview.alerts(1).raised_ms() == 149);
  CHECK(overview.now_ms() == kNow + 5);
  CHECK(overview.components_size() == 4);
  CHECK(MakeOverview(Healthy(), {}, kNow).worst() == v1::ALERT_SEVERITY_UNSPECIFIED);
}

TEST_CASE("bytes and durations in words") {
  CHECK(BytesInWords(1) == "1 byte");
  CHECK(BytesInWords(1'023) == "1023 bytes");
  CHECK(BytesInWords(1'536) == "1.5 KiB");
  CHECK(BytesInWords(uint64_t{20} << 40) == "20 TiB");
  CHECK(DurationInWords(499) == "0 s");
  CHECK(DurationInWords(119'000) == "119 s");
  CHECK(DurationInWords(120'000) == "2 min");
  CHECK(DurationInWords(2 * 3'600'000) == "2 h");
  CHECK(DurationInWords(3 * 86'400'000) == "3 days");
}

TEST_CASE("the cluster's figures are sums over devices, volumes and clients that answer") {
  ClusterSnapshot snapshot = Healthy();
  for (const uint64_t capacity : {100, 200}) {
    v1::Sds* sds = snapshot.topology.mutable_topology()->add_unassigned_sdss();
    sds->add_devices()->mutable_description()->set_capacity_bytes(capacity);
    sds->mutable_devices(0)->mutable_description()->set_used_bytes(capacity / 2);
  }
  for (const uint64_t size : {10, 30}) snapshot.volumes.emplace_back().set_size_bytes(size);
  AddHealth("a", v1::VOLUME_VERDICT_SINGLE_COPY, &snapshot);
  snapshot.parts[3].figures["reads_per_second"] = 12.5;
  AddPart(v1::COMPONENT_KIND_SDC, "host2", true, &snapshot)->figures["reads_per_second"] = 7.5;
  AddPart(v1::COMPONENT_KIND_SDC, "gone", false, &snapshot)->figures["reads_per_second"] = 1'000;
  v1::Operation& resync = snapshot.operations.emplace_back();
  resync.set_kind(v1::OPERATION_KIND_RESYNC);
  resync.set_bytes_total(100);
  resync.set_bytes_done(40);
  v1::Operation& scrub = snapshot.operations.emplace_back();
  scrub.set_kind(v1::OPERATION_KIND_SCRUB);
  scrub.set_bytes_total(1'000);
  const Distribution reads{{0.001}, {100, 0}};
  const v1::ClusterFigures figures = SumUp(snapshot, reads, {});
  CHECK(figures.capacity_bytes() == 300);
  CHECK(figures.used_bytes() == 150);
  CHECK(figures.provisioned_bytes() == 40);
  CHECK(figures.volumes() == 2);
  CHECK(figures.volumes_degraded() == 1);
  CHECK(figures.volumes_healthy() == 1);
  CHECK(figures.reads_per_second() == Approx(20));
  CHECK(figures.rebuild_remaining_bytes() == 60);
  CHECK(figures.read_latency_p50_micros() == 500);
  CHECK(figures.write_latency_p50_micros() == 0);
}

TEST_CASE("history gets what answers: silent parts leave a gap, and so does the MDM") {
  ClusterSnapshot snapshot = Healthy();
  snapshot.parts[0].figures["used_bytes"] = 5;
  snapshot.parts[1].figures["used_bytes"] = 6;
  snapshot.parts[1].component.set_answers(false);
  v1::Volume& volume = snapshot.volumes.emplace_back();
  volume.set_volume_id(9);
  volume.set_name("db");
  snapshot.volume_rates[9] = {1, 2, 3, 4};
  snapshot.volume_rates[10] = {1, 2, 3, 4};  // deleted meanwhile
  const auto count = [&](v1::ComponentKind kind, uint64_t volume_id, std::string_view figure) {
    size_t found = 0;
    for (const SeriesSample& sample : SamplesOf(snapshot)) {
      if (sample.series.kind == kind && sample.series.volume_id == volume_id &&
          sample.series.figure == figure) {
        ++found;
      }
    }
    return found;
  };
  CHECK(count(v1::COMPONENT_KIND_SDS, 0, "used_bytes") == 1);
  CHECK(count(v1::COMPONENT_KIND_UNSPECIFIED, 9, "write_bytes_per_second") == 1);
  CHECK(count(v1::COMPONENT_KIND_UNSPECIFIED, 10, "write_bytes_per_second") == 0);
  CHECK(count(v1::COMPONENT_KIND_UNSPECIFIED, 0, "used_bytes") == 1);
  snapshot.mdm_answers = false;
  CHECK(count(v1::COMPONENT_KIND_UNSPECIFIED, 0, "used_bytes") == 0);
  CHECK(count(v1::COMPONENT_KIND_UNSPECIFIED, 0, "reads_per_second") == 1);
}

}  // namespace tessera::mgmt
