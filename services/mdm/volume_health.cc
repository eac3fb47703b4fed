#include "services/mdm/volume_health.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/placement_hash.h"

namespace tessera::mdm {
namespace {

// Of a large volume every group has chunks: no need to look at each.
constexpr uint64_t kChunksPerGroupLooked = 32;
constexpr size_t kNamesMax = 4;

const RepairDevice* FindIn(const RepairPool& pool, uint64_t device_id) {
  for (const RepairDevice& device : pool.devices) {
    if (device.device_id == device_id) return &device;
  }
  return nullptr;
}

std::set<uint32_t> GroupsOf(const VolumeExtent& volume, uint32_t group_count) {
  std::set<uint32_t> groups;
  const uint64_t chunks = (volume.size_bytes + volume.chunk_bytes - 1) / volume.chunk_bytes;
  const uint64_t looked = std::min(chunks, kChunksPerGroupLooked * group_count);
  for (uint64_t chunk = 0; chunk < looked && groups.size() < group_count; ++chunk) {
    groups.insert(PlacementGroupIndex(volume.vtree_id, chunk, group_count));
  }
  return groups;
}

std::string Condition(const RepairDevice& device) {
  if (device.maintenance) return " (in maintenance)";
  switch (device.condition) {
    case DeviceCondition::kAway:
      return " (its server is away)";
    case DeviceCondition::kFailed:
      return " (failed)";
    case DeviceCondition::kUnknown:
      return " (not heard from yet)";
    default:
      return " (catching up)";
  }
}

std::string CauseOf(const std::set<uint64_t>& missing, const PoolHealth& pool) {
  std::vector<std::string> names;
  for (uint64_t device_id : missing) {
    if (names.size() == kNamesMax) {
      names.push_back(absl::StrCat("and ", missing.size() - kNamesMax, " more"));
      break;
    }
    const auto name = pool.device_names.find(device_id);
    const auto device = pool.devices.find(device_id);
    names.push_back(absl::StrCat(
        name == pool.device_names.end() ? absl::StrCat("device ", device_id) : name->second,
        device == pool.devices.end() ? "" : Condition(device->second)));
  }
  if (names.empty()) return "placement groups have fewer members than the pool wants";
  return absl::StrCat("copies are missing: ", absl::StrJoin(names, ", "));
}

std::string ActionFor(const v1::VolumeHealth& health, const std::set<uint64_t>& missing,
                      const PoolHealth& pool) {
  Obstacle obstacle = Obstacle::kNone;
  bool maintenance = false;
  bool away = false;
  for (uint64_t device_id : missing) {
    const auto device = pool.devices.find(device_id);
    if (device != pool.devices.end()) {
      maintenance |= device->second.maintenance;
      away |= device->second.condition == DeviceCondition::kAway;
    }
    const auto waiting = pool.waiting.find(device_id);
    if (waiting == pool.waiting.end()) continue;
    for (const auto& [what, count] : waiting->second) obstacle = std::max(obstacle, what);
  }
  if (health.verdict() == v1::VOLUME_VERDICT_UNAVAILABLE) {
    return "bring a server or device that holds a copy back: IO on the affected parts waits for it";
  }
  if (health.rebuilding()) return "nothing: copies are being made";
  if (maintenance)
    return "end the maintenance when the server is back (tessera sds maintenance exit)";
  if (obstacle == Obstacle::kPaused) return "rebuild is paused: tessera rebuild resume";
  if (obstacle > Obstacle::kPaused) return ObstacleText(obstacle);
  if (away)
    return "bring the server back, or wait: after the rebuild delay copies are made elsewhere";
  return "nothing: it begins to catch up by itself";
}

}  // namespace

GroupHealth JudgeGroup(const RepairGroup& group, const RepairPool& pool, uint32_t min_replicas,
                       const StatusOfLearner& status) {
  GroupHealth health;
  uint32_t in_sync = 0;
  uint32_t reachable = 0;
  for (const v1::Replica& replica : group.entry.replicas()) {
    const RepairDevice* device = FindIn(pool, replica.device_id());
    const bool there = device != nullptr && device->condition == DeviceCondition::kReady;
    if (replica.role() == v1::REPLICA_ROLE_IN_SYNC) {
      ++in_sync;
      if (there) ++reachable;
      if (!there) health.missing_device_ids.insert(replica.device_id());
      continue;
    }
    const bool joins = group.move && group.move->to_device_id == replica.device_id();
    if (!joins) health.missing_device_ids.insert(replica.device_id());
    if (replica.role() != v1::REPLICA_ROLE_LEARNER) continue;
    health.learning = true;
    const auto now =
        status(group.entry.placement_group_id(), replica.device_id(), group.entry.epoch());
    if (!now.has_value()) {
      health.bytes_left += group.bytes;
      continue;
    }
    health.bytes_done += now->bytes_copied();
    health.bytes_left += now->bytes_left();
  }
  // What can't be reached is no copy now, whatever the record says.
  if (reachable == 0 || in_sync < min_replicas) {
    health.verdict = v1::VOLUME_VERDICT_UNAVAILABLE;
  } else if (reachable >= pool.replica_count) {
    return {};
  } else {
    health.verdict = reachable == 1 ? v1::VOLUME_VERDICT_SINGLE_COPY : v1::VOLUME_VERDICT_DEGRADED;
  }
  if (!health.learning) health.bytes_left += group.bytes;
  return health;
}

v1::VolumeHealth JudgeVolume(const VolumeExtent& volume, const PoolHealth& pool) {
  v1::VolumeHealth health;
  health.set_volume_id(volume.volume_id);
  health.set_name(volume.name);
  health.set_percent(100);
  if (pool.groups.empty()) {
    health.set_verdict(v1::VOLUME_VERDICT_UNAVAILABLE);
    health.set_cause("its pool has too few servers for its placement groups");
    health.set_action("add servers with devices to the pool");
    return health;
  }
  const std::set<uint32_t> groups = GroupsOf(volume, static_cast<uint32_t>(pool.groups.size()));
  health.set_verdict(v1::VOLUME_VERDICT_HEALTHY);
  health.set_placement_groups(static_cast<uint32_t>(groups.size()));
  std::set<uint64_t> missing;
  uint64_t done = 0;
  uint64_t left = 0;
  uint32_t affected = 0;
  for (uint32_t index : groups) {
    const GroupHealth& group = pool.groups[index];
    if (group.verdict == v1::VOLUME_VERDICT_HEALTHY) continue;
    ++affected;
    health.set_verdict(std::max(health.verdict(), group.verdict));
    health.set_rebuilding(health.rebuilding() || group.learning);
    missing.insert(group.missing_device_ids.begin(), group.missing_device_ids.end());
    done += group.bytes_done;
    left += group.bytes_left;
  }
  health.set_placement_groups_affected(affected);
  if (affected == 0) return health;
  const uint64_t all = done + left;
  health.set_percent(all == 0 ? 0
                              : std::min<uint32_t>(99, static_cast<uint32_t>(done * 100 / all)));
  if (health.rebuilding()) health.set_eta_ms(pool.eta_ms);
  health.set_cause(CauseOf(missing, pool));
  health.set_action(ActionFor(health, missing, pool));
  return health;
}

void LostBlocks::Add(const v1::CorruptBlocks& blocks) {
  for (uint32_t i = 0; i < blocks.block_count() && blocks_.size() < kCountedMax; ++i) {
    blocks_[{blocks.key().vtree_id(), blocks.key().chunk_index(), blocks.key().snapshot_sequence(),
             blocks.first_block() + i}] = blocks.reason();
  }
}

std::string LostBlocks::Describe() const {
  std::vector<std::string> names;
  for (const auto& [block, reason] : blocks_) {
    if (names.size() == kNamesMax) {
      names.push_back(absl::StrCat("and ", blocks_.size() - kNamesMax, " more"));
      break;
    }
    const auto& [vtree, chunk, snapshot, number] = block;
    names.push_back(absl::StrCat("block ", number, " of chunk ", vtree, "/", chunk, "/", snapshot,
                                 " (", reason, ")"));
  }
  return absl::StrJoin(names, ", ");
}

void AddLostBlocks(const LostBlocks& lost, v1::VolumeHealth* health) {
  if (lost.count() == 0) return;
  health->set_unreadable_blocks(lost.count());
  const std::string cause = absl::StrCat("blocks are lost: ", lost.Describe());
  const std::string action =
      "restore or overwrite these blocks, or bring a server with a good copy back: reads of them "
      "fail until then (docs/operations/corrupt-blocks.md)";
  health->set_cause(health->cause().empty() ? cause : absl::StrCat(cause, "; ", health->cause()));
  health->set_action(health->action().empty() ? action
                                              : absl::StrCat(action, "; ", health->action()));
  // What waits is worse than what fails at once.
  if (health->verdict() != v1::VOLUME_VERDICT_UNAVAILABLE) {
    health->set_verdict(v1::VOLUME_VERDICT_DAMAGED);
  }
}

}  // namespace tessera::mdm
