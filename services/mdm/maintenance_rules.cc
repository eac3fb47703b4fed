#include "services/mdm/maintenance_rules.h"

#include <algorithm>
#include <map>

namespace tessera::mdm {

std::vector<uint64_t> GroupsThatNeed(const RepairPool& pool, uint32_t min_replicas,
                                     uint64_t sds_id) {
  std::map<uint64_t, const RepairDevice*> devices;
  for (const RepairDevice& device : pool.devices) devices[device.device_id] = &device;
  std::vector<uint64_t> groups;
  for (const RepairGroup& group : pool.groups) {
    bool holds = false;
    uint32_t others = 0;
    for (const v1::Replica& replica : group.entry.replicas()) {
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC) continue;
      if (replica.sds_id() == sds_id) {
        holds = true;
        continue;
      }
      const auto device = devices.find(replica.device_id());
      const bool stays = device != devices.end() && !device->second->maintenance &&
                         device->second->condition == DeviceCondition::kReady;
      if (stays) ++others;
    }
    if (holds && others < std::max(min_replicas, 1u)) {
      groups.push_back(group.entry.placement_group_id());
    }
  }
  return groups;
}

}  // namespace tessera::mdm
