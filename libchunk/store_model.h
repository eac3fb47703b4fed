// What a Store must hold, kept so simply that it is obviously right: the judge of the crash tests.
//
// A chunk is one stamp for each of its sectors: 0 for zeros, else a number that names the one write
// and sector that it came from (FillSector turns it into 512 bytes, StampOfSector back). So a
// sector that is torn, lost, misdirected or resurrected cannot look right.
//
// Every change is a step from one state to the next. The steps since the last flush are remembered,
// each with what it replaced; so any prefix of them can be compared with what a store holds after a
// crash, and the model can go back to it.
//
// Threads: one.
#ifndef TESSERA_LIBCHUNK_STORE_MODEL_H_
#define TESSERA_LIBCHUNK_STORE_MODEL_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libchunk/store.h"
#include "libchunk/types.h"

namespace tessera::chunk {

// The 512 bytes that stamp stands for, and back; nullopt when no stamp makes these bytes.
void FillSector(uint64_t stamp, std::span<std::byte, kSectorBytes> out);
[[nodiscard]] std::optional<uint64_t> StampOfSector(std::span<const std::byte, kSectorBytes> bytes);

struct ModelChunk {
  uint64_t placement_group_id = 0;
  Version version;
  bool incomplete = false;
  std::vector<uint64_t> stamps;  // one a sector
  std::vector<bool> mapped;      // one a block
  std::optional<uint64_t> base;
  std::vector<bool> inherited;  // one a block: mapped, and the base's
  bool pruned = false;
  friend bool operator==(const ModelChunk&, const ModelChunk&) = default;
  [[nodiscard]] uint64_t mapped_blocks() const;
  [[nodiscard]] uint64_t own_blocks() const;
};
// Shared by the state and the steps that remember it; never changed once made. Null: no such chunk.
using ModelChunkPointer = std::shared_ptr<const ModelChunk>;

struct ModelCursor {
  Version last;
  uint64_t vtree_id = 0;  // of the change that set it; 0 when SetCursor made it
};

struct ModelState {
  std::map<ChunkKey, ModelChunkPointer> chunks;
  std::map<StreamId, ModelCursor> cursors;
};

class StoreModel {
 public:
  explicit StoreModel(uint32_t chunk_bytes);

  [[nodiscard]] const ModelState& state() const { return state_; }
  [[nodiscard]] ModelChunkPointer Find(const ChunkKey& key) const;
  // Device blocks: what layers share counts once.
  [[nodiscard]] uint64_t own_blocks() const { return own_blocks_; }

  // The newest layer of the chunk on the path.
  [[nodiscard]] std::optional<uint64_t> Newest(const LayerPath& path, uint64_t vtree_id,
                                               uint64_t chunk_index) const;
  // The layers of the key's chunk, in order.
  [[nodiscard]] std::vector<ChunkKey> Layers(const ChunkKey& key) const;
  [[nodiscard]] bool IsBase(const ChunkKey& key) const;
  struct Target {
    ChunkKey key;
    std::optional<uint64_t> base;  // what the layer is to be made from
    bool nothing = false;          // the change leaves all layers as they are
  };
  [[nodiscard]] Target TargetOf(const Change& change) const;
  // Whether a store must refuse the change, or the image, as the layers are.
  [[nodiscard]] bool MustRefuse(const Change& change) const;
  [[nodiscard]] bool MustRefuse(const ChunkKey& key, const ModelChunk& image,
                                const std::vector<bool>& taken) const;
  // Whether the change leaves a part of a block that its layer shares: a copy needs space then.
  [[nodiscard]] bool CutsInherited(const Change& change) const;
  // Blocks that the layers of the key's chunk given would need if there were no others: each block
  // that several of them share counts once.
  [[nodiscard]] uint64_t BlocksSeenBy(std::span<const ChunkKey> layers) const;

  // Each adds one step. `stamps`: one a sector of the change, for kWrite.
  void Apply(const Change& change, std::span<const uint64_t> stamps);
  // `image`: what the chunk becomes, by the rules of Store::ApplyImage.
  void ApplyImage(const ChunkKey& key, const ModelChunk& image, std::span<const uint64_t> keep);
  void DeleteChunk(const ChunkKey& key);
  void DeleteVtree(uint64_t vtree_id, uint64_t placement_group_id);
  void SetCursor(const StreamId& stream, const Version& version);
  void DropPlacementGroup(uint64_t placement_group_id);

  // A layer is dropped: no step, and none of the steps since the last flush can bring it back.
  // `found`: what the store has of it now; null when it is gone. An error when that is not right.
  absl::Status DropLayer(const ChunkKey& key, const ModelChunkPointer& found);

  // Steps since the last flush, and how many of them the store has acknowledged.
  [[nodiscard]] size_t steps() const { return steps_.size(); }
  [[nodiscard]] size_t acknowledged() const { return acknowledged_; }
  void AcknowledgeAll() { acknowledged_ = steps_.size(); }
  // Everything so far is durable: the steps are forgotten.
  void Flushed();
  // Goes back to the state after the first `count` steps, and forgets the others.
  void GoBackTo(size_t count);

  // Compares with what a store holds now: the greatest prefix of at least `least` steps that
  // `found` equals, or an error that says what differs from the state after the acknowledged ones.
  // A DeleteVtree or DropPlacementGroup beyond the prefix may have been done in part. On success
  // the model holds that state.
  [[nodiscard]] absl::StatusOr<size_t> AdoptPrefix(const ModelState& found, size_t least);

  // Whether a step since the last flush has touched the key's chunk, in whichever layer.
  [[nodiscard]] bool TouchedSinceFlush(const ChunkKey& key) const;

 private:
  struct ChunkStep {
    ChunkKey key;
    ModelChunkPointer before;
    ModelChunkPointer after;
  };
  struct CursorStep {
    StreamId stream;
    std::optional<ModelCursor> before;
    std::optional<ModelCursor> after;
  };
  struct Step {
    std::vector<ChunkStep> chunks;
    std::vector<CursorStep> cursors;
    bool divisible = false;  // may be found half done after a crash
  };

  ModelChunkPointer Put(const ChunkKey& key, ModelChunkPointer chunk);
  void PutCursor(const StreamId& stream, const std::optional<ModelCursor>& cursor);
  void AddChunk(Step& step, const ChunkKey& key, ModelChunkPointer after);
  void AddCursor(Step& step, const StreamId& stream, std::optional<ModelCursor> after);
  void UndoLast();
  // Every state of the key's chunk that is remembered, in whichever layer.
  void ForEachState(const ChunkKey& key,
                    const std::function<void(const ChunkKey&, ModelChunkPointer*)>& visit);
  // The first difference between the present state and `found`, in words; empty when equal.
  [[nodiscard]] std::string Difference(const ModelState& found) const;
  // True when what differs from `found` is only parts of the undone, divisible `step` that were
  // done.
  [[nodiscard]] bool DiffersOnlyBy(const ModelState& found, const Step& step) const;

  const uint32_t chunk_bytes_;
  ModelState state_;
  uint64_t own_blocks_ = 0;
  std::vector<Step> steps_;
  size_t acknowledged_ = 0;
};

// One layer as the store has it; null: there is none.
[[nodiscard]] absl::StatusOr<ModelChunkPointer> ObserveChunk(Store& store, const ChunkKey& key);

// What `store` answers for all its chunks and cursors in placement groups 1 to `placement_groups`.
// Chunks for which `whole` says false are only compared by their information: where that agrees
// with `expected`, its content is taken from there. DATA_LOSS when a sector is nothing that anybody
// wrote, or the store's answers contradict each other.
[[nodiscard]] absl::StatusOr<ModelState> ObserveStore(
    Store& store, uint64_t placement_groups, const ModelState& expected,
    const std::function<bool(const ChunkKey&)>& whole);

[[nodiscard]] std::string Describe(const ChunkKey& key);

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_STORE_MODEL_H_
