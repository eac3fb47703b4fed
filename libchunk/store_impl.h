// The one implementation of Store. Its methods are spread over store.cc (open, close, flush,
// threads), store_apply.cc, store_install.cc, store_read.cc, store_changes.cc, store_layers.cc,
// store_drop.cc, store_admin.cc, store_image.cc, store_checkpoint.cc, store_space.cc,
// store_repair.cc, store_measure.cc and store_recovery.cc. FORMAT.md argues why it is safe; this
// header says how the parts share memory.
//
// Where a chunk's state is: *active* overlay (changes since the last freeze), *frozen* overlay
// (what a checkpoint is moving, or null), *row* (the database, by way of the cache). A checkpoint
// changes the row while the frozen overlay lies over it, so a reader may see the row before or
// after: the answer is the same. `base_epoch_` grows when the frozen overlay goes; a row loaded
// before that and not yet used is loaded again. Dropping layers changes rows with nothing over
// them: `drop_` has them as they were until all of it shows at once.
//
// Locks, in the order in which they may be nested:
//  - checkpoint_mutex_: one checkpoint at a time; held over its disk work.
//  - append_mutex_: one order of changes; held over the journal append, because the append is the
//    order.
//  - state_mutex_: overlays, cache, cursors, totals; held for look-ups only, never over disk.
// And, with none of these wanted inside: sync_mutex_ (held over fdatasync: who waits for it finds
// the work done), work_mutex_, failure_mutex_; and the locks inside Allocator and MetadataDatabase,
// which may be taken under any of the above.
#ifndef TESSERA_LIBCHUNK_STORE_IMPL_H_
#define TESSERA_LIBCHUNK_STORE_IMPL_H_

#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/allocator.h"
#include "libchunk/checksum.h"
#include "libchunk/device_env.h"
#include "libchunk/journal.h"
#include "libchunk/layer_lists.h"
#include "libchunk/metadata_cache.h"
#include "libchunk/metadata_database.h"
#include "libchunk/overlay.h"
#include "libchunk/store.h"
#include "libchunk/superblock.h"

namespace tessera::chunk {

// The names of a store's files in its folder.
struct StorePaths {
  explicit StorePaths(const std::string& folder);
  std::string folder, superblock, superblock_new, journal, data, database, creating;
};

// The store's place, opened and locked: a block device with an Env of its own, or (null) a folder.
struct StorePlace {
  std::unique_ptr<FolderLock> lock;
  std::unique_ptr<DeviceEnv> device;
};
// Of a store that is there already.
[[nodiscard]] absl::StatusOr<StorePlace> OpenPlace(Env* env, const std::string& path);

// Where a block's content is at one moment.
struct BlockSource {
  enum class Kind : uint8_t { kZero, kJournal, kDevice };
  uint64_t location = 0;  // journal position or device block
  uint32_t checksum = 0;
  Kind kind = Kind::kZero;
  bool inherited = false;  // not the chunk's own, but that of a layer it was made from
  friend bool operator==(const BlockSource&, const BlockSource&) = default;
};
using BlockSources = absl::InlinedVector<BlockSource, 16>;

// What a user is told of a chunk, and that there is none.
[[nodiscard]] ChunkInfo InfoOf(const ChunkKey& key, const ChunkSummary& summary);
[[nodiscard]] absl::Status NoChunk(const ChunkKey& key);
// vtree/chunk/layer
[[nodiscard]] std::string KeyText(const ChunkKey& key);

class StoreImpl final : public Store {
 public:
  // What Open has found or made before there is a store.
  struct Parts {
    Env* env = nullptr;  // where the files are: that of the caller, or `device`
    StoreOptions options;
    std::unique_ptr<FolderLock> folder_lock;
    std::unique_ptr<DeviceEnv> device;  // null: the store is in a folder
    std::unique_ptr<File> superblock_file;
    Superblock superblock;
    std::unique_ptr<Journal> journal;
    std::unique_ptr<File> data;
    std::unique_ptr<MetadataDatabase> database;
    std::string folder;
    OpenReport report;
  };

  explicit StoreImpl(Parts parts);
  ~StoreImpl() override;

  // Second half of Open: reads the metadata, replays the journal, makes the new incarnation durable
  // and starts the threads.
  [[nodiscard]] absl::Status Recover();

  const OpenReport& open_report() const override { return parts_.report; }
  absl::Status AcknowledgeLoss() override;
  uint32_t chunk_bytes() const override { return parts_.options.chunk_bytes; }
  void Apply(std::span<const Change> changes, std::span<absl::Status> results) override;
  absl::Status Read(const ChunkKey& key, const LayerPath* path, uint32_t offset_bytes,
                    std::span<std::byte> out) override;
  absl::Status ReadCached(const ChunkKey& key, const LayerPath* path, uint32_t offset_bytes,
                          std::span<std::byte> out) override;
  absl::StatusOr<std::vector<Extent>> Map(const ChunkKey& key, const LayerPath* path,
                                          uint32_t offset_bytes, uint32_t length_bytes) override;
  absl::StatusOr<std::vector<ChangedExtent>> Changes(const ChunkKey& key,
                                                     const LayerPath* base_path,
                                                     const LayerPath& path, uint32_t offset_bytes,
                                                     uint32_t length_bytes) override;
  absl::Status Flush() override;
  void FlushAsync(std::function<void(absl::Status)> done) override;
  absl::StatusOr<std::vector<ChunkInfo>> ListChunks(uint64_t placement_group_id,
                                                    std::optional<ChunkKey> after,
                                                    size_t limit) override;
  absl::StatusOr<std::optional<ChunkInfo>> GetChunk(const ChunkKey& key) override;
  absl::StatusOr<ChunkImage> ReadImage(const ChunkKey& key, ImageContent content) override;
  absl::StatusOr<ChunkBlocks> ReadBlocks(const ChunkKey& key, uint32_t first_block, uint32_t count,
                                         BlockRead what) override;
  absl::Status RepairBlock(const ChunkKey& key, const Version& version, uint32_t block,
                           std::span<const std::byte> content) override;
  absl::StatusOr<std::unique_ptr<StagedImage>> StageImage(
      ChunkImage image, const std::function<void(uint64_t bytes)>& pace) override;
  absl::Status ApplyStaged(std::unique_ptr<StagedImage> staged, const ImageMerge& merge) override;
  absl::Status DeleteChunk(const ChunkKey& key) override;
  absl::StatusOr<std::vector<ChunkInfo>> ListLayers(uint64_t vtree_id,
                                                    uint64_t chunk_index) override;
  absl::StatusOr<std::vector<ChunkLayers>> ListVtreeLayers(
      uint64_t vtree_id, std::optional<uint64_t> after_chunk_index, size_t limit) override;
  absl::StatusOr<uint64_t> ExclusiveBytes(const ChunkKey& key) override;
  void DropLayers(std::span<const ChunkKey> keys, std::span<absl::Status> results) override;
  absl::Status DeleteVtree(uint64_t vtree_id, uint64_t placement_group_id) override;
  Version Cursor(const StreamId& stream) override;
  std::vector<StreamCursor> Cursors(uint64_t placement_group_id) override;
  absl::Status SetCursor(const StreamId& stream, const Version& version) override;
  absl::Status DropPlacementGroup(uint64_t placement_group_id) override;
  StoreStats stats() override;
  absl::Status failed() override;
  absl::Status RunBackgroundWork(bool force) override;
  absl::Status VerifyAll(const std::function<void(const ChunkKey&, uint32_t block,
                                                  const absl::Status&)>& bad) override;
  absl::Status Close() override;

 private:
  class Staged;
  // Rows that a caller has loaded and that the cache may have let go.
  struct LoadedRows {
    absl::flat_hash_map<ChunkKey, SharedRow, ChunkKeyHash> rows;
    uint64_t epoch = 0;  // of all of them
  };
  // How far a look-up goes for a block that a row inherits. The row has place and checksum of it;
  // the layer that owns it has more when the block was found bad and is being put back.
  enum class Depth : uint8_t { kRow, kOwner };
  // What a look-up finds, all at one moment.
  struct Found {
    ChunkKey key;          // the layer looked at
    ChunkKey owner;        // the layer that the last block was found in
    ChunkSummary summary;  // of `key`
    BlockSources sources;
  };
  // The layer that a change goes to.
  struct Target {
    ChunkKey key;
    uint64_t base = kNoBase;  // what the layer is to be made from first
    bool nothing = false;     // the change leaves all layers as they are
    friend bool operator==(const Target&, const Target&) = default;
  };
  // A block that a change cuts: its present content, merged with the change's bytes.
  struct MergedBlock {
    ChunkKey key;
    uint32_t block = 0;
    Depth depth = Depth::kRow;
    BlockSource before;  // what the merge started from; still so when the record is appended
    std::unique_ptr<std::array<std::byte, kBlockBytes>> bytes;
  };
  // Neighbouring device blocks and the caller's bytes for them.
  struct DirectWrite {
    uint64_t first_block = 0, end_block = 0;
    PayloadSlices slices;
  };
  // Changes on their way into one journal record.
  struct Group {
    absl::InlinedVector<Operation, 4> operations;
    PayloadSlices payload;
    size_t payload_bytes = 0;
    size_t header_bytes = sizeof(RecordHeader);
    std::vector<MergedBlock> merged;
    std::vector<DeviceExtent> direct;        // not yet recorded: to be given back on failure
    std::vector<DirectWrite> direct_writes;  // still to be done
    uint64_t direct_bytes = 0;
    LoadedRows loaded;
    std::vector<LayerLists::Pin> pins;
    // Where changes with a path go; still so when the record is appended.
    std::vector<std::pair<const Change*, Target>> targets;
    // The base that an image finds at its chunk; still so when the record is appended.
    std::optional<std::pair<ChunkKey, std::optional<uint64_t>>> present_base;
    // Mapped blocks of the layers that InheritBlocks operations name.
    absl::flat_hash_map<ChunkKey, BlockBits, ChunkKeyHash> base_mapped;
    bool has_layers = false;  // a change with a path, or of a layer but 0
    bool repairs = false;     // changes no content: also of a layer that is a base
  };
  // Layers on their way out: what their chunks' rows were before.
  struct DropInProgress {
    absl::flat_hash_set<ChunkKey, ChunkKeyHash> keys;
    absl::flat_hash_map<ChunkKey, SharedRow, ChunkKeyHash> rows;
  };
  enum class Temperature { kAny, kCachedOnly };
  struct CursorValue {
    Version last;
    uint64_t vtree_id = 0;
  };

  uint32_t blocks_per_chunk() const { return parts_.options.chunk_bytes / kBlockBytes; }

  // ---- store.cc

  // Marks the store failed for good and returns `cause`; the first cause is kept.
  absl::Status Fail(const absl::Status& cause);
  // FAILED_PRECONDITION with the cause when the store is failed.
  absl::Status CheckAlive();
  absl::Status SyncUpTo(uint64_t lsn);
  void StartThreads();
  void StopThreads();
  void FlusherLoop();
  void CheckpointLoop();
  void RequestCheckpoint();
  void RequestWriteBack();
  void UpdateSpaceLimit();
  absl::StatusOr<uint64_t> MeasureUsedBytes();
  // On a block device. What holds data or is warm: the device itself knows of no space.
  uint64_t DataBytesOnDevice();
  // Rows fill half of the metadata's region; the other half is for logs, and for getting out again.
  bool MetadataIsFull();

  // ---- store_apply.cc

  absl::Status Validate(const Change& change) const;
  // Whether the change cuts a block that an operation of the group writes.
  bool DependsOnGroup(const Change& change, const Group& group) const;
  size_t ApplyGroup(std::span<const Change> changes, std::span<absl::Status> results,
                    size_t changes_max);
  // `change.key` is the layer that it goes to; what it cuts is merged with the content of `below`.
  absl::Status Prepare(const Change& change, const Target& target, Group* group);
  absl::Status PrepareWrite(const Change& change, const ChunkKey& below, Group* group);
  absl::Status PrepareZeroes(const Change& change, const ChunkKey& below, Group* group);
  // Adds the blocks to `operation` as direct write; false when there is no fresh space for them.
  absl::StatusOr<bool> PrepareDirect(uint32_t count, const PayloadSlices& slices, Group* group,
                                     Operation* operation);
  // Does the group's direct writes: one call for what lies side by side.
  absl::Status WriteDirect(Group* group);
  // Reads a block for merging; `bytes` of the result hold its present content.
  absl::StatusOr<MergedBlock> BeginMerge(const ChunkKey& key, uint32_t block);
  // The same writes, none of them long.
  static std::vector<DirectWrite> InPieces(std::span<const DirectWrite> writes);
  // Appends the group's record and makes it visible. ABORTED: a merged block has changed meanwhile,
  // prepare again.
  absl::Status Commit(Group* group);
  // What keeps a group from being committed and can be got.
  struct Shortage {
    std::optional<ChunkKey> row;    // to be loaded
    std::optional<ChunkId> layers;  // of which chunk they are to be loaded
    bool drop = false;              // a layer is being dropped: it is over soon
    bool journal = false;           // the journal or the overlay is full: a checkpoint empties it
    bool space = false;             // no device blocks, but a checkpoint frees some or saves them
  };
  // Does all of Commit or, with *shortage set, nothing.
  absl::Status CommitOnce(Group* group, Shortage* shortage);
  // The group's chunks are in the active overlay, its targets and merged blocks as they were, or
  // ABORTED, or the first three of *shortage.
  absl::Status FindRows(Group* group, Shortage* shortage)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  void GiveBack(Group* group);
  void GiveBack(std::span<const DeviceExtent> extents);
  // Frees journal and device space by a checkpoint, unless one has been done since `seen`.
  absl::Status MakeRoom(uint64_t seen);
  absl::Status LoadRowInto(const ChunkKey& key, LoadedRows* loaded);

  // ---- store_layers.cc

  // Whether the vtree may have layers besides 0.
  bool IsLayered(uint64_t vtree_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_) {
    return !layered_.empty() && layered_.contains(vtree_id);
  }
  // Where the change goes; nullopt: the chunk's layers must be loaded.
  std::optional<Target> FindTarget(const Change& change)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // The same from outside the lock.
  absl::StatusOr<Target> FindTargetLoading(const Change& change, Group* group);
  // Whether the change may be in the group's record: nothing in that has to be seen by it first.
  static bool MayJoin(const Target& target, const Group& group);
  // Whether the operation may be done to its layer as the layers are; or *shortage.
  absl::Status CheckLayers(const Group& group, size_t index, Shortage* shortage)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // Looks at the base that the operation names, for Install; or *shortage.
  absl::Status FindBase(Operation* operation, Group* group, Shortage* shortage)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // The newest state of a chunk in the overlays; null: it is all in the row.
  const OverlayChunk* FindOverlay(const ChunkKey& key) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // Makes the chunk's greatest layer known to layer_lists_, unless that takes the whole list.
  absl::Status LoadGreatestLayer(const ChunkId& chunk);
  // The list of the chunk's layers, which the cache keeps up to date as long as the pin is held.
  absl::StatusOr<LayerLists::Pin> LoadLayers(const ChunkId& chunk);
  // The chunk's layers, from the rows that were listed at `epoch` and the overlays; false: the rows
  // must be listed again.
  bool MergeLayers(const ChunkId& chunk, std::span<const ListedRow> rows, uint64_t epoch,
                   std::map<uint64_t, ChunkSummary>* layers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // All of the chunk's layers in the database.
  absl::StatusOr<std::vector<ListedRow>> ListLayerRows(const ChunkId& chunk);

  // ---- store_image.cc

  struct ImageRecord;
  absl::Status PrepareImage(const Staged& staged, const ImageMerge& merge, ImageRecord* record);
  // Adds what the chunk keeps and does not own: it leaves its base.
  absl::Status KeepAsOwn(const ChunkKey& key, const ImageMerge& merge, const Operation& start,
                         Group* group);

  // ---- store_install.cc

  // The active overlay's chunk, made from what lies below; null when the row must be loaded first.
  OverlayChunk* TouchChunk(const ChunkKey& key, const LoadedRows& loaded)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // Device blocks that the next checkpoint will need for the group's journal blocks.
  uint64_t BlocksToReserve(const Group& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // Whether the group would find more free blocks, or need fewer, after a checkpoint. So a change
  // that only replaces blocks (a trim that cuts them) always gets through on a full store.
  bool CheckpointGivesSpace(const Group& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // Makes one record's operations visible. `reserved` blocks were reserved for them; gives back
  // what they turn out not to need. TouchChunk has succeeded for all their chunks, FindBase for
  // their bases.
  void Install(const Group& group, uint64_t payload_position, uint64_t reserved)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  void InstallBlocks(const Operation& operation, uint64_t payload_position, OverlayChunk* chunk,
                     int64_t* reserved) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // Makes the block's entry one of this kind, and counts what that changes.
  OverlayEntry* ReplaceEntry(OverlayChunk* chunk, uint32_t block, EntryKind kind, int64_t* reserved)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // Forgets all entries: what is reserved or was written for them is free.
  void ClearEntries(OverlayChunk* chunk, int64_t* reserved)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  void InstallInherit(const Operation& operation, const BlockBits& base_mapped, OverlayChunk* chunk,
                      int64_t* reserved) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // The chunk has another base from now on, or none: what it has of the old one reads as zeros.
  void LeaveBase(OverlayChunk* chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  void InstallDelete(const ChunkKey& key, OverlayChunk* chunk, int64_t* reserved)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  void InstallSummary(const Operation& operation, OverlayChunk* chunk)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  void InstallCursors(const Operation& operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);

  // ---- store_read.cc

  // The row as the cache or the caller has it; null when it must be loaded.
  const ChunkRow* RowAtHand(const ChunkKey& key, const LoadedRows* loaded)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // Finds the blocks of exactly this layer; nullopt, or the chunk whose row must be loaded.
  std::optional<ChunkKey> LookUp(const ChunkKey& key, uint32_t first_block, uint32_t count,
                                 Depth depth, const LoadedRows* loaded, Found* found)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // The same of the newest layer on `path` (null: exactly key.layer); where there is none, nothing
  // exists. Never touches the disk: false when something must be loaded first.
  struct Missing {
    std::optional<ChunkKey> row;
    std::optional<ChunkId> layers;
  };
  bool LookUpOnPath(const ChunkKey& key, const LayerPath* path, uint32_t first_block,
                    uint32_t count, Depth depth, const LoadedRows* loaded, Found* found,
                    Missing* missing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // The same from outside the lock, loading what is needed.
  absl::Status LookUpLoading(const ChunkKey& key, const LayerPath* path, uint32_t first_block,
                             uint32_t count, Depth depth, Found* found);
  // A row from the database, put into the cache, current as of *epoch.
  absl::StatusOr<SharedRow> LoadRow(const ChunkKey& key, uint64_t* epoch);
  // Bytes [offset, offset + out) of the blocks `sources`, the first of which is number first_block.
  // DATA_LOSS names the first block whose checksum does not fit.
  absl::Status ReadSources(const ChunkKey& key, uint32_t first_block, const BlockSources& sources,
                           uint32_t skip_bytes, std::span<std::byte> out, Temperature temperature);
  absl::Status ReadRun(const BlockSource& first, std::span<std::byte> out, Temperature temperature);
  absl::Status ReadRange(const ChunkKey& key, const LayerPath* path, uint32_t offset_bytes,
                         std::span<std::byte> out, Temperature temperature);
  // One attempt of ReadImage.
  absl::Status ReadSourcesOf(const Found& found, ImageContent content, ChunkImage* image);
  absl::Status ValidateRange(uint64_t offset_bytes, uint64_t length_bytes) const;

  // ---- store_changes.cc

  // Finds the same blocks on both paths at one moment.
  absl::Status LookUpBoth(const ChunkKey& key, const LayerPath& base_path, const LayerPath& path,
                          uint32_t first_block, uint32_t count, Depth depth, Found* base,
                          Found* found);

  // ---- store_repair.cc

  // Fills in content and readable of the blocks.
  void VerifyBlocks(const ChunkKey& key, const BlockSources& sources, ChunkBlocks* blocks);
  // One attempt of RepairBlock; ABORTED also when the block has moved meanwhile.
  absl::Status TryRepair(const ChunkKey& key, const Version& version, uint32_t block,
                         std::span<const std::byte> content, bool* moved);

  // ---- store_admin.cc

  absl::Status CommitOperation(const Operation& operation);
  // Deletes the chunks, which are in order and with all their layers, the last one first.
  absl::Status DeleteChunks(std::span<const ChunkInfo> chunks);
  // Overlay chunks that fit the filter, by key; the newest summary of each.
  std::vector<ListedRow> ListOverlay(const RowFilter& filter, std::optional<ChunkKey> after)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  absl::StatusOr<std::vector<ChunkInfo>> ListMerged(const RowFilter& filter,
                                                    std::optional<ChunkKey> after, size_t limit);
  absl::Status VerifyChunk(
      const ChunkKey& key,
      const std::function<void(const ChunkKey&, uint32_t block, const absl::Status&)>& bad);

  // ---- store_checkpoint.cc

  struct Placement;  // what a checkpoint has done so far
  absl::Status Checkpoint() ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);
  // One attempt to move what is frozen.
  absl::Status MoveFrozen() ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);
  bool CheckpointDue();
  // False when there is nothing to checkpoint.
  bool Freeze() ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);
  absl::Status PlaceAll(Placement* placement) ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);
  absl::Status PlaceChunk(const ChunkKey& key, const OverlayChunk& chunk, Placement* placement);
  // `base`: the row of the chunk's base, where it inherits what is not in `before`.
  absl::Status PlaceBlocks(const OverlayChunk& chunk, const ChunkRow& before, const ChunkRow* base,
                           ChunkRow* after, Placement* placement);
  // A row as this checkpoint has it so far.
  absl::StatusOr<SharedRow> LoadRowForPlacing(const ChunkKey& key);
  // Layers that share an unreadable block which got a content again have its new checksum, too.
  absl::Status PassOnChecksums(const ChunkKey& key, const OverlayChunk& chunk,
                               const ChunkRow& before, const ChunkRow& after);
  absl::Status CopyFromJournal(const ChunkKey& key, const OverlayChunk& chunk,
                               const ChunkRow& after);
  absl::Status CommitMetadata(Placement* placement)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);
  // The blocks into the free-space bitmaps; holds `freed`, and says so.
  absl::Status PutSpace(std::vector<DeviceExtent>* freed, std::vector<DeviceExtent>* mapped,
                        bool* freed_held);
  void Thaw() ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);
  void UndoPlacement(Placement* placement);

  // ---- store_drop.cc

  struct Dropping;  // layers on their way out
  // Whether nothing that could still be replayed names the layer.
  bool MayDrop(const ChunkKey& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  // What becomes of the rows.
  absl::Status PlanDrop(const ChunkKey& key, Dropping* dropping);
  absl::Status CommitDrop(Dropping* dropping) ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);
  // All of it shows from now on.
  void ShowDrop(const Dropping& dropping) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  absl::Status Drop(Dropping* dropping) ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);

  // ---- store_measure.cc

  // The chunk's layers as they are; false, and *missing: rows that must be loaded first.
  bool CollectLayers(const ChunkId& chunk, const std::map<uint64_t, ChunkSummary>& layers,
                     const LoadedRows& loaded, ChunkLayers* out, std::vector<ChunkKey>* missing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_);
  absl::StatusOr<ChunkLayers> ReadChunkLayers(const ChunkId& chunk);
  // As LoadRowInto, past the cache.
  absl::Status LoadRowPastCache(const ChunkKey& key, LoadedRows* loaded);

  // ---- store_space.cc

  absl::Status Punch(std::span<const DeviceExtent> extents);
  // The blocks are free from now on: warm, or punched where there is enough that is warm.
  absl::Status ReleaseBlocks(std::span<const DeviceExtent> extents);
  static constexpr uint64_t kAllBlocks = ~uint64_t{0};
  // Gives the space of warm blocks back, at most so many; returns of how many.
  absl::StatusOr<uint64_t> GiveBackWarm(Allocator::Which which, uint64_t blocks_max);
  // Looks whether free blocks hold space that nobody knows of.
  absl::Status PlanSweep();
  absl::Status Sweep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);
  // Once an interval: gives back what was not used again, and some of what the sweep finds.
  absl::Status TidySpace() ABSL_EXCLUSIVE_LOCKS_REQUIRED(checkpoint_mutex_);

  // ---- store_recovery.cc

  absl::Status LoadMetadata();
  // Where the chain of live records from `start` ends, and the greatest durable lsn in it.
  struct Chain {
    JournalCursor end;
    uint64_t durable_lsn = 0;
    bool torn = false;  // ended by a record that is there in part
  };
  absl::StatusOr<Chain> WalkChain(const JournalCursor& start);
  // Applies the journal; returns where it ends.
  absl::StatusOr<Chain> Replay(const AppliedState& applied);
  // Whether the record's payload and direct data are whole. Errors are the device's.
  absl::StatusOr<bool> Verify(const LiveRecord& record);
  // Writes the record and its direct data again where they are. A sync that failed may have left
  // them in memory only, marked clean, and the next sync would say OK without writing them.
  absl::Status Rewrite(const LiveRecord& record);
  absl::Status ReplayRecord(const LiveRecord& record);
  absl::Status BeginIncarnation(const Chain& chain, uint64_t tail);

  Parts parts_;
  std::unique_ptr<Allocator> allocator_;  // made by LoadMetadata, const from then on

  absl::Mutex checkpoint_mutex_;
  JournalCursor frozen_end_ ABSL_GUARDED_BY(checkpoint_mutex_);
  std::vector<std::pair<StreamId, std::optional<CursorValue>>> frozen_cursors_
      ABSL_GUARDED_BY(checkpoint_mutex_);
  MetadataDatabase::Totals frozen_totals_ ABSL_GUARDED_BY(checkpoint_mutex_);
  MetadataDatabase::Totals row_totals_ ABSL_GUARDED_BY(checkpoint_mutex_);  // in the database
  // Device blocks that the sweep has still to look at.
  uint64_t sweep_next_ ABSL_GUARDED_BY(checkpoint_mutex_) = 0;
  uint64_t sweep_end_ ABSL_GUARDED_BY(checkpoint_mutex_) = 0;

  absl::Mutex append_mutex_ ABSL_ACQUIRED_AFTER(checkpoint_mutex_);
  Journal* const journal_;  // its appending half under append_mutex_
  bool direct_unsynced_ ABSL_GUARDED_BY(append_mutex_) = false;
  uint64_t direct_unsynced_bytes_ ABSL_GUARDED_BY(append_mutex_) = 0;
  uint64_t not_written_back_bytes_ ABSL_GUARDED_BY(append_mutex_) = 0;
  RecordBuilder builder_ ABSL_GUARDED_BY(append_mutex_);

  absl::Mutex state_mutex_ ABSL_ACQUIRED_AFTER(append_mutex_);
  std::unique_ptr<Overlay> active_ ABSL_GUARDED_BY(state_mutex_);
  std::unique_ptr<Overlay> frozen_ ABSL_GUARDED_BY(state_mutex_);
  MetadataCache cache_ ABSL_GUARDED_BY(state_mutex_);
  absl::flat_hash_map<StreamId, CursorValue, StreamIdHash> cursors_ ABSL_GUARDED_BY(state_mutex_);
  MetadataDatabase::Totals totals_ ABSL_GUARDED_BY(state_mutex_);
  absl::flat_hash_set<uint64_t> layered_ ABSL_GUARDED_BY(state_mutex_);  // see IsLayered
  LayerLists layer_lists_ ABSL_GUARDED_BY(state_mutex_);
  const DropInProgress* drop_ ABSL_GUARDED_BY(state_mutex_) = nullptr;  // DropLayers' own
  uint64_t base_epoch_ ABSL_GUARDED_BY(state_mutex_) = 1;

  absl::Mutex sync_mutex_;
  std::atomic<uint64_t> appended_lsn_ = 0;
  std::atomic<uint64_t> durable_lsn_ = 0;

  absl::Mutex work_mutex_;
  bool checkpoint_requested_ ABSL_GUARDED_BY(work_mutex_) = false;
  bool write_back_requested_ ABSL_GUARDED_BY(work_mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(work_mutex_) = false;
  struct FlushWaiter {
    uint64_t lsn;
    std::function<void(absl::Status)> done;
  };
  std::deque<FlushWaiter> flush_waiters_ ABSL_GUARDED_BY(work_mutex_);
  std::thread flusher_, checkpointer_;  // by Recover and Close or the destructor

  absl::Mutex
      superblock_mutex_;  // held over writing parts_.superblock, which happens once or twice

  absl::Mutex failure_mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(failure_mutex_);
  std::atomic<bool> is_failed_ = false;
  std::atomic<bool> closed_ = false;

  std::atomic<uint64_t> writes_ = 0, write_bytes_ = 0, reads_ = 0, read_bytes_ = 0, flushes_ = 0,
                        syncs_ = 0, checkpoints_ = 0, checkpoint_attempts_ = 0,
                        checksum_errors_ = 0;
  // Changes since the last freeze that will free blocks: a block each, or a chunk.
  std::atomic<uint64_t> freeable_ = 0;
  std::atomic<uint64_t> journal_used_bytes_ = 0, overlay_entries_ = 0, overlay_chunks_ = 0;
  std::atomic<bool> space_is_tight_ = false;  // as of the last checkpoint
  // A layer in the active overlay was made from one that was made from one, and so on: reads go
  // through all of them.
  std::atomic<bool> overlay_is_deep_ = false;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_STORE_IMPL_H_
