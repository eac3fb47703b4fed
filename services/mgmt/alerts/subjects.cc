#include "services/mgmt/alerts/subjects.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tessera::mgmt {
namespace {

constexpr uint32_t kWarnPercent = 80;      // CapacityPolicy's defaults
constexpr uint32_t kCriticalPercent = 90;  //
constexpr double kFullPercent = 85;        // RepairSettings' default: fuller devices take no copies

double Flag(bool condition) { return condition ? 1 : 0; }

// The sum of a figure over its labels; with `label`, only where `label` has one of `among`.
std::optional<double> Sum(const PolledPart& part, const std::string& name,
                          const std::vector<std::string>& among = {}) {
  std::optional<double> sum;
  for (auto it = part.figures.lower_bound(name);
       it != part.figures.end() && absl::StartsWith(it->first, name); ++it) {
    const std::string rest = it->first.substr(name.size());
    if (!rest.empty() && rest.front() != '{') continue;
    const bool counts =
        among.empty() || std::any_of(among.begin(), among.end(), [&](const std::string& value) {
          return absl::StrContains(rest, absl::StrCat("=\"", value, "\""));
        });
    sum = sum.value_or(0) + (counts ? it->second : 0);
  }
  return sum;
}

void Put(Subject* subject, const char* name, std::optional<double> value) {
  if (value.has_value()) subject->values[name] = *value;
}

class Builder {
 public:
  explicit Builder(const ClusterSnapshot& snapshot) : snapshot_(snapshot) {
    for (const PolledPart& part : snapshot.parts) {
      const v1::MonitoredComponent& component = part.component;
      parts_[{component.kind(), component.component_id()}] = &part;
      if (component.kind() == v1::COMPONENT_KIND_MDM && component.answers()) {
        mdm_version_ = component.software_version();
      }
    }
  }

  Subjects Build() {
    AddMdm();
    AddTopology();
    AddNodes();
    AddVolumes();
    AddSchedules();
    AddOperations();
    AddCertificates();
    AddCluster();
    result_.complete = {SubjectKind::kCluster, SubjectKind::kMdm, SubjectKind::kCertificate};
    if (snapshot_.mdm_answers) result_.complete.insert(kSubjectKinds.begin(), kSubjectKinds.end());
    return std::move(result_);
  }

 private:
  struct FaultSetUse {
    std::string name;
    double capacity = 0;
    double used = 0;
  };

  Subject& Add(SubjectKind kind, std::string id, std::string name) {
    Subject& subject = result_.subjects.emplace_back();
    subject.kind = kind;
    subject.id = std::move(id);
    subject.name = std::move(name);
    if (subject.name.empty()) subject.name = subject.Key();
    return subject;
  }

  static void FillPart(const PolledPart& part, Subject* subject) {
    const v1::MonitoredComponent& component = part.component;
    subject->values["answers"] = Flag(component.answers());
    subject->texts["poll_error"] = component.poll_error();
    subject->texts["address"] = component.address();
    subject->texts["version"] = component.software_version();
    if (!component.answers()) return;
    subject->values["poll_micros"] = static_cast<double>(component.poll_micros());
    subject->values["uptime_seconds"] = static_cast<double>(component.uptime_ms()) / 1000;
    subject->values["problems"] = component.problems_size();
    subject->values["clock_error_ms"] = static_cast<double>(part.mdm_time_error_ms);
    subject->texts["problems_text"] = absl::StrJoin(component.problems(), "; ");
  }

  void AddMdm() {
    bool found = false;
    for (const auto& [key, part] : parts_) {
      if (key.first != v1::COMPONENT_KIND_MDM) continue;
      found = true;
      FillPart(*part, &Add(SubjectKind::kMdm, absl::StrCat(key.second), part->component.name()));
    }
    if (found) return;
    Subject& mdm = Add(SubjectKind::kMdm, "0", "mdm");
    mdm.values["answers"] = Flag(snapshot_.mdm_answers);
    mdm.texts["poll_error"] = snapshot_.mdm_error;
  }

  void AddTopology() {
    const v1::Topology& topology = snapshot_.topology.topology();
    for (const v1::Sds& sds : topology.unassigned_sdss()) AddServer(sds, nullptr);
    for (const v1::ProtectionDomainNode& domain : topology.protection_domains()) {
      for (const v1::Sds& sds : domain.sdss()) AddServer(sds, &domain);
    }
    for (const v1::ProtectionDomainNode& domain : topology.protection_domains()) {
      for (const v1::StoragePoolNode& pool : domain.pools()) AddPool(pool);
    }
    for (const v1::Sdc& sdc : topology.sdcs()) AddClient(sdc);
  }

  void AddServer(const v1::Sds& sds, const v1::ProtectionDomainNode* domain) {
    fault_set_of_[sds.sds_id()] = {0, sds.sds_id()};
    fault_set_names_[{0, sds.sds_id()}] = sds.name();
    if (domain != nullptr && sds.fault_set_id() != 0) {
      fault_set_of_[sds.sds_id()] = {1, sds.fault_set_id()};
      for (const v1::FaultSet& set : domain->fault_sets()) {
        fault_set_names_[{1, set.fault_set_id()}] = absl::StrCat("fault set ", set.name());
      }
    }
    Subject& subject = Add(SubjectKind::kSds, absl::StrCat(sds.sds_id()), sds.name());
    FillNode(v1::COMPONENT_KIND_SDS, sds.sds_id(), sds.state(), sds.last_heartbeat_ms(), &subject);
    if (snapshot_.mdm_answers) {
      double capacity = 0;
      double used = 0;
      int failed = 0;
      for (const v1::Device& device : sds.devices()) {
        capacity += static_cast<double>(device.description().capacity_bytes());
        used += static_cast<double>(device.description().used_bytes());
        failed += device.state() == v1::COMPONENT_STATE_FAILED ? 1 : 0;
      }
      subject.values["maintenance"] = Flag(sds.maintenance_until_ms() > snapshot_.time_ms);
      subject.values["devices"] = sds.devices_size();
      subject.values["devices_failed"] = failed;
      subject.values["capacity_bytes"] = capacity;
      subject.values["used_bytes"] = used;
      subject.texts["maintenance_reason"] = sds.maintenance_reason();
    }
    for (const v1::Device& device : sds.devices()) AddDevice(device, sds);
  }

  // What the MDM says of a server or client, and what the poll of it said.
  void FillNode(v1::ComponentKind kind, uint64_t id, v1::ComponentState state,
                uint64_t last_heartbeat_ms, Subject* subject) {
    const bool stale = state == v1::COMPONENT_STATE_STALE;
    const bool down = state == v1::COMPONENT_STATE_OFFLINE;
    subject->values["away"] = Flag(snapshot_.mdm_answers && (stale || down));
    subject->texts["mdm_version"] = mdm_version_;
    if (snapshot_.mdm_answers) {
      subject->values["stale"] = Flag(stale);
      subject->values["down"] = Flag(down);
      subject->values["last_heartbeat_ms"] = static_cast<double>(last_heartbeat_ms);
    }
    const auto found = parts_.find({kind, id});
    if (found == parts_.end()) return;
    const PolledPart& part = *found->second;
    seen_.insert({kind, id});
    FillPart(part, subject);
    if (!part.component.answers()) return;
    if (!mdm_version_.empty() && !part.component.software_version().empty()) {
      subject->values["version_differs"] = Flag(mdm_version_ != part.component.software_version());
    }
    if (kind == v1::COMPONENT_KIND_SDS) FillServerFigures(part, subject);
    if (kind == v1::COMPONENT_KIND_SDC) FillClientFigures(part, subject);
  }

  static void FillServerFigures(const PolledPart& part, Subject* subject) {
    Put(subject, "token_refusals", Sum(part, "tessera_sds_token_refused_total"));
    Put(subject, "token_forgeries",
        Sum(part, "tessera_sds_token_refused_total",
            {"bad_signature", "wrong_operation", "out_of_range", "wrong_volume", "data_mismatch",
             "replayed"}));
    Put(subject, "corrupt_blocks_found", Sum(part, "tessera_sds_corrupt_blocks_found_total"));
    Put(subject, "corrupt_blocks_repaired", Sum(part, "tessera_sds_corrupt_blocks_repaired_total"));
    Put(subject, "corrupt_blocks_unrepairable",
        Sum(part, "tessera_sds_corrupt_blocks_unrepairable_total"));
    Put(subject, "blocks_different", Sum(part, "tessera_sds_blocks_different_total"));
    Put(subject, "learnings_failed", Sum(part, "tessera_sds_learnings_failed_total"));
  }

  static void FillClientFigures(const PolledPart& part, Subject* subject) {
    Put(subject, "io_timeouts", Sum(part, "tessera_sdc_io_timeouts_total"));
    Put(subject, "io_errors", Sum(part, "tessera_sdc_io_errors_total"));
    Put(subject, "io_requests", Sum(part, "tessera_sdc_io_requests_total"));
    Put(subject, "grant_failures", Sum(part, "tessera_sdc_grant_failures_total"));
    Put(subject, "waits_for_space", Sum(part, "tessera_sdc_waits_for_space_total"));
    Put(subject, "mdm_reachable", Sum(part, "tessera_sdc_mdm_reachable"));
  }

  void AddClient(const v1::Sdc& sdc) {
    Subject& subject = Add(SubjectKind::kSdc, absl::StrCat(sdc.sdc_id()), sdc.name());
    FillNode(v1::COMPONENT_KIND_SDC, sdc.sdc_id(), sdc.state(), sdc.last_heartbeat_ms(), &subject);
    if (snapshot_.mdm_answers) subject.values["mappings"] = sdc.mappings_size();
  }

  // Parts that are polled though the tree does not have them.
  void AddNodes() {
    for (const auto& [key, part] : parts_) {
      if (seen_.contains(key)) continue;
      const bool server = key.first == v1::COMPONENT_KIND_SDS;
      if (!server && key.first != v1::COMPONENT_KIND_SDC) continue;
      if (snapshot_.mdm_answers) continue;  // the MDM has forgotten it
      Subject& subject = Add(server ? SubjectKind::kSds : SubjectKind::kSdc,
                             absl::StrCat(key.second), part->component.name());
      FillNode(key.first, key.second, v1::COMPONENT_STATE_UNSPECIFIED, 0, &subject);
    }
  }

  void AddDevice(const v1::Device& device, const v1::Sds& sds) {
    Subject& subject = Add(SubjectKind::kDevice, absl::StrCat(device.device_id()),
                           absl::StrCat("device ", device.device_id(), " of ", sds.name()));
    subject.texts["server"] = sds.name();
    subject.texts["path"] = device.description().path();
    subject.texts["failure"] = device.description().failure();
    if (!snapshot_.mdm_answers) return;
    const auto capacity = static_cast<double>(device.description().capacity_bytes());
    const auto used = static_cast<double>(device.description().used_bytes());
    subject.values = {
        {"failed", Flag(device.state() == v1::COMPONENT_STATE_FAILED)},
        {"stale", Flag(device.state() == v1::COMPONENT_STATE_STALE)},
        {"down", Flag(device.state() == v1::COMPONENT_STATE_OFFLINE)},
        {"in_pool", Flag(device.pool_id() != 0)},
        {"draining", Flag(device.use() == v1::DEVICE_USE_DRAINING)},
        {"capacity_bytes", capacity},
        {"used_bytes", used},
        {"used_percent", capacity > 0 ? 100 * used / capacity : 0},
        {"placement_groups", device.placement_groups()},
    };
  }

  void AddPool(const v1::StoragePoolNode& node) {
    const v1::StoragePool& pool = node.pool();
    Subject& subject = Add(SubjectKind::kPool, absl::StrCat(pool.pool_id()), pool.name());
    if (!snapshot_.mdm_answers) return;
    const v1::PoolCapacity& capacity = pool.capacity();
    const v1::CapacityPolicy& policy = pool.capacity_policy();
    const auto raw = static_cast<double>(capacity.raw_capacity_bytes());
    const auto used = static_cast<double>(capacity.raw_used_bytes());
    subject.values = {
        {"capacity_bytes", raw},
        {"used_bytes", used},
        {"used_percent", raw > 0 ? 100 * used / raw : 0},
        {"warn_percent", policy.warn_percent() != 0 ? policy.warn_percent() : kWarnPercent},
        {"critical_percent",
         policy.critical_percent() != 0 ? policy.critical_percent() : kCriticalPercent},
        {"provisioned_bytes", static_cast<double>(capacity.provisioned_bytes())},
        {"available_bytes", static_cast<double>(capacity.available_bytes())},
        {"overcommit_percent", capacity.overcommit_percent()},
        {"overcommit_limit_percent", policy.overcommit_limit_percent()},
        {"volumes", node.volumes_size()},
        {"replica_count", pool.replica_count()},
        {"min_replicas", pool.min_replicas()},
        {"degraded", Flag(pool.redundancy() == v1::REDUNDANCY_STATE_DEGRADED)},
        {"single_copy", Flag(pool.redundancy() == v1::REDUNDANCY_STATE_SINGLE_COPY)},
        {"unavailable", Flag(pool.redundancy() == v1::REDUNDANCY_STATE_UNAVAILABLE)},
        {"devices", node.devices_size()},
    };
    FillSpareCopies(pool, &subject);
    FillRebuildRoom(node, &subject);
  }

  void FillSpareCopies(const v1::StoragePool& pool, Subject* subject) {
    if (pool.redundancy() == v1::REDUNDANCY_STATE_UNSPECIFIED) return;  // no data yet
    int copies = static_cast<int>(pool.replica_count());
    if (pool.redundancy() == v1::REDUNDANCY_STATE_DEGRADED) --copies;
    if (pool.redundancy() == v1::REDUNDANCY_STATE_SINGLE_COPY) copies = 1;
    int spare = copies - static_cast<int>(pool.min_replicas());
    if (pool.redundancy() == v1::REDUNDANCY_STATE_UNAVAILABLE) spare = -1;
    const bool at_risk = spare == 0 && pool.replica_count() > pool.min_replicas();
    subject->values["spare_copies"] = spare;
    subject->values["one_loss_away"] = Flag(at_risk);
    if (at_risk) pools_at_risk_.push_back(pool.name());
  }

  void FillRebuildRoom(const v1::StoragePoolNode& node, Subject* subject) {
    std::map<std::pair<int, uint64_t>, FaultSetUse> sets;
    for (const v1::Device& device : node.devices()) {
      if (device.state() == v1::COMPONENT_STATE_FAILED) continue;
      const auto found = fault_set_of_.find(device.sds_id());
      if (found == fault_set_of_.end()) continue;
      FaultSetUse& set = sets[found->second];
      set.name = fault_set_names_[found->second];
      set.capacity += static_cast<double>(device.description().capacity_bytes());
      set.used += static_cast<double>(device.description().used_bytes());
    }
    const FaultSetUse* largest = nullptr;
    for (const auto& [key, set] : sets) {
      if (largest == nullptr || set.used > largest->used) largest = &set;
    }
    subject->values["fault_sets"] = static_cast<double>(sets.size());
    subject->values["rebuild_possible"] = Flag(sets.size() > node.pool().replica_count());
    if (largest == nullptr) return;
    double room = -largest->used;
    for (const auto& [key, set] : sets) {
      if (&set != largest) room += std::max(0.0, set.capacity * kFullPercent / 100 - set.used);
    }
    subject->values["rebuild_room_bytes"] = room;
    subject->texts["largest"] = largest->name;
  }

  void AddVolumes() {
    std::map<uint64_t, const v1::VolumeHealth*> health;
    for (const v1::VolumeHealth& volume : snapshot_.volume_health) {
      health[volume.volume_id()] = &volume;
    }
    static const v1::VolumeHealth* const healthy = [] {
      auto* well = new v1::VolumeHealth;
      well->set_verdict(v1::VOLUME_VERDICT_HEALTHY);
      well->set_percent(100);
      return well;
    }();
    for (const v1::Volume& volume : snapshot_.volumes) {
      Subject& subject = Add(SubjectKind::kVolume, absl::StrCat(volume.volume_id()), volume.name());
      subject.texts["pool"] = volume.pool_name();
      if (!snapshot_.mdm_answers) continue;
      const auto found = health.find(volume.volume_id());
      const v1::VolumeHealth& state = found == health.end() ? *healthy : *found->second;
      subject.texts["cause"] = state.cause();
      subject.texts["action"] = state.action();
      subject.values = {
          {"size_bytes", static_cast<double>(volume.size_bytes())},
          {"byte_budget", static_cast<double>(volume.byte_budget())},
          {"over_budget", Flag(volume.over_budget())},
          {"snapshot", Flag(volume.kind() == v1::VOLUME_KIND_SNAPSHOT)},
          {"trashed", Flag(volume.trashed_until_ms() != 0)},
          {"mappings", volume.mappings_size()},
          {"degraded", Flag(state.verdict() == v1::VOLUME_VERDICT_DEGRADED)},
          {"single_copy", Flag(state.verdict() == v1::VOLUME_VERDICT_SINGLE_COPY)},
          {"unavailable", Flag(state.verdict() == v1::VOLUME_VERDICT_UNAVAILABLE)},
          {"damaged", Flag(state.verdict() == v1::VOLUME_VERDICT_DAMAGED)},
          {"unreadable_blocks", static_cast<double>(state.unreadable_blocks())},
          {"rebuild_percent", state.percent()},
          {"expires_ms", static_cast<double>(volume.expires_ms())},
      };
    }
  }

  void AddSchedules() {
    for (const v1::SnapshotSchedule& schedule : snapshot_.schedules) {
      Subject& subject =
          Add(SubjectKind::kSchedule, absl::StrCat(schedule.schedule_id()), schedule.name());
      subject.texts["last_error"] = schedule.last_error();
      if (!snapshot_.mdm_answers) continue;
      subject.values = {
          {"paused", Flag(schedule.paused())},
          {"failed", Flag(!schedule.last_error().empty())},
          {"last_run_ms", static_cast<double>(schedule.last_run_ms())},
          {"next_run_ms", schedule.paused() ? 0 : static_cast<double>(schedule.next_run_ms())},
          {"interval_seconds", schedule.interval_seconds()},
      };
    }
  }

  void AddOperations() {
    static const std::map<v1::OperationKind, const char*> names{
        {v1::OPERATION_KIND_REBUILD, "rebuild"},
        {v1::OPERATION_KIND_RESYNC, "resync"},
        {v1::OPERATION_KIND_REBALANCE, "rebalance"},
        {v1::OPERATION_KIND_DRAIN, "drain"},
        {v1::OPERATION_KIND_SCRUB, "scrub"}};
    for (const v1::Operation& operation : snapshot_.operations) {
      const bool ended = operation.state() == v1::OPERATION_STATE_SUCCEEDED ||
                         operation.state() == v1::OPERATION_STATE_CANCELLED;
      const auto kind = names.find(operation.kind());
      if (ended || kind == names.end()) continue;
      Subject& subject = Add(SubjectKind::kOperation, absl::StrCat(operation.operation_id()),
                             absl::StrCat(kind->second, " of ", operation.subject()));
      subject.texts["what"] = kind->second;
      subject.texts["last_error"] = operation.last_error();
      if (!snapshot_.mdm_answers) continue;
      for (const auto& [other, name] : names) subject.values[name] = Flag(other == kind->first);
      subject.values["restores_copies"] = Flag(operation.kind() == v1::OPERATION_KIND_REBUILD ||
                                               operation.kind() == v1::OPERATION_KIND_RESYNC);
      subject.values["running"] = Flag(operation.state() == v1::OPERATION_STATE_RUNNING);
      subject.values["blocked"] = Flag(operation.state() == v1::OPERATION_STATE_BLOCKED);
      subject.values["paused"] = Flag(operation.state() == v1::OPERATION_STATE_PAUSED);
      subject.values["started_ms"] = static_cast<double>(operation.started_ms());
      subject.values["bytes_done"] = static_cast<double>(operation.bytes_done());
      subject.values["bytes_total"] = static_cast<double>(operation.bytes_total());
      subject.values["placement_groups_done"] = operation.placement_groups_done();
      subject.values["placement_groups_total"] = operation.placement_groups_total();
      subject.values["devices_done"] = operation.devices_done();
      subject.values["retries"] = operation.retries();
    }
  }

  void AddCertificates() {
    for (const auto& [name, expiry_ms] : snapshot_.certificate_expiry_ms) {
      Subject& subject = Add(SubjectKind::kCertificate, name, name);
      subject.values["expires_ms"] = static_cast<double>(expiry_ms);
    }
  }

  void AddCluster() {
    Subject& subject = Add(SubjectKind::kCluster, "", "cluster");
    const bool ever = snapshot_.mdm_answered_ms != 0 || snapshot_.mdm_answers;
    subject.values["mdm_answers"] = Flag(snapshot_.mdm_answers);
    subject.values["mdm_answered_ms"] = static_cast<double>(snapshot_.mdm_answered_ms);
    subject.values["mdm_silent"] = Flag(ever && !snapshot_.mdm_answers);
    subject.values["mdm_never_answered"] = Flag(!ever);
    subject.texts["mdm_error"] = snapshot_.mdm_error;
    FillVersions(&subject);
    const v1::ClusterFigures& figures = snapshot_.figures;
    const std::map<std::string, double, std::less<>> io{
        {"reads_per_second", figures.reads_per_second()},
        {"writes_per_second", figures.writes_per_second()},
        {"read_bytes_per_second", figures.read_bytes_per_second()},
        {"write_bytes_per_second", figures.write_bytes_per_second()},
        {"read_latency_p50_micros", static_cast<double>(figures.read_latency_p50_micros())},
        {"read_latency_p99_micros", static_cast<double>(figures.read_latency_p99_micros())},
        {"write_latency_p50_micros", static_cast<double>(figures.write_latency_p50_micros())},
        {"write_latency_p99_micros", static_cast<double>(figures.write_latency_p99_micros())},
    };
    subject.values.insert(io.begin(), io.end());
    if (!snapshot_.mdm_answers) return;
    const v1::GetClusterHealthResponse& health = snapshot_.health;
    const std::map<std::string, double, std::less<>> state{
        {"healthy_placement_groups", health.healthy_placement_groups()},
        {"degraded_placement_groups", health.degraded_placement_groups()},
        {"unavailable_placement_groups", health.unavailable_placement_groups()},
        {"pools_one_loss_away", static_cast<double>(pools_at_risk_.size())},
        {"capacity_bytes", static_cast<double>(figures.capacity_bytes())},
        {"used_bytes", static_cast<double>(figures.used_bytes())},
        {"provisioned_bytes", static_cast<double>(figures.provisioned_bytes())},
        {"volumes", static_cast<double>(figures.volumes())},
        {"snapshots", static_cast<double>(figures.snapshots())},
        {"volumes_degraded", static_cast<double>(figures.volumes_degraded())},
        {"volumes_unavailable", static_cast<double>(figures.volumes_unavailable())},
        {"rebuild_remaining_bytes", static_cast<double>(figures.rebuild_remaining_bytes())},
    };
    subject.values.insert(state.begin(), state.end());
    subject.texts["pools_at_risk"] = absl::StrJoin(pools_at_risk_, ", ");
  }

  void FillVersions(Subject* subject) {
    std::map<std::string, std::vector<std::string>> versions;
    int silent = 0;
    for (const auto& [key, part] : parts_) {
      const v1::MonitoredComponent& component = part->component;
      if (!component.answers()) ++silent;
      if (!component.answers() || component.software_version().empty()) continue;
      versions[component.software_version()].push_back(component.name());
    }
    subject->values["parts"] = static_cast<double>(parts_.size());
    subject->values["parts_silent"] = silent;
    if (silent == 0 || versions.size() > 1) {
      subject->values["versions"] = static_cast<double>(versions.size());
    }
    constexpr size_t kNamesShown = 5;
    std::vector<std::string> shown;
    for (auto& [version, names] : versions) {
      const size_t count = names.size();
      if (count > kNamesShown) {
        names.resize(kNamesShown);
        names.push_back(absl::StrCat(count - kNamesShown, " more"));
      }
      shown.push_back(absl::StrCat(version, " (", absl::StrJoin(names, ", "), ")"));
    }
    subject->texts["versions_text"] = absl::StrJoin(shown, ", ");
  }

  const ClusterSnapshot& snapshot_;
  Subjects result_;
  std::map<std::pair<v1::ComponentKind, uint64_t>, const PolledPart*> parts_;
  std::set<std::pair<v1::ComponentKind, uint64_t>> seen_;
  std::string mdm_version_;
  // A server's fault set: {1, fault set id}, or {0, server id} where it has none.
  std::map<uint64_t, std::pair<int, uint64_t>> fault_set_of_;
  std::map<std::pair<int, uint64_t>, std::string> fault_set_names_;
  std::vector<std::string> pools_at_risk_;
};

}  // namespace

Subjects SubjectsOf(const ClusterSnapshot& snapshot) { return Builder(snapshot).Build(); }

}  // namespace tessera::mgmt
