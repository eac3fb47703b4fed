// The checkpoint: moves frozen changes to their place and the rows (FORMAT.md, "Checkpoint").
//
// It may fail for want of space at any step before the commit: then everything is undone, the
// changes stay in the journal, and the next attempt starts over.
#include <algorithm>
#include <map>

#include "libchunk/check.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kOverlayEntriesSoft = 256u << 10;
// Blocks that wait for a checkpoint to free them (128 MiB): a part of what may be kept warm, so
// that a steady stream of overwrites lives on the same space.
constexpr uint64_t kFreeableBlocksMax = 32u << 10;
// Pages of meta.db that one chunk's row may dirty: table, two indexes, and their share of splits.
constexpr uint64_t kTransactionBytesPerChunk = 16u << 10;
constexpr size_t kCopyBytesMax = 1u << 20;

void AddExtent(std::vector<DeviceExtent>* extents, const DeviceExtent& extent) {
  if (!extents->empty() &&
      extents->back().first_block + extents->back().count == extent.first_block) {
    extents->back().count += extent.count;
  } else {
    extents->push_back(extent);
  }
}

// Sorted by block, neighbours joined.
std::vector<DeviceExtent> Merged(std::vector<DeviceExtent> extents) {
  std::sort(extents.begin(), extents.end(), [](const DeviceExtent& a, const DeviceExtent& b) {
    return a.first_block < b.first_block;
  });
  std::vector<DeviceExtent> merged;
  for (const DeviceExtent& extent : extents) AddExtent(&merged, extent);
  return merged;
}

}  // namespace

struct StoreImpl::Placement {
  const Overlay* frozen = nullptr;
  std::vector<DeviceExtent> fresh;   // allocated by this checkpoint
  std::vector<DeviceExtent> mapped;  // newly in rows: fresh ones and direct writes
  std::vector<DeviceExtent> freed;   // in rows before, not any more
  bool data_written = false;
  bool freed_held = false;  // by the allocator
};

bool StoreImpl::CheckpointDue() {
  // A transaction's size goes with the chunks in it; near the end of the space it must fit the
  // reserve, and on a block device always the metadata's region.
  return journal_used_bytes_ > journal_->size_bytes() / 2 ||
         overlay_entries_ > kOverlayEntriesSoft || freeable_ > kFreeableBlocksMax ||
         overlay_is_deep_ ||
         (parts_.device != nullptr && overlay_chunks_ * kTransactionBytesPerChunk >
                                          parts_.device->layout().metadata.size_bytes / 8) ||
         (space_is_tight_ &&
          overlay_chunks_ * kTransactionBytesPerChunk > parts_.options.reserve_bytes / 2);
}

bool StoreImpl::Freeze() {
  absl::MutexLock append_lock(&append_mutex_);
  absl::MutexLock state_lock(&state_mutex_);
  if (active_->empty() && journal_->used_bytes() == 0) return false;
  frozen_ = std::move(active_);
  active_ = std::make_unique<Overlay>();
  frozen_end_ = journal_->head();
  frozen_totals_ = totals_;
  frozen_cursors_.clear();
  for (const StreamId& stream : frozen_->changed_cursors) {
    const auto found = cursors_.find(stream);
    frozen_cursors_.emplace_back(
        stream, found == cursors_.end() ? std::nullopt : std::optional<CursorValue>(found->second));
  }
  freeable_ = 0;
  overlay_is_deep_ = false;
  return true;
}

absl::Status StoreImpl::Checkpoint() {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  // A checkpoint that failed for want of space has left its frozen overlay; that comes first.
  for (int round = 0; round < 2; ++round) {
    const auto has_frozen = [this] {
      absl::MutexLock lock(&state_mutex_);
      return frozen_ != nullptr;
    };
    const bool left_over = has_frozen();
    if (!left_over && !Freeze()) return absl::OkStatus();
    absl::Status status = MoveFrozen();
    if (absl::IsResourceExhausted(status)) {
      // The file system is full. What is kept warm may be what it lacks.
      CHUNK_ASSIGN_OR_RETURN(const uint64_t given,
                             GiveBackWarm(Allocator::Which::kAll, kAllBlocks));
      if (given > 0) status = MoveFrozen();
    }
    CHUNK_RETURN_IF_ERROR(status);
    if (!left_over) break;
  }
  UpdateSpaceLimit();
  return absl::OkStatus();
}

absl::Status StoreImpl::MoveFrozen() {
  Placement placement;
  {
    absl::MutexLock lock(&state_mutex_);
    placement.frozen = frozen_.get();
  }
  absl::Status status = PlaceAll(&placement);
  if (status.ok()) status = CommitMetadata(&placement);
  ++checkpoint_attempts_;
  if (!status.ok()) {
    // Out of space is undone and tried again later; anything else is the device's end.
    if (!absl::IsResourceExhausted(status)) return Fail(status);
    UndoPlacement(&placement);
    return status;
  }
  // From here on no crash can bring back a row or a record that refers to what was freed.
  std::vector<DeviceExtent> free = placement.freed;
  free.insert(free.end(), placement.frozen->superseded.begin(), placement.frozen->superseded.end());
  allocator_->Committed(placement.mapped);
  CHUNK_RETURN_IF_ERROR(ReleaseBlocks(Merged(std::move(free))));
  Thaw();
  ++checkpoints_;
  return absl::OkStatus();
}

absl::Status StoreImpl::PlaceAll(Placement* placement) {
  // Nothing may be overwritten in place before the journal that can redo it is durable.
  CHUNK_RETURN_IF_ERROR(SyncUpTo(frozen_end_.next_lsn - 1));
  CHUNK_RETURN_IF_ERROR(parts_.database->Begin());
  std::vector<std::pair<ChunkKey, const OverlayChunk*>> chunks;
  chunks.reserve(placement->frozen->chunks.size());
  for (const auto& [key, chunk] : placement->frozen->chunks) chunks.emplace_back(key, chunk.get());
  std::sort(chunks.begin(), chunks.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [key, chunk] : chunks) {
    CHUNK_RETURN_IF_ERROR(PlaceChunk(key, *chunk, placement));
  }
  // Direct data was synced with the journal above; only what was copied is left.
#ifdef TESSERA_PLANT_SKIP_PLACE_SYNC  // see check_planted_bugs.sh
  placement->data_written = false;
#endif
  if (placement->data_written) {
    absl::Status synced = parts_.data->SyncData();
    if (!synced.ok()) return Fail(synced);
  }
  return absl::OkStatus();
}

absl::StatusOr<SharedRow> StoreImpl::LoadRowForPlacing(const ChunkKey& key) {
  {
    absl::MutexLock lock(&state_mutex_);
    if (const SharedRow* cached = cache_.Find(key)) return *cached;
  }
  return parts_.database->LoadRow(key);
}

absl::Status StoreImpl::PlaceChunk(const ChunkKey& key, const OverlayChunk& chunk,
                                   Placement* placement) {
  CHUNK_ASSIGN_OR_RETURN(const SharedRow before, LoadRowForPlacing(key));
  if (!chunk.summary.exists && !before->summary.exists) return absl::OkStatus();
  auto after = std::make_shared<ChunkRow>();
  SharedRow base;
  if (chunk.summary.exists) {
    after->blocks.assign(blocks_per_chunk(), BlockPlace());
    if (chunk.summary.base) {
      // Placed before, in this checkpoint or an earlier one: a base has a smaller number.
      ChunkKey base_key = key;
      base_key.layer = *chunk.summary.base;
      CHUNK_ASSIGN_OR_RETURN(base, LoadRowForPlacing(base_key));
      after->inherited = BlockBits(blocks_per_chunk());
    }
  }
  CHUNK_RETURN_IF_ERROR(PlaceBlocks(chunk, *before, base.get(), after.get(), placement));
  after->summary = chunk.summary;
  after->Count();
  CHUNK_CHECK(after->summary.mapped_blocks == chunk.summary.mapped_blocks);
  CHUNK_CHECK(after->summary.own_blocks == chunk.summary.own_blocks);
  if (chunk.summary.exists) {
    CHUNK_RETURN_IF_ERROR(CopyFromJournal(key, chunk, *after));
    CHUNK_RETURN_IF_ERROR(parts_.database->PutRow(key, *after));
    CHUNK_RETURN_IF_ERROR(PassOnChecksums(key, chunk, *before, *after));
  } else {
    CHUNK_RETURN_IF_ERROR(parts_.database->DeleteRow(key));
  }
  // With the frozen overlay over it the new row answers as the old one did.
  absl::MutexLock lock(&state_mutex_);
  cache_.Put(key, std::move(after));
  return absl::OkStatus();
}

absl::Status StoreImpl::PassOnChecksums(const ChunkKey& key, const OverlayChunk& chunk,
                                        const ChunkRow& before, const ChunkRow& after) {
  // Only a repair gives a block of a base another checksum, and only where nobody knew its content.
  if (!chunk.is_repaired) return absl::OkStatus();
  const BlockChecksum checksum(key);
  BlockBits repaired(blocks_per_chunk());
  for (const OverlayEntry& entry : chunk.entries) {
    const bool was_lost = entry.kind == EntryKind::kJournal && before.Owns(entry.block) &&
                          before.At(entry.block).checksum() == checksum.OfUnreadable(entry.block);
    if (was_lost) repaired.Set(entry.block, true);
  }
  if (repaired.Count() == 0) return absl::OkStatus();
  CHUNK_ASSIGN_OR_RETURN(const std::vector<ListedRow> rows, ListLayerRows(ChunkId(key)));
  std::map<uint64_t, BlockBits> repaired_of = {{key.layer, repaired}};
  for (const ListedRow& row : rows) {
    const auto of_base = repaired_of.find(row.summary.base.value_or(kNoBase));
    if (of_base == repaired_of.end()) continue;
    CHUNK_ASSIGN_OR_RETURN(const SharedRow old_row, LoadRowForPlacing(row.key));
    auto new_row = std::make_shared<ChunkRow>(*old_row);
    BlockBits inherited(blocks_per_chunk());
    for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
      if (!of_base->second[block] || !old_row->inherited[block]) continue;
      inherited.Set(block, true);
      new_row->blocks[block] = after.At(block);
    }
    if (inherited.Count() == 0) continue;
    repaired_of[row.key.layer] = inherited;
    CHUNK_RETURN_IF_ERROR(parts_.database->PutRow(row.key, *new_row));
    absl::MutexLock lock(&state_mutex_);
    cache_.Put(row.key, std::move(new_row));
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::PlaceBlocks(const OverlayChunk& chunk, const ChunkRow& before,
                                    const ChunkRow* base, ChunkRow* after, Placement* placement) {
  // Blocks to place anew are allocated in one piece, near the chunk's other blocks.
  uint64_t fresh_count = 0;
  std::optional<uint64_t> near;
  for (const OverlayEntry& entry : chunk.entries) {
    if (entry.kind != EntryKind::kJournal) continue;
    placement->data_written = true;
    CHUNK_CHECK(entry.reserved || before.Owns(entry.block));
    if (entry.reserved && fresh_count++ == 0 && entry.block > 0) {
      const BlockPlace previous = before.At(entry.block - 1);
      if (previous.mapped()) near = previous.device_block() + 1;
    }
  }
  std::vector<DeviceExtent> fresh;
  if (fresh_count > 0) {
    CHUNK_ASSIGN_OR_RETURN(const DeviceExtents extents, allocator_->Allocate(fresh_count, near));
    fresh.assign(extents.begin(), extents.end());
    placement->fresh.insert(placement->fresh.end(), fresh.begin(), fresh.end());
    placement->mapped.insert(placement->mapped.end(), fresh.begin(), fresh.end());
  }
  size_t extent = 0;
  uint64_t used = 0;
  const auto next_fresh = [&] {
    if (used == fresh[extent].count) {
      ++extent;
      used = 0;
    }
    return fresh[extent].first_block + used++;
  };
  const auto inherit = [&](uint32_t block) {
    after->blocks[block] = base->At(block);
    after->inherited.Set(block, base->At(block).mapped());
  };
  auto entry = chunk.entries.begin();
  for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
    const BlockPlace old_place = before.At(block);
    if (entry != chunk.entries.end() && entry->block == block) {
      if (entry->kind == EntryKind::kJournal) {
        // Reserved also where the row has come to own a block since: that one is freed.
#ifdef TESSERA_PLANT_WRITE_INHERITED  // see check_planted_bugs.sh
        const bool in_place = old_place.mapped();
#else
        const bool in_place = !entry->reserved;
#endif
        after->blocks[block] =
            BlockPlace(in_place ? old_place.device_block() : next_fresh(), entry->checksum);
      } else if (entry->kind == EntryKind::kDirect) {
        after->blocks[block] = BlockPlace(entry->location, entry->checksum);
        AddBlock(&placement->mapped, entry->location);
      } else if (entry->kind == EntryKind::kInherited) {
        inherit(block);
      }
      ++entry;
    } else if (chunk.below == Below::kBase) {
      inherit(block);
    } else if (chunk.below == Below::kOlder && old_place.mapped()) {
      after->blocks[block] = old_place;
      if (before.inherited[block]) after->inherited.Set(block, true);
    }
#ifdef TESSERA_PLANT_FREE_INHERITED  // see check_planted_bugs.sh
    const bool was_own = old_place.mapped();
#else
    const bool was_own = before.Owns(block);
#endif
    const BlockPlace place = after->At(block);
    if (was_own && (!place.mapped() || place.device_block() != old_place.device_block())) {
      AddBlock(&placement->freed, old_place.device_block());
    }
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::CopyFromJournal(const ChunkKey& key, const OverlayChunk& chunk,
                                        const ChunkRow& after) {
  const BlockChecksum checksum(key);
  std::vector<std::byte> buffer;
  for (size_t i = 0; i < chunk.entries.size();) {
    if (chunk.entries[i].kind != EntryKind::kJournal) {
      ++i;
      continue;
    }
    const uint64_t target = after.At(chunk.entries[i].block).device_block();
    size_t count = 0;
    buffer.clear();
    while (i + count < chunk.entries.size() && buffer.size() < kCopyBytesMax) {
      const OverlayEntry& entry = chunk.entries[i + count];
      if (entry.kind != EntryKind::kJournal ||
          after.At(entry.block).device_block() != target + count) {
        break;
      }
      buffer.resize(buffer.size() + kBlockBytes);
      const auto block = std::span(buffer).last(kBlockBytes);
      CHUNK_RETURN_IF_ERROR(journal_->ReadBytes(entry.location, block));
      // A block that has rotted in the journal is moved with the checksum of what was written, so
      // that reads tell; the rest of the device does not suffer for it.
      if (checksum.Of(entry.block, block) != entry.checksum) {
        checksum_errors_.fetch_add(1, std::memory_order_relaxed);
      }
      ++count;
    }
    const std::span<const std::byte> slice(buffer);
    CHUNK_RETURN_IF_ERROR(parts_.data->Write(target * kBlockBytes, std::span(&slice, 1)));
    i += count;
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::PutSpace(std::vector<DeviceExtent>* freed,
                                 std::vector<DeviceExtent>* mapped, bool* freed_held) {
  *mapped = Merged(std::move(*mapped));
  *freed = Merged(std::move(*freed));
  // Before the transaction changes what the allocator's loader sees.
  CHUNK_RETURN_IF_ERROR(allocator_->HoldFreed(*freed));
  *freed_held = true;
  struct Change {
    uint32_t first, count;
    bool in_use;
  };
  std::map<uint64_t, std::vector<Change>> changes;
  const auto collect = [&](const std::vector<DeviceExtent>& extents, bool in_use) {
    for (const DeviceExtent& extent : extents) {
      ForEachGroupPart(extent, [&](uint64_t group_number, uint32_t first, uint32_t count) {
        changes[group_number].push_back({first, count, in_use});
      });
    }
  };
  collect(*freed, false);
  collect(*mapped, true);
  for (const auto& [group_number, of_group] : changes) {
    CHUNK_ASSIGN_OR_RETURN(GroupBitmap bitmap, parts_.database->LoadGroup(group_number));
    for (const Change& change : of_group) {
      if (bitmap.Assign(change.first, change.count, change.in_use) != change.count) {
        return absl::DataLossError("meta.db: the free-space bitmap contradicts the chunk rows");
      }
    }
    CHUNK_RETURN_IF_ERROR(parts_.database->PutGroup(group_number, bitmap));
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::CommitMetadata(Placement* placement) {
  CHUNK_RETURN_IF_ERROR(PutSpace(&placement->freed, &placement->mapped, &placement->freed_held));
  for (const auto& [stream, value] : frozen_cursors_) {
    if (value) {
      CHUNK_RETURN_IF_ERROR(parts_.database->PutCursor(
          {.stream = stream, .last = value->last, .vtree_id = value->vtree_id}));
    } else {
      CHUNK_RETURN_IF_ERROR(parts_.database->DeleteCursor(stream));
    }
  }
  CHUNK_RETURN_IF_ERROR(parts_.database->PutApplied({.lsn = frozen_end_.next_lsn - 1,
                                                     .position = frozen_end_.position,
                                                     .incarnation = frozen_end_.incarnation},
                                                    frozen_totals_));
  absl::Status committed = parts_.database->Commit();
  // A commit that failed may still be found on the device after a restart. What it would free must
  // then not be in use for something else, and what it maps must be intact: the store is failed.
  if (!committed.ok()) return Fail(committed);
  row_totals_ = frozen_totals_;
  return absl::OkStatus();
}

void StoreImpl::Thaw() {
  std::unique_ptr<Overlay> done;  // destroyed after the locks
  {
    absl::MutexLock append_lock(&append_mutex_);
    absl::MutexLock state_lock(&state_mutex_);
    done = std::move(frozen_);
    ++base_epoch_;
    overlay_entries_ -= done->entry_count;
    overlay_chunks_ -= done->chunks.size();
    journal_->FreeUpTo(frozen_end_.position);
    journal_used_bytes_ = journal_->used_bytes();
  }
  allocator_->Trim();
}

void StoreImpl::UndoPlacement(Placement* placement) {
  parts_.database->Rollback();
  {
    absl::MutexLock lock(&state_mutex_);
    cache_.Clear();
    ++base_epoch_;
  }
  if (placement->freed_held) allocator_->Unhold(placement->freed);
  allocator_->ReturnToReserved(placement->fresh);
}

}  // namespace tessera::chunk
