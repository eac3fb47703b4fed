#include "services/sdc/rules/flush_tracker.h"

#include <algorithm>
#include <utility>

namespace tessera::sdc {

FlushTracker::Device* FlushTracker::Find(uint64_t device_id) {
  for (Device& device : devices_) {
    if (device.device_id == device_id) return &device;
  }
  return nullptr;
}

const FlushTracker::Device* FlushTracker::Find(uint64_t device_id) const {
  return const_cast<FlushTracker*>(this)->Find(device_id);
}

FlushTracker::Device& FlushTracker::FindOrAdd(uint64_t device_id) {
  if (Device* device = Find(device_id)) return *device;
  devices_.emplace_back();
  devices_.back().device_id = device_id;
  return devices_.back();
}

bool FlushTracker::NoteWrite(const ReplicaName& replica, uint64_t store_incarnation) {
  Device& device = FindOrAdd(replica.device_id);
  bool same_life = true;
  if (device.store_incarnation == 0) device.store_incarnation = store_incarnation;
  if (device.store_incarnation != store_incarnation) {
    const size_t lost_before = newly_lost_.size();
    Lose(device, Cause::kAnotherLife);
    same_life = newly_lost_.size() == lost_before;
    device.store_incarnation = store_incarnation;
  }
  for (Groups* groups : {&device.dirty, &device.flushing}) {
    const auto found = groups->find(replica.placement_group_id);
    if (found != groups->end() && found->second != Owed::kThisGeneration) {
      found->second = Owed::kEarlier;
    }
  }
  device.dirty.try_emplace(replica.placement_group_id, Owed::kThisGeneration);
  return same_life;
}

void FlushTracker::NoteInherited(const ReplicaName& replica) {
  FindOrAdd(replica.device_id).dirty.try_emplace(replica.placement_group_id, Owed::kInherited);
}

void FlushTracker::Lose(Device& device, Cause cause) {
  for (Groups* groups : {&device.dirty, &device.flushing}) {
    Groups kept;
    for (const auto& [group, owed] : *groups) {
      if (owed == Owed::kInherited && cause == Cause::kAnotherLife) {
        kept.emplace(group, owed);
        continue;
      }
      const auto [lost, first] = device.lost.try_emplace(group, owed);
      lost->second =
          cause == Cause::kFailedFlush ? Owed::kUnprovable : std::max(lost->second, owed);
      if (first) newly_lost_.push_back({device.device_id, group});
    }
    *groups = std::move(kept);
  }
}

void FlushTracker::Suspect(const ReplicaName& replica) {
  Device& device = FindOrAdd(replica.device_id);
  Owed& lost = device.lost[replica.placement_group_id];
  for (Groups* groups : {&device.dirty, &device.flushing}) {
    const auto found = groups->find(replica.placement_group_id);
    if (found == groups->end()) continue;
    lost = std::max(lost, found->second);
    groups->erase(found);
  }
}

std::vector<ReplicaName> FlushTracker::BeginRound() {
  std::vector<ReplicaName> targets;
  bool waits = false;
  for (Device& device : devices_) {
    waits |= !device.lost.empty();
    if (device.dirty.empty()) continue;
    std::swap(device.dirty, device.flushing);
    targets.push_back({device.device_id, device.flushing.begin()->first});
  }
  round_running_ = waits || !targets.empty();
  return targets;
}

uint64_t FlushTracker::PlacementGroupToAsk(uint64_t device_id) const {
  const Device* device = Find(device_id);
  return device == nullptr || device->flushing.empty() ? 0 : device->flushing.begin()->first;
}

bool FlushTracker::DeviceFlushed(uint64_t device_id, uint64_t store_incarnation) {
  Device* device = Find(device_id);
  if (device == nullptr || device->flushing.empty()) return true;
  if (device->store_incarnation == 0) device->store_incarnation = store_incarnation;
  if (device->store_incarnation != store_incarnation) {
    const size_t lost_before = newly_lost_.size();
    Lose(*device, Cause::kAnotherLife);
    device->store_incarnation = store_incarnation;
    device->flushing.clear();
    return newly_lost_.size() == lost_before;
  }
  device->flushing.clear();
  return true;
}

void FlushTracker::FlushFailed(uint64_t device_id) {
  Device* device = Find(device_id);
  if (device == nullptr) return;
  Lose(*device, Cause::kFailedFlush);
}

bool FlushTracker::IsLost(const ReplicaName& replica) const {
  const Device* device = Find(replica.device_id);
  return device != nullptr && device->lost.contains(replica.placement_group_id);
}

bool FlushTracker::Recover(const ReplicaName& replica) {
  Device* device = Find(replica.device_id);
  if (device == nullptr) return false;
  const auto lost = device->lost.find(replica.placement_group_id);
  if (lost == device->lost.end()) return false;
  Owed& owed = (round_running_ ? device->flushing : device->dirty)[replica.placement_group_id];
  owed = std::max(owed, lost->second);
  device->lost.erase(lost);
  return round_running_;
}

void FlushTracker::DropReplica(const ReplicaName& replica) {
  Device* device = Find(replica.device_id);
  if (device == nullptr) return;
  device->dirty.erase(replica.placement_group_id);
  device->flushing.erase(replica.placement_group_id);
  device->lost.erase(replica.placement_group_id);
}

void FlushTracker::NewGeneration() {
  for (Device& device : devices_) {
    for (Groups* groups : {&device.dirty, &device.flushing, &device.lost}) {
      for (auto& [group, owed] : *groups) {
        if (owed != Owed::kInherited) owed = Owed::kUnprovable;
      }
    }
  }
}

FlushTracker::Owed FlushTracker::OwedBy(const ReplicaName& replica) const {
  Owed owed = Owed::kThisGeneration;
  const Device* device = Find(replica.device_id);
  if (device == nullptr) return owed;
  for (const Groups* groups : {&device->dirty, &device->flushing, &device->lost}) {
    const auto found = groups->find(replica.placement_group_id);
    if (found != groups->end()) owed = std::max(owed, found->second);
  }
  return owed;
}

bool FlushTracker::CanProve(const ReplicaName& replica) const {
  return OwedBy(replica) < Owed::kUnprovable;
}

bool FlushTracker::OwesThisGenerationOnly(const ReplicaName& replica) const {
  return OwedBy(replica) == Owed::kThisGeneration;
}

bool FlushTracker::GroupOwesThisGenerationOnly(uint64_t placement_group_id) const {
  return std::all_of(devices_.begin(), devices_.end(), [&](const Device& device) {
    return OwesThisGenerationOnly({device.device_id, placement_group_id});
  });
}

bool FlushTracker::FinishRound() {
  for (const Device& device : devices_) {
    if (!device.flushing.empty() || !device.lost.empty()) return false;
  }
  round_running_ = false;
  return true;
}

std::vector<ReplicaName> FlushTracker::Lost() const {
  std::vector<ReplicaName> replicas;
  for (const Device& device : devices_) {
    for (const auto& [group, owed] : device.lost) replicas.push_back({device.device_id, group});
  }
  return replicas;
}

std::vector<ReplicaName> FlushTracker::TakeNewlyLost() { return std::exchange(newly_lost_, {}); }

void FlushTracker::AcceptLoss(const ReplicaName& replica) {
  Device* device = Find(replica.device_id);
  if (device == nullptr || device->lost.erase(replica.placement_group_id) == 0) return;
  ++losses_;
}

bool FlushTracker::LoseGroup(uint64_t placement_group_id) {
  size_t marks = 0;
  for (Device& device : devices_) {
    for (Groups* groups : {&device.dirty, &device.flushing, &device.lost}) {
      marks += groups->erase(placement_group_id);
    }
  }
  std::erase_if(newly_lost_, [placement_group_id](const ReplicaName& replica) {
    return replica.placement_group_id == placement_group_id;
  });
  if (marks > 0) ++losses_;
  return marks > 0;
}

std::vector<ReplicaName> FlushTracker::WaitedFor(uint64_t device_id) const {
  std::vector<ReplicaName> replicas;
  if (const Device* device = Find(device_id)) {
    for (const auto& [group, owed] : device->flushing) replicas.push_back({device_id, group});
  }
  return replicas;
}

bool FlushTracker::clean() const {
  return std::all_of(devices_.begin(), devices_.end(), [](const Device& device) {
    return device.dirty.empty() && device.flushing.empty() && device.lost.empty();
  });
}

}  // namespace tessera::sdc
