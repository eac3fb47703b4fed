// What is where in the cache's file, and what makes room for what.
//
// A slot of the file holds one line, some of whose blocks are valid. Eviction is a clock: a hand
// goes over the slots, takes one from the counter of each that was used since, and takes the first
// that has none left (the main queue of S3-FIFO, see ghost_list.h, as a ring), or the last of many
// that were all used. A line of a space that was dropped counts as unused; dropping costs nothing.
//
// Each change of a slot that could make an answer about it untrue gives it another version, so that
// what was begun before (a read or write of the file) is known to be void.
//
// Memory, all of it from the beginning: 96 bytes a slot and at most 12 to find it, for 64 KiB;
// GhostList has 24 and 12.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_CACHE_LINE_INDEX_H_
#define TESSERA_SERVICES_SDC_CACHE_LINE_INDEX_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "services/sdc/cache/cache_geometry.h"
#include "services/sdc/cache/hash_chains.h"

namespace tessera::sdc {

using LineChecksums = std::array<uint32_t, kCacheBlocksInLine>;

// A slot as it was at some moment.
struct SlotRef {
  uint32_t slot = 0;
  uint32_t version = 0;
};

// For the next life of the process.
struct SavedLine {
  uint32_t slot = 0;
  CacheLineKey key;
  BlockMask valid = 0;
  LineChecksums checksums{};
};

class LineIndex {
 public:
  // REQUIRES: slots > 0.
  explicit LineIndex(uint32_t slots) : slots_(slots), chains_(slots) {}

  // A space that was never used.
  [[nodiscard]] CacheSpace NewSpace();
  // None of its lines is found again.
  void DropSpace(CacheSpace space);

  // The slot, when all of the blocks are valid; that counts as a use.
  [[nodiscard]] std::optional<SlotRef> Find(const CacheLineKey& key, BlockMask blocks);
  // Whether the line has a slot.
  [[nodiscard]] bool Has(const CacheLineKey& key) const {
    return PlaceOf(key) != HashChains::kNone;
  }
  // Of the blocks, those that are neither valid nor being filled.
  [[nodiscard]] BlockMask Lacking(const CacheLineKey& key, BlockMask blocks) const;

  // The line's slot, for which another line may have to go, about to be filled with the blocks.
  [[nodiscard]] SlotRef BeginFill(const CacheLineKey& key, BlockMask blocks);
  // The file has them. Without effect when the slot has changed.
  void Filled(const SlotRef& ref, BlockMask blocks, const LineChecksums& checksums);
  // The file could not take them. Likewise.
  void NotFilled(const SlotRef& ref, BlockMask blocks);

  // The blocks are not what they were.
  void Invalidate(const CacheLineKey& key, BlockMask blocks);
  // The same for whole lines [first, end) of a space.
  void InvalidateLines(CacheSpace space, uint64_t first, uint64_t end);

  [[nodiscard]] bool Unchanged(const SlotRef& ref) const {
    return slots_[ref.slot].version == ref.version;
  }
  // REQUIRES: Unchanged(ref).
  [[nodiscard]] uint32_t checksum(const SlotRef& ref, uint32_t block) const {
    return slots_[ref.slot].checksums[block];
  }

  [[nodiscard]] uint32_t slots() const { return static_cast<uint32_t>(slots_.size()); }
  // Valid blocks of spaces that are not dropped.
  [[nodiscard]] uint64_t used_blocks() const { return used_blocks_; }
  // Valid blocks that made room for others.
  [[nodiscard]] uint64_t evicted_blocks() const { return evicted_blocks_; }

  [[nodiscard]] std::vector<SavedLine> Save() const;
  // REQUIRES: nothing was done yet. Lines that make no sense or are of no such space are left out.
  void Restore(const std::vector<CacheSpace>& spaces, const std::vector<SavedLine>& lines);

 private:
  struct Slot {
    CacheLineKey key;
    LineChecksums checksums{};
    uint32_t version = 0;
    BlockMask valid = 0;
    BlockMask filling = 0;
    uint8_t uses = 0;
    bool taken = false;
  };
  static constexpr uint8_t kUsesMax = 3;
  static constexpr int kHandStepsMax = 1024;  // of one call

  // kNone: it has none.
  [[nodiscard]] uint32_t PlaceOf(const CacheLineKey& key) const;
  void Name(uint32_t place, const CacheLineKey& key);
  [[nodiscard]] uint32_t TakeSlot();
  void Clear(uint32_t place);
  void Lose(Slot& slot, BlockMask blocks);

  std::vector<Slot> slots_;
  HashChains chains_;                                 // of slots that are taken, by key
  absl::flat_hash_map<CacheSpace, uint64_t> spaces_;  // not dropped: their valid blocks
  CacheSpace last_space_ = 0;
  uint32_t untouched_ = 0;  // slots from here on were never taken
  uint32_t hand_ = 0;
  uint64_t used_blocks_ = 0;
  uint64_t evicted_blocks_ = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CACHE_LINE_INDEX_H_
