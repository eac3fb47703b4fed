#include "services/sds/layer_dropper.h"

#include <algorithm>
#include <span>
#include <utility>

#include "services/common/status_macros.h"
#include "services/common/wait.h"

namespace tessera::sds {
namespace {

constexpr size_t kListPage = 1'024;
// In one transaction of the store.
constexpr size_t kLayersAtOnce = 256;
// In one call.
constexpr size_t kLayersPerCall = 4'096;
constexpr uint64_t kMillisPerCall = 2'000;
// What the pacer is told of a layer: rows are read and written, and a checkpoint may come before.
constexpr uint64_t kBytesPerLayer = 8u << 10;
constexpr absl::Duration kPauseMax = absl::Milliseconds(500);
constexpr size_t kPassesMax = 1'024;

bool OfOneChunk(const chunk::ChunkKey& a, const chunk::ChunkKey& b) {
  return a.vtree_id == b.vtree_id && a.chunk_index == b.chunk_index;
}

}  // namespace

absl::Status LayerDropper::Drop(const v1::DropLayersRequest& request,
                                v1::DropLayersResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const LayerCatalog catalog, LayerCatalog::Make(request.catalog()));
  Call call{.catalog = &catalog,
            .pass = TakePass(request.catalog()),
            .until_ms = context_->clock->BootMillis() + kMillisPerCall};
  std::vector<uint64_t> groups;
  for (const LocalMembership& local : context_->placements->All()) {
    if (local.device_id != 0) groups.push_back(local.placement_group_id);
  }
  std::sort(groups.begin(), groups.end());
  for (const uint64_t group : groups) {
    if (group < call.pass.placement_group_id) continue;
    if (group > call.pass.placement_group_id) call.pass.after.reset();
    call.pass.placement_group_id = group;
    const absl::StatusOr<bool> goes_on = DropInGroup(group, &call);
    response->set_layers(call.layers);
    TESSERA_RETURN_IF_ERROR(goes_on.status());
    if (!*goes_on) {
      KeepPass(catalog.vtree_id(), std::move(call.pass));
      return absl::OkStatus();
    }
  }
  response->set_done(!call.pass.incomplete);
  return absl::OkStatus();
}

LayerDropper::Pass LayerDropper::TakePass(const v1::VtreeCatalog& catalog) {
  const std::string bytes = catalog.SerializeAsString();
  Pass pass;
  absl::MutexLock lock(&mutex_);
  if (const auto found = passes_.find(catalog.vtree_id()); found != passes_.end()) {
    pass = std::move(found->second);
    passes_.erase(found);
    pass.incomplete |= pass.catalog != bytes;
  }
  pass.catalog = bytes;
  return pass;
}

void LayerDropper::KeepPass(uint64_t vtree_id, Pass pass) {
  absl::MutexLock lock(&mutex_);
  // One that nobody asks for any more; if somebody does, it begins anew.
  if (passes_.size() >= kPassesMax) passes_.erase(passes_.begin());
  passes_[vtree_id] = std::move(pass);
}

absl::StatusOr<bool> LayerDropper::DropInGroup(uint64_t placement_group_id, Call* call) {
  const Device* device = engine_->WorkerOf(placement_group_id)->device();
  // What a failed device holds is not needed any more.
  if (device->failed()) return true;
  chunk::Store* store = device->store();
  if (store == nullptr) {
    call->pass.incomplete = true;
    return true;
  }
  const uint64_t vtree_id = call->catalog->vtree_id();
  std::optional<chunk::ChunkKey> after = call->pass.after;
  if (!after.has_value()) after = chunk::ChunkKey{vtree_id - 1, UINT64_MAX, UINT64_MAX};
  std::vector<chunk::ChunkInfo> layers;  // of one chunk
  std::vector<chunk::ChunkInfo> batch;
  const auto settle = [&] {
    for (const chunk::ChunkKey& key : LayersToDrop(layers, *call->catalog)) {
      batch.push_back(*std::find_if(layers.begin(), layers.end(),
                                    [&key](const auto& info) { return info.key == key; }));
    }
    after = layers.back().key;
    after->layer = chunk::kNoBase;
    layers.clear();
  };
  bool more = true;
  std::optional<chunk::ChunkKey> listed = after;
  while (more) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<chunk::ChunkInfo> page,
                             store->ListChunks(placement_group_id, listed, kListPage));
    more = page.size() == kListPage;
    for (const chunk::ChunkInfo& info : page) {
      if (info.key.vtree_id != vtree_id) {
        more = false;
        break;
      }
      if (!layers.empty() && !OfOneChunk(layers.back().key, info.key)) settle();
      layers.push_back(info);
    }
    if (!page.empty()) listed = page.back().key;
    if (!more && !layers.empty()) settle();
    if (!batch.empty() && (batch.size() >= kLayersAtOnce || !more)) {
      TESSERA_RETURN_IF_ERROR(DropBatch(placement_group_id, batch, call));
      batch.clear();
    }
    const bool enough =
        call->tried >= kLayersPerCall || context_->clock->BootMillis() >= call->until_ms;
    if (!more || !enough) continue;
    TESSERA_RETURN_IF_ERROR(DropBatch(placement_group_id, batch, call));
    call->pass.after = after;
    return false;
  }
  return true;
}

absl::Status LayerDropper::DropBatch(uint64_t placement_group_id,
                                     const std::vector<chunk::ChunkInfo>& batch, Call* call) {
  DeviceWorker* worker = engine_->WorkerOf(placement_group_id);
  for (size_t begin = 0; begin < batch.size();) {
    const LocalMembership local = context_->placements->Find(placement_group_id);
    if (local.membership.role != v1::REPLICA_ROLE_IN_SYNC) {
      // It is compared with its source first, layer by layer.
      call->pass.incomplete = true;
      return absl::OkStatus();
    }
    // The layers of one chunk together: what one gives up may be what another is kept for.
    size_t end = std::min(begin + kLayersAtOnce, batch.size());
    while (end < batch.size() && OfOneChunk(batch[end - 1].key, batch[end].key)) ++end;
    std::vector<chunk::ChunkKey> keys;
    for (size_t i = begin; i < end; ++i) keys.push_back(batch[i].key);
    const uint64_t wait = context_->pacer->Reserve(
        RecoveryPacer::Direction::kIn, keys.size() * kBytesPerLayer, context_->clock->BootNanos());
    if (wait > 0) Pause(std::min(absl::Nanoseconds(static_cast<int64_t>(wait)), kPauseMax));
    std::vector<absl::Status> results(keys.size());
    worker->device()->store()->DropLayers(keys, std::span(results));
    for (size_t i = 0; i < keys.size(); ++i) {
      if (results[i].ok()) {
        call->layers += batch[begin + i].pruned ? 0 : 1;
      } else if (absl::IsAborted(results[i])) {
        call->pass.incomplete = true;
      } else {
        return absl::UnavailableError(results[i].message());
      }
    }
    call->tried += keys.size();
    begin = end;
  }
  return absl::OkStatus();
}

}  // namespace tessera::sds
