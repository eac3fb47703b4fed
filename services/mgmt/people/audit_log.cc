#include "services/mgmt/people/audit_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/mgmt/people/audit_rules.h"
#include "services/mgmt/people/audit_table.h"
#include "services/mgmt/people/peer_address.h"
#include "tessera/v1/auth.pb.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kErrorBytesMax = 1024;
constexpr uint32_t kWalkPage = 500;
constexpr char kItself[] = "tessera-mgmt";

std::string TrimJson(const AuditLink& last) {
  return absl::StrCat("{\"last_dropped_id\":\"", last.audit_id, "\",\"last_dropped_hash\":\"",
                      ToHex(last.hash), "\"}");
}

// Whose call it was. At a sign-in it is the name that was tried, whoever was signed in before; and
// what is no name may be a password that was typed into the wrong field.
std::string UserOf(const Caller& caller, const google::protobuf::Message& request) {
  const auto* sign_in = dynamic_cast<const v1::SignInRequest*>(&request);
  if (sign_in == nullptr) return caller.name;
  return IsUserName(sign_in->user_name()) ? sign_in->user_name() : "***";
}

std::string CredentialOf(const Caller& caller) {
  if (!caller.credential.empty()) return caller.credential;
  return caller.name.empty() ? "none" : "certificate";
}

}  // namespace

AuditLog::AuditLog(MgmtDb* db, const Clock* clock, MetricRegistry* metrics, uint64_t bytes_max)
    : db_(db),
      clock_(clock),
      bytes_max_(bytes_max),
      recorded_(metrics->Counter("tessera_mgmt_audit_entries_total",
                                 "Entries written to the audit log.")),
      lost_(metrics->Counter("tessera_mgmt_audit_entries_lost_total",
                             "Entries of the audit log that could not be written.")) {}

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(MgmtDb* db, const Clock* clock,
                                                         MetricRegistry* metrics,
                                                         uint64_t bytes_max) {
  std::unique_ptr<AuditLog> log(new AuditLog(db, clock, metrics, bytes_max));
  uint64_t bytes = 0;
  AuditLink newest;
  TESSERA_RETURN_IF_ERROR(db->Read([&](SQLite::Database& database) {
    bytes = AuditBytes(database);
    newest = NewestAuditLink(database);
    return absl::OkStatus();
  }));
  absl::MutexLock lock(&log->mutex_);
  log->bytes_ = bytes;
  log->newest_ = std::move(newest);
  return log;
}

void AuditLog::Observe(const Caller& caller, const std::string& method,
                       const google::protobuf::Message& request, const absl::Status& status) {
  if (!IsRecorded(caller, method, status)) return;
  AuditRecord record{.user_name = UserOf(caller, request),
                     .credential = CredentialOf(caller),
                     .peer = AddressOf(caller.peer),
                     .method = method,
                     .request = &request,
                     .result = status};
  v1::SignInRequest masked;
  if (method == kSignInMethod && record.user_name == "***") {
    masked.set_user_name(record.user_name);
    record.request = &masked;
  }
  Record(record);
}

void AuditLog::Record(const AuditRecord& record) {
  v1::AuditEntry entry;
  entry.set_time_ms(clock_->WallMillis());
  entry.set_user_name(record.user_name);
  entry.set_credential(record.credential);
  entry.set_peer(record.peer);
  entry.set_method(record.method);
  entry.set_request_json(record.request == nullptr ? "{}" : MaskedJson(*record.request));
  entry.set_result(absl::StatusCodeToString(record.result.code()));
  entry.set_error_message(std::string(record.result.message().substr(0, kErrorBytesMax)));
  absl::MutexLock lock(&mutex_);
  if (pending_.size() >= kPendingMax) {
    lost_.Increment();
    LogError("an entry of the audit log is lost: too many wait to be written",
             {{"user", entry.user_name()}, {"method", entry.method()}});
    return;
  }
  pending_.push_back(std::move(entry));
  uint64_t bytes = bytes_;
  const absl::Status status = db_->Write([&](SQLite::Database& db) {
    AppendPending(db, &bytes);
    return absl::OkStatus();
  });
  if (!status.ok()) {
    LogError("the audit log can't be written; its entries wait in memory",
             {{"entries", pending_.size()}, {"error", status}});
    return;
  }
  recorded_.Increment(static_cast<double>(pending_.size()));
  bytes_ = bytes;
  newest_ = {pending_.back().audit_id(), pending_.back().hash()};
  pending_.clear();
}

void AuditLog::AppendPending(SQLite::Database& db, uint64_t* bytes) {
  for (v1::AuditEntry& entry : pending_) {
    AppendAuditEntry(db, &entry);
    *bytes += AuditEntryBytes(entry);
  }
  if (*bytes > bytes_max_) Trim(db, bytes);
}

void AuditLog::Trim(SQLite::Database& db, uint64_t* bytes) {
  const uint64_t newest_id = NewestAuditLink(db).audit_id;
  const uint64_t goal = bytes_max_ - bytes_max_ / 10;
  AuditLink last = AuditAnchor(db);
  while (*bytes > goal && last.audit_id + 1 < newest_id) {
    for (const v1::AuditEntry& entry : ReadAuditEntries(db, last.audit_id, kWalkPage)) {
      if (*bytes <= goal || entry.audit_id() == newest_id) break;
      last = {entry.audit_id(), entry.hash()};
      *bytes -= std::min(*bytes, AuditEntryBytes(entry));
    }
  }
  if (last.audit_id == AuditAnchor(db).audit_id) return;
  v1::AuditEntry trimmed;
  trimmed.set_time_ms(clock_->WallMillis());
  trimmed.set_user_name(kItself);
  trimmed.set_credential("none");
  trimmed.set_peer("local");
  trimmed.set_method(kTrimMethod);
  trimmed.set_request_json(TrimJson(last));
  trimmed.set_result("OK");
  AppendAuditEntry(db, &trimmed);
  *bytes += AuditEntryBytes(trimmed);
  DropAuditEntries(db, last);
}

absl::StatusOr<std::vector<v1::AuditEntry>> AuditLog::List(
    const v1::ListAuditEntriesRequest& conditions, uint64_t before_id, uint32_t limit) const {
  std::vector<v1::AuditEntry> entries;
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    entries = FindAuditEntries(db, conditions, before_id, limit);
    return absl::OkStatus();
  }));
  return entries;
}

absl::Status AuditLog::Walk(AuditChainChecker* checker) const {
  bool anchor_named = false;
  AuditLink anchor;
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    anchor = AuditAnchor(db);
    return absl::OkStatus();
  }));
  *checker = AuditChainChecker(anchor);
  std::vector<v1::AuditEntry> page;
  do {
    uint64_t anchor_id = 0;
    TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
      anchor_id = AuditAnchor(db).audit_id;
      page = ReadAuditEntries(db, checker->last().audit_id, kWalkPage);
      return absl::OkStatus();
    }));
    if (anchor_id != anchor.audit_id) return absl::AbortedError("the log was trimmed meanwhile");
    for (const v1::AuditEntry& entry : page) {
      if (!checker->Add(entry)) return absl::OkStatus();
      anchor_named |= entry.method() == kTrimMethod && entry.request_json() == TrimJson(anchor);
    }
  } while (!page.empty());
  if (anchor.audit_id > 0 && !anchor_named) {
    checker->Fail(absl::StrCat("entries up to ", anchor.audit_id, " are missing"));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::VerifyAuditLogResponse> AuditLog::Verify() const {
  uint64_t newest_id = 0;
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    newest_id = NewestAuditIdEver(db);
    return absl::OkStatus();
  }));
  {
    absl::MutexLock lock(&mutex_);
    newest_id = std::max(newest_id, newest_.audit_id);
  }
  AuditChainChecker checker{AuditLink{}};
  absl::Status status;
  // A trim takes minutes of changes at full speed: nobody meets several.
  for (int attempt = 0; attempt < 3; ++attempt) {
    status = Walk(&checker);
    if (!absl::IsAborted(status)) break;
  }
  TESSERA_RETURN_IF_ERROR(status);
  v1::VerifyAuditLogResponse response;
  response.set_entries(checker.entries());
  response.set_problem(checker.problem());
  response.set_last_hash(checker.last().hash);
  if (response.problem().empty() && checker.last().audit_id < newest_id) {
    response.set_problem(absl::StrCat("entries ", checker.last().audit_id + 1, " to ", newest_id,
                                      " are missing at the end"));
  }
  return response;
}

}  // namespace tessera::mgmt
