#include "services/sds/token_ack_book.h"

namespace tessera::sds {

GrantUse& GrantUse::operator+=(const GrantUse& other) {
  reads += other.reads;
  writes += other.writes;
  read_bytes += other.read_bytes;
  write_bytes += other.write_bytes;
  errors += other.errors;
  return *this;
}

void TokenAckBook::Add(uint64_t grant_id, const GrantUse& use) {
  auto found = uses_.find(grant_id);
  if (found == uses_.end()) {
    if (uses_.size() >= kGrantLimit) {
      ++overflowed_;
      return;
    }
    found = uses_.emplace(grant_id, GrantUse{}).first;
  }
  found->second += use;
}

std::optional<v1::AckTokensRequest> TokenAckBook::NextReport() {
  if (outstanding_.has_value()) return outstanding_;
  if (uses_.empty()) return std::nullopt;
  v1::AckTokensRequest report;
  report.set_report_sequence(++last_sequence_);
  report.set_incarnation(incarnation_);
  while (!uses_.empty() && static_cast<size_t>(report.acks_size()) < kAcksPerReport) {
    const auto first = uses_.begin();
    v1::TokenAck* ack = report.add_acks();
    ack->set_token_id(first->first);
    ack->set_reads(first->second.reads);
    ack->set_writes(first->second.writes);
    ack->set_read_bytes(first->second.read_bytes);
    ack->set_write_bytes(first->second.write_bytes);
    ack->set_errors(first->second.errors);
    uses_.erase(first);
  }
  outstanding_ = std::move(report);
  return outstanding_;
}

void TokenAckBook::Confirm(uint64_t report_sequence) {
  if (outstanding_.has_value() && outstanding_->report_sequence() == report_sequence) {
    outstanding_.reset();
  }
}

}  // namespace tessera::sds
