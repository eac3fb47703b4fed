#include "libchunk/metadata_database.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <sqlite3.h>

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/sqlite_vfs.h"
#include "libchunk/status_macros.h"

namespace tessera::chunk {
namespace {

constexpr int kFormat = 2;
constexpr uint64_t kPageBytes = 4096;

constexpr const char* kSchema = R"sql(
CREATE TABLE state(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE chunk(
  vtree_id INTEGER NOT NULL, chunk_index INTEGER NOT NULL, snapshot_sequence INTEGER NOT NULL,
  placement_group_id INTEGER NOT NULL, generation INTEGER NOT NULL, sequence INTEGER NOT NULL,
  incomplete INTEGER NOT NULL, mapped_blocks INTEGER NOT NULL, map BLOB NOT NULL,
  base INTEGER, inherited_blocks INTEGER NOT NULL DEFAULT 0, pruned INTEGER NOT NULL DEFAULT 0,
  UNIQUE(vtree_id, chunk_index, snapshot_sequence));
CREATE INDEX chunk_by_group
  ON chunk(placement_group_id, vtree_id, chunk_index, snapshot_sequence);
CREATE TABLE cursor(
  placement_group_id INTEGER NOT NULL, volume_id INTEGER NOT NULL, vtree_id INTEGER NOT NULL,
  generation INTEGER NOT NULL, sequence INTEGER NOT NULL,
  PRIMARY KEY(placement_group_id, volume_id)) WITHOUT ROWID;
CREATE TABLE space(group_number INTEGER PRIMARY KEY, free_blocks INTEGER NOT NULL, bits BLOB NOT NULL);
CREATE TABLE layered(vtree_id INTEGER PRIMARY KEY);
)sql";

// From format 1, which knew no layers. Touches no row: a device may have millions.
constexpr const char* kRaise = R"sql(
ALTER TABLE chunk ADD COLUMN base INTEGER;
ALTER TABLE chunk ADD COLUMN inherited_blocks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chunk ADD COLUMN pruned INTEGER NOT NULL DEFAULT 0;
CREATE TABLE layered(vtree_id INTEGER PRIMARY KEY);
)sql";

// Keeps the order of unsigned numbers in SQLite's signed integers.
int64_t Ordered(uint64_t value) { return static_cast<int64_t>(value ^ (uint64_t{1} << 63)); }
uint64_t Unordered(int64_t value) { return static_cast<uint64_t>(value) ^ (uint64_t{1} << 63); }

void BindKey(SQLite::Statement& statement, int first, const ChunkKey& key) {
  statement.bind(first, Ordered(key.vtree_id));
  statement.bind(first + 1, Ordered(key.chunk_index));
  statement.bind(first + 2, Ordered(key.layer));
}

std::span<const std::byte> BlobOf(const SQLite::Column& column) {
  return {static_cast<const std::byte*>(column.getBlob()), static_cast<size_t>(column.getBytes())};
}

absl::StatusCode CodeOf(int sqlite_code) {
  switch (sqlite_code & 0xff) {
    case SQLITE_FULL:
      return absl::StatusCode::kResourceExhausted;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::StatusCode::kDataLoss;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kInternal;
  }
}

// Resets the statement at the end of its use, so that no read lock or binding outlives it.
class Use {
 public:
  explicit Use(SQLite::Statement& statement) : statement_(statement) {}
  ~Use() { statement_.tryReset(); }
  SQLite::Statement* operator->() { return &statement_; }
  SQLite::Statement& operator*() { return statement_; }

 private:
  SQLite::Statement& statement_;
};

std::string ListSql(const RowFilter& filter, bool after, bool has_layers) {
  std::string sql =
      "SELECT vtree_id, chunk_index, snapshot_sequence, placement_group_id, generation, sequence,"
      " incomplete, mapped_blocks, ";
  sql += has_layers ? "base, inherited_blocks, pruned FROM chunk" : "NULL, 0, 0 FROM chunk";
  if (filter.placement_group_id && !filter.vtree_id) sql += " INDEXED BY chunk_by_group";
  sql += after ? " WHERE (vtree_id, chunk_index, snapshot_sequence) > (?1, ?2, ?3)"
               // Without a lower bound (0, 0, 0) itself must be among the rows.
               : " WHERE (vtree_id, chunk_index, snapshot_sequence) >= (?1, ?2, ?3)";
  if (filter.vtree_id) sql += " AND vtree_id = ?5";
  if (filter.placement_group_id) sql += " AND placement_group_id = ?6";
  if (filter.chunk_index) sql += " AND chunk_index = ?7";
  return sql + " ORDER BY vtree_id, chunk_index, snapshot_sequence LIMIT ?4";
}

}  // namespace

struct MetadataDatabase::Connection {
  Connection(std::unique_ptr<SqliteVfs> the_vfs, const std::string& path, uint32_t blocks)
      : vfs(std::move(the_vfs)),
        blocks_per_chunk(blocks),
        database(path, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, 0, vfs->name()) {}

  // The statements that change something only where the tables are of this format.
  void Prepare() {
    load_row.emplace(database,
                     "SELECT placement_group_id, generation, sequence, incomplete, map FROM chunk"
                     " WHERE vtree_id = ?1 AND chunk_index = ?2 AND snapshot_sequence = ?3");
    greatest_layer.emplace(database,
                           "SELECT snapshot_sequence FROM chunk WHERE vtree_id = ?1 AND"
                           " chunk_index = ?2 ORDER BY snapshot_sequence DESC LIMIT 1");
    load_group.emplace(database, "SELECT free_blocks, bits FROM space WHERE group_number = ?1");
    if (!has_layers) return;
    update_row.emplace(database,
                       "UPDATE chunk SET generation = ?5, sequence = ?6, incomplete = ?7,"
                       " mapped_blocks = ?8, map = ?9, base = ?10, inherited_blocks = ?11,"
                       " pruned = ?12 WHERE vtree_id = ?1 AND chunk_index = ?2"
                       " AND snapshot_sequence = ?3 AND placement_group_id = ?4");
    insert_row.emplace(database,
                       "INSERT OR REPLACE INTO chunk(vtree_id, chunk_index, snapshot_sequence,"
                       " placement_group_id, generation, sequence, incomplete, mapped_blocks, map,"
                       " base, inherited_blocks, pruned)"
                       " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)");
    delete_row.emplace(database,
                       "DELETE FROM chunk WHERE vtree_id = ?1 AND chunk_index = ?2 AND"
                       " snapshot_sequence = ?3");
    put_layered.emplace(database, "INSERT OR IGNORE INTO layered VALUES(?1)");
    put_group.emplace(database, "INSERT OR REPLACE INTO space VALUES(?1, ?2, ?3)");
    put_cursor.emplace(database, "INSERT OR REPLACE INTO cursor VALUES(?1, ?2, ?3, ?4, ?5)");
    delete_cursor.emplace(database,
                          "DELETE FROM cursor WHERE placement_group_id = ?1 AND volume_id = ?2");
    put_state.emplace(database, "INSERT OR REPLACE INTO state VALUES(?1, ?2)");
  }

  void PutState(const char* name, uint64_t value) {
    Use use(*put_state);
    use->bind(1, name);
    use->bind(2, static_cast<int64_t>(value));
    use->exec();
  }
  uint64_t GetState(const char* name) {
    SQLite::Statement query(database, "SELECT value FROM state WHERE name = ?1");
    query.bind(1, name);
    return query.executeStep() ? static_cast<uint64_t>(query.getColumn(0).getInt64()) : 0;
  }

  const std::unique_ptr<SqliteVfs> vfs;
  const uint32_t blocks_per_chunk;
  bool has_layers = true;  // false: of format 1, only looked at
  absl::Mutex mutex;  // held for the length of one statement; everything below is used under it
  SQLite::Database database;
  std::optional<SQLite::Statement> load_row, greatest_layer, update_row, insert_row, delete_row,
      load_group, put_group, put_layered, put_cursor, delete_cursor, put_state;
};

MetadataDatabase::MetadataDatabase(std::unique_ptr<Connection> connection)
    : connection_(std::move(connection)) {}
MetadataDatabase::~MetadataDatabase() = default;

absl::Status MetadataDatabase::Run(const char* what, const std::function<absl::Status()>& body) {
  absl::MutexLock lock(&connection_->mutex);
  try {
    return body();
  } catch (const SQLite::Exception& error) {
    const absl::Status cause = connection_->vfs->last_error();
    return absl::Status(CodeOf(error.getErrorCode()),
                        absl::StrCat("meta.db: ", what, ": ", error.what(),
                                     cause.ok() ? "" : absl::StrCat(" (", cause.message(), ")")));
  }
}

absl::StatusOr<std::unique_ptr<MetadataDatabase>> MetadataDatabase::Open(Env* env,
                                                                         const std::string& path,
                                                                         uint32_t blocks_per_chunk,
                                                                         Mode mode) {
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<SqliteVfs> vfs, SqliteVfs::Register(env));
  try {
    auto connection = std::make_unique<Connection>(std::move(vfs), path, blocks_per_chunk);
    SQLite::Database& database = connection->database;
    const bool create = mode == Mode::kCreate;
    if (create) database.exec("PRAGMA page_size=4096");
    database.exec("PRAGMA locking_mode=EXCLUSIVE");
    database.exec("PRAGMA journal_mode=WAL");
    database.exec("PRAGMA synchronous=FULL");
#ifdef TESSERA_PLANT_SKIP_COMMIT_SYNC  // see check_planted_bugs.sh
    if (!create) database.exec("PRAGMA synchronous=OFF");
#endif
    database.exec("PRAGMA cache_size=-8192");
    // A large transaction's log is cut back afterwards: it is space of the device, too.
    database.exec("PRAGMA journal_size_limit=8388608");
    database.exec("PRAGMA temp_store=MEMORY");
    if (mode == Mode::kInspect) {
      sqlite3_db_config(database.getHandle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
      database.exec("PRAGMA query_only=ON");
    }
    if (create) {
      SQLite::Transaction transaction(database);
      database.exec(kSchema);
      database.exec(absl::StrCat("PRAGMA user_version=", kFormat));
      transaction.commit();
      database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    int format = database.execAndGet("PRAGMA user_version").getInt();
    if (format == 1 && mode == Mode::kUse) {
      SQLite::Transaction transaction(database);
      database.exec(kRaise);
      database.exec(absl::StrCat("PRAGMA user_version=", kFormat));
      transaction.commit();
      format = kFormat;
    }
    connection->has_layers = format == kFormat;
    if (format != kFormat && !(format == 1 && mode == Mode::kInspect)) {
      return absl::DataLossError(
          absl::StrCat("meta.db has format ", format, "; this program knows ", kFormat));
    }
    connection->Prepare();
    return std::unique_ptr<MetadataDatabase>(new MetadataDatabase(std::move(connection)));
  } catch (const SQLite::Exception& error) {
    return absl::Status(CodeOf(error.getErrorCode()),
                        absl::StrCat("meta.db: open: ", error.what()));
  }
}

absl::StatusOr<std::shared_ptr<const ChunkRow>> MetadataDatabase::LoadRow(const ChunkKey& key) {
  auto row = std::make_shared<ChunkRow>();
  std::vector<std::byte> map;
  CHUNK_RETURN_IF_ERROR(Run("read a chunk row", [&] {
    Use use(*connection_->load_row);
    BindKey(*use, 1, key);
    if (!use->executeStep()) return absl::OkStatus();
    row->summary.exists = true;
    row->summary.placement_group_id = Unordered(use->getColumn(0).getInt64());
    row->summary.version = {Unordered(use->getColumn(1).getInt64()),
                            Unordered(use->getColumn(2).getInt64())};
    row->summary.incomplete = use->getColumn(3).getInt() != 0;
    const auto blob = BlobOf(use->getColumn(4));
    map.assign(blob.begin(), blob.end());
    return absl::OkStatus();
  }));
  if (row->summary.exists) {
    CHUNK_RETURN_IF_ERROR(DecodeMap(key, connection_->blocks_per_chunk, map, row.get()));
  }
  return row;
}

absl::StatusOr<std::vector<ListedRow>> MetadataDatabase::ListRows(const RowFilter& filter,
                                                                  std::optional<ChunkKey> after,
                                                                  size_t limit) {
  std::vector<ListedRow> rows;
  CHUNK_RETURN_IF_ERROR(Run("list chunk rows", [&] {
    SQLite::Statement query(connection_->database,
                            ListSql(filter, after.has_value(), connection_->has_layers));
    BindKey(query, 1, after.value_or(ChunkKey{}));
    query.bind(4, static_cast<int64_t>(limit));
    if (filter.vtree_id) query.bind(5, Ordered(*filter.vtree_id));
    if (filter.placement_group_id) query.bind(6, Ordered(*filter.placement_group_id));
    if (filter.chunk_index) query.bind(7, Ordered(*filter.chunk_index));
    while (query.executeStep()) {
      ListedRow& row = rows.emplace_back();
      row.key = {Unordered(query.getColumn(0).getInt64()), Unordered(query.getColumn(1).getInt64()),
                 Unordered(query.getColumn(2).getInt64())};
      row.summary.exists = true;
      row.summary.placement_group_id = Unordered(query.getColumn(3).getInt64());
      row.summary.version = {Unordered(query.getColumn(4).getInt64()),
                             Unordered(query.getColumn(5).getInt64())};
      row.summary.incomplete = query.getColumn(6).getInt() != 0;
      row.summary.mapped_blocks = static_cast<uint32_t>(query.getColumn(7).getInt());
      if (!query.isColumnNull(8)) row.summary.base = Unordered(query.getColumn(8).getInt64());
      row.summary.own_blocks =
          row.summary.mapped_blocks - static_cast<uint32_t>(query.getColumn(9).getInt());
      row.summary.pruned = query.getColumn(10).getInt() != 0;
    }
    return absl::OkStatus();
  }));
  return rows;
}

absl::StatusOr<std::optional<uint64_t>> MetadataDatabase::GreatestLayer(uint64_t vtree_id,
                                                                        uint64_t chunk_index) {
  std::optional<uint64_t> layer;
  CHUNK_RETURN_IF_ERROR(Run("read the greatest layer", [&] {
    Use use(*connection_->greatest_layer);
    use->bind(1, Ordered(vtree_id));
    use->bind(2, Ordered(chunk_index));
    if (use->executeStep()) layer = Unordered(use->getColumn(0).getInt64());
    return absl::OkStatus();
  }));
  return layer;
}

absl::StatusOr<MetadataDatabase::Totals> MetadataDatabase::LoadTotals() {
  Totals totals;
  CHUNK_RETURN_IF_ERROR(Run("read the totals", [&] {
    totals.chunks = connection_->GetState("chunks");
    totals.own_blocks = connection_->GetState("mapped_blocks");
    return absl::OkStatus();
  }));
  return totals;
}

absl::StatusOr<uint64_t> MetadataDatabase::UsedBytes() {
  uint64_t bytes = 0;
  CHUNK_RETURN_IF_ERROR(Run("count the pages", [&] {
    const auto number = [&](const char* pragma) {
      return static_cast<uint64_t>(connection_->database.execAndGet(pragma).getInt64());
    };
    bytes = (number("PRAGMA page_count") - number("PRAGMA freelist_count")) *
            number("PRAGMA page_size");
    return absl::OkStatus();
  }));
  return bytes;
}

absl::Status MetadataDatabase::LimitLog(uint64_t bytes) {
  return Run("limit the log", [&] {
    connection_->database.exec(absl::StrCat("PRAGMA journal_size_limit=", bytes));
    connection_->database.exec(absl::StrCat("PRAGMA wal_autocheckpoint=", bytes / kPageBytes));
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<uint64_t>> MetadataDatabase::LoadLayered() {
  std::vector<uint64_t> vtree_ids;
  CHUNK_RETURN_IF_ERROR(Run("read the layered vtrees", [&] {
    // One whose chunks are all gone is forgotten; on a full device, another time.
    connection_->database.tryExec(
        "DELETE FROM layered WHERE NOT EXISTS"
        " (SELECT 1 FROM chunk WHERE chunk.vtree_id = layered.vtree_id)");
    SQLite::Statement query(connection_->database, "SELECT vtree_id FROM layered");
    while (query.executeStep()) vtree_ids.push_back(Unordered(query.getColumn(0).getInt64()));
    return absl::OkStatus();
  }));
  return vtree_ids;
}

absl::StatusOr<GroupBitmap> MetadataDatabase::LoadGroup(uint64_t group_number) {
  GroupBitmap bitmap;
  CHUNK_RETURN_IF_ERROR(Run("read a free-space bitmap", [&]() -> absl::Status {
    Use use(*connection_->load_group);
    use->bind(1, static_cast<int64_t>(group_number));
    if (!use->executeStep()) return absl::OkStatus();
    if (use->getColumn(0).getInt() == 0) {
      bitmap.Assign(0, kGroupBlocks, true);
      return absl::OkStatus();
    }
    CHUNK_ASSIGN_OR_RETURN(bitmap, GroupBitmap::Decode(BlobOf(use->getColumn(1))));
    return absl::OkStatus();
  }));
  return bitmap;
}

absl::StatusOr<std::vector<uint32_t>> MetadataDatabase::LoadFreeCounts() {
  std::vector<uint32_t> counts;
  CHUNK_RETURN_IF_ERROR(Run("read the free-space summary", [&]() -> absl::Status {
    SQLite::Statement query(connection_->database,
                            "SELECT group_number, free_blocks FROM space ORDER BY group_number");
    while (query.executeStep()) {
      const int64_t group_number = query.getColumn(0).getInt64();
      const int64_t free_blocks = query.getColumn(1).getInt64();
      if (group_number < 0 || group_number > (int64_t{1} << 22) || free_blocks < 0 ||
          free_blocks > kGroupBlocks) {
        return absl::DataLossError("meta.db: the free-space summary makes no sense");
      }
      counts.resize(group_number + 1, kGroupBlocks);
      counts.back() = static_cast<uint32_t>(free_blocks);
    }
    return absl::OkStatus();
  }));
  return counts;
}

absl::StatusOr<std::vector<CursorRow>> MetadataDatabase::LoadCursors() {
  std::vector<CursorRow> cursors;
  CHUNK_RETURN_IF_ERROR(Run("read the cursors", [&] {
    SQLite::Statement query(
        connection_->database,
        "SELECT placement_group_id, volume_id, vtree_id, generation, sequence FROM cursor");
    while (query.executeStep()) {
      CursorRow& cursor = cursors.emplace_back();
      cursor.stream = {.volume_id = Unordered(query.getColumn(1).getInt64()),
                       .placement_group_id = Unordered(query.getColumn(0).getInt64())};
      cursor.vtree_id = Unordered(query.getColumn(2).getInt64());
      cursor.last = {Unordered(query.getColumn(3).getInt64()),
                     Unordered(query.getColumn(4).getInt64())};
    }
    return absl::OkStatus();
  }));
  return cursors;
}

absl::StatusOr<AppliedState> MetadataDatabase::LoadApplied() {
  AppliedState applied;
  CHUNK_RETURN_IF_ERROR(Run("read the applied position", [&] {
    applied.lsn = connection_->GetState("applied_lsn");
    applied.position = connection_->GetState("applied_position");
    applied.incarnation = connection_->GetState("applied_incarnation");
    return absl::OkStatus();
  }));
  return applied;
}

absl::Status MetadataDatabase::Begin() {
  return Run("begin", [&] {
    connection_->database.exec("BEGIN IMMEDIATE");
    return absl::OkStatus();
  });
}

absl::Status MetadataDatabase::Commit() {
  return Run("commit", [&] {
    connection_->database.exec("COMMIT");
    return absl::OkStatus();
  });
}

void MetadataDatabase::Rollback() {
  // SQLite rolls some errors back by itself; then there is nothing left to do, and it says so.
  absl::MutexLock lock(&connection_->mutex);
  connection_->database.tryExec("ROLLBACK");
}

absl::Status MetadataDatabase::PutRow(const ChunkKey& key, const ChunkRow& row) {
  const std::vector<std::byte> map = EncodeMap(key, row);
  return Run("write a chunk row", [&] {
    // An update leaves the indexes alone; the group of a chunk hardly ever changes.
    for (auto* statement : {&connection_->update_row, &connection_->insert_row}) {
      Use use(**statement);
      BindKey(*use, 1, key);
      use->bind(4, Ordered(row.summary.placement_group_id));
      use->bind(5, Ordered(row.summary.version.generation));
      use->bind(6, Ordered(row.summary.version.sequence));
      use->bind(7, row.summary.incomplete ? 1 : 0);
      use->bind(8, static_cast<int64_t>(row.summary.mapped_blocks));
      use->bindNoCopy(9, map.data(), static_cast<int>(map.size()));
      if (row.summary.base) {
        use->bind(10, Ordered(*row.summary.base));
      } else {
        use->bind(10);  // NULL
      }
      use->bind(11, static_cast<int64_t>(row.summary.mapped_blocks - row.summary.own_blocks));
      use->bind(12, row.summary.pruned ? 1 : 0);
      if (use->exec() > 0) break;
    }
    if (key.layer != 0) {
      Use use(*connection_->put_layered);
      use->bind(1, Ordered(key.vtree_id));
      use->exec();
    }
    return absl::OkStatus();
  });
}

absl::Status MetadataDatabase::DeleteRow(const ChunkKey& key) {
  return Run("delete a chunk row", [&] {
    Use use(*connection_->delete_row);
    BindKey(*use, 1, key);
    use->exec();
    return absl::OkStatus();
  });
}

absl::Status MetadataDatabase::PutGroup(uint64_t group_number, const GroupBitmap& bitmap) {
  const uint32_t free_blocks = bitmap.CountFree();
  std::vector<std::byte> bits;
  if (free_blocks > 0) bits = bitmap.Encode();
  return Run("write a free-space bitmap", [&] {
    Use use(*connection_->put_group);
    use->bind(1, static_cast<int64_t>(group_number));
    use->bind(2, static_cast<int64_t>(free_blocks));
    use->bind(3, bits.empty() ? "" : static_cast<const void*>(bits.data()),
              static_cast<int>(bits.size()));
    use->exec();
    return absl::OkStatus();
  });
}

absl::Status MetadataDatabase::PutCursor(const CursorRow& cursor) {
  return Run("write a cursor", [&] {
    Use use(*connection_->put_cursor);
    use->bind(1, Ordered(cursor.stream.placement_group_id));
    use->bind(2, Ordered(cursor.stream.volume_id));
    use->bind(3, Ordered(cursor.vtree_id));
    use->bind(4, Ordered(cursor.last.generation));
    use->bind(5, Ordered(cursor.last.sequence));
    use->exec();
    return absl::OkStatus();
  });
}

absl::Status MetadataDatabase::DeleteCursor(const StreamId& stream) {
  return Run("delete a cursor", [&] {
    Use use(*connection_->delete_cursor);
    use->bind(1, Ordered(stream.placement_group_id));
    use->bind(2, Ordered(stream.volume_id));
    use->exec();
    return absl::OkStatus();
  });
}

absl::Status MetadataDatabase::PutApplied(const AppliedState& applied, const Totals& totals) {
  CHUNK_RETURN_IF_ERROR(PutTotals(totals));
  return Run("write the applied position", [&] {
    connection_->PutState("applied_lsn", applied.lsn);
    connection_->PutState("applied_position", applied.position);
    connection_->PutState("applied_incarnation", applied.incarnation);
    return absl::OkStatus();
  });
}

absl::Status MetadataDatabase::PutTotals(const Totals& totals) {
  return Run("write the totals", [&] {
    connection_->PutState("chunks", totals.chunks);
    connection_->PutState("mapped_blocks", totals.own_blocks);
    return absl::OkStatus();
  });
}

}  // namespace tessera::chunk
