// Brings this server's learners up to date: for each placement group in which it is one, copies
// from an in-sync server what differs, then tells the MDM (docs/REPLICATION.md, Learning).
//
// A few groups at a time, at most one chunk image in memory for each. An interrupted attempt goes
// on in the same epoch where it stood, with the same or another source. What can't succeed in an
// epoch is reported to the MDM, so that a new one begins.
//
// Threads: Start from any; each group runs on one thread of the learner's own.
#ifndef TESSERA_SERVICES_SDS_LEARNER_H_
#define TESSERA_SERVICES_SDS_LEARNER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/executor.h"
#include "services/sds/device_worker.h"
#include "services/sds/io_engine.h"
#include "services/sds/learning_steps.h"
#include "services/sds/sds_metrics.h"
#include "tessera/v1/health.pb.h"
#include "tessera/v1/placement.pb.h"
#include "tessera/v1/replica.grpc.pb.h"

namespace tessera::sds {

// What the MDM hears of the learners, and tells them, with each heartbeat.
class LearnerObserver {
 public:
  virtual ~LearnerObserver() = default;
  // How far each learner is, those that wait for a thread too. Never waits for a worker.
  [[nodiscard]] virtual std::vector<v1::LearnerStatus> Status() const = 0;
  // What all groups together may copy in a second; 0: the options' limit alone.
  virtual void SetBytesPerSecond(uint64_t bytes_per_second) = 0;
};

// What the learner asks the MDM, by RPC or by a test's fake.
class PlacementAuthority {
 public:
  virtual ~PlacementAuthority() = default;
  // The learners there are now, for heartbeats; null: none any more. Whoever sends no heartbeats
  // has no use for it.
  virtual void SetLearners(LearnerObserver*) {}
  [[nodiscard]] virtual absl::StatusOr<v1::BeginLearningResponse> BeginLearning(
      const v1::BeginLearningRequest& request) = 0;
  [[nodiscard]] virtual absl::StatusOr<v1::CompleteLearningResponse> CompleteLearning(
      const v1::CompleteLearningRequest& request) = 0;
  [[nodiscard]] virtual absl::StatusOr<v1::BeginRepairResponse> BeginRepair(
      const v1::BeginRepairRequest& request) = 0;
  [[nodiscard]] virtual absl::StatusOr<v1::ReportReplicaFailuresResponse> ReportReplicaFailures(
      const v1::ReportReplicaFailuresRequest& request) = 0;
};

struct LearnerOptions {
  size_t groups_at_once = 4;
  std::chrono::milliseconds retry_min{100};
  std::chrono::milliseconds retry_max{2'000};
  // How long a chunk may wait for writes that its source has and this learner lacks, before they
  // are taken to be lost for it.
  std::chrono::milliseconds catch_up_timeout{10'000};
  // Bytes a second over all groups; 0: no limit.
  uint64_t bytes_per_second = 0;
};

class Learner final : public LearnerObserver {
 public:
  // Stub of a source's ReplicaService.
  using Connect = std::function<std::shared_ptr<v1::ReplicaService::StubInterface>(
      const v1::SdsAddress& source)>;

  // All must outlive the learner.
  Learner(const LearnerOptions& options, IoEngine* engine, PlacementAuthority* authority,
          Connect connect, const EngineContext* context);
  ~Learner() override;

  // This server is a learner of the group in this epoch. Repeated calls change nothing.
  void Learn(uint64_t placement_group_id, uint64_t epoch, DeviceWorker* worker);
  // Ends what runs.
  void Stop();
  // LearnerObserver.
  [[nodiscard]] std::vector<v1::LearnerStatus> Status() const override;
  void SetBytesPerSecond(uint64_t bytes_per_second) override {
    allowed_bytes_per_second_.store(bytes_per_second, std::memory_order_relaxed);
  }

 private:
  struct Task {
    LearningId id;
    DeviceWorker* worker = nullptr;
    std::shared_ptr<v1::ReplicaService::StubInterface> source;  // shared with the connection cache
    v1::LearningTicket ticket;
    // By volume: the last write that the source is known to have taken.
    std::map<uint64_t, chunk::Version> source_cursors;
    // Chunks that the source did not have yet, and when it was asked first (boot time).
    std::map<chunk::ChunkKey, uint64_t> awaited;
  };

  void Run(Task task);
  // One attempt. ABORTED: hopeless in this epoch.
  [[nodiscard]] absl::Status Attempt(Task* task);
  [[nodiscard]] absl::Status FindBase(Task* task);
  [[nodiscard]] absl::Status Compare(Task* task, const LearningView& view);
  // Marks those of the source's chunks whose content is another than here under the same version.
  [[nodiscard]] static absl::Status CompareContents(const Task& task,
                                                    std::span<const chunk::ChunkInfo> own,
                                                    std::span<SourceChunk> source);
  [[nodiscard]] absl::Status CopyPending(Task* task, const std::vector<chunk::ChunkKey>& keys);
  // Ends before the first one that has to be copied whole, which is returned.
  [[nodiscard]] absl::StatusOr<std::optional<chunk::ChunkKey>> Copy(
      Task* task, const std::vector<chunk::ChunkKey>& keys, bool whole);
  [[nodiscard]] absl::StatusOr<CopyOutcome::Kind> ApplyWhenReached(
      Task* task, const v1::CopyChunksResponse& response,
      const std::vector<chunk::StreamCursor>& before);
  // The source does not have the chunk yet. ABORTED: for too long.
  [[nodiscard]] absl::Status Await(Task* task, const chunk::ChunkKey& key);
  [[nodiscard]] absl::Status Complete(Task* task, const LearnerProgress& progress);
  void ReportFailure(const Task& task, const std::string& reason);
  // Own chunks after `after` and up to `up_to` (none: all).
  [[nodiscard]] absl::StatusOr<std::vector<chunk::ChunkInfo>> OwnChunks(
      const Task& task, std::optional<chunk::ChunkKey> after,
      const std::optional<chunk::ChunkKey>& up_to) const;
  // Runs `step` on the task's worker; ABORTED when the worker has stopped.
  [[nodiscard]] absl::Status OnWorker(const Task& task,
                                      const std::function<absl::Status()>& step) const;
  // A call to a source, which Stop cancels.
  class Call {
   public:
    Call(Learner* learner, int timeout_ms);
    ~Call();
    [[nodiscard]] grpc::ClientContext* context() { return &context_; }

   private:
    Learner* const learner_;
    grpc::ClientContext context_;
  };

  [[nodiscard]] bool stopping() const {
    absl::MutexLock lock(&mutex_);
    return stopping_;
  }
  void NoteProgress(const Task& task, const LearningView& view);
  // Of a chunk that is being copied; NoteProgress tells it anew.
  void NotePart(const Task& task, uint64_t bytes);
  void NoteInterruption(const Task& task, const absl::Status& why);
  // True when stopping.
  bool Pause(std::chrono::nanoseconds duration);
  void Throttle(uint64_t bytes);

  const LearnerOptions options_;
  IoEngine* const engine_;
  PlacementAuthority* const authority_;
  const Connect connect_;
  const EngineContext* const context_;
  mutable absl::Mutex mutex_;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // By group and epoch.
  std::map<std::pair<uint64_t, uint64_t>, v1::LearnerStatus> running_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> allowed_bytes_per_second_{0};
  uint64_t throttle_until_nanos_ ABSL_GUARDED_BY(mutex_) = 0;
  Executor executor_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_LEARNER_H_
