// A part's SQLite database: WAL, synchronous=FULL, foreign keys, numbered migrations, and
// exceptions of SQLiteCpp turned into statuses at one place.
//
// Threads: one connection, used under the caller's lock or by one thread. Read-only connections for
// snapshots are opened with OpenReadOnly.
#ifndef TESSERA_SERVICES_COMMON_SQLITE_DB_H_
#define TESSERA_SERVICES_COMMON_SQLITE_DB_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

class SqliteDb {
 public:
  // Opens or makes the database with mode 0600, runs quick_check, then the migrations that it
  // lacks: migrations[i] takes schema version i to i + 1, each in one transaction. DATA_LOSS:
  // damaged; FAILED_PRECONDITION: made by a newer version.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<SqliteDb>> Open(
      const std::string& path, const std::vector<std::string>& migrations);
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<SqliteDb>> OpenReadOnly(
      const std::string& path);

  // Runs `body` in one IMMEDIATE transaction (DEFERRED when read-only): committed when it returns
  // OK, else rolled back. Exceptions inside become statuses (constraint: ALREADY_EXISTS or
  // FAILED_PRECONDITION, full disk: RESOURCE_EXHAUSTED, else INTERNAL).
  [[nodiscard]] absl::Status Transaction(
      const std::function<absl::Status(SQLite::Database&)>& body);
  // Runs `body` outside any transaction of ours, exceptions mapped likewise.
  [[nodiscard]] absl::Status Run(const std::function<absl::Status(SQLite::Database&)>& body);

  [[nodiscard]] int schema_version() const { return schema_version_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  SqliteDb(std::string path, std::unique_ptr<SQLite::Database> database, bool read_only)
      : path_(std::move(path)), database_(std::move(database)), read_only_(read_only) {}
  [[nodiscard]] absl::Status Migrate(const std::vector<std::string>& migrations);

  const std::string path_;
  const std::unique_ptr<SQLite::Database> database_;
  const bool read_only_;
  int schema_version_ = 0;
};

[[nodiscard]] absl::Status FromSqliteException(const SQLite::Exception& exception,
                                               const std::string& path);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_SQLITE_DB_H_
