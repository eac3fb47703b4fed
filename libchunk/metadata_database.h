// meta.db: chunk rows, free space, cursors and the applied position, in SQLite (FORMAT.md).
//
// Errors: RESOURCE_EXHAUSTED when the device is full (the transaction is to be rolled back, nothing
// is lost); DATA_LOSS for damage found; INTERNAL otherwise, with the Env's own words. SQLiteCpp's
// exceptions end here.
//
// Threads: any; one connection under one lock, taken for one statement at a time, so that row
// look-ups pass between the statements of a checkpoint's transaction (and see its rows, which is
// harmless: see store_impl.h).
#ifndef TESSERA_LIBCHUNK_METADATA_DATABASE_H_
#define TESSERA_LIBCHUNK_METADATA_DATABASE_H_

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libchunk/chunk_row.h"
#include "libchunk/env.h"
#include "libchunk/group_bitmap.h"
#include "libchunk/store.h"

namespace tessera::chunk {

// How far the journal is in the rows.
struct AppliedState {
  uint64_t lsn = 0;
  uint64_t position = 0;
  uint64_t incarnation = 0;
};

struct CursorRow {
  StreamId stream;
  Version last;
  uint64_t vtree_id = 0;  // of the stream's last change; 0: not known
};

struct ListedRow {
  ChunkKey key;
  ChunkSummary summary;
};

// Which rows ListRows gives; nullopt: any.
struct RowFilter {
  std::optional<uint64_t> vtree_id;
  std::optional<uint64_t> chunk_index;
  std::optional<uint64_t> placement_group_id;
};

class MetadataDatabase {
 public:
  // kCreate makes the tables; kUse raises those of an older format; kInspect leaves the files as
  // they are.
  enum class Mode { kCreate, kUse, kInspect };
  // `env` must outlive the result.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<MetadataDatabase>> Open(
      Env* env, const std::string& path, uint32_t blocks_per_chunk, Mode mode);
  ~MetadataDatabase();

  // The chunk's row; one with !summary.exists when there is none.
  [[nodiscard]] absl::StatusOr<std::shared_ptr<const ChunkRow>> LoadRow(const ChunkKey& key);
  // Rows after `after` in key order, at most `limit`, without their maps but with mapped_blocks.
  [[nodiscard]] absl::StatusOr<std::vector<ListedRow>> ListRows(const RowFilter& filter,
                                                                std::optional<ChunkKey> after,
                                                                size_t limit);
  // The greatest layer of the chunk among the rows; from an index alone, however many there are.
  [[nodiscard]] absl::StatusOr<std::optional<uint64_t>> GreatestLayer(uint64_t vtree_id,
                                                                      uint64_t chunk_index);
  struct Totals {
    uint64_t chunks = 0;
    uint64_t own_blocks = 0;  // device blocks: each belongs to one layer of one chunk
  };
  [[nodiscard]] absl::StatusOr<Totals> LoadTotals();
  // Of the database's pages those that hold something.
  [[nodiscard]] absl::StatusOr<uint64_t> UsedBytes();
  // The log is worked off, and cut back, from so many bytes on.
  [[nodiscard]] absl::Status LimitLog(uint64_t bytes);
  // Vtrees that may have layers besides 0.
  [[nodiscard]] absl::StatusOr<std::vector<uint64_t>> LoadLayered();

  [[nodiscard]] absl::StatusOr<GroupBitmap> LoadGroup(uint64_t group_number);
  // Free blocks of each group up to the last one that has a row.
  [[nodiscard]] absl::StatusOr<std::vector<uint32_t>> LoadFreeCounts();
  [[nodiscard]] absl::StatusOr<std::vector<CursorRow>> LoadCursors();
  [[nodiscard]] absl::StatusOr<AppliedState> LoadApplied();

  // ---- One transaction at a time, by one thread ------------------------------------------------
  [[nodiscard]] absl::Status Begin();
  [[nodiscard]] absl::Status Commit();
  void Rollback();
  [[nodiscard]] absl::Status PutRow(const ChunkKey& key, const ChunkRow& row);
  [[nodiscard]] absl::Status DeleteRow(const ChunkKey& key);
  [[nodiscard]] absl::Status PutGroup(uint64_t group_number, const GroupBitmap& bitmap);
  [[nodiscard]] absl::Status PutCursor(const CursorRow& cursor);
  [[nodiscard]] absl::Status DeleteCursor(const StreamId& stream);
  // What LoadTotals gives.
  [[nodiscard]] absl::Status PutTotals(const Totals& totals);
  // Also the totals.
  [[nodiscard]] absl::Status PutApplied(const AppliedState& applied, const Totals& totals);

 private:
  struct Connection;
  explicit MetadataDatabase(std::unique_ptr<Connection> connection);
  // Runs `body` under the lock and turns exceptions into statuses.
  [[nodiscard]] absl::Status Run(const char* what, const std::function<absl::Status()>& body);

  const std::unique_ptr<Connection> connection_;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_METADATA_DATABASE_H_
