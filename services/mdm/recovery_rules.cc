#include "services/mdm/recovery_rules.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/placement_hash.h"
#include "services/common/status_macros.h"
#include "services/mdm/layer_paths.h"

namespace tessera::mdm {
namespace {

constexpr size_t kGroupsNamed = 8;

// A name that nobody has yet: `wanted`, or that with a number.
template <typename Taken>
std::string FreeName(const std::string& wanted, const Taken& taken) {
  std::string name = wanted;
  for (int i = 2; taken(name); ++i) name = absl::StrCat(wanted, "-", i);
  return name;
}

std::string SomeOf(const std::set<uint64_t>& ids) {
  std::vector<uint64_t> first;
  for (const uint64_t id : ids) {
    if (first.size() == kGroupsNamed) break;
    first.push_back(id);
  }
  return absl::StrCat(absl::StrJoin(first, ", "), ids.size() > first.size() ? ", .." : "");
}

class Recovery {
 public:
  Recovery(const std::vector<ServerCopy>& copies, const std::set<std::string>& accepted_missing)
      : copies_(copies), accepted_missing_(accepted_missing) {}

  absl::StatusOr<RecoveryPlan> Plan() {
    TESSERA_RETURN_IF_ERROR(CheckCopies());
    TakeRecords();
    TakeServers();
    TakeDevices();
    RecoverGroups();
    TakeMembers();
    TakePools();
    TakeVolumes();
    CheckPools();
    TakeDeletions();
    JudgeMissing();
    RaiseIds();
    return std::move(plan_);
  }

 private:
  absl::Status CheckCopies() const;
  void TakeRecords();
  void TakeServers();
  void TakeDevices();
  void RecoverGroups();
  void TakeMembers();
  void TakePools();
  void MakePool(uint64_t pool_id, const v1::PoolLayout& layout);
  void TakeVolumes();
  void TakeUnknownVtrees();
  void RaiseLayers();
  void CheckPools();
  void TakeDeletions();
  void JudgeMissing();
  void RaiseIds();
  void RaiseId(const std::string& table, uint64_t id) {
    uint64_t& highest = (*cluster().cluster.mutable_highest_ids())[table];
    highest = std::max(highest, id);
  }
  [[nodiscard]] const ServerCopy* CopyOf(uint64_t sds_id) const {
    for (const ServerCopy& copy : copies_) {
      if (copy.identity.sds_id() == sds_id) return &copy;
    }
    return nullptr;
  }
  RecoveredCluster& cluster() { return plan_.cluster; }

  const std::vector<ServerCopy>& copies_;
  const std::set<std::string>& accepted_missing_;
  RecoveryPlan plan_;
  std::map<uint64_t, std::set<uint64_t>> could_know_more_;  // by missing server
  std::map<uint64_t, v1::PoolLayout> layouts_;
};

absl::Status Recovery::CheckCopies() const {
  if (copies_.empty()) return absl::InvalidArgumentError("there is no copy of any server");
  const v1::ServerIdentity& first = copies_.front().identity;
  std::map<uint64_t, std::string> names;
  for (const ServerCopy& copy : copies_) {
    const v1::ServerIdentity& identity = copy.identity;
    if (identity.cluster_uuid() != first.cluster_uuid() || identity.cluster_uuid().empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("server ", identity.name(), " belongs to cluster '", identity.cluster_uuid(),
                       "', server ", first.name(), " to '", first.cluster_uuid(), "'"));
    }
    const auto [other, fresh] = names.emplace(identity.sds_id(), identity.name());
    if (!fresh) {
      return absl::FailedPreconditionError(
          absl::StrCat("servers ", other->second, " and ", identity.name(),
                       " both say that they are server ", identity.sds_id()));
    }
  }
  return absl::OkStatus();
}

void Recovery::TakeRecords() {
  const ServerCopy* newest = &copies_.front();
  for (const ServerCopy& copy : copies_) {
    if (copy.records_revision > newest->records_revision) newest = &copy;
    cluster().mdm_time_ms = std::max(cluster().mdm_time_ms, copy.identity.mdm_time_ms());
  }
  cluster().records_revision = newest->records_revision;
  if (newest->records_revision == 0) {
    plan_.notes.push_back(
        "no server keeps records of the cluster: names, mappings and clients are lost, and clients "
        "have to "
        "join again");
  }
  for (const v1::ClusterRecord& record : newest->records) {
    const uint64_t id = record.object_id();
    switch (record.content_case()) {
      case v1::ClusterRecord::kCluster:
        cluster().cluster = record.cluster();
        break;
      case v1::ClusterRecord::kProtectionDomain:
        cluster().domains[id] = record.protection_domain();
        break;
      case v1::ClusterRecord::kFaultSet:
        cluster().fault_sets[id] = record.fault_set();
        break;
      case v1::ClusterRecord::kPool:
        cluster().pools[id] = record.pool();
        break;
      case v1::ClusterRecord::kSds:
        cluster().servers[id] = record.sds();
        break;
      case v1::ClusterRecord::kDevice:
        cluster().devices[id] = record.device();
        break;
      case v1::ClusterRecord::kSdc:
        cluster().clients[id] = record.sdc();
        break;
      case v1::ClusterRecord::kVolume:
        cluster().volumes[id] = record.volume();
        break;
      case v1::ClusterRecord::kVtree:
        cluster().vtrees[id] = record.vtree();
        break;
      case v1::ClusterRecord::kSnapshotSchedule:
        cluster().schedules[id] = record.snapshot_schedule();
        break;
      case v1::ClusterRecord::CONTENT_NOT_SET:
        break;
    }
  }
  cluster().cluster.set_cluster_uuid(copies_.front().identity.cluster_uuid());
}

void Recovery::TakeServers() {
  for (const ServerCopy& copy : copies_) {
    const v1::ServerIdentity& identity = copy.identity;
    // Who joined after the records were made brings itself.
    v1::Sds& sds = cluster().servers[identity.sds_id()];
    sds.set_sds_id(identity.sds_id());
    sds.set_node_uuid(identity.node_uuid());
    *sds.mutable_endpoints() = identity.endpoints();
    sds.set_incarnation(std::max<uint64_t>(identity.incarnation(), 1));
    sds.set_software_version(identity.software_version());
    if (sds.name().empty()) sds.set_name(identity.name());
  }
}

void Recovery::TakeDevices() {
  for (const ServerCopy& copy : copies_) {
    for (const v1::LocalDevice& local : copy.devices) {
      if (local.device_id() == 0)
        continue;  // it was never registered: it joins when the server does
      v1::Device& device = cluster().devices[local.device_id()];
      if (device.device_id() == 0) device.set_pool_id(local.pool_id());
      device.set_device_id(local.device_id());
      device.set_sds_id(copy.identity.sds_id());
      *device.mutable_description() = local.description();
      if (local.pool_id() != 0 && local.description().store_incarnation() != 0) {
        cluster().configured_device_ids.insert(local.device_id());
      }
    }
  }
  for (auto& [id, device] : cluster().devices) {
    // Drains are operations, and these are not kept: it has to be asked for again.
    if (device.use() == v1::DEVICE_USE_DRAINING) {
      plan_.notes.push_back(absl::StrCat("device ", id, " was being drained: begin that again"));
    }
    if (device.use() != v1::DEVICE_USE_REMOVED) device.set_use(v1::DEVICE_USE_NORMAL);
  }
}

void Recovery::RecoverGroups() {
  EntriesByServer servers;
  std::set<uint64_t> group_ids;
  for (const ServerCopy& copy : copies_) {
    ServerEntries& known = servers[copy.identity.sds_id()];
    known.entries = copy.groups;
    for (const auto& [id, entry] : copy.groups) {
      group_ids.insert(id);
      cluster().highest_epoch_seen = std::max(cluster().highest_epoch_seen, entry.epoch());
    }
    for (const v1::LocalDevice& device : copy.devices) {
      const v1::DeviceDescription& description = device.description();
      if (!description.failure().empty() || description.volatile_state_lost()) continue;
      known.good_device_ids.insert(device.device_id());
    }
  }
  std::set<uint64_t> waiting;
  for (const uint64_t id : group_ids) {
    RecoveredGroup group = RecoverGroup(id, servers);
    if (!group.conflict.empty()) plan_.refusals.push_back(group.conflict);
    for (const uint64_t sds_id : group.could_know_more) could_know_more_[sds_id].insert(id);
    if (group.waits) waiting.insert(id);
    if (group.entry.has_value()) cluster().groups[id] = *std::move(group.entry);
  }
  if (waiting.empty()) return;
  plan_.notes.push_back(
      absl::StrCat(waiting.size(), " placement groups (", SomeOf(waiting),
                   ") have no replica in sync on a server that answers: their data can't "
                   "be used until one of these servers is back"));
}

// Members of groups that nothing else tells of get rows all the same.
void Recovery::TakeMembers() {
  for (const auto& [id, group] : cluster().groups) {
    for (const v1::Replica& replica : group.replicas()) {
      v1::Sds& sds = cluster().servers[replica.sds_id()];
      if (sds.sds_id() == 0) {
        sds.set_sds_id(replica.sds_id());
        sds.set_name(absl::StrCat("recovered-sds-", replica.sds_id()));
        sds.set_node_uuid(sds.name());
        sds.set_incarnation(1);
      }
      v1::Device& device = cluster().devices[replica.device_id()];
      if (device.device_id() == 0) {
        device.set_device_id(replica.device_id());
        device.mutable_description()->set_device_uuid(
            absl::StrCat("recovered-device-", replica.device_id()));
        device.mutable_description()->set_failure("nothing is known of it but its id");
        device.set_use(v1::DEVICE_USE_NORMAL);
      }
      device.set_sds_id(replica.sds_id());
      device.set_pool_id(PoolOfPlacementGroup(id));
    }
  }
}

void Recovery::MakePool(uint64_t pool_id, const v1::PoolLayout& layout) {
  v1::StoragePool& pool = cluster().pools[pool_id];
  pool.set_pool_id(pool_id);
  pool.set_name(FreeName(absl::StrCat("recovered-pool-", pool_id), [&](const std::string& name) {
    return std::any_of(cluster().pools.begin(), cluster().pools.end(),
                       [&](const auto& other) { return other.second.name() == name; });
  }));
  pool.set_placement_group_count(layout.placement_group_count());
  pool.set_chunk_bytes(layout.chunk_bytes());
  uint32_t members = 1;
  for (const auto& [id, group] : cluster().groups) {
    if (PoolOfPlacementGroup(id) != pool_id) continue;
    members = std::max(members, static_cast<uint32_t>(group.replicas_size()));
  }
  pool.set_replica_count(std::clamp(members, std::max(1u, layout.min_replicas()), 3u));
  pool.set_min_replicas(std::clamp(layout.min_replicas(), 1u, pool.replica_count()));
  for (const auto& [id, device] : cluster().devices) {
    if (device.pool_id() != pool_id) continue;
    const uint64_t domain = cluster().servers[device.sds_id()].protection_domain_id();
    if (domain != 0) pool.set_protection_domain_id(domain);
  }
  plan_.notes.push_back(absl::StrCat("pool ", pool_id, " has no record: it becomes ", pool.name(),
                                     " with ", pool.replica_count(), " replicas"));
}

void Recovery::TakePools() {
  for (const ServerCopy& copy : copies_) {
    for (const v1::PoolLayout& layout : copy.pools) layouts_[layout.pool_id()] = layout;
  }
  std::set<uint64_t> needed;
  for (const auto& [id, group] : cluster().groups) needed.insert(PoolOfPlacementGroup(id));
  for (const auto& [id, device] : cluster().devices) {
    if (device.pool_id() != 0) needed.insert(device.pool_id());
  }
  for (const uint64_t pool_id : needed) {
    if (cluster().pools.contains(pool_id)) continue;
    const auto layout = layouts_.find(pool_id);
    if (layout == layouts_.end()) {
      plan_.refusals.push_back(absl::StrCat("no server knows how pool ", pool_id, " is laid out"));
      continue;
    }
    MakePool(pool_id, layout->second);
  }
  // A pool and a server with devices in it are in some domain.
  for (auto& [id, pool] : cluster().pools) {
    if (pool.protection_domain_id() != 0) continue;
    if (cluster().domains.empty()) {
      v1::ProtectionDomain& domain = cluster().domains[1];
      domain.set_protection_domain_id(1);
      domain.set_name("recovered");
    }
    pool.set_protection_domain_id(cluster().domains.begin()->first);
  }
  for (const auto& [id, device] : cluster().devices) {
    v1::Sds& sds = cluster().servers[device.sds_id()];
    if (device.pool_id() == 0 || sds.protection_domain_id() != 0) continue;
    const auto pool = cluster().pools.find(device.pool_id());
    if (pool != cluster().pools.end())
      sds.set_protection_domain_id(pool->second.protection_domain_id());
  }
}

void Recovery::TakeVolumes() {
  for (const ServerCopy& copy : copies_) {
    cluster().deleted_vtree_ids.insert(copy.deleted_vtree_ids.begin(),
                                       copy.deleted_vtree_ids.end());
  }
  std::erase_if(cluster().volumes, [&](const auto& entry) {
    return cluster().deleted_vtree_ids.contains(entry.second.volume().vtree_id());
  });
  TakeUnknownVtrees();
  RaiseLayers();
  for (auto& [id, volume] : cluster().volumes) {
    uint64_t generation = 1;
    for (const ServerCopy& copy : copies_) {
      const auto lowest = copy.generations.find(id);
      if (lowest != copy.generations.end()) generation = std::max(generation, lowest->second);
    }
    volume.mutable_volume()->set_generation(generation + kRecoveryStep);
    // A client that is gone has nothing mapped.
    auto* mappings = volume.mutable_mappings();
    mappings->erase(std::remove_if(mappings->begin(), mappings->end(),
                                   [&](const v1::RecordedMapping& mapping) {
                                     return !cluster().clients.contains(mapping.sdc_id());
                                   }),
                    mappings->end());
  }
}

void Recovery::TakeUnknownVtrees() {
  std::set<uint64_t> known = cluster().deleted_vtree_ids;
  for (const auto& [id, volume] : cluster().volumes) known.insert(volume.volume().vtree_id());
  std::map<uint64_t, v1::VtreeExtent> unknown;
  for (const ServerCopy& copy : copies_) {
    for (const v1::VtreeExtent& extent : copy.vtrees) {
      if (known.contains(extent.vtree_id())) continue;
      const auto [found, fresh] = unknown.emplace(extent.vtree_id(), extent);
      if (!fresh && found->second.last_chunk_index() < extent.last_chunk_index()) {
        found->second.set_last_chunk_index(extent.last_chunk_index());
      }
    }
  }
  for (const auto& [vtree_id, extent] : unknown) {
    const auto pool = cluster().pools.find(extent.pool_id());
    if (pool == cluster().pools.end()) continue;
    // Volume and vtree get their ids together, so this is the volume's, unless it is another's:
    // under it the generations that servers know end what its old writer may still do.
    uint64_t volume_id = vtree_id;
    while (cluster().volumes.contains(volume_id)) ++volume_id;
    v1::Volume* volume = cluster().volumes[volume_id].mutable_volume();
    volume->set_volume_id(volume_id);
    volume->set_vtree_id(vtree_id);
    volume->set_pool_id(extent.pool_id());
    volume->set_size_bytes((extent.last_chunk_index() + 1) * pool->second.chunk_bytes());
    volume->set_provisioning(v1::PROVISIONING_THIN);
    volume->set_name(FreeName(absl::StrCat("recovered-", vtree_id), [&](const std::string& name) {
      return std::any_of(cluster().volumes.begin(), cluster().volumes.end(),
                         [&](const auto& other) { return other.second.volume().name() == name; });
    }));
    plan_.notes.push_back(
        absl::StrCat("vtree ", vtree_id, " has chunks and no record: it becomes volume ",
                     volume->name(), " of ", volume->size_bytes(), " bytes, up to its last chunk"));
  }
}

// A layer that a server has may be later than the records: it was given out, and no server heard of
// that. No volume is ever written to an earlier one than it was, and no branch is given out twice.
void Recovery::RaiseLayers() {
  std::map<uint64_t, std::set<uint64_t>> volumes;  // by vtree
  for (const auto& [id, volume] : cluster().volumes) {
    volumes[volume.volume().vtree_id()].insert(id);
  }
  std::erase_if(cluster().vtrees,
                [&](const auto& vtree) { return !volumes.contains(vtree.first); });
  std::map<uint64_t, std::map<uint32_t, uint32_t>> seen;  // by vtree and branch
  for (const ServerCopy& copy : copies_) {
    for (const v1::VtreeExtent& extent : copy.vtrees) {
      if (!volumes.contains(extent.vtree_id())) continue;
      for (const v1::LayerPathPart& layer : extent.layers()) {
        uint32_t& ordinal = seen[extent.vtree_id()][layer.branch()];
        ordinal = std::max(ordinal, layer.ordinal_max());
      }
    }
  }
  for (const auto& [vtree_id, branches] : seen) {
    v1::RecordedVtree& vtree = cluster().vtrees[vtree_id];
    vtree.set_vtree_id(vtree_id);
    vtree.set_next_branch(
        std::max({vtree.next_branch(), branches.rbegin()->first + 1, uint32_t{1}}));
    bool orphans = false;
    for (const auto& [branch, ordinal] : branches) {
      bool known = branch == 0;
      for (v1::LayerPathPart& head : *vtree.mutable_heads()) {
        if (head.branch() != branch) continue;
        known = true;
        head.set_ordinal_max(std::max(head.ordinal_max(), ordinal));
      }
      // What no record tells of is not among the heads: nobody drops it for want of one.
      orphans |= !known;
      for (const uint64_t id : volumes[vtree_id]) {
        v1::Volume* volume = cluster().volumes[id].mutable_volume();
        const uint64_t layer = volume->snapshot_sequence();
        if (volume->kind() == v1::VOLUME_KIND_SNAPSHOT || BranchOf(layer) != branch) continue;
        volume->set_snapshot_sequence(std::max(layer, MakeLayer(branch, ordinal)));
      }
    }
    if (orphans) {
      plan_.notes.push_back(absl::StrCat("vtree ", vtree_id,
                                         " has layers of clones or rolled back volumes without a "
                                         "record: they are kept, and nobody sees them"));
    }
  }
}

void Recovery::CheckPools() {
  std::set<uint64_t> used;
  for (const auto& [id, volume] : cluster().volumes) used.insert(volume.volume().pool_id());
  for (const uint64_t pool_id : used) {
    const auto pool = cluster().pools.find(pool_id);
    if (pool == cluster().pools.end()) continue;
    std::set<uint64_t> lacking;
    for (uint32_t index = 0; index < pool->second.placement_group_count(); ++index) {
      const uint64_t id = PlacementGroupId(pool_id, index);
      if (!cluster().groups.contains(id)) lacking.insert(id);
    }
    if (lacking.empty()) continue;
    plan_.refusals.push_back(absl::StrCat("pool ", pool->second.name(),
                                          ": no server that answered knows anything of ",
                                          lacking.size(), " placement groups (", SomeOf(lacking),
                                          "): servers that hold them have to answer"));
  }
}

void Recovery::TakeDeletions() {
  for (const uint64_t vtree_id : cluster().deleted_vtree_ids) {
    for (const auto& [sds_id, sds] : cluster().servers) {
      const ServerCopy* copy = CopyOf(sds_id);
      const bool knows = copy != nullptr && copy->deleted_vtree_ids.contains(vtree_id);
      const bool holds = copy != nullptr && std::any_of(copy->vtrees.begin(), copy->vtrees.end(),
                                                        [&](const v1::VtreeExtent& extent) {
                                                          return extent.vtree_id() == vtree_id;
                                                        });
      if (!knows || holds) cluster().pending_deletions.emplace(sds_id, vtree_id);
    }
  }
}

void Recovery::JudgeMissing() {
  for (const auto& [sds_id, sds] : cluster().servers) {
    if (CopyOf(sds_id) != nullptr) continue;
    MissingServer& missing = plan_.missing.emplace_back();
    missing.sds_id = sds_id;
    missing.name = sds.name();
    missing.control = sds.endpoints().control();
    missing.placement_group_ids = could_know_more_[sds_id];
    missing.accepted = accepted_missing_.contains(sds.name());
    if (missing.placement_group_ids.empty() || missing.accepted) continue;
    plan_.refusals.push_back(
        absl::StrCat("server ", missing.name, " does not answer and may know more of ",
                     missing.placement_group_ids.size(), " placement groups (",
                     SomeOf(missing.placement_group_ids),
                     ") than all that do: start it, or give it up with --accept-missing ",
                     missing.name, " (what was written with it alone since is lost then)"));
  }
  for (const std::string& name : accepted_missing_) {
    const bool found =
        std::any_of(plan_.missing.begin(), plan_.missing.end(),
                    [&](const MissingServer& server) { return server.name == name; });
    if (!found) {
      plan_.refusals.push_back(
          absl::StrCat("--accept-missing ", name, ": no server of that name is missing"));
    }
  }
}

void Recovery::RaiseIds() {
  for (const auto& [id, row] : cluster().domains) RaiseId("protection_domain", id);
  for (const auto& [id, row] : cluster().fault_sets) RaiseId("fault_set", id);
  for (const auto& [id, row] : cluster().pools) RaiseId("pool", id);
  for (const auto& [id, row] : cluster().servers) RaiseId("sds", id);
  for (const auto& [id, row] : cluster().devices) RaiseId("device", id);
  for (const auto& [id, row] : cluster().clients) RaiseId("sdc", id);
  for (const auto& [id, row] : cluster().volumes) {
    RaiseId("volume", id);
    RaiseId("vtree", row.volume().vtree_id());
  }
  for (const auto& [id, row] : cluster().schedules) RaiseId("snapshot_schedule", id);
  for (const uint64_t id : cluster().deleted_vtree_ids) RaiseId("vtree", id);
  for (const ServerCopy& copy : copies_) {
    for (const auto& [volume_id, generation] : copy.generations) RaiseId("volume", volume_id);
    for (const v1::VtreeExtent& extent : copy.vtrees) RaiseId("vtree", extent.vtree_id());
    for (const v1::PoolLayout& layout : copy.pools) RaiseId("pool", layout.pool_id());
  }
}

}  // namespace

absl::StatusOr<RecoveryPlan> PlanRecovery(const std::vector<ServerCopy>& copies,
                                          const std::set<std::string>& accepted_missing) {
  return Recovery(copies, accepted_missing).Plan();
}

}  // namespace tessera::mdm
