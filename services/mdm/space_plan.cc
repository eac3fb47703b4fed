#include "services/mdm/space_plan.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/mdm/layer_paths.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {
namespace {

// Path parts in one message, about: each takes up to 20 bytes.
constexpr size_t kPartsPerMessage = 50'000;

// A vtree as all servers together have it; its views are in the order of its rows.
v1::VtreeMeasure Sum(const SpacePlan::Vtree& vtree, const SpaceAnswers& answers) {
  v1::VtreeMeasure sum;
  for (size_t i = 0; i < vtree.rows.size(); ++i) sum.add_views();
  for (const auto& [sds_id, answer] : answers) {
    const auto found = answer.vtrees.find(vtree.vtree_id);
    if (found == answer.vtrees.end()) continue;
    const v1::VtreeMeasure& part = found->second;
    for (int i = 0; i < part.views_size() && i < sum.views_size(); ++i) {
      v1::ViewMeasure* view = sum.mutable_views(i);
      view->set_logical_bytes(view->logical_bytes() + part.views(i).logical_bytes());
      view->set_unique_bytes(view->unique_bytes() + part.views(i).unique_bytes());
    }
    sum.set_data_bytes(sum.data_bytes() + part.data_bytes());
    sum.set_unseen_bytes(sum.unseen_bytes() + part.unseen_bytes());
    sum.set_snapshot_only_bytes(sum.snapshot_only_bytes() + part.snapshot_only_bytes());
    sum.set_raw_data_bytes(sum.raw_data_bytes() + part.raw_data_bytes());
  }
  return sum;
}

// Adds the vtree to the pool, and its figures to the pool's.
void AddVtree(const SpacePlan::Vtree& vtree, const SpaceAnswers& answers, v1::PoolUsage* pool) {
  const v1::VtreeMeasure sum = Sum(vtree, answers);
  v1::VtreeUsage* usage = pool->add_vtrees();
  usage->set_vtree_id(vtree.vtree_id);
  for (size_t i = 0; i < vtree.rows.size(); ++i) {
    const VolumeRow& row = vtree.rows[i];
    const v1::ViewMeasure& view = sum.views(static_cast<int>(i));
    if (!row.is_snapshot()) {
      usage->set_provisioned_bytes(usage->provisioned_bytes() + row.size_bytes);
      pool->set_logical_bytes(pool->logical_bytes() + view.logical_bytes());
    }
    if (row.being_made) continue;  // nobody knows of it yet
    v1::VolumeUsage* volume = usage->add_volumes();
    volume->set_volume_id(row.volume_id);
    volume->set_volume_name(row.shown_name());
    volume->set_kind(row.kind);
    volume->set_parent_id(row.parent_id);
    volume->set_provisioned_bytes(row.size_bytes);
    volume->set_logical_bytes(view.logical_bytes());
    volume->set_unique_bytes(view.unique_bytes());
    volume->set_vtree_id(vtree.vtree_id);
    volume->set_trashed(row.trashed());
  }
  usage->set_data_bytes(sum.data_bytes());
  usage->set_snapshot_bytes(sum.snapshot_only_bytes());
  usage->set_reclaimable_bytes(sum.unseen_bytes());
  usage->set_raw_data_bytes(sum.raw_data_bytes());
  pool->set_provisioned_bytes(pool->provisioned_bytes() + usage->provisioned_bytes());
  pool->set_data_bytes(pool->data_bytes() + usage->data_bytes());
  pool->set_snapshot_bytes(pool->snapshot_bytes() + usage->snapshot_bytes());
  pool->set_reclaimable_bytes(pool->reclaimable_bytes() + usage->reclaimable_bytes());
  pool->set_raw_data_bytes(pool->raw_data_bytes() + usage->raw_data_bytes());
}

// REQUIRES: the pool's vtrees are in it, and raw_data_bytes is their sum.
void AddDevices(const SpacePlan& plan, const SpacePlan::Pool& of, const SpaceAnswers& answers,
                v1::PoolUsage* pool) {
  uint64_t data = 0;
  uint64_t used = 0;
  uint64_t capacity = 0;
  std::set<uint64_t> silent;
  for (const auto& [device_id, sds_id] : of.devices) {
    const auto answer = answers.find(sds_id);
    if (answer == answers.end()) {
      silent.insert(sds_id);
      continue;
    }
    const auto device = answer->second.devices.find(device_id);
    if (device == answer->second.devices.end()) continue;  // it has failed
    data += device->second.data_bytes();
    used += device->second.used_bytes();
    capacity += device->second.capacity_bytes();
  }
  for (const uint64_t sds_id : silent) pool->add_silent_sds_ids(sds_id);
  pool->set_raw_capacity_bytes(capacity);
  if (plan.one_vtree) {
    pool->set_raw_used_bytes(pool->raw_data_bytes());
    return;
  }
  const uint64_t of_vtrees = pool->raw_data_bytes();
  pool->set_raw_deleted_bytes(data > of_vtrees ? data - of_vtrees : 0);
  pool->set_raw_data_bytes(of_vtrees + pool->raw_deleted_bytes());
  pool->set_raw_overhead_bytes(used > pool->raw_data_bytes() ? used - pool->raw_data_bytes() : 0);
  pool->set_raw_used_bytes(pool->raw_data_bytes() + pool->raw_overhead_bytes());
}

}  // namespace

SpacePlan ReadSpacePlan(SQLite::Database& db, const SpaceScope& scope) {
  SpacePlan plan;
  plan.one_vtree = scope.vtree_id != 0;
  for (v1::StoragePool& row : ListPoolRows(db)) {
    if (scope.pool_id != 0 && row.pool_id() != scope.pool_id) continue;
    SpacePlan::Pool& pool = plan.pools.emplace_back();
    std::map<uint64_t, std::vector<VolumeRow>> vtrees;
    const VolumeFilter filter{
        .pool_id = row.pool_id(), .vtree_id = scope.vtree_id, .with_unfinished = true};
    for (VolumeRow& volume : ListVolumeRows(db, filter)) {
      vtrees[volume.vtree_id].push_back(std::move(volume));
    }
    for (auto& [vtree_id, rows] : vtrees) pool.vtrees.push_back({vtree_id, std::move(rows)});
    pool.groups = ListPlacementGroupRows(db, row.pool_id());
    for (const DeviceRow& device : ListDeviceRowsOfPool(db, row.pool_id())) {
      pool.devices[device.device_id] = device.sds_id;
    }
    for (const SdsRow& sds : ListSdsRowsOfPool(db, row.pool_id())) {
      plan.servers[sds.sds_id] = TargetOf(sds);
    }
    pool.pool = std::move(row);
  }
  return plan;
}

absl::StatusOr<CountedReplicas> ChooseCounted(const SpacePlan& plan,
                                              const std::set<uint64_t>& silent) {
  CountedReplicas counted;
  for (const SpacePlan::Pool& pool : plan.pools) {
    if (pool.vtrees.empty()) continue;
    for (const v1::PlacementGroup& group : pool.groups) {
      // Each server gets its share.
      const v1::Replica* chosen = nullptr;
      for (const v1::Replica& replica : group.replicas()) {
        if (replica.role() != v1::REPLICA_ROLE_IN_SYNC || silent.contains(replica.sds_id()) ||
            !plan.servers.contains(replica.sds_id())) {
          continue;
        }
        if (chosen == nullptr ||
            counted[replica.sds_id()].size() < counted[chosen->sds_id()].size()) {
          chosen = &replica;
        }
      }
      if (chosen == nullptr) {
        return absl::UnavailableError(absl::StrCat(
            "placement group ", group.placement_group_id(), " of pool ", pool.pool.name(),
            " has no replica in sync on a server that answers: what it holds can't be counted"));
      }
      v1::CountedReplica entry;
      entry.set_device_id(chosen->device_id());
      entry.set_placement_group_id(group.placement_group_id());
      counted[chosen->sds_id()].push_back(entry);
    }
  }
  return counted;
}

std::vector<std::vector<v1::VtreeCatalog>> CatalogsOf(const SpacePlan& plan) {
  std::vector<std::vector<v1::VtreeCatalog>> pieces(1);
  size_t parts = 0;
  for (const SpacePlan::Pool& pool : plan.pools) {
    for (const SpacePlan::Vtree& vtree : pool.vtrees) {
      if (parts >= kPartsPerMessage) {
        pieces.emplace_back();
        parts = 0;
      }
      v1::VtreeCatalog& catalog = pieces.back().emplace_back();
      catalog.set_vtree_id(vtree.vtree_id);
      for (const VolumeRow& row : vtree.rows) {
        *catalog.add_paths() = ToMessage(row.path);
        parts += 1 + row.path.size();
      }
    }
  }
  return pieces;
}

v1::GetUsageResponse AddUp(const SpacePlan& plan, const SpaceAnswers& answers) {
  v1::GetUsageResponse response;
  for (const SpacePlan::Pool& of : plan.pools) {
    v1::PoolUsage* pool = response.add_pools();
    pool->set_pool_id(of.pool.pool_id());
    pool->set_pool_name(of.pool.name());
    pool->set_replica_count(of.pool.replica_count());
    for (const SpacePlan::Vtree& vtree : of.vtrees) AddVtree(vtree, answers, pool);
    AddDevices(plan, of, answers, pool);
  }
  return response;
}

}  // namespace tessera::mdm
