#include "services/mdm/upkeep.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/sql.h"
#include "services/mdm/cluster_record_table.h"
#include "services/mdm/fence_receipt_table.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/pool_capacity.h"
#include "services/mdm/snapshot_table.h"
#include "services/mdm/space_table.h"
#include "services/mdm/state_folder.h"
#include "services/mdm/token_table.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_limits.h"
#include "services/mdm/volume_service.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {

Upkeep::Upkeep(MdmStore* store, HealthMonitor* health, LimitGovernor* governor,
               const EventLog* events, const MdmTime* time, MetricRegistry* metrics)
    : store_(store),
      health_(health),
      governor_(governor),
      events_(events),
      time_(time),
      metrics_(metrics),
      wall_clock_error_ms_(time->WallClockErrorMillis()) {}

absl::Status Upkeep::ExpectNodes(NodeDirectory* nodes) {
  return store_->Read([&](SQLite::Database& db) {
    for (const SdsRow& row : ListSdsRows(db)) {
      nodes->Put("sds", row.sds_id, {row.node_uuid, row.name});
      health_->Expect({v1::COMPONENT_KIND_SDS, row.sds_id}, row.name, row.incarnation);
    }
    for (const SdcRow& row : ListSdcRows(db)) {
      nodes->Put("sdc", row.sdc_id, {row.node_uuid, row.name});
      health_->Expect({v1::COMPONENT_KIND_SDC, row.sdc_id}, row.name, row.incarnation);
    }
    return absl::OkStatus();
  });
}

bool Upkeep::JudgeHealth() {
  const std::vector<StateChange> changes = health_->Judge();
  if (changes.empty()) return false;
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) {
    for (const StateChange& change : changes) {
      const char* kind = change.component.kind == v1::COMPONENT_KIND_SDS ? "server " : "client ";
      std::string message = absl::StrCat(kind, change.name, " was ", StateName(change.before),
                                         ", is ", StateName(change.after));
      if (!change.problem.empty()) absl::StrAppend(&message, ": ", change.problem);
      events_->Record(transaction, SeverityOf(change.after), "state_changed", change.component,
                      message);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) LogError("recording state changes failed", {{"error", status}});
  return true;
}

void Upkeep::JudgeLimits() {
  const std::vector<LimitGovernor::Change> changes = governor_->Judge(time_->NowMillis());
  metrics_
      ->Gauge("tessera_mdm_clients_over_limit",
              "Clients that exceed their limits on a volume, and are held to them by servers.")
      .Set(static_cast<double>(governor_->capped()));
  if (changes.empty()) return;
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) {
    for (const LimitGovernor::Change& change : changes) {
      const auto sdc = FindSdc(transaction.db, change.sdc_id);
      const auto volume = FindVolume(transaction.db, change.volume_id);
      const std::string who = absl::StrCat(
          "client ", sdc.has_value() ? sdc->name : "", " (", change.sdc_id, "), volume ",
          volume.has_value() ? volume->shown_name() : "", " (", change.volume_id, "): ");
      const std::string rates =
          absl::StrCat(static_cast<uint64_t>(change.operations_per_second), " operations and ",
                       static_cast<uint64_t>(change.bytes_per_second),
                       " bytes a second; limits: ", DescribeLimits(change.limits));
      events_->Record(transaction,
                      change.exceeds ? v1::EVENT_SEVERITY_WARNING : v1::EVENT_SEVERITY_INFO,
                      change.exceeds ? "client_exceeds_limit" : "client_keeps_limit",
                      {v1::COMPONENT_KIND_SDC, change.sdc_id},
                      absl::StrCat(who, rates, change.exceeds ? "; servers hold it to them" : ""));
    }
    return absl::OkStatus();
  });
  if (!status.ok()) LogError("recording clients over their limits failed", {{"error", status}});
}

void Upkeep::CheckWallClock() {
  const int64_t error_ms = time_->WallClockErrorMillis();
  if (std::abs(error_ms - wall_clock_error_ms_) < kClockJumpMillis) return;
  LogWarning("the wall clock was set; MDM time goes on as before",
             {{"jump_ms", error_ms - wall_clock_error_ms_}, {"difference_ms", error_ms}});
  wall_clock_error_ms_ = error_ms;
}

void Upkeep::Housekeep() {
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) {
    SQLite::Database& db = transaction.db;
    const uint64_t now = time_->NowMillis();
    (void)ExpireDueTokens(db, now);
    (void)CleanupTokenRows(db, now - kTokenMemoryMillis, now);
    ForgetRequests(db, now - kRequestMemoryMillis);
    (void)ForgetFenceReceipts(db, now - std::min(now, kReceiptMemoryMillis));
    ForgetDeletedVolumes(db, now - std::min(now, kReceiptMemoryMillis));
    ForgetSnapshotOperations(db, now - std::min(now, kRequestMemoryMillis));
    MarkLayerDropsAgain(db, now - std::min(now, kLayerDropMillis), now);
    (void)ForgetGoneRecords(db);
    for (const VolumeRow& volume : ListDueTrash(db, now)) {
      DropVolume(transaction, *events_, volume, now);
    }
    for (const v1::StoragePool& pool : ListPoolRows(db)) {
      JudgePool(transaction, *events_, *health_, pool, /*anew=*/false);
    }
    WriteTime(db, time_->Persist());
    return absl::OkStatus();
  });
  if (!status.ok()) LogError("housekeeping failed", {{"error", status}});
}

void Upkeep::SetGauges() {
  std::map<v1::RedundancyState, double> states{{v1::REDUNDANCY_STATE_HEALTHY, 0},
                                               {v1::REDUNDANCY_STATE_DEGRADED, 0},
                                               {v1::REDUNDANCY_STATE_SINGLE_COPY, 0},
                                               {v1::REDUNDANCY_STATE_UNAVAILABLE, 0}};
  double volumes = 0;
  double snapshots = 0;
  double pending_layer_drops = 0;
  double mappings = 0;
  double pending_deletions = 0;
  double over_budget = 0;
  const absl::Status status = store_->Read([&](SQLite::Database& db) {
    for (const v1::StoragePool& pool : ListPoolRows(db)) {
      for (const v1::PlacementGroup& group : ListPlacementGroupRows(db, pool.pool_id())) {
        ++states[JudgeRedundancy(group, pool.replica_count(), *health_)];
      }
    }
    volumes = static_cast<double>(CountVolumes(db, 0, v1::VOLUME_KIND_VOLUME));
    snapshots = static_cast<double>(CountVolumes(db, 0, v1::VOLUME_KIND_SNAPSHOT));
    pending_layer_drops = static_cast<double>(CountPendingLayerDrops(db));
    Sql query(db, "SELECT count(*) FROM mapping");
    if (query.Next()) mappings = static_cast<double>(query.Unsigned(0));
    pending_deletions = static_cast<double>(CountPendingDeletions(db));
    SetPoolGauges(db, *health_, metrics_, &pools_with_gauges_);
    for (const VolumeBudget& budget : ListBudgets(db)) over_budget += budget.over ? 1 : 0;
    return absl::OkStatus();
  });
  if (!status.ok()) {
    LogError("reading gauges failed", {{"error", status}});
    return;
  }
  static const std::map<v1::RedundancyState, std::string> names{
      {v1::REDUNDANCY_STATE_HEALTHY, "healthy"},
      {v1::REDUNDANCY_STATE_DEGRADED, "degraded"},
      {v1::REDUNDANCY_STATE_SINGLE_COPY, "single_copy"},
      {v1::REDUNDANCY_STATE_UNAVAILABLE, "unavailable"}};
  for (const auto& [state, name] : names) {
    metrics_
        ->Gauge("tessera_mdm_placement_groups", "Placement groups, by redundancy.",
                {{"state", name}})
        .Set(states[state]);
  }
  metrics_->Gauge("tessera_mdm_volumes", "Volumes.").Set(volumes);
  metrics_->Gauge("tessera_mdm_snapshots", "Snapshots of volumes.").Set(snapshots);
  metrics_
      ->Gauge("tessera_mdm_volumes_over_budget",
              "Volumes that take more than their budget: their writes get ENOSPC.")
      .Set(over_budget);
  metrics_->Gauge("tessera_mdm_mappings", "Volumes mapped to clients.").Set(mappings);
  metrics_
      ->Gauge("tessera_mdm_pending_deletions",
              "Deleted vtrees that a server has not dropped yet, by server.")
      .Set(pending_deletions);
  metrics_
      ->Gauge("tessera_mdm_pending_layer_drops",
              "Vtrees with layers that nobody sees and a server has yet to drop, by server.")
      .Set(pending_layer_drops);
  metrics_->Gauge("tessera_mdm_database_bytes", "Size of mdm.db and its log.")
      .Set(static_cast<double>(store_->FileBytes()));
  metrics_->Gauge("tessera_clock_offset_seconds", "Wall clock less MDM time.")
      .Set(static_cast<double>(time_->WallClockErrorMillis()) * 1e-3);
  SetComponentGauges();
}

void Upkeep::SetComponentGauges() {
  std::map<std::pair<std::string, std::string>, double> components;
  for (const char* kind : {"sds", "sdc"}) {
    for (const char* state : {"online", "degraded", "stale", "offline"})
      components[{kind, state}] = 0;
  }
  const auto set_lost = [this](const std::string& kind, const std::string& name, bool lost) {
    metrics_
        ->Gauge("tessera_mdm_component_lost", "1 while a server or client is not heard of.",
                {{"kind", kind}, {"name", name}})
        .Set(lost ? 1 : 0);
  };
  std::set<std::pair<std::string, std::string>> gone = parts_with_gauges_;
  for (const v1::ComponentHealth& component : health_->List()) {
    if (component.kind() == v1::COMPONENT_KIND_MGMT) continue;
    const std::string kind = component.kind() == v1::COMPONENT_KIND_SDS ? "sds" : "sdc";
    ++components[{kind, StateName(component.state())}];
    const bool lost = component.state() == v1::COMPONENT_STATE_STALE ||
                      component.state() == v1::COMPONENT_STATE_OFFLINE;
    set_lost(kind, component.name(), lost);
    gone.erase({kind, component.name()});
    parts_with_gauges_.emplace(kind, component.name());
  }
  for (const auto& [kind, name] : gone) set_lost(kind, name, false);
  for (const auto& [key, count] : components) {
    metrics_
        ->Gauge("tessera_mdm_components", "Servers and clients, by state.",
                {{"kind", key.first}, {"state", key.second}})
        .Set(count);
  }
}

bool Upkeep::Run() {
  const bool changed = JudgeHealth();
  JudgeLimits();
  const uint64_t now = time_->clock().BootMillis();
  if (now >= next_slow_boot_ms_) {
    next_slow_boot_ms_ = now + kSlowPeriodMillis;
    CheckWallClock();
    Housekeep();
    SetGauges();
  }
  return changed;
}

}  // namespace tessera::mdm
