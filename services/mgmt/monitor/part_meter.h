// What two answers of one part say together: rates, and percentiles of the time between them.
//
// Counters count from the part's start: two answers say something together only when they are of
// one life of it (its incarnation is the same, and no counter went back). After a restart there
// are no rates until the second answer.
//
// Threads: external synchronization. Pure: the time of an answer comes with it.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_PART_METER_H_
#define TESSERA_SERVICES_MGMT_MONITOR_PART_METER_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "services/mgmt/monitor/figure_table.h"
#include "tessera/v1/monitoring.pb.h"

namespace tessera::mgmt {

// Durations that were observed within an interval, by buckets.
struct Distribution {
  std::vector<double> bounds_seconds;  // growing; one more bucket takes the rest
  std::vector<uint64_t> counts;        // of each bucket alone

  // Adds what another part observed. False, and nothing changes, when the buckets differ; an empty
  // one takes the other's buckets.
  bool Add(const Distribution& other);
  [[nodiscard]] uint64_t Total() const;
  // The value that a part `fraction` (0 to 1) of all are not above, between a bucket's bounds as if
  // they lay evenly; the greatest bound for those beyond it. Nothing when there are none.
  [[nodiscard]] std::optional<double> Percentile(double fraction) const;
};

// By the order of VolumeRules().
using VolumeRates = std::array<double, kVolumeSeries>;

class PartMeter {
 public:
  // Answers that come sooner after the one before than this leave rates as they are: of so short a
  // time they would say little.
  static constexpr uint64_t kIntervalMinMs = 1'000;
  // A part can't make this process keep more.
  static constexpr size_t kFiguresMax = 4'000;
  static constexpr size_t kVolumesMax = 10'000;
  static constexpr size_t kBucketsMax = 64;

  // An answer that came at this boot time.
  void Take(const v1::GetStatusResponse& answer, uint64_t boot_ms);

  // Figures for alert rules as they came, and all series of the last answer by name.
  [[nodiscard]] const std::map<std::string, double>& figures() const { return figures_; }
  // Rates of volumes, by id.
  [[nodiscard]] const std::map<uint64_t, VolumeRates>& volumes() const { return volumes_; }
  // What the percentile rule observed in the last interval; nothing when it is not known.
  [[nodiscard]] const Distribution* observed(size_t percentile_rule) const;

 private:
  // One answer, reduced to what the rules want.
  struct Sample {
    uint64_t boot_ms = 0;
    uint64_t incarnation = 0;
    std::vector<std::optional<double>> sums;  // by FigureRules()
    std::vector<Distribution> histograms;     // by PercentileRules(), since the part's start
    std::map<uint64_t, VolumeRates> volumes;  // counts since the part's start
    std::map<std::string, double> for_rules;
  };
  [[nodiscard]] static Sample Reduce(const v1::GetStatusResponse& answer, uint64_t boot_ms);
  void TakeDifferences(const Sample& before, const Sample& now);

  std::optional<Sample> baseline_;  // the answer that rates are made against
  std::map<std::string, double> derived_;
  std::vector<std::optional<Distribution>> observed_;
  std::map<std::string, double> figures_;
  std::map<uint64_t, VolumeRates> volumes_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_PART_METER_H_
