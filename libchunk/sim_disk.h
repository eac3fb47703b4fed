// A disk with its computer, simulated from a seed: it loses power, tears writes, fails, fills up
// and lies, exactly within the crash model of env.h, and the same way every time.
//
//   SimulatedDisk disk({.seed = 7});
//   disk.CrashAtChange(3);          // the third changing call from now is the last
//   ... use it as an Env: every call after that returns INTERNAL "the machine is off" ...
//   disk.LosePower();               // or CrashProcess(); both also start it again
//   ... open the files again: what was not synced is there wholly, in part or not at all ...
//
// A changing call is one that can change what a crash leaves behind: Write, SyncData, Allocate,
// PunchHole, Truncate, SyncFolder, Rename, Delete, and OpenFile and CreateFolder where they create.
// The changing call at which the crash falls is done wholly, in part (Write: a prefix) or not at
// all.
//
// After LosePower and CrashProcess, Files and FolderLocks from before are dead: each call returns
// INTERNAL. LosePower also changes BootId and starts the clock anew; CrashProcess keeps both.
//
// Threads: any; one lock over all. With one thread the same seed and calls give the same results.
#ifndef TESSERA_LIBCHUNK_SIM_DISK_H_
#define TESSERA_LIBCHUNK_SIM_DISK_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/env.h"
#include "libchunk/seeded_random.h"
#include "libchunk/sim_file_image.h"

namespace tessera::chunk {

enum class CallKind : uint8_t {
  kRead,
  kReadCached,
  kWrite,
  kSyncData,
  kAllocate,
  kPunchHole,
  kTruncate,
  kOpenFile,
  kCreateFolder,
  kSyncFolder,
  kRename,
  kDelete,
  kQuery,  // Size, AllocatedBytes, Exists, List, Space
  kLockFolder,
};
inline constexpr int kCallKindCount = 14;
[[nodiscard]] const char* CallKindName(CallKind kind);

enum class FaultKind : uint8_t {
  kInputOutputError,  // EIO: INTERNAL. A Write may have written a prefix; a SyncData failed as in
                      // SimulatedFileImage::FailSync; other calls have done nothing
  kNoSpace,           // ENOSPC: RESOURCE_EXHAUSTED from Write and Allocate; a Write may be in part
  kShortWrite,        // a Write writes at least one byte, not all, then EIO; else as EIO
};

struct SimulatedDiskOptions {
  uint64_t seed = 1;
  uint64_t capacity_bytes = uint64_t{1} << 40;
  uint64_t nanos_per_call = 10'000;
  // Of 16 ReadCached calls so many find the bytes in memory.
  uint32_t cached_reads_of_16 = 12;
};

class SimulatedDisk final : public Env {
 public:
  explicit SimulatedDisk(const SimulatedDiskOptions& options);
  ~SimulatedDisk() override;

  // ---- Env -----------------------------------------------------------------------------------
  [[nodiscard]] absl::StatusOr<std::unique_ptr<File>> OpenFile(const std::string& path,
                                                               OpenMode mode) override;
  [[nodiscard]] absl::Status CreateFolder(const std::string& path) override;
  [[nodiscard]] absl::Status SyncFolder(const std::string& path) override;
  [[nodiscard]] absl::Status Rename(const std::string& from, const std::string& to) override;
  [[nodiscard]] absl::Status Delete(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<bool> Exists(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<bool> IsBlockDevice(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<std::vector<std::string>> List(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<FileSystemSpace> Space(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<std::unique_ptr<FolderLock>> LockFolder(
      const std::string& path) override;
  [[nodiscard]] uint64_t NowNanos() override;
  [[nodiscard]] absl::StatusOr<std::string> BootId() override;

  // ---- Crashes -------------------------------------------------------------------------------
  // The nth changing call from now (1: the next) is the last before the machine is off.
  void CrashAtChange(uint64_t nth);
  void CancelCrash();
  // True from the crash until LosePower or CrashProcess.
  [[nodiscard]] bool off();
  // What programs did not sync is kept, lost or torn; without `style` each file draws its own.
  void LosePower(std::optional<LossStyle> style = std::nullopt);
  // Programs die, the kernel lives: everything written is kept.
  void CrashProcess();

  // ---- Faults --------------------------------------------------------------------------------
  // The nth call of the kind from now (any kind when nullopt) fails; `persistent`: and all after
  // it.
  void FailCall(std::optional<CallKind> kind, uint64_t nth, FaultKind fault,
                bool persistent = false);
  void CancelFault();
  // True when the planned fault has struck since FailCall.
  [[nodiscard]] bool fault_struck();
  // Flips the bits of `mask` in one byte, on the medium and for readers. NOT_FOUND; OUT_OF_RANGE.
  [[nodiscard]] absl::Status FlipBits(const std::string& path, uint64_t offset, std::byte mask);
  // SyncData returns OK and makes nothing durable: a disk that lies. For tests of the tests.
  void set_lying_sync(bool lying);
  void set_capacity_bytes(uint64_t capacity_bytes);
  void AdvanceClock(uint64_t nanos);
  // A block device of zeros at `path`, which is in no folder's way: its size stays, and it takes
  // none of the capacity. Not a call of the program that is tested.
  void AddBlockDevice(const std::string& path, uint64_t size_bytes);

  // ---- Sight ---------------------------------------------------------------------------------
  [[nodiscard]] uint64_t calls(CallKind kind);
  [[nodiscard]] uint64_t changes();  // changing calls so far
  [[nodiscard]] uint64_t used_bytes();

 private:
  class OpenedFile;
  class HeldLock;

  struct Node {
    SimulatedFileImage image;
    bool linked = true;  // has a name now; only then its pages count as used
    bool block_device = false;
  };
  struct FolderChange {
    enum class Kind : uint8_t { kCreateFile, kCreateFolder, kRename, kDelete };
    Kind kind;
    std::string path;  // of kRename: the new one
    std::string from;  // of kRename only
    std::shared_ptr<Node> node;
  };
  // What names lead to. Shared: a file that is open lives on without its name.
  struct Names {
    absl::btree_map<std::string, std::shared_ptr<Node>> files;
    absl::btree_map<std::string, bool> folders;
  };
  enum class Fate : uint8_t { kRun, kFail, kCrash };
  struct Verdict {
    Fate fate = Fate::kRun;
    FaultKind fault = FaultKind::kInputOutputError;
    absl::Status status;
  };

  // Counts the call, moves the clock and judges it.
  Verdict Begin(CallKind kind, const std::string& what, bool changes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // For a call that is done whole or not at all: whether to do it.
  bool Done(const Verdict& verdict) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Bytes of a write of `length_bytes` that happen under this verdict.
  uint64_t PrefixWritten(const Verdict& verdict, uint64_t length_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RecordChange(FolderChange change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void ApplyChange(const FolderChange& change, Names& names);
  bool FolderExists(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t AvailableBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Restart() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RecountUsed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The calls of OpenedFile.
  absl::Status ReadNode(Node& node, CallKind kind, const std::string& path, uint64_t epoch,
                        uint64_t offset, std::span<std::byte> out);
  absl::Status WriteNode(Node& node, const std::string& path, uint64_t epoch, uint64_t offset,
                         std::span<const std::span<const std::byte>> slices);
  absl::Status SyncNode(Node& node, const std::string& path, uint64_t epoch);
  absl::Status ReshapeNode(Node& node, CallKind kind, const std::string& path, uint64_t epoch,
                           uint64_t offset, uint64_t length_bytes);
  absl::StatusOr<uint64_t> QueryNode(Node& node, const std::string& path, uint64_t epoch,
                                     bool allocated);
  absl::Status CheckEpoch(const std::string& path, uint64_t epoch) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unlock(const std::string& path, uint64_t epoch);

  const SimulatedDiskOptions options_;
  absl::Mutex mutex_;
  SeededRandom random_ ABSL_GUARDED_BY(mutex_);
  uint64_t capacity_bytes_ ABSL_GUARDED_BY(mutex_);
  Names names_ ABSL_GUARDED_BY(mutex_);          // as programs see them
  Names durable_names_ ABSL_GUARDED_BY(mutex_);  // as the medium has them
  std::vector<FolderChange> unsynced_changes_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> locked_folders_ ABSL_GUARDED_BY(mutex_);
  uint64_t used_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 1;  // handles of an older one are dead
  uint64_t boot_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t now_nanos_ ABSL_GUARDED_BY(mutex_) = 1'000'000'000;
  bool off_ ABSL_GUARDED_BY(mutex_) = false;
  bool lying_sync_ ABSL_GUARDED_BY(mutex_) = false;

  uint64_t changes_until_crash_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: none planned
  std::optional<CallKind> fault_call_ ABSL_GUARDED_BY(mutex_);
  uint64_t calls_until_fault_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: none planned
  FaultKind fault_kind_ ABSL_GUARDED_BY(mutex_) = FaultKind::kInputOutputError;
  bool fault_persistent_ ABSL_GUARDED_BY(mutex_) = false;
  bool fault_struck_ ABSL_GUARDED_BY(mutex_) = false;

  std::array<uint64_t, kCallKindCount> calls_ ABSL_GUARDED_BY(mutex_) = {};
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_SIM_DISK_H_
