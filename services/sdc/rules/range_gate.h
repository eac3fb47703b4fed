// Which requests of one volume wait for which others, by overlap. Requests enter in order of
// arrival.
//
//  - A read waits for every overlapping write that came before it (docs/REPLICATION.md, I6).
//  - A write waits for overlapping read-modify-writes only: the order of writes is their sequence.
//  - A read-modify-write waits for every overlapping write and read-modify-write before it.
//
// A read that has its bytes enters again before it answers, and thereby waits for the writes that
// overtook it: what it saw of them may not be on all replicas yet.
// Everybody waits only for earlier ones, so nobody waits forever for a lack of order.
//
// Cost: one pass over the ranges present, which are as many as requests are in flight.
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_RULES_RANGE_GATE_H_
#define TESSERA_SERVICES_SDC_RULES_RANGE_GATE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "services/sdc/rules/request_splitter.h"

namespace tessera::sdc {

class RangeGate {
 public:
  enum class Kind : uint8_t { kRead, kWrite, kReadModifyWrite };
  using Ticket = uint32_t;

  struct Entry {
    Ticket ticket = 0;
    bool ready = false;  // nothing to wait for
  };

  // `owner` comes back from Leave when this entry has become ready.
  Entry Enter(Kind kind, const ByteRange& range, void* owner);
  // Ends an entry, ready or not, and appends the owners of those that became ready by it, in order
  // of arrival.
  void Leave(Ticket ticket, std::vector<void*>* now_ready);

  // A write or read-modify-write of some of the range is present.
  [[nodiscard]] bool HasWrites(const ByteRange& range) const;

  [[nodiscard]] size_t size() const { return present_.size(); }

 private:
  struct Slot {
    void* owner = nullptr;
    uint32_t waiting_for = 0;
    absl::InlinedVector<Ticket, 2> followers;
  };
  struct Present {
    ByteRange range;
    Kind kind;
    Ticket ticket;
  };

  static bool Waits(Kind later, Kind earlier);

  std::vector<Present> present_;
  std::vector<Slot> slots_;          // by ticket
  std::vector<uint32_t> positions_;  // by ticket: place in present_
  std::vector<Ticket> free_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RULES_RANGE_GATE_H_
