#include "services/mgmt/monitor/part_meter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"

namespace tessera::mgmt {
namespace {

bool Matches(v1::ComponentKind rule_kind, v1::ComponentKind kind) {
  return rule_kind == v1::COMPONENT_KIND_UNSPECIFIED || rule_kind == kind;
}

// The histogram's buckets, each alone; nothing for one that is not well formed.
std::optional<Distribution> Buckets(const v1::Histogram& histogram) {
  const int buckets = histogram.cumulative_counts_size();
  if (buckets < 1 || buckets > static_cast<int>(PartMeter::kBucketsMax) ||
      histogram.bounds_seconds_size() != buckets - 1) {
    return std::nullopt;
  }
  Distribution distribution;
  distribution.bounds_seconds.assign(histogram.bounds_seconds().begin(),
                                     histogram.bounds_seconds().end());
  for (size_t i = 0; i < distribution.bounds_seconds.size(); ++i) {
    const double before = i == 0 ? 0 : distribution.bounds_seconds[i - 1];
    if (!(distribution.bounds_seconds[i] > before)) return std::nullopt;
  }
  uint64_t below = 0;
  for (const uint64_t count : histogram.cumulative_counts()) {
    if (count < below) return std::nullopt;
    distribution.counts.push_back(count - below);
    below = count;
  }
  return distribution;
}

// What was observed between the two; nothing when a count went back or the buckets changed.
std::optional<Distribution> Difference(const Distribution& before, const Distribution& now) {
  if (now.counts.empty() || before.bounds_seconds != now.bounds_seconds) return std::nullopt;
  Distribution difference = now;
  for (size_t i = 0; i < now.counts.size(); ++i) {
    if (now.counts[i] < before.counts[i]) return std::nullopt;
    difference.counts[i] -= before.counts[i];
  }
  return difference;
}

}  // namespace

bool Distribution::Add(const Distribution& other) {
  if (counts.empty()) {
    *this = other;
    return true;
  }
  if (bounds_seconds != other.bounds_seconds) return false;
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  return true;
}

uint64_t Distribution::Total() const {
  uint64_t total = 0;
  for (const uint64_t count : counts) total += count;
  return total;
}

std::optional<double> Distribution::Percentile(double fraction) const {
  const uint64_t total = Total();
  if (total == 0) return std::nullopt;
  const double rank = fraction * static_cast<double>(total);
  double below = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const auto here = static_cast<double>(counts[i]);
    if (here > 0 && below + here >= rank) {
      if (i == bounds_seconds.size()) return i == 0 ? 0 : bounds_seconds[i - 1];
      const double lower = i == 0 ? 0 : bounds_seconds[i - 1];
      const double share = std::clamp((rank - below) / here, 0.0, 1.0);
      return lower + (bounds_seconds[i] - lower) * share;
    }
    below += here;
  }
  return bounds_seconds.empty() ? 0 : bounds_seconds.back();
}

PartMeter::Sample PartMeter::Reduce(const v1::GetStatusResponse& answer, uint64_t boot_ms) {
  Sample sample;
  sample.boot_ms = boot_ms;
  sample.incarnation = answer.incarnation();
  const std::vector<FigureRule>& rules = FigureRules();
  sample.sums.resize(rules.size());
  for (const v1::Figure& figure : answer.figures()) {
    if (!std::isfinite(figure.value())) continue;
    const FigureName name = SplitName(figure.name());
    for (size_t i = 0; i < rules.size(); ++i) {
      if (rules[i].metric != name.metric || !Matches(rules[i].kind, answer.kind())) continue;
      if (!rules[i].label.empty() && rules[i].label != name.labels) continue;
      sample.sums[i] = sample.sums[i].value_or(0) + figure.value();
    }
    if (IsForRules(name.metric)) {
      if (sample.for_rules.size() < kFiguresMax) sample.for_rules[figure.name()] = figure.value();
      continue;
    }
    for (size_t i = 0; i < kVolumeSeries; ++i) {
      const VolumeRule& rule = VolumeRules()[i];
      uint64_t volume_id = 0;
      const std::string_view volume = LabelValue(name.labels, "volume");
      if (rule.metric != name.metric || LabelValue(name.labels, "op") != rule.operation ||
          !absl::SimpleAtoi(absl::string_view(volume.data(), volume.size()), &volume_id)) {
        continue;
      }
      if (sample.volumes.size() < kVolumesMax || sample.volumes.contains(volume_id)) {
        sample.volumes[volume_id][i] += figure.value();
      }
    }
  }
  const std::vector<PercentileRule>& percentiles = PercentileRules();
  sample.histograms.resize(percentiles.size());
  for (const v1::Histogram& histogram : answer.histograms()) {
    const FigureName name = SplitName(histogram.name());
    for (size_t i = 0; i < percentiles.size(); ++i) {
      if (percentiles[i].metric != name.metric || percentiles[i].kind != answer.kind()) continue;
      if (!percentiles[i].label.empty() && percentiles[i].label != name.labels) continue;
      if (const auto buckets = Buckets(histogram)) sample.histograms[i].Add(*buckets);
    }
  }
  return sample;
}

void PartMeter::Take(const v1::GetStatusResponse& answer, uint64_t boot_ms) {
  Sample now = Reduce(answer, boot_ms);
  figures_ = std::move(now.for_rules);
  const std::vector<FigureRule>& rules = FigureRules();
  for (size_t i = 0; i < rules.size(); ++i) {
    if (rules[i].use == FigureUse::kGauge && now.sums[i].has_value()) {
      figures_[std::string(rules[i].series)] = *now.sums[i];
    }
  }
  if (!baseline_.has_value() || baseline_->incarnation != now.incarnation ||
      boot_ms < baseline_->boot_ms) {
    derived_.clear();
    volumes_.clear();
    observed_.clear();
    baseline_ = std::move(now);
  } else if (boot_ms - baseline_->boot_ms >= kIntervalMinMs) {
    TakeDifferences(*baseline_, now);
    baseline_ = std::move(now);
  }
  figures_.insert(derived_.begin(), derived_.end());
}

void PartMeter::TakeDifferences(const Sample& before, const Sample& now) {
  const double seconds = static_cast<double>(now.boot_ms - before.boot_ms) / 1e3;
  derived_.clear();
  const std::vector<FigureRule>& rules = FigureRules();
  for (size_t i = 0; i < rules.size(); ++i) {
    if (rules[i].use != FigureUse::kRate || !before.sums[i] || !now.sums[i]) continue;
    if (*now.sums[i] < *before.sums[i]) continue;
    derived_[std::string(rules[i].series)] = (*now.sums[i] - *before.sums[i]) / seconds;
  }
  const std::vector<PercentileRule>& percentiles = PercentileRules();
  observed_.assign(percentiles.size(), std::nullopt);
  for (size_t i = 0; i < percentiles.size(); ++i) {
    observed_[i] = Difference(before.histograms[i], now.histograms[i]);
    if (!observed_[i].has_value()) continue;
    const auto median = observed_[i]->Percentile(0.5);
    const auto high = observed_[i]->Percentile(0.99);
    if (median) derived_[std::string(percentiles[i].p50_series)] = *median * 1e6;
    if (high) derived_[std::string(percentiles[i].p99_series)] = *high * 1e6;
  }
  volumes_.clear();
  for (const auto& [volume_id, counts] : now.volumes) {
    const auto earlier = before.volumes.find(volume_id);
    if (earlier == before.volumes.end()) continue;
    VolumeRates rates{};
    bool went_back = false;
    for (size_t i = 0; i < kVolumeSeries; ++i) {
      went_back = went_back || counts[i] < earlier->second[i];
      rates[i] = (counts[i] - earlier->second[i]) / seconds;
    }
    if (!went_back) volumes_[volume_id] = rates;
  }
}

const Distribution* PartMeter::observed(size_t percentile_rule) const {
  if (percentile_rule >= observed_.size() || !observed_[percentile_rule]) return nullptr;
  return &*observed_[percentile_rule];
}

}  // namespace tessera::mgmt
