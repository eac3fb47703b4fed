// InspectStore: what is on the device, in words, without changing it.
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libchunk/allocator.h"
#include "libchunk/checksum.h"
#include "libchunk/journal.h"
#include "libchunk/metadata_database.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

constexpr size_t kRowPage = 256;

using Line = std::function<void(const std::string&)>;

const char* KindName(OperationKind kind) {
  switch (kind) {
    case OperationKind::kOpened:
      return "opened";
    case OperationKind::kSkip:
      return "skip";
    case OperationKind::kJournalBlocks:
      return "journal-blocks";
    case OperationKind::kDirectBlocks:
      return "direct-blocks";
    case OperationKind::kZeroBlocks:
      return "zero-blocks";
    case OperationKind::kDeleteChunk:
      return "delete-chunk";
    case OperationKind::kSetCursor:
      return "set-cursor";
    case OperationKind::kDropVtreeCursors:
      return "drop-vtree-cursors";
    case OperationKind::kDropGroupCursors:
      return "drop-group-cursors";
    case OperationKind::kInheritBlocks:
      return "inherit-blocks";
  }
  return "unknown";
}

// The open parts of a store that is looked at.
struct Inspected {
  StorePlace place;
  Superblock superblock;
  std::unique_ptr<Journal> journal;
  std::unique_ptr<File> data;
  std::unique_ptr<MetadataDatabase> database;
  uint32_t blocks_per_chunk = 0;
};

absl::StatusOr<Inspected> OpenParts(Env* env, const StorePaths& paths) {
  Inspected store;
  CHUNK_ASSIGN_OR_RETURN(store.place, OpenPlace(env, paths.folder));
  if (store.place.device != nullptr) env = store.place.device.get();
  CHUNK_ASSIGN_OR_RETURN(const bool exists, env->Exists(paths.superblock));
  if (!exists) return absl::NotFoundError(absl::StrCat("there is no store in ", paths.folder));
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<File> superblock_file,
                         env->OpenFile(paths.superblock, OpenMode::kMustExist));
  CHUNK_ASSIGN_OR_RETURN(store.superblock, ReadSuperblock(superblock_file.get()));
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<File> journal_file,
                         env->OpenFile(paths.journal, OpenMode::kMustExist));
  store.journal = std::make_unique<Journal>(
      std::move(journal_file), JournalGeometry{.size_bytes = store.superblock.journal_bytes,
                                               .store_id = store.superblock.store_id});
  CHUNK_ASSIGN_OR_RETURN(store.data, env->OpenFile(paths.data, OpenMode::kMustExist));
  store.blocks_per_chunk = store.superblock.chunk_bytes / kBlockBytes;
  CHUNK_ASSIGN_OR_RETURN(store.database,
                         MetadataDatabase::Open(env, paths.database, store.blocks_per_chunk,
                                                MetadataDatabase::Mode::kInspect));
  return store;
}

void PrintDevice(const DeviceEnv& device, const Line& line) {
  const DeviceLayout& layout = device.layout();
  line(absl::StrFormat("device bytes=%d journal=%d+%d metadata=%d+%d data=%d+%d",
                       layout.device_bytes, layout.journal.offset, layout.journal.size_bytes,
                       layout.metadata.offset, layout.metadata.size_bytes, layout.data.offset,
                       layout.data.size_bytes));
}

absl::Status PrintSummary(const Inspected& store, const Line& line) {
  if (store.place.device != nullptr) PrintDevice(*store.place.device, line);
  const Superblock& superblock = store.superblock;
  line(absl::StrFormat(
      "superblock sequence=%d store_id=%016x incarnation=%d clean=%d chunk_bytes=%d "
      "journal_bytes=%d loss_untold=%d sync_failed=%d boot_id=%s",
      superblock.sequence, superblock.store_id, superblock.incarnation, superblock.clean,
      superblock.chunk_bytes, superblock.journal_bytes, superblock.loss_untold,
      superblock.sync_failed, superblock.boot_id));
  CHUNK_ASSIGN_OR_RETURN(const AppliedState applied, store.database->LoadApplied());
  CHUNK_ASSIGN_OR_RETURN(const MetadataDatabase::Totals totals, store.database->LoadTotals());
  CHUNK_ASSIGN_OR_RETURN(const std::vector<CursorRow> cursors, store.database->LoadCursors());
  line(absl::StrFormat(
      "metadata applied_lsn=%d applied_position=%d chunks=%d mapped_blocks=%d cursors=%d",
      applied.lsn, applied.position, totals.chunks, totals.own_blocks, cursors.size()));
  return absl::OkStatus();
}

// The journal's live records: their number, and each of them when `each`.
absl::Status PrintRecords(const Inspected& store, bool each, const Line& line) {
  CHUNK_ASSIGN_OR_RETURN(const AppliedState applied, store.database->LoadApplied());
  JournalCursor next{.position = applied.position,
                     .next_lsn = applied.lsn + 1,
                     .incarnation = applied.incarnation};
  const uint64_t limit = next.position + store.journal->size_bytes();
  uint64_t records = 0;
  uint64_t durable_lsn = applied.lsn;
  while (next.position < limit) {
    absl::StatusOr<LiveRecord> record = store.journal->ReadRecord(next);
    if (absl::IsDataLoss(record.status())) {
      line(absl::StrCat("problem: journal position ", next.position, ": ",
                        record.status().message()));
    }
    if (absl::IsDataLoss(record.status()) || absl::IsNotFound(record.status())) break;
    CHUNK_RETURN_IF_ERROR(record.status());
    ++records;
    durable_lsn = std::max(durable_lsn, record->header.durable_lsn);
    if (each) {
      line(absl::StrFormat(
          "record position=%d lsn=%d incarnation=%d durable_lsn=%d payload_bytes=%d",
          record->header.position, record->header.lsn, record->header.incarnation,
          record->header.durable_lsn, record->header.payload_bytes));
      for (const Operation& operation : record->operations) {
        const OperationHeader& header = operation.header;
        line(absl::StrFormat("  %s chunk=%s blocks=%d+%d stream=%d/%d version=%d.%d flags=%d",
                             KindName(header.kind), KeyText(header.key), header.first_block,
                             header.block_count, header.stream.volume_id,
                             header.stream.placement_group_id, header.version.generation,
                             header.version.sequence, header.flags));
      }
    }
    next = {.position = record->next_position,
            .next_lsn = record->header.lsn + 1,
            .incarnation = record->header.incarnation};
  }
  line(absl::StrFormat("journal live_records=%d end_position=%d next_lsn=%d durable_lsn=%d",
                       records, next.position, next.next_lsn, durable_lsn));
  return absl::OkStatus();
}

// Checks that each row's blocks have their checksum, that no two rows own a device block, and that
// what a row inherits is where its base has it.
class Verifier {
 public:
  Verifier(const Inspected* store, const Line* line) : store_(store), line_(line) {}

  absl::Status Check(const ChunkKey& key, const ChunkRow& row) {
    const BlockChecksum checksum(key);
    std::array<std::byte, kBlockBytes> bytes;
    for (uint32_t block = 0; block < row.blocks.size(); ++block) {
      const BlockPlace place = row.blocks[block];
      if (!place.mapped()) continue;
      if (row.inherited[block]) {
        CHUNK_RETURN_IF_ERROR(CheckInherited(key, row, block));
        continue;
      }
      GroupBitmap& group = groups_[place.device_block() / kGroupBlocks];
      if (group.Assign(place.device_block() % kGroupBlocks, 1, true) == 0) {
        Problem(key, block,
                absl::StrCat("device block ", place.device_block(), " is mapped twice"));
      }
      const absl::Status read = store_->data->Read(place.device_block() * kBlockBytes, bytes);
      if (!read.ok()) {
        Problem(key, block, std::string(read.message()));
      } else if (checksum.Of(block, bytes) != place.checksum()) {
        // A block of a checkpoint that was cut off differs here, and the journal has it still.
        Problem(key, block,
                absl::StrCat("checksum mismatch at device block ", place.device_block()));
      }
    }
    return absl::OkStatus();
  }

  // Whether the base has the block where this one has it; then it was checked with the base.
  absl::Status CheckInherited(const ChunkKey& key, const ChunkRow& row, uint32_t block) {
    ChunkKey base_key = key;
    base_key.layer = *row.summary.base;
    if (base_key != last_base_key_) {
      absl::StatusOr<std::shared_ptr<const ChunkRow>> base = store_->database->LoadRow(base_key);
      if (absl::IsDataLoss(base.status())) return absl::OkStatus();  // told when it was listed
      CHUNK_RETURN_IF_ERROR(base.status());
      last_base_ = *std::move(base);
      last_base_key_ = base_key;
    }
    const BlockPlace place = row.blocks[block];
    const BlockPlace of_base = last_base_->At(block);
    if (!of_base.mapped() || of_base.device_block() != place.device_block() ||
        of_base.checksum() != place.checksum()) {
      Problem(key, block, absl::StrCat("layer ", base_key.layer, " does not have it there"));
    }
    return absl::OkStatus();
  }

  // Whether the free-space bitmaps say what the rows say.
  absl::Status CheckSpace() {
    CHUNK_ASSIGN_OR_RETURN(const std::vector<uint32_t> free_counts,
                           store_->database->LoadFreeCounts());
    for (uint64_t number = 0; number < free_counts.size(); ++number) groups_[number];
    for (const auto& [number, expected] : groups_) {
      CHUNK_ASSIGN_OR_RETURN(const GroupBitmap bitmap, store_->database->LoadGroup(number));
      if (bitmap.Encode() != expected.Encode()) {
        ++problems_;
        (*line_)(absl::StrCat("problem: the bitmap of group ", number, " has ", bitmap.CountFree(),
                              " free blocks, the rows leave ", expected.CountFree()));
      }
    }
    return absl::OkStatus();
  }

  uint64_t problems() const { return problems_; }

 private:
  void Problem(const ChunkKey& key, uint32_t block, const std::string& what) {
    ++problems_;
    (*line_)(absl::StrCat("problem: chunk ", KeyText(key), " block ", block, ": ", what));
  }

  const Inspected* const store_;
  const Line* const line_;
  std::map<uint64_t, GroupBitmap> groups_;
  std::optional<ChunkKey> last_base_key_;
  std::shared_ptr<const ChunkRow> last_base_;
  uint64_t problems_ = 0;
};

absl::Status PrintChunks(const Inspected& store, bool verify, const Line& line) {
  Verifier verifier(&store, &line);
  std::optional<ChunkKey> after;
  for (;;) {
    CHUNK_ASSIGN_OR_RETURN(const std::vector<ListedRow> rows,
                           store.database->ListRows({}, after, kRowPage));
    if (rows.empty()) break;
    for (const ListedRow& row : rows) {
      line(absl::StrFormat(
          "chunk %s placement_group=%d version=%d.%d incomplete=%d mapped_blocks=%d%s%s",
          KeyText(row.key), row.summary.placement_group_id, row.summary.version.generation,
          row.summary.version.sequence, row.summary.incomplete, row.summary.mapped_blocks,
          row.summary.base
              ? absl::StrFormat(" base=%d own_blocks=%d", *row.summary.base, row.summary.own_blocks)
              : "",
          row.summary.pruned ? " pruned" : ""));
      if (!verify) continue;
      const absl::StatusOr<std::shared_ptr<const ChunkRow>> loaded =
          store.database->LoadRow(row.key);
      if (absl::IsDataLoss(loaded.status())) {
        line(absl::StrCat("problem: ", loaded.status().message()));
        continue;
      }
      CHUNK_RETURN_IF_ERROR(loaded.status());
      CHUNK_RETURN_IF_ERROR(verifier.Check(row.key, **loaded));
    }
    after = rows.back().key;
  }
  if (!verify) return absl::OkStatus();
  CHUNK_RETURN_IF_ERROR(verifier.CheckSpace());
  line(absl::StrCat("verified problems=", verifier.problems()));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StorePlace> OpenPlace(Env* env, const std::string& path) {
  CHUNK_ASSIGN_OR_RETURN(const bool on_device, env->IsBlockDevice(path));
  StorePlace place;
  CHUNK_ASSIGN_OR_RETURN(place.lock, env->LockFolder(path));
  if (on_device) {
    CHUNK_ASSIGN_OR_RETURN(place.device, DeviceEnv::Open(env, path, std::nullopt));
  }
  return place;
}

absl::Status InspectStore(Env* env, const std::string& path, InspectDepth depth, const Line& line) {
  const StorePaths paths(path);
  CHUNK_ASSIGN_OR_RETURN(const bool there, env->Exists(path));
  if (!there) return absl::NotFoundError(absl::StrCat("there is no store in ", path));
  CHUNK_ASSIGN_OR_RETURN(const Inspected store, OpenParts(env, paths));
  CHUNK_RETURN_IF_ERROR(PrintSummary(store, line));
  CHUNK_RETURN_IF_ERROR(PrintRecords(store, depth == InspectDepth::kRecords, line));
  if (depth == InspectDepth::kChunks || depth == InspectDepth::kVerify) {
    return PrintChunks(store, depth == InspectDepth::kVerify, line);
  }
  return absl::OkStatus();
}

}  // namespace tessera::chunk
