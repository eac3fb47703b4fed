// Recovery: metadata, then the journal from where the metadata ends (FORMAT.md, "Recovery").
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libchunk/check.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

bool EndsChain(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsDataLoss(status);
}

JournalCursor After(const LiveRecord& record) {
  return {.position = record.next_position,
          .next_lsn = record.header.lsn + 1,
          .incarnation = record.header.incarnation};
}

}  // namespace

absl::Status StoreImpl::Recover() {
  CHUNK_RETURN_IF_ERROR(LoadMetadata());
  CHUNK_ASSIGN_OR_RETURN(const AppliedState applied, parts_.database->LoadApplied());
  CHUNK_ASSIGN_OR_RETURN(const Chain chain, Replay(applied));
  CHUNK_RETURN_IF_ERROR(BeginIncarnation(chain, applied.position));
  UpdateSpaceLimit();
  CHUNK_RETURN_IF_ERROR(PlanSweep());
  if (parts_.options.background_threads) StartThreads();
  return absl::OkStatus();
}

absl::Status StoreImpl::LoadMetadata() {
  CHUNK_ASSIGN_OR_RETURN(const std::vector<uint32_t> free_counts,
                         parts_.database->LoadFreeCounts());
  CHUNK_ASSIGN_OR_RETURN(const MetadataDatabase::Totals totals, parts_.database->LoadTotals());
  CHUNK_ASSIGN_OR_RETURN(const std::vector<CursorRow> cursors, parts_.database->LoadCursors());
  allocator_ = std::make_unique<Allocator>(
      parts_.options.capacity_bytes / kBlockBytes, free_counts,
      [database = parts_.database.get()](uint64_t group_number) {
        return database->LoadGroup(group_number);
      },
      parts_.device == nullptr ? ~uint64_t{0}
                               : parts_.device->layout().data.size_bytes / kBlockBytes);
  CHUNK_ASSIGN_OR_RETURN(const std::vector<uint64_t> layered, parts_.database->LoadLayered());
  if (allocator_->space().in_use_blocks != totals.own_blocks) {
    return absl::DataLossError(absl::StrCat("meta.db: ", allocator_->space().in_use_blocks,
                                            " blocks are in use, but ", totals.own_blocks,
                                            " are mapped"));
  }
  absl::MutexLock checkpoint_lock(&checkpoint_mutex_);
  absl::MutexLock lock(&state_mutex_);
  row_totals_ = totals;
  totals_ = totals;
  layered_.insert(layered.begin(), layered.end());
  for (const CursorRow& cursor : cursors) {
    cursors_[cursor.stream] = {.last = cursor.last, .vtree_id = cursor.vtree_id};
  }
  return absl::OkStatus();
}

absl::StatusOr<StoreImpl::Chain> StoreImpl::WalkChain(const JournalCursor& start) {
  Chain chain{.end = start, .durable_lsn = start.next_lsn - 1};
  const uint64_t limit = start.position + journal_->size_bytes();
  while (chain.end.position < limit) {
    absl::StatusOr<LiveRecord> record = journal_->ReadRecord(chain.end);
    if (!record.ok()) {
      if (!EndsChain(record.status())) return record.status();
      chain.torn = absl::IsDataLoss(record.status());
      break;
    }
    chain.durable_lsn = std::max(chain.durable_lsn, record->header.durable_lsn);
    chain.end = After(*record);
  }
  if (parts_.report.clean) return chain;
  CHUNK_ASSIGN_OR_RETURN(const uint64_t beyond,
                         journal_->GreatestDurableLsn(chain.end.position, limit));
  chain.durable_lsn = std::max(chain.durable_lsn, beyond);
  if (chain.durable_lsn >= chain.end.next_lsn) {
    return absl::DataLossError(absl::StrCat(
        "the journal is damaged at position ", chain.end.position, ": record ", chain.end.next_lsn,
        " cannot be read, though everything up to ", chain.durable_lsn, " was flushed"));
  }
  return chain;
}

absl::StatusOr<StoreImpl::Chain> StoreImpl::Replay(const AppliedState& applied) {
  const JournalCursor start{.position = applied.position,
                            .next_lsn = applied.lsn + 1,
                            .incarnation = applied.incarnation};
  CHUNK_ASSIGN_OR_RETURN(Chain chain, WalkChain(start));
  JournalCursor next = start;
  while (next.next_lsn < chain.end.next_lsn) {
    CHUNK_ASSIGN_OR_RETURN(const LiveRecord record, journal_->ReadRecord(next));
    if (record.header.lsn > chain.durable_lsn) {
      CHUNK_ASSIGN_OR_RETURN(const bool whole, Verify(record));
      if (!whole) {
        chain.end = next;
        chain.torn = true;
        break;
      }
      CHUNK_RETURN_IF_ERROR(Rewrite(record));
    }
    CHUNK_RETURN_IF_ERROR(ReplayRecord(record));
    ++parts_.report.records_replayed;
    next = After(record);
  }
  parts_.report.tail_discarded = chain.torn;
  return chain;
}

absl::StatusOr<bool> StoreImpl::Verify(const LiveRecord& record) {
  uint64_t payload_position = record.payload_position;
  for (const Operation& operation : record.operations) {
    const OperationHeader& header = operation.header;
    BlockSources sources;
    if (header.kind == OperationKind::kJournalBlocks) {
      for (uint32_t i = 0; i < header.block_count; ++i) {
        sources.push_back({.location = payload_position,
                           .checksum = operation.checksums[i],
                           .kind = BlockSource::Kind::kJournal});
        payload_position += kBlockBytes;
      }
    } else if (header.kind == OperationKind::kDirectBlocks) {
      for (const DeviceExtent& extent : operation.extents) {
        for (uint64_t i = 0; i < extent.count && sources.size() < header.block_count; ++i) {
          sources.push_back({.location = extent.first_block + i,
                             .checksum = operation.checksums[sources.size()],
                             .kind = BlockSource::Kind::kDevice});
        }
      }
      if (sources.size() != header.block_count) return false;
    } else {
      continue;
    }
    // An unreadable block was recorded with the checksum of no content: there is nothing to check.
    const BlockChecksum checksum(header.key);
    if (!sources.empty() && sources[0].checksum == checksum.OfUnreadable(header.first_block)) {
      continue;
    }
    std::vector<std::byte> bytes(sources.size() * kBlockBytes);
    absl::Status read =
        ReadSources(header.key, header.first_block, sources, 0, bytes, Temperature::kAny);
    if (absl::IsDataLoss(read)) return false;
    CHUNK_RETURN_IF_ERROR(read);
  }
  return true;
}

absl::Status StoreImpl::Rewrite(const LiveRecord& record) {
#ifdef TESSERA_PLANT_SKIP_REWRITE  // see check_planted_bugs.sh
  return absl::OkStatus();
#endif
  std::vector<std::byte> bytes;
  const auto rewrite = [&bytes](File* file, uint64_t offset, uint64_t length) -> absl::Status {
    bytes.resize(length);
    CHUNK_RETURN_IF_ERROR(file->Read(offset, bytes));
    const std::span<const std::byte> slice(bytes);
    return file->Write(offset, std::span(&slice, 1));
  };
  for (const Operation& operation : record.operations) {
    for (const DeviceExtent& extent : operation.extents) {
      CHUNK_RETURN_IF_ERROR(
          rewrite(parts_.data.get(), extent.first_block * kBlockBytes, extent.count * kBlockBytes));
    }
  }
  return rewrite(journal_->file(), record.header.position % journal_->size_bytes(),
                 record.header.header_bytes + record.header.payload_bytes);
}

absl::Status StoreImpl::ReplayRecord(const LiveRecord& record) {
  Group group;
  for (const Operation& operation : record.operations) {
    const OperationHeader& header = operation.header;
    if (uint64_t{header.first_block} + header.block_count > blocks_per_chunk()) {
      return absl::DataLossError(
          absl::StrCat("record ", record.header.lsn, " names blocks past the chunk's end"));
    }
    uint64_t extent_blocks = 0;
    for (const DeviceExtent& extent : operation.extents) {
      extent_blocks += extent.count;
      CHUNK_RETURN_IF_ERROR(allocator_->MarkInUse(extent));
    }
    if (header.kind == OperationKind::kDirectBlocks && extent_blocks != header.block_count) {
      return absl::DataLossError(absl::StrCat("record ", record.header.lsn, " has ", extent_blocks,
                                              " places for ", header.block_count, " blocks"));
    }
    for (bool touched = !NamesChunk(operation); !touched;) {
      {
        absl::MutexLock lock(&state_mutex_);
        touched = TouchChunk(header.key, group.loaded) != nullptr;
      }
      if (!touched) CHUNK_RETURN_IF_ERROR(LoadRowInto(header.key, &group.loaded));
    }
  }
  group.operations.assign(record.operations.begin(), record.operations.end());
  for (Operation& operation : group.operations) {
#ifdef TESSERA_PLANT_SKIP_BASE_ON_REPLAY  // see check_planted_bugs.sh
    operation.base = kNoBase;
#endif
    for (bool found = operation.header.kind != OperationKind::kInheritBlocks; !found;) {
      Shortage shortage;
      {
        absl::MutexLock lock(&state_mutex_);
        CHUNK_RETURN_IF_ERROR(FindBase(&operation, &group, &shortage));
      }
      found = !shortage.row.has_value();
      if (!found) CHUNK_RETURN_IF_ERROR(LoadRowInto(*shortage.row, &group.loaded));
    }
  }
  absl::MutexLock lock(&state_mutex_);
  const uint64_t needed = BlocksToReserve(group);
  if (!allocator_->Reserve(needed)) {
    return absl::FailedPreconditionError(
        "capacity_bytes is smaller than what the store already holds");
  }
  Install(group, record.payload_position, needed);
  return absl::OkStatus();
}

absl::Status StoreImpl::BeginIncarnation(const Chain& chain, uint64_t tail) {
  OpenReport& report = parts_.report;
  CHUNK_ASSIGN_OR_RETURN(const std::string boot_id, parts_.env->BootId());
  const std::string known_boot_id = boot_id.substr(0, kBootIdBytesMax);
  Superblock& superblock = parts_.superblock;
  report.volatile_state_lost =
      !report.created && (superblock.loss_untold || superblock.sync_failed ||
                          (!report.clean && superblock.boot_id != known_boot_id));
  superblock.loss_untold = report.volatile_state_lost;
  superblock.sync_failed = false;
  superblock.incarnation = std::max(superblock.incarnation, chain.end.incarnation) + 1;
  superblock.clean = false;
  superblock.boot_id = known_boot_id;
  CHUNK_RETURN_IF_ERROR(WriteSuperblock(parts_.superblock_file.get(), &superblock));
  report.incarnation = superblock.incarnation;

  JournalCursor head = chain.end;
  head.incarnation = superblock.incarnation;
  RecordBuilder builder;
  Operation opened;
  opened.header.kind = OperationKind::kOpened;
  builder.Add(opened);
  bool fits = false;
  {
    absl::MutexLock lock(&append_mutex_);
    journal_->Start(head, tail);
    journal_used_bytes_ = journal_->used_bytes();
    appended_lsn_ = head.next_lsn - 1;
    durable_lsn_ = chain.durable_lsn;
    direct_unsynced_ = report.records_replayed > 0;
    fits = journal_->Fits(builder.size_bytes(), 0);
  }
  // The commit of a checkpoint cuts the tail off as well as an Opened record does.
  if (!fits) {
    absl::MutexLock lock(&checkpoint_mutex_);
    CHUNK_RETURN_IF_ERROR(Checkpoint());
  }
  {
    absl::MutexLock lock(&append_mutex_);
    CHUNK_RETURN_IF_ERROR(journal_->Append(&builder, {}, 0, durable_lsn_).status());
    appended_lsn_ = journal_->head().next_lsn - 1;
    journal_used_bytes_ = journal_->used_bytes();
  }
  return SyncUpTo(appended_lsn_);
}

}  // namespace tessera::chunk
