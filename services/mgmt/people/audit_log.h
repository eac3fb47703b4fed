// The audit log: who changed what, from where, with what result. Append-only, a chain of hashes.
//
// It holds at most `bytes_max`; beyond that the oldest tenth is let go. Each time an entry of the
// log itself (method kTrimMethod) says up to where, and with what hash, and the chain goes on from
// there: entries that are missing without such an entry show.
//
// Entries that can't be written (the disk is full) are kept in memory, at most kPendingMax, and
// written with the next one that can; what is lost beyond that is logged and counted.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_LOG_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_LOG_H_

#include <google/protobuf/message.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/auth.h"
#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/people/audit_chain.h"

namespace tessera::mgmt {

struct AuditRecord {
  std::string user_name;
  std::string credential;
  std::string peer;
  std::string method;
  const google::protobuf::Message* request = nullptr;  // null: there was none
  absl::Status result;
};

inline constexpr char kTrimMethod[] = "tessera-mgmt/TrimAuditLog";
// Some 200,000 changes.
inline constexpr uint64_t kAuditBytesMax = 64 << 20;

class AuditLog {
 public:
  static constexpr size_t kPendingMax = 1000;

  // All must outlive it.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<AuditLog>> Open(
      MgmtDb* db, const Clock* clock, MetricRegistry* metrics, uint64_t bytes_max = kAuditBytesMax);

  void Record(const AuditRecord& record);
  // A CallObserver: records what IsRecorded says.
  void Observe(const Caller& caller, const std::string& method,
               const google::protobuf::Message& request, const absl::Status& status);

  // Newest first, those below `before_id` (0: from the newest).
  [[nodiscard]] absl::StatusOr<std::vector<v1::AuditEntry>> List(
      const v1::ListAuditEntriesRequest& conditions, uint64_t before_id, uint32_t limit) const;
  // Walks the chain; an error only where the database can't be read.
  [[nodiscard]] absl::StatusOr<v1::VerifyAuditLogResponse> Verify() const;

 private:
  AuditLog(MgmtDb* db, const Clock* clock, MetricRegistry* metrics, uint64_t bytes_max);
  void AppendPending(SQLite::Database& db, uint64_t* bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Trim(SQLite::Database& db, uint64_t* bytes);
  [[nodiscard]] absl::Status Walk(AuditChainChecker* checker) const;

  MgmtDb* const db_;
  const Clock* const clock_;
  const uint64_t bytes_max_;
  prometheus::Counter& recorded_;
  prometheus::Counter& lost_;
  // Held while entries are written, so that they keep their order; before the database's lock.
  mutable absl::Mutex mutex_;
  std::vector<v1::AuditEntry> pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  AuditLink newest_ ABSL_GUARDED_BY(mutex_);  // what this process knows to have been written
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_LOG_H_
