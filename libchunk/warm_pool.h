// Free device blocks that still hold space in the data file (FORMAT.md, "Space of free blocks").
// Only which blocks, not what is done with them: that is the allocator's.
//
// Threads: needs the caller's lock (the allocator's).
#ifndef TESSERA_LIBCHUNK_WARM_POOL_H_
#define TESSERA_LIBCHUNK_WARM_POOL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/btree_map.h"
#include "libchunk/journal_record.h"

namespace tessera::chunk {

class WarmPool {
 public:
  uint64_t blocks() const { return blocks_; }
  size_t extents() const { return extents_.size(); }

  // Adds blocks that are not in it, joined with neighbours, as just used.
  void Add(const DeviceExtent& extent);
  // Forgets what it has of the range.
  void Remove(const DeviceExtent& extent);
  // The first block of a run of `count`, at or after `from` and then from the beginning. It looks
  // at a bounded number of extents, so a run may be missed where there are only small ones.
  std::optional<uint64_t> FindRun(uint64_t from, uint64_t count) const;
  // The first extent at or after `from`, else the very first. Requires blocks() > 0.
  DeviceExtent ExtentAt(uint64_t from) const;
  // The run of warm or of not warm blocks that begins at `from`.
  struct Run {
    bool warm = false;
    uint64_t end = 0;
  };
  Run RunAt(uint64_t from) const;

  // Time goes on by one.
  void Age() { ++now_; }
  // Extents not used for `age` and longer, or any (age 0), at most `blocks_max` blocks in all. They
  // stay in the pool.
  std::vector<DeviceExtent> Unused(uint64_t age, uint64_t blocks_max) const;

 private:
  struct Extent {
    uint64_t count = 0;
    uint64_t used_at = 0;
  };
  using Extents = absl::btree_map<uint64_t, Extent>;  // by first block

  Extents extents_;
  uint64_t blocks_ = 0;
  uint64_t now_ = 0;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_WARM_POOL_H_
