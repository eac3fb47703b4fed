// The overlay: what changed since a checkpoint, by chunk and block. Reads look here before the
// chunk row. Its size is bounded by the journal and by the store's limit on entries.
//
// Threads: needs the caller's lock (the store's state lock), except that a frozen overlay no longer
// changes and may be read by the checkpoint without it.
#ifndef TESSERA_LIBCHUNK_OVERLAY_H_
#define TESSERA_LIBCHUNK_OVERLAY_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "libchunk/block_bits.h"
#include "libchunk/chunk_row.h"
#include "libchunk/journal_record.h"
#include "libchunk/key_hash.h"

namespace tessera::chunk {

enum class EntryKind : uint8_t {
  kJournal,    // location: position in the journal
  kDirect,     // location: device block
  kZero,       // reads as zeros
  kInherited,  // mapped, and as the base has it
};

struct OverlayEntry {
  uint64_t location = 0;
  uint32_t checksum = 0;
  uint16_t block = 0;
  EntryKind kind = EntryKind::kZero;
  // kJournal only: the checkpoint will need a fresh device block, and one is reserved.
  bool reserved = false;
};
static_assert(sizeof(OverlayEntry) == 16);

// Where the content of a block without an entry is.
enum class Below : uint8_t {
  kOlder,    // in what lies below: the older overlay, then the row
  kNothing,  // nowhere: deleted since
  kBase,     // in the base: made from it, or made equal to it, since
};

// What a block is to its chunk.
struct Shown {
  bool mapped = false;
  bool own = false;  // and not the base's
};

// One chunk as changed. What lies *below* (an older overlay, the row) is logically fixed while this
// lives: a checkpoint moves it but does not change it. Dropping a layer may turn blocks that the
// row inherits into its own; it adjusts below_own and the summary.
struct OverlayChunk {
  ChunkSummary summary;  // whole, as of the last change
  Below below = Below::kOlder;
  uint8_t depth = 0;         // of the overlay chunks that a look-up may go through by way of bases
  bool is_repaired = false;  // a bad block has its content again since
  BlockBits below_own;       // the row will own a device block after the checkpoint of all below
  BlockBits below_mapped;    // what blocks without an entry show
  std::vector<OverlayEntry> entries;  // by block, ascending

  [[nodiscard]] Shown Shows(const OverlayEntry* entry, uint32_t block) const {
    if (entry == nullptr) {
      return {below_mapped[block],
              below == Below::kOlder && below_mapped[block] && below_own[block]};
    }
    return {entry->kind != EntryKind::kZero,
            entry->kind == EntryKind::kJournal || entry->kind == EntryKind::kDirect};
  }
  const OverlayEntry* Find(uint32_t block) const;
  // The entry of `block`, made where there is none (kZero with block set); *added says so.
  OverlayEntry* FindOrAdd(uint32_t block, bool* added);
  // All blocks that are mapped.
  [[nodiscard]] BlockBits Mapped() const;
  // Those that the row will own after the checkpoint of this, too.
  [[nodiscard]] BlockBits OwnAfter() const;
};

struct Overlay {
  absl::flat_hash_map<ChunkKey, std::unique_ptr<OverlayChunk>, ChunkKeyHash> chunks;
  uint64_t entry_count = 0;  // of all chunks, plus a weight for each chunk and each deletion
  // Direct writes that were overwritten before a checkpoint: free once this overlay's is durable.
  std::vector<DeviceExtent> superseded;
  absl::flat_hash_set<StreamId, StreamIdHash> changed_cursors;
  // Layers but 0 of each chunk that are in `chunks`.
  absl::flat_hash_map<ChunkId, std::vector<uint64_t>, ChunkIdHash> layers;
  // Layers that an operation since the freeze names as base: a record that could be replayed needs
  // them.
  absl::flat_hash_set<ChunkKey, ChunkKeyHash> bases;

  OverlayChunk* Find(const ChunkKey& key) const {
    const auto found = chunks.find(key);
    return found == chunks.end() ? nullptr : found->second.get();
  }
  bool empty() const { return chunks.empty() && changed_cursors.empty(); }
};

// Appends a block to a list of extents, joining it to the last where it continues it.
void AddBlock(std::vector<DeviceExtent>* extents, uint64_t device_block);

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_OVERLAY_H_
