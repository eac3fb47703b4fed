#include "services/sds/learning_steps.h"

#include <algorithm>
#include <utility>

#include "services/common/status_macros.h"
#include "services/sds/image_merge.h"

namespace tessera::sds {
namespace {

absl::StatusOr<GroupReplica*> LiveLearner(DeviceWorker* worker, const LearningId& id) {
  GroupReplica* replica = worker->FindLearner(id.placement_group_id, id.epoch);
  if (replica == nullptr) return absl::AbortedError("the epoch moved on");
  if (!replica->learner->failure().empty()) return absl::AbortedError(replica->learner->failure());
  if (worker->device()->failed()) return absl::AbortedError("the device failed");
  worker->LoadCursors(replica);
  return replica;
}

// A change that the store did not take ends the device, unless it is only full.
absl::Status StoreError(DeviceWorker* worker, const absl::Status& status) {
  if (absl::IsFailedPrecondition(status)) worker->FailDevice(status);
  return status;
}

}  // namespace

absl::StatusOr<LearningView> ViewLearning(DeviceWorker* worker, const LearningId& id,
                                          size_t pending_limit) {
  TESSERA_ASSIGN_OR_RETURN(GroupReplica * replica, LiveLearner(worker, id));
  const LearnerState& learner = *replica->learner;
  return LearningView{.base_known = learner.base_known(),
                      .listing_done = learner.listing_done(),
                      .done = learner.Done(),
                      .position = learner.position(),
                      .pending = learner.Pending(pending_limit),
                      .pending_count = learner.pending_count(),
                      .chunk_bytes = learner.chunk_bytes(),
                      .progress = learner.progress()};
}

absl::Status SetLearningBase(DeviceWorker* worker, const LearningId& id,
                             std::span<const SourceStream> source) {
  TESSERA_ASSIGN_OR_RETURN(GroupReplica * replica, LiveLearner(worker, id));
  std::vector<chunk::StreamCursor> own;
  for (const auto& [volume_id, last] : replica->cursors) {
    own.push_back({.stream = {.volume_id = volume_id, .placement_group_id = id.placement_group_id},
                   .last = last});
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<chunk::StreamCursor> cursors,
                           replica->learner->SetBase(id.placement_group_id, source, own));
  for (const chunk::StreamCursor& cursor : cursors) {
    const absl::Status set = worker->device()->store()->SetCursor(cursor.stream, cursor.last);
    if (!set.ok()) return StoreError(worker, set);
    replica->cursors[cursor.stream.volume_id] = cursor.last;
  }
  return absl::OkStatus();
}

absl::Status ClassifyChunks(DeviceWorker* worker, const LearningId& id,
                            std::optional<chunk::ChunkKey> up_to,
                            std::span<const SourceChunk> source,
                            std::span<const chunk::ChunkInfo> own) {
  TESSERA_ASSIGN_OR_RETURN(GroupReplica * replica, LiveLearner(worker, id));
  for (const chunk::ChunkKey& key : replica->learner->Classify(up_to, source, own)) {
    const absl::Status dropped = worker->device()->store()->DeleteChunk(key);
    if (!dropped.ok()) return StoreError(worker, dropped);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<absl::Notification>> ApplyCopiedChunk(
    DeviceWorker* worker, const LearningId& id,
    absl::StatusOr<std::unique_ptr<chunk::StagedImage>>* staged,
    std::span<const chunk::StreamCursor> needed) {
  TESSERA_ASSIGN_OR_RETURN(GroupReplica * replica, LiveLearner(worker, id));
  if (!staged->ok()) return StoreError(worker, staged->status());
  const chunk::ChunkImage& image = (**staged)->image();
  const chunk::ChunkKey key = image.info.key;
  const uint64_t bytes = image.blocks.size();
  if (!replica->learner->IsPending(key)) return nullptr;
  for (const chunk::StreamCursor& cursor : needed) {
    if (replica->CursorOf(cursor.stream.volume_id) >= cursor.last) continue;
    auto waiter = std::make_shared<absl::Notification>();
    replica->progress_waiters.push_back(waiter);
    return waiter;
  }
  chunk::Store* store = worker->device()->store();
  const uint32_t chunk_bytes = replica->learner->chunk_bytes();
  TESSERA_ASSIGN_OR_RETURN(const std::optional<chunk::ChunkInfo> here, store->GetChunk(key));
  TESSERA_ASSIGN_OR_RETURN(const MergePlan plan,
                           PlanMerge(image, replica->learner->Received(key), here, chunk_bytes,
                                     [store, &key](uint32_t block, std::span<std::byte> out) {
                                       return store->Read(key, block * chunk::kBlockBytes, out);
                                     }));
  if (plan.delete_first) {
    const absl::Status deleted = store->DeleteChunk(key);
    if (!deleted.ok()) return StoreError(worker, deleted);
  }
  if (!plan.nothing_to_apply) {
    const absl::Status applied = store->ApplyStaged(*std::move(*staged), plan.merge);
    if (!applied.ok()) return StoreError(worker, applied);
  }
  replica->learner->OnCopied(key, bytes);
  return nullptr;
}

void FailLearning(DeviceWorker* worker, const LearningId& id, const std::string& reason) {
  GroupReplica* replica = worker->FindLearner(id.placement_group_id, id.epoch);
  if (replica != nullptr) replica->learner->Fail(reason);
}

}  // namespace tessera::sds
