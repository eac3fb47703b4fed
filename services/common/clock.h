// Time as a dependency: wall time for people and records, boot time for durations.
//
// Threads: all methods may be called from any thread.
#ifndef TESSERA_SERVICES_COMMON_CLOCK_H_
#define TESSERA_SERVICES_COMMON_CLOCK_H_

#include <atomic>
#include <cstdint>

namespace tessera {

class Clock {
 public:
  virtual ~Clock() = default;
  // Milliseconds since the Unix epoch. May jump either way.
  [[nodiscard]] virtual uint64_t WallMillis() const = 0;
  // CLOCK_BOOTTIME in nanoseconds: never jumps, goes on in suspend.
  [[nodiscard]] virtual uint64_t BootNanos() const = 0;
  [[nodiscard]] uint64_t BootMillis() const { return BootNanos() / 1'000'000; }
};

class SystemClock final : public Clock {
 public:
  [[nodiscard]] uint64_t WallMillis() const override;
  [[nodiscard]] uint64_t BootNanos() const override;
};

// Stands still until told; for tests.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(uint64_t wall_ms = 1'700'000'000'000) : wall_ms_(wall_ms) {}
  [[nodiscard]] uint64_t WallMillis() const override { return wall_ms_; }
  [[nodiscard]] uint64_t BootNanos() const override { return boot_nanos_; }
  void AdvanceMillis(uint64_t ms) {
    wall_ms_ += ms;
    boot_nanos_ += ms * 1'000'000;
  }
  // The wall clock alone, as an administrator or NTP sets it.
  void SetWallMillis(uint64_t wall_ms) { wall_ms_ = wall_ms; }

 private:
  std::atomic<uint64_t> wall_ms_;
  std::atomic<uint64_t> boot_nanos_{1'000'000'000};
};

// One timed call to the MDM: what it said, and the boot times when the call was sent and answered.
struct MdmTimeSample {
  uint64_t mdm_time_ms = 0;
  uint64_t sent_boot_nanos = 0;
  uint64_t received_boot_nanos = 0;
};

// What MDM time can be, from the answers to timed calls: offset and bound, never two wall clocks.
//
// Threads: any.
class MdmTimeEstimator {
 public:
  struct Estimate {
    uint64_t earliest_ms = 0;
    uint64_t latest_ms = 0;
    uint64_t age_ms = 0;  // since the sample
    bool known = false;
  };
  explicit MdmTimeEstimator(const Clock* clock) : clock_(clock) {}
  // The MDM said `mdm_time_ms` in an answer to a call that was sent and received at these boot
  // times.
  void AddSample(uint64_t mdm_time_ms, uint64_t sent_boot_nanos, uint64_t received_boot_nanos);
  // Clocks are taken to drift apart by at most 500 ppm.
  [[nodiscard]] Estimate Now() const;

 private:
  const Clock* clock_;
  // The sample in two words, published together by `sequence_` (odd: being written).
  std::atomic<uint64_t> sequence_{0};
  std::atomic<uint64_t> mdm_time_ms_{0};
  std::atomic<uint64_t> sent_nanos_{0};
  std::atomic<uint64_t> received_nanos_{0};
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_CLOCK_H_
