// Making a record's operations visible: the active overlay, the cursors, the totals. Used by Apply
// and by recovery alike, so that a replayed journal gives the same state.
#include <algorithm>
#include <utility>

#include "libchunk/check.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

// What a chunk counts in Overlay::entry_count besides its entries, for the memory that it takes.
constexpr uint64_t kChunkWeight = 8;
// A look-up through more overlay chunks than this costs more than it should.
constexpr int kDepthMax = 8;

}  // namespace

OverlayChunk* StoreImpl::TouchChunk(const ChunkKey& key, const LoadedRows& loaded) {
  if (OverlayChunk* chunk = active_->Find(key)) return chunk;
  auto chunk = std::make_unique<OverlayChunk>();
  if (const OverlayChunk* below = frozen_ == nullptr ? nullptr : frozen_->Find(key)) {
    chunk->summary = below->summary;
    chunk->depth = below->depth;
    chunk->below_own = below->OwnAfter();
    chunk->below_mapped = below->Mapped();
  } else {
    static const ChunkRow kNoRow;
    const ChunkRow* row = RowAtHand(key, &loaded);
    if (row == nullptr && key.layer != 0) {
      // A layer that is only being made: the list knows without the database.
      const LayerList* list = layer_lists_.Find(ChunkId(key));
      if (list != nullptr && !Contains(*list, key.layer)) row = &kNoRow;
    }
    if (row == nullptr) return nullptr;
    chunk->summary = row->summary;
    chunk->below_own = BlockBits(blocks_per_chunk());
    chunk->below_mapped = BlockBits(blocks_per_chunk());
    for (uint32_t block = 0; block < row->blocks.size(); ++block) {
      if (!row->blocks[block].mapped()) continue;
      chunk->below_mapped.Set(block, true);
      if (!row->inherited[block]) chunk->below_own.Set(block, true);
    }
  }
  active_->entry_count += kChunkWeight;
  overlay_entries_ += kChunkWeight;
  ++overlay_chunks_;
  if (key.layer != 0) active_->layers[ChunkId(key)].push_back(key.layer);
  return (active_->chunks[key] = std::move(chunk)).get();
}

uint64_t StoreImpl::BlocksToReserve(const Group& group) {
  uint64_t needed = 0;
  for (const Operation& operation : group.operations) {
    if (operation.header.kind != OperationKind::kJournalBlocks) continue;
    const OverlayChunk* chunk = active_->Find(operation.header.key);
    for (uint32_t i = 0; i < operation.header.block_count; ++i) {
      const uint32_t block = operation.header.first_block + i;
      if (chunk->below_own[block]) continue;
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
      if (entry != nullptr && entry->kind == EntryKind::kDirect && !chunk->below_own[block]) {
        return true;
      }
    }
  }
  return false;
}

void StoreImpl::Install(const Group& group, uint64_t payload_position, uint64_t reserved) {
  int64_t balance = static_cast<int64_t>(reserved);
  static const BlockBits kNothingMapped;
  for (const Operation& operation : group.operations) {
    const OperationHeader& header = operation.header;
    if (NamesChunk(operation)) {
      OverlayChunk* chunk = active_->Find(header.key);
      CHUNK_CHECK(chunk != nullptr);
      if (header.kind == OperationKind::kDeleteChunk) {
        InstallDelete(header.key, chunk, &balance);
      } else {
        InstallSummary(operation, chunk);
        if (header.kind == OperationKind::kInheritBlocks) {
          ChunkKey base = header.key;
          base.layer = operation.base;
          const auto mapped = group.base_mapped.find(base);
          InstallInherit(operation,
                         mapped == group.base_mapped.end() ? kNothingMapped : mapped->second, chunk,
                         &balance);
        } else {
          InstallBlocks(operation, payload_position, chunk, &balance);
          chunk->is_repaired |= IsRepair(operation);
        }
        if (header.kind == OperationKind::kJournalBlocks) {
          payload_position += uint64_t{header.block_count} * kBlockBytes;
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
    layer_lists_.Set(header.key, kNoBase);
    if (header.key.layer != 0) layered_.insert(header.key.vtree_id);
  }
  const bool greater_only = (header.flags & kOperationGreaterVersion) != 0;
  if (!greater_only || header.version > summary.version) summary.version = header.version;
  if ((header.flags & kOperationIncomplete) != 0) summary.incomplete = true;
  if ((header.flags & kOperationClearIncomplete) != 0) {
    summary.incomplete = false;
    summary.pruned = (header.flags & kOperationPruned) != 0;
  }
}

OverlayEntry* StoreImpl::ReplaceEntry(OverlayChunk* chunk, uint32_t block, EntryKind kind,
                                      int64_t* reserved) {
  const bool below_own = chunk->below_own[block];
  bool added = false;
  OverlayEntry* entry = chunk->FindOrAdd(block, &added);
  const Shown before = chunk->Shows(added ? nullptr : entry, block);
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
  entry->kind = kind;
  entry->location = 0;
  entry->checksum = 0;
  entry->reserved = kind == EntryKind::kJournal && !below_own;
  if (entry->reserved) --*reserved;
  if (kind != EntryKind::kJournal && below_own) ++freeable_;
  const Shown after = chunk->Shows(entry, block);
  chunk->summary.mapped_blocks += static_cast<int>(after.mapped) - static_cast<int>(before.mapped);
  const int own_delta = static_cast<int>(after.own) - static_cast<int>(before.own);
  chunk->summary.own_blocks += own_delta;
  totals_.own_blocks += own_delta;
  return entry;
}

void StoreImpl::InstallBlocks(const Operation& operation, uint64_t payload_position,
                              OverlayChunk* chunk, int64_t* reserved) {
  const OperationHeader& header = operation.header;
  size_t extent = 0;
  uint64_t extent_used = 0;
  for (uint32_t i = 0; i < header.block_count; ++i) {
    const uint32_t block = header.first_block + i;
    switch (header.kind) {
      case OperationKind::kJournalBlocks: {
        OverlayEntry* entry = ReplaceEntry(chunk, block, EntryKind::kJournal, reserved);
        entry->location = payload_position + uint64_t{i} * kBlockBytes;
        entry->checksum = operation.checksums[i];
        break;
      }
      case OperationKind::kDirectBlocks: {
        if (extent_used == operation.extents[extent].count) {
          ++extent;
          extent_used = 0;
        }
        OverlayEntry* entry = ReplaceEntry(chunk, block, EntryKind::kDirect, reserved);
        entry->location = operation.extents[extent].first_block + extent_used++;
        entry->checksum = operation.checksums[i];
        break;
      }
      default:
        // Where nothing is and nothing was, nothing has to be kept.
        if (chunk->below_own[block] || chunk->below_mapped[block] ||
            chunk->Find(block) != nullptr) {
          ReplaceEntry(chunk, block, EntryKind::kZero, reserved);
        }
        break;
    }
  }
}

void StoreImpl::ClearEntries(OverlayChunk* chunk, int64_t* reserved) {
  for (const OverlayEntry& entry : chunk->entries) {
    if (entry.reserved) ++*reserved;
    if (entry.kind == EntryKind::kDirect) AddBlock(&active_->superseded, entry.location);
  }
  chunk->entries.clear();
  totals_.own_blocks -= chunk->summary.own_blocks;
  chunk->summary.mapped_blocks = 0;
  chunk->summary.own_blocks = 0;
  ++freeable_;
}

void StoreImpl::LeaveBase(OverlayChunk* chunk) {
  if (chunk->below == Below::kBase) {
    for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
      if (chunk->below_mapped[block] && chunk->Find(block) == nullptr) {
        --chunk->summary.mapped_blocks;
      }
    }
    chunk->below = Below::kNothing;
    chunk->below_mapped = BlockBits(blocks_per_chunk());
  }
  for (OverlayEntry& entry : chunk->entries) {
    if (entry.kind != EntryKind::kInherited) continue;
    entry.kind = EntryKind::kZero;
    --chunk->summary.mapped_blocks;
  }
}

void StoreImpl::InstallInherit(const Operation& operation, const BlockBits& base_mapped,
                               OverlayChunk* chunk, int64_t* reserved) {
  const OperationHeader& header = operation.header;
  const ChunkKey& key = header.key;
  ChunkSummary& summary = chunk->summary;
  const std::optional<uint64_t> base =
      operation.base == kNoBase ? std::nullopt : std::optional(operation.base);
  if (summary.base != base) {
    LeaveBase(chunk);
    summary.base = base;
    layer_lists_.Set(key, operation.base);
  }
  if (!base) return;
  const ChunkKey base_key{
      .vtree_id = key.vtree_id, .chunk_index = key.chunk_index, .layer = operation.base};
  const OverlayChunk* base_chunk = FindOverlay(base_key);
  if (base_chunk != nullptr) {
    chunk->depth = std::max<uint8_t>(chunk->depth, std::min<uint8_t>(base_chunk->depth, 254) + 1);
    if (chunk->depth >= kDepthMax) overlay_is_deep_ = true;
  }
  if (header.block_count == blocks_per_chunk()) {
    ClearEntries(chunk, reserved);
    chunk->below = Below::kBase;
    chunk->below_mapped = base_mapped;
    summary.mapped_blocks = base_mapped.Count();
    return;
  }
  for (uint32_t i = 0; i < header.block_count; ++i) {
    const uint32_t block = header.first_block + i;
    ReplaceEntry(chunk, block, base_mapped[block] ? EntryKind::kInherited : EntryKind::kZero,
                 reserved);
  }
}

void StoreImpl::InstallDelete(const ChunkKey& key, OverlayChunk* chunk, int64_t* reserved) {
  ClearEntries(chunk, reserved);
  if (chunk->summary.exists) --totals_.chunks;
  chunk->summary = ChunkSummary();
  chunk->below = Below::kNothing;
  chunk->below_mapped = BlockBits(blocks_per_chunk());
  layer_lists_.Remove(key);
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
      if (header.key.vtree_id != 0) cursors_[header.stream].vtree_id = header.key.vtree_id;
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
