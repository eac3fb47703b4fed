// History's rules: how fine it is for how long, what becomes of points, what goes first when room
// gets scarce, and what a jump of the clock means.
//
// Three levels: 10 s for a day, 5 minutes for a month, an hour for two years. A level is kept in
// blocks (a row a series and block). A coarser level is made of the finer one's blocks when a whole
// block of its own is over; what is newer is read from the finer one.
//
// Threads: values and free functions; ClockGuard: external synchronization. Pure.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_HISTORY_RULES_H_
#define TESSERA_SERVICES_MGMT_MONITOR_HISTORY_RULES_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::mgmt {

struct HistoryLevel {
  uint64_t step_ms;   // a point
  uint64_t block_ms;  // a row
  uint64_t keep_ms;   // how long
  uint64_t spare_ms;  // so much stays longest when room is scarce

  [[nodiscard]] constexpr size_t slots() const { return block_ms / step_ms; }
};
inline constexpr uint64_t kSecondMs = 1'000;
inline constexpr uint64_t kMinuteMs = 60 * kSecondMs;
inline constexpr uint64_t kHourMs = 60 * kMinuteMs;
inline constexpr uint64_t kDayMs = 24 * kHourMs;
inline constexpr size_t kHistoryLevels = 3;
inline constexpr std::array<HistoryLevel, kHistoryLevels> kHistory = {{
    {10 * kSecondMs, 5 * kMinuteMs, kDayMs, kHourMs},
    {5 * kMinuteMs, 2 * kHourMs, 31 * kDayMs, kDayMs},
    {kHourMs, kDayMs, 731 * kDayMs, kDayMs},
}};

[[nodiscard]] constexpr uint64_t FloorTo(uint64_t value, uint64_t unit) {
  return value - value % unit;
}
[[nodiscard]] constexpr uint64_t CeilTo(uint64_t value, uint64_t unit) {
  return FloorTo(value + unit - 1, unit);
}

// One step of one series.
struct HistoryPoint {
  float mean = 0;
  float maximum = 0;
};

// What makes a point of several values, or of several finer points.
class StepAccumulator {
 public:
  // `weight`: how long it is of.
  void Add(double mean, double maximum, double weight) {
    sum_ += mean * weight;
    maximum_ = weight_ == 0 ? maximum : std::max(maximum_, maximum);
    weight_ += weight;
  }
  [[nodiscard]] bool empty() const { return weight_ == 0; }
  [[nodiscard]] double mean() const { return weight_ == 0 ? 0 : sum_ / weight_; }
  [[nodiscard]] double maximum() const { return maximum_; }
  [[nodiscard]] std::optional<HistoryPoint> point() const {
    if (empty()) return std::nullopt;
    return HistoryPoint{static_cast<float>(mean()), static_cast<float>(maximum_)};
  }

 private:
  double sum_ = 0;
  double maximum_ = 0;
  double weight_ = 0;
};

// A block's slots as they are stored (mgmt.db, history_block.points):
//
//   byte 0      version: 1
//   byte 1      form: 0 all points are one value; 1 maximum = mean everywhere; 2 both
//   bytes 2, 3  slots, little endian
//   then        a bit a slot, lowest first: whether it has a point
//   then        form 0: one float; 1: a float a point; 2: all means, then all maxima
//
// Floats are IEEE 754 single precision, little endian. A block without points is not stored.
using BlockPoints = std::vector<std::optional<HistoryPoint>>;
[[nodiscard]] std::string EncodeBlock(const BlockPoints& points);
// DATA_LOSS, saying what is wrong, for bytes that EncodeBlock can't have made of `slots` slots.
[[nodiscard]] absl::StatusOr<BlockPoints> DecodeBlock(std::string_view bytes, size_t slots);
// `newer` where it has points, else `older`.
[[nodiscard]] BlockPoints MergeBlocks(const BlockPoints& newer, const BlockPoints& older);

// The oldest and newest block that a level has.
struct LevelExtent {
  uint64_t oldest_ms = 0;
  uint64_t newest_ms = 0;
  bool empty = true;
};
using LevelExtents = std::array<LevelExtent, kHistoryLevels>;

// Room is scarce above kTrimAbove of the limit, and made until below kTrimBelow.
inline constexpr double kTrimAbove = 0.90;
inline constexpr double kTrimBelow = 0.85;
// The level whose oldest block is to go first: the finest that has more than its spare time; then
// the finest that has more than one block. Nothing: there is nothing left to give.
[[nodiscard]] std::optional<size_t> LevelToTrim(const LevelExtents& extents);

// How a query is answered.
struct QueryPlan {
  size_t level = 0;
  uint64_t step_ms = 0;   // a multiple of the level's
  uint64_t begin_ms = 0;  // multiples of step_ms
  uint64_t end_ms = 0;
};
// The finest level that still has the range's begin; a coarser one when its points are fine enough
// for `points` of them. REQUIRES: from < until, points > 0.
[[nodiscard]] QueryPlan PlanQuery(uint64_t from_ms, uint64_t until_ms, uint32_t points,
                                  uint64_t now_ms, const LevelExtents& extents);

// Whether the wall clock can be trusted to say what is old. After a jump it can't for an hour: it
// may jump back, and what was deleted meanwhile would be lost for nothing.
class ClockGuard {
 public:
  static constexpr uint64_t kJumpMs = kMinuteMs;
  static constexpr uint64_t kSettleMs = kHourMs;

  // `newest_ms`: newest time that is in the history; 0: it is empty.
  explicit ClockGuard(uint64_t newest_ms) : newest_ms_(newest_ms) {}
  void Observe(uint64_t wall_ms, uint64_t boot_ms);
  [[nodiscard]] bool settled() const { return settled_; }

 private:
  uint64_t newest_ms_;
  bool observed_ = false;
  bool settled_ = true;
  uint64_t wall_ms_ = 0;
  uint64_t boot_ms_ = 0;
  uint64_t jumped_boot_ms_ = 0;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_HISTORY_RULES_H_
