// For how long something may have lain unseen before a thread found it. The thread looks, works on
// all that it has found, and looks again; what it finds then may have come just after the look
// before. When it had to wait, it found what came at once.
//
// Pure: boot time is passed in, nanoseconds. Threads: its thread's.
#ifndef TESSERA_SERVICES_COMMON_LOOK_OUT_H_
#define TESSERA_SERVICES_COMMON_LOOK_OUT_H_

#include <cstdint>

namespace tessera {

class LookOut {
 public:
  // A look that takes longer than this has waited.
  explicit LookOut(uint64_t look_nanos) : look_nanos_(look_nanos) {}

  // A look has found something. Returns for how long that, and all else that it has found, may have
  // been there.
  uint64_t Found(uint64_t now_nanos) {
    if (found_nanos_ == 0) {
      found_nanos_ = now_nanos;
      away_nanos_ = now_nanos <= ended_nanos_ + look_nanos_ ? now_nanos - last_found_nanos_ : 0;
    }
    return away_nanos_;
  }
  // It is all done, and the thread looks again.
  void Done(uint64_t now_nanos) {
    last_found_nanos_ = found_nanos_;
    ended_nanos_ = now_nanos;
    found_nanos_ = 0;
  }
  // Between the two.
  [[nodiscard]] bool working() const { return found_nanos_ != 0; }

 private:
  const uint64_t look_nanos_;
  uint64_t found_nanos_ = 0;  // 0: it looks
  uint64_t away_nanos_ = 0;
  uint64_t last_found_nanos_ = 0;
  uint64_t ended_nanos_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_LOOK_OUT_H_
