// Layers: which ones a chunk has, where a change with a path goes, and what may be done to a layer
// (FORMAT.md, "Layers").
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

constexpr size_t kListPage = 256;

ChunkKey KeyOf(const ChunkId& chunk, uint64_t layer) {
  return {.vtree_id = chunk.vtree_id, .chunk_index = chunk.chunk_index, .layer = layer};
}

bool DeletesChunk(const Operation& operation, const ChunkKey& key) {
  return operation.header.kind == OperationKind::kDeleteChunk && operation.header.key == key;
}

}  // namespace

const OverlayChunk* StoreImpl::FindOverlay(const ChunkKey& key) const {
  const OverlayChunk* chunk = active_->Find(key);
  return chunk == nullptr && frozen_ != nullptr ? frozen_->Find(key) : chunk;
}

absl::StatusOr<std::vector<ListedRow>> StoreImpl::ListLayerRows(const ChunkId& chunk) {
  std::vector<ListedRow> rows;
  const RowFilter filter{.vtree_id = chunk.vtree_id, .chunk_index = chunk.chunk_index};
  for (;;) {
    std::optional<ChunkKey> after;
    if (!rows.empty()) after = rows.back().key;
    CHUNK_ASSIGN_OR_RETURN(const std::vector<ListedRow> page,
                           parts_.database->ListRows(filter, after, kListPage));
    rows.insert(rows.end(), page.begin(), page.end());
    if (page.size() < kListPage) return rows;
  }
}

bool StoreImpl::MergeLayers(const ChunkId& chunk, std::span<const ListedRow> rows, uint64_t epoch,
                            std::map<uint64_t, ChunkSummary>* layers) {
  if (epoch != base_epoch_) return false;
  layers->clear();
  for (const ListedRow& row : rows) (*layers)[row.key.layer] = row.summary;
  // What is being dropped is there until all of that shows at once.
  if (drop_ != nullptr) {
    for (const auto& [key, row] : drop_->rows) {
      if (ChunkId(key) == chunk) (*layers)[key.layer] = row->summary;
    }
  }
  for (const Overlay* overlay : {frozen_.get(), active_.get()}) {
    if (overlay == nullptr) continue;
    const auto merge = [&](uint64_t layer) {
      const OverlayChunk* changed = overlay->Find(KeyOf(chunk, layer));
      if (changed != nullptr) (*layers)[layer] = changed->summary;
    };
    merge(0);
    if (const auto found = overlay->layers.find(chunk); found != overlay->layers.end()) {
      for (const uint64_t layer : found->second) merge(layer);
    }
  }
  std::erase_if(*layers, [](const auto& layer) { return !layer.second.exists; });
  return true;
}

absl::StatusOr<LayerLists::Pin> StoreImpl::LoadLayers(const ChunkId& chunk) {
  for (;;) {
    uint64_t epoch = 0;
    {
      absl::MutexLock lock(&state_mutex_);
      epoch = base_epoch_;
    }
    CHUNK_ASSIGN_OR_RETURN(const std::vector<ListedRow> rows, ListLayerRows(chunk));
    std::map<uint64_t, ChunkSummary> layers;
    absl::MutexLock lock(&state_mutex_);
    if (!MergeLayers(chunk, rows, epoch, &layers)) continue;
    LayerList list;
    for (const auto& [layer, summary] : layers) {
      list.push_back({.layer = layer, .base = summary.base.value_or(kNoBase)});
    }
    return layer_lists_.Put(chunk, std::move(list));
  }
}

absl::Status StoreImpl::LoadGreatestLayer(const ChunkId& chunk) {
  for (;;) {
    uint64_t epoch = 0;
    {
      absl::MutexLock lock(&state_mutex_);
      epoch = base_epoch_;
    }
    CHUNK_ASSIGN_OR_RETURN(const std::optional<uint64_t> of_rows,
                           parts_.database->GreatestLayer(chunk.vtree_id, chunk.chunk_index));
    absl::MutexLock lock(&state_mutex_);
    if (epoch != base_epoch_) continue;
    // While layers are dropped the rows are of no moment.
    if (drop_ != nullptr) return absl::OkStatus();
    std::optional<uint64_t> greatest = of_rows;
    for (const Overlay* overlay : {frozen_.get(), active_.get()}) {
      if (overlay == nullptr) continue;
      std::vector<uint64_t> changed = {0};
      if (const auto found = overlay->layers.find(chunk); found != overlay->layers.end()) {
        changed.insert(changed.end(), found->second.begin(), found->second.end());
      }
      for (const uint64_t layer : changed) {
        const OverlayChunk* newest = FindOverlay(KeyOf(chunk, layer));
        if (newest == nullptr) continue;
        if (newest->summary.exists) {
          greatest = std::max(greatest.value_or(0), layer);
        } else if (layer == of_rows) {
          return absl::OkStatus();  // deleted: which one is below it the list tells
        }
      }
    }
    layer_lists_.PutGreatest(chunk, greatest);
    return absl::OkStatus();
  }
}

absl::StatusOr<std::vector<ChunkInfo>> StoreImpl::ListLayers(uint64_t vtree_id,
                                                             uint64_t chunk_index) {
  ChunkId chunk;
  chunk.vtree_id = vtree_id;
  chunk.chunk_index = chunk_index;
  for (;;) {
    uint64_t epoch = 0;
    {
      absl::MutexLock lock(&state_mutex_);
      epoch = base_epoch_;
    }
    CHUNK_ASSIGN_OR_RETURN(const std::vector<ListedRow> rows, ListLayerRows(chunk));
    std::map<uint64_t, ChunkSummary> layers;
    absl::MutexLock lock(&state_mutex_);
    if (!MergeLayers(chunk, rows, epoch, &layers)) continue;
    std::vector<ChunkInfo> infos;
    for (const auto& [layer, summary] : layers) {
      infos.push_back(InfoOf(KeyOf(chunk, layer), summary));
    }
    return infos;
  }
}

std::optional<StoreImpl::Target> StoreImpl::FindTarget(const Change& change) {
  Target target{.key = change.key};
  const bool adopts = change.kind == ChangeKind::kAdopt;
  // Without layers there is nothing to choose: layer 0 is the one.
  if (change.path == nullptr ||
      (!adopts && change.key.layer == 0 && !IsLayered(change.key.vtree_id))) {
    return target;
  }
  const LayerLists::Newest found = layer_lists_.FindNewest(ChunkId(change.key), *change.path);
  if (!found.is_known) return std::nullopt;
  const std::optional<uint64_t> newest = found.layer;
  if (!newest) {
    target.nothing = adopts && !change.incomplete;
    return target;
  }
#ifdef TESSERA_PLANT_IGNORE_FLOOR  // see check_planted_bugs.sh
  constexpr bool kMindsFloor = false;
#else
  constexpr bool kMindsFloor = true;
#endif
  if (BranchOf(*newest) == BranchOf(change.key.layer) &&
      (*newest >= change.key.layer || !kMindsFloor)) {
    target.key.layer = *newest;
  } else if (adopts && !change.incomplete && BranchOf(*newest) == BranchOf(change.key.layer)) {
    target.nothing = true;
  } else if (!change.incomplete) {
    target.base = *newest;
  }
  return target;
}

absl::StatusOr<StoreImpl::Target> StoreImpl::FindTargetLoading(const Change& change, Group* group) {
  if (change.path == nullptr) return Target{.key = change.key};
  for (;;) {
    {
      absl::MutexLock lock(&state_mutex_);
      if (const std::optional<Target> target = FindTarget(change)) return *target;
    }
    CHUNK_ASSIGN_OR_RETURN(LayerLists::Pin pin, LoadLayers(ChunkId(change.key)));
    group->pins.push_back(std::move(pin));
  }
}

bool StoreImpl::MayJoin(const Target& target, const Group& group) {
  return std::none_of(
      group.operations.begin(), group.operations.end(), [&](const Operation& operation) {
        return ChunkId(operation.header.key) == ChunkId(target.key) &&
               (target.nothing || target.base != kNoBase || operation.header.key != target.key ||
                operation.header.kind == OperationKind::kInheritBlocks);
      });
}

absl::Status StoreImpl::CheckLayers(const Group& group, size_t index, Shortage* shortage) {
  const Operation& operation = group.operations[index];
  const ChunkKey& key = operation.header.key;
  const bool inherits = operation.header.kind == OperationKind::kInheritBlocks;
  const ChunkKey base = KeyOf(ChunkId(key), operation.base);
  if (drop_ != nullptr && (drop_->keys.contains(key) || (inherits && drop_->keys.contains(base)))) {
    shortage->drop = true;
    return absl::OkStatus();
  }
  const bool has_base = inherits && operation.base != kNoBase;
  if (!has_base && !IsLayered(key.vtree_id)) return absl::OkStatus();
  const LayerList* list = layer_lists_.Find(ChunkId(key));
  if (list == nullptr) {
    shortage->layers = ChunkId(key);
    return absl::OkStatus();
  }
  if (has_base && !Contains(*list, operation.base)) {
    return absl::NotFoundError(absl::StrCat("the base of ", KeyText(key), ", layer ",
                                            operation.base, ", is not in the store"));
  }
  if (group.repairs) return absl::OkStatus();
#ifdef TESSERA_PLANT_CHANGE_BASE  // see check_planted_bugs.sh
  return absl::OkStatus();
#endif
  for (const LayerEntry& entry : *list) {
    if (entry.base != key.layer) continue;
    const ChunkKey made_from = KeyOf(ChunkId(key), entry.layer);
    const auto before = std::span(group.operations).first(index);
    const bool is_deleted = std::any_of(before.begin(), before.end(), [&](const Operation& other) {
      return DeletesChunk(other, made_from);
    });
    if (is_deleted) continue;
    return absl::PermissionDeniedError(
        absl::StrCat(KeyText(key), " is the base of layer ", entry.layer, " and can't be changed"));
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::FindBase(Operation* operation, Group* group, Shortage* shortage) {
  if (operation->base == kNoBase) return absl::OkStatus();
  const ChunkKey base = KeyOf(ChunkId(operation->header.key), operation->base);
  BlockBits mapped(blocks_per_chunk());
  ChunkSummary summary;
  if (const OverlayChunk* chunk = FindOverlay(base)) {
    mapped = chunk->Mapped();
    summary = chunk->summary;
  } else {
    const ChunkRow* row = RowAtHand(base, &group->loaded);
    if (row == nullptr) {
      shortage->row = base;
      return absl::OkStatus();
    }
    for (uint32_t block = 0; block < row->blocks.size(); ++block) {
      if (row->blocks[block].mapped()) mapped.Set(block, true);
    }
    summary = row->summary;
  }
  const bool is_image = (operation->header.flags & kOperationClearIncomplete) != 0;
  if (is_image) {
    if (summary.incomplete) {
      return absl::NotFoundError(
          absl::StrCat("the base of an image, ", KeyText(base), ", is incomplete"));
    }
    const uint32_t end = operation->header.first_block + operation->header.block_count;
    for (uint32_t block = operation->header.first_block; block < end; ++block) {
      if (mapped[block]) continue;
      return absl::NotFoundError(
          absl::StrCat("the base of an image, ", KeyText(base), ", does not have block ", block));
    }
  } else {
    if (summary.pruned) {
      return absl::PermissionDeniedError(
          absl::StrCat(KeyText(base), " is pruned: nothing can be made from it"));
    }
    // What it lacks, so does the copy. The change itself is not incomplete: it would make no copy.
    operation->header.flags &= static_cast<uint8_t>(~kOperationIncomplete);
    if (summary.incomplete) operation->header.flags |= kOperationIncomplete;
  }
  // From now on, not from when it is visible: what is dropped meanwhile must not be this.
  active_->bases.insert(base);
  group->base_mapped[base] = std::move(mapped);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> StoreImpl::ExclusiveBytes(const ChunkKey& key) {
  CHUNK_ASSIGN_OR_RETURN(const LayerLists::Pin pin, LoadLayers(ChunkId(key)));
  LayerList list;
  {
    absl::MutexLock lock(&state_mutex_);
    list = *pin;
  }
  Found found;
  CHUNK_RETURN_IF_ERROR(LookUpLoading(key, nullptr, 0, blocks_per_chunk(), Depth::kRow, &found));
  if (!found.summary.exists) return NoChunk(key);
  BlockBits exclusive(blocks_per_chunk());
  for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
    const BlockSource& source = found.sources[block];
    exclusive.Set(block, source.kind != BlockSource::Kind::kZero && !source.inherited);
  }
  for (const LayerEntry& entry : list) {
    if (entry.base != key.layer) continue;
    Found made_from;
    CHUNK_RETURN_IF_ERROR(LookUpLoading(KeyOf(ChunkId(key), entry.layer), nullptr, 0,
                                        blocks_per_chunk(), Depth::kRow, &made_from));
    for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
      if (made_from.sources[block].inherited) exclusive.Set(block, false);
    }
  }
  return uint64_t{exclusive.Count()} * kBlockBytes;
}

}  // namespace tessera::chunk
