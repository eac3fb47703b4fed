#include "services/mgmt/people/audit_chain.h"

#include <array>
#include <span>

#include "absl/strings/str_cat.h"
#include "services/common/sha256.h"

namespace tessera::mgmt {
namespace {

void AddNumber(Sha256* hash, uint64_t number) {
  std::array<std::byte, 8> bytes{};
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(number >> (8 * i));
  hash->Add(bytes);
}

void AddText(Sha256* hash, const std::string& text) {
  AddNumber(hash, text.size());
  hash->Add(std::as_bytes(std::span(text)));
}

}  // namespace

std::string AuditHash(const std::string& previous_hash, const v1::AuditEntry& entry) {
  Sha256 hash;
  hash.Add(std::as_bytes(std::span(previous_hash)));
  AddNumber(&hash, entry.audit_id());
  AddNumber(&hash, entry.time_ms());
  for (const std::string* text :
       {&entry.user_name(), &entry.credential(), &entry.peer(), &entry.method(),
        &entry.request_json(), &entry.result(), &entry.error_message()}) {
    AddText(&hash, *text);
  }
  return hash.Digest();
}

bool AuditChainChecker::Add(const v1::AuditEntry& entry) {
  const uint64_t expected = last_.audit_id + 1;
  if (entry.audit_id() != expected) {
    problem_ =
        entry.audit_id() == expected + 1
            ? absl::StrCat("entry ", expected, " is missing")
            : absl::StrCat("entries ", expected, " to ", entry.audit_id() - 1, " are missing");
    return false;
  }
  if (entry.hash() != AuditHash(last_.hash, entry)) {
    problem_ = absl::StrCat("entry ", expected, " was altered");
    return false;
  }
  last_ = {entry.audit_id(), entry.hash()};
  ++entries_;
  return true;
}

}  // namespace tessera::mgmt
