// The past of one value over a window, in a fixed number of steps.
//
// Times are boot time, so that the wall clock can jump as it likes.
//
// Pure. Threads: a value, for one thread at a time.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_VALUE_HISTORY_H_
#define TESSERA_SERVICES_MGMT_ALERTS_VALUE_HISTORY_H_

#include <cstdint>
#include <deque>
#include <optional>

namespace tessera::mgmt {

// A figure of the past. `settled`: the window is covered, so that it would not be very different
// had it been watched for longer.
struct PastFigure {
  std::optional<double> value;
  bool settled = false;
};

class ValueHistory {
 public:
  static constexpr int kSteps = 64;
  // "Never", of forecasts: longer than anything.
  static constexpr double kNever = 1e18;

  explicit ValueHistory(uint64_t window_ms) : window_ms_(window_ms) {}

  // Times don't fall.
  void Add(uint64_t boot_ms, double value);

  // Of the window without its newest step. Known when a quarter of the window is covered.
  [[nodiscard]] PastFigure Mean(uint64_t now_ms) const;
  [[nodiscard]] PastFigure Maximum(uint64_t now_ms) const;
  // By how much a counter has grown within the window; one that fell began anew at 0. Known from
  // two samples on, settled when nine tenths of the window are covered.
  [[nodiscard]] PastFigure Increase(uint64_t now_ms) const;
  // The same, a second.
  [[nodiscard]] PastFigure Rate(uint64_t now_ms) const;
  // Seconds until the value reaches `capacity`, along the straight line that fits the window best;
  // kNever when it does not grow. Known when a quarter of the window is covered.
  [[nodiscard]] PastFigure Forecast(uint64_t now_ms, double capacity) const;

 private:
  struct Step {
    uint64_t first_ms = 0;
    uint64_t last_ms = 0;
    double sum = 0;
    double count = 0;
    double maximum = 0;
    double increase = 0;  // since the sample before each of its samples
  };
  // From the first sample within the window to the newest.
  [[nodiscard]] uint64_t CoveredMs(uint64_t now_ms) const;
  [[nodiscard]] bool InWindow(const Step& step, uint64_t now_ms) const {
    return step.last_ms + window_ms_ >= now_ms;
  }

  const uint64_t window_ms_;
  std::deque<Step> steps_;
  double newest_ = 0;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_VALUE_HISTORY_H_
