// Changes: validate, merge cut blocks, write direct data, append one record, make it visible.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libchunk/check.h"
#include "libchunk/slice_cursor.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

constexpr size_t kGroupHeaderBytesMax = 64u << 10;
constexpr size_t kGroupPayloadBytesMax = 1u << 20;
// A change that finds the journal full waits for a checkpoint; so often it may find it full again,
// refilled by others, before it gives up.
constexpr int kRoomAttemptsMax = 64;
// Likewise for device space. The first checkpoint waited for may have begun before the change came,
// the second has not; the third is for a checkpoint that had one left over to finish first.
constexpr int kSpaceAttemptsMax = 3;
// Direct data not yet synced is read again by recovery: this bounds that work.
constexpr uint64_t kDirectUnsyncedBytesMax = 256u << 20;
// Direct data in the page cache until the device is told to begin with it.
constexpr uint64_t kWriteBackBytes = 16u << 20;
// Overlay entries (16 bytes each) of both overlays at which a checkpoint is due, and at which
// writers wait for it.
constexpr uint64_t kOverlayEntriesHard = 1u << 20;

struct BlockRange {
  uint32_t first_whole = 0;  // blocks [first_whole, end_whole) are covered wholly
  uint32_t end_whole = 0;
  std::optional<uint32_t> head, tail;  // blocks covered in part
};

BlockRange RangeOf(const Change& change) {
  const uint32_t end = change.offset_bytes + change.length_bytes;
  BlockRange range;
  range.first_whole = (change.offset_bytes + kBlockBytes - 1) / kBlockBytes;
  range.end_whole = end / kBlockBytes;
  if (change.offset_bytes % kBlockBytes != 0) range.head = change.offset_bytes / kBlockBytes;
  if (end % kBlockBytes != 0 && end / kBlockBytes != range.head) range.tail = end / kBlockBytes;
  range.end_whole = std::max(range.end_whole, range.first_whole);
  return range;
}

Operation OperationFor(const Change& change, OperationKind kind) {
  Operation operation;
  operation.header.kind = kind;
  operation.header.flags = (change.incomplete ? kOperationIncomplete : 0) |
                           (change.keep_cursor ? kOperationKeepCursor : 0);
  operation.header.key = change.key;
  operation.header.stream = change.stream;
  operation.header.version = change.version;
  return operation;
}

}  // namespace

absl::Status StoreImpl::Validate(const Change& change) const {
  CHUNK_RETURN_IF_ERROR(ValidateRange(change.offset_bytes, change.length_bytes));
  if (change.length_bytes == 0) return absl::InvalidArgumentError("the range is empty");
  if (change.key.layer == kNoBase) return absl::InvalidArgumentError("no layer has this number");
  if (change.path != nullptr && (change.path->branch() != BranchOf(change.key.layer) ||
                                 !change.path->Sees(change.key.layer))) {
    return absl::InvalidArgumentError(absl::StrCat("the path does not see layer ", change.key.layer,
                                                   " as one of its own branch"));
  }
  if (change.kind == ChangeKind::kAdopt && (change.path == nullptr || change.keep_cursor)) {
    return absl::InvalidArgumentError("layers are adopted along a path, in the order of a stream");
  }
  if (change.kind != ChangeKind::kWrite) {
    if (change.kind == ChangeKind::kTrim || change.kind == ChangeKind::kWriteZeroes ||
        change.kind == ChangeKind::kMissed || change.kind == ChangeKind::kAdopt) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat("unknown kind of change ", static_cast<int>(change.kind)));
  }
  uint64_t data_bytes = 0;
  for (const auto& slice : change.data) data_bytes += slice.size();
  if (data_bytes != change.length_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the range has ", change.length_bytes, " bytes, the data ", data_bytes));
  }
  return absl::OkStatus();
}

void StoreImpl::Apply(std::span<const Change> changes, std::span<absl::Status> results) {
  CHUNK_CHECK(changes.size() == results.size());
  std::vector<StreamId> failed_streams;
  size_t next = 0;
  size_t group_max = changes.size();
  while (next < changes.size()) {
    const StreamId& stream = changes[next].stream;
    if (!failed_streams.empty() &&
        std::find(failed_streams.begin(), failed_streams.end(), stream) != failed_streams.end()) {
      results[next++] = absl::AbortedError("an earlier change of the stream failed");
      continue;
    }
    absl::Status valid = Validate(changes[next]);
    if (valid.ok()) valid = CheckAlive();
    if (!valid.ok()) {
      results[next++] = std::move(valid);
      failed_streams.push_back(stream);
      continue;
    }
    // A failed change ends up alone in its group, so that its neighbours are not refused with it.
    // After a failure its stream's later changes must be looked at one by one.
    const size_t limit = failed_streams.empty() ? group_max : 1;
    const size_t done = ApplyGroup(changes.subspan(next), results.subspan(next), limit);
    if (done == 0) {
      group_max = 1;
      continue;
    }
    if (!results[next].ok()) failed_streams.push_back(stream);
    next += done;
  }
}

bool StoreImpl::DependsOnGroup(const Change& change, const Group& group) const {
  if (change.kind == ChangeKind::kAdopt) return false;
  const BlockRange range = RangeOf(change);
  if (!range.head && !range.tail) return false;
  for (const Operation& operation : group.operations) {
    if (ChunkId(operation.header.key) != ChunkId(change.key)) continue;
    for (const auto& block : {range.head, range.tail}) {
      if (block && *block >= operation.header.first_block &&
          *block < operation.header.first_block + operation.header.block_count) {
        return true;
      }
    }
  }
  return false;
}

// Applies the longest possible run of changes from the front, at most changes_max, in one record.
// Returns how many have their result; 0: several were tried together and failed, try one.
size_t StoreImpl::ApplyGroup(std::span<const Change> changes, std::span<absl::Status> results,
                             size_t changes_max) {
  for (;;) {
    Group group;
    size_t taken = 0;
    absl::Status status;
    uint64_t bytes = 0;
    while (taken < changes.size() && taken < changes_max) {
      const Change& change = changes[taken];
      const uint32_t payload = change.kind == ChangeKind::kAdopt ? 0 : change.length_bytes;
      if (taken > 0 && (!Validate(change).ok() || DependsOnGroup(change, group) ||
                        group.payload_bytes + payload > kGroupPayloadBytesMax ||
                        group.payload_bytes + payload + size_t{2} * kBlockBytes >
                            journal_->payload_bytes_max() ||
                        group.header_bytes > kGroupHeaderBytesMax)) {
        break;
      }
      absl::StatusOr<Target> target = FindTargetLoading(change, &group);
      status = target.status();
      if (!status.ok()) break;
      const bool has_layers = change.path != nullptr || change.key.layer != 0;
      if (taken > 0 && (has_layers || group.has_layers) && !MayJoin(*target, group)) break;
      group.has_layers |= has_layers;
      status = Prepare(change, *target, &group);
      if (!status.ok()) break;
      bytes += change.kind == ChangeKind::kWrite ? change.length_bytes : 0;
      ++taken;
    }
    if (status.ok()) status = Commit(&group);
    if (!status.ok()) {
      GiveBack(&group);
      if (absl::IsAborted(status)) continue;
      if (taken > 1 || (taken == 1 && changes_max > 1 && changes.size() > 1)) return 0;
      results[0] = std::move(status);
      return 1;
    }
    for (size_t i = 0; i < taken; ++i) results[i] = absl::OkStatus();
    writes_.fetch_add(taken, std::memory_order_relaxed);
    write_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    return taken;
  }
}

absl::Status StoreImpl::Prepare(const Change& change, const Target& target, Group* group) {
  const size_t first = group->operations.size();
  Change to_layer = change;
  to_layer.key = target.key;
  ChunkKey below = target.key;
  if (change.path != nullptr) group->targets.emplace_back(&change, target);
  if (target.nothing) {
    Operation moved = OperationFor(Change(), OperationKind::kSetCursor);
    moved.header.key.vtree_id = change.key.vtree_id;
    moved.header.stream = change.stream;
    moved.header.version = change.version;
    group->header_bytes += EncodedBytes(moved);
    group->operations.push_back(std::move(moved));
    return absl::OkStatus();
  }
  if (target.base != kNoBase) {
    below.layer = target.base;
    Operation made = OperationFor(to_layer, OperationKind::kInheritBlocks);
    made.header.block_count = blocks_per_chunk();
    made.base = target.base;
    group->operations.push_back(std::move(made));
  }
  CHUNK_RETURN_IF_ERROR(change.kind == ChangeKind::kWrite ? PrepareWrite(to_layer, below, group)
                                                          : PrepareZeroes(to_layer, below, group));
  for (size_t i = first; i < group->operations.size(); ++i) {
    group->header_bytes += EncodedBytes(group->operations[i]);
  }
  return absl::OkStatus();
}

absl::StatusOr<StoreImpl::MergedBlock> StoreImpl::BeginMerge(const ChunkKey& key, uint32_t block) {
  MergedBlock merged{.key = key, .block = block};
  merged.bytes = std::make_unique<std::array<std::byte, kBlockBytes>>();
  for (int attempt = 0;; ++attempt) {
    Found found;
    merged.depth = attempt == 0 ? Depth::kRow : Depth::kOwner;
    CHUNK_RETURN_IF_ERROR(LookUpLoading(key, nullptr, block, 1, merged.depth, &found));
    const bool unchanged = attempt > 0 && found.sources[0] == merged.before;
    merged.before = found.sources[0];
    absl::Status read = ReadSources(key, block, found.sources, 0, *merged.bytes, Temperature::kAny);
    if (read.ok()) return merged;
    if (!absl::IsDataLoss(read) || (unchanged && attempt > 1)) {
      if (absl::IsDataLoss(read)) checksum_errors_.fetch_add(1, std::memory_order_relaxed);
      return read;
    }
  }
}

absl::StatusOr<bool> StoreImpl::PrepareDirect(uint32_t count, const PayloadSlices& slices,
                                              Group* group, Operation* operation) {
  if (!allocator_->Reserve(count)) return false;
  absl::StatusOr<DeviceExtents> extents = allocator_->Allocate(count, std::nullopt);
  if (!extents.ok()) {
    allocator_->Unreserve(count);
    return Fail(extents.status());
  }
  operation->extents = *extents;
  group->direct.insert(group->direct.end(), extents->begin(), extents->end());
  group->direct_bytes += uint64_t{count} * kBlockBytes;
  SliceCursor cursor(slices);
  for (const DeviceExtent& extent : *extents) {
    if (group->direct_writes.empty() ||
        group->direct_writes.back().end_block != extent.first_block) {
      group->direct_writes.emplace_back().first_block = extent.first_block;
    }
    DirectWrite& write = group->direct_writes.back();
    write.end_block = extent.first_block + extent.count;
    cursor.Take(extent.count * kBlockBytes,
                [&](std::span<const std::byte> bytes) { write.slices.push_back(bytes); });
  }
  return true;
}

absl::Status StoreImpl::WriteDirect(Group* group) {
  for (const DirectWrite& write : group->direct_writes) {
    for (bool again = true; again;) {
      again = false;
      absl::Status written = parts_.data->Write(write.first_block * kBlockBytes, write.slices);
      if (written.ok()) continue;
      if (!absl::IsResourceExhausted(written)) return Fail(written);
      // The file system is full. What is kept warm may be what it lacks.
      CHUNK_ASSIGN_OR_RETURN(const uint64_t given,
                             GiveBackWarm(Allocator::Which::kAll, kAllBlocks));
      if (given == 0) return written;
      again = true;
    }
  }
  group->direct_writes.clear();
  return absl::OkStatus();
}

absl::Status StoreImpl::PrepareWrite(const Change& change, const ChunkKey& below, Group* group) {
  const BlockRange range = RangeOf(change);
  const BlockChecksum checksum(change.key);
  SliceCursor cursor(change.data);
  Operation operation = OperationFor(change, OperationKind::kJournalBlocks);
  const auto merge = [&](uint32_t block, uint32_t begin, uint32_t end) -> absl::Status {
    CHUNK_ASSIGN_OR_RETURN(MergedBlock merged, BeginMerge(below, block));
    std::byte* target = merged.bytes->data() + begin;
    cursor.Take(end - begin, [&](std::span<const std::byte> piece) {
      std::memcpy(target, piece.data(), piece.size());
      target += piece.size();
    });
    operation.checksums.push_back(checksum.Of(block, *merged.bytes));
    group->payload.push_back(*merged.bytes);
    group->payload_bytes += kBlockBytes;
    group->merged.push_back(std::move(merged));
    return absl::OkStatus();
  };
  const auto finish = [&](uint32_t first_block) {
    operation.header.first_block = first_block;
    operation.header.block_count = static_cast<uint32_t>(operation.checksums.size());
    if (operation.header.block_count > 0) group->operations.push_back(operation);
    operation = OperationFor(change, OperationKind::kJournalBlocks);
  };

  const uint32_t end = change.offset_bytes + change.length_bytes;
  if (range.head) {
    const uint32_t base = *range.head * kBlockBytes;
    CHUNK_RETURN_IF_ERROR(
        merge(*range.head, change.offset_bytes - base, std::min(end - base, kBlockBytes)));
  }
  const uint32_t whole = range.end_whole - range.first_whole;
  uint32_t first_block = range.head.value_or(range.first_whole);
  if (whole > 0) {
    PayloadSlices slices;
    absl::InlinedVector<uint32_t, 8> checksums;
    for (uint32_t block = range.first_whole; block < range.end_whole; ++block) {
      checksums.push_back(cursor.TakeBlock(checksum.Prefix(block), &slices));
    }
    bool direct = false;
    if (whole * kBlockBytes >= parts_.options.direct_write_bytes) {
      Operation direct_operation = OperationFor(change, OperationKind::kDirectBlocks);
      CHUNK_ASSIGN_OR_RETURN(direct, PrepareDirect(whole, slices, group, &direct_operation));
      if (direct) {
        finish(first_block);
        direct_operation.header.first_block = range.first_whole;
        direct_operation.header.block_count = whole;
        direct_operation.checksums = checksums;
        group->operations.push_back(std::move(direct_operation));
        first_block = range.end_whole;
      }
    }
    if (!direct) {
      operation.checksums.insert(operation.checksums.end(), checksums.begin(), checksums.end());
      group->payload.insert(group->payload.end(), slices.begin(), slices.end());
      group->payload_bytes += uint64_t{whole} * kBlockBytes;
    }
  }
  if (range.tail) CHUNK_RETURN_IF_ERROR(merge(*range.tail, 0, end % kBlockBytes));
  finish(first_block);
  return absl::OkStatus();
}

absl::Status StoreImpl::PrepareZeroes(const Change& change, const ChunkKey& below, Group* group) {
  const BlockRange range = RangeOf(change);
  const BlockChecksum checksum(change.key);
  const uint32_t end = change.offset_bytes + change.length_bytes;
  // Also carries version and cursor when no whole block is covered.
  Operation zeroes = OperationFor(change, OperationKind::kZeroBlocks);
  zeroes.header.first_block = range.first_whole;
  zeroes.header.block_count = range.end_whole - range.first_whole;
  const bool keeps_content =
      change.kind == ChangeKind::kMissed || change.kind == ChangeKind::kAdopt;
  if (keeps_content) zeroes.header.block_count = 0;
  if (change.kind == ChangeKind::kMissed) zeroes.header.flags |= kOperationIncomplete;
  group->operations.push_back(zeroes);
  if (keeps_content) return absl::OkStatus();
  for (const auto& block : {range.head, range.tail}) {
    if (!block) continue;
    CHUNK_ASSIGN_OR_RETURN(MergedBlock merged, BeginMerge(below, *block));
    const uint32_t base = *block * kBlockBytes;
    if (merged.before.kind != BlockSource::Kind::kZero) {
      const uint32_t from = std::max(base, change.offset_bytes) - base;
      const uint32_t to = std::min(base + kBlockBytes, end) - base;
      std::memset(merged.bytes->data() + from, 0, to - from);
      Operation operation = OperationFor(change, OperationKind::kJournalBlocks);
      operation.header.first_block = *block;
      operation.header.block_count = 1;
      operation.checksums.push_back(checksum.Of(*block, *merged.bytes));
      group->operations.push_back(std::move(operation));
      group->payload.push_back(*merged.bytes);
      group->payload_bytes += kBlockBytes;
    }
    group->merged.push_back(std::move(merged));
  }
  return absl::OkStatus();
}

void StoreImpl::GiveBack(Group* group) {
  if (!group->direct.empty()) GiveBack(group->direct);
  group->direct.clear();
}

void StoreImpl::GiveBack(std::span<const DeviceExtent> extents) {
  // A write that failed for good may still reach these blocks: they are not used again before the
  // next Open. An error of ReleaseBlocks is in failed().
  if (!is_failed_) ReleaseBlocks(extents).IgnoreError();
}

absl::Status StoreImpl::MakeRoom(uint64_t seen) {
  absl::MutexLock lock(&checkpoint_mutex_);
  if (checkpoint_attempts_ != seen) return absl::OkStatus();
  return Checkpoint();
}

absl::Status StoreImpl::Commit(Group* group) {
  CHUNK_RETURN_IF_ERROR(WriteDirect(group));
  int space_attempts = 0;
  for (int attempt = 0; attempt < kRoomAttemptsMax;) {
    const uint64_t seen = checkpoint_attempts_;
    Shortage shortage;
    absl::Status status = CommitOnce(group, &shortage);
    if (shortage.row) {
      CHUNK_RETURN_IF_ERROR(LoadRowInto(*shortage.row, &group->loaded));
    } else if (shortage.layers) {
      CHUNK_ASSIGN_OR_RETURN(LayerLists::Pin pin, LoadLayers(*shortage.layers));
      group->pins.push_back(std::move(pin));
    } else if (shortage.drop) {
      absl::MutexLock until_it_is_over(&checkpoint_mutex_);
    } else if (shortage.journal || (shortage.space && space_attempts++ < kSpaceAttemptsMax)) {
      ++attempt;
      CHUNK_RETURN_IF_ERROR(MakeRoom(seen));
    } else {
      return status;
    }
  }
  return absl::ResourceExhaustedError("the journal stays full: checkpoints do not keep up");
}

absl::Status StoreImpl::FindRows(Group* group, Shortage* shortage) {
  for (const auto& [change, target] : group->targets) {
    const std::optional<Target> now = FindTarget(*change);
    if (!now) {
      shortage->layers = ChunkId(change->key);
      return absl::OkStatus();
    }
    if (*now != target) return absl::AbortedError("the chunk's layers have changed");
  }
  const bool any_layers = drop_ != nullptr || !layered_.empty();
  for (size_t i = 0; i < group->operations.size(); ++i) {
    Operation& operation = group->operations[i];
    const OperationHeader& header = operation.header;
    if (!NamesChunk(operation)) continue;
    // One change has all its operations in a row.
    const bool inherits = header.kind == OperationKind::kInheritBlocks;
    const bool begins = i == 0 || !NamesChunk(group->operations[i - 1]) ||
                        header.key != group->operations[i - 1].header.key;
    if (inherits || (any_layers && begins)) {
      CHUNK_RETURN_IF_ERROR(CheckLayers(*group, i, shortage));
      if (shortage->drop || shortage->layers) return absl::OkStatus();
    }
    if (inherits) {
      CHUNK_RETURN_IF_ERROR(FindBase(&operation, group, shortage));
      if (shortage->row) return absl::OkStatus();
    }
    const OverlayChunk* chunk = TouchChunk(header.key, group->loaded);
    if (chunk == nullptr) {
      shortage->row = header.key;
      return absl::OkStatus();
    }
    const bool is_change = header.kind != OperationKind::kDeleteChunk && !group->repairs &&
                           (header.flags & kOperationClearIncomplete) == 0;
    if (is_change && chunk->summary.pruned) {
      return absl::PermissionDeniedError(
          absl::StrCat(KeyText(header.key), " is pruned and can't be changed"));
    }
    if (group->present_base && group->present_base->first == header.key &&
        group->present_base->second != chunk->summary.base) {
      return absl::AbortedError("the chunk has another base now");
    }
  }
  for (const MergedBlock& merged : group->merged) {
    Found now;
    shortage->row = LookUp(merged.key, merged.block, 1, merged.depth, &group->loaded, &now);
    if (shortage->row) return absl::OkStatus();
    if (now.sources[0] != merged.before) return absl::AbortedError("a merged block has changed");
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::CommitOnce(Group* group, Shortage* shortage) {
  absl::MutexLock append_lock(&append_mutex_);
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  if (!journal_->Fits(group->header_bytes, group->payload_bytes) ||
      overlay_entries_ > kOverlayEntriesHard) {
    shortage->journal = true;
    return absl::OkStatus();
  }
  uint64_t needed = 0;
  {
    absl::MutexLock state_lock(&state_mutex_);
    CHUNK_RETURN_IF_ERROR(FindRows(group, shortage));
    if (shortage->row || shortage->layers || shortage->drop) return absl::OkStatus();
    needed = BlocksToReserve(*group);
    if (needed > 0 && !allocator_->Reserve(needed)) {
      shortage->space = CheckpointGivesSpace(*group);
      return absl::ResourceExhaustedError(
          absl::StrCat("no space: ", needed, " more blocks of ", kBlockBytes, " bytes are needed"));
    }
  }
  builder_.Clear();
  for (const Operation& operation : group->operations) builder_.Add(operation);
  absl::StatusOr<uint64_t> position =
      journal_->Append(&builder_, group->payload, group->payload_bytes, durable_lsn_);
  if (!position.ok()) return Fail(position.status());
  if (!group->direct.empty()) {
    direct_unsynced_ = true;
    direct_unsynced_bytes_ += group->direct_bytes;
    group->direct.clear();
  }
  {
    absl::MutexLock state_lock(&state_mutex_);
    Install(*group, *position, needed);
  }
  appended_lsn_ = journal_->head().next_lsn - 1;
  journal_used_bytes_ = journal_->used_bytes();
  not_written_back_bytes_ += group->direct_bytes;
  if (not_written_back_bytes_ > kWriteBackBytes) {
    not_written_back_bytes_ = 0;
    RequestWriteBack();
  }
  if (CheckpointDue() || direct_unsynced_bytes_ > kDirectUnsyncedBytesMax) RequestCheckpoint();
  return absl::OkStatus();
}

}  // namespace tessera::chunk
