// mgmt.db: one SQLite database behind one lock. Each folder of services/mgmt has its own tables and
// never writes another's.
//
// Threads: any. Bodies run under the lock: they do SQL and nothing else.
#ifndef TESSERA_SERVICES_MGMT_MGMT_DB_H_
#define TESSERA_SERVICES_MGMT_MGMT_DB_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/sqlite_db.h"

namespace tessera::mgmt {

class MgmtDb {
 public:
  // The parts' schemas in a fixed order: migrations are numbered by their place, so that a schema
  // is changed by appending a migration, never in place. Errors as SqliteDb::Open.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<MgmtDb>> Open(
      const std::string& path, const std::vector<std::string>& migrations) {
    absl::StatusOr<std::unique_ptr<SqliteDb>> db = SqliteDb::Open(path, migrations);
    if (!db.ok()) return db.status();
    return std::unique_ptr<MgmtDb>(new MgmtDb(*std::move(db)));
  }

  // As SqliteDb::Transaction and SqliteDb::Run.
  [[nodiscard]] absl::Status Write(const std::function<absl::Status(SQLite::Database&)>& body) {
    absl::MutexLock lock(&mutex_);
    return db_->Transaction(body);
  }
  [[nodiscard]] absl::Status Read(const std::function<absl::Status(SQLite::Database&)>& body) {
    absl::MutexLock lock(&mutex_);
    return db_->Run(body);
  }

 private:
  explicit MgmtDb(std::unique_ptr<SqliteDb> db) : db_(std::move(db)) {}

  absl::Mutex mutex_;
  const std::unique_ptr<SqliteDb> db_ ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MGMT_DB_H_
