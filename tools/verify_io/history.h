// The complete history of a run, and its judge.
//
// Every block is judged as a register:
//  - Linearizable: each operation can be given a moment between its start and its end such that
//    every read returns the last write before it. Values are unique, so this is the zone test of
//    Gibbons and Korach ("Testing Shared Memories", SIAM J. Comput. 26(4), 1997), O(n log n): the
//    zone of a value reaches from the first end to the last start among its write and its reads. In
//    a *forward* zone (the end comes first) the value must have been in the register throughout, in
//    a *backward* one at some moment. It holds if no two forward zones overlap and no backward zone
//    lies within a forward one.
//  - An operation whose outcome is not known (timed out, connection lost, error) has an open end:
//  it
//    may take effect at any later moment, or never.
//  - A crash (power cut of all servers) ends a chapter. The value that the next chapter begins with
//    is one that no *durable* write has overwritten for sure; a write is durable when it ended
//    before a flush began that ended well, before the crash or after it (a client that stays sees
//    no crash), or when it was a durable write by itself (FUA). A flush that ended with an error
//    after the crash has told of the loss: later ones promise nothing of what was before. Once
//    read, it does not change: the next chapter is judged as a register that starts with it. Writes
//    without a known outcome reach over into the next chapter.
//
// Threads: values; the judge is a pure function.
#ifndef TESSERA_TOOLS_VERIFY_IO_HISTORY_H_
#define TESSERA_TOOLS_VERIFY_IO_HISTORY_H_

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tools/verify_io/block_stamp.h"

namespace tessera::verify_io {

// Nanoseconds on one monotonic clock for the whole run; 0 is before everything.
using Moment = uint64_t;
inline constexpr Moment kOpenEnd = std::numeric_limits<Moment>::max();

struct BlockOperation {
  enum class Kind : uint8_t { kWrite, kDurableWrite, kRead };
  uint64_t block = 0;
  Value value = kNeverWritten;
  Moment start = 0;
  Moment end = kOpenEnd;
  Kind kind = Kind::kWrite;
};

// A flush that was answered.
struct FlushOperation {
  Moment start = 0;
  Moment end = 0;
  bool failed = false;
};

struct History {
  std::vector<BlockOperation> operations;
  std::vector<FlushOperation> flushes;
  std::vector<Moment> crashes;  // ascending; nothing ends between a crash and the recovery

  void Append(const History& other);
};

struct Verdict {
  uint64_t operations = 0;
  uint64_t blocks = 0;
  uint64_t violation_count = 0;
  std::vector<std::string> violations;  // the first ones, for people
};

// Takes the operations apart by block, so it wants them by value.
[[nodiscard]] Verdict Judge(History history);

}  // namespace tessera::verify_io

#endif  // TESSERA_TOOLS_VERIFY_IO_HISTORY_H_
