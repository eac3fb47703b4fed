#include "services/sds/learning_steps.h"

#include <algorithm>
#include <string>
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
  // What the rules of learning should have kept from happening, another attempt may do right.
  if (absl::IsPermissionDenied(status)) return absl::AbortedError(status.message());
  return status;
}

chunk::Version CursorIn(std::span<const chunk::StreamCursor> cursors, uint64_t volume_id) {
  for (const chunk::StreamCursor& cursor : cursors) {
    if (cursor.stream.volume_id == volume_id) return cursor.last;
  }
  return {};
}

// Deletes the layer, which is pending, and writes what the stream brought into a new one that is
// made from nothing.
absl::Status Detach(DeviceWorker* worker, GroupReplica* replica, const chunk::ChunkKey& key) {
  if (!replica->learner->IsPending(key)) {
    return absl::AbortedError("a verified layer was made from one that is not");
  }
  chunk::Store* store = worker->device()->store();
  const ReceivedChunk* received = replica->learner->Received(key);
  std::vector<std::vector<std::byte>> contents;
  std::vector<chunk::Change> changes;
  const uint32_t sectors = replica->learner->chunk_bytes() / chunk::kSectorBytes;
  const auto is_received = [received](uint32_t sector) {
    return received != nullptr && (received->sectors[sector / 64] >> (sector % 64) & 1) != 0;
  };
  for (uint32_t begin = 0; begin < sectors; ++begin) {
    if (!is_received(begin)) continue;
    uint32_t end = begin + 1;
    while (end < sectors && is_received(end)) ++end;
    std::vector<std::byte>& content = contents.emplace_back((end - begin) * chunk::kSectorBytes);
    const absl::Status read = store->Read(key, begin * chunk::kSectorBytes, content);
    if (absl::IsDataLoss(read)) return absl::AbortedError(read.message());
    TESSERA_RETURN_IF_ERROR(read);
    changes.push_back({.key = key,
                       .stream = {.volume_id = received->volume_id,
                                  .placement_group_id = replica->placement_group_id},
                       .version = received->last,
                       .offset_bytes = begin * chunk::kSectorBytes,
                       .length_bytes = static_cast<uint32_t>(content.size()),
                       .incomplete = true,
                       .keep_cursor = true});
    begin = end;
  }
  std::vector<std::span<const std::byte>> slices(contents.begin(), contents.end());
  for (size_t i = 0; i < changes.size(); ++i) changes[i].data = std::span(&slices[i], 1);
  TESSERA_RETURN_IF_ERROR(store->DeleteChunk(key));
  std::vector<absl::Status> results(changes.size());
  store->Apply(changes, std::span(results));
  for (const absl::Status& result : results) {
    // What the stream brought is gone from here: only another epoch brings it again.
    if (!result.ok()) return absl::AbortedError(result.message());
  }
  return absl::OkStatus();
}

// A base can't change. What was made here from this one, which is to change, goes before, and will
// be copied again.
absl::Status MakeRoom(DeviceWorker* worker, GroupReplica* replica, const chunk::ChunkKey& key) {
  if (!replica->learner->IsBase(key)) return absl::OkStatus();
  TESSERA_ASSIGN_OR_RETURN(const std::vector<chunk::ChunkInfo> layers,
                           worker->device()->store()->ListLayers(key.vtree_id, key.chunk_index));
  std::vector<chunk::ChunkKey> made{key};
  for (const chunk::ChunkInfo& info : layers) {
    const bool is_made_from =
        info.base.has_value() &&
        std::any_of(made.begin(), made.end(),
                    [&info](const chunk::ChunkKey& below) { return below.layer == *info.base; });
    if (is_made_from) made.push_back(info.key);
  }
  for (size_t i = made.size() - 1; i > 0; --i) {
    TESSERA_RETURN_IF_ERROR(StoreError(worker, Detach(worker, replica, made[i])));
    replica->learner->OnRoomMade(made[i]);
  }
  replica->learner->OnRoomMade(key);
  return absl::OkStatus();
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
                      .compares_contents = replica->membership.is_from_before_loss,
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

absl::StatusOr<CopyOutcome> ApplyCopiedChunk(DeviceWorker* worker, const LearningId& id,
                                             CopiedChunk* copied) {
  using Kind = CopyOutcome::Kind;
  TESSERA_ASSIGN_OR_RETURN(GroupReplica * replica, LiveLearner(worker, id));
  if (!copied->staged.ok()) return StoreError(worker, copied->staged.status());
  LearnerState* learner = replica->learner.get();
  const chunk::ChunkImage& image = (*copied->staged)->image();
  const chunk::ChunkKey key = image.info.key;
  const uint64_t bytes = image.blocks.size();
  if (!learner->IsPending(key)) return CopyOutcome();
  for (const chunk::StreamCursor& cursor : copied->after) {
    if (replica->CursorOf(cursor.stream.volume_id) >= cursor.last) continue;
    auto waiter = std::make_shared<absl::Notification>();
    replica->progress_waiters.push_back(waiter);
    return CopyOutcome{.kind = Kind::kWait, .progress = std::move(waiter)};
  }
  chunk::Store* store = worker->device()->store();
  const ReceivedChunk* received = learner->Received(key);
  if (copied->is_absent) {
    const uint64_t volume_id = received == nullptr ? 0 : received->volume_id;
    const Absence absence = JudgeAbsence(key, received, CursorIn(copied->before, volume_id),
                                         CursorIn(copied->after, volume_id));
    if (absence == Absence::kNotYet) return CopyOutcome{.kind = Kind::kNotYet};
    if (absence == Absence::kGone) {
      TESSERA_RETURN_IF_ERROR(MakeRoom(worker, replica, key));
      TESSERA_RETURN_IF_ERROR(StoreError(worker, store->DeleteChunk(key)));
      learner->OnCopied(key, bytes);
      return CopyOutcome();
    }
  }
  chunk::ChunkKey base = key;
  base.layer = image.info.base.value_or(key.layer);
  // One that is here and not verified may have another content than the source's.
  if (base.layer != key.layer && !learner->IsVerified(base)) {
    return CopyOutcome{.kind = Kind::kNeedsWhole};
  }
  TESSERA_RETURN_IF_ERROR(MakeRoom(worker, replica, key));
  TESSERA_ASSIGN_OR_RETURN(const std::optional<chunk::ChunkInfo> here, store->GetChunk(key));
  const auto read_here = [store, &key](uint32_t block, std::span<std::byte> out) {
    return store->Read(key, block * chunk::kBlockBytes, out);
  };
  const auto read_base = [store, &base](uint32_t block, std::span<std::byte> out) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const chunk::ChunkBlocks there,
                             store->ReadBlocks(base, block, 1, chunk::BlockRead::kVerify));
    const chunk::BlockState& state = there.states[0];
    if (state.presence != chunk::BlockPresence::kMapped || !state.readable) {
      return absl::NotFoundError("the base does not have the block");
    }
    std::copy(there.content.begin(), there.content.end(), out.begin());
    return absl::OkStatus();
  };
  const absl::StatusOr<MergePlan> plan =
      PlanMerge(image, received, here, learner->chunk_bytes(), read_here, read_base);
  if (absl::IsNotFound(plan.status())) return CopyOutcome{.kind = Kind::kNeedsWhole};
  TESSERA_RETURN_IF_ERROR(plan.status());
  if (plan->delete_first) {
    TESSERA_RETURN_IF_ERROR(StoreError(worker, store->DeleteChunk(key)));
  }
  if (!plan->nothing_to_apply) {
    const absl::Status applied = store->ApplyStaged(*std::move(copied->staged), plan->merge);
    if (absl::IsNotFound(applied)) {
      // What the stream brought went with the chunk: nothing but another epoch brings it again.
      if (plan->delete_first && received != nullptr) return absl::AbortedError(applied.message());
      return CopyOutcome{.kind = Kind::kNeedsWhole};
    }
    TESSERA_RETURN_IF_ERROR(StoreError(worker, applied));
  }
  learner->OnCopied(key, bytes);
  return CopyOutcome();
}

void FailLearning(DeviceWorker* worker, const LearningId& id, const std::string& reason) {
  GroupReplica* replica = worker->FindLearner(id.placement_group_id, id.epoch);
  if (replica != nullptr) replica->learner->Fail(reason);
}

}  // namespace tessera::sds
