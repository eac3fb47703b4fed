// What was done under each grant since the last report, and the reports themselves: numbered, one
// outstanding at a time, repeated as they are until the MDM has confirmed them (it ignores a number
// that it has seen).
//
// Bounded: more than kGrantLimit grants without a report are counted in `overflowed`, not kept.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDS_TOKEN_ACK_BOOK_H_
#define TESSERA_SERVICES_SDS_TOKEN_ACK_BOOK_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "tessera/v1/token.pb.h"

namespace tessera::sds {

struct GrantUse {
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t read_bytes = 0;
  uint64_t write_bytes = 0;
  uint64_t errors = 0;
  // What of it counts for limits (services/common/io_cost.h): here, and of what the client did.
  double counted_operations = 0;
  uint64_t counted_bytes = 0;
  double client_operations = 0;
  double client_bytes = 0;
  GrantUse& operator+=(const GrantUse& other);
};

class TokenAckBook {
 public:
  static constexpr size_t kGrantLimit = 65'536;
  static constexpr size_t kAcksPerReport = 4'096;
  // Enough for all grants of a full book.
  static constexpr size_t kReportsOfARound = kGrantLimit / kAcksPerReport + 1;

  TokenAckBook(uint64_t incarnation, uint64_t now_ms)
      : incarnation_(incarnation), covered_until_ms_(now_ms) {}

  void Add(uint64_t grant_id, const GrantUse& use);
  // The report to send now: the unconfirmed one again, or a new one; none when nothing was done.
  // `now_ms`: boot time.
  [[nodiscard]] std::optional<v1::AckTokensRequest> NextReport(uint64_t now_ms);
  // The MDM has the report. Others than the outstanding one change nothing.
  void Confirm(uint64_t report_sequence);

  [[nodiscard]] uint64_t overflowed() const { return overflowed_; }
  [[nodiscard]] size_t waiting() const { return uses_.size(); }

 private:
  const uint64_t incarnation_;
  absl::flat_hash_map<uint64_t, GrantUse> uses_;
  std::optional<v1::AckTokensRequest> outstanding_;
  uint64_t last_sequence_ = 0;
  uint64_t covered_until_ms_;  // what was done before is in a report
  uint64_t overflowed_ = 0;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_TOKEN_ACK_BOOK_H_
