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

bool FlushTracker::NoteWrite(const ReplicaName& replica, uint64_t store_incarnation) {
  Device* device = Find(replica.device_id);
  if (device == nullptr) {
    devices_.emplace_back();
    device = &devices_.back();
    device->device_id = replica.device_id;
    device->store_incarnation = store_incarnation;
  }
  bool same_life = true;
  if (device->store_incarnation == 0) device->store_incarnation = store_incarnation;
  if (device->store_incarnation != store_incarnation) {
    same_life = device->dirty.empty() && device->flushing.empty();
    LoseAll(*device);
    device->store_incarnation = store_incarnation;
    device->failed = false;
  }
  device->dirty.insert(replica.placement_group_id);
  return same_life;
}

void FlushTracker::NoteInherited(const ReplicaName& replica) {
  Device* device = Find(replica.device_id);
  if (device == nullptr) {
    devices_.emplace_back();
    device = &devices_.back();
    device->device_id = replica.device_id;
  }
  device->dirty.insert(replica.placement_group_id);
}

void FlushTracker::LoseAll(Device& device) {
  for (auto* set : {&device.dirty, &device.flushing}) {
    for (const uint64_t group : *set) {
      if (device.lost.insert(group).second) newly_lost_.push_back({device.device_id, group});
    }
    set->clear();
  }
}

std::vector<ReplicaName> FlushTracker::BeginRound() {
  std::vector<ReplicaName> targets;
  bool waits = false;
  for (Device& device : devices_) {
    waits |= !device.lost.empty();
    if (device.dirty.empty()) continue;
    std::swap(device.dirty, device.flushing);
    targets.push_back({device.device_id, *device.flushing.begin()});
  }
  round_running_ = waits || !targets.empty();
  return targets;
}

uint64_t FlushTracker::PlacementGroupToAsk(uint64_t device_id) const {
  const Device* device = Find(device_id);
  return device == nullptr || device->flushing.empty() ? 0 : *device->flushing.begin();
}

bool FlushTracker::DeviceFlushed(uint64_t device_id, uint64_t store_incarnation) {
  Device* device = Find(device_id);
  if (device == nullptr || device->flushing.empty()) return true;
  if (device->store_incarnation == 0) device->store_incarnation = store_incarnation;
  if (device->store_incarnation != store_incarnation) {
    LoseAll(*device);
    device->store_incarnation = store_incarnation;
    return false;
  }
  for (const uint64_t group : device->flushing) {
    if (!device->dirty.contains(group)) device->unprovable.erase(group);
  }
  device->flushing.clear();
  device->failed = false;
  return true;
}

void FlushTracker::FlushFailed(uint64_t device_id) {
  Device* device = Find(device_id);
  if (device == nullptr) return;
  device->failed = true;
  LoseAll(*device);
}

bool FlushTracker::IsLost(const ReplicaName& replica) const {
  const Device* device = Find(replica.device_id);
  return device != nullptr && device->lost.contains(replica.placement_group_id);
}

bool FlushTracker::device_failed(uint64_t device_id) const {
  const Device* device = Find(device_id);
  return device != nullptr && device->failed;
}

bool FlushTracker::Recover(const ReplicaName& replica) {
  Device* device = Find(replica.device_id);
  if (device == nullptr || device->lost.erase(replica.placement_group_id) == 0) return false;
  (round_running_ ? device->flushing : device->dirty).insert(replica.placement_group_id);
  return round_running_;
}

void FlushTracker::DropReplica(const ReplicaName& replica) {
  Device* device = Find(replica.device_id);
  if (device == nullptr) return;
  device->dirty.erase(replica.placement_group_id);
  device->flushing.erase(replica.placement_group_id);
  device->lost.erase(replica.placement_group_id);
  device->unprovable.erase(replica.placement_group_id);
}

void FlushTracker::NewGeneration() {
  for (Device& device : devices_) {
    for (const auto* set : {&device.dirty, &device.flushing, &device.lost}) {
      device.unprovable.insert(set->begin(), set->end());
    }
  }
}

bool FlushTracker::CanProve(const ReplicaName& replica) const {
  const Device* device = Find(replica.device_id);
  return device == nullptr || !device->unprovable.contains(replica.placement_group_id);
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
    for (const uint64_t group : device.lost) replicas.push_back({device.device_id, group});
  }
  return replicas;
}

std::vector<ReplicaName> FlushTracker::TakeNewlyLost() { return std::exchange(newly_lost_, {}); }

void FlushTracker::AcceptLoss(const ReplicaName& replica) {
  Device* device = Find(replica.device_id);
  if (device == nullptr || device->lost.erase(replica.placement_group_id) == 0) return;
  device->unprovable.erase(replica.placement_group_id);
  ++losses_;
}

bool FlushTracker::LoseGroup(uint64_t placement_group_id) {
  size_t marks = 0;
  for (Device& device : devices_) {
    for (auto* set : {&device.dirty, &device.flushing, &device.lost}) {
      marks += set->erase(placement_group_id);
    }
    device.unprovable.erase(placement_group_id);
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
    for (const uint64_t group : device->flushing) replicas.push_back({device_id, group});
  }
  return replicas;
}

bool FlushTracker::clean() const {
  return std::all_of(devices_.begin(), devices_.end(), [](const Device& device) {
    return device.dirty.empty() && device.flushing.empty() && device.lost.empty();
  });
}

}  // namespace tessera::sdc
