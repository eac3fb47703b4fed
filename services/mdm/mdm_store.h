// mdm.db: one writer, transactions, readers from snapshots, and the set of things each commit
// changed.
//
// Table functions (*_table.h) take the database of a transaction; rules decide between reading and
// writing in the same transaction, so every decision about membership or a mapping is a
// compare-and-set.
//
// Threads: Write and Read from any thread; writers take turns, readers run beside them. The commit
// listener runs under the writer's turn, in commit order: it must only hand over.
#ifndef TESSERA_SERVICES_MDM_MDM_STORE_H_
#define TESSERA_SERVICES_MDM_MDM_STORE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/metrics.h"
#include "services/common/sqlite_db.h"
#include "tessera/v1/health.pb.h"

namespace tessera::mdm {

// What a commit changed, for watchers and pushes.
struct ChangeSet {
  std::set<uint64_t> placement_group_ids;
  // By placement group: servers that left it, which have to hear of that, too.
  std::map<uint64_t, std::set<uint64_t>> former_sds_ids;
  std::set<uint64_t> deleted_vtree_ids;
  bool topology = false;       // anything of the tree
  bool sds_addresses = false;  // endpoints, incarnations or states
  bool pools = false;          // layouts
  bool events = false;
  std::map<v1::EventSeverity, uint32_t> event_counts;
  bool records = false;  // what servers keep for the MDM; found by the store itself
};

// A write in progress.
struct WriteTransaction {
  SQLite::Database& db;
  ChangeSet changes;
};

class MdmStore {
 public:
  using CommitListener = std::function<void(const ChangeSet&)>;

  // Opens or makes the database, checks it (quick_check) and migrates it. DATA_LOSS: damaged;
  // FAILED_PRECONDITION: made by a newer version.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<MdmStore>> Open(const std::string& path,
                                                                      MetricRegistry* metrics);

  // Runs `body` in one transaction: committed and on disk when OK is returned, else nothing is
  // changed.
  [[nodiscard]] absl::Status Write(const std::function<absl::Status(WriteTransaction&)>& body);
  // Runs `body` on one snapshot.
  [[nodiscard]] absl::Status Read(const std::function<absl::Status(SQLite::Database&)>& body) const;

  // REQUIRES: no Write runs.
  void SetCommitListener(CommitListener listener);
  [[nodiscard]] int schema_version() const { return schema_version_; }
  // Of the database and its write-ahead log; 0: in memory.
  [[nodiscard]] uint64_t FileBytes() const;

 private:
  static constexpr size_t kReaders = 3;

  MdmStore(std::string path, std::unique_ptr<SqliteDb> writer,
           std::vector<std::unique_ptr<SqliteDb>> readers, MetricRegistry* metrics);

  const std::string path_;
  const int schema_version_;
  absl::Mutex writer_mutex_;
  const std::unique_ptr<SqliteDb> writer_ ABSL_PT_GUARDED_BY(writer_mutex_);
  CommitListener listener_ ABSL_GUARDED_BY(writer_mutex_);
  uint64_t record_revision_ ABSL_GUARDED_BY(writer_mutex_) = 0;  // as of the last commit

  mutable absl::Mutex readers_mutex_;
  const std::vector<std::unique_ptr<SqliteDb>> readers_;
  mutable std::vector<SqliteDb*> free_readers_ ABSL_GUARDED_BY(readers_mutex_);

  prometheus::Counter& commits_;
  prometheus::Counter& aborts_;
  prometheus::Histogram& commit_seconds_;
  std::map<v1::EventSeverity, prometheus::Counter*> events_;  // const after the constructor
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MDM_STORE_H_
