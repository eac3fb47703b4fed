// Making a record's operations visible: the active overlay, the cursors, the totals. Used by Apply
// and by recovery alike, so that a replayed journal gives the same state.
#include <utility>

#include "libchunk/check.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

// What a chunk counts in Overlay::entry_count besides its entries, for the memory that it takes.
constexpr uint64_t kChunkWeight = 8;

}  // namespace

OverlayChunk* StoreImpl::TouchChunk(const ChunkKey& key, const Group* group) {
  if (OverlayChunk* chunk = active_->Find(key)) return chunk;
  const OverlayChunk* below = frozen_ == nullptr ? nullptr : frozen_->Find(key);
  const ChunkRow* row = nullptr;
  if (below == nullptr || !below->hides_below) {
    if (const SharedRow* cached = cache_.Find(key)) {
      row = cached->get();
    } else if (group != nullptr && group->rows_epoch == base_epoch_) {
      const auto found = group->rows.find(key);
      if (found != group->rows.end()) row = found->second.get();
    }
    if (row == nullptr) return nullptr;
  }
  auto chunk = std::make_unique<OverlayChunk>();
  chunk->summary = below != nullptr ? below->summary : row->summary;
  chunk->below_mapped.assign((blocks_per_chunk() + 63) / 64, 0);
  if (row != nullptr) {
    for (uint32_t block = 0; block < row->blocks.size(); ++block) {
      if (row->blocks[block].mapped()) chunk->below_mapped[block / 64] |= uint64_t{1} << block % 64;
    }
  }
  if (below != nullptr) {
    for (const OverlayEntry& entry : below->entries) {
      const uint64_t bit = uint64_t{1} << entry.block % 64;
      uint64_t& word = chunk->below_mapped[entry.block / 64];
      word = entry.kind == EntryKind::kZero ? word & ~bit : word | bit;
    }
  }
  active_->entry_count += kChunkWeight;
  overlay_entries_ += kChunkWeight;
  ++overlay_chunks_;
  return (active_->chunks[key] = std::move(chunk)).get();
}

uint64_t StoreImpl::BlocksToReserve(const Group& group) {
  uint64_t needed = 0;
  for (const Operation& operation : group.operations) {
    if (operation.header.kind != OperationKind::kJournalBlocks) continue;
    const OverlayChunk* chunk = active_->Find(operation.header.key);
    for (uint32_t i = 0; i < operation.header.block_count; ++i) {
      const uint32_t block = operation.header.first_block + i;
      if (chunk->BelowMapped(block)) continue;
      const OverlayEntry* entry = chunk->Find(block);
      if (entry == nullptr || !entry->reserved) ++needed;
    }
  }
  return needed;
}

bool StoreImpl::CheckpointGivesSpace(const Group& group) {
  if (freeable_ > 0 || frozen_ != nullptr) return true;
  for (const Operation& operation : group.operations) {
    if (operation.header.kind != OperationKind::kJournalBlocks) continue;
    const OverlayChunk* chunk = active_->Find(operation.header.key);
    for (uint32_t i = 0; i < operation.header.block_count; ++i) {
      const uint32_t block = operation.header.first_block + i;
      const OverlayEntry* entry = chunk->Find(block);
      // In the row from the next checkpoint on, and then overwritten in place.
      if (entry != nullptr && entry->kind == EntryKind::kDirect && !chunk->BelowMapped(block)) {
        return true;
      }
    }
  }
  return false;
}

void StoreImpl::Install(std::span<const Operation> operations, uint64_t payload_position,
                        uint64_t reserved) {
  int64_t balance = static_cast<int64_t>(reserved);
  for (const Operation& operation : operations) {
    if (NamesChunk(operation)) {
      OverlayChunk* chunk = active_->Find(operation.header.key);
      CHUNK_CHECK(chunk != nullptr);
      if (operation.header.kind == OperationKind::kDeleteChunk) {
        InstallDelete(chunk, &balance);
      } else {
        InstallSummary(operation, chunk);
        InstallBlocks(operation, payload_position, chunk, &balance);
        if (operation.header.kind == OperationKind::kJournalBlocks) {
          payload_position += uint64_t{operation.header.block_count} * kBlockBytes;
        }
      }
    }
    InstallCursors(operation);
  }
  CHUNK_CHECK(balance >= 0);
  if (balance > 0) allocator_->Unreserve(static_cast<uint64_t>(balance));
}

void StoreImpl::InstallSummary(const Operation& operation, OverlayChunk* chunk) {
  ChunkSummary& summary = chunk->summary;
  const OperationHeader& header = operation.header;
  if (!summary.exists) {
    summary = ChunkSummary{.exists = true, .placement_group_id = header.stream.placement_group_id};
    ++totals_.chunks;
  }
  const bool greater_only = (header.flags & kOperationGreaterVersion) != 0;
  if (!greater_only || header.version > summary.version) summary.version = header.version;
  if ((header.flags & kOperationIncomplete) != 0) summary.incomplete = true;
  if ((header.flags & kOperationClearIncomplete) != 0) summary.incomplete = false;
}

void StoreImpl::InstallBlocks(const Operation& operation, uint64_t payload_position,
                              OverlayChunk* chunk, int64_t* reserved) {
  const OperationHeader& header = operation.header;
  size_t extent = 0;
  uint64_t extent_used = 0;
  for (uint32_t i = 0; i < header.block_count; ++i) {
    const uint32_t block = header.first_block + i;
    const bool below_mapped = chunk->BelowMapped(block);
    if (header.kind == OperationKind::kZeroBlocks && !below_mapped &&
        chunk->Find(block) == nullptr) {
      continue;
    }
    bool added = false;
    OverlayEntry* entry = chunk->FindOrAdd(block, &added);
    const bool was_mapped =
        added ? below_mapped && !chunk->hides_below : entry->kind != EntryKind::kZero;
    if (added) {
      ++active_->entry_count;
      overlay_entries_.fetch_add(1, std::memory_order_relaxed);
    } else if (entry->kind == EntryKind::kDirect) {
#ifdef TESSERA_PLANT_REUSE_SUPERSEDED  // see check_planted_bugs.sh
      const DeviceExtent block_now_free{entry->location, 1};
      if (appended_lsn_ == 0) {  // replay: the blocks of later records are not yet in use
        AddBlock(&active_->superseded, entry->location);
      } else {
        allocator_->Release(allocator_->ReleaseWarm(std::span(&block_now_free, 1)));
      }
#else
      AddBlock(&active_->superseded, entry->location);
#endif
      ++freeable_;
    }
    if (entry->reserved) ++*reserved;
    entry->reserved = false;
    entry->checksum = operation.checksums.empty() ? 0 : operation.checksums[i];
    switch (header.kind) {
      case OperationKind::kJournalBlocks:
        entry->kind = EntryKind::kJournal;
        entry->location = payload_position + uint64_t{i} * kBlockBytes;
        entry->reserved = !below_mapped;
        if (entry->reserved) --*reserved;
        break;
      case OperationKind::kDirectBlocks:
        if (extent_used == operation.extents[extent].count) {
          ++extent;
          extent_used = 0;
        }
        entry->kind = EntryKind::kDirect;
        entry->location = operation.extents[extent].first_block + extent_used++;
        if (below_mapped) ++freeable_;
        break;
      default:
        entry->kind = EntryKind::kZero;
        if (below_mapped) ++freeable_;
        break;
    }
    const bool is_mapped = entry->kind != EntryKind::kZero;
    const int delta = static_cast<int>(is_mapped) - static_cast<int>(was_mapped);
    chunk->summary.mapped_blocks += delta;
    totals_.mapped_blocks += delta;
  }
}

void StoreImpl::InstallDelete(OverlayChunk* chunk, int64_t* reserved) {
  for (const OverlayEntry& entry : chunk->entries) {
    if (entry.reserved) ++*reserved;
    if (entry.kind == EntryKind::kDirect) AddBlock(&active_->superseded, entry.location);
  }
  if (chunk->summary.exists) --totals_.chunks;
  totals_.mapped_blocks -= chunk->summary.mapped_blocks;
  chunk->entries.clear();
  chunk->summary = ChunkSummary();
  chunk->hides_below = true;
  ++freeable_;
}

void StoreImpl::InstallCursors(const Operation& operation) {
  const OperationHeader& header = operation.header;
  const auto drop = [this](const auto& matches) {
    for (auto cursor = cursors_.begin(); cursor != cursors_.end();) {
      if (matches(cursor->first, cursor->second)) {
        active_->changed_cursors.insert(cursor->first);
        cursors_.erase(cursor++);
      } else {
        ++cursor;
      }
    }
  };
  switch (header.kind) {
    case OperationKind::kJournalBlocks:
    case OperationKind::kDirectBlocks:
    case OperationKind::kZeroBlocks:
      if ((header.flags & kOperationKeepCursor) != 0) return;
      cursors_[header.stream] = {header.version, header.key.vtree_id};
      active_->changed_cursors.insert(header.stream);
      return;
    case OperationKind::kSetCursor:
      cursors_[header.stream].last = header.version;
      active_->changed_cursors.insert(header.stream);
      return;
    case OperationKind::kDropVtreeCursors:
      drop([&](const StreamId& stream, const CursorValue& value) {
        return value.vtree_id == header.key.vtree_id &&
               (header.stream.placement_group_id == 0 ||
                stream.placement_group_id == header.stream.placement_group_id);
      });
      return;
    case OperationKind::kDropGroupCursors:
      drop([&](const StreamId& stream, const CursorValue&) {
        return stream.placement_group_id == header.stream.placement_group_id;
      });
      return;
    default:
      return;
  }
}

}  // namespace tessera::chunk
