// What happened in the runs, counted: faults that were injected, and the paths of the protocol that
// were gone. The counters live in memory that the seeds' processes share.
//
// Threads: one a process.
#ifndef TESSERA_INTEGRATION_SIM_COVERAGE_H_
#define TESSERA_INTEGRATION_SIM_COVERAGE_H_

#include <cstddef>
#include <cstdint>

namespace tessera::sim {

enum class Coverage : uint8_t {
  // Faults.
  kSdsKilled,
  kSdsPowerLoss,
  kPoolPowerLoss,  // all servers at once
  kSdsStopped,     // SIGSTOP, for a while
  kSdsLongAway,    // came back with old state
  kStaleRestart,   // restarted while it can't reach the MDM
  kCrashInWrite,   // the machine went off inside a call of the disk
  kSdcKilled,
  kSdcDiedWriting,  // between its writes
  kSdcStoppedWriting,
  kSdcPowerLoss,
  kSdcAloneRestart,  // while it can't reach the MDM
  kSdcStopped,
  kMdmKilled,
  kMdmAway,    // cut off from everybody
  kPartition,  // both directions
  kOneWayCut,
  kDelayedLink,
  kDelayedMessage,
  kHeldMessage,
  kLateStreamMessage,  // arrived after its stream was given up
  kDuplicatedCall,
  kReplayedMessage,  // a recorded IO message was sent again by somebody else
  kSlowDisk,
  kFullDisk,
  kDiskWriteError,
  kDiskSyncError,
  kDiskReadError,
  kFlippedBits,
  kClockDrift,
  kWallJump,
  kMapLate,        // a client hears nothing of the map for a while
  kTakeover,       // another client became the writer
  kBlindTakeover,  // while the MDM reached some servers only
  kDarkAtFlush,    // all servers lost power as a flush was answered
  kServerLostForGood,
  // Paths.
  kStreamBroke,
  kReplicaTakenOut,
  kLearnerMade,
  kLearnerPromoted,
  kChunkCopied,
  kGenerationRaised,
  kFenceDone,
  kFenceTookOut,
  kEpochChanged,
  kReadOk,
  kWriteOk,
  kUnalignedWrite,
  kZeroesOk,
  kTrimOk,
  kFlushOk,
  kFuaOk,
  kNoSpace,
  kLossTold,      // a flush answered EIO
  kLossObserved,  // a read showed that unflushed writes were lost
  kReplayRefused,
  kReadRepeated,
  kRestsCompared,  // replicas compared at rest
  kMemberReplaced,
  kResumed,
  kWriteResumed,
  kNotResumed,
  kAnsweredAlone,
  kSnapshotMade,
  kSnapshotGroup,
  kSnapshotCut,
  kSnapshotRead,
  kSnapshotDeleted,
  kCloneMade,
  kRolledBack,
  kLayersAdopted,
  kResized,
  kShrunk,
  kLayersDropped,
  kCacheLease,
  kCacheHit,
  kCount,
};
inline constexpr size_t kCoverageCount = static_cast<size_t>(Coverage::kCount);
[[nodiscard]] const char* CoverageName(Coverage what);

// Where Hit counts; null: nowhere.
void SetCoverage(uint64_t* counters);
void Hit(Coverage what, uint64_t times = 1);

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_COVERAGE_H_
