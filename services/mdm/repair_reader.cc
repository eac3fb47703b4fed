#include "services/mdm/repair_reader.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "services/common/placement_hash.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

DeviceCondition ConditionOf(const DeviceRow& device, const SdsRow& sds,
                            const v1::DeviceDescription& now, const HealthMonitor& health) {
  if (!now.failure().empty()) return DeviceCondition::kFailed;
  const ComponentId component{v1::COMPONENT_KIND_SDS, sds.sds_id};
  if (health.Reachable(component)) {
    // Not before its server has opened the device in its present life.
    return device.configured_incarnation == sds.incarnation ? DeviceCondition::kReady
                                                            : DeviceCondition::kUnknown;
  }
  return health.KnownAway(component) ? DeviceCondition::kAway : DeviceCondition::kUnknown;
}

RepairDevice DeviceFrom(const DeviceRow& row, const SdsRow& sds, const HealthMonitor& health,
                        const LearnerBoard& board, uint64_t now_ms) {
  const v1::DeviceDescription now =
      health.DeviceNow(row.sds_id, row.description.device_uuid()).value_or(row.description);
  const LearnerBoard::Rest rest = board.RestOf(row.sds_id, row.device_id);
  RepairDevice device;
  device.device_id = row.device_id;
  device.sds_id = row.sds_id;
  device.fault_set_id = sds.fault_set_id;
  device.capacity_bytes = now.capacity_bytes();
  device.used_bytes = now.used_bytes();
  device.condition = ConditionOf(row, sds, now, health);
  device.resting = rest.resting;
  device.failures = rest.failures;
  device.draining = row.use != v1::DEVICE_USE_NORMAL;
  device.maintenance = sds.maintenance_until_ms > now_ms;
  device.successor_device_id = row.successor_device_id;
  return device;
}

// Above so many volumes or chunks the groups of a pool are about equal.
constexpr uint64_t kVolumesLooked = 1'000;
constexpr uint64_t kChunksLooked = 1 << 16;

bool AnythingToCopy(const RepairPool& pool) {
  return std::any_of(pool.groups.begin(), pool.groups.end(), [&pool](const RepairGroup& group) {
    return group.move.has_value() || !group.unavailable_since_ms.empty() ||
           group.entry.replicas_size() != static_cast<int>(pool.replica_count);
  });
}

// Chunks of volumes by group; empty: about equal, or nobody asks.
std::vector<uint64_t> CountChunks(SQLite::Database& db, const RepairPool& pool,
                                  uint64_t chunk_bytes) {
  if (!AnythingToCopy(pool) ||
      CountVolumes(db, pool.pool_id, v1::VOLUME_KIND_VOLUME) > kVolumesLooked)
    return {};
  const auto group_count = static_cast<uint32_t>(pool.groups.size());
  std::vector<uint64_t> chunks(group_count);
  uint64_t looked = 0;
  // Chunks of snapshots are in the groups of their volumes'.
  for (const VolumeRow& volume :
       ListVolumeRows(db, {.pool_id = pool.pool_id, .kind = v1::VOLUME_KIND_VOLUME})) {
    const uint64_t count = (volume.size_bytes + chunk_bytes - 1) / chunk_bytes;
    looked += count;
    if (looked > kChunksLooked) return {};
    for (uint64_t chunk = 0; chunk < count; ++chunk) {
      ++chunks[PlacementGroupIndex(volume.vtree_id, chunk, group_count)];
    }
  }
  return chunks;
}

// One copy of a group is about its share of what an in-sync device uses: by the chunks that the
// volumes could have in each, else the same for all.
void EstimateBytes(const std::vector<uint64_t>& chunks, RepairPool* pool) {
  const auto weight = [&chunks](const RepairGroup& group) {
    const uint32_t index = static_cast<uint32_t>(group.entry.placement_group_id() % 65'536);
    return index < chunks.size() ? static_cast<double>(chunks[index]) : 1.0;
  };
  std::map<uint64_t, double> weight_on;
  for (const RepairGroup& group : pool->groups) {
    for (const v1::Replica& replica : group.entry.replicas()) {
      weight_on[replica.device_id()] += weight(group);
    }
  }
  std::map<uint64_t, uint64_t> used;
  for (const RepairDevice& device : pool->devices) used[device.device_id] = device.used_bytes;
  for (RepairGroup& group : pool->groups) {
    for (const v1::Replica& replica : group.entry.replicas()) {
      const double all = weight_on[replica.device_id()];
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC || all == 0) continue;
      const double bytes = static_cast<double>(used[replica.device_id()]) * weight(group) / all;
      group.bytes = std::max(group.bytes, static_cast<uint64_t>(bytes));
    }
  }
}

}  // namespace

RepairRules RulesFrom(const v1::RepairSettings& settings) {
  RepairRules rules;
  rules.rebuild_delay_ms = settings.rebuild_delay_ms();
  rules.learners_per_target = settings.learners_per_target_device();
  rules.learners_per_source = settings.learners_per_source_device();
  rules.rebalance_per_device = settings.rebalance_moves_per_device();
  rules.full_percent = settings.full_percent();
  rules.rebuild_paused = settings.rebuild_paused();
  rules.rebalance_paused = settings.rebalance_paused();
  return rules;
}

RepairSnapshot ReadRepairSnapshot(SQLite::Database& db, const HealthMonitor& health,
                                  const LearnerBoard& board, uint64_t now_ms) {
  RepairSnapshot snapshot;
  snapshot.settings = ReadRepairSettings(db);
  snapshot.rules = RulesFrom(snapshot.settings);
  snapshot.stored_unavailable = ListUnavailable(db);
  for (SdsRow& row : ListSdsRows(db)) {
    const uint64_t id = row.sds_id;
    snapshot.servers.emplace(id, std::move(row));
  }
  std::map<uint64_t, RepairDevice> devices;
  for (DeviceRow& row : ListDeviceRows(db)) {
    const uint64_t id = row.device_id;
    devices[id] = DeviceFrom(row, snapshot.servers.at(row.sds_id), health, board, now_ms);
    snapshot.devices.emplace(id, std::move(row));
  }
  const std::map<uint64_t, RepairMove> moves = ListMoves(db);
  for (const v1::StoragePool& pool : ListPoolRows(db)) {
    RepairPoolView& view = snapshot.pools.emplace_back();
    view.pool.pool_id = pool.pool_id();
    view.pool.replica_count = pool.replica_count();
    view.name = pool.name();
    view.min_replicas = pool.min_replicas();
    for (const auto& [id, row] : snapshot.devices) {
      if (row.pool_id == pool.pool_id()) view.pool.devices.push_back(devices[id]);
    }
    for (v1::PlacementGroup& entry : ListPlacementGroupRows(db, pool.pool_id())) {
      RepairGroup& group = view.pool.groups.emplace_back();
      const uint64_t id = entry.placement_group_id();
      if (const auto move = moves.find(id); move != moves.end()) group.move = move->second;
      for (const v1::Replica& replica : entry.replicas()) {
        const bool ready = devices[replica.device_id()].condition == DeviceCondition::kReady;
        if (ready && replica.role() != v1::REPLICA_ROLE_OUT_OF_SYNC) continue;
        uint64_t since_ms = now_ms;
        const auto stored = snapshot.stored_unavailable.find(id);
        if (stored != snapshot.stored_unavailable.end()) {
          const auto of_device = stored->second.find(replica.device_id());
          if (of_device != stored->second.end()) since_ms = of_device->second;
        }
        group.unavailable_since_ms[replica.device_id()] = since_ms;
        snapshot.unavailable[id][replica.device_id()] = since_ms;
      }
      group.entry = std::move(entry);
    }
    EstimateBytes(CountChunks(db, view.pool, pool.chunk_bytes()), &view.pool);
  }
  return snapshot;
}

}  // namespace tessera::mdm
