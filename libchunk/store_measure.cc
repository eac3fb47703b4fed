// Which blocks the layers of a vtree's chunks have: what space is counted from.
#include <algorithm>
#include <map>
#include <utility>

#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

// Layers in one answer, about: each takes up to 256 bytes.
constexpr size_t kLayersMax = 8'192;

std::vector<uint64_t> Words(const BlockBits& bits) {
  return {bits.words().begin(), bits.words().end()};
}

LayerBlocks BlocksOf(uint64_t layer, const ChunkSummary& summary) {
  return {.layer = layer,
          .base = summary.base,
          .mapped_blocks = summary.mapped_blocks,
          .own_blocks = summary.own_blocks};
}

// `own` may have bits that `mapped` has not.
void SetBits(const BlockBits& mapped, const BlockBits& own, LayerBlocks* blocks) {
  blocks->mapped = Words(mapped);
  blocks->inherited = blocks->mapped;
  for (size_t i = 0; i < blocks->inherited.size() && i < own.words().size(); ++i) {
    blocks->inherited[i] &= ~own.words()[i];
  }
}

void SetBits(const ChunkRow& row, LayerBlocks* blocks) {
  const auto block_count = static_cast<uint32_t>(row.blocks.size());
  BlockBits mapped(block_count), own(block_count);
  for (uint32_t block = 0; block < block_count; ++block) {
    if (!row.blocks[block].mapped()) continue;
    mapped.Set(block, true);
    if (!row.inherited[block]) own.Set(block, true);
  }
  SetBits(mapped, own, blocks);
}

}  // namespace

absl::Status StoreImpl::LoadRowPastCache(const ChunkKey& key, LoadedRows* loaded) {
  for (;;) {
    uint64_t epoch = 0;
    {
      absl::MutexLock lock(&state_mutex_);
      epoch = base_epoch_;
    }
    CHUNK_ASSIGN_OR_RETURN(SharedRow row, parts_.database->LoadRow(key));
    absl::MutexLock lock(&state_mutex_);
    if (epoch != base_epoch_) continue;
    if (drop_ != nullptr) {
      if (const auto before = drop_->rows.find(key); before != drop_->rows.end()) {
        row = before->second;
      }
    }
    if (epoch != loaded->epoch) loaded->rows.clear();
    loaded->epoch = epoch;
    loaded->rows[key] = std::move(row);
    return absl::OkStatus();
  }
}

bool StoreImpl::CollectLayers(const ChunkId& chunk, const std::map<uint64_t, ChunkSummary>& layers,
                              const LoadedRows& loaded, ChunkLayers* out,
                              std::vector<ChunkKey>* missing) {
  out->layers.clear();
  missing->clear();
  for (const auto& [layer, summary] : layers) {
    out->placement_group_id = summary.placement_group_id;
    LayerBlocks blocks = BlocksOf(layer, summary);
    const ChunkKey key{
        .vtree_id = chunk.vtree_id, .chunk_index = chunk.chunk_index, .layer = layer};
    if (layers.size() == 1) {
      // The numbers are enough.
    } else if (const OverlayChunk* changed = FindOverlay(key)) {
      // It knows of each block whether it is the layer's own, whatever lies below.
      SetBits(changed->Mapped(), changed->OwnAfter(), &blocks);
    } else if (const ChunkRow* row = RowAtHand(key, &loaded)) {
      SetBits(*row, &blocks);
    } else {
      missing->push_back(key);
    }
    if (missing->empty()) out->layers.push_back(std::move(blocks));
  }
  return missing->empty();
}

absl::StatusOr<ChunkLayers> StoreImpl::ReadChunkLayers(const ChunkId& chunk) {
  LoadedRows loaded;
  ChunkLayers found{.chunk_index = chunk.chunk_index};
  for (;;) {
    uint64_t epoch = 0;
    {
      absl::MutexLock lock(&state_mutex_);
      epoch = base_epoch_;
    }
    CHUNK_ASSIGN_OR_RETURN(const std::vector<ListedRow> rows, ListLayerRows(chunk));
    for (;;) {
      std::map<uint64_t, ChunkSummary> layers;
      std::vector<ChunkKey> missing;
      {
        absl::MutexLock lock(&state_mutex_);
        if (!MergeLayers(chunk, rows, epoch, &layers)) break;
        if (CollectLayers(chunk, layers, loaded, &found, &missing)) return found;
      }
      for (const ChunkKey& key : missing) CHUNK_RETURN_IF_ERROR(LoadRowPastCache(key, &loaded));
    }
  }
}

absl::StatusOr<std::vector<ChunkLayers>> StoreImpl::ListVtreeLayers(
    uint64_t vtree_id, std::optional<uint64_t> after_chunk_index, size_t limit) {
  std::optional<ChunkKey> after;
  if (after_chunk_index) {
    after = {.vtree_id = vtree_id, .chunk_index = *after_chunk_index, .layer = kNoBase};
  }
  std::vector<ChunkLayers> chunks;
  while (chunks.empty()) {
    CHUNK_ASSIGN_OR_RETURN(const std::vector<ChunkInfo> page,
                           ListMerged({.vtree_id = vtree_id}, after, limit));
    size_t layers = 0;
    for (size_t i = 0; i < page.size() && layers < kLayersMax;) {
      const ChunkInfo& info = page[i];
      const ChunkId chunk(info.key);
      size_t end = i + 1;
      while (end < page.size() && ChunkId(page[end].key) == chunk) ++end;
      after = info.key;
      after->layer = kNoBase;
      // The page may end in the middle of the last one.
      if (end == i + 1 && (end < page.size() || page.size() < limit)) {
        chunks.push_back(
            {.chunk_index = chunk.chunk_index, .placement_group_id = info.placement_group_id});
        chunks.back().layers.push_back(
            {.layer = info.key.layer,
             .base = info.base,
             .mapped_blocks = static_cast<uint32_t>(info.mapped_bytes / kBlockBytes),
             .own_blocks = static_cast<uint32_t>(info.own_bytes / kBlockBytes)});
      } else {
        CHUNK_ASSIGN_OR_RETURN(ChunkLayers read, ReadChunkLayers(chunk));
        if (!read.layers.empty()) chunks.push_back(std::move(read));
      }
      layers += end - i;
      i = end;
    }
    // What was listed may be gone by the time it is looked at.
    if (page.empty()) break;
  }
  return chunks;
}

}  // namespace tessera::chunk
