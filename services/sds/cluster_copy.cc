#include "services/sds/cluster_copy.h"

#include <algorithm>
#include <map>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/placement_hash.h"
#include "services/common/status_macros.h"
#include "services/common/version.h"

namespace tessera::sds {
namespace {

constexpr int kItemsPerMessage = 2'000;
constexpr size_t kChunksPerPage = 1'024;

absl::Status Gone() { return absl::CancelledError("the caller is gone"); }

// Messages of at most kItemsPerMessage items each.
class Pages {
 public:
  explicit Pages(const ClusterCopy::Write& write) : write_(write) {}
  // False: the caller is gone.
  [[nodiscard]] bool Added() {
    if (++items_ < kItemsPerMessage) return true;
    return Flush();
  }
  [[nodiscard]] bool Flush() {
    if (items_ == 0) return true;
    items_ = 0;
    const v1::ReadClusterCopyResponse full = std::move(page);
    page.Clear();
    return write_(full);
  }
  v1::ReadClusterCopyResponse page;

 private:
  const ClusterCopy::Write& write_;
  int items_ = 0;
};

}  // namespace

v1::ServerIdentity ClusterCopy::Identity() const {
  const NodeState node = state_->node();
  v1::ServerIdentity identity;
  identity.set_node_uuid(node.node_uuid);
  identity.set_name(name_);
  identity.set_sds_id(node.sds_id);
  identity.set_cluster_uuid(node.cluster_uuid);
  identity.set_incarnation(node.incarnation);
  identity.set_software_version(std::string(kVersion));
  identity.set_mdm_time_ms(context_->mdm_clock->Now().latest_ms);
  absl::MutexLock lock(&mutex_);
  *identity.mutable_endpoints() = endpoints_;
  return identity;
}

absl::Status ClusterCopy::Read(const Write& write) const {
  if (state_->node().sds_id == 0) {
    return absl::FailedPreconditionError("this server has never been registered with an MDM");
  }
  // Records first: what changes meanwhile is newer in what follows, never older.
  TESSERA_RETURN_IF_ERROR(WriteFacts(write));
  TESSERA_RETURN_IF_ERROR(WriteRecords(write));
  TESSERA_RETURN_IF_ERROR(WriteGroups(write));
  TESSERA_RETURN_IF_ERROR(WriteVolumes(write));
  TESSERA_RETURN_IF_ERROR(WriteExtents(write));
  v1::ReadClusterCopyResponse last;
  last.set_complete(true);
  return write(last) ? absl::OkStatus() : Gone();
}

absl::Status ClusterCopy::WriteFacts(const Write& write) const {
  v1::ReadClusterCopyResponse facts;
  *facts.mutable_identity() = Identity();
  TESSERA_ASSIGN_OR_RETURN(const uint64_t revision, state_->RecordsRevision());
  facts.set_records_revision(revision);
  for (const auto& worker : engine_->workers()) {
    const Device* device = worker->device();
    v1::LocalDevice* local = facts.add_devices();
    local->set_device_id(device->device_id());
    local->set_pool_id(device->pool_id());
    *local->mutable_description() = device->Describe();
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<v1::PoolLayout> pools, state_->Pools());
  for (const v1::PoolLayout& pool : pools) *facts.add_pools() = pool;
  return write(facts) ? absl::OkStatus() : Gone();
}

absl::Status ClusterCopy::WriteRecords(const Write& write) const {
  TESSERA_ASSIGN_OR_RETURN(std::vector<v1::SealedRecord> records, state_->Records());
  Pages pages(write);
  for (v1::SealedRecord& record : records) {
    *pages.page.add_records() = std::move(record);
    if (!pages.Added()) return Gone();
  }
  return pages.Flush() ? absl::OkStatus() : Gone();
}

absl::Status ClusterCopy::WriteGroups(const Write& write) const {
  TESSERA_ASSIGN_OR_RETURN(std::vector<PlacementRecord> records, state_->PlacementGroups());
  Pages pages(write);
  for (PlacementRecord& record : records) {
    *pages.page.add_placement_groups() = std::move(record.entry);
    if (!pages.Added()) return Gone();
  }
  return pages.Flush() ? absl::OkStatus() : Gone();
}

absl::Status ClusterCopy::WriteVolumes(const Write& write) const {
  Pages pages(write);
  for (const auto& [volume_id, generation] : context_->volumes->All()) {
    v1::VolumeGeneration* lowest = pages.page.add_generations();
    lowest->set_volume_id(volume_id);
    lowest->set_generation(generation);
    if (!pages.Added()) return Gone();
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<uint64_t> deleted, state_->DeletedVtrees());
  for (const uint64_t vtree_id : deleted) {
    pages.page.add_deleted_vtree_ids(vtree_id);
    if (!pages.Added()) return Gone();
  }
  return pages.Flush() ? absl::OkStatus() : Gone();
}

absl::Status ClusterCopy::WriteExtents(const Write& write) const {
  // By vtree and pool.
  std::map<std::pair<uint64_t, uint64_t>, v1::VtreeExtent> extents;
  // By vtree and pool, then branch: the greatest ordinal.
  std::map<std::pair<uint64_t, uint64_t>, std::map<uint32_t, uint32_t>> layers;
  for (const LocalMembership& local : context_->placements->All()) {
    if (local.device_id == 0) continue;
    Device* device = engine_->WorkerOf(local.placement_group_id)->device();
    chunk::Store* store = device->store();
    if (store == nullptr || device->failed()) continue;
    const uint64_t pool_id = PoolOfPlacementGroup(local.placement_group_id);
    std::optional<chunk::ChunkKey> after;
    std::optional<chunk::ChunkKey> before;
    while (true) {
      TESSERA_ASSIGN_OR_RETURN(const std::vector<chunk::ChunkInfo> page,
                               store->ListChunks(local.placement_group_id, after, kChunksPerPage));
      for (const chunk::ChunkInfo& info : page) {
        v1::VtreeExtent& extent = extents[{info.key.vtree_id, pool_id}];
        uint32_t& ordinal = layers[{info.key.vtree_id, pool_id}][chunk::BranchOf(info.key.layer)];
        ordinal = std::max(ordinal, chunk::OrdinalOf(info.key.layer));
        // Layers of one chunk follow one another.
        const bool is_layer = before.has_value() && before->vtree_id == info.key.vtree_id &&
                              before->chunk_index == info.key.chunk_index;
        if (!is_layer) extent.set_chunks(extent.chunks() + 1);
        before = info.key;
        extent.set_last_chunk_index(std::max(extent.last_chunk_index(), info.key.chunk_index));
      }
      if (page.size() < kChunksPerPage) break;
      after = page.back().key;
    }
  }
  Pages pages(write);
  for (auto& [key, extent] : extents) {
    extent.set_vtree_id(key.first);
    extent.set_pool_id(key.second);
    const std::map<uint32_t, uint32_t>& branches = layers[key];
    const bool first_alone =
        branches.size() == 1 && branches.begin()->first == 0 && branches.begin()->second == 0;
    for (const auto& [branch, ordinal] : branches) {
      if (first_alone) break;
      v1::LayerPathPart* layer = extent.add_layers();
      layer->set_branch(branch);
      layer->set_ordinal_max(ordinal);
    }
    *pages.page.add_vtrees() = extent;
    if (!pages.Added()) return Gone();
  }
  return pages.Flush() ? absl::OkStatus() : Gone();
}

}  // namespace tessera::sds
