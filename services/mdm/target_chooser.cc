#include "services/mdm/target_chooser.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "services/common/placement_hash.h"

namespace tessera::mdm {
namespace {

// Servers and fault sets share one number space: a server without a fault set is its own.
std::pair<bool, uint64_t> DomainOf(const RepairDevice& device) {
  return device.fault_set_id == 0 ? std::pair(false, device.sds_id)
                                  : std::pair(true, device.fault_set_id);
}

uint64_t Preference(uint64_t placement_group_id, uint64_t device_id) {
  return MixBits(MixBits(placement_group_id) + device_id * 0x9E3779B97F4A7C15ull);
}

}  // namespace

const char* ObstacleText(Obstacle obstacle) {
  switch (obstacle) {
    case Obstacle::kNone:
      return "";
    case Obstacle::kBusy:
      return "others go first";
    case Obstacle::kPaused:
      return "rebuild is paused";
    case Obstacle::kNoSource:
      return "no in-sync copy can be reached";
    case Obstacle::kNoOtherServer:
      return "there is no other server that works: add one, or bring one back";
    case Obstacle::kNoRoom:
      return "no other server has room: add devices, or delete what is not needed";
  }
  return "";
}

TargetChooser::TargetChooser(const RepairRules& rules, const RepairPool& pool)
    : rules_(rules), pool_(pool) {
  for (const RepairDevice& device : pool.devices) devices_[device.device_id] = &device;
  for (const RepairGroup& group : pool.groups) {
    for (const v1::Replica& replica : group.entry.replicas()) {
      const bool leaves = group.move && group.move->from_device_id == replica.device_id();
      if (!leaves) ++load_[replica.device_id()];
      // A member that catches up by difference has its bytes already.
      if (!group.move || group.move->to_device_id != replica.device_id()) continue;
      incoming_bytes_[replica.device_id()] += group.bytes;
    }
  }
}

const RepairDevice* TargetChooser::Find(uint64_t device_id) const {
  const auto found = devices_.find(device_id);
  return found == devices_.end() ? nullptr : found->second;
}

uint32_t TargetChooser::Learners(uint64_t device_id) const {
  const auto found = learners_.find(device_id);
  return found == learners_.end() ? 0 : found->second;
}

uint32_t TargetChooser::Sourced(uint64_t device_id) const {
  const auto found = sourced_.find(device_id);
  return found == sourced_.end() ? 0 : found->second;
}

uint32_t TargetChooser::Load(uint64_t device_id) const {
  const auto found = load_.find(device_id);
  return found == load_.end() ? 0 : found->second;
}

double TargetChooser::Fill(const RepairDevice& device, uint64_t more) const {
  const auto incoming = incoming_bytes_.find(device.device_id);
  const uint64_t used =
      device.used_bytes + more + (incoming == incoming_bytes_.end() ? 0 : incoming->second);
  return static_cast<double>(used) /
         static_cast<double>(std::max<uint64_t>(device.capacity_bytes, 1));
}

bool TargetChooser::Usable(const RepairDevice& device) {
  return device.condition == DeviceCondition::kReady && !device.draining && !device.maintenance &&
         !device.resting;
}

bool TargetChooser::Fits(const v1::PlacementGroup& entry, uint64_t leaving,
                         const RepairDevice& device, bool strict) const {
  for (const v1::Replica& replica : entry.replicas()) {
    if (replica.device_id() == device.device_id) return false;
    if (replica.device_id() == leaving) continue;
    if (replica.sds_id() == device.sds_id) return false;
    const RepairDevice* other = Find(replica.device_id());
    if (strict && other != nullptr && DomainOf(*other) == DomainOf(device)) return false;
  }
  return true;
}

bool TargetChooser::Crowded(const v1::PlacementGroup& entry) const {
  std::set<std::pair<bool, uint64_t>> domains;
  for (const v1::Replica& replica : entry.replicas()) {
    const RepairDevice* device = Find(replica.device_id());
    if (device != nullptr && !domains.insert(DomainOf(*device)).second) return true;
  }
  return false;
}

TargetChoice TargetChooser::Choose(const RepairGroup& group, uint64_t leaving,
                                   bool ignore_bounds) const {
  const RepairDevice* goes = Find(leaving);
  const v1::Replica* member = FindReplica(group.entry, leaving);
  // Its own server may take it back onto another device only where the copy is lost for good.
  const bool may_swap = goes != nullptr && goes->condition == DeviceCondition::kFailed &&
                        member != nullptr && member->role() == v1::REPLICA_ROLE_OUT_OF_SYNC;
  bool any_fits = false;
  // Fault sets count as long as one that keeps them apart works and has room, busy or not.
  for (const bool strict : {true, false}) {
    TargetChoice best;
    std::tuple<bool, double, uint64_t> best_rank;
    bool busy = false;
    for (const RepairDevice& device : pool_.devices) {
      if (!Usable(device) || !Fits(group.entry, leaving, device, strict)) continue;
      const bool swap =
          member != nullptr && member->sds_id() == device.sds_id && device.device_id != leaving;
      if (swap && !may_swap) continue;
      any_fits = true;
      if (Fill(device, group.bytes) * 100 > rules_.full_percent) continue;
      if (!ignore_bounds && Learners(device.device_id) >= rules_.learners_per_target) {
        busy = true;
        continue;
      }
      const double load = (Load(device.device_id) + 1.0) /
                          static_cast<double>(std::max<uint64_t>(device.capacity_bytes, 1));
      const bool successor = goes != nullptr && goes->successor_device_id == device.device_id;
      const std::tuple<bool, double, uint64_t> rank(
          !successor, load, Preference(group.entry.placement_group_id(), device.device_id));
      if (best.device != nullptr && best_rank <= rank) continue;
      best = {.device = &device, .swap = swap};
      best_rank = rank;
    }
    if (best.device != nullptr) return best;
    if (busy) return {.obstacle = Obstacle::kBusy};
  }
  return {.obstacle = any_fits ? Obstacle::kNoRoom : Obstacle::kNoOtherServer};
}

uint64_t TargetChooser::Source(const v1::PlacementGroup& entry, Obstacle* obstacle) const {
  uint64_t best = 0;
  *obstacle = Obstacle::kNoSource;
  for (const v1::Replica& replica : entry.replicas()) {
    const RepairDevice* device = Find(replica.device_id());
    if (replica.role() != v1::REPLICA_ROLE_IN_SYNC || device == nullptr ||
        device->condition != DeviceCondition::kReady) {
      continue;
    }
    if (Sourced(replica.device_id()) >= rules_.learners_per_source) {
      if (best == 0) *obstacle = Obstacle::kBusy;
      continue;
    }
    if (best == 0 || Sourced(replica.device_id()) < Sourced(best)) best = replica.device_id();
  }
  if (best != 0) *obstacle = Obstacle::kNone;
  return best;
}

void TargetChooser::AddLearner(uint64_t target_device_id, uint64_t source_device_id) {
  ++learners_[target_device_id];
  if (source_device_id != 0) ++sourced_[source_device_id];
}

void TargetChooser::AddIncoming(const RepairGroup& group, uint64_t leaving,
                                uint64_t target_device_id) {
  if (leaving != 0 && load_[leaving] > 0) --load_[leaving];
  ++load_[target_device_id];
  incoming_bytes_[target_device_id] += group.bytes;
}

void TargetChooser::Undo(const RepairGroup& group) {
  const uint64_t to = group.move->to_device_id;
  if (load_[to] > 0) --load_[to];
  incoming_bytes_[to] -= std::min(incoming_bytes_[to], group.bytes);
  const uint64_t from = group.move->from_device_id;
  if (FindReplica(group.entry, from) != nullptr) ++load_[from];
}

}  // namespace tessera::mdm
