// How fast something goes: bytes a second over the last quarter of a minute, and over the last half
// minute for what is told of the time left, because a pace that gives way to clients goes up and
// down.
//
// Pure: time is passed in, in milliseconds of a clock that does not jump. Threads: one at a time.
#ifndef TESSERA_SERVICES_MDM_PROGRESS_METER_H_
#define TESSERA_SERVICES_MDM_PROGRESS_METER_H_

#include <cstdint>
#include <deque>
#include <utility>

namespace tessera::mdm {

class ProgressMeter {
 public:
  static constexpr uint64_t kRateMillis = 15'000;
  static constexpr uint64_t kEtaMillis = 30'000;

  // `done` bytes in all at `now_ms`. Less than before (an attempt began anew): the figure starts
  // over.
  void Add(uint64_t now_ms, uint64_t done) {
    if (!samples_.empty() && done < samples_.back().second) samples_.clear();
    // The time before anything moved (targets being told, sources found) says nothing of the rate.
    if (samples_.size() == 1 && samples_.front().second == done) samples_.clear();
    // One sample that is older than the window stays as the edge to measure from.
    while (samples_.size() > 1 && samples_[1].first + kEtaMillis <= now_ms) samples_.pop_front();
    samples_.emplace_back(now_ms, done);
  }
  [[nodiscard]] uint64_t BytesPerSecond() const { return RateOver(kRateMillis); }
  // Over the longer time; 0 when nothing moved in the shorter one.
  [[nodiscard]] uint64_t SteadyBytesPerSecond() const {
    return BytesPerSecond() == 0 ? 0 : RateOver(kEtaMillis);
  }

 private:
  [[nodiscard]] uint64_t RateOver(uint64_t window_ms) const {
    if (samples_.size() < 2) return 0;
    const auto [now_ms, done] = samples_.back();
    // The edge: the newest sample that is as old as the window, else the oldest.
    auto edge = samples_.begin();
    for (auto next = edge + 1; next != samples_.end() && next->first + window_ms <= now_ms; ++next)
      edge = next;
    return edge->first == now_ms ? 0 : (done - edge->second) * 1'000 / (now_ms - edge->first);
  }

  std::deque<std::pair<uint64_t, uint64_t>> samples_;  // time, bytes
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_PROGRESS_METER_H_
