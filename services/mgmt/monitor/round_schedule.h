// When the poller asks, and when it tells: the rules of rounds.
//
// A round begins every interval, or early when something was noticed, though not sooner than the
// gap after the one before; when one early round follows another the gap grows to four of it, so
// that a cluster where something changes all the time costs little more than a quiet one. It is
// over, and told, when all that were asked have answered, or when the settle time is over: those
// who are silent delay it by that and no more. Answers that come later are told by themselves,
// again at most once in a gap.
//
// Threads: external synchronization. Pure: boot time comes with each call.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_ROUND_SCHEDULE_H_
#define TESSERA_SERVICES_MGMT_MONITOR_ROUND_SCHEDULE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace tessera::mgmt {

class RoundSchedule {
 public:
  RoundSchedule(uint64_t interval_ms, uint64_t settle_ms, uint64_t gap_ms)
      : interval_ms_(interval_ms),
        settle_ms_(std::min(settle_ms, interval_ms)),
        gap_ms_(std::min(gap_ms, interval_ms)) {}

  // Something was noticed that a round would show.
  void WantEarly() { early_ = true; }
  // An answer came after its round was told.
  void LateAnswer() { late_ = true; }

  [[nodiscard]] bool BeginDue(uint64_t now_ms) const {
    if (open_) return false;
    return !begun_ || now_ms >= DueMs();
  }
  void Begin(uint64_t now_ms) {
    early_run_ = early_ ? std::min(early_run_ + 1, kEarlyRunMax) : 0;
    begun_ = true;
    open_ = true;
    early_ = false;
    begun_ms_ = now_ms;
  }
  [[nodiscard]] bool TellDue(uint64_t now_ms, size_t unanswered) const {
    if (open_) return unanswered == 0 || now_ms >= begun_ms_ + settle_ms_;
    return late_ && now_ms >= told_ms_ + gap_ms_;
  }
  void Told(uint64_t now_ms) {
    open_ = false;
    late_ = false;
    told_ms_ = now_ms;
  }
  // When to look again unless something happens before.
  [[nodiscard]] uint64_t NextMs() const {
    if (!begun_) return 0;
    if (open_) return begun_ms_ + settle_ms_;
    return late_ ? std::min(DueMs(), told_ms_ + gap_ms_) : DueMs();
  }
  [[nodiscard]] bool open() const { return open_; }
  [[nodiscard]] uint64_t begun_ms() const { return begun_ms_; }

 private:
  static constexpr int kEarlyRunMax = 2;
  [[nodiscard]] uint64_t DueMs() const {
    return begun_ms_ + (early_ ? std::min(gap_ms_ << early_run_, interval_ms_) : interval_ms_);
  }

  const uint64_t interval_ms_;
  const uint64_t settle_ms_;
  const uint64_t gap_ms_;
  bool begun_ = false;
  bool open_ = false;
  bool early_ = false;
  bool late_ = false;
  int early_run_ = 0;  // early rounds in a row
  uint64_t begun_ms_ = 0;
  uint64_t told_ms_ = 0;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_ROUND_SCHEDULE_H_
