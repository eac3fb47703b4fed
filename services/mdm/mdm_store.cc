#include "services/mdm/mdm_store.h"

#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "services/common/status_macros.h"
#include "services/mdm/cluster_record_table.h"
#include "services/mdm/mdm_schema.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {

absl::StatusOr<std::unique_ptr<MdmStore>> MdmStore::Open(const std::string& path,
                                                         MetricRegistry* metrics) {
  TESSERA_ASSIGN_OR_RETURN(auto writer, SqliteDb::Open(path, MdmMigrations()));
  std::vector<std::unique_ptr<SqliteDb>> readers;
  for (size_t i = 0; i < kReaders; ++i) {
    TESSERA_ASSIGN_OR_RETURN(auto reader, SqliteDb::OpenReadOnly(path));
    readers.push_back(std::move(reader));
  }
  return std::unique_ptr<MdmStore>(
      new MdmStore(path, std::move(writer), std::move(readers), metrics));
}

MdmStore::MdmStore(std::string path, std::unique_ptr<SqliteDb> writer,
                   std::vector<std::unique_ptr<SqliteDb>> readers, MetricRegistry* metrics)
    : path_(std::move(path)),
      schema_version_(writer->schema_version()),
      writer_(std::move(writer)),
      readers_(std::move(readers)),
      commits_(metrics->Counter("tessera_mdm_commits_total", "Transactions committed to mdm.db.")),
      aborts_(metrics->Counter("tessera_mdm_aborted_transactions_total",
                               "Transactions that were refused or failed.")),
      commit_seconds_(metrics->Histogram("tessera_mdm_commit_duration_seconds",
                                         "Time of a write transaction, its fsync included.")) {
  for (const auto& reader : readers_) free_readers_.push_back(reader.get());
  for (const auto& [severity, name] :
       std::map<v1::EventSeverity, std::string>{{v1::EVENT_SEVERITY_INFO, "info"},
                                                {v1::EVENT_SEVERITY_WARNING, "warning"},
                                                {v1::EVENT_SEVERITY_ERROR, "error"}}) {
    events_[severity] =
        &metrics->Counter("tessera_mdm_events_total", "Events, by severity.", {{"severity", name}});
  }
}

uint64_t MdmStore::FileBytes() const {
  uint64_t bytes = 0;
  for (const char* suffix : {"", "-wal"}) {
    std::error_code error;
    const uint64_t size = std::filesystem::file_size(path_ + suffix, error);
    if (!error) bytes += size;
  }
  return bytes;
}

absl::Status MdmStore::Write(const std::function<absl::Status(WriteTransaction&)>& body) {
  absl::MutexLock lock(&writer_mutex_);
  const auto start = std::chrono::steady_clock::now();
  ChangeSet changes;
  uint64_t record_revision = 0;
  absl::Status status = writer_->Transaction([&](SQLite::Database& db) {
    WriteTransaction transaction{db, {}};
    absl::Status result = body(transaction);
    if (result.ok() && transaction.changes.topology) {
      PutNumber(db, "topology_version", GetNumber(db, "topology_version") + 1);
    }
    changes = std::move(transaction.changes);
    record_revision = ReadRecordClock(db).revision;
    return result;
  });
  if (!status.ok()) {
    aborts_.Increment();
    return status;
  }
  commits_.Increment();
  for (const auto& [severity, count] : changes.event_counts) {
    if (const auto found = events_.find(severity); found != events_.end()) {
      found->second->Increment(count);
    }
  }
  changes.records = record_revision != record_revision_;
  record_revision_ = record_revision;
  commit_seconds_.Observe(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (listener_) listener_(changes);
  return status;
}

absl::Status MdmStore::Read(const std::function<absl::Status(SQLite::Database&)>& body) const {
  SqliteDb* reader = nullptr;
  {
    absl::MutexLock lock(&readers_mutex_);
    readers_mutex_.Await(absl::Condition(
        +[](std::vector<SqliteDb*>* readers) { return !readers->empty(); }, &free_readers_));
    reader = free_readers_.back();
    free_readers_.pop_back();
  }
  absl::Status status = reader->Transaction(body);
  absl::MutexLock lock(&readers_mutex_);
  free_readers_.push_back(reader);
  return status;
}

void MdmStore::SetCommitListener(CommitListener listener) {
  absl::MutexLock lock(&writer_mutex_);
  listener_ = std::move(listener);
}

}  // namespace tessera::mdm
