// Makes snapshots of one or several volumes at one moment (docs/decisions/0010-snapshots.md,
// "Making one").
//
// Rows that are being made reserve names and layers; nobody else sees them. They become ready all
// together in one transaction, or are deleted in one. Why that is right whatever happens meanwhile
// is at SnapshotMaker::Finish.
//
// Threads: any; calls block until the snapshots are made, or their deadline.
#ifndef TESSERA_SERVICES_MDM_SNAPSHOT_MAKER_H_
#define TESSERA_SERVICES_MDM_SNAPSHOT_MAKER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/rpc.h"
#include "services/mdm/event_log.h"
#include "services/mdm/grant_issuer.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_control.h"
#include "services/mdm/volume_fence.h"
#include "tessera/v1/volume.pb.h"

namespace tessera::mdm {

class SnapshotMaker {
 public:
  using Milliseconds = std::chrono::milliseconds;

  static constexpr int kSourcesMax = 64;
  static constexpr uint64_t kSnapshotsMax = 1'024;  // of one volume
  static constexpr uint64_t kLockMaxMillis = 10 * 366 * 86'400'000ull;
  static constexpr uint32_t kHoldMillis = 2'000;
  static constexpr uint32_t kHoldMaxMillis = 10'000;

  // `dropped` is called when servers have something to drop.
  SnapshotMaker(GrantIssuer issuer, MdmStore* store, NodeControl* control, VolumeFence* fence,
                const EventLog* events, const MdmTime* time, std::function<void()> dropped)
      : issuer_(std::move(issuer)),
        store_(store),
        control_(control),
        fence_(fence),
        events_(events),
        time_(time),
        dropped_(std::move(dropped)) {}

  // The operation's id: its snapshots are in the table, ready.
  [[nodiscard]] absl::StatusOr<uint64_t> Make(const CallContext& call,
                                              const v1::CreateSnapshotsRequest& request);

 private:
  // One source.
  struct Part {
    VolumeRow volume;    // as the first transaction left it
    VolumeRow snapshot;  // being made
    bool has_writer = false;
    SdcRow writer;
    v1::IssuedGrant grant;  // for what the writer writes afterwards
  };
  struct Work {
    uint64_t operation_id = 0;
    std::vector<Part> parts;
    Milliseconds hold{0};  // how long writes may be held
    uint64_t held_micros = 0;
  };
  class Turn;

  [[nodiscard]] absl::Status CheckRequest(const v1::CreateSnapshotsRequest& request) const;
  // Of an earlier call of the same request, whose answer was lost; 0: there was none.
  [[nodiscard]] static absl::StatusOr<uint64_t> MadeBefore(
      SQLite::Database& db, const v1::CreateSnapshotsRequest& request);
  [[nodiscard]] absl::Status Begin(const v1::CreateSnapshotsRequest& request,
                                   const std::vector<uint64_t>& volume_ids, Work* work,
                                   uint64_t* made_before);
  [[nodiscard]] absl::Status BeginPart(WriteTransaction& transaction,
                                       const v1::CreateSnapshotsRequest& request, int source,
                                       uint64_t volume_id, Work* work) const;
  [[nodiscard]] absl::Status Carry(const CallContext& call, Work* work);
  [[nodiscard]] absl::Status IssueGrants(Work* work);
  [[nodiscard]] absl::Status Hold(const Work& work, const std::vector<const Part*>& writers);
  [[nodiscard]] absl::Status Cut(const std::vector<const Part*>& writers, uint64_t hold_id,
                                 Work* work);
  void Release(const std::vector<const Part*>& writers, uint64_t hold_id);
  [[nodiscard]] absl::Status Finish(const CallContext& call,
                                    const v1::CreateSnapshotsRequest& request, const Work& work);
  // Deletes the rows; returns what the caller is told: `cause`, or that a volume moved on.
  [[nodiscard]] absl::Status Abandon(const Work& work, absl::Status cause);

  const GrantIssuer issuer_;
  MdmStore* const store_;
  NodeControl* const control_;
  VolumeFence* const fence_;
  const EventLog* const events_;
  const MdmTime* const time_;
  const std::function<void()> dropped_;

  absl::Mutex mutex_;
  // Volumes of which snapshots are being made: one operation at a time for each.
  std::set<uint64_t> busy_volume_ids_ ABSL_GUARDED_BY(mutex_);
};

// Deletes rows of operations that did not end, as when the MDM died. REQUIRES: none runs.
void DropUnfinishedSnapshots(WriteTransaction& transaction, uint64_t now_ms);

// INVALID_ARGUMENT for a lock that is too long.
[[nodiscard]] absl::Status CheckLock(const std::string& field, uint64_t locked_until_ms,
                                     uint64_t now_ms);
// FAILED_PRECONDITION when the volume has as many snapshots as it may.
[[nodiscard]] absl::Status CheckSnapshotCount(SQLite::Database& db, const VolumeRow& volume);
// Raises the volume's layer and makes the row of a snapshot of what was written until then.
// REQUIRES: CheckSnapshotCount, and the name is free.
[[nodiscard]] absl::StatusOr<VolumeRow> InsertSnapshot(SQLite::Database& db, VolumeRow snapshot,
                                                       VolumeRow* volume);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SNAPSHOT_MAKER_H_
