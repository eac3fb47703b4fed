#include "services/mdm/topology_reader.h"

#include <algorithm>
#include <utility>

#include "services/mdm/capacity_rules.h"
#include "services/mdm/layer_paths.h"
#include "services/mdm/membership_rules.h"
#include "services/mdm/placement_planner.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/space_table.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {

v1::RedundancyState JudgeRedundancy(const v1::PlacementGroup& group, uint32_t replica_count,
                                    const HealthMonitor& health) {
  const bool reachable = std::any_of(
      group.replicas().begin(), group.replicas().end(), [&](const v1::Replica& replica) {
        return replica.role() == v1::REPLICA_ROLE_IN_SYNC &&
               health.Reachable({v1::COMPONENT_KIND_SDS, replica.sds_id()});
      });
  const uint32_t in_sync = InSyncCount(group);
  if (!reachable) return v1::REDUNDANCY_STATE_UNAVAILABLE;
  if (in_sync >= replica_count) return v1::REDUNDANCY_STATE_HEALTHY;
  return in_sync == 1 ? v1::REDUNDANCY_STATE_SINGLE_COPY : v1::REDUNDANCY_STATE_DEGRADED;
}

const std::map<uint64_t, ReplicaCounts>& TopologyReader::Replicas() {
  if (!replicas_.has_value()) replicas_ = CountReplicasByDevice(db_);
  return *replicas_;
}

v1::VolumeMapping TopologyReader::Mapping(const MappingRow& row) {
  v1::VolumeMapping mapping;
  mapping.set_volume_id(row.volume_id);
  mapping.set_sdc_id(row.sdc_id);
  mapping.set_mode(row.mode);
  mapping.set_iops_limit(row.limits.iops);
  mapping.set_bandwidth_limit_bytes(row.limits.bandwidth_bytes);
  mapping.set_burst_seconds(row.limits.burst_seconds);
  mapping.set_attached(health_.IsAttached(row.sdc_id, row.volume_id));
  if (const auto volume = FindVolume(db_, row.volume_id)) {
    mapping.set_volume_name(volume->name);
    mapping.set_writer(row.mode == v1::MAPPING_MODE_SHARED && IsWriter(*volume, row));
  }
  if (const auto sdc = FindSdc(db_, row.sdc_id)) {
    mapping.set_sdc_name(sdc->name);
    for (const std::string& uri : sdc->nbd_uris) {
      mapping.add_nbd_uris(NbdUriOf(uri, mapping.volume_name()));
    }
  }
  return mapping;
}

v1::Volume TopologyReader::Volume(const VolumeRow& row) {
  v1::Volume volume;
  volume.set_volume_id(row.volume_id);
  volume.set_name(row.shown_name());
  volume.set_pool_id(row.pool_id);
  volume.set_vtree_id(row.vtree_id);
  volume.set_size_bytes(row.size_bytes);
  volume.set_provisioning(row.provisioning);
  volume.set_generation(row.generation);
  volume.set_snapshot_sequence(row.snapshot_sequence);
  volume.set_created_ms(row.created_ms);
  volume.set_trashed_until_ms(row.trashed_until_ms);
  volume.set_iops_limit(row.limits.iops);
  volume.set_bandwidth_limit_bytes(row.limits.bandwidth_bytes);
  volume.set_burst_seconds(row.limits.burst_seconds);
  volume.set_kind(row.kind);
  volume.set_parent_id(row.parent_id);
  volume.set_locked_until_ms(row.locked_until_ms);
  volume.set_expires_ms(row.expires_ms);
  *volume.mutable_path() = ToMessage(row.path);
  if (const auto budget = FindBudget(db_, row.volume_id)) {
    volume.set_byte_budget(budget->byte_budget);
    volume.set_over_budget(budget->over);
  }
  if (row.parent_id != 0) {
    if (const auto parent = FindVolume(db_, row.parent_id)) {
      volume.set_parent_name(parent->shown_name());
    }
  }
  for (auto& [key, value] : ReadLabels(db_, row.volume_id)) {
    (*volume.mutable_labels())[key] = value;
  }
  for (const MappingRow& mapping : ListMappings(db_, row.volume_id)) {
    *volume.add_mappings() = Mapping(mapping);
  }
  if (const auto pool = FindPool(db_, row.pool_id)) {
    volume.set_chunk_bytes(pool->chunk_bytes());
    volume.set_pool_name(pool->name());
  }
  return volume;
}

v1::PoolCapacity TopologyReader::CapacityOf(const v1::StoragePool& pool) {
  uint64_t usable = 0;
  return Capacity(pool, &usable);
}

TopologyReader::Promise TopologyReader::PromiseOf(const v1::StoragePool& pool) {
  Promise promise;
  promise.provisioned_bytes = Capacity(pool, &promise.usable_bytes).provisioned_bytes();
  return promise;
}

v1::PoolCapacity TopologyReader::Capacity(const v1::StoragePool& pool, uint64_t* usable_bytes) {
  v1::PoolCapacity capacity;
  std::vector<PlacementDevice> devices;
  for (const DeviceRow& row : ListDeviceRowsOfPool(db_, pool.pool_id())) {
    const v1::DeviceDescription now =
        health_.DeviceNow(row.sds_id, row.description.device_uuid()).value_or(row.description);
    if (!now.failure().empty()) continue;
    capacity.set_raw_capacity_bytes(capacity.raw_capacity_bytes() + now.capacity_bytes());
    capacity.set_raw_used_bytes(capacity.raw_used_bytes() + now.used_bytes());
    capacity.set_raw_data_bytes(capacity.raw_data_bytes() +
                                std::min(now.used_bytes(), health_.DeviceData(row.device_id)));
    devices.push_back({row.device_id, row.sds_id, 0, now.capacity_bytes()});
  }
  uint64_t thin = 0;
  uint64_t snapshots = 0;
  for (const VolumeRow& volume : ListVolumeRows(db_, {.pool_id = pool.pool_id()})) {
    // Nothing is set aside for it; what it holds was written.
    if (volume.is_snapshot()) {
      snapshots += volume.size_bytes;
    } else if (volume.provisioning == v1::PROVISIONING_THICK) {
      capacity.set_thick_bytes(capacity.thick_bytes() + volume.size_bytes);
    } else {
      thin += volume.size_bytes;
    }
  }
  capacity.set_provisioned_bytes(capacity.thick_bytes() + thin);
  const uint64_t usable = UsableBytes(devices, pool.replica_count());
  *usable_bytes = usable;
  // What is written may all belong to thin volumes and snapshots, which no promise covers.
  const uint64_t taken =
      capacity.thick_bytes() +
      std::min(thin + snapshots, capacity.raw_used_bytes() / pool.replica_count());
  capacity.set_available_bytes(usable > taken ? usable - taken : 0);
  capacity.set_overcommit_percent(PercentOf(capacity.provisioned_bytes(), usable));
  capacity.set_used_percent(
      std::min(100u, PercentOf(capacity.raw_used_bytes(), capacity.raw_capacity_bytes())));
  capacity.set_state(JudgeCapacity(ReadCapacityState(db_, pool.pool_id()),
                                   capacity.raw_used_bytes(), capacity.raw_capacity_bytes(),
                                   pool.capacity_policy()));
  return capacity;
}

v1::StoragePool TopologyReader::Pool(v1::StoragePool pool) {
  *pool.mutable_capacity() = CapacityOf(pool);
  v1::RedundancyState worst = v1::REDUNDANCY_STATE_UNSPECIFIED;
  for (const v1::PlacementGroup& group : ListPlacementGroupRows(db_, pool.pool_id())) {
    worst = std::max(worst, JudgeRedundancy(group, pool.replica_count(), health_));
  }
  pool.set_redundancy(worst);
  return pool;
}

v1::Device TopologyReader::Device(const DeviceRow& row) {
  v1::Device device;
  device.set_device_id(row.device_id);
  device.set_sds_id(row.sds_id);
  device.set_pool_id(row.pool_id);
  device.set_use(row.use);
  *device.mutable_description() =
      health_.DeviceNow(row.sds_id, row.description.device_uuid()).value_or(row.description);
  device.set_state(JudgeDevice(health_.StateOf({v1::COMPONENT_KIND_SDS, row.sds_id}),
                               !device.description().failure().empty()));
  const auto replicas = Replicas().find(row.device_id);
  if (replicas != Replicas().end()) device.set_placement_groups(replicas->second.total());
  return device;
}

v1::Sds TopologyReader::Sds(const SdsRow& row) {
  const ComponentId component{v1::COMPONENT_KIND_SDS, row.sds_id};
  v1::Sds sds;
  sds.set_sds_id(row.sds_id);
  sds.set_name(row.name);
  sds.set_protection_domain_id(row.protection_domain_id);
  sds.set_fault_set_id(row.fault_set_id);
  *sds.mutable_endpoints() = row.endpoints;
  sds.set_state(health_.StateOf(component));
  sds.set_incarnation(row.incarnation);
  sds.set_software_version(row.software_version);
  sds.set_last_heartbeat_ms(health_.LastHeartbeatMillis(component));
  sds.set_node_uuid(row.node_uuid);
  sds.set_maintenance_until_ms(row.maintenance_until_ms);
  sds.set_maintenance_reason(row.maintenance_reason);
  for (const DeviceRow& device : ListDeviceRowsOfSds(db_, row.sds_id)) {
    *sds.add_devices() = Device(device);
  }
  return sds;
}

v1::Sdc TopologyReader::Sdc(const SdcRow& row) {
  const ComponentId component{v1::COMPONENT_KIND_SDC, row.sdc_id};
  v1::Sdc sdc;
  sdc.set_sdc_id(row.sdc_id);
  sdc.set_name(row.name);
  *sdc.mutable_endpoints() = row.endpoints;
  for (const std::string& uri : row.nbd_uris) sdc.add_nbd_uris(uri);
  sdc.set_state(health_.StateOf(component));
  sdc.set_incarnation(row.incarnation);
  sdc.set_software_version(row.software_version);
  sdc.set_last_heartbeat_ms(health_.LastHeartbeatMillis(component));
  sdc.set_node_uuid(row.node_uuid);
  for (const MappingRow& mapping : ListMappingsOfSdc(db_, row.sdc_id)) {
    *sdc.add_mappings() = Mapping(mapping);
  }
  return sdc;
}

v1::StoragePoolNode TopologyReader::PoolNode(const v1::StoragePool& pool) {
  v1::StoragePoolNode node;
  *node.mutable_pool() = Pool(pool);
  std::vector<v1::VolumeReplicaNode> replicas;
  for (const DeviceRow& row : ListDeviceRowsOfPool(db_, pool.pool_id())) {
    *node.add_devices() = Device(row);
    const auto counts = Replicas().find(row.device_id);
    if (counts == Replicas().end()) continue;
    v1::VolumeReplicaNode& replica = replicas.emplace_back();
    replica.set_sds_id(row.sds_id);
    replica.set_device_id(row.device_id);
    replica.set_in_sync(counts->second.in_sync);
    replica.set_learning(counts->second.learning);
    replica.set_out_of_sync(counts->second.out_of_sync);
  }
  for (const VolumeRow& row : ListVolumeRows(db_, {.pool_id = pool.pool_id()})) {
    v1::VolumeNode* volume = node.add_volumes();
    *volume->mutable_volume() = Volume(row);
    for (const v1::VolumeReplicaNode& replica : replicas) *volume->add_replicas() = replica;
  }
  return node;
}

v1::Topology TopologyReader::Whole() {
  v1::Topology topology;
  topology.set_cluster_uuid(GetSetting(db_, "cluster_uuid"));
  topology.set_version(GetNumber(db_, "topology_version"));
  std::map<uint64_t, v1::ProtectionDomainNode*> domains;
  for (v1::ProtectionDomain& domain : ListProtectionDomainRows(db_)) {
    v1::ProtectionDomainNode* node = topology.add_protection_domains();
    domains[domain.protection_domain_id()] = node;
    *node->mutable_protection_domain() = std::move(domain);
  }
  for (v1::FaultSet& fault_set : ListFaultSetRows(db_)) {
    const uint64_t domain_id = fault_set.protection_domain_id();
    *domains[domain_id]->add_fault_sets() = std::move(fault_set);
  }
  for (const v1::StoragePool& pool : ListPoolRows(db_)) {
    *domains[pool.protection_domain_id()]->add_pools() = PoolNode(pool);
  }
  for (const SdsRow& row : ListSdsRows(db_)) {
    *(row.protection_domain_id == 0 ? topology.add_unassigned_sdss()
                                    : domains[row.protection_domain_id]->add_sdss()) = Sds(row);
  }
  for (const SdcRow& row : ListSdcRows(db_)) *topology.add_sdcs() = Sdc(row);
  return topology;
}

}  // namespace tessera::mdm
