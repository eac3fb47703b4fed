// Dropping layers that nobody sees: a transaction of its own on rows (FORMAT.md, "Layers").
//
// Nothing that could be replayed names a dropped layer, and no overlay inherits from it: so it is
// decided from the rows of its chunk alone, whatever the active overlay has over those of the
// layers made from it.
#include <algorithm>
#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "libchunk/check.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {

struct StoreImpl::Dropping {
  DropInProgress in_progress;  // what others see of it
  std::map<ChunkKey, SharedRow> before;
  std::map<ChunkKey, SharedRow> rows;  // as they will be; one that does not exist: gone
  std::map<ChunkId, LayerList> lists;  // of the chunks as they will be
  std::vector<DeviceExtent> freed;
  uint64_t layers_gone = 0, blocks_freed = 0;
};

bool StoreImpl::MayDrop(const ChunkKey& key) const {
#ifdef TESSERA_PLANT_DROP_NAMED  // see check_planted_bugs.sh
  return true;
#endif
  return active_->Find(key) == nullptr && !active_->bases.contains(key);
}

absl::Status StoreImpl::PlanDrop(const ChunkKey& key, Dropping* dropping) {
  const ChunkId chunk(key);
  if (!dropping->lists.contains(chunk)) {
    CHUNK_ASSIGN_OR_RETURN(const std::vector<ListedRow> listed, ListLayerRows(chunk));
    LayerList& list = dropping->lists[chunk];
    for (const ListedRow& row : listed) {
      list.push_back({.layer = row.key.layer, .base = row.summary.base.value_or(kNoBase)});
    }
  }
  LayerList& list = dropping->lists[chunk];
  const auto row_of = [&](const ChunkKey& of) -> absl::StatusOr<SharedRow> {
    const auto planned = dropping->rows.find(of);
    if (planned != dropping->rows.end()) return planned->second;
    return LoadRowForPlacing(of);
  };
  CHUNK_ASSIGN_OR_RETURN(const SharedRow row, row_of(key));
  if (!row->summary.exists) return absl::OkStatus();

  std::vector<std::pair<ChunkKey, SharedRow>> made_from_it;
  BlockBits shared(blocks_per_chunk());
  size_t sharers = 0;
  for (const LayerEntry& entry : list) {
    if (entry.base != key.layer) continue;
    ChunkKey other = key;
    other.layer = entry.layer;
    CHUNK_ASSIGN_OR_RETURN(SharedRow other_row, row_of(other));
    sharers += other_row->inherited.Count() > 0 ? 1 : 0;
    for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
      if (other_row->inherited[block]) shared.Set(block, true);
    }
    made_from_it.emplace_back(other, std::move(other_row));
  }
  const auto put = [&](const ChunkKey& of, const SharedRow& now, std::shared_ptr<ChunkRow> after) {
    if (after->summary.exists) after->Count();
    dropping->before.try_emplace(of, now);
    dropping->rows[of] = std::move(after);
  };
  for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
    if (!row->Owns(block) || shared[block]) continue;
    AddBlock(&dropping->freed, row->At(block).device_block());
    ++dropping->blocks_freed;
  }
#ifdef TESSERA_PLANT_DROP_SHARED  // see check_planted_bugs.sh
  sharers = std::min<size_t>(sharers, 1);
#endif
  if (sharers > 1) {
    auto pruned = std::make_shared<ChunkRow>(*row);
    pruned->summary.pruned = true;
    bool changes = !row->summary.pruned;
    for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
      if (shared[block] || !row->At(block).mapped()) continue;
      changes = true;
      pruned->blocks[block] = BlockPlace();
      if (row->inherited[block]) pruned->inherited.Set(block, false);
    }
    if (changes) put(key, row, std::move(pruned));
    return absl::OkStatus();
  }
  for (const auto& [other, other_row] : made_from_it) {
    auto heir = std::make_shared<ChunkRow>(*other_row);
    heir->summary.base = row->summary.base;
#ifndef TESSERA_PLANT_KEEP_INHERITED  // see check_planted_bugs.sh
    for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
      // Where the dropped one inherited it, so does the heir; the rest is its own.
      if (heir->inherited[block] && !row->inherited[block]) heir->inherited.Set(block, false);
    }
#endif
    put(other, other_row, std::move(heir));
    PutLayer(&list, {.layer = other.layer, .base = row->summary.base.value_or(kNoBase)});
  }
  put(key, row, std::make_shared<ChunkRow>());
  RemoveLayer(&list, key.layer);
  ++dropping->layers_gone;
  return absl::OkStatus();
}

absl::Status StoreImpl::CommitDrop(Dropping* dropping) {
  CHUNK_RETURN_IF_ERROR(parts_.database->Begin());
  MetadataDatabase::Totals totals = row_totals_;
  totals.chunks -= dropping->layers_gone;
  totals.own_blocks -= dropping->blocks_freed;
  bool held = false;
  std::vector<DeviceExtent> mapped;
  absl::Status status = PutSpace(&dropping->freed, &mapped, &held);
  for (const auto& [key, row] : dropping->rows) {
    if (!status.ok()) break;
    status =
        row->summary.exists ? parts_.database->PutRow(key, *row) : parts_.database->DeleteRow(key);
  }
  if (status.ok()) status = parts_.database->PutTotals(totals);
  if (status.ok()) {
    status = parts_.database->Commit();
    // As for a checkpoint: a commit that failed may still be found on the device.
    if (!status.ok()) return Fail(status);
    row_totals_ = totals;
    return absl::OkStatus();
  }
  if (!absl::IsResourceExhausted(status)) return Fail(status);
  parts_.database->Rollback();
  if (held) allocator_->Unhold(dropping->freed);
  return status;
}

void StoreImpl::ShowDrop(const Dropping& dropping) {
  for (const auto& [key, row] : dropping.rows) {
    const ChunkRow& before = *dropping.before.at(key);
    cache_.Put(key, row);
    const bool base_changed = before.summary.base != row->summary.base;
    if (!row->summary.exists) {
      layer_lists_.Remove(key);
      --totals_.chunks;
      totals_.own_blocks -= before.summary.own_blocks;
      continue;
    }
    OverlayChunk* chunk = active_->Find(key);
    if (chunk == nullptr) {
      if (base_changed) layer_lists_.Set(key, row->summary.base.value_or(kNoBase));
      totals_.own_blocks -= before.summary.own_blocks;
      totals_.own_blocks += row->summary.own_blocks;
      continue;
    }
    ChunkSummary& summary = chunk->summary;
    if (summary.exists && base_changed && summary.base == before.summary.base) {
      summary.base = row->summary.base;
      layer_lists_.Set(key, row->summary.base.value_or(kNoBase));
    }
    totals_.own_blocks -= summary.own_blocks;
    summary.own_blocks = 0;
    for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
      if (row->Owns(block)) chunk->below_own.Set(block, true);
      summary.own_blocks += chunk->Shows(chunk->Find(block), block).own ? 1 : 0;
    }
    totals_.own_blocks += summary.own_blocks;
  }
  drop_ = nullptr;
  ++base_epoch_;
}

absl::Status StoreImpl::Drop(Dropping* dropping) {
  // From the end: what one layer gives up may be what the next one is kept for.
  const auto& closed = dropping->in_progress.keys;
  std::vector<ChunkKey> keys(closed.begin(), closed.end());
  std::sort(keys.begin(), keys.end(), std::greater<>());
  for (const ChunkKey& key : keys) CHUNK_RETURN_IF_ERROR(PlanDrop(key, dropping));
  if (dropping->rows.empty()) return absl::OkStatus();
  {
    absl::MutexLock lock(&state_mutex_);
    dropping->in_progress.rows.insert(dropping->before.begin(), dropping->before.end());
  }
  CHUNK_RETURN_IF_ERROR(CommitDrop(dropping));
  {
    absl::MutexLock lock(&state_mutex_);
    ShowDrop(*dropping);
  }
  return ReleaseBlocks(dropping->freed);
}

void StoreImpl::DropLayers(std::span<const ChunkKey> keys, std::span<absl::Status> results) {
  CHUNK_CHECK(keys.size() == results.size());
  absl::MutexLock checkpoint_lock(&checkpoint_mutex_);
  absl::Status status = CheckAlive();
  bool is_clear = false;
  {
    absl::MutexLock lock(&state_mutex_);
    is_clear = frozen_ == nullptr &&
               std::all_of(keys.begin(), keys.end(),
                           [this](const ChunkKey& key)
                               ABSL_NO_THREAD_SAFETY_ANALYSIS { return MayDrop(key); });
  }
  if (status.ok() && !is_clear) status = Checkpoint();
  Dropping dropping;
  if (status.ok()) {
    absl::MutexLock lock(&state_mutex_);
    for (size_t i = 0; i < keys.size(); ++i) {
      results[i] = absl::OkStatus();
      if (MayDrop(keys[i])) {
        dropping.in_progress.keys.insert(keys[i]);
      } else {
        results[i] = absl::AbortedError(
            absl::StrCat("a change of just now names ", KeyText(keys[i]), ": try again later"));
      }
    }
    drop_ = &dropping.in_progress;
  }
  if (status.ok()) status = Drop(&dropping);
  {
    absl::MutexLock lock(&state_mutex_);
    drop_ = nullptr;
    // Who has read a row of a transaction that was undone reads it again.
    if (!status.ok()) ++base_epoch_;
  }
  if (status.ok()) return;
  std::fill(results.begin(), results.end(), status);
}

}  // namespace tessera::chunk
