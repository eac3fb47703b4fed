// PlanRecovery: which records count, what becomes of what has none, and when it is refused.
#include <algorithm>
#include <catch2/catch.hpp>
#include <string>

#include "services/common/placement_hash.h"
#include "services/mdm/layer_paths.h"
#include "services/mdm/recovery_rules.h"

namespace tessera::mdm {
namespace {

constexpr char kCluster[] = "00000000-0000-4000-8000-00000000000c";
constexpr uint32_t kGroups = 4;
constexpr uint32_t kChunkBytes = 1u << 20;

// A cluster of three servers with one device each (server i: device 10 + i), pool 5 with two
// replicas of each group, volume 21 "db" (vtree 31) mapped to client 41.
struct Cluster {
  Cluster() {
    for (uint64_t id = 1; id <= 3; ++id) copies.push_back(NewCopy(id));
    Record(v1::CLUSTER_RECORD_KIND_CLUSTER, 1).mutable_cluster()->set_outage_lifetime_ms(600'000);
    (*Find(v1::CLUSTER_RECORD_KIND_CLUSTER, 1)
          ->mutable_cluster()
          ->mutable_highest_ids())["volume"] = 77;
    v1::ProtectionDomain* domain =
        Record(v1::CLUSTER_RECORD_KIND_PROTECTION_DOMAIN, 2).mutable_protection_domain();
    domain->set_protection_domain_id(2);
    domain->set_name("domain");
    v1::StoragePool* pool = Record(v1::CLUSTER_RECORD_KIND_POOL, 5).mutable_pool();
    pool->set_pool_id(5);
    pool->set_name("fast");
    pool->set_protection_domain_id(2);
    pool->set_replica_count(2);
    pool->set_min_replicas(1);
    pool->set_chunk_bytes(kChunkBytes);
    pool->set_placement_group_count(kGroups);
    for (uint64_t id = 1; id <= 3; ++id) {
      v1::Sds* sds = Record(v1::CLUSTER_RECORD_KIND_SDS, id).mutable_sds();
      sds->set_sds_id(id);
      sds->set_name("sds-" + std::to_string(id));
      sds->set_node_uuid("uuid-" + std::to_string(id));
      sds->set_protection_domain_id(2);
      sds->set_incarnation(1);
      v1::Device* device = Record(v1::CLUSTER_RECORD_KIND_DEVICE, 10 + id).mutable_device();
      device->set_device_id(10 + id);
      device->set_sds_id(id);
      device->set_pool_id(5);
      device->set_use(v1::DEVICE_USE_NORMAL);
    }
    v1::Sdc* sdc = Record(v1::CLUSTER_RECORD_KIND_SDC, 41).mutable_sdc();
    sdc->set_sdc_id(41);
    sdc->set_name("client");
    v1::RecordedVolume* volume = Record(v1::CLUSTER_RECORD_KIND_VOLUME, 21).mutable_volume();
    volume->mutable_volume()->set_volume_id(21);
    volume->mutable_volume()->set_name("db");
    volume->mutable_volume()->set_vtree_id(31);
    volume->mutable_volume()->set_pool_id(5);
    volume->mutable_volume()->set_size_bytes(8 * kChunkBytes);
    volume->add_mappings()->set_sdc_id(41);
    for (uint32_t index = 0; index < kGroups; ++index) {
      SetGroup(index, 3 + index, 1 + index % 3, 1 + (index + 1) % 3);
    }
    for (ServerCopy& copy : copies) {
      copy.records_revision = 100;
      copy.records = records;
    }
  }

  static ServerCopy NewCopy(uint64_t id) {
    ServerCopy copy;
    copy.identity.set_sds_id(id);
    copy.identity.set_name("sds-" + std::to_string(id));
    copy.identity.set_node_uuid("uuid-" + std::to_string(id));
    copy.identity.set_cluster_uuid(kCluster);
    copy.identity.set_incarnation(4);
    copy.identity.set_mdm_time_ms(1'000 + id);
    v1::LocalDevice& device = copy.devices.emplace_back();
    device.set_device_id(10 + id);
    device.set_pool_id(5);
    device.mutable_description()->set_device_uuid("device-" + std::to_string(id));
    device.mutable_description()->set_store_incarnation(1);
    v1::PoolLayout& layout = copy.pools.emplace_back();
    layout.set_pool_id(5);
    layout.set_placement_group_count(kGroups);
    layout.set_chunk_bytes(kChunkBytes);
    layout.set_min_replicas(1);
    return copy;
  }

  v1::ClusterRecord& Record(v1::ClusterRecordKind kind, uint64_t id) {
    v1::ClusterRecord& record = records.emplace_back();
    record.set_kind(kind);
    record.set_object_id(id);
    return record;
  }
  v1::ClusterRecord* Find(v1::ClusterRecordKind kind, uint64_t id) {
    for (v1::ClusterRecord& record : records) {
      if (record.kind() == kind && record.object_id() == id) return &record;
    }
    return nullptr;
  }
  // Both members in sync, known to both.
  void SetGroup(uint32_t index, uint64_t epoch, uint64_t a, uint64_t b) {
    v1::PlacementGroup group;
    group.set_placement_group_id(PlacementGroupId(5, index));
    group.set_epoch(epoch);
    for (const uint64_t id : {a, b}) {
      v1::Replica* replica = group.add_replicas();
      replica->set_device_id(10 + id);
      replica->set_sds_id(id);
      replica->set_role(v1::REPLICA_ROLE_IN_SYNC);
    }
    for (const uint64_t id : {a, b}) copies[id - 1].groups[group.placement_group_id()] = group;
  }
  void Forget(ServerCopy* copy, v1::ClusterRecordKind kind) const {
    std::erase_if(copy->records,
                  [&](const v1::ClusterRecord& record) { return record.kind() == kind; });
  }

  std::vector<v1::ClusterRecord> records;
  std::vector<ServerCopy> copies;
};

RecoveryPlan Plan(const Cluster& cluster, const std::set<std::string>& accepted = {}) {
  const auto plan = PlanRecovery(cluster.copies, accepted);
  REQUIRE(plan.ok());
  return *plan;
}

bool Mentions(const std::vector<std::string>& lines, const std::string& text) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& line) { return line.find(text) != std::string::npos; });
}

TEST_CASE("with all servers there, everything is as the records say") {
  Cluster cluster;
  cluster.copies[1].generations[21] = 17;
  const RecoveryPlan plan = Plan(cluster);
  CHECK(plan.refusals.empty());
  CHECK(plan.missing.empty());
  CHECK(plan.cluster.groups.size() == kGroups);
  CHECK(plan.cluster.pools.at(5).name() == "fast");
  CHECK(plan.cluster.servers.at(2).incarnation() == 4);  // the server's own word is newer
  CHECK(plan.cluster.configured_device_ids == std::set<uint64_t>{11, 12, 13});
  const v1::RecordedVolume& volume = plan.cluster.volumes.at(21);
  CHECK(volume.volume().generation() == 17 + kRecoveryStep);
  REQUIRE(volume.mappings_size() == 1);
  CHECK(volume.mappings(0).sdc_id() == 41);
  CHECK(plan.cluster.mdm_time_ms == 1'003);
  CHECK(plan.cluster.cluster.highest_ids().at("volume") == 77);
}

TEST_CASE("the newest records count, as a whole") {
  Cluster cluster;
  // Server 3 has heard that the volume and the client are gone; the others have not.
  cluster.Forget(&cluster.copies[2], v1::CLUSTER_RECORD_KIND_VOLUME);
  cluster.Forget(&cluster.copies[2], v1::CLUSTER_RECORD_KIND_SDC);
  cluster.copies[2].records_revision = 101;
  const RecoveryPlan plan = Plan(cluster);
  CHECK(plan.cluster.volumes.empty());
  CHECK(plan.cluster.clients.empty());
  CHECK(plan.cluster.records_revision == 101);
}

TEST_CASE("layers that servers have count, also when no record tells of them") {
  Cluster cluster;
  const auto add = [&](ServerCopy* copy, uint32_t branch, uint32_t ordinal) {
    v1::VtreeExtent& extent = copy->vtrees.emplace_back();
    extent.set_vtree_id(31);
    extent.set_pool_id(5);
    v1::LayerPathPart* layer = extent.add_layers();
    layer->set_branch(branch);
    layer->set_ordinal_max(ordinal);
  };
  const auto head = [](const v1::RecordedVtree& vtree, uint32_t branch) -> int64_t {
    for (const v1::LayerPathPart& part : vtree.heads()) {
      if (part.branch() == branch) return part.ordinal_max();
    }
    return -1;
  };
  SECTION("nothing but the first") {
    cluster.copies[0].vtrees.emplace_back().set_vtree_id(31);
    const RecoveryPlan plan = Plan(cluster);
    CHECK(plan.cluster.vtrees.empty());
    CHECK(plan.cluster.volumes.at(21).volume().snapshot_sequence() == 0);
  }
  SECTION("a cut that no server had heard of") {
    // The lost snapshot's layer is not written to again.
    add(&cluster.copies[0], 0, 2);
    add(&cluster.copies[1], 0, 3);
    const RecoveryPlan plan = Plan(cluster);
    CHECK(plan.cluster.volumes.at(21).volume().snapshot_sequence() == MakeLayer(0, 3));
    CHECK(plan.cluster.vtrees.at(31).next_branch() == 1);
    CHECK(plan.notes.empty());
  }
  SECTION("branches, recorded and not") {
    for (ServerCopy& copy : cluster.copies) {
      v1::ClusterRecord& vtree = copy.records.emplace_back();
      vtree.set_kind(v1::CLUSTER_RECORD_KIND_VTREE);
      vtree.set_object_id(31);
      vtree.mutable_vtree()->set_vtree_id(31);
      vtree.mutable_vtree()->set_next_branch(3);
      for (const uint32_t branch : {0, 1, 2}) {
        v1::LayerPathPart* part = vtree.mutable_vtree()->add_heads();
        part->set_branch(branch);
        part->set_ordinal_max(4);
      }
    }
    add(&cluster.copies[0], 1, 9);
    add(&cluster.copies[1], 5, 1);
    const RecoveryPlan plan = Plan(cluster);
    const v1::RecordedVtree& vtree = plan.cluster.vtrees.at(31);
    CHECK(vtree.next_branch() == 6);
    CHECK(head(vtree, 0) == 4);
    CHECK(head(vtree, 1) == 9);
    CHECK(head(vtree, 2) == 4);
    // Nobody is told to drop it.
    CHECK(head(vtree, 5) == -1);
    CHECK(Mentions(plan.notes, "vtree 31 has layers"));
    CHECK(plan.cluster.volumes.at(21).volume().snapshot_sequence() == 0);
  }
  SECTION("of a vtree that is gone") {
    add(&cluster.copies[0], 0, 2);
    cluster.copies[0].deleted_vtree_ids = {31};
    CHECK(Plan(cluster).cluster.vtrees.empty());
  }
}

TEST_CASE("a deleted vtree stays deleted, and goes where it is left") {
  Cluster cluster;
  cluster.copies[0].deleted_vtree_ids = {31};
  cluster.copies[1].deleted_vtree_ids = {31};
  v1::VtreeExtent& left = cluster.copies[1].vtrees.emplace_back();
  left.set_vtree_id(31);
  left.set_pool_id(5);
  const RecoveryPlan plan = Plan(cluster);
  CHECK(plan.cluster.volumes.empty());
  CHECK(plan.cluster.deleted_vtree_ids == std::set<uint64_t>{31});
  // Server 1 knows and is done; 2 still has chunks; 3 has not heard.
  CHECK(plan.cluster.pending_deletions ==
        std::set<std::pair<uint64_t, uint64_t>>{{2, 31}, {3, 31}});
}

TEST_CASE("a vtree without a record becomes a volume that ends with its last chunk") {
  Cluster cluster;
  for (const auto& [server, last] : {std::pair{0, 6}, std::pair{2, 9}}) {
    v1::VtreeExtent& extent = cluster.copies[static_cast<size_t>(server)].vtrees.emplace_back();
    extent.set_vtree_id(91);
    extent.set_pool_id(5);
    extent.set_chunks(2);
    extent.set_last_chunk_index(static_cast<uint64_t>(last));
  }
  cluster.copies[2].generations[91] = 6;
  const RecoveryPlan plan = Plan(cluster);
  const v1::RecordedVolume& volume = plan.cluster.volumes.at(91);
  CHECK(volume.volume().name() == "recovered-91");
  CHECK(volume.volume().vtree_id() == 91);
  CHECK(volume.volume().size_bytes() == 10 * kChunkBytes);
  CHECK(volume.volume().generation() == 6 + kRecoveryStep);
  CHECK(volume.mappings_size() == 0);
  CHECK(Mentions(plan.notes, "recovered-91"));
  CHECK(plan.cluster.cluster.highest_ids().at("vtree") == 91);
  CHECK(plan.cluster.cluster.highest_ids().at("volume") == 91);
}

TEST_CASE("a recovered volume takes no other volume's id or name") {
  Cluster cluster;
  for (ServerCopy& copy : cluster.copies) {
    v1::VtreeExtent& extent = copy.vtrees.emplace_back();
    extent.set_vtree_id(21);
    extent.set_pool_id(5);
    for (v1::ClusterRecord& record : copy.records) {
      if (record.has_volume()) record.mutable_volume()->mutable_volume()->set_name("recovered-21");
    }
  }
  const RecoveryPlan plan = Plan(cluster);
  CHECK(plan.cluster.volumes.size() == 2);
  CHECK(plan.cluster.volumes.at(21).volume().name() == "recovered-21");
  CHECK(plan.cluster.volumes.at(22).volume().name() == "recovered-21-2");
}

TEST_CASE("a missing server that may know more is named with its groups, and can be given up") {
  Cluster cluster;
  cluster.copies.erase(cluster.copies.begin() + 2);
  const RecoveryPlan plan = Plan(cluster);
  REQUIRE(plan.missing.size() == 1);
  CHECK(plan.missing[0].name == "sds-3");
  CHECK(plan.missing[0].placement_group_ids ==
        std::set<uint64_t>{PlacementGroupId(5, 1), PlacementGroupId(5, 2)});
  CHECK(Mentions(plan.refusals, "sds-3"));
  CHECK(Mentions(plan.refusals, std::to_string(PlacementGroupId(5, 1))));

  const RecoveryPlan accepted = Plan(cluster, {"sds-3"});
  CHECK(accepted.refusals.empty());
  CHECK(accepted.missing[0].accepted);
  const v1::PlacementGroup& group = accepted.cluster.groups.at(PlacementGroupId(5, 1));
  for (const v1::Replica& replica : group.replicas()) {
    CHECK((replica.role() == v1::REPLICA_ROLE_IN_SYNC) == (replica.sds_id() == 2));
  }
}

TEST_CASE("giving up a server that is there, or that does not exist, is refused") {
  const Cluster cluster;
  CHECK(Mentions(Plan(cluster, {"sds-1"}).refusals, "sds-1"));
  CHECK(Mentions(Plan(cluster, {"sds-9"}).refusals, "sds-9"));
}

TEST_CASE("a missing server that no group needs is only named") {
  Cluster cluster;
  for (uint32_t index = 0; index < kGroups; ++index) cluster.SetGroup(index, 9, 1, 2);
  cluster.copies.erase(cluster.copies.begin() + 2);
  const RecoveryPlan plan = Plan(cluster);
  CHECK(plan.refusals.empty());
  CHECK(plan.missing.size() == 1);
}

TEST_CASE("a pool with volumes of which a placement group is unknown is refused, given up or not") {
  Cluster cluster;
  cluster.copies.erase(cluster.copies.begin() + 1, cluster.copies.end());
  const RecoveryPlan plan = Plan(cluster, {"sds-2", "sds-3"});
  // Group 1 is on servers 2 and 3 alone.
  CHECK(Mentions(plan.refusals, std::to_string(PlacementGroupId(5, 1))));
}

TEST_CASE("without any records, pools and volumes are found from what is on the servers") {
  Cluster cluster;
  for (ServerCopy& copy : cluster.copies) {
    copy.records.clear();
    copy.records_revision = 0;
    v1::VtreeExtent& extent = copy.vtrees.emplace_back();
    extent.set_vtree_id(31);
    extent.set_pool_id(5);
    extent.set_last_chunk_index(3);
  }
  const RecoveryPlan plan = Plan(cluster);
  CHECK(plan.refusals.empty());
  CHECK(plan.cluster.pools.at(5).name() == "recovered-pool-5");
  CHECK(plan.cluster.pools.at(5).replica_count() == 2);
  CHECK(plan.cluster.pools.at(5).placement_group_count() == kGroups);
  CHECK(plan.cluster.domains.size() == 1);
  CHECK(plan.cluster.servers.at(1).protection_domain_id() == 1);
  CHECK(plan.cluster.devices.at(11).pool_id() == 5);
  CHECK(plan.cluster.volumes.at(31).volume().size_bytes() == 4 * kChunkBytes);
}

TEST_CASE("copies of two clusters, or two of one server, are not put together") {
  Cluster cluster;
  SECTION("another cluster") { cluster.copies[1].identity.set_cluster_uuid("another"); }
  SECTION("the same id") { cluster.copies[1].identity.set_sds_id(1); }
  CHECK(absl::IsFailedPrecondition(PlanRecovery(cluster.copies, {}).status()));
  CHECK(absl::IsInvalidArgument(PlanRecovery({}, {}).status()));
}

TEST_CASE("a drain is not kept, and said so") {
  Cluster cluster;
  for (ServerCopy& copy : cluster.copies) {
    for (v1::ClusterRecord& record : copy.records) {
      if (record.has_device() && record.object_id() == 12) {
        record.mutable_device()->set_use(v1::DEVICE_USE_DRAINING);
      }
    }
  }
  const RecoveryPlan plan = Plan(cluster);
  CHECK(plan.cluster.devices.at(12).use() == v1::DEVICE_USE_NORMAL);
  CHECK(Mentions(plan.notes, "device 12"));
}

}  // namespace
}  // namespace tessera::mdm
