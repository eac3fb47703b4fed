#include "services/mdm/map_publisher.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "services/common/logging.h"
#include "services/common/placement_hash.h"
#include "services/common/status_macros.h"
#include "services/mdm/cluster_record_table.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

// The pools that a watcher sees now; nullopt: all.
std::optional<std::set<uint64_t>> VisiblePools(SQLite::Database& db, const MapWatcher& watcher) {
  if (!watcher.pool_ids.empty()) return watcher.pool_ids;
  if (watcher.sds_id == 0) return std::nullopt;
  std::set<uint64_t> pools;
  for (const DeviceRow& device : ListDeviceRowsOfSds(db, watcher.sds_id)) {
    if (device.pool_id != 0) pools.insert(device.pool_id);
  }
  return pools;
}

bool Sees(const std::optional<std::set<uint64_t>>& pools, uint64_t pool_id) {
  return !pools.has_value() || pools->contains(pool_id);
}

std::vector<v1::PoolLayout> ReadLayouts(SQLite::Database& db) {
  std::vector<v1::PoolLayout> layouts;
  for (const v1::StoragePool& pool : ListPoolRows(db)) {
    v1::PoolLayout& layout = layouts.emplace_back();
    layout.set_pool_id(pool.pool_id());
    layout.set_placement_group_count(pool.placement_group_count());
    layout.set_chunk_bytes(pool.chunk_bytes());
    layout.set_min_replicas(pool.min_replicas());
  }
  return layouts;
}

}  // namespace

MapPublisher::MapPublisher(MdmStore* store, const ClusterKeys* keys, NodeControl* control,
                           const HealthMonitor* health, MetricRegistry* metrics)
    : store_(store),
      keys_(keys),
      control_(control),
      health_(health),
      watcher_gauge_(metrics->Gauge("tessera_mdm_map_watchers", "Open watches of the map.")),
      push_failures_(metrics->Counter("tessera_mdm_map_push_failures_total",
                                      "Pushes of map entries that a server did not confirm.")),
      push_loop_({.name = "map-push", .period = std::chrono::minutes(1)}, [this] { Push(); }),
      publish_loop_({.name = "map-publish", .period = kKeepalive}, [this] { Publish(); }) {}

MapPublisher::~MapPublisher() { Stop(); }

void MapPublisher::Stop() {
  std::vector<MapWatcher> arriving;
  {
    absl::MutexLock lock(&mutex_);
    if (stopped_) return;
    stopped_ = true;
    arriving.swap(arriving_);
  }
  publish_loop_.Stop();
  push_loop_.Stop();
  const absl::Status bye = absl::UnavailableError("the MDM is stopping");
  for (const MapWatcher& watcher : arriving) watcher.stream->Close(bye);
  for (const MapWatcher& watcher : watchers_) watcher.stream->Close(bye);
  watchers_.clear();
}

absl::Status MapPublisher::Watch(MapWatcher watcher) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopped_) return absl::UnavailableError("the MDM is stopping");
    if (watcher_count_ >= kWatchersMax) {
      return absl::ResourceExhaustedError("too many watches of the map are open");
    }
    ++watcher_count_;
    arriving_.push_back(std::move(watcher));
  }
  publish_loop_.Wake();
  return absl::OkStatus();
}

void MapPublisher::OnCommit(const ChangeSet& changes) {
  if (changes.placement_group_ids.empty() && changes.deleted_vtree_ids.empty() &&
      !changes.sds_addresses && !changes.pools && !changes.records) {
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    pending_.placement_group_ids.insert(changes.placement_group_ids.begin(),
                                        changes.placement_group_ids.end());
    for (const auto& [id, sds_ids] : changes.former_sds_ids) {
      pending_.former_sds_ids[id].insert(sds_ids.begin(), sds_ids.end());
      push_former_[id].insert(sds_ids.begin(), sds_ids.end());
    }
    pending_.deleted_vtree_ids.insert(changes.deleted_vtree_ids.begin(),
                                      changes.deleted_vtree_ids.end());
    pending_.sds_addresses |= changes.sds_addresses;
    pending_.pools |= changes.pools;
    pending_.records |= changes.records;
    to_push_.insert(changes.placement_group_ids.begin(), changes.placement_group_ids.end());
  }
  publish_loop_.Wake();
  if (!changes.placement_group_ids.empty()) push_loop_.Wake();
}

void MapPublisher::AddressesChanged() {
  ChangeSet changes;
  changes.sds_addresses = true;
  OnCommit(changes);
}

std::vector<v1::SdsAddress> MapPublisher::ReadAddresses(SQLite::Database& db,
                                                        const HealthMonitor& health) {
  std::vector<v1::SdsAddress> addresses;
  for (const SdsRow& row : ListSdsRows(db)) {
    v1::SdsAddress& address = addresses.emplace_back();
    address.set_sds_id(row.sds_id);
    *address.mutable_endpoints() = row.endpoints;
    address.set_incarnation(row.incarnation);
    address.set_state(health.StateOf({v1::COMPONENT_KIND_SDS, row.sds_id}));
  }
  return addresses;
}

absl::Status MapPublisher::SendSnapshot(const MapWatcher& watcher) {
  v1::WatchPlacementGroupsResponse message;
  message.set_snapshot(true);
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    const auto pools = VisiblePools(db, watcher);
    for (const v1::PlacementGroup& group : ListPlacementGroupRows(db, 0)) {
      if (!Sees(pools, PoolOfPlacementGroup(group.placement_group_id()))) continue;
      // Signed for this server, member or not: it may have left the group while it was away.
      std::set<uint64_t> also;
      if (watcher.sds_id != 0) also.insert(watcher.sds_id);
      *message.add_placement_groups() = keys_->SignGroup(group, also);
    }
    for (v1::SdsAddress& address : ReadAddresses(db, *health_)) {
      *message.add_sds_addresses() = std::move(address);
    }
    for (v1::PoolLayout& layout : ReadLayouts(db)) {
      if (Sees(pools, layout.pool_id())) *message.add_pools() = std::move(layout);
    }
    if (watcher.sds_id != 0) {
      for (const DeletedVtree& deleted : ListPendingDeletions(db, watcher.sds_id)) {
        message.add_deleted_vtree_ids(deleted.vtree_id);
      }
    }
    return absl::OkStatus();
  }));
  if (!watcher.stream->Send(std::move(message))) return absl::CancelledError("the watcher is gone");
  return absl::OkStatus();
}

absl::Status MapPublisher::SendChanges(const ChangeSet& changes) {
  return store_->Read([&](SQLite::Database& db) {
    std::vector<std::pair<uint64_t, v1::SignedPlacementGroup>> groups;
    for (uint64_t id : changes.placement_group_ids) {
      if (const auto group = FindPlacementGroup(db, id)) {
        const auto former = changes.former_sds_ids.find(id);
        groups.emplace_back(
            PoolOfPlacementGroup(id),
            keys_->SignGroup(*group, former == changes.former_sds_ids.end() ? std::set<uint64_t>()
                                                                            : former->second));
      }
    }
    std::vector<v1::SdsAddress> addresses;
    if (changes.sds_addresses) addresses = ReadAddresses(db, *health_);
    std::vector<v1::PoolLayout> layouts;
    // A server that joins a pool needs its layout with the groups.
    if (changes.pools || !groups.empty()) layouts = ReadLayouts(db);
    for (const MapWatcher& watcher : watchers_) {
      const auto pools = VisiblePools(db, watcher);
      v1::WatchPlacementGroupsResponse message;
      for (const auto& [pool_id, group] : groups) {
        if (Sees(pools, pool_id)) *message.add_placement_groups() = group;
      }
      for (const v1::PoolLayout& layout : layouts) {
        if (Sees(pools, layout.pool_id())) *message.add_pools() = layout;
      }
      for (const v1::SdsAddress& address : addresses) *message.add_sds_addresses() = address;
      for (uint64_t id : changes.deleted_vtree_ids) message.add_deleted_vtree_ids(id);
      // A stream that is over is dropped in Publish.
      (void)watcher.stream->Send(std::move(message));
    }
    return absl::OkStatus();
  });
}

void MapPublisher::SendRecordsTo(const std::vector<v1::ClusterRecord>& records, bool snapshot,
                                 uint64_t revision, MapWatcher* watcher) const {
  watcher->records_revision = revision;
  size_t next = 0;
  do {
    v1::WatchPlacementGroupsResponse message;
    v1::ClusterRecords* part = message.mutable_records();
    part->set_snapshot(snapshot);
    part->set_revision(revision);
    const size_t end = std::min(next + kRecordsPerMessage, records.size());
    for (; next < end; ++next) *part->add_records() = keys_->SealRecord(records[next]);
    part->set_more(next < records.size());
    // A stream that is over is dropped in Publish.
    if (!watcher->stream->Send(std::move(message))) return;
  } while (next < records.size());
}

absl::Status MapPublisher::SendRecords() {
  return store_->Read([&](SQLite::Database& db) {
    const RecordClock clock = ReadRecordClock(db);
    // Watchers that are equally far get the same; 0: everything.
    std::map<uint64_t, std::vector<v1::ClusterRecord>> by_revision;
    for (MapWatcher& watcher : watchers_) {
      const uint64_t has = watcher.records_revision;
      if (!watcher.with_records || has == clock.revision) continue;
      // Who is ahead of us knows better than this database, and says so.
      const bool snapshot = has == 0 || has < clock.floor || has > clock.revision;
      const uint64_t after = snapshot ? 0 : has;
      const auto [records, wanted] = by_revision.try_emplace(after);
      if (wanted) records->second = snapshot ? ReadAllRecords(db) : ReadRecordsAfter(db, after);
      SendRecordsTo(records->second, snapshot, clock.revision, &watcher);
    }
    return absl::OkStatus();
  });
}

void MapPublisher::Publish() {
  ChangeSet changes;
  std::vector<MapWatcher> arriving;
  {
    absl::MutexLock lock(&mutex_);
    std::swap(changes, pending_);
    arriving.swap(arriving_);
  }
  std::erase_if(watchers_, [](const MapWatcher& watcher) { return watcher.stream->closed(); });
  const bool any = !changes.placement_group_ids.empty() || !changes.deleted_vtree_ids.empty() ||
                   changes.sds_addresses || changes.pools;
  const bool records = changes.records || !arriving.empty();
  const auto now = std::chrono::steady_clock::now();
  if (any) {
    if (absl::Status status = SendChanges(changes); !status.ok()) {
      // Watchers would miss something: they start over.
      LogError("reading the map for watchers failed", {{"error", status}});
      for (const MapWatcher& watcher : watchers_) watcher.stream->Close(status);
    }
    last_message_ = now;
  } else if (now - last_message_ >= kKeepalive) {
    for (const MapWatcher& watcher : watchers_) {
      (void)watcher.stream->Send(v1::WatchPlacementGroupsResponse());
    }
    last_message_ = now;
  }
  // Later commits are in pending_ and come after the snapshot, which may hold them already.
  for (MapWatcher& watcher : arriving) {
    if (absl::Status status = SendSnapshot(watcher); !status.ok()) {
      watcher.stream->Close(status);
      continue;
    }
    watchers_.push_back(std::move(watcher));
  }
  if (records) {
    if (absl::Status status = SendRecords(); !status.ok()) {
      LogError("reading the cluster's records for servers failed", {{"error", status}});
      for (const MapWatcher& watcher : watchers_) {
        if (watcher.with_records) watcher.stream->Close(status);
      }
    }
  }
  watcher_gauge_.Set(static_cast<double>(watchers_.size()));
  absl::MutexLock lock(&mutex_);
  watcher_count_ = watchers_.size() + arriving_.size();
}

void MapPublisher::Push() {
  std::set<uint64_t> ids;
  std::map<uint64_t, std::set<uint64_t>> former;
  {
    absl::MutexLock lock(&mutex_);
    ids.swap(to_push_);
    former.swap(push_former_);
  }
  if (ids.empty()) return;
  NodeControl::ApplyRequests requests;
  const absl::Status status = store_->Read([&](SQLite::Database& db) {
    std::map<uint64_t, v1::ApplyPlacementGroupsRequest> by_server;
    for (uint64_t id : ids) {
      const auto group = FindPlacementGroup(db, id);
      if (!group.has_value()) continue;
      std::set<uint64_t> servers = former[id];
      const v1::SignedPlacementGroup entry = keys_->SignGroup(*group, servers);
      for (const v1::Replica& replica : group->replicas()) servers.insert(replica.sds_id());
      for (uint64_t sds_id : servers) *by_server[sds_id].add_placement_groups() = entry;
    }
    for (auto& [sds_id, request] : by_server) {
      const std::optional<SdsRow> row = FindSds(db, sds_id);
      if (!row.has_value() || !health_->Reachable({v1::COMPONENT_KIND_SDS, sds_id})) continue;
      requests.emplace_back(TargetOf(*row), std::move(request));
    }
    return absl::OkStatus();
  });
  if (!status.ok()) {
    LogError("reading the map for a push failed", {{"error", status}});
    return;
  }
  for (const auto& [sds_id, answer] : control_->ApplyPlacementGroups(requests, kPushTimeout)) {
    if (answer.ok()) continue;
    push_failures_.Increment();
    LogDebug("push of map entries failed", {{"sds", sds_id}, {"error", answer}});
  }
}

}  // namespace tessera::mdm
