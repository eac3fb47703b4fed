// The chain of the audit log's entries.
//
// An entry's hash is SHA-256 over: the previous entry's hash (32 bytes; 32 zeros before the first
// entry), audit_id and time_ms (8 bytes each, little endian), then user_name, credential, peer,
// method, request_json, result and error_message, each as its length (8 bytes, little endian) and
// its bytes. So an entry that was altered, taken out or put in shows, unless all later hashes were
// made anew: for that somebody keeps the newest hash elsewhere (VerifyAuditLogResponse.last_hash).
//
// Pure. Threads: those of the checker's user, one at a time.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_CHAIN_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_CHAIN_H_

#include <cstdint>
#include <string>
#include <utility>

#include "tessera/v1/audit.pb.h"

namespace tessera::mgmt {

// A place in the chain: entry 0 is before the first one.
struct AuditLink {
  uint64_t audit_id = 0;
  std::string hash = std::string(32, '\0');
};

[[nodiscard]] std::string AuditHash(const std::string& previous_hash, const v1::AuditEntry& entry);

// Walks entries in order.
class AuditChainChecker {
 public:
  explicit AuditChainChecker(AuditLink start) : last_(std::move(start)) {}
  // False at the first entry that is wrong; `problem` says which.
  bool Add(const v1::AuditEntry& entry);
  // Says of the whole chain what its entries alone don't show.
  void Fail(std::string problem) { problem_ = std::move(problem); }
  [[nodiscard]] const AuditLink& last() const { return last_; }
  [[nodiscard]] uint64_t entries() const { return entries_; }
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  AuditLink last_;
  uint64_t entries_ = 0;
  std::string problem_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_AUDIT_CHAIN_H_
