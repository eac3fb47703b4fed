#include "services/sdc/cache/cache_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"

namespace tessera::sdc {
namespace {

const std::vector<std::string>& Migrations() {
  static const auto* const migrations = new std::vector<std::string>{
      R"sql(
        CREATE TABLE left_by (
          only INTEGER PRIMARY KEY CHECK (only = 1),
          node_uuid TEXT NOT NULL,
          incarnation INTEGER NOT NULL,
          slots INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE space (
          id INTEGER PRIMARY KEY,
          volume_id INTEGER NOT NULL,
          vtree_id INTEGER NOT NULL,
          generation INTEGER NOT NULL,
          snapshot_sequence INTEGER NOT NULL,
          size_bytes INTEGER NOT NULL,
          read_only INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE line (
          slot INTEGER PRIMARY KEY,
          space INTEGER NOT NULL,
          line INTEGER NOT NULL,
          valid INTEGER NOT NULL,   -- a bit for each block
          checksums BLOB NOT NULL   -- CRC32C of each block, little endian
        ) STRICT;
      )sql"};
  return *migrations;
}

int64_t Signed(uint64_t value) { return static_cast<int64_t>(value); }
uint64_t Unsigned(const SQLite::Column& column) { return static_cast<uint64_t>(column.getInt64()); }

void RemoveDatabase(const std::string& path) {
  for (const char* suffix : {"", "-wal", "-shm"}) (void)unlink((path + suffix).c_str());
}

void Empty(SQLite::Database& database) {
  database.exec("DELETE FROM left_by");
  database.exec("DELETE FROM space");
  database.exec("DELETE FROM line");
}

SavedCache ReadAll(SQLite::Database& database) {
  SavedCache saved;
  SQLite::Statement spaces(database,
                           "SELECT id, volume_id, vtree_id, generation, snapshot_sequence, "
                           "size_bytes, read_only FROM space");
  while (spaces.executeStep()) {
    SavedSpace& space = saved.spaces.emplace_back();
    space.space = Unsigned(spaces.getColumn(0));
    space.identity.volume_id = Unsigned(spaces.getColumn(1));
    space.identity.vtree_id = Unsigned(spaces.getColumn(2));
    space.identity.generation = Unsigned(spaces.getColumn(3));
    space.identity.snapshot_sequence = Unsigned(spaces.getColumn(4));
    space.identity.size_bytes = Unsigned(spaces.getColumn(5));
    space.identity.read_only = spaces.getColumn(6).getInt() != 0;
  }
  SQLite::Statement lines(database, "SELECT slot, space, line, valid, checksums FROM line");
  while (lines.executeStep()) {
    SavedLine line;
    const SQLite::Column checksums = lines.getColumn(4);
    if (checksums.getBytes() != sizeof(line.checksums)) continue;
    line.slot = static_cast<uint32_t>(lines.getColumn(0).getInt64());
    line.key = {Unsigned(lines.getColumn(1)), Unsigned(lines.getColumn(2))};
    line.valid = static_cast<BlockMask>(lines.getColumn(3).getInt());
    std::memcpy(line.checksums.data(), checksums.getBlob(), sizeof(line.checksums));
    saved.lines.push_back(line);
  }
  return saved;
}

}  // namespace

absl::StatusOr<uint64_t> ParseCacheSize(const std::string& text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [unit, error] = std::from_chars(text.data(), end, number);
  const std::string_view suffix(unit, static_cast<size_t>(end - unit));
  int shift = -1;
  if (suffix.empty()) shift = 0;
  if (suffix == "MiB") shift = 20;
  if (suffix == "GiB") shift = 30;
  if (suffix == "TiB") shift = 40;
  if (error != std::errc() || shift < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cache-size is '", text, "': it should be a size such as 10GiB or 512MiB"));
  }
  if (number > kCacheBytesMax >> shift || number << shift < kCacheBytesMin) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cache-size is ", text, ": it should be from 16MiB to 1TiB"));
  }
  return number << shift;
}

absl::StatusOr<std::unique_ptr<CacheFolder>> CacheFolder::Lock(const std::string& path,
                                                               uint64_t size_bytes) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cache-dir ", path, " cannot be made: ", std::strerror(errno)));
  }
  const std::string lock_path = path + "/lock";
  const int lock = open(lock_path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (lock < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cache-dir ", path, " cannot be written to: ", std::strerror(errno)));
  }
  std::unique_ptr<CacheFolder> folder(new CacheFolder(path, lock));
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("--cache-dir ", path, " is in use by another process"));
  }
  struct statvfs space {};
  struct stat file {};
  if (statvfs(path.c_str(), &space) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cache-dir ", path, ": ", std::strerror(errno)));
  }
  uint64_t room = uint64_t{space.f_bavail} * space.f_frsize;
  if (stat(folder->file_path().c_str(), &file) == 0) {
    room += static_cast<uint64_t>(file.st_blocks) * 512;
  }
  if (room < size_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("--cache-dir ", path, " has room for ", room,
                                                   " bytes, --cache-size is ", size_bytes));
  }
  return folder;
}

CacheFolder::~CacheFolder() {
  db_.reset();
  close(lock_);
}

absl::StatusOr<SavedCache> CacheFolder::TakeSaved() {
  TESSERA_ASSIGN_OR_RETURN(db_, SqliteDb::Open(path_ + "/sdc_chunks.db", Migrations()));
  SavedCache saved;
  TESSERA_RETURN_IF_ERROR(db_->Transaction([&](SQLite::Database& database) {
    saved = SavedCache();
    SQLite::Statement left(database, "SELECT node_uuid, incarnation, slots FROM left_by");
    const bool ours = left.executeStep() && left.getColumn(0).getString() == owner_.node_uuid &&
                      Unsigned(left.getColumn(1)) + 1 == owner_.incarnation &&
                      Unsigned(left.getColumn(2)) == slots_;
    left.reset();
    if (ours) saved = ReadAll(database);
    // It is taken: whatever becomes of this process, nobody takes it again.
    Empty(database);
    return absl::OkStatus();
  }));
  return saved;
}

absl::StatusOr<SavedCache> CacheFolder::Load(const Owner& owner, uint32_t slots) {
  owner_ = owner;
  slots_ = slots;
  absl::StatusOr<SavedCache> saved = TakeSaved();
  if (saved.ok()) return saved;
  LogWarning("the cache's database is made anew", {{"folder", path_}, {"why", saved.status()}});
  db_.reset();
  RemoveDatabase(path_ + "/sdc_chunks.db");
  return TakeSaved();
}

absl::Status CacheFolder::Save(const SavedCache& saved) {
  return db_->Transaction([&](SQLite::Database& database) {
    Empty(database);
    SQLite::Statement by(database, "INSERT INTO left_by VALUES (1, ?, ?, ?)");
    by.bind(1, owner_.node_uuid);
    by.bind(2, Signed(owner_.incarnation));
    by.bind(3, Signed(slots_));
    by.exec();
    for (const SavedSpace& from : saved.spaces) {
      SQLite::Statement space(database, "INSERT INTO space VALUES (?, ?, ?, ?, ?, ?, ?)");
      space.bind(1, Signed(from.space));
      space.bind(2, Signed(from.identity.volume_id));
      space.bind(3, Signed(from.identity.vtree_id));
      space.bind(4, Signed(from.identity.generation));
      space.bind(5, Signed(from.identity.snapshot_sequence));
      space.bind(6, Signed(from.identity.size_bytes));
      space.bind(7, from.identity.read_only ? 1 : 0);
      space.exec();
    }
    SQLite::Statement line(database, "INSERT INTO line VALUES (?, ?, ?, ?, ?)");
    for (const SavedLine& from : saved.lines) {
      line.bind(1, Signed(from.slot));
      line.bind(2, Signed(from.key.space));
      line.bind(3, Signed(from.key.line));
      line.bind(4, static_cast<int>(from.valid));
      line.bind(5, from.checksums.data(), sizeof(from.checksums));
      line.exec();
      line.reset();
    }
    return absl::OkStatus();
  });
}

}  // namespace tessera::sdc
