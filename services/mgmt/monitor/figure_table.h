// Which figures of the parts' answers are charted: the one place that says so.
//
// A rule takes a metric's figure (with one label's value, or summed over all labels) and makes a
// series of it: its value, or what it grows by in a second. Histograms give two series each, the
// median and the 99th percentile of the last interval.
//
// Besides, figures are handed on as they are to the alert rules, which are data and may name any of
// them; what no rule can want (one figure a method or volume) is left out.
//
// Threads: free functions and constants, any thread.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_FIGURE_TABLE_H_
#define TESSERA_SERVICES_MGMT_MONITOR_FIGURE_TABLE_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "tessera/v1/types.pb.h"

namespace tessera::mgmt {

enum class FigureUse { kRate, kGauge };

struct FigureRule {
  v1::ComponentKind kind;   // UNSPECIFIED: parts of all kinds
  std::string_view metric;  // without labels
  std::string_view label;  // the one labels text that counts, as `op="read"`; empty: the sum of all
  FigureUse use;
  std::string_view series;
  std::string_view unit;
};

struct PercentileRule {
  v1::ComponentKind kind;
  std::string_view metric;
  std::string_view label;  // as in FigureRule; empty: all labels together
  std::string_view p50_series;
  std::string_view p99_series;
};

// Units, as SeriesInfo has them.
inline constexpr std::string_view kBytes = "bytes";
inline constexpr std::string_view kBytesPerSecond = "bytes per second";
inline constexpr std::string_view kOperationsPerSecond = "operations per second";
inline constexpr std::string_view kMicroseconds = "microseconds";
inline constexpr std::string_view kCount = "count";
inline constexpr std::string_view kCores = "cores";

[[nodiscard]] const std::vector<FigureRule>& FigureRules();
[[nodiscard]] const std::vector<PercentileRule>& PercentileRules();
// Which of these are about what applications wait for.
inline constexpr size_t kClientReads = 0;
inline constexpr size_t kClientWrites = 1;

// Series of a volume, and the metric with `op` that each grows with.
struct VolumeRule {
  std::string_view metric;
  std::string_view operation;
  std::string_view series;
  std::string_view unit;
};
inline constexpr size_t kVolumeSeries = 4;
[[nodiscard]] const std::vector<VolumeRule>& VolumeRules();  // kVolumeSeries of them

// A figure's name in its parts: "a{b="c"}" is "a" and `b="c"`.
struct FigureName {
  std::string_view metric;
  std::string_view labels;
};
[[nodiscard]] FigureName SplitName(std::string_view name);
// Value of one label; empty when there is none.
[[nodiscard]] std::string_view LabelValue(std::string_view labels, std::string_view label);

// Whether an alert rule may ask for it.
[[nodiscard]] bool IsForRules(std::string_view metric);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_FIGURE_TABLE_H_
