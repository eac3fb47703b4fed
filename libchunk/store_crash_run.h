// One seed of the crash test: operations on a Store over a SimulatedDisk, troubles planned among
// them, and after each the question whether the store still is what it promises (store.h):
//
//  - After a crash of the process: everything acknowledged is there; the operation in flight is in
//  or
//    out, whole; `volatile_state_lost` is false.
//  - After a loss of power: a prefix of the order, at least up to the last OK flush; when something
//    acknowledged is missing, `volatile_state_lost` says so. What was found once stays.
//  - After an I/O error in a change or flush: the store is failed, refuses changes, and reads no
//    wrong bytes; opened again it holds at least what it had flushed.
//  - A full store or device: RESOURCE_EXHAUSTED and nothing changed; trims and deletes go on.
//  - Closed, the data file occupies what is mapped, whatever crashes went before. After a failed
//    sync that is so once the store has been opened again and had time to sweep.
//  - Flipped bits: DATA_LOSS or the right bytes, never wrong ones.
//
// Crashes also fall into Open, so that recovery is recovered from. The same options give the same
// run.
//
// Threads: one; a run shares nothing with another.
#ifndef TESSERA_LIBCHUNK_STORE_CRASH_RUN_H_
#define TESSERA_LIBCHUNK_STORE_CRASH_RUN_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace tessera::chunk {

enum class Trouble : uint8_t {
  kProcessCrash,  // at a changing call of the disk
  kPowerLoss,     // at a changing call of the disk
  kCleanRestart,  // Close, perhaps a loss of power, Open
  kAbandon,       // the Store destroyed without Close, between operations
  kReadError,     // EIO of one read or question
  kWriteError,    // EIO or short write of one changing call
  kSyncError,     // EIO of one SyncData
  kNoSpace,       // ENOSPC of one call, or a device that is full from now on
  kFlippedBits,   // in the data file; ends the run
};
inline constexpr int kTroubleCount = 9;
[[nodiscard]] const char* TroubleName(Trouble trouble);

struct CrashRunOptions {
  uint64_t seed = 1;
  uint64_t operations = 1000;
  uint32_t troubles = (1u << kTroubleCount) - 1;  // one bit a Trouble
  bool trace = false;                             // each operation to stderr
  bool block_device = false;                      // the store is on a device, not in a folder
};

struct CrashRunStatistics {
  uint64_t operations = 0;
  uint64_t changes = 0;  // applied, one by one
  uint64_t reads = 0;
  uint64_t flushes = 0;
  uint64_t checkpoints = 0;
  uint64_t exhausted = 0;
  uint64_t refused = 0;  // as they would have changed a base or a pruned layer
  uint64_t snapshots = 0, clones = 0;
  uint64_t adopted = 0;                         // layers made by adopting
  uint64_t layers_gone = 0, layers_pruned = 0;  // of those dropped
  uint64_t opens = 0;
  uint64_t crashes_in_open = 0;
  uint64_t steps_lost = 0;   // acknowledged, not flushed, gone after a loss of power
  uint64_t data_losses = 0;  // reads refused for flipped bits
  uint64_t repairs = 0;      // of such blocks
  uint64_t comparisons = 0;  // of what two paths see
  std::array<uint64_t, kTroubleCount> troubles = {};  // that struck

  void Add(const CrashRunStatistics& other);
  // Crashes and faults that struck.
  [[nodiscard]] uint64_t points() const;
};

// OK, or what the store did that it must not; also when it could not be opened again.
[[nodiscard]] absl::Status RunCrashSeed(const CrashRunOptions& options,
                                        CrashRunStatistics& statistics);

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_STORE_CRASH_RUN_H_
