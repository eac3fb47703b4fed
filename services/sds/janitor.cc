#include "services/sds/janitor.h"

#include <optional>
#include <vector>

#include "services/common/logging.h"
#include "services/common/status_macros.h"

namespace tessera::sds {
namespace {

constexpr size_t kChunksPerStep = 64;

// Layers go before those that they were made from. False: not all went.
bool DeleteAll(chunk::Store* store, const std::vector<chunk::ChunkInfo>& chunks, size_t* dropped) {
  std::vector<chunk::ChunkKey> keys;
  for (const chunk::ChunkInfo& info : chunks) keys.push_back(info.key);
  if (!keys.empty()) {
    // The last one may have more layers than these.
    const chunk::ChunkKey last = keys.back();
    const auto layers = store->ListLayers(last.vtree_id, last.chunk_index);
    if (!layers.ok()) return false;
    for (const chunk::ChunkInfo& info : *layers) {
      if (info.key > last) keys.push_back(info.key);
    }
  }
  for (size_t i = keys.size(); i-- > 0;) {
    if (!store->DeleteChunk(keys[i]).ok()) return false;
    ++*dropped;
  }
  return true;
}

}  // namespace

absl::Status Janitor::OnVtreesDeleted(std::span<const uint64_t> vtree_ids) {
  std::vector<uint64_t> news;
  for (const uint64_t vtree_id : vtree_ids) {
    if (!deleted_->Contains(vtree_id)) news.push_back(vtree_id);
  }
  if (news.empty()) return absl::OkStatus();
  TESSERA_RETURN_IF_ERROR(state_->SaveDeletedVtrees(news));
  for (const uint64_t vtree_id : news) {
    deleted_->Add(vtree_id);
    const bool taken = executor_.Post([this, vtree_id] {
      if (const absl::Status dropped = DropVtree(vtree_id, 0); !dropped.ok()) {
        LogWarning("deleted vtree is not gone yet", {{"vtree", vtree_id}, {"error", dropped}});
      }
    });
    if (!taken) return absl::ResourceExhaustedError("too many deletions at once");
  }
  return absl::OkStatus();
}

absl::Status Janitor::DropVtree(uint64_t vtree_id, uint64_t volume_id) {
  if (!deleted_->Contains(vtree_id)) {
    TESSERA_RETURN_IF_ERROR(state_->SaveDeletedVtrees(std::span(&vtree_id, 1)));
    deleted_->Add(vtree_id);
  }
  for (const auto& worker : engine_->workers()) {
    // In force on every worker: operations admitted before are done.
    worker->Control([&] { worker->ForgetVtree(vtree_id, volume_id); });
    chunk::Store* store = worker->device()->store();
    if (store == nullptr || worker->device()->failed()) continue;
    TESSERA_RETURN_IF_ERROR(store->DeleteVtree(vtree_id, 0));
  }
  return absl::OkStatus();
}

void Janitor::OnRetired(uint64_t placement_group_id, DeviceWorker* worker) {
  if (!executor_.Post(
          [this, placement_group_id, worker] { DropGroup(placement_group_id, worker); })) {
    LogWarning("the replica's space is given back at the next start",
               {{"placement_group", placement_group_id}});
  }
}

void Janitor::DropGroup(uint64_t placement_group_id, DeviceWorker* worker) {
  size_t dropped = 0;
  bool more = true;
  while (more) {
    more = false;
    worker->Control([&] {
      chunk::Store* store = worker->device()->store();
      const GroupReplica* replica = worker->Find(placement_group_id);
      const bool back = replica != nullptr && replica->device_id != 0;
      if (store == nullptr || back || worker->device()->failed()) return;
      const auto chunks = store->ListChunks(placement_group_id, std::nullopt, kChunksPerStep);
      if (!chunks.ok()) return;
      if (!DeleteAll(store, *chunks, &dropped)) return;
      more = !chunks->empty();
      if (!more && !store->DropPlacementGroup(placement_group_id).ok()) return;
    });
  }
  if (dropped == 0) return;
  LogInfo("replica dropped", {{"placement_group", placement_group_id}, {"chunks", dropped}});
}

}  // namespace tessera::sds
