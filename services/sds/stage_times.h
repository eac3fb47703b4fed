// Where the server's part of an operation's time goes:
// docs/decisions/0013-where-latency-goes.md. Boot time, nanoseconds.
//
// Pure: time is passed in. Threads: values; the classes are their worker's.
#ifndef TESSERA_SERVICES_SDS_STAGE_TIMES_H_
#define TESSERA_SERVICES_SDS_STAGE_TIMES_H_

#include <cstdint>

#include "tessera/v1/chunk.pb.h"

namespace tessera::sds {

// How an operation came as far as to the store.
struct Arrival {
  uint64_t arrived_nanos = 0;
  uint64_t away_nanos = 0;   // StageTimes.away_micros
  uint64_t token_nanos = 0;  // how long its message's tokens took
  uint64_t begun_nanos = 0;  // 0: at once; else it was held until then
};

// What the store did for it, and when. What follows on another is a later part of the same time.
struct StoreWork {
  uint64_t began_nanos = 0;  // 0: it did nothing
  uint64_t journal_nanos = 0;
  uint64_t memory_nanos = 0;
  uint64_t disk_nanos = 0;
  uint64_t flush_wait_nanos = 0;
  uint64_t flush_sync_nanos = 0;
  uint64_t ended_nanos = 0;

  friend bool operator==(const StoreWork&, const StoreWork&) = default;
};

// All but `results` and the time until the reply leaves. Returns from when on that counts.
uint64_t FillStageTimes(const Arrival& arrival, const StoreWork& work, v1::StageTimes* times);

// How much of a flush's time was waiting for a sync that was under way: a store syncs for all who
// have come by then, and not twice at once.
class FlushTimeline {
 public:
  // A flush that was asked for at `asked_nanos` is done. Returns when its sync began. In the order
  // in which they are done.
  [[nodiscard]] uint64_t Done(uint64_t asked_nanos, uint64_t now_nanos);

 private:
  uint64_t sync_began_nanos_ = 0;  // the last one's
  uint64_t sync_ended_nanos_ = 0;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_STAGE_TIMES_H_
