#include "integration/sim/history.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::sim {

History::History(std::vector<uint64_t> group_of_cell, uint64_t base, std::vector<uint64_t> initial)
    : base_(base), initial_(std::move(initial)) {
  initial_.resize(group_of_cell.size());
  Write zeros;
  zeros.number = base_ + 1;
  zeros.kind = Kind::kZeroes;
  zeros.end_cell = group_of_cell.size();
  zeros.answered = 0;
  zeros.durable = true;
  writes_.push_back(zeros);
  for (const uint64_t group : group_of_cell) {
    Cell cell;
    cell.group = group;
    cell.marks.push_back({.number = base_ + 1, .happened = 0, .present = 0});
    cells_.push_back(std::move(cell));
  }
}

uint64_t History::BeginWrite(Kind kind, uint64_t first, uint64_t end, uint64_t life, Time now) {
  Write write;
  write.number = last_number() + 1;
  write.kind = kind;
  write.first = first;
  write.end_cell = end;
  write.life = life;
  write.begin = now;
  writes_.push_back(write);
  open_.push_back(write.number);
  for (uint64_t cell = first; cell < end; ++cell) {
    cells_[cell].marks.push_back({.number = write.number, .present = now});
  }
  return write.number;
}

void History::EndWrite(uint64_t number, bool ok, bool durable, Time now, bool prompt) {
  Write& write = Find(number);
  if (!ok) {
    write.failed = true;
    return;
  }
  write.answered = now;
  write.durable = durable;
  for (uint64_t cell = write.first; cell < write.end_cell; ++cell) {
    Mark* mark = FindMark(cells_[cell], number);
    if (mark == nullptr) continue;
    mark->happened = std::min(mark->happened, now);
    const std::string problem =
        Judge(cells_[cell], *mark, write.begin, prompt ? write.begin : now, false);
    if (!problem.empty() && mark->losable_since <= now && !durable) {
      // It was taken, then lost, and the answer came after a read had shown what was there before.
      mark->gone_since = std::min(mark->gone_since, now);
    } else if (!problem.empty()) {
      Violate(absl::StrCat("cell ", cell, ": ", problem));
    }
    Prune(cells_[cell], now);
  }
}

void History::EndLivesBefore(uint64_t life, Time now) {
  for (const uint64_t number : open_) {
    Write& write = Find(number);
    if (write.life < life && write.answered == kNever) write.latest = std::min(write.latest, now);
  }
}

void History::GoOn(uint64_t before, uint64_t life) {
  for (const uint64_t number : open_) {
    if (Find(number).life == before) Find(number).life = life;
  }
}

History::Mark* History::FindMark(Cell& cell, uint64_t number) {
  const auto found =
      std::lower_bound(cell.marks.begin(), cell.marks.end(), number,
                       [](const Mark& mark, uint64_t wanted) { return mark.number < wanted; });
  return found == cell.marks.end() || found->number != number ? nullptr : &*found;
}

std::string History::Describe(uint64_t number) const {
  const Write& write = Find(number);
  return absl::StrCat(
      "write ", number, write.kind == Kind::kZeroes ? " (zeros)" : "", " of life ", write.life,
      " begun at ", write.begin,
      write.answered == kNever ? ", not answered" : absl::StrCat(", answered at ", write.answered),
      write.durable ? ", durable" : "");
}

std::string History::Judge(Cell& cell, const Mark& mark, Time begin, Time now, bool apply) {
  const Write& write = Find(mark.number);
  if (write.begin > now) return absl::StrCat(Describe(mark.number), " is seen before it began");
  if (mark.gone_since < begin) {
    return absl::StrCat(Describe(mark.number), " is seen again after a read at ", mark.gone_since,
                        " had shown that it was lost");
  }
  const Time happened = std::min({mark.happened, now, write.latest});
  const Time present = std::max(mark.present, begin);
  for (Mark& other : cell.marks) {
    if (other.number == mark.number) continue;
    if (!(happened < other.present && other.happened < present)) continue;
    // `other` came later and is not seen: it may have been lost.
    if (other.losable_since <= now && !Find(other.number).durable) {
      if (apply && other.gone_since == kNever) {
        other.gone_since = now;
        ++losses_seen_;
      }
      continue;
    }
    return absl::StrCat(Describe(mark.number), " is seen by a read from ", begin, " to ", now,
                        ", but ", Describe(other.number), " happened by ", other.happened,
                        " and was there at ", other.present);
  }
  return "";
}

void History::Read(uint64_t index, uint64_t number, Time begin, Time now) {
  Cell& cell = cells_[index];
  if (number == 0) {
    // Zeros: one of the zeroings must be possible.
    std::string problem = "nobody wrote zeros";
    for (auto mark = cell.marks.rbegin(); mark != cell.marks.rend(); ++mark) {
      if (!LeavesZeros(index, mark->number)) continue;
      problem = Judge(cell, *mark, begin, now, false);
      if (!problem.empty()) continue;
      (void)Judge(cell, *mark, begin, now, true);
      return;
    }
    return Violate(absl::StrCat("cell ", index, ": zeros: ", problem));
  }
  number = Own(index, number);
  if (const std::string wrong = CheckNumber(index, number); !wrong.empty()) return Violate(wrong);
  const Write& write = Find(number);
  Mark* mark = FindMark(cell, number);
  if (mark == nullptr) {
    return Violate(absl::StrCat("cell ", index, ": ", Describe(number), " is seen by a read from ",
                                begin, " to ", now, ", long after it was overwritten"));
  }
  const std::string problem = Judge(cell, *mark, begin, now, true);
  if (!problem.empty()) return Violate(absl::StrCat("cell ", index, ": ", problem));
  mark->happened = std::min({mark->happened, now, write.latest});
  mark->present = std::max(mark->present, begin);
}

std::string History::CheckNumber(uint64_t cell, uint64_t number) const {
  if (number <= base_ || number > last_number()) {
    return absl::StrCat("cell ", cell, ": no write has number ", number);
  }
  const Write& write = Find(number);
  if (cell < write.first || cell >= write.end_cell || LeavesZeros(cell, number)) {
    return absl::StrCat("cell ", cell, ": ", Describe(number), " was not of this cell");
  }
  return "";
}

void History::SnapshotHas(const std::vector<uint64_t>& numbers, Time begin, Time now, bool keeper) {
  if (!keeper && !kept_.empty()) return;
  Time earliest = begin;  // of the moment ..
  Time latest = now;
  uint64_t earliest_cell = 0;  // .. because of these
  uint64_t latest_cell = 0;
  const auto at = [](uint64_t cell) { return absl::StrCat("snapshot, cell ", cell, ": "); };
  for (uint64_t index = 0; index < numbers.size(); ++index) {
    if (numbers[index] == 0) continue;  // one of several zeroings
    const uint64_t number = Own(index, numbers[index]);
    if (const std::string wrong = CheckNumber(index, number); !wrong.empty()) {
      return Violate("snapshot: " + wrong);
    }
    Cell& cell = cells_[index];
    const Mark* mark = FindMark(cell, number);
    if (mark == nullptr) continue;  // long ago
    const Write& write = Find(number);
    if (write.begin > now) {
      return Violate(absl::StrCat(at(index), Describe(number), " began after the answer"));
    }
    // What may have been undone says nothing of its neighbours in time.
    const bool undone = mark->losable_since != kNever;
    const Time happened = std::min({mark->happened, write.latest, now});
    for (const Mark& other : cell.marks) {
      if (undone || other.number == number || other.losable_since != kNever) continue;
      if (happened >= other.present || other.happened >= begin) continue;
      return Violate(absl::StrCat(at(index), "has ", Describe(number), ", but ",
                                  Describe(other.number), " happened by ", other.happened,
                                  " and was there at ", other.present));
    }
    if (write.begin > earliest) {
      earliest = write.begin;
      earliest_cell = index;
    }
    for (const Mark& other : cell.marks) {
      const bool certain = !undone && other.losable_since == kNever && other.happened != kNever;
      if (!certain || mark->happened >= Find(other.number).begin) continue;
      if (other.happened < latest) {
        latest = other.happened;
        latest_cell = index;
      }
    }
    // The rest of that write; of one whose client died there may be none.
    const bool whole = number != base_ + 1 && write.answered != kNever;
    for (uint64_t rest = write.first; whole && rest < write.end_cell; ++rest) {
      if (numbers[rest] == 0 || Own(rest, numbers[rest]) == number) continue;
      const Mark* older = FindMark(cells_[rest], Own(rest, numbers[rest]));
      const Mark* torn = FindMark(cells_[rest], number);
      if (older == nullptr || torn == nullptr || older->happened >= write.begin) continue;
      if (torn->losable_since != kNever) continue;  // that part was lost
      return Violate(absl::StrCat(at(index), "has ", Describe(number), ", but at cell ", rest,
                                  " it has ", Describe(older->number)));
    }
  }
  if (earliest <= latest) return;
  Violate(absl::StrCat("a snapshot from ", begin, " to ", now, " is of no one moment: cell ",
                       earliest_cell, " has what began at ", earliest, ", cell ", latest_cell,
                       " had something else by ", latest));
}

void History::FlushOk(uint64_t life, bool holds, Time begin, Time now) {
  for (auto number = open_.begin(); number != open_.end();) {
    Write& write = Find(*number);
    if (write.answered >= begin || write.told <= begin || (!holds && write.life != life)) {
      ++number;
      continue;
    }
    // Its client did not live to hear of it.
    for (uint64_t cell = write.first; cell < write.end_cell && write.life != life; ++cell) {
      const Mark* mark = FindMark(cells_[cell], *number);
      if (mark != nullptr && mark->losable_since != kNever) write.told = begin;
    }
    if (write.told <= begin) {
      ++number;
      continue;
    }
    for (uint64_t cell = write.first; cell < write.end_cell; ++cell) {
      const Mark* mark = FindMark(cells_[cell], *number);
      if (mark == nullptr || mark->gone_since == kNever) continue;
      Violate(absl::StrCat("cell ", cell, ": a flush from ", begin, " to ", now,
                           " was answered OK, but ", Describe(*number),
                           " was lost, as a read showed at ", mark->gone_since));
    }
    write.durable = true;
    number = open_.erase(number);
  }
}

void History::FlushTold(Time now) {
  for (const uint64_t number : open_) {
    Write& write = Find(number);
    if (write.begin >= now) continue;
    write.told = std::min(write.told, now);
    for (uint64_t cell = write.first; cell < write.end_cell; ++cell) {
      if (Mark* mark = FindMark(cells_[cell], number); mark != nullptr) {
        mark->losable_since = std::min(mark->losable_since, now);
      }
    }
  }
}

void History::BeginKeeping(uint64_t life, Time now) {
  EndKeeping(now);
  keeper_ = life;
  kept_since_ = now;
}

void History::EndKeeping(Time now) {
  keeper_ = 0;
  for (const auto& [number, group] : kept_) MakeLosable(Find(number), group, now);
  kept_.clear();
}

void History::MakeLosable(const Write& write, uint64_t group, Time now) {
  if (write.durable) return;
  for (uint64_t index = write.first; index < write.end_cell; ++index) {
    if (cells_[index].group != group) continue;
    if (Mark* mark = FindMark(cells_[index], write.number); mark != nullptr) {
      mark->losable_since = std::min(mark->losable_since, now);
    }
  }
}

void History::AllowLoss(uint64_t group, Time since, Time now) {
  for (const uint64_t number : open_) {
    const Write& write = Find(number);
    if (write.begin > since) continue;
    const bool kept =
        keeper_ != 0 && write.life >= keeper_ && write.begin >= kept_since_ && !write.failed;
    if (kept) {
      kept_.emplace(number, group);
    } else {
      MakeLosable(write, group, now);
    }
  }
}

// A durable write that has happened leaves no way back to what was certainly there before it, once
// that lies far enough in the past for no read to have begun then.
void History::Prune(Cell& cell, Time now) {
  constexpr size_t kKept = 48;
  constexpr Time kOld = 120'000'000'000;
  while (cell.marks.size() > kKept) {
    const Mark& oldest = cell.marks.front();
    const Mark& next = cell.marks[1];
    const bool over = oldest.happened != kNever && next.happened != kNever &&
                      Find(next.number).durable && next.present > oldest.happened &&
                      next.happened + kOld < now;
    if (!over) return;
    cell.marks.pop_front();
  }
}

void History::Violate(const std::string& what) {
  if (violation_.empty()) violation_ = what;
}

}  // namespace tessera::sim
