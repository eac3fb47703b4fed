#include "services/mgmt/alerts/value_history.h"

#include <algorithm>

namespace tessera::mgmt {
namespace {

double SecondsOf(uint64_t ms) { return static_cast<double>(ms) / 1000; }

}  // namespace

void ValueHistory::Add(uint64_t boot_ms, double value) {
  double increase = 0;
  if (!steps_.empty()) increase = value >= newest_ ? value - newest_ : value;
  newest_ = value;
  while (!steps_.empty() && !InWindow(steps_.front(), boot_ms)) steps_.pop_front();
  if (steps_.empty()) increase = 0;
  if (steps_.empty() || boot_ms - steps_.back().first_ms >= window_ms_ / kSteps) {
    steps_.push_back({boot_ms, boot_ms, 0, 0, value, 0});
  }
  Step& step = steps_.back();
  step.last_ms = boot_ms;
  step.sum += value;
  step.count += 1;
  step.maximum = std::max(step.maximum, value);
  step.increase += increase;
}

uint64_t ValueHistory::CoveredMs(uint64_t now_ms) const {
  for (const Step& step : steps_) {
    if (InWindow(step, now_ms)) return steps_.back().last_ms - step.first_ms;
  }
  return 0;
}

PastFigure ValueHistory::Mean(uint64_t now_ms) const {
  if (CoveredMs(now_ms) < window_ms_ / 4 || steps_.size() < 2) return {};
  double sum = 0;
  double count = 0;
  for (size_t i = 0; i + 1 < steps_.size(); ++i) {
    if (!InWindow(steps_[i], now_ms)) continue;
    sum += steps_[i].sum;
    count += steps_[i].count;
  }
  if (count == 0) return {};
  return {sum / count, true};
}

PastFigure ValueHistory::Maximum(uint64_t now_ms) const {
  if (CoveredMs(now_ms) < window_ms_ / 4 || steps_.size() < 2) return {};
  std::optional<double> maximum;
  for (size_t i = 0; i + 1 < steps_.size(); ++i) {
    if (!InWindow(steps_[i], now_ms)) continue;
    maximum = std::max(maximum.value_or(steps_[i].maximum), steps_[i].maximum);
  }
  return {maximum, maximum.has_value()};
}

PastFigure ValueHistory::Increase(uint64_t now_ms) const {
  const uint64_t covered = CoveredMs(now_ms);
  if (covered == 0) return {};
  double increase = 0;
  for (const Step& step : steps_) {
    if (InWindow(step, now_ms)) increase += step.increase;
  }
  return {increase, covered >= window_ms_ / 10 * 9};
}

PastFigure ValueHistory::Rate(uint64_t now_ms) const {
  PastFigure figure = Increase(now_ms);
  if (figure.value.has_value()) *figure.value /= SecondsOf(CoveredMs(now_ms));
  return figure;
}

PastFigure ValueHistory::Forecast(uint64_t now_ms, double capacity) const {
  if (CoveredMs(now_ms) < window_ms_ / 4 || steps_.size() < 3) return {};
  // Least squares over the steps' means, with times relative to now.
  double n = 0, sum_t = 0, sum_v = 0, sum_tt = 0, sum_tv = 0;
  for (const Step& step : steps_) {
    if (!InWindow(step, now_ms)) continue;
    const double t = -SecondsOf(now_ms - (step.first_ms + step.last_ms) / 2);
    const double v = step.sum / step.count;
    n += 1;
    sum_t += t;
    sum_v += v;
    sum_tt += t * t;
    sum_tv += t * v;
  }
  const double denominator = n * sum_tt - sum_t * sum_t;
  if (denominator <= 0) return {};
  const double slope = (n * sum_tv - sum_t * sum_v) / denominator;
  const double now_value = (sum_v - slope * sum_t) / n;
  if (std::max(now_value, newest_) >= capacity) return {0, true};
  if (slope <= 0) return {kNever, true};
  return {std::min(kNever, (capacity - now_value) / slope), true};
}

}  // namespace tessera::mgmt
