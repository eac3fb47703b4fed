// Gives out device blocks and counts space: what is in use, what is reserved, what is left.
//
// A block is *in use* from Allocate (or from the metadata of the last checkpoint) until Release,
// which the store calls when the checkpoint that frees the block is durable. Reservations are
// numbers only: a promise that a later Allocate will find a block. Free blocks are *warm* or cold:
// FORMAT.md, "Space of free blocks". A free block is *held* while its space is given back.
//
// Invariants
//  - in use + reserved <= limit after every successful Reserve (the limit may shrink later).
//  - in use + warm <= limit after every Allocate, if it was so before.
//  - A group whose state in memory differs from the database's stays in memory.
//
// Threads: any. The loader is called under the allocator's lock: a bitmap is read once a GiB.
#ifndef TESSERA_LIBCHUNK_ALLOCATOR_H_
#define TESSERA_LIBCHUNK_ALLOCATOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/group_bitmap.h"
#include "libchunk/journal_record.h"
#include "libchunk/warm_pool.h"

namespace tessera::chunk {

using DeviceExtents = absl::InlinedVector<DeviceExtent, 2>;

// Warm blocks at most (1 GiB), the extents that they may be in, and the intervals of AgeWarm
// after which they are unused.
inline constexpr uint64_t kWarmBlocksMax = 262'144;
inline constexpr size_t kWarmExtentsMax = 8192;
inline constexpr uint64_t kWarmAgeMax = 4;

class Allocator {
 public:
  // Reads a group's bitmap from the database.
  using Loader = std::function<absl::StatusOr<GroupBitmap>(uint64_t group_number)>;

  // `free_of_group[i]`: free blocks of group i, as the database has it; groups past the end are all
  // free. Blocks from `total_blocks` on, or the end of the last group if that is later, are never
  // given out, nor those from `end_block` on (a device's end).
  Allocator(uint64_t total_blocks, const std::vector<uint32_t>& free_of_group, Loader loader,
            uint64_t end_block = ~uint64_t{0});

  // Promises `count` blocks; false (and nothing changed) when they are not there.
  [[nodiscard]] bool Reserve(uint64_t count);
  void Unreserve(uint64_t count);
  // At most so many blocks may be in use or reserved.
  void SetLimit(uint64_t limit_blocks);

  // Turns `count` reserved blocks into blocks in use, contiguous where it can, beginning at `near`
  // if that is free, warm ones first. Waits for held blocks when there are no others. Errors are
  // the loader's.
  [[nodiscard]] absl::StatusOr<DeviceExtents> Allocate(uint64_t count,
                                                       std::optional<uint64_t> near);
  // Recovery: the blocks of a replayed direct write are in use. DATA_LOSS when one is already.
  [[nodiscard]] absl::Status MarkInUse(const DeviceExtent& extent);

  // Blocks given out since the last checkpoint whose owner is in the database now.
  void Committed(std::span<const DeviceExtent> extents);
  // Blocks in use that the coming commit frees: their groups stay in memory until Release. To be
  // called before the database's bitmaps change.
  [[nodiscard]] absl::Status HoldFreed(std::span<const DeviceExtent> extents);
  // The commit did not come about.
  void Unhold(std::span<const DeviceExtent> extents) { Committed(extents); }
  // Free and cold from now on. For blocks given out and never committed, those of HoldFreed, and
  // held ones.
  void Release(std::span<const DeviceExtent> extents);
  // Free and warm from now on, as many as may be: the rest, which is still in use, is returned.
  [[nodiscard]] std::vector<DeviceExtent> ReleaseWarm(std::span<const DeviceExtent> extents);
  // As Release of blocks that may have been written (so warm), and they are reserved again: an
  // Allocate undone.
  void ReturnToReserved(std::span<const DeviceExtent> extents);

  // ---- Giving space back: hold blocks, punch them, ReleaseHeld. -------------------------------
  enum class Which {
    kUnused,  // not reused for kWarmAgeMax intervals, or more than there may be
    kAll,
  };
  // Time for the warm blocks goes on by an interval.
  void AgeWarm();
  // Holds warm blocks, at most blocks_max; none: there are no such.
  [[nodiscard]] absl::StatusOr<std::vector<DeviceExtent>> HoldWarm(Which which,
                                                                   uint64_t blocks_max);
  // Holds the first run of cold blocks in [*from, end), at most a group's, and moves *from behind
  // it; count 0: there is none.
  [[nodiscard]] absl::StatusOr<DeviceExtent> HoldCold(uint64_t* from, uint64_t end);
  // They are free and cold.
  void ReleaseHeld(std::span<const DeviceExtent> extents);

  // Drops bitmaps that are not needed at the moment.
  void Trim();

  struct Space {
    uint64_t limit_blocks = 0, in_use_blocks = 0, reserved_blocks = 0;
    uint64_t warm_blocks = 0, held_blocks = 0;  // both free
  };
  Space space();

 private:
  struct Group {
    uint32_t free_blocks = kGroupBlocks;
    uint32_t uncommitted = 0;  // blocks whose state here and in the database differ
    std::unique_ptr<GroupBitmap> bitmap;
  };

  [[nodiscard]] absl::StatusOr<Group*> Load(uint64_t group_number)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Take(uint64_t group_number, const FreeRun& run, DeviceExtents* extents)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes free runs of at least `count_min` blocks, at most `count` blocks in all, from one group;
  // returns how many.
  [[nodiscard]] absl::StatusOr<uint64_t> TakeFromGroup(uint64_t group_number, uint32_t from,
                                                       uint32_t count_min, uint64_t count,
                                                       DeviceExtents* extents)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes free blocks, which may cross groups, and loads what it needs.
  [[nodiscard]] absl::Status TakeExtent(const DeviceExtent& extent, DeviceExtents* extents)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The steps of Allocate; each takes at most *remaining blocks and lowers it.
  [[nodiscard]] absl::Status TakeNear(uint64_t near, uint64_t* remaining, DeviceExtents* extents)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] absl::Status TakeWarm(uint64_t* remaining, DeviceExtents* extents)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] absl::Status TakeAny(uint64_t* remaining, DeviceExtents* extents)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t EndOfGroup(uint64_t group_number) const;
  uint64_t Limit() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t WarmMax() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The bitmaps' part of a release; the numbers in space_ are the caller's.
  uint64_t Free(std::span<const DeviceExtent> extents) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t total_blocks_;
  const Loader loader_;
  absl::Mutex mutex_;
  std::vector<Group> groups_ ABSL_GUARDED_BY(mutex_);
  uint64_t cursor_ ABSL_GUARDED_BY(mutex_) = 0;       // device block after the last one given out
  uint64_t warm_cursor_ ABSL_GUARDED_BY(mutex_) = 0;  // the same among warm ones
  WarmPool warm_ ABSL_GUARDED_BY(mutex_);
  Space space_ ABSL_GUARDED_BY(mutex_);
};

// Calls `visit(group_number, first_in_group, count)` for the parts of `extent` in each group.
template <typename Visit>
void ForEachGroupPart(const DeviceExtent& extent, const Visit& visit) {
  for (uint64_t block = extent.first_block, end = block + extent.count; block < end;) {
    const uint64_t first = block % kGroupBlocks;
    const uint64_t count = std::min<uint64_t>(kGroupBlocks - first, end - block);
    visit(block / kGroupBlocks, static_cast<uint32_t>(first), static_cast<uint32_t>(count));
    block += count;
  }
}

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_ALLOCATOR_H_
