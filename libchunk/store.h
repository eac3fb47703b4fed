// The chunk store of one device: thin, checksummed, crash-safe chunks under a write-ahead journal.
// FORMAT.md in this folder has the bytes on disk and the argument for recovery.
//
// Promises
//  - Write: visible to reads at once; survives a crash of the process when it has returned;
//  survives
//    power loss once a Flush that began after it has returned OK.
//  - After power loss the store holds a prefix of the order in which changes returned (all changes
//  of
//    the store, one order), at least up to the last OK Flush. Never a mix, never half a change.
//  - Every 4 KiB block read has been checked against its CRC32C; a mismatch is DATA_LOSS and names
//    the block, never wrong bytes. The checksum covers chunk, block number and bytes, so a
//    misdirected or lost write shows too.
//  - An fsync or write error of the device is final: the store is failed (`failed()`), every later
//    change and flush returns FAILED_PRECONDITION; reads go on as far as the device answers.
//    Of an open store FAILED_PRECONDITION means this, and nothing else.
//    A full device is not a failure: RESOURCE_EXHAUSTED, nothing changed, and trims and deletes
//    still work.
//
//  - Layers of a chunk share the blocks that they have in common: a layer made from another copies
//    nothing, and a layer that another was made from (its *base*) is never changed.
//
// Threads: all methods may be called from any thread. Changes of one stream (StreamId) must come
// from one thread at a time, in version order; the store records them and does not judge them.
#ifndef TESSERA_LIBCHUNK_STORE_H_
#define TESSERA_LIBCHUNK_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libchunk/env.h"
#include "libchunk/types.h"

namespace tessera::chunk {

struct StoreOptions {
  // Power of two, 256 KiB to 4 MiB; fixed when the store is made, checked when it is opened.
  uint32_t chunk_bytes = 1u << 20;
  // Bytes of the device that the store may use; 0: the file system's free space (a folder) or what
  // the device has for data and journal (a block device). A test of a small device sets it.
  uint64_t capacity_bytes = 0;
  // Never given to new data: kept so that deletes, trims and checkpoints always work.
  uint64_t reserve_bytes = 64u << 20;
  // Preallocated when the store is made; small writes live here until the next checkpoint.
  uint64_t journal_bytes = 256u << 20;
  // Aligned writes of at least this many bytes go straight to fresh space.
  uint32_t direct_write_bytes = 32u << 10;
  // Cached chunk metadata (maps and checksums).
  uint64_t metadata_cache_bytes = 64u << 20;
  // False: the store starts no thread; Flush and RunBackgroundWork do everything in the caller (the
  // simulator). True: one flusher and one checkpointer thread.
  bool background_threads = true;
};

enum class ChangeKind : uint8_t {
  kWrite = 1,        // the bytes of `data`
  kWriteZeroes = 2,  // reads as zeros, space given back
  kTrim = 3,         // reads as zeros, space given back; same effect, told apart for statistics
  // A change of the range that can't be made here, because it cuts a block whose content is lost:
  // the content stays, version and cursor move, and the chunk is incomplete from now on.
  kMissed = 4,
  // With a path that sees the chunk only in layers of other branches: the layer of the key is made
  // from the newest of them, and has its content. Else nothing is made: version and cursor move
  // where the newest layer on the path could be changed in place, and the cursor alone otherwise.
  // The range says nothing.
  kAdopt = 5,
};

// One change of one chunk: a range that does not cross the chunk's end, 512-byte aligned.
//
// Without `path` it changes exactly the layer of the key. With it, key.layer is the *floor*, the
// first layer of the path's own branch that the writer has for itself: the newest layer on the path
// is changed in place when it is of that branch and not below the floor; else the layer key.layer
// is made, from the newest one on the path if there is one, and changed. (kAdopt makes it from a
// layer of another branch alone; where it is `incomplete` it is made as for a write.)
struct Change {
  ChunkKey key;
  const LayerPath* path = nullptr;  // valid until the call returns
  StreamId stream;
  Version version;
  ChangeKind kind = ChangeKind::kWrite;
  uint32_t offset_bytes = 0;
  uint32_t length_bytes = 0;
  // kWrite: slices with length_bytes bytes in all, valid until the call returns. Not copied where
  // the device can take them as they are.
  std::span<const std::span<const std::byte>> data;
  // The chunk here lacks earlier writes of the stream (this replica is being resynchronised): until
  // ApplyImage of it, its version is not to be trusted. Sticky: set in ChunkInfo::incomplete.
  // A layer that such a change makes has no base.
  bool incomplete = false;
  // Do not advance the stream's cursor (changes that the replica makes by itself, such as resync).
  // Not with kAdopt.
  bool keep_cursor = false;
};

struct ChunkInfo {
  ChunkKey key;
  uint64_t placement_group_id = 0;
  Version version;          // of the last change; kept when everything in it was trimmed
  bool incomplete = false;  // see Change::incomplete
  uint64_t mapped_bytes = 0;
  std::optional<uint64_t> base;  // the layer that it was made from and may share blocks with
  uint64_t own_bytes = 0;        // of the mapped ones, those that are not the base's
  // Dropped, and kept for what the layers made from it share with it: the rest of it is gone
  // (BlockPresence::kGone), and replicas of it need not have the same.
  bool pruned = false;
};

struct StreamCursor {
  StreamId stream;
  Version last;
};

// The content of one layer of a chunk at one moment.
struct ChunkImage {
  ChunkInfo info;
  std::vector<uint64_t> mapped;   // one bit a block, least significant first
  std::vector<std::byte> blocks;  // the mapped blocks, in order
  // Blocks that are as the layer info.base has them: in neither of the two above. Empty: none.
  std::vector<uint64_t> inherited;
  // Of the mapped blocks, those whose content is lost: zeros in `blocks`, and DATA_LOSS to readers
  // of the store that the image is applied to. One bit a block; empty: none.
  std::vector<uint64_t> unreadable;
};

// An image on its way into a store: its content is in free space that nothing refers to. Space that
// is not used for a chunk is free again when it is destroyed, which must be before the store is.
//
// Threads: a value.
class StagedImage {
 public:
  virtual ~StagedImage() = default;
  [[nodiscard]] virtual const ChunkImage& image() const = 0;
};

// How a staged image and what its chunk has here become one.
struct ImageMerge {
  // One block with other content than the image has there.
  struct Block {
    uint32_t block = 0;
    std::vector<std::byte> content;  // empty: zeros that take no space
  };
  Version version;              // of the result, unless the chunk's own is greater
  std::vector<uint64_t> keep;   // blocks whose present content stays: one bit a block; empty: none
  std::vector<Block> replaced;  // in order; none of them kept
};

// What a layer has of a block.
enum class BlockPresence : uint8_t {
  kZeros,   // reads as zeros and takes no space
  kMapped,  // a content
  // Nothing any more: the layer is pruned. It reads as zeros and may have been anything, so it is
  // no source, and equals whatever another replica has.
  kGone,
};

// One block as the metadata and, when it was looked at, the device have it.
struct BlockState {
  BlockPresence presence = BlockPresence::kZeros;
  bool readable = true;   // false: the device does not give the content that the checksum is of
  uint32_t checksum = 0;  // of a mapped block: over key, block number and content
};

// What ReadBlocks is to look at.
enum class BlockRead : uint8_t {
  kMetadata,  // every block counts as readable
  kVerify,    // the content, checked
};

// A run of a chunk's blocks at one moment.
struct ChunkBlocks {
  ChunkInfo info;
  uint32_t first_block = 0;
  std::vector<BlockState> states;
  // kVerify: all of the run; zeros for what is not mapped or not readable.
  std::vector<std::byte> content;
};

// What ReadImage gives of a layer that has a base.
enum class ImageContent : uint8_t {
  kOwn,    // its own blocks, and which ones it inherits
  kWhole,  // all of it, as if it had no base
};

struct Extent {
  uint32_t offset_bytes = 0;
  uint32_t length_bytes = 0;
  bool mapped = false;  // false: reads as zeros and takes no space
};

struct ChangedExtent {
  uint32_t offset_bytes = 0;
  uint32_t length_bytes = 0;
  bool mapped = false;   // false: reads as zeros and takes no space
  bool changed = false;  // false: equal in both
};

// Which blocks a layer has. One bit a block, least significant first.
struct LayerBlocks {
  uint64_t layer = 0;
  std::optional<uint64_t> base;
  uint32_t mapped_blocks = 0;
  uint32_t own_blocks = 0;          // of the mapped ones, those that are not the base's
  std::vector<uint64_t> mapped;     // empty where the chunk has no other layer
  std::vector<uint64_t> inherited;  // likewise: those that are the base's
};

// The layers of a chunk at one moment.
struct ChunkLayers {
  uint64_t chunk_index = 0;
  uint64_t placement_group_id = 0;
  std::vector<LayerBlocks> layers;  // ascending
};

struct StoreStats {
  uint64_t capacity_bytes = 0;  // that the store may use
  // Blocks, journal and metadata: what `du` says, to the block. With it the space of free blocks
  // that is kept for the next writes, at most 1 GiB and half of what is free.
  uint64_t used_bytes = 0;
  uint64_t data_bytes = 0;  // mapped blocks only; what layers share is counted once
  uint64_t chunks = 0;
  uint64_t journal_used_bytes = 0;
  uint64_t journal_bytes = 0;
  uint64_t writes = 0, write_bytes = 0, reads = 0, read_bytes = 0, flushes = 0, syncs = 0;
  uint64_t checkpoints = 0, checksum_errors = 0, recovered_records = 0;
};

// How the store was found by Open.
struct OpenReport {
  bool created = false;
  bool clean = false;  // closed by Close, nothing to recover
  // Changes that returned but were not flushed may be missing: the host has booted since the store
  // was last open, or the store can't tell. After a mere crash of the process this is false, unless
  // it was true before and nobody has acknowledged it.
  bool volatile_state_lost = false;
  uint64_t incarnation = 0;  // grows by at least one with every Open; durable before it returns
  uint64_t records_replayed = 0;
  bool tail_discarded = false;  // an incomplete record ended the journal: normal after power loss
};

class Store {
 public:
  // Opens the store in folder (or on block device) `path`, making it there when `path` is empty of
  // one. FAILED_PRECONDITION: in use, a block device that holds something else or is too small, or
  // made with other fixed options (the message says which);
  // DATA_LOSS: the metadata is damaged (what and where); INTERNAL: the device's error.
  // `env` must outlive the store.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Store>> Open(Env* env,
                                                                   const std::string& path,
                                                                   const StoreOptions& options);
  virtual ~Store() = default;  // as after a crash of the process, when Close was not called

  [[nodiscard]] virtual const OpenReport& open_report() const = 0;
  // Who has to know of lost volatile state has been told: the next Open says it no more. Durable
  // when it returns. The report of this Open stays.
  [[nodiscard]] virtual absl::Status AcknowledgeLoss() = 0;
  [[nodiscard]] virtual uint32_t chunk_bytes() const = 0;

  // Applies the changes in order, all or none of each, with one journal append where they fit.
  // `results[i]` is that of changes[i]: INVALID_ARGUMENT (bad range or data: says which),
  // RESOURCE_EXHAUSTED, DATA_LOSS (the range cuts a block that is bad: nothing was changed),
  // FAILED_PRECONDITION (failed device). After the first failed one, later
  // changes of the same stream are not applied (ABORTED). With a path INVALID_ARGUMENT also when it
  // does not see key.layer as one of its own branch. PERMISSION_DENIED: the layer to be changed is
  // the base of another or pruned, or the one to be made from it would be made from a pruned one.
  virtual void Apply(std::span<const Change> changes, std::span<absl::Status> results) = 0;

  // Reads the range into `out`. Ranges never written read as zeros. DATA_LOSS: checksum mismatch.
  // With a path it reads the newest layer on it, whatever key.layer is; zeros when there is none.
  [[nodiscard]] virtual absl::Status Read(const ChunkKey& key, const LayerPath* path,
                                          uint32_t offset_bytes, std::span<std::byte> out) = 0;
  // As Read when all of it is in memory, else UNAVAILABLE at once and `out` unspecified.
  [[nodiscard]] virtual absl::Status ReadCached(const ChunkKey& key, const LayerPath* path,
                                                uint32_t offset_bytes,
                                                std::span<std::byte> out) = 0;
  // Extents of the range in order, neighbours of one kind merged.
  [[nodiscard]] virtual absl::StatusOr<std::vector<Extent>> Map(const ChunkKey& key,
                                                                const LayerPath* path,
                                                                uint32_t offset_bytes,
                                                                uint32_t length_bytes) = 0;
  // What of the range may differ between what the two paths see of the chunk, from the metadata
  // alone: extents in order, neighbours of one kind merged. A block is equal when neither has it
  // mapped, or both have it from one write; so one that was written anew with the same content
  // counts as changed. Without a base: all that is mapped is changed. `mapped` is that of `path`.
  [[nodiscard]] virtual absl::StatusOr<std::vector<ChangedExtent>> Changes(
      const ChunkKey& key, const LayerPath* base_path, const LayerPath& path, uint32_t offset_bytes,
      uint32_t length_bytes) = 0;
  // The same of exactly one layer.
  [[nodiscard]] absl::Status Read(const ChunkKey& key, uint32_t offset_bytes,
                                  std::span<std::byte> out) {
    return Read(key, nullptr, offset_bytes, out);
  }
  [[nodiscard]] absl::Status ReadCached(const ChunkKey& key, uint32_t offset_bytes,
                                        std::span<std::byte> out) {
    return ReadCached(key, nullptr, offset_bytes, out);
  }
  [[nodiscard]] absl::StatusOr<std::vector<Extent>> Map(const ChunkKey& key, uint32_t offset_bytes,
                                                        uint32_t length_bytes) {
    return Map(key, nullptr, offset_bytes, length_bytes);
  }

  // Durable up to every change that returned before the call. One fdatasync serves all who wait.
  [[nodiscard]] virtual absl::Status Flush() = 0;
  // The same; `done` is called exactly once, on the flusher thread (or inline without threads).
  virtual void FlushAsync(std::function<void(absl::Status)> done) = 0;

  // ---- Resynchronisation and administration -------------------------------------------------
  // Chunks of a placement group after `after` in key order, at most `limit`.
  [[nodiscard]] virtual absl::StatusOr<std::vector<ChunkInfo>> ListChunks(
      uint64_t placement_group_id, std::optional<ChunkKey> after, size_t limit) = 0;
  [[nodiscard]] virtual absl::StatusOr<std::optional<ChunkInfo>> GetChunk(const ChunkKey& key) = 0;
  // NOT_FOUND when there is no such chunk. One moment: no change falls in between.
  [[nodiscard]] virtual absl::StatusOr<ChunkImage> ReadImage(const ChunkKey& key,
                                                             ImageContent content) = 0;
  // The run of blocks. Bad blocks are no error: each has its state. NOT_FOUND: no such chunk.
  [[nodiscard]] virtual absl::StatusOr<ChunkBlocks> ReadBlocks(const ChunkKey& key,
                                                               uint32_t first_block, uint32_t count,
                                                               BlockRead what) = 0;
  // Puts the content of a block back that the device does not give. In the order of changes, but
  // version, cursor and `incomplete` stay. The content must be what the chunk has there at
  // `version`: so its checksum is the one kept, unless the block was applied as unreadable. OK also
  // when the block reads well already. ABORTED: the chunk is not at `version`. INVALID_ARGUMENT:
  // the content is another than was written here. NOT_FOUND; else as a change. A block that the
  // layer shares is put back for all that share it.
  [[nodiscard]] virtual absl::Status RepairBlock(const ChunkKey& key, const Version& version,
                                                 uint32_t block,
                                                 std::span<const std::byte> content) = 0;
  // The part of applying an image that takes time: checksums, and its content on the device.
  // Changes nothing. INVALID_ARGUMENT: it maps more than a chunk, blocks without content, or
  // inherits without a base; RESOURCE_EXHAUSTED; else as a change.
  // `pace` is called before each piece of at most 64 KiB is written, and may take its time: so that
  // others get their turn; null: at once.
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<StagedImage>> StageImage(
      ChunkImage image, const std::function<void(uint64_t bytes)>& pace) = 0;
  // Makes the chunk equal to the image, but for what `merge` says. Its version becomes the greater
  // of both; `incomplete` is cleared. Takes its place in the order of changes like a Change; moves
  // no cursor. The chunk's base becomes the image's, or none; a kept block that it inherited from
  // another base becomes its own. NOT_FOUND: the base is not here whole. PERMISSION_DENIED: the
  // chunk is the base of another layer (which is to be deleted first).
  [[nodiscard]] virtual absl::Status ApplyStaged(std::unique_ptr<StagedImage> staged,
                                                 const ImageMerge& merge) = 0;
  // Both at once. `keep` as in ImageMerge.
  [[nodiscard]] absl::Status ApplyImage(ChunkImage image, std::span<const uint64_t> keep);
  // Forgets the chunk and gives its space back. In the order of changes. OK when there is none.
  // PERMISSION_DENIED: it is the base of another layer.
  [[nodiscard]] virtual absl::Status DeleteChunk(const ChunkKey& key) = 0;

  // ---- Layers that nobody sees any more ------------------------------------------------------
  // The layers of a chunk, in order.
  [[nodiscard]] virtual absl::StatusOr<std::vector<ChunkInfo>> ListLayers(uint64_t vtree_id,
                                                                          uint64_t chunk_index) = 0;
  // Chunks of the vtree after the one given (nullopt: from the first), in order, at most `limit`
  // and fewer when they have many layers: which blocks each layer has. Empty: there are no more.
  // From metadata alone, and it leaves what is cached for others where it is.
  [[nodiscard]] virtual absl::StatusOr<std::vector<ChunkLayers>> ListVtreeLayers(
      uint64_t vtree_id, std::optional<uint64_t> after_chunk_index, size_t limit) = 0;
  // What dropping the layer would free: its own blocks that no layer made from it shares. While
  // changes and drops of the chunk's layers come in, about what. NOT_FOUND: there is no such layer.
  [[nodiscard]] virtual absl::StatusOr<uint64_t> ExclusiveBytes(const ChunkKey& key) = 0;
  // Drops layers that nobody sees: no path will be used again that has one of them as its newest.
  // What a layer shares with one other becomes that one's own, and the layer is gone; when it
  // shares blocks with several it stays, pruned, with these blocks alone, and may be dropped again
  // when one of them has changed. Not in the order of changes: a change that is flushed later does
  // not bring it back, and one that is lost neither. Durable when it returns. `results[i]` is that
  // of keys[i]: OK, also when there is no such layer or it is pruned already; ABORTED: not just now
  // (a change that has come in between names it), try later; else the same for all. One
  // transaction, for which a checkpoint waits: some hundreds of layers at once, not thousands.
  virtual void DropLayers(std::span<const ChunkKey> keys, std::span<absl::Status> results) = 0;
  [[nodiscard]] absl::Status DropLayer(const ChunkKey& key) {
    absl::Status result;
    DropLayers(std::span(&key, 1), std::span(&result, 1));
    return result;
  }

  // Forgets all chunks and cursors of the vtree (of one placement group; 0: of all). May take
  // several journal records; resumable by calling it again.
  [[nodiscard]] virtual absl::Status DeleteVtree(uint64_t vtree_id,
                                                 uint64_t placement_group_id) = 0;

  // The last version taken in the stream; {0,0} when none. Recovered with the changes.
  [[nodiscard]] virtual Version Cursor(const StreamId& stream) = 0;
  [[nodiscard]] virtual std::vector<StreamCursor> Cursors(uint64_t placement_group_id) = 0;
  [[nodiscard]] virtual absl::Status SetCursor(const StreamId& stream, const Version& version) = 0;
  // Cursors of the placement group, all forgotten (the replica leaves it).
  [[nodiscard]] virtual absl::Status DropPlacementGroup(uint64_t placement_group_id) = 0;

  [[nodiscard]] virtual StoreStats stats() = 0;
  // OK, or why the device is failed.
  [[nodiscard]] virtual absl::Status failed() = 0;

  // Without background threads: does a checkpoint if one is due (or `force`).
  [[nodiscard]] virtual absl::Status RunBackgroundWork(bool force) = 0;
  // Reads and checks every block; calls `bad` for each that fails. For scrub and `tessera chunk`.
  [[nodiscard]] virtual absl::Status VerifyAll(
      const std::function<void(const ChunkKey&, uint32_t block, const absl::Status&)>& bad) = 0;
  // Checkpoint, flush, mark clean. No call may follow.
  [[nodiscard]] virtual absl::Status Close() = 0;
};

// Reads a store without changing it (it must not be open): for `tessera chunk`. Prints the
// superblock, journal records, chunks and problems as text lines to `line`.
enum class InspectDepth { kSummary, kChunks, kRecords, kVerify };
[[nodiscard]] absl::Status InspectStore(Env* env, const std::string& path, InspectDepth depth,
                                        const std::function<void(const std::string&)>& line);

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_STORE_H_
