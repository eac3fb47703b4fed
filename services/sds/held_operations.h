// Operations of clients that exceed their limits, until they may begin: one queue for each
// (volume, client) of a worker's streams, first in, first out, so that the order of a writer stays
// and nobody else waits.
//
// Bounded: nothing waits for longer than ClientLimit::kWaitMaxNanos, and what is kept of one client
// and of one stream has a limit; beyond it operations are refused.
//
// Threads: the worker's.
#ifndef TESSERA_SERVICES_SDS_HELD_OPERATIONS_H_
#define TESSERA_SERVICES_SDS_HELD_OPERATIONS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "services/sds/client_limits.h"
#include "services/sds/io_operation.h"
#include "services/sds/sds_metrics.h"

namespace tessera::sds {

class HeldOperations {
 public:
  // Of a stream: half of what it may have in flight, so that its other volumes go on.
  static constexpr size_t kStreamBytesMax = 8u << 20;

  // `begin` gets each operation when its time has come. `wake` calls ReleaseDue on the worker after
  // some time.
  HeldOperations(SdsMetrics* metrics, std::function<void(IoOperationRef)> begin,
                 std::function<void(absl::Duration)> wake)
      : metrics_(metrics), begin_(std::move(begin)), wake_(std::move(wake)) {}

  enum class Outcome { kBegin, kHeld, kRefused };
  // Judges an operation whose token is good. kHeld: it was moved from.
  [[nodiscard]] Outcome Offer(IoOperationRef* operation, uint64_t now_nanos);
  void ReleaseDue(uint64_t now_nanos);
  // What waits begins now, and nothing is held any more: the server stops.
  void End(uint64_t now_nanos);
  [[nodiscard]] size_t size() const { return count_; }

 private:
  struct Held {
    IoOperationRef operation;
    uint64_t since_nanos = 0;
    uint64_t begin_nanos = 0;
  };
  struct Queue {
    std::shared_ptr<ClientLimit> limit;  // shared with grants
    std::deque<Held> waiting;
  };
  // A message is kept as a whole, once for each client: its operations follow each other.
  [[nodiscard]] static bool Keep(Queue* queue, const RequestBatch& batch);
  static IoOperationRef TakeFront(Queue* queue);
  void Wake(uint64_t now_nanos);

  SdsMetrics* const metrics_;
  const std::function<void(IoOperationRef)> begin_;
  const std::function<void(absl::Duration)> wake_;
  absl::flat_hash_map<const ClientLimit*, std::unique_ptr<Queue>> queues_;
  size_t count_ = 0;
  bool ended_ = false;
  uint64_t wake_nanos_ = UINT64_MAX;  // the next call of ReleaseDue; none
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_HELD_OPERATIONS_H_
