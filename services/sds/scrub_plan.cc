#include "services/sds/scrub_plan.h"

#include <algorithm>

namespace tessera::sds {

std::optional<ScrubWish> WishOf(const v1::ScrubOrder& order, const ScrubRecord& record,
                                uint64_t now_ms) {
  if (order.operation_id() != 0 && order.operation_id() != record.completed_operation_id) {
    return ScrubWish{.operation_id = order.operation_id(), .vtree_id = order.vtree_id()};
  }
  if (order.interval_ms() == 0) return std::nullopt;
  const bool begun = record.started_ms != 0 && record.operation_id == 0;
  if (begun || now_ms >= record.completed_ms + order.interval_ms()) return ScrubWish{};
  return std::nullopt;
}

bool GoesOn(const ScrubRecord& record, const ScrubWish& wish) {
  return record.started_ms != 0 && record.operation_id == wish.operation_id &&
         record.vtree_id == wish.vtree_id;
}

uint64_t ScrubRate(const v1::ScrubOrder& order, const ScrubWish& wish, uint64_t bytes_total) {
  const uint64_t most = std::max<uint64_t>(order.bytes_per_second(), 1);
  if (wish.operation_id != 0) {
    return order.operation_bytes_per_second() != 0 ? order.operation_bytes_per_second() : most;
  }
  const uint64_t half_seconds = std::max<uint64_t>(order.interval_ms() / 2'000, 1);
  return std::min(most, std::max(bytes_total / half_seconds, kScrubRateMin));
}

void ScrubPace::Spend(uint64_t bytes, uint64_t bytes_per_second, uint64_t now_ms) {
  rest_ += bytes * 1'000;
  next_ms_ = std::max(next_ms_, now_ms) + rest_ / bytes_per_second;
  rest_ %= bytes_per_second;
}

}  // namespace tessera::sds
