// All IO of one device, on one thread: the order of a placement group's writes is the order in
// which they arrive here.
//
// A cycle takes what has gathered in the queue. Writes are judged one by one and applied together
// with one Store::Apply; then reads are answered, from memory at once and from the disk by a small
// pool, so that one cold read holds up nobody; one shared flush serves all that asked. Results
// leave at the end of the cycle.
//
// State of the replicas (membership, cursors, learning) belongs to the thread. Others reach it by
// Control.
//
// Threads: see each method.
#ifndef TESSERA_SERVICES_SDS_DEVICE_WORKER_H_
#define TESSERA_SERVICES_SDS_DEVICE_WORKER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "libchunk/store.h"
#include "services/common/executor.h"
#include "services/common/look_out.h"
#include "services/sds/device.h"
#include "services/sds/engine_context.h"
#include "services/sds/io_operation.h"
#include "services/sds/learner_state.h"
#include "services/sds/replica_rules.h"
#include "services/sds/worker_thread.h"

namespace tessera::sds {

// This server's replica of one placement group (or its absence: role unspecified).
struct GroupReplica {
  uint64_t placement_group_id = 0;
  Membership membership;
  uint64_t device_id = 0;
  bool cursors_loaded = false;
  absl::flat_hash_map<uint64_t, chunk::Version> cursors;  // by volume; as the store has them
  // By volume: the grant whose layer may not change any more, by generation and layer. Nothing
  // under it, or before it, is taken.
  absl::flat_hash_map<uint64_t, std::pair<uint64_t, uint64_t>> too_old;
  std::unique_ptr<LearnerState> learner;  // of this epoch, when a learner
  // Told when a write was taken; shared with the learning task that waits.
  std::vector<std::shared_ptr<absl::Notification>> progress_waiters;

  [[nodiscard]] chunk::Version CursorOf(uint64_t volume_id) const;
};

class DeviceWorker {
 public:
  // All must outlive the worker.
  DeviceWorker(const EngineContext* context, Device* device, Executor* readers, size_t index);

  void Start();
  void Stop() { thread_.Stop(); }
  // See WorkerThread.
  void EnterQueue(grpc::CompletionQueue* queue) { thread_.EnterQueue(queue); }
  void LeaveQueue() { thread_.LeaveQueue(); }
  [[nodiscard]] Device* device() const { return device_; }

  // Any thread: runs `task` on the worker, in order with everything posted before it.
  bool Post(WorkerThread::Task task) { return thread_.Post(std::move(task)); }
  // Any other thread: runs `task` on the worker after all operations posted before it have been
  // applied, and waits for it. False: stopped, not run.
  bool Control(const std::function<void()>& task);
  // On the worker: runs `task` on it after `delay`, or never when it stops before.
  void PostAfter(absl::Duration delay, WorkerThread::Task task) {
    thread_.PostAfter(delay, std::move(task));
  }
  [[nodiscard]] bool OnThisThread() const { return thread_.IsCurrent(); }
  [[nodiscard]] size_t queued() const { return thread_.queued(); }
  [[nodiscard]] double cpu_seconds() const { return thread_.CpuSeconds(); }

  // ---- On the worker only.
  void Execute(IoOperationRef operation);
  // Applies and answers what was executed so far. Returns the boot time after the answers; 0: there
  // were none.
  uint64_t FinishCycle();
  // A newer entry (older ones change nothing). `mine`: its replica is on this device. `restored`:
  // read back from an earlier life.
  void Install(const LocalMembership& entry, bool mine, bool restored);
  // The device has got its store: learners can begin.
  void OnStoreOpened();
  [[nodiscard]] GroupReplica* Find(uint64_t placement_group_id);
  // The learner of exactly this epoch; null when things have moved on.
  [[nodiscard]] GroupReplica* FindLearner(uint64_t placement_group_id, uint64_t epoch);
  [[nodiscard]] std::vector<GroupReplica*> Replicas();
  // Reads the cursors in when they have not been. False: there is no store.
  bool LoadCursors(GroupReplica* replica);
  void OnGenerationRaised(uint64_t volume_id, uint64_t generation);
  void ForgetVtree(uint64_t vtree_id, uint64_t volume_id);
  void FailDevice(const absl::Status& why);
  [[nodiscard]] Outbox* outbox() { return &outbox_; }
  [[nodiscard]] const IoTally* tally() const { return &tally_; }
  [[nodiscard]] LookOut* look_out() { return &look_out_; }
  // Read by any thread, written by the worker.
  [[nodiscard]] StageHistograms* stages() { return &stages_; }
  // An operation's end: counts it, and returns the result with tag and status.
  v1::IoResult* Answer(const IoOperationRef& operation, v1::IoStatus status,
                       const std::string& message = "");

 private:
  struct PendingWrite {
    IoOperationRef operation;
    GroupReplica* replica = nullptr;
  };

  struct FlushWaiter {
    IoOperationRef operation;
    v1::IoStatus answer = v1::IO_STATUS_OK;  // when the flush succeeds
    StoreWork work;                          // before it
  };

  // The thread looks for messages again.
  void EndCycle();

  // Judges a change: answers it, or puts it among the pending ones.
  void AdmitWrite(IoOperationRef operation);
  [[nodiscard]] bool CheckUsable(const IoOperationRef& operation, GroupReplica** replica,
                                 Audience audience);
  [[nodiscard]] bool CheckGeneration(const IoOperationRef& operation);
  void ApplyWrites();
  // One Store::Apply of `pending_writes_`; leaves there what has to be applied again.
  void ApplyOnce();
  void OnWriteApplied(PendingWrite* write);
  enum class Taken : uint8_t { kTaken, kRefused, kFailed };  // failed: the device
  // Takes the sequence without the change.
  [[nodiscard]] Taken TakeWithoutSpace(const PendingWrite& write);
  // Takes the sequence; the change is missing here, and the chunk is marked.
  [[nodiscard]] Taken TakeAsMissed(const PendingWrite& write);
  void AnswerTaken(const PendingWrite& write, Taken taken, v1::IoStatus status,
                   const std::string& message);
  // The write's layer may not change any more: its grant is too old. Neither it nor a later one of
  // the grant is taken.
  void RefuseLayer(const PendingWrite& write);
  [[nodiscard]] bool IsRefused(const IoOperationRef& operation, const GroupReplica& replica) const;
  void AnswerRefused(const IoOperationRef& operation);
  // The change as the store is given it.
  [[nodiscard]] chunk::Change ChangeOf(const PendingWrite& write) const;
  void ReportBadBlocks(const IoOperationRef& operation, const chunk::LayerPath& path,
                       v1::CorruptBlockFinder finder) const;
  void AnswerReads();
  void AnswerPosition(const IoOperationRef& operation, GroupReplica* replica);
  void ReadFromDisk(IoOperationRef operation);
  void MapFromDisk(IoOperationRef operation);
  void CompareFromDisk(IoOperationRef operation);
  void FinishRead(const IoOperationRef& operation, const absl::Status& status, grpc::Slice data,
                  const token::MdmTime& now);
  [[nodiscard]] bool StillAllowed(const IoOperationRef& operation, const token::MdmTime& now);
  void StartFlush();
  void FinishFlush(const std::vector<FlushWaiter>& waiters, const absl::Status& status,
                   uint64_t started_nanos);
  void CountForLimits(const v1::IoOperation& operation, GrantUse* use);
  uint64_t PublishCounts();

  const EngineContext* const context_;
  Device* const device_;
  Executor* const readers_;
  const size_t index_;
  WorkerThread thread_;

  absl::flat_hash_map<uint64_t, std::unique_ptr<GroupReplica>> replicas_;
  std::vector<PendingWrite> pending_writes_;
  std::vector<chunk::Change> changes_;
  std::vector<absl::Status> apply_results_;
  uint64_t pending_write_bytes_ = 0;
  std::vector<IoOperationRef> pending_reads_;
  std::vector<FlushWaiter> waiting_for_flush_;  // flushes, and taken writes with forced unit access
  Outbox outbox_;
  IoTally tally_;
  StoreWork work_;  // what is being answered has had this of the store
  FlushTimeline flush_timeline_;
  LookOut look_out_;
  StageHistograms stages_;
  std::vector<uint64_t> arrived_nanos_;  // for the pacer, of what was answered in this cycle
  std::vector<std::pair<uint64_t, GrantUse>> grant_uses_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_DEVICE_WORKER_H_
