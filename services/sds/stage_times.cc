#include "services/sds/stage_times.h"

#include <algorithm>

namespace tessera::sds {
namespace {

uint64_t Since(uint64_t then_nanos, uint64_t now_nanos) {
  return now_nanos - std::min(now_nanos, then_nanos);
}

uint32_t Micros(uint64_t nanos) {
  return static_cast<uint32_t>(std::min<uint64_t>(nanos / 1000, UINT32_MAX));
}

}  // namespace

uint64_t FillStageTimes(const Arrival& arrival, const StoreWork& work, v1::StageTimes* times) {
  const uint64_t judged = arrival.arrived_nanos + arrival.token_nanos;
  const uint64_t held = arrival.begun_nanos == 0 ? 0 : Since(judged, arrival.begun_nanos);
  const uint64_t began = std::max(work.began_nanos, judged + held);
  const uint64_t worked = work.journal_nanos + work.memory_nanos + work.disk_nanos +
                          work.flush_wait_nanos + work.flush_sync_nanos;
  times->set_away_micros(Micros(arrival.away_nanos));
  times->set_queue_micros(Micros(began - judged - held));
  times->set_token_micros(Micros(arrival.token_nanos));
  times->set_held_micros(Micros(held));
  times->set_journal_micros(Micros(work.journal_nanos));
  times->set_memory_micros(Micros(work.memory_nanos));
  times->set_disk_micros(Micros(work.disk_nanos));
  times->set_flush_wait_micros(Micros(work.flush_wait_nanos));
  times->set_flush_sync_micros(Micros(work.flush_sync_nanos));
  return began + worked;
}

uint64_t FlushTimeline::Done(uint64_t asked_nanos, uint64_t now_nanos) {
  // Of the same sync as the one before: that had not begun yet when this was asked for.
  if (sync_began_nanos_ != 0 && asked_nanos <= sync_began_nanos_) return sync_began_nanos_;
  sync_began_nanos_ = std::min(std::max(asked_nanos, sync_ended_nanos_), now_nanos);
  sync_ended_nanos_ = now_nanos;
  return sync_began_nanos_;
}

}  // namespace tessera::sds
