#include "services/sds/token_ack_book.h"

#include <algorithm>

namespace tessera::sds {

GrantUse& GrantUse::operator+=(const GrantUse& other) {
  reads += other.reads;
  writes += other.writes;
  read_bytes += other.read_bytes;
  write_bytes += other.write_bytes;
  errors += other.errors;
  counted_operations += other.counted_operations;
  counted_bytes += other.counted_bytes;
  client_operations += other.client_operations;
  client_bytes += other.client_bytes;
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

std::optional<v1::AckTokensRequest> TokenAckBook::NextReport(uint64_t now_ms) {
  if (outstanding_.has_value()) return outstanding_;
  if (uses_.empty()) {
    covered_until_ms_ = now_ms;
    return std::nullopt;
  }
  v1::AckTokensRequest report;
  report.set_report_sequence(++last_sequence_);
  report.set_incarnation(incarnation_);
  report.set_covered_ms(std::max<uint64_t>(1, now_ms - covered_until_ms_));
  while (!uses_.empty() && static_cast<size_t>(report.acks_size()) < kAcksPerReport) {
    const auto first = uses_.begin();
    v1::TokenAck* ack = report.add_acks();
    ack->set_token_id(first->first);
    ack->set_reads(first->second.reads);
    ack->set_writes(first->second.writes);
    ack->set_read_bytes(first->second.read_bytes);
    ack->set_write_bytes(first->second.write_bytes);
    ack->set_errors(first->second.errors);
    ack->set_counted_operations(first->second.counted_operations);
    ack->set_counted_bytes(first->second.counted_bytes);
    ack->set_client_operations(first->second.client_operations);
    ack->set_client_bytes(first->second.client_bytes);
    uses_.erase(first);
  }
  if (uses_.empty()) covered_until_ms_ = now_ms;
  outstanding_ = std::move(report);
  return outstanding_;
}

void TokenAckBook::Confirm(uint64_t report_sequence) {
  if (outstanding_.has_value() && outstanding_->report_sequence() == report_sequence) {
    outstanding_.reset();
  }
}

}  // namespace tessera::sds
