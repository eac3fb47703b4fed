// One run of the crash test, from the inside: the store, the model that knows what it must hold,
// and the simulated disk under it. For store_crash_operations.cc (what a caller does),
// store_crash_layers.cc (what it does with layers), store_crash_changes.cc (what it asks about
// their differences) and store_crash_run.cc (what befalls it) alone.
//
// Threads: one.
#ifndef TESSERA_LIBCHUNK_STORE_CRASH_HISTORY_H_
#define TESSERA_LIBCHUNK_STORE_CRASH_HISTORY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "libchunk/seeded_random.h"
#include "libchunk/sim_disk.h"
#include "libchunk/store.h"
#include "libchunk/store_crash_run.h"
#include "libchunk/store_model.h"

namespace tessera::chunk {

// Few keys and small chunks, so that changes meet.
inline constexpr char kFolder[] = "/device";
inline constexpr uint32_t kChunkBytes = 256u << 10;
inline constexpr uint32_t kSectorsInChunk = kChunkBytes / kSectorBytes;
inline constexpr uint32_t kBlocksInChunk = kChunkBytes / kBlockBytes;
inline constexpr uint64_t kPlacementGroups = 2;
inline constexpr uint64_t kVtrees = 3;
inline constexpr uint64_t kChunksOfVtree = 4;
inline constexpr size_t kVolumesOfVtree = 3;
inline constexpr size_t kBatchMax = 8;
inline constexpr uint64_t kOperationsBetweenTroublesMax = 400;

[[nodiscard]] inline absl::Status Violation(const std::string& text) {
  return absl::FailedPreconditionError(text);
}

// What a change in a batch was made of; outlives the call.
struct PlannedChange {
  Change change;
  std::optional<LayerPath> path;  // change.path is set to it when the change is in its place
  std::vector<uint64_t> stamps;
  std::vector<std::byte> bytes;
  std::vector<std::span<const std::byte>> slices;
  bool valid = true;
};

// A volume of a vtree: what it sees, and from which layer on its branch is its own.
struct CrashVolume {
  LayerPath path;
  uint32_t floor = 0;
};

class CrashRun {
 public:
  CrashRun(const CrashRunOptions& options, CrashRunStatistics& statistics)
      : options_(options),
        statistics_(statistics),
        random_(options.seed),
        disk_({.seed = options.seed ^ 0x5deece66du}),
        model_(kChunkBytes),
        volumes_(kVtrees, std::vector<CrashVolume>(1)) {}

  absl::Status Run();

 private:
  // ---- Operations (store_crash_operations.cc). Each returns OK or the promise that it saw
  // broken.
  absl::Status Operate();
  absl::Status DoApply();
  absl::Status DoRead();
  absl::Status DoReadCached();
  absl::Status DoMap();
  absl::Status DoAcknowledgeLoss();
  absl::Status DoFlush();
  absl::Status DoBackgroundWork();
  absl::Status DoCopyImage();
  absl::Status StageImage();
  absl::Status ApplyStagedImage();
  absl::Status DropStaged();
  absl::Status DoDelete();
  absl::Status DoCursor();
  absl::Status DoDropAll();
  absl::Status DoObserve();

  // ---- The same, of layers (store_crash_layers.cc).
  absl::Status DoLayers();
  // A snapshot raises the floor of a volume; a clone begins a branch.
  void MakeSnapshotOrClone();
  absl::Status DropSome();
  // Drops `keys`, layers of one chunk, and has the model follow.
  absl::Status DropLayers(const std::vector<ChunkKey>& keys);
  absl::Status DropOneExactly(const ChunkKey& key);
  // Drops all layers of a chunk but some, which then hold all its space.
  absl::Status DropAllBut();
  absl::Status FollowDrop(std::vector<ChunkKey> keys);
  absl::Status CheckDataBytes();

  // ---- What differs between paths (store_crash_changes.cc).
  absl::Status DoChanges();
  absl::Status CheckChanges(const ChunkKey& key, const LayerPath* base_path, const LayerPath& path);
  // A path that ends in exactly this layer.
  static LayerPath PathTo(const ChunkKey& layer);

  CrashVolume& PickVolume(uint64_t vtree_id);
  // The path of a volume, or of a snapshot of it.
  LayerPath PickPath(uint64_t vtree_id);
  // Gives the change a path and a floor.
  void PlanPath(PlannedChange& planned);
  // The layer to read: the key's own, or the newest on the path.
  std::optional<ChunkKey> Seen(const ChunkKey& key, const LayerPath* path) const;

  PlannedChange PlanChange();
  void PlanRange(PlannedChange& planned);
  ChunkKey PickKey();
  StreamId StreamOf(const ChunkKey& key) const;
  Version NextVersion() { return {1 + sequence_ / 1000, ++sequence_}; }
  uint64_t Stamp(uint32_t sector) { return (stamp_ << 16) | (sector + 1); }

  // After a change to the model and a call for it: keeps, takes back or leaves the model's steps
  // from `before` on as in flight, by what the call returned.
  absl::Status Settle(const std::string& what, size_t before, const absl::Status& status,
                      bool may_be_exhausted);
  // A failed read-like call is excused while trouble is at work.
  absl::Status Excuse(const std::string& what, const absl::Status& status);
  bool TroubleStruck() { return disk_.off() || disk_.fault_struck(); }
  bool StoreIsFailed() { return !store_->failed().ok(); }
  absl::Status CompareRange(const std::optional<ChunkKey>& key, uint32_t offset_bytes,
                            std::span<const std::byte> bytes);

  // ---- Troubles (store_crash_run.cc).
  Trouble PickTrouble();
  void Plan(Trouble trouble);
  absl::Status Endure(Trouble trouble);
  absl::Status CheckFailedStore();
  absl::Status PrepareDisk();
  // Where the blocks of the store are, on a device or in the data file.
  struct DataPlace {
    std::string path;
    uint64_t offset = 0, size_bytes = 0;
  };
  absl::StatusOr<DataPlace> FindData();
  absl::Status CheckSpaceGivenBack(const std::string& when);
  absl::Status Inspect();
  absl::Status Restart(bool close);
  absl::Status FlipAndRead();
  absl::Status RepairAll(std::span<const std::pair<ChunkKey, uint32_t>> bad);
  absl::Status Recover(bool lose_power, bool faults_struck);
  absl::Status OpenAndCheck(bool power_lost, size_t least, bool faults_struck, bool clean);
  void Stop(bool lose_power);
  void Trace(const std::string& line);

  const CrashRunOptions options_;
  CrashRunStatistics& statistics_;
  SeededRandom random_;
  SimulatedDisk disk_;
  StoreModel model_;
  StoreOptions store_options_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<StagedImage> staged_;  // not applied yet; never outlives the store
  ModelChunk staged_content_;
  std::vector<std::vector<CrashVolume>> volumes_;  // of each vtree
  uint32_t next_branch_ = 1;
  std::vector<ChunkKey> drops_in_flight_;  // may or may not have been dropped
  uint64_t incarnation_ = 0;
  uint64_t sequence_ = 0;
  uint64_t stamp_ = 0;
  bool device_is_tight_ = false;
  bool sync_failed_since_boot_ = false;
  // Whether an Open has said that volatile state was lost and nobody has acknowledged it.
  enum class Loss { kNone, kUntold, kUnknown };
  Loss loss_ = Loss::kNone;
  bool ended_ = false;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_STORE_CRASH_HISTORY_H_
