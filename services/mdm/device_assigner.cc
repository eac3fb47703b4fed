#include "services/mdm/device_assigner.h"

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/placement_hash.h"
#include "services/common/status_macros.h"
#include "services/mdm/placement_planner.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

absl::Status NoDevice(uint64_t device_id) {
  return WithReason(absl::NotFoundError(absl::StrCat("there is no device ", device_id)),
                    "DEVICE_NOT_FOUND");
}

// Whether the device may join the pool.
absl::Status CheckAssignable(SQLite::Database& db, const DeviceRow& device,
                             const v1::StoragePool& pool) {
  if (device.pool_id != 0 && device.pool_id != pool.pool_id()) {
    return absl::FailedPreconditionError(absl::StrCat("device ", device.device_id, " is in pool ",
                                                      device.pool_id, ": unassign it first"));
  }
  const std::optional<SdsRow> sds = FindSds(db, device.sds_id);
  if (!sds.has_value() || sds->protection_domain_id != pool.protection_domain_id()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "server ", device.sds_id, " of device ", device.device_id, " is not in protection domain ",
        pool.protection_domain_id(), " of pool ", pool.name(), ": assign the server first"));
  }
  if (!device.description.failure().empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "device ", device.device_id, " does not work: ", device.description.failure()));
  }
  const uint32_t chunk_bytes = device.description.chunk_bytes();
  if (chunk_bytes != 0 && chunk_bytes != pool.chunk_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", device.device_id, " was made with chunks of ", chunk_bytes,
                     " bytes, pool ", pool.name(), " has ", pool.chunk_bytes()));
  }
  return absl::OkStatus();
}

std::set<uint64_t> DevicesOf(const v1::PlacementGroup& group) {
  std::set<uint64_t> devices;
  for (const v1::Replica& replica : group.replicas()) devices.insert(replica.device_id());
  return devices;
}

}  // namespace

void DeviceAssigner::LayOut(WriteTransaction& transaction, const v1::StoragePool& pool) const {
  SQLite::Database& db = transaction.db;
  if (CountVolumes(db, pool.pool_id()) > 0) return;
  PlacementRequest request;
  request.pool_id = pool.pool_id();
  request.placement_group_count = pool.placement_group_count();
  request.replica_count = pool.replica_count();
  for (const DeviceRow& device : ListDeviceRowsOfPool(db, pool.pool_id())) {
    if (device.configured_incarnation == 0 || !device.description.failure().empty()) continue;
    if (device.use != v1::DEVICE_USE_NORMAL) continue;
    const std::optional<SdsRow> sds = FindSds(db, device.sds_id);
    request.devices.push_back({device.device_id, device.sds_id,
                               sds.has_value() ? sds->fault_set_id : 0,
                               device.description.capacity_bytes()});
  }
  std::map<uint64_t, v1::PlacementGroup> before;
  for (v1::PlacementGroup& group : ListPlacementGroupRows(db, pool.pool_id())) {
    const uint64_t id = group.placement_group_id();
    before.emplace(id, std::move(group));
  }
  const absl::StatusOr<PlacementPlan> plan = PlanPlacement(request);
  if (!plan.ok()) {
    if (!before.empty()) {
      DeletePlacementGroups(db, pool.pool_id());
      transaction.changes.pools = transaction.changes.topology = true;
    }
    return;
  }
  uint32_t changed = 0;
  for (uint32_t index = 0; index < plan->size(); ++index) {
    v1::PlacementGroup group;
    group.set_placement_group_id(PlacementGroupId(pool.pool_id(), index));
    const auto old = before.find(group.placement_group_id());
    group.set_epoch(old == before.end() ? FirstEpoch(db, pool.pool_id()) : old->second.epoch() + 1);
    for (size_t chosen : (*plan)[index]) {
      v1::Replica* replica = group.add_replicas();
      replica->set_device_id(request.devices[chosen].device_id);
      replica->set_sds_id(request.devices[chosen].sds_id);
      replica->set_role(v1::REPLICA_ROLE_IN_SYNC);
    }
    if (old != before.end() && DevicesOf(old->second) == DevicesOf(group)) continue;
    PutPlacementGroup(db, group);
    transaction.changes.placement_group_ids.insert(group.placement_group_id());
    ++changed;
  }
  if (changed == 0) return;
  transaction.changes.pools = transaction.changes.topology = true;
  events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "pool_laid_out", {},
                  absl::StrCat("pool ", pool.name(), ": ", changed, " of ", plan->size(),
                               " placement groups placed on ", request.devices.size(), " devices"));
}

bool DeviceAssigner::AdoptServer(WriteTransaction& transaction, SdsRow* sds) const {
  SQLite::Database& db = transaction.db;
  if (sds->protection_domain_id != 0) return false;
  uint64_t domain_id = 0;
  if (!sds->wanted_protection_domain.empty()) {
    const auto domain = FindProtectionDomainByName(db, sds->wanted_protection_domain);
    if (domain.has_value()) domain_id = domain->protection_domain_id();
  } else {
    // A server that names only a pool goes where the pool is.
    for (const DeviceRow& device : ListDeviceRowsOfSds(db, sds->sds_id)) {
      if (device.wanted_pool.empty()) continue;
      if (const auto pool = FindPoolByName(db, device.wanted_pool)) {
        domain_id = pool->protection_domain_id();
        break;
      }
    }
  }
  if (domain_id == 0) return false;
  if (!sds->wanted_fault_set.empty()) {
    const auto fault_set = FindFaultSetByName(db, domain_id, sds->wanted_fault_set);
    if (fault_set.has_value()) {
      sds->fault_set_id = fault_set->fault_set_id();
    } else if (rules_.create_fault_sets) {
      v1::FaultSet created;
      created.set_protection_domain_id(domain_id);
      created.set_name(sds->wanted_fault_set);
      sds->fault_set_id = InsertFaultSet(db, created);
      events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "fault_set_created",
                      {v1::COMPONENT_KIND_SDS, sds->sds_id},
                      absl::StrCat("fault set ", sds->wanted_fault_set, " is made for server ",
                                   sds->name, ", which asks for it"));
    } else {
      return false;  // waits for it: placement depends on it
    }
  }
  sds->protection_domain_id = domain_id;
  UpdateSds(db, *sds);
  return true;
}

void DeviceAssigner::Adopt() {
  const auto body = [&](WriteTransaction& transaction) {
    SQLite::Database& db = transaction.db;
    for (SdsRow& sds : ListSdsRows(db)) {
      if (AdoptServer(transaction, &sds)) transaction.changes.topology = true;
      if (sds.protection_domain_id == 0) continue;
      for (DeviceRow& device : ListDeviceRowsOfSds(db, sds.sds_id)) {
        if (device.pool_id != 0 || device.wanted_pool.empty()) continue;
        if (device.use == v1::DEVICE_USE_REMOVED) continue;
        const auto pool = FindPoolByName(db, device.wanted_pool);
        if (!pool.has_value() || !CheckAssignable(db, device, *pool).ok()) continue;
        device.pool_id = pool->pool_id();
        device.configured_incarnation = 0;
        UpdateDevice(db, device);
        transaction.changes.topology = true;
        events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "device_assigned",
                        {v1::COMPONENT_KIND_DEVICE, device.device_id},
                        absl::StrCat("device ", device.device_id, " of server ", sds.name,
                                     " joins pool ", pool->name(), " as its configuration asks"));
      }
    }
    return absl::OkStatus();
  };
  if (absl::Status status = store_->Write(body); !status.ok()) {
    LogError("adopting devices failed", {{"error", status}});
  }
}

absl::Status DeviceAssigner::Configure(const SdsRow& sds, const DeviceRow& device,
                                       NodeControl::Patience patience) {
  std::optional<v1::StoragePool> pool;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    pool = FindPool(db, device.pool_id);
    return absl::OkStatus();
  }));
  v1::ConfigureDeviceRequest request;
  request.set_device_uuid(device.description.device_uuid());
  request.set_device_id(device.device_id);
  request.set_pool_id(device.pool_id);
  request.set_chunk_bytes(pool.has_value() ? pool->chunk_bytes() : 0);
  absl::Status status =
      control_->ConfigureDevice(TargetOf(sds), request, kConfigureTimeout, patience);
  {
    absl::MutexLock lock(&mutex_);
    if (status.ok()) {
      retry_boot_ms_.erase(device.device_id);
    } else {
      retry_boot_ms_[device.device_id] = time_->clock().BootMillis() + kRetryMillis;
    }
  }
  if (!status.ok()) {
    return Annotate(std::move(status),
                    absl::StrCat("server ", sds.name, " did not open device ", device.device_id));
  }
  return store_->Write([&](WriteTransaction& transaction) {
    std::optional<DeviceRow> row = FindDevice(transaction.db, device.device_id);
    // It may have been moved meanwhile: then it is to be configured again.
    if (!row.has_value() || row->pool_id != device.pool_id) return absl::OkStatus();
    row->configured_incarnation = sds.incarnation;
    UpdateDevice(transaction.db, *row);
    transaction.changes.topology = true;
    if (pool.has_value()) LayOut(transaction, *pool);
    return absl::OkStatus();
  });
}

void DeviceAssigner::Run() {
  Adopt();
  std::vector<std::pair<SdsRow, DeviceRow>> due;
  const absl::Status status = store_->Read([&](SQLite::Database& db) {
    for (const SdsRow& sds : ListSdsRows(db)) {
      if (!health_->Reachable({v1::COMPONENT_KIND_SDS, sds.sds_id})) continue;
      for (const DeviceRow& device : ListDeviceRowsOfSds(db, sds.sds_id)) {
        if (device.pool_id == 0 || device.configured_incarnation >= sds.incarnation) continue;
        if (!device.description.failure().empty()) continue;
        due.emplace_back(sds, device);
      }
    }
    return absl::OkStatus();
  });
  if (!status.ok()) LogError("reading devices failed", {{"error", status}});
  for (const auto& [sds, device] : due) {
    {
      absl::MutexLock lock(&mutex_);
      const auto retry = retry_boot_ms_.find(device.device_id);
      if (retry != retry_boot_ms_.end() && time_->clock().BootMillis() < retry->second) continue;
    }
    if (absl::Status configured = Configure(sds, device, NodeControl::Patience::kNow);
        !configured.ok()) {
      LogWarning("device not configured",
                 {{"device", device.device_id}, {"sds", sds.sds_id}, {"error", configured}});
    }
  }
}

absl::Status DeviceAssigner::Assign(uint64_t device_id, uint64_t pool_id) {
  std::optional<DeviceRow> device;
  std::optional<SdsRow> sds;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    device = FindDevice(transaction.db, device_id);
    if (!device.has_value()) return NoDevice(device_id);
    const auto pool = FindPool(transaction.db, pool_id);
    if (!pool.has_value()) {
      return WithReason(absl::NotFoundError(absl::StrCat("there is no pool ", pool_id)),
                        "POOL_NOT_FOUND");
    }
    TESSERA_RETURN_IF_ERROR(CheckAssignable(transaction.db, *device, *pool));
    sds = FindSds(transaction.db, device->sds_id);
    if (device->pool_id == pool_id && device->use == v1::DEVICE_USE_NORMAL) return absl::OkStatus();
    if (device->pool_id != pool_id) device->configured_incarnation = 0;
    device->pool_id = pool_id;
    device->use = v1::DEVICE_USE_NORMAL;
    device->successor_device_id = 0;
    UpdateDevice(transaction.db, *device);
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "device_assigned",
                    {v1::COMPONENT_KIND_DEVICE, device_id},
                    absl::StrCat("device ", device_id, " joins pool ", pool->name()));
    return absl::OkStatus();
  }));
  return Configure(*sds, *device, NodeControl::Patience::kAwait);
}

absl::Status DeviceAssigner::Unassign(uint64_t device_id, v1::DeviceUse use) {
  std::optional<DeviceRow> device;
  std::optional<SdsRow> sds;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    device = FindDevice(db, device_id);
    if (!device.has_value()) return NoDevice(device_id);
    sds = FindSds(db, device->sds_id);
    device->use = use;
    device->successor_device_id = 0;
    if (device->pool_id == 0) {
      UpdateDevice(db, *device);
      transaction.changes.topology = true;
      return absl::OkStatus();
    }
    const std::optional<v1::StoragePool> pool = FindPool(db, device->pool_id);
    const uint64_t volumes = CountVolumes(db, device->pool_id);
    const uint32_t held = CountReplicasByDevice(db)[device_id].total();
    if (volumes > 0 && held > 0) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "device ", device_id, " holds ", held, " placement groups of pool ",
                            pool->name(), ", which has ", volumes, " volumes: drain it first")),
                        "DEVICE_IN_USE");
    }
    // Groups that name the device go first, then those that are left are laid out without it.
    if (held > 0) DeletePlacementGroups(db, device->pool_id);
    device->pool_id = 0;
    device->wanted_pool.clear();
    device->configured_incarnation = 0;
    UpdateDevice(db, *device);
    transaction.changes.topology = transaction.changes.pools = true;
    LayOut(transaction, *pool);
    return absl::OkStatus();
  }));
  // Best effort: the server learns it at its next registration otherwise.
  if (absl::Status status = Configure(*sds, *device, NodeControl::Patience::kNow); !status.ok()) {
    LogWarning("device not closed", {{"device", device_id}, {"error", status}});
  }
  return absl::OkStatus();
}

}  // namespace tessera::mdm
