#include "services/common/sqlite_db.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace tessera {

absl::Status FromSqliteException(const SQLite::Exception& exception, const std::string& path) {
  const std::string text = absl::StrCat(path, ": ", exception.what());
  switch (exception.getErrorCode()) {
    case SQLITE_CONSTRAINT:
      return exception.getExtendedErrorCode() == SQLITE_CONSTRAINT_UNIQUE ||
                     exception.getExtendedErrorCode() == SQLITE_CONSTRAINT_PRIMARYKEY
                 ? absl::AlreadyExistsError(text)
                 : absl::FailedPreconditionError(text);
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(text);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(text);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::UnavailableError(text);
    default:
      return absl::InternalError(text);
  }
}

absl::StatusOr<std::unique_ptr<SqliteDb>> SqliteDb::Open(
    const std::string& path, const std::vector<std::string>& migrations) {
  // SQLite would make the file with the umask's mode; what is in it is not for everybody.
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  ::close(fd);
  try {
    auto database = std::make_unique<SQLite::Database>(
        path, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, 5000);
    database->exec("PRAGMA journal_mode=WAL");
    database->exec("PRAGMA synchronous=FULL");
    database->exec("PRAGMA foreign_keys=ON");
    database->exec("PRAGMA trusted_schema=OFF");
    // Its statement must be gone before the database can be.
    const std::string verdict = database->execAndGet("PRAGMA quick_check(1)").getString();
    if (verdict != "ok") {
      return absl::DataLossError(absl::StrCat(path, " is damaged: ", verdict));
    }
    std::unique_ptr<SqliteDb> db(new SqliteDb(path, std::move(database), false));
    if (absl::Status status = db->Migrate(migrations); !status.ok()) return status;
    return db;
  } catch (const SQLite::Exception& exception) {
    return FromSqliteException(exception, path);
  }
}

absl::StatusOr<std::unique_ptr<SqliteDb>> SqliteDb::OpenReadOnly(const std::string& path) {
  try {
    auto database = std::make_unique<SQLite::Database>(path, SQLite::OPEN_READONLY, 5000);
    return std::unique_ptr<SqliteDb>(new SqliteDb(path, std::move(database), true));
  } catch (const SQLite::Exception& exception) {
    return FromSqliteException(exception, path);
  }
}

absl::Status SqliteDb::Migrate(const std::vector<std::string>& migrations) {
  int version = 0;
  if (absl::Status status = Run([&](SQLite::Database& db) {
        version = db.execAndGet("PRAGMA user_version").getInt();
        return absl::OkStatus();
      });
      !status.ok()) {
    return status;
  }
  if (version > static_cast<int>(migrations.size())) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " has schema version ", version, ", this program knows up to ",
                     migrations.size(), ": run the newer version"));
  }
  for (; version < static_cast<int>(migrations.size()); ++version) {
    absl::Status status = Transaction([&](SQLite::Database& db) {
      db.exec(migrations[static_cast<size_t>(version)]);
      db.exec(absl::StrCat("PRAGMA user_version=", version + 1));
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
  }
  schema_version_ = version;
  return absl::OkStatus();
}

absl::Status SqliteDb::Transaction(const std::function<absl::Status(SQLite::Database&)>& body) {
  try {
    database_->exec(read_only_ ? "BEGIN DEFERRED" : "BEGIN IMMEDIATE");
  } catch (const SQLite::Exception& exception) {
    return FromSqliteException(exception, path_);
  }
  absl::Status status;
  try {
    status = body(*database_);
    if (status.ok()) {
      database_->exec("COMMIT");
      return status;
    }
  } catch (const SQLite::Exception& exception) {
    status = FromSqliteException(exception, path_);
  }
  // Fails harmlessly when SQLite rolled back by itself.
  database_->tryExec("ROLLBACK");
  return status;
}

absl::Status SqliteDb::Run(const std::function<absl::Status(SQLite::Database&)>& body) {
  try {
    return body(*database_);
  } catch (const SQLite::Exception& exception) {
    return FromSqliteException(exception, path_);
  }
}

}  // namespace tessera
