// Whole chunks and vtrees: deletion, listing, cursors, verification.
#include <algorithm>
#include <array>
#include <map>

#include "absl/strings/str_cat.h"
#include "libchunk/slice_cursor.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

constexpr size_t kDeletionsPerRecord = 256;
constexpr size_t kListPage = 256;

bool Fits(const RowFilter& filter, const ChunkKey& key, const ChunkSummary& summary) {
  return (!filter.vtree_id || *filter.vtree_id == key.vtree_id) &&
         (!filter.placement_group_id || *filter.placement_group_id == summary.placement_group_id);
}

}  // namespace

ChunkInfo InfoOf(const ChunkKey& key, const ChunkSummary& summary) {
  return {.key = key,
          .placement_group_id = summary.placement_group_id,
          .version = summary.version,
          .incomplete = summary.incomplete,
          .mapped_bytes = uint64_t{summary.mapped_blocks} * kBlockBytes,
          .base = summary.base,
          .own_bytes = uint64_t{summary.own_blocks} * kBlockBytes,
          .pruned = summary.pruned};
}

std::string KeyText(const ChunkKey& key) {
  return absl::StrCat(key.vtree_id, "/", key.chunk_index, "/", key.layer);
}

absl::Status NoChunk(const ChunkKey& key) {
  return absl::NotFoundError(absl::StrCat("there is no chunk ", KeyText(key)));
}

absl::Status StoreImpl::CommitOperation(const Operation& operation) {
  Group group;
  group.operations.push_back(operation);
  group.header_bytes += EncodedBytes(operation);
  return Commit(&group);
}

absl::Status StoreImpl::DeleteChunk(const ChunkKey& key) {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  CHUNK_ASSIGN_OR_RETURN(const std::optional<ChunkInfo> chunk, GetChunk(key));
  if (!chunk) return absl::OkStatus();
  Operation operation;
  operation.header.kind = OperationKind::kDeleteChunk;
  operation.header.key = key;
  return CommitOperation(operation);
}

absl::Status StoreImpl::DeleteChunks(std::span<const ChunkInfo> chunks) {
  for (size_t done = 0; done < chunks.size();) {
    Group group;
    const size_t end = std::min(chunks.size(), done + kDeletionsPerRecord);
    for (; done < end; ++done) {
      Operation operation;
      operation.header.kind = OperationKind::kDeleteChunk;
      // From the end: a layer goes before the one that it was made from.
      operation.header.key = chunks[chunks.size() - 1 - done].key;
      group.header_bytes += EncodedBytes(operation);
      group.operations.push_back(std::move(operation));
    }
    CHUNK_RETURN_IF_ERROR(Commit(&group));
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::DeleteVtree(uint64_t vtree_id, uint64_t placement_group_id) {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  RowFilter filter{.vtree_id = vtree_id};
  if (placement_group_id != 0) filter.placement_group_id = placement_group_id;
  std::optional<ChunkKey> after;
  std::vector<ChunkInfo> chunks;  // in order, not yet deleted
  for (;;) {
    CHUNK_ASSIGN_OR_RETURN(const std::vector<ChunkInfo> page,
                           ListMerged(filter, after, kDeletionsPerRecord));
    if (!page.empty()) after = page.back().key;
    chunks.insert(chunks.end(), page.begin(), page.end());
    if (page.empty()) break;
    // The last chunk may have more layers than are listed yet.
    const auto last = std::find_if(chunks.begin(), chunks.end(), [&](const ChunkInfo& chunk) {
      return ChunkId(chunk.key) == ChunkId(chunks.back().key);
    });
    CHUNK_RETURN_IF_ERROR(DeleteChunks(std::span(chunks.begin(), last)));
    chunks.erase(chunks.begin(), last);
  }
  CHUNK_RETURN_IF_ERROR(DeleteChunks(chunks));
  Operation operation;
  operation.header.kind = OperationKind::kDropVtreeCursors;
  operation.header.key.vtree_id = vtree_id;
  operation.header.stream.placement_group_id = placement_group_id;
  return CommitOperation(operation);
}

std::vector<ListedRow> StoreImpl::ListOverlay(const RowFilter& filter,
                                              std::optional<ChunkKey> after) {
  std::vector<ListedRow> rows;
  for (const Overlay* overlay : {frozen_.get(), active_.get()}) {
    if (overlay == nullptr) continue;
    for (const auto& [key, chunk] : overlay->chunks) {
      // Deleted ones are listed, too: they hide their row.
      if (filter.vtree_id && *filter.vtree_id != key.vtree_id) continue;
      if (after && key <= *after) continue;
      rows.push_back({key, chunk->summary});
    }
  }
  // Stable: of one key the active overlay's comes last and counts.
  std::stable_sort(rows.begin(), rows.end(),
                   [](const ListedRow& a, const ListedRow& b) { return a.key < b.key; });
  return rows;
}

absl::StatusOr<std::vector<ChunkInfo>> StoreImpl::ListMerged(const RowFilter& filter,
                                                             std::optional<ChunkKey> after,
                                                             size_t limit) {
  for (;;) {
    uint64_t epoch = 0;
    std::map<ChunkKey, ChunkSummary> changed, found;
    {
      absl::MutexLock lock(&state_mutex_);
      epoch = base_epoch_;
      for (const ListedRow& row : ListOverlay(filter, after)) changed[row.key] = row.summary;
    }
    // Rows until there are `limit` chunks besides those that the overlay hides or lists itself.
    std::optional<ChunkKey> last = after;
    std::optional<ChunkKey> complete_up_to;
    for (size_t from_rows = 0;;) {
      CHUNK_ASSIGN_OR_RETURN(const std::vector<ListedRow> page,
                             parts_.database->ListRows(filter, last, kListPage));
      for (const ListedRow& row : page) {
        found[row.key] = row.summary;
        if (!changed.contains(row.key)) ++from_rows;
      }
      if (page.size() < kListPage) break;
      last = page.back().key;
      if (from_rows >= limit) {
        complete_up_to = last;
        break;
      }
    }
    {
      absl::MutexLock lock(&state_mutex_);
      if (epoch != base_epoch_) continue;
      // Layers that are being dropped are there until all of that shows at once.
      if (drop_ != nullptr) {
        for (const auto& [key, row] : drop_->rows) {
          if (!after || *after < key) found[key] = row->summary;
        }
      }
    }
    for (const auto& [key, summary] : changed) found[key] = summary;
    std::vector<ChunkInfo> infos;
    for (const auto& [key, summary] : found) {
      if (infos.size() == limit || (complete_up_to && key > *complete_up_to)) break;
      if (summary.exists && Fits(filter, key, summary)) infos.push_back(InfoOf(key, summary));
    }
    return infos;
  }
}

absl::StatusOr<std::vector<ChunkInfo>> StoreImpl::ListChunks(uint64_t placement_group_id,
                                                             std::optional<ChunkKey> after,
                                                             size_t limit) {
  return ListMerged({.placement_group_id = placement_group_id}, after, limit);
}

Version StoreImpl::Cursor(const StreamId& stream) {
  absl::MutexLock lock(&state_mutex_);
  const auto found = cursors_.find(stream);
  return found == cursors_.end() ? Version() : found->second.last;
}

std::vector<StreamCursor> StoreImpl::Cursors(uint64_t placement_group_id) {
  std::vector<StreamCursor> cursors;
  {
    absl::MutexLock lock(&state_mutex_);
    for (const auto& [stream, value] : cursors_) {
      if (stream.placement_group_id == placement_group_id) cursors.push_back({stream, value.last});
    }
  }
  std::sort(cursors.begin(), cursors.end(),
            [](const StreamCursor& a, const StreamCursor& b) { return a.stream < b.stream; });
  return cursors;
}

absl::Status StoreImpl::SetCursor(const StreamId& stream, const Version& version) {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  Operation operation;
  operation.header.kind = OperationKind::kSetCursor;
  operation.header.stream = stream;
  operation.header.version = version;
  return CommitOperation(operation);
}

absl::Status StoreImpl::DropPlacementGroup(uint64_t placement_group_id) {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  Operation operation;
  operation.header.kind = OperationKind::kDropGroupCursors;
  operation.header.stream.placement_group_id = placement_group_id;
  return CommitOperation(operation);
}

absl::Status StoreImpl::VerifyChunk(
    const ChunkKey& key,
    const std::function<void(const ChunkKey&, uint32_t block, const absl::Status&)>& bad) {
  std::array<std::byte, kBlockBytes> bytes;
  Found found;
  CHUNK_RETURN_IF_ERROR(LookUpLoading(key, nullptr, 0, blocks_per_chunk(), Depth::kRow, &found));
  for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
    // What layers share is checked once, in the layer that it belongs to.
    if (found.sources[block].inherited) continue;
    const absl::Status status =
        ReadRange(key, nullptr, block * kBlockBytes, bytes, Temperature::kAny);
    if (!status.ok()) bad(key, block, status);
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::VerifyAll(
    const std::function<void(const ChunkKey&, uint32_t block, const absl::Status&)>& bad) {
  std::optional<ChunkKey> after;
  for (;;) {
    CHUNK_ASSIGN_OR_RETURN(const std::vector<ChunkInfo> chunks, ListMerged({}, after, kListPage));
    if (chunks.empty()) return absl::OkStatus();
    for (const ChunkInfo& chunk : chunks) {
      CHUNK_RETURN_IF_ERROR(VerifyChunk(chunk.key, bad));
    }
    after = chunks.back().key;
  }
}

}  // namespace tessera::chunk
