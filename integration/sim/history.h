// What applications did to one volume, and whether it is possible: each 64-byte cell is a register.
//
// Every write carries a number of its own, so that a read shows which write it saw; zeroings are
// told apart by time alone. A cell's history is linearizable exactly if no two writes A and B
// conflict (Gibbons and Korach, 1997): let f(A) be the moment by which A has certainly happened
// (its answer, or the end of the first read that saw it) and s(A) the last moment at which A was
// certainly not overwritten (its start, or the start of the last read that saw it); A and B
// conflict when f(A) < s(B) and f(B) < s(A).
//
// What loss of power may do, and no more: a write may be undone when no flush covered it and there
// was a moment at which every in-sync replica of its group had lost power, or its disk had failed,
// since it began (AllowLoss), and its client did not keep it. Once a read showed it undone it stays
// so. A flush that was submitted after the write's answer and answered OK makes it durable; a flush
// that was answered EIO tells of the loss of what was written before, to flushes that are submitted
// later: one that was under way promises the same and has to fail as well.
//
// Pure. Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_HISTORY_H_
#define TESSERA_INTEGRATION_SIM_HISTORY_H_

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace tessera::sim {

inline constexpr uint64_t kCellBytes = 64;

class History {
 public:
  using Time = uint64_t;
  static constexpr Time kNever = UINT64_MAX;
  enum class Kind : uint8_t { kData, kZeroes };

  // `cells` of the volume, each belonging to a placement group. A clone begins with `initial`,
  // numbers of its origin's writes (0: zeros), all at most `base`; its own are greater.
  explicit History(std::vector<uint64_t> group_of_cell, uint64_t base = 0,
                   std::vector<uint64_t> initial = {});

  // A write of the cells [first, end) by a client's life begins; its number, never 0.
  uint64_t BeginWrite(Kind kind, uint64_t first, uint64_t end, uint64_t life, Time now);
  // It was answered: done, or with an error that says nothing of whether it happened. `prompt`:
  // nothing held it up before it was taken, so that reads which began after it have waited for it.
  void EndWrite(uint64_t number, bool ok, bool durable, Time now, bool prompt = true);
  // Writes of the lives before `life` that were not answered have happened by now, or never will.
  void EndLivesBefore(uint64_t life, Time now);
  // What the life `before` wrote is `life`'s from now on: it has to hear of its loss.
  void GoOn(uint64_t before, uint64_t life);
  // A read of one cell that began at `begin` saw this number (0: zeros).
  void Read(uint64_t cell, uint64_t number, Time begin, Time now);
  // A snapshot that was asked for at `begin` and ready at `now` has this content, a number for each
  // cell. There must be one moment between at which all of it was there, and what one write wrote
  // is there wholly or not at all. Without `keeper` its client had lost the volume by then, or may
  // have: what it keeps is no part of it.
  void SnapshotHas(const std::vector<uint64_t>& numbers, Time begin, Time now, bool keeper = true);
  // By a life. When it `holds` the volume it makes durable what other lives wrote, too, but tells
  // nothing of what these lost; else it speaks of its own writes alone.
  void FlushOk(uint64_t life, bool holds, Time begin, Time now);
  void FlushTold(Time now);
  // From now on what this life, and later ones, write is kept by its client, who gives it again to
  // replicas that lost it: no loss of power excuses that it is gone, until keeping ends.
  void BeginKeeping(uint64_t life, Time now);
  void EndKeeping(Time now);
  // Every in-sync replica of the group lost what it had not flushed, at the earliest at `since`.
  void AllowLoss(uint64_t group, Time since, Time now);

  // The first thing that can't be; empty: all is well.
  [[nodiscard]] const std::string& violation() const { return violation_; }
  [[nodiscard]] uint64_t losses_seen() const { return losses_seen_; }
  // The greatest number that was given out.
  [[nodiscard]] uint64_t last_number() const { return base_ + writes_.size(); }

 private:
  struct Write {
    uint64_t number = 0;
    Kind kind = Kind::kData;
    uint64_t first = 0;
    uint64_t end_cell = 0;
    uint64_t life = 0;
    Time begin = 0;
    Time answered = kNever;  // OK
    Time latest = kNever;    // it happened by then, or never
    bool failed = false;     // answered with an error
    bool durable = false;
    Time told = kNever;  // a flush said that it may be lost
  };
  // One write at one cell.
  struct Mark {
    uint64_t number = 0;
    Time happened = kNever;       // f
    Time present = 0;             // s
    Time losable_since = kNever;  // it may be undone from then on
    Time gone_since = kNever;     // a read showed that it is
  };
  struct Cell {
    uint64_t group = 0;
    std::deque<Mark> marks;  // in order of beginning; what can matter no more is dropped
  };

  void MakeLosable(const Write& write, uint64_t group, Time now);
  [[nodiscard]] Write& Find(uint64_t number) { return writes_[number - base_ - 1]; }
  [[nodiscard]] const Write& Find(uint64_t number) const { return writes_[number - base_ - 1]; }
  // What a read of `number` at the cell shows: the write itself, or what the volume began with.
  [[nodiscard]] uint64_t Own(uint64_t cell, uint64_t number) const {
    return number != 0 && number == initial_[cell] ? base_ + 1 : number;
  }
  [[nodiscard]] bool LeavesZeros(uint64_t cell, uint64_t number) const {
    return Find(number).kind == Kind::kZeroes && (number != base_ + 1 || initial_[cell] == 0);
  }
  // Empty, or why no write can have left this number at the cell.
  [[nodiscard]] std::string CheckNumber(uint64_t cell, uint64_t number) const;
  [[nodiscard]] Mark* FindMark(Cell& cell, uint64_t number);
  // Whether seeing `mark` from `begin` to `now` can be; notes what it implies when `apply`.
  [[nodiscard]] std::string Judge(Cell& cell, const Mark& mark, Time begin, Time now, bool apply);
  void Prune(Cell& cell, Time now);
  void Violate(const std::string& what);
  [[nodiscard]] std::string Describe(uint64_t number) const;

  const uint64_t base_;
  std::vector<uint64_t> initial_;  // by cell: what it begins with
  std::vector<Cell> cells_;
  std::deque<Write> writes_;   // by number - base - 1; the first is what the volume begins with
  std::deque<uint64_t> open_;  // that may still change: not durable
  uint64_t keeper_ = 0;        // a life; 0: nobody keeps
  Time kept_since_ = 0;
  std::set<std::pair<uint64_t, uint64_t>> kept_;  // write and group: lost if it were not kept
  std::string violation_;
  uint64_t losses_seen_ = 0;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_HISTORY_H_
