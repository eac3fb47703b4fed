#include "tools/verify_io/history.h"

#include <algorithm>
#include <map>
#include <span>
#include <unordered_map>

namespace tessera::verify_io {
namespace {

constexpr size_t kViolationsTold = 20;

std::string Name(Value value) {
  if (value == kNeverWritten) return "zeros";
  return "write " + std::to_string(value & ((Value{1} << kSequenceBits) - 1)) + " of writer " +
         std::to_string(value >> kSequenceBits);
}

bool IsWrite(const BlockOperation& operation) {
  return operation.kind != BlockOperation::Kind::kRead;
}

struct Zone {
  Value value = kNeverWritten;
  Moment low = 0;
  Moment high = 0;
};

// What is known of a value within a chapter.
struct Use {
  bool written = false;
  bool read = false;
  Moment write_start = 0;
  Moment first_end = kOpenEnd;
  Moment last_start = 0;
  Moment first_read_end = kOpenEnd;
};

// Judges one block.
class BlockJudge {
 public:
  BlockJudge(uint64_t block, const History& history, Verdict* verdict)
      : block_(block), history_(history), verdict_(verdict) {}

  void Judge(std::span<const BlockOperation> operations) {
    Moment begin = 0;
    std::vector<BlockOperation> carried;  // writes that reach into the next chapter
    for (size_t chapter = 0; chapter <= history_.crashes.size(); ++chapter) {
      const bool last = chapter == history_.crashes.size();
      const Moment end = last ? kOpenEnd : history_.crashes[chapter];
      JudgeChapter(operations, begin, end, &carried);
      begin = end;
    }
  }

 private:
  void Violation(const std::string& what) {
    ++verdict_->violation_count;
    if (verdict_->violations.size() < kViolationsTold) {
      verdict_->violations.push_back("block " + std::to_string(block_) + ": " + what);
    }
  }

  void JudgeChapter(std::span<const BlockOperation> operations, Moment begin, Moment end,
                    std::vector<BlockOperation>* carried) {
    std::vector<BlockOperation> chapter;
    std::vector<BlockOperation> next;
    // They keep their start: one may have taken effect before the crash, and what the chapter
    // begins with may have overwritten it there.
    for (const BlockOperation& operation : *carried) Place(operation, end, &chapter, &next);
    for (const BlockOperation& operation : operations) {
      if (operation.start >= begin && operation.start < end) {
        Place(operation, end, &chapter, &next);
      }
    }
    const Value first = begin == 0 ? kNeverWritten : StartingValue(operations, begin, chapter);
    Moment since = 0;
    for (const BlockOperation& operation : operations) {
      if (IsWrite(operation) && operation.value == first) since = std::min(operation.end, begin);
    }
    JudgeRegister(first, since, chapter);
    *carried = std::move(next);
  }

  // A write without an end before the chapter's belongs to the next one as well; a read that
  // spans a crash says nothing that either chapter could be held to.
  static void Place(BlockOperation operation, Moment end, std::vector<BlockOperation>* chapter,
                    std::vector<BlockOperation>* next) {
    if (operation.end <= end && operation.end != kOpenEnd) {
      chapter->push_back(operation);
      return;
    }
    if (!IsWrite(operation)) return;
    if (end != kOpenEnd) next->push_back(operation);
    operation.end = kOpenEnd;
    chapter->push_back(operation);
  }

  // The value from before the crash at `crash` that the chapter's reads have seen.
  Value StartingValue(std::span<const BlockOperation> operations, Moment crash,
                      const std::vector<BlockOperation>& chapter) {
    std::unordered_map<Value, bool> own;
    for (const BlockOperation& operation : chapter) {
      if (IsWrite(operation)) own[operation.value] = true;
    }
    bool found = false;
    Value first = kNeverWritten;
    for (const BlockOperation& operation : chapter) {
      if (IsWrite(operation) || own.contains(operation.value)) continue;
      if (!found) {
        found = true;
        first = operation.value;
      } else if (operation.value != first) {
        Violation("read as " + Name(first) + " after a crash, then changed to " +
                  Name(operation.value));
      }
    }
    // Nobody looked before it was overwritten: whatever it was.
    if (found) CheckSurvivor(operations, crash, first);
    return first;
  }

  // Whether a durable write must have overwritten `value` before the crash.
  void CheckSurvivor(std::span<const BlockOperation> operations, Moment crash, Value value) {
    Moment value_end = value == kNeverWritten ? 0 : kOpenEnd;
    for (const BlockOperation& operation : operations) {
      if (IsWrite(operation) && operation.value == value) value_end = operation.end;
    }
    for (const BlockOperation& operation : operations) {
      if (!IsWrite(operation) || operation.value == value || operation.end >= crash) continue;
      if (operation.start <= value_end || !IsDurable(operation)) continue;
      Violation(Name(operation.value) + " was flushed, and lost in a crash: " + Name(value) +
                " is back");
      return;
    }
  }

  // Judged by the first crash after the write: what that took, legally, no later flush brings back.
  [[nodiscard]] bool IsDurable(const BlockOperation& write) const {
    if (write.kind == BlockOperation::Kind::kDurableWrite) return true;
    const auto after =
        std::upper_bound(history_.crashes.begin(), history_.crashes.end(), write.end);
    const Moment crash = after == history_.crashes.end() ? kOpenEnd : *after;
    // The first error after the crash; a flush that ended after it may have come too late for it.
    Moment told = kOpenEnd;
    for (const FlushOperation& flush : history_.flushes) {
      if (flush.failed && flush.end > crash) told = std::min(told, flush.end);
    }
    return std::any_of(history_.flushes.begin(), history_.flushes.end(),
                       [&](const FlushOperation& flush) {
                         return !flush.failed && flush.start >= write.end &&
                                (flush.end < crash || flush.end < told);
                       });
  }

  // `first`, which the chapter begins with, was there at `since` at the latest.
  void JudgeRegister(Value first, Moment since, const std::vector<BlockOperation>& chapter) {
    std::map<Value, Use> uses;
    uses[first] = {.written = true, .write_start = since, .first_end = since, .last_start = since};
    for (const BlockOperation& operation : chapter) {
      if (!IsWrite(operation)) continue;
      Use& use = uses[operation.value];
      use.written = true;
      use.write_start = operation.start;
      use.first_end = operation.end;
      use.last_start = operation.start;
    }
    for (const BlockOperation& operation : chapter) {
      if (IsWrite(operation) || operation.end == kOpenEnd) continue;
      Use& use = uses[operation.value];
      use.read = true;
      use.first_end = std::min(use.first_end, operation.end);
      use.last_start = std::max(use.last_start, operation.start);
      use.first_read_end = std::min(use.first_read_end, operation.end);
    }
    std::vector<Zone> forward;
    std::vector<Zone> backward;
    for (const auto& [value, use] : uses) {
      if (!use.written) {
        Violation("a read returned " + Name(value) + ", which was never written here");
        continue;
      }
      if (use.read && use.first_read_end < use.write_start) {
        Violation("a read returned " + Name(value) + " before it was written");
        continue;
      }
      // A write of which nothing is known, and which nobody saw, need not have happened.
      if (use.first_end == kOpenEnd) continue;
      if (use.first_end < use.last_start) {
        forward.push_back({value, use.first_end, use.last_start});
      } else {
        backward.push_back({value, use.last_start, use.first_end});
      }
    }
    JudgeZones(std::move(forward), backward);
  }

  void JudgeZones(std::vector<Zone> forward, const std::vector<Zone>& backward) {
    std::sort(forward.begin(), forward.end(),
              [](const Zone& a, const Zone& b) { return a.low < b.low; });
    for (size_t i = 1; i < forward.size(); ++i) {
      if (forward[i].low >= forward[i - 1].high) continue;
      Violation("stale read: " + Name(forward[i - 1].value) + " was read up to " +
                std::to_string(forward[i - 1].high) + " though " + Name(forward[i].value) +
                " stood from " + std::to_string(forward[i].low));
      // Keeps the list free of overlaps, for the search below.
      forward[i].low = forward[i - 1].high;
      forward[i].high = std::max(forward[i].high, forward[i].low);
    }
    for (const Zone& zone : backward) {
      const auto after =
          std::upper_bound(forward.begin(), forward.end(), zone.low,
                           [](Moment low, const Zone& other) { return low < other.low; });
      if (after == forward.begin()) continue;
      const Zone& around = *std::prev(after);
      if (around.low < zone.low && zone.high < around.high) {
        Violation("lost or stale write: " + Name(zone.value) + " (" + std::to_string(zone.low) +
                  " to " + std::to_string(zone.high) + ") lies within the time from " +
                  std::to_string(around.low) + " to " + std::to_string(around.high) + " in which " +
                  Name(around.value) + " stood");
      }
    }
  }

  const uint64_t block_;
  const History& history_;
  Verdict* const verdict_;
};

}  // namespace

void History::Append(const History& other) {
  operations.insert(operations.end(), other.operations.begin(), other.operations.end());
  flushes.insert(flushes.end(), other.flushes.begin(), other.flushes.end());
  crashes.insert(crashes.end(), other.crashes.begin(), other.crashes.end());
}

Verdict Judge(History history) {
  Verdict verdict;
  std::vector<BlockOperation> operations = std::move(history.operations);
  std::stable_sort(
      operations.begin(), operations.end(),
      [](const BlockOperation& a, const BlockOperation& b) { return a.block < b.block; });
  verdict.operations = operations.size();
  for (size_t begin = 0; begin < operations.size();) {
    size_t end = begin;
    while (end < operations.size() && operations[end].block == operations[begin].block) ++end;
    ++verdict.blocks;
    BlockJudge(operations[begin].block, history, &verdict)
        .Judge(std::span(operations).subspan(begin, end - begin));
    begin = end;
  }
  return verdict;
}

}  // namespace tessera::verify_io
