#include "services/sdc/rules/range_gate.h"

#include <algorithm>

namespace tessera::sdc {

bool RangeGate::Waits(Kind later, Kind earlier) {
  switch (later) {
    case Kind::kRead:
    case Kind::kReadModifyWrite:
      return earlier != Kind::kRead;
    case Kind::kWrite:
      return earlier == Kind::kReadModifyWrite;
  }
  return true;
}

RangeGate::Entry RangeGate::Enter(Kind kind, const ByteRange& range, void* owner) {
  Ticket ticket;
  if (free_.empty()) {
    ticket = static_cast<Ticket>(slots_.size());
    slots_.emplace_back();
    positions_.emplace_back();
  } else {
    ticket = free_.back();
    free_.pop_back();
  }
  Slot& slot = slots_[ticket];
  slot.owner = owner;
  slot.waiting_for = 0;
  for (const Present& earlier : present_) {
    if (earlier.range.Overlaps(range) && Waits(kind, earlier.kind)) {
      slots_[earlier.ticket].followers.push_back(ticket);
      ++slot.waiting_for;
    }
  }
  positions_[ticket] = static_cast<uint32_t>(present_.size());
  present_.push_back({range, kind, ticket});
  return {ticket, slot.waiting_for == 0};
}

bool RangeGate::HasWrites(const ByteRange& range) const {
  return std::any_of(present_.begin(), present_.end(), [&range](const Present& present) {
    return present.kind != Kind::kRead && present.range.Overlaps(range);
  });
}

void RangeGate::Leave(Ticket ticket, std::vector<void*>* now_ready) {
  const uint32_t position = positions_[ticket];
  present_[position] = present_.back();
  positions_[present_[position].ticket] = position;
  present_.pop_back();

  // An entry that leaves before it was ready is still listed with those it waited for: its slot is
  // reused only once they have let go of it.
  Slot& slot = slots_[ticket];
  slot.owner = nullptr;
  for (const Ticket follower : slot.followers) {
    Slot& waiting = slots_[follower];
    if (--waiting.waiting_for > 0) continue;
    if (waiting.owner != nullptr) {
      now_ready->push_back(waiting.owner);
    } else {
      free_.push_back(follower);
    }
  }
  slot.followers.clear();
  if (slot.waiting_for == 0) free_.push_back(ticket);
}

}  // namespace tessera::sdc
