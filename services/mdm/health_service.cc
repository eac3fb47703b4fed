#include "services/mdm/health_service.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/capacity_rules.h"
#include "services/mdm/corrupt_block_events.h"
#include "services/mdm/membership_rules.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/repair_planner.h"
#include "services/mdm/repair_reader.h"
#include "services/mdm/repair_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_health.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

v1::ComponentKind KindOf(const Caller& caller) {
  if (caller.Has(v1::ROLE_SDS)) return v1::COMPONENT_KIND_SDS;
  if (caller.Has(v1::ROLE_SDC)) return v1::COMPONENT_KIND_SDC;
  return v1::COMPONENT_KIND_MGMT;
}

void AddCause(v1::GetClusterHealthResponse* response, const std::string& code,
              const std::string& message) {
  v1::HealthProblem* cause = response->add_causes();
  cause->set_code(code);
  cause->set_message(message);
}

}  // namespace

HealthService::HealthService(RpcDispatcher* rpc, uint32_t heartbeat_interval_ms, MdmStore* store,
                             ClusterKeys* keys, CacheLeases* leases, HealthMonitor* health,
                             LearnerBoard* board, const RepairScheduler* repair,
                             IntegrityBoard* integrity, const ScrubScheduler* scrub,
                             LimitGovernor* governor, const EventLog* events, const MdmTime* time,
                             MetricRegistry* metrics)
    : rpc_(rpc),
      heartbeat_interval_ms_(heartbeat_interval_ms),
      store_(store),
      keys_(keys),
      leases_(leases),
      health_(health),
      board_(board),
      repair_(repair),
      integrity_(integrity),
      scrub_(scrub),
      governor_(governor),
      events_(events),
      time_(time),
      metrics_(metrics),
      heartbeats_(metrics->Counter("tessera_mdm_heartbeats_total", "Heartbeats taken.")) {
  // There at 0: a rate must not miss the first of them.
  v1::CorruptBlocks blocks;
  for (const v1::CorruptBlockChange change :
       {v1::CORRUPT_BLOCK_CHANGE_FOUND, v1::CORRUPT_BLOCK_CHANGE_REPAIRED,
        v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE, v1::CORRUPT_BLOCK_CHANGE_DIFFERENT,
        v1::CORRUPT_BLOCK_CHANGE_HEALED}) {
    blocks.set_change(change);
    static_cast<void>(BlocksCounter(blocks));
  }
}

prometheus::Counter& HealthService::BlocksCounter(const v1::CorruptBlocks& blocks) const {
  return metrics_->Counter("tessera_mdm_corrupt_blocks_total",
                           "Bad blocks that servers told of, by change.",
                           {{"change", EventOf(blocks, "", "").code}});
}

absl::Status HealthService::TakeOutFailed(uint64_t sds_id, const v1::HeartbeatRequest& request) {
  std::set<std::string> failed;
  for (const v1::DeviceDescription& device : request.devices()) {
    const auto before = health_->DeviceNow(sds_id, device.device_uuid());
    const bool known = before.has_value() && !before->failure().empty();
    if (!device.failure().empty() && !known) failed.insert(device.device_uuid());
  }
  if (failed.empty()) return absl::OkStatus();
  return store_->Write([&](WriteTransaction& transaction) {
    SQLite::Database& db = transaction.db;
    DeviceSet devices;
    for (const v1::DeviceDescription& description : request.devices()) {
      if (!failed.contains(description.device_uuid())) continue;
      auto device = FindDeviceByUuid(db, description.device_uuid());
      if (!device.has_value() || device->sds_id != sds_id) continue;
      device->description = description;
      UpdateDevice(db, *device);
      devices.insert(device->device_id);
      events_->Record(transaction, v1::EVENT_SEVERITY_ERROR, "device_failed",
                      {v1::COMPONENT_KIND_DEVICE, device->device_id},
                      absl::StrCat("device ", device->device_id, ": ", description.failure()));
    }
    for (v1::PlacementGroup& group : ListPlacementGroupsOfSds(db, sds_id)) {
      if (!RemoveDevices(&group, devices)) continue;
      PutPlacementGroup(db, group);
      transaction.changes.placement_group_ids.insert(group.placement_group_id());
    }
    transaction.changes.topology = true;
    return absl::OkStatus();
  });
}

absl::Status HealthService::NoteSpace(uint64_t sds_id, const v1::HeartbeatRequest& request) {
  uint32_t full_percent = 0;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    full_percent = ReadRepairSettings(db).full_percent();
    return absl::OkStatus();
  }));
  std::map<std::string, Space> before;
  {
    absl::MutexLock lock(&mutex_);
    before = space_[sds_id];
  }
  std::map<std::string, Space> now;
  std::vector<std::pair<std::string, SpaceLevel>> changed;
  for (const v1::DeviceDescription& device : request.devices()) {
    if (!device.failure().empty()) continue;
    Space space = before[device.device_uuid()];
    const SpaceLevel level =
        JudgeSpace(space.level, device.used_bytes(), device.capacity_bytes(), full_percent);
    if (level != space.level) changed.emplace_back(device.device_uuid(), level);
    space.level = level;
    const uint64_t percent =
        device.capacity_bytes() == 0 ? 0 : 100 * device.used_bytes() / device.capacity_bytes();
    space.what = absl::StrCat(" (", device.path(), ") is ", percent, " % full");
    now[device.device_uuid()] = std::move(space);
  }
  absl::Status written;
  if (!changed.empty()) {
    written = store_->Write([&](WriteTransaction& transaction) {
      for (const auto& [uuid, level] : changed) {
        const auto device = FindDeviceByUuid(transaction.db, uuid);
        if (!device.has_value() || device->sds_id != sds_id) continue;
        const std::string what = absl::StrCat("device ", device->device_id, now[uuid].what);
        const v1::ComponentKind kind = v1::COMPONENT_KIND_DEVICE;
        if (level == SpaceLevel::kFull) {
          events_->Record(transaction, v1::EVENT_SEVERITY_ERROR, "device_full",
                          {kind, device->device_id},
                          absl::StrCat(what,
                                       ": soon writes fail or wait; add devices, delete or"
                                       " trim"));
        } else if (level == SpaceLevel::kNearlyFull) {
          events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "device_nearly_full",
                          {kind, device->device_id},
                          absl::StrCat(what, ", the full mark is ", full_percent,
                                       " %: rebuild and rebalance put nothing more there"));
        } else {
          events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "device_has_space_again",
                          {kind, device->device_id}, what);
        }
      }
      return absl::OkStatus();
    });
  }
  if (written.ok()) {
    absl::MutexLock lock(&mutex_);
    space_[sds_id] = std::move(now);
  }
  return written;
}

void HealthService::AddSpaceCauses(v1::GetClusterHealthResponse* response) {
  std::map<uint64_t, std::map<std::string, Space>> space;
  {
    absl::MutexLock lock(&mutex_);
    space = space_;
  }
  for (const auto& [sds_id, devices] : space) {
    if (!health_->Reachable({v1::COMPONENT_KIND_SDS, sds_id})) continue;
    for (const auto& [uuid, device] : devices) {
      if (device.level == SpaceLevel::kEnough) continue;
      AddCause(response, device.level == SpaceLevel::kFull ? "device_full" : "device_nearly_full",
               absl::StrCat("a device of server ", sds_id, device.what));
    }
  }
}

// What a server said before it went away says nothing of the copies that serve now.
std::vector<v1::CorruptBlocks> HealthService::UnreadableNow() const {
  return integrity_->Unreadable([this](uint64_t sds_id) {
    return health_->Reachable({v1::COMPONENT_KIND_SDS, sds_id});
  });
}

absl::Status HealthService::RecordCorruptBlocks(uint64_t sds_id,
                                                const v1::HeartbeatRequest& request) {
  const absl::Status written = store_->Write([&](WriteTransaction& transaction) {
    SQLite::Database& db = transaction.db;
    const auto sds = FindSds(db, sds_id);
    const std::vector<VolumeRow> volumes = ListVolumeRows(db, {}, Page{});
    for (const v1::CorruptBlocks& blocks : request.corrupt_block_changes()) {
      // The first that can have it: the others share the block, if they do.
      const auto volume = std::find_if(volumes.begin(), volumes.end(), [&](const VolumeRow& row) {
        return row.vtree_id == blocks.key().vtree_id() &&
               Sees(row.path, blocks.key().snapshot_sequence());
      });
      const CorruptBlockEvent event = EventOf(
          blocks,
          absl::StrCat("device ", blocks.device_id(), " of ",
                       sds.has_value() ? sds->name : absl::StrCat("server ", sds_id)),
          volume == volumes.end() ? absl::StrCat("vtree ", blocks.key().vtree_id())
                                  : absl::StrCat(volume->is_snapshot() ? "snapshot " : "volume ",
                                                 volume->shown_name()));
      events_->Record(transaction, event.severity, event.code,
                      {v1::COMPONENT_KIND_DEVICE, blocks.device_id()}, event.message);
    }
    if (request.corrupt_block_changes_dropped() > 0) {
      events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "corrupt_block_changes_dropped",
                      {v1::COMPONENT_KIND_SDS, sds_id},
                      absl::StrCat(request.corrupt_block_changes_dropped(),
                                   " more changes of bad blocks than could be told"));
    }
    return absl::OkStatus();
  });
  for (const v1::CorruptBlocks& blocks : request.corrupt_block_changes()) {
    BlocksCounter(blocks).Increment(blocks.block_count());
  }
  return written;
}

absl::Status HealthService::Do(const CallContext& call, const v1::HeartbeatRequest& request,
                               v1::HeartbeatResponse* response) {
  const ComponentId component{KindOf(call.caller()), call.caller().node_id};
  const uint64_t known = health_->IncarnationOf(component);
  if (request.incarnation() < known) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "incarnation ", known, " of this node has registered after ",
                          request.incarnation(), ": there are two of them, this one has to stop")),
                      "INCARNATION_WENT_BACK");
  }
  heartbeats_.Increment();
  if (component.kind == v1::COMPONENT_KIND_SDS) {
    keys_->HeardFrom(component.id);
    TESSERA_RETURN_IF_ERROR(TakeOutFailed(component.id, request));
    TESSERA_RETURN_IF_ERROR(NoteSpace(component.id, request));
    for (v1::SdsKey& key : keys_->KeysToDeliver(component.id)) {
      *response->add_keys() = std::move(key);
    }
    board_->Report(component.id, request.learners());
    response->set_learner_bytes_per_second(repair_->learner_bytes_per_second());
    integrity_->Report(component.id, request);
    if (integrity_->IsNews(component.id, request)) {
      TESSERA_RETURN_IF_ERROR(RecordCorruptBlocks(component.id, request));
      integrity_->Seen(component.id, request);
    }
    for (v1::ScrubOrder& order : scrub_->OrdersFor(component.id)) {
      *response->add_scrub_orders() = std::move(order);
    }
    for (v1::ClientCap& cap : governor_->CapsFor(component.id, time_->NowMillis())) {
      *response->add_client_caps() = std::move(cap);
    }
  }
  health_->Beat(component, request);
  if (component.kind == v1::COMPONENT_KIND_SDC) {
    if (request.leaving()) {
      TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) {
        if (ForgetWriter(transaction.db, component.id)) transaction.changes.topology = true;
        return absl::OkStatus();
      }));
    }
    TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
      for (const MappingRow& mapping : ListMappingsOfSdc(db, component.id)) {
        response->add_mapped_volume_ids(mapping.volume_id);
      }
      return absl::OkStatus();
    }));
    TESSERA_RETURN_IF_ERROR(
        leases_->Renew({component.id, request.incarnation()}, request, response));
  }
  response->set_mdm_time_ms(time_->NowMillis());
  response->set_heartbeat_interval_ms(heartbeat_interval_ms_);
  return absl::OkStatus();
}

absl::Status HealthService::Do(const CallContext&, const v1::ListComponentsRequest&,
                               v1::ListComponentsResponse* response) {
  for (v1::ComponentHealth& component : health_->List()) {
    *response->add_components() = std::move(component);
  }
  return store_->Read([&](SQLite::Database& db) {
    TopologyReader reader(db, *health_);
    for (const DeviceRow& row : ListDeviceRows(db)) {
      const v1::Device device = reader.Device(row);
      v1::ComponentHealth* component = response->add_components();
      component->set_kind(v1::COMPONENT_KIND_DEVICE);
      component->set_component_id(row.device_id);
      component->set_name(device.description().path());
      component->set_state(device.state());
      component->set_last_heartbeat_ms(
          health_->LastHeartbeatMillis({v1::COMPONENT_KIND_SDS, row.sds_id}));
      if (device.description().failure().empty()) continue;
      v1::HealthProblem* problem = component->add_problems();
      problem->set_code("device_failed");
      problem->set_message(device.description().failure());
    }
    return absl::OkStatus();
  });
}

void HealthService::EventsChanged() {
  absl::MutexLock lock(&mutex_);
  ++event_commits_;
}

void HealthService::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
}

absl::Status HealthService::Do(const CallContext& call, const v1::ListEventsRequest& request,
                               v1::ListEventsResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(Page page, ParsePage(request.page_size(), ""));
  page.after_id = request.after_event_id();
  const auto wait =
      call.TimeLeft(std::chrono::milliseconds(std::min(request.wait_ms(), kEventWaitMaxMillis)));
  const absl::Time deadline = absl::Now() + absl::FromChrono(wait);
  while (true) {
    uint64_t seen = 0;
    {
      absl::MutexLock lock(&mutex_);
      seen = event_commits_;
    }
    TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
      for (v1::Event& event : ListEventRows(db, page)) *response->add_events() = std::move(event);
      return absl::OkStatus();
    }));
    if (response->events_size() > 0 || absl::Now() >= deadline || call.cancelled()) {
      return absl::OkStatus();
    }
    absl::MutexLock lock(&mutex_);
    if (stopping_ || waiters_ >= kEventWaitersMax) return absl::OkStatus();
    ++waiters_;
    const auto changed = [&] {
      mutex_.AssertReaderHeld();
      return stopping_ || event_commits_ != seen;
    };
    mutex_.AwaitWithDeadline(absl::Condition(&changed), deadline);
    --waiters_;
  }
}

absl::Status HealthService::Do(const CallContext&, const v1::ListVolumeHealthRequest& request,
                               v1::ListVolumeHealthResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token()));
  const uint64_t now_ms = time_->NowMillis();
  RepairSnapshot snapshot;
  std::map<uint64_t, v1::StoragePool> pools;
  std::vector<VolumeRow> volumes;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    snapshot = ReadRepairSnapshot(db, *health_, *board_, now_ms);
    for (v1::StoragePool& pool : ListPoolRows(db)) pools[pool.pool_id()] = std::move(pool);
    volumes = ListVolumeRows(db, {}, page);
    return absl::OkStatus();
  }));
  const StatusOfLearner status = [this](uint64_t group, uint64_t device, uint64_t epoch) {
    return board_->StatusOf(group, device, epoch);
  };
  std::map<uint64_t, PoolHealth> healths;
  for (const RepairPoolView& view : snapshot.pools) {
    PoolHealth& health = healths[view.pool.pool_id];
    health.waiting = PlanRepair(snapshot.rules, view.pool, now_ms).waiting;
    for (const RepairGroup& group : view.pool.groups) {
      health.groups.push_back(JudgeGroup(group, view.pool, view.min_replicas, status));
    }
    for (const RepairDevice& device : view.pool.devices) {
      health.devices[device.device_id] = device;
      health.device_names[device.device_id] = absl::StrCat("device ", device.device_id, " of ",
                                                           snapshot.servers.at(device.sds_id).name);
    }
    for (const v1::Operation& operation : repair_->Running()) {
      const bool restores = operation.kind() == v1::OPERATION_KIND_REBUILD ||
                            operation.kind() == v1::OPERATION_KIND_RESYNC;
      if (!restores || operation.pool_id() != view.pool.pool_id) continue;
      health.eta_ms = std::max(health.eta_ms, operation.eta_ms());
    }
  }
  std::map<uint64_t, std::vector<v1::CorruptBlocks>> lost;  // by vtree
  for (v1::CorruptBlocks& blocks : UnreadableNow()) {
    lost[blocks.key().vtree_id()].push_back(std::move(blocks));
  }
  uint64_t last = 0;
  for (const VolumeRow& row : volumes) {
    last = row.volume_id;
    *response->add_volumes() = JudgeVolume({.volume_id = row.volume_id,
                                            .name = row.shown_name(),
                                            .vtree_id = row.vtree_id,
                                            .size_bytes = row.size_bytes,
                                            .chunk_bytes = pools[row.pool_id].chunk_bytes()},
                                           healths[row.pool_id]);
    LostBlocks of_volume;
    for (const v1::CorruptBlocks& blocks : lost[row.vtree_id]) {
      if (Sees(row.path, blocks.key().snapshot_sequence())) of_volume.Add(blocks);
    }
    AddLostBlocks(of_volume, response->mutable_volumes(response->volumes_size() - 1));
  }
  response->set_next_page_token(NextPageToken(page, volumes.size(), last));
  return absl::OkStatus();
}

absl::Status HealthService::Do(const CallContext&, const v1::GetClusterHealthRequest&,
                               v1::GetClusterHealthResponse* response) {
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    for (const v1::StoragePool& pool : ListPoolRows(db)) {
      uint32_t degraded = 0;
      uint32_t unavailable = 0;
      for (const v1::PlacementGroup& group : ListPlacementGroupRows(db, pool.pool_id())) {
        switch (JudgeRedundancy(group, pool.replica_count(), *health_)) {
          case v1::REDUNDANCY_STATE_HEALTHY:
            response->set_healthy_placement_groups(response->healthy_placement_groups() + 1);
            break;
          case v1::REDUNDANCY_STATE_UNAVAILABLE:
            ++unavailable;
            break;
          default:
            ++degraded;
        }
      }
      if (unavailable > 0) {
        AddCause(response, "data_unavailable",
                 absl::StrCat("pool ", pool.name(), ": ", unavailable,
                              " placement groups have no reachable copy"));
      }
      if (degraded > 0) {
        AddCause(response, "redundancy_missing",
                 absl::StrCat("pool ", pool.name(), ": ", degraded,
                              " placement groups lack copies or are catching up"));
      }
      const v1::PoolCapacity capacity = TopologyReader(db, *health_).CapacityOf(pool);
      if (capacity.state() >= v1::CAPACITY_STATE_WARNING) {
        AddCause(response, absl::StrCat("pool_capacity_", CapacityStateName(capacity.state())),
                 absl::StrCat("pool ", pool.name(), " is ", capacity.used_percent(), " % full"));
      }
      response->set_degraded_placement_groups(response->degraded_placement_groups() + degraded);
      response->set_unavailable_placement_groups(response->unavailable_placement_groups() +
                                                 unavailable);
    }
    return absl::OkStatus();
  }));
  LostBlocks lost;
  for (const v1::CorruptBlocks& blocks : UnreadableNow()) lost.Add(blocks);
  if (lost.count() > 0) {
    AddCause(response, "blocks_unreadable",
             absl::StrCat(lost.count(),
                          " blocks can't be read from any copy: tessera health"
                          " says of which volumes"));
  }
  for (const v1::ComponentHealth& component : health_->List()) {
    if (component.state() == v1::COMPONENT_STATE_ONLINE) continue;
    const bool server = component.kind() == v1::COMPONENT_KIND_SDS;
    AddCause(response, server ? "server_not_online" : "client_not_online",
             absl::StrCat(server ? "server " : "client ", component.name(), " is ",
                          StateName(component.state())));
  }
  AddSpaceCauses(response);
  std::stable_sort(response->mutable_causes()->begin(), response->mutable_causes()->end(),
                   [](const v1::HealthProblem& a, const v1::HealthProblem& b) {
                     const auto grave = [](const v1::HealthProblem& cause) {
                       return cause.code() == "data_unavailable" ||
                              cause.code() == "blocks_unreadable";
                     };
                     return grave(a) > grave(b);
                   });
  // A client that is off is no fault of the cluster, and what fills up works.
  const bool degraded = std::any_of(
      response->causes().begin(), response->causes().end(), [](const v1::HealthProblem& cause) {
        return cause.code() != "client_not_online" && cause.code() != "device_nearly_full" &&
               cause.code() != "pool_capacity_warning";
      });
  response->set_verdict(response->unavailable_placement_groups() > 0 || lost.count() > 0
                            ? v1::CLUSTER_VERDICT_UNAVAILABLE
                            : (degraded ? v1::CLUSTER_VERDICT_DEGRADED : v1::CLUSTER_VERDICT_OK));
  return absl::OkStatus();
}

}  // namespace tessera::mdm
