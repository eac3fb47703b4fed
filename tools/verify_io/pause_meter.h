// The longest time in which something was asked for and nothing came back.
//
// Threads: any; one lock.
#ifndef TESSERA_TOOLS_VERIFY_IO_PAUSE_METER_H_
#define TESSERA_TOOLS_VERIFY_IO_PAUSE_METER_H_

#include <algorithm>
#include <cstdint>
#include <mutex>

#include "tools/verify_io/history.h"

namespace tessera::verify_io {

// Since the last Take.
struct PauseWindow {
  uint64_t completed = 0;
  uint64_t failed = 0;
  Moment longest_pause = 0;      // without a completed operation while some were wanted
  Moment longest_operation = 0;  // from first being asked for to its answer
};

class PauseMeter {
 public:
  // Operations are wanted from now on (a connection that is gone wants them, too).
  void Begin(Moment now) {
    const std::lock_guard lock(mutex_);
    if (!wanting_) last_ = now;
    wanting_ = true;
  }
  void Rest() {
    const std::lock_guard lock(mutex_);
    wanting_ = false;
  }
  void Completed(Moment start, Moment now) {
    const std::lock_guard lock(mutex_);
    ++window_.completed;
    window_.longest_pause = std::max(window_.longest_pause, Since(last_, now));
    window_.longest_operation = std::max(window_.longest_operation, now - start);
    last_ = now;
  }
  void Failed() {
    const std::lock_guard lock(mutex_);
    ++window_.failed;
  }
  // Ends the window; a pause under way counts in both.
  [[nodiscard]] PauseWindow Take(Moment now) {
    const std::lock_guard lock(mutex_);
    PauseWindow window = window_;
    if (wanting_) {
      window.longest_pause = std::max(window.longest_pause, Since(last_, now));
    }
    window_ = {};
    return window;
  }

 private:
  // A caller may have looked at the clock before another one that was faster to the lock.
  static Moment Since(Moment last, Moment now) { return now > last ? now - last : 0; }

  std::mutex mutex_;
  bool wanting_ = false;
  Moment last_ = 0;
  PauseWindow window_;
};

}  // namespace tessera::verify_io

#endif  // TESSERA_TOOLS_VERIFY_IO_PAUSE_METER_H_
