// Writes that were taken without their data, for want of space (docs/REPLICATION.md, "A write"):
// the sequence counts as taken, so that the order has no hole, and the answer is NO_SPACE.
//
// That answer can be lost with its stream. The writer sends the write again then, and plain
// DUPLICATE would let it count as done. So a replica remembers, across restarts, of each stream's
// newest generation the range of such writes, and answers a repeat from that range with NO_SPACE
// again. The range may cover writes whose data is here: their writer is told of less than there is,
// and has the replica brought up to date, or tells the application ENOSPC when all replicas say the
// same. The contrary, data missed and nobody told, can't happen.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_UNSERVED_WRITES_H_
#define TESSERA_SERVICES_SDS_UNSERVED_WRITES_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/types.h"
#include "services/sds/local_state.h"

namespace tessera::sds {

class UnservedWrites {
 public:
  // Each time that a range is written down it is taken to end this many sequences later, so that a
  // full device costs one commit for many writes.
  static constexpr uint64_t kAhead = 1024;

  // Makes a range durable; it replaces the stream's earlier one.
  using Persist = std::function<absl::Status(const UnservedRange&)>;
  UnservedWrites(const std::vector<UnservedRange>& persisted, Persist persist);

  // The write will be taken without its data. Durable when OK; an error: nothing has changed.
  [[nodiscard]] absl::Status Note(const chunk::StreamId& stream, const chunk::Version& version);
  // Whether the data of a write that was taken may be missing.
  [[nodiscard]] bool MayLack(const chunk::StreamId& stream, const chunk::Version& version) const;

 private:
  struct Range {
    uint64_t generation = 0;
    uint64_t first = 0;
    uint64_t last = 0;
    uint64_t durable_last = 0;
  };
  const Persist persist_;
  mutable absl::Mutex mutex_;  // held while persisting
  // By volume and placement group.
  absl::flat_hash_map<std::pair<uint64_t, uint64_t>, Range> ranges_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_UNSERVED_WRITES_H_
