// The data path of DeviceWorker: writes, reads, flushes.
#include <algorithm>
#include <utility>

#include "services/sds/device_worker.h"

namespace tessera::sds {
namespace {

chunk::ChangeKind KindOf(v1::IoOperationType type) {
  switch (type) {
    case v1::IO_OPERATION_TYPE_WRITE_ZEROES:
      return chunk::ChangeKind::kWriteZeroes;
    case v1::IO_OPERATION_TYPE_TRIM:
      return chunk::ChangeKind::kTrim;
    case v1::IO_OPERATION_TYPE_ADOPT:
      return chunk::ChangeKind::kAdopt;
    default:
      return chunk::ChangeKind::kWrite;
  }
}

chunk::ChunkKey KeyOf(const IoOperationRef& operation) {
  return {.vtree_id = operation.grant->grant.vtree_id,
          .chunk_index = operation.operation->chunk_index(),
          .layer = operation.operation->snapshot_sequence()};
}

chunk::StreamId StreamOf(const IoOperationRef& operation) {
  return {.volume_id = operation.grant->grant.volume_id,
          .placement_group_id = operation.operation->placement_group_id()};
}

chunk::Version VersionOf(const IoOperationRef& operation) {
  return {.generation = operation.operation->generation(),
          .sequence = operation.operation->counter()};
}

double Seconds(uint64_t nanos) { return static_cast<double>(nanos) * 1e-9; }

}  // namespace

void DeviceWorker::AdmitWrite(IoOperationRef operation) {
  GroupReplica* replica = nullptr;
  if (!CheckUsable(operation, &replica, Audience::kWriter)) return;
  const v1::IoOperation& what = *operation.operation;
  if (const char* problem =
          RangeProblem(what.offset_bytes(), what.length_bytes(), device_->store()->chunk_bytes());
      problem != nullptr) {
    Answer(operation, v1::IO_STATUS_INVALID, problem);
    return;
  }
  LoadCursors(replica);
  const uint64_t volume_id = operation.grant->grant.volume_id;
  if (IsRefused(operation, *replica)) return AnswerRefused(operation);
  const chunk::Version version = VersionOf(operation);
  const chunk::Version cursor = replica->CursorOf(volume_id);
  const OrderJudgement judgement = replica->learner != nullptr
                                       ? replica->learner->JudgeOrder(volume_id, cursor, version)
                                       : JudgeOrder(cursor, version);
  if (judgement.status == v1::IO_STATUS_DUPLICATE &&
      context_->unserved->MayLack(StreamOf(operation), version)) {
    Answer(operation, v1::IO_STATUS_NO_SPACE, "the device was full when this write was taken");
    return;
  }
  if (judgement.status == v1::IO_STATUS_DUPLICATE && what.force_unit_access()) {
    // Taken before, but perhaps not durable yet.
    waiting_for_flush_.push_back({std::move(operation), v1::IO_STATUS_DUPLICATE, {}});
    return;
  }
  if (judgement.status != v1::IO_STATUS_OK) {
    v1::IoResult* result = Answer(operation, judgement.status);
    result->set_expected_sequence(judgement.expected_sequence);
    if (judgement.status == v1::IO_STATUS_STALE_GENERATION) {
      result->set_lowest_generation(cursor.generation);
    }
    return;
  }
  // The next write is judged by this one.
  replica->cursors[volume_id] = version;
  if (replica->learner != nullptr) replica->learner->OnTaken(volume_id, version);
  pending_write_bytes_ += what.length_bytes();
  pending_writes_.push_back({.operation = std::move(operation), .replica = replica});
}

void DeviceWorker::ApplyWrites() {
  pending_write_bytes_ = 0;
  while (!pending_writes_.empty()) ApplyOnce();
}

bool DeviceWorker::IsRefused(const IoOperationRef& operation, const GroupReplica& replica) const {
  const auto found = replica.too_old.find(operation.grant->grant.volume_id);
  if (found == replica.too_old.end()) return false;
  const auto& [generation, layer] = found->second;
  return operation.operation->generation() == generation &&
         operation.operation->snapshot_sequence() <= layer;
}

void DeviceWorker::AnswerRefused(const IoOperationRef& operation) {
  Answer(operation, v1::IO_STATUS_TOKEN_REFUSED,
         "the layer that the grant writes belongs to a snapshot by now")
      ->set_refusal(v1::TOKEN_REFUSAL_WRONG_GENERATION);
  context_->metrics->refused[static_cast<size_t>(token::Refusal::kWrongGeneration)]->Increment();
}

void DeviceWorker::RefuseLayer(const PendingWrite& write) {
  const chunk::StreamId stream = StreamOf(write.operation);
  write.replica->too_old[stream.volume_id] = {write.operation.operation->generation(),
                                              write.operation.operation->snapshot_sequence()};
  write.replica->cursors[stream.volume_id] = device_->store()->Cursor(stream);
  // What it counts as received it has not got.
  if (write.replica->learner != nullptr) {
    write.replica->learner->Fail("a write to a layer that may not change any more came");
  }
}

chunk::Change DeviceWorker::ChangeOf(const PendingWrite& write) const {
  const v1::IoOperation& what = *write.operation.operation;
  chunk::Change change{.key = KeyOf(write.operation),
                       .path = &*write.operation.grant->write_path,
                       .stream = StreamOf(write.operation),
                       .version = VersionOf(write.operation),
                       .kind = KindOf(what.type()),
                       .offset_bytes = what.offset_bytes(),
                       .length_bytes = what.length_bytes(),
                       .data = write.operation.data()};
  if (LearnerState* learner = write.replica->learner.get(); learner != nullptr) {
    change.incomplete = !learner->BeginWrite(change.key, [this, learner, &change] {
      const auto here = device_->store()->GetChunk(change.key);
      if (!here.ok()) learner->Fail(std::string(here.status().message()));
      return here.ok() && here->has_value();
    });
  }
  return change;
}

void DeviceWorker::ApplyOnce() {
  changes_.clear();
  for (const PendingWrite& write : pending_writes_) changes_.push_back(ChangeOf(write));
  apply_results_.assign(changes_.size(), absl::OkStatus());
  const uint64_t started = context_->clock->BootNanos();
  if (device_->failed()) {
    std::fill(apply_results_.begin(), apply_results_.end(),
              absl::FailedPreconditionError(device_->failure()));
  } else {
    device_->store()->Apply(changes_, std::span(apply_results_));
  }
  const uint64_t ended = context_->clock->BootNanos();
  context_->metrics->apply_seconds->Observe(Seconds(ended - started));
  context_->metrics->apply_calls->Increment();
  work_ = {.began_nanos = started, .journal_nanos = ended - started, .ended_nanos = ended};

  std::vector<PendingWrite> again;
  std::vector<chunk::StreamId> refused;
  for (size_t i = 0; i < pending_writes_.size(); ++i) {
    PendingWrite& write = pending_writes_[i];
    const std::string message(apply_results_[i].message());
    Taken taken = Taken::kTaken;
    switch (apply_results_[i].code()) {
      case absl::StatusCode::kOk:
        OnWriteApplied(&write);
        break;
      case absl::StatusCode::kResourceExhausted:
        taken = TakeWithoutSpace(write);
        AnswerTaken(write, taken, v1::IO_STATUS_NO_SPACE, "the device is full");
        break;
      case absl::StatusCode::kDataLoss:
        // It cuts a block that is bad here. The order goes on without it; the writer takes this
        // replica out where another one has it, and a chunk that is marked is copied whole.
        ReportBadBlocks(write.operation, *write.operation.grant->write_path,
                        v1::CORRUPT_BLOCK_FINDER_WRITE);
        taken = TakeAsMissed(write);
        AnswerTaken(write, taken, v1::IO_STATUS_CHECKSUM_ERROR, message);
        break;
      case absl::StatusCode::kAborted: {
        // An earlier one of its stream was not applied in this round. Applied again in the next, or
        // refused there because the device failed. After one that was refused it is not the next.
        const bool is_behind =
            std::find(refused.begin(), refused.end(), StreamOf(write.operation)) != refused.end();
        if (is_behind) {
          AnswerRefused(write.operation);
        } else {
          again.push_back(std::move(write));
        }
        break;
      }
      case absl::StatusCode::kPermissionDenied:
        // It is of a layer that may not change: the writer's fault, and not the device's.
        taken = Taken::kRefused;
        AnswerTaken(write, taken, v1::IO_STATUS_TOKEN_REFUSED, message);
        break;
      case absl::StatusCode::kInvalidArgument:
        // Admission lets nothing through that the store finds invalid; a device that does is
        // broken.
      default:
        FailDevice(apply_results_[i]);
        Answer(write.operation, v1::IO_STATUS_DEVICE_FAILED, device_->failure());
        break;
    }
    if (taken == Taken::kRefused) refused.push_back(StreamOf(write.operation));
  }
  pending_writes_ = std::move(again);
  work_ = {};
}

void DeviceWorker::AnswerTaken(const PendingWrite& write, Taken taken, v1::IoStatus status,
                               const std::string& message) {
  switch (taken) {
    case Taken::kTaken:
      Answer(write.operation, status, message);
      break;
    case Taken::kRefused:
      RefuseLayer(write);
      AnswerRefused(write.operation);
      break;
    case Taken::kFailed:
      Answer(write.operation, v1::IO_STATUS_DEVICE_FAILED, device_->failure());
      break;
  }
}

DeviceWorker::Taken DeviceWorker::TakeAsMissed(const PendingWrite& write) {
  // Not incomplete by itself: a layer that it makes has everything that its base has, but this.
  chunk::Change missed = ChangeOf(write);
  missed.kind = chunk::ChangeKind::kMissed;
  missed.data = {};
  absl::Status taken;
  device_->store()->Apply(std::span(&missed, 1), std::span(&taken, 1));
  if (absl::IsPermissionDenied(taken)) return Taken::kRefused;
  if (!taken.ok()) FailDevice(taken);
  return taken.ok() ? Taken::kTaken : Taken::kFailed;
}

void DeviceWorker::ReportBadBlocks(const IoOperationRef& operation, const chunk::LayerPath& path,
                                   v1::CorruptBlockFinder finder) const {
  const v1::IoOperation& what = *operation.operation;
  const uint32_t first = what.offset_bytes() / chunk::kBlockBytes;
  const uint32_t end =
      (what.offset_bytes() + what.length_bytes() + chunk::kBlockBytes - 1) / chunk::kBlockBytes;
  context_->on_bad_blocks({.device_id = device_->device_id(),
                           .placement_group_id = what.placement_group_id(),
                           .key = KeyOf(operation),
                           .path = path,
                           .first_block = first,
                           .block_count = end - first,
                           .finder = finder});
}

// The chunk is marked: later writes give it the others' version, and without the mark it would look
// equal to a copy that has this write.
DeviceWorker::Taken DeviceWorker::TakeWithoutSpace(const PendingWrite& write) {
  const absl::Status noted =
      context_->unserved->Note(StreamOf(write.operation), VersionOf(write.operation));
  if (noted.ok()) return TakeAsMissed(write);
  FailDevice(noted);
  return Taken::kFailed;
}

void DeviceWorker::OnWriteApplied(PendingWrite* write) {
  GroupReplica* replica = write->replica;
  const v1::IoOperation& what = *write->operation.operation;
  if (replica->learner != nullptr) {
    // What is adopted brings no content.
    const uint32_t length = what.type() == v1::IO_OPERATION_TYPE_ADOPT ? 0 : what.length_bytes();
    replica->learner->OnApplied(KeyOf(write->operation), write->operation.grant->grant.volume_id,
                                what.offset_bytes(), length, VersionOf(write->operation));
    for (const auto& waiter : replica->progress_waiters) waiter->Notify();
    replica->progress_waiters.clear();
  }
  if (what.force_unit_access()) {
    waiting_for_flush_.push_back({std::move(write->operation), v1::IO_STATUS_OK, work_});
    return;
  }
  Answer(write->operation, v1::IO_STATUS_OK);
}

void DeviceWorker::AnswerReads() {
  if (pending_reads_.empty()) return;
  struct WarmRead {
    IoOperationRef operation;
    absl::Status status;
    grpc::Slice data;
  };
  const uint64_t started = context_->clock->BootNanos();
  std::vector<WarmRead> warm;
  warm.reserve(pending_reads_.size());
  for (IoOperationRef& operation : pending_reads_) {
    GroupReplica* replica = nullptr;
    if (!CheckUsable(operation, &replica, Audience::kReader)) continue;
    if (operation.operation->type() == v1::IO_OPERATION_TYPE_MAP) {
      MapFromDisk(std::move(operation));
      continue;
    }
    if (operation.operation->type() == v1::IO_OPERATION_TYPE_CHANGES) {
      CompareFromDisk(std::move(operation));
      continue;
    }
    if (operation.operation->type() == v1::IO_OPERATION_TYPE_POSITION) {
      AnswerPosition(operation, replica);
      continue;
    }
    std::span<std::byte> out;
    grpc::Slice data = NewPayloadSlice(operation.operation->length_bytes(), &out);
    absl::Status status = device_->store()->ReadCached(KeyOf(operation), &*operation.grant->path,
                                                       operation.operation->offset_bytes(), out);
    if (absl::IsUnavailable(status)) {
      ReadFromDisk(std::move(operation));
      continue;
    }
    warm.push_back({std::move(operation), std::move(status), std::move(data)});
  }
  pending_reads_.clear();
  const token::MdmTime now = context_->mdm_clock->Now();
  const uint64_t ended = context_->clock->BootNanos();
  work_ = {.began_nanos = started, .memory_nanos = ended - started, .ended_nanos = ended};
  for (WarmRead& read : warm) {
    FinishRead(read.operation, read.status, std::move(read.data), now);
  }
  work_ = {};
}

void DeviceWorker::AnswerPosition(const IoOperationRef& operation, GroupReplica* replica) {
  LoadCursors(replica);
  const chunk::Version cursor = replica->CursorOf(operation.grant->grant.volume_id);
  // No write has sequence 0: what the order says of it is the place alone.
  const OrderJudgement judgement =
      JudgeOrder(cursor, {.generation = operation.operation->generation(), .sequence = 0});
  if (judgement.status == v1::IO_STATUS_STALE_GENERATION) {
    Answer(operation, judgement.status)->set_lowest_generation(cursor.generation);
    return;
  }
  Answer(operation, v1::IO_STATUS_OK)->set_expected_sequence(judgement.expected_sequence);
}

void DeviceWorker::ReadFromDisk(IoOperationRef operation) {
  context_->metrics->cold_reads->Increment();
  auto work = [this, operation]() mutable {
    const uint64_t started = context_->clock->BootNanos();
    std::span<std::byte> out;
    grpc::Slice data = NewPayloadSlice(operation.operation->length_bytes(), &out);
    absl::Status status = device_->store()->Read(KeyOf(operation), &*operation.grant->path,
                                                 operation.operation->offset_bytes(), out);
    const uint64_t ended = context_->clock->BootNanos();
    context_->metrics->cold_read_seconds->Observe(Seconds(ended - started));
    const StoreWork read{
        .began_nanos = started, .disk_nanos = ended - started, .ended_nanos = ended};
    Post([this, operation = std::move(operation), status = std::move(status),
          data = std::move(data), read]() mutable {
      work_ = read;
      FinishRead(operation, status, std::move(data), context_->mdm_clock->Now());
      work_ = {};
    });
  };
  if (!readers_->Post(std::move(work))) {
    Answer(operation, v1::IO_STATUS_OVERLOADED, "too many reads wait for the disk");
  }
}

void DeviceWorker::MapFromDisk(IoOperationRef operation) {
  auto work = [this, operation]() mutable {
    absl::StatusOr<std::vector<chunk::Extent>> extents = device_->store()->Map(
        KeyOf(operation), &*operation.grant->path, operation.operation->offset_bytes(),
        operation.operation->length_bytes());
    Post([this, operation = std::move(operation), extents = std::move(extents)] {
      if (!StillAllowed(operation, context_->mdm_clock->Now())) return;
      if (!extents.ok()) {
        Answer(operation, v1::IO_STATUS_INTERNAL, std::string(extents.status().message()));
        return;
      }
      v1::IoResult* result = Answer(operation, v1::IO_STATUS_OK);
      for (const chunk::Extent& extent : *extents) {
        v1::ChunkExtent* out = result->add_extents();
        out->set_length_bytes(extent.length_bytes);
        out->set_mapped(extent.mapped);
      }
    });
  };
  if (!readers_->Post(std::move(work))) {
    Answer(operation, v1::IO_STATUS_OVERLOADED, "too many reads wait for the disk");
  }
}

void DeviceWorker::CompareFromDisk(IoOperationRef operation) {
  auto work = [this, operation]() mutable {
    const v1::IoOperation& what = *operation.operation;
    const std::optional<chunk::LayerPath> base_path = LayerPathOf(BasePathOf(what));
    absl::StatusOr<std::vector<chunk::ChangedExtent>> extents =
        device_->store()->Changes(KeyOf(operation), base_path.has_value() ? &*base_path : nullptr,
                                  *operation.grant->path, what.offset_bytes(), what.length_bytes());
    Post([this, operation = std::move(operation), extents = std::move(extents)] {
      if (!StillAllowed(operation, context_->mdm_clock->Now())) return;
      if (!extents.ok()) {
        Answer(operation, v1::IO_STATUS_INTERNAL, std::string(extents.status().message()));
        return;
      }
      v1::IoResult* result = Answer(operation, v1::IO_STATUS_OK);
      for (const chunk::ChangedExtent& extent : *extents) {
        v1::ChunkExtent* out = result->add_extents();
        out->set_length_bytes(extent.length_bytes);
        out->set_mapped(extent.mapped);
        out->set_changed(extent.changed);
      }
    });
  };
  if (!readers_->Post(std::move(work))) {
    Answer(operation, v1::IO_STATUS_OVERLOADED, "too many reads wait for the disk");
  }
}

bool DeviceWorker::StillAllowed(const IoOperationRef& operation, const token::MdmTime& now) {
  GroupReplica* replica = nullptr;
  if (!CheckUsable(operation, &replica, Audience::kReader)) return false;
  if (!HasRunOut(operation.grant->grant, now)) return true;
  context_->metrics->refused[static_cast<size_t>(token::Refusal::kExpired)]->Increment();
  Answer(operation, v1::IO_STATUS_TOKEN_REFUSED, "the grant ran out during the read")
      ->set_refusal(v1::TOKEN_REFUSAL_EXPIRED);
  return false;
}

void DeviceWorker::FinishRead(const IoOperationRef& operation, const absl::Status& status,
                              grpc::Slice data, const token::MdmTime& now) {
  if (!status.ok()) {
    ReportBadBlocks(operation, *operation.grant->path, v1::CORRUPT_BLOCK_FINDER_READ);
  }
  // Between the first check and now the server may have been stopped for long.
  if (!StillAllowed(operation, now)) return;
  if (status.ok()) {
    Answer(operation, v1::IO_STATUS_OK)->set_payload_bytes(static_cast<uint32_t>(data.size()));
    outbox_.AddPayload(std::move(data));
    return;
  }
  const v1::IoStatus answer =
      absl::IsDataLoss(status) ? v1::IO_STATUS_CHECKSUM_ERROR : v1::IO_STATUS_INTERNAL;
  Answer(operation, answer, std::string(status.message()));
}

void DeviceWorker::StartFlush() {
  if (waiting_for_flush_.empty()) return;
  std::vector<FlushWaiter> waiters = std::move(waiting_for_flush_);
  waiting_for_flush_.clear();
  const uint64_t started = context_->clock->BootNanos();
  if (device_->failed()) {
    FinishFlush(waiters, absl::FailedPreconditionError(device_->failure()), started);
    return;
  }
  device_->store()->FlushAsync([this, waiters = std::move(waiters), started](absl::Status status) {
    Post([this, waiters, status = std::move(status), started] {
      FinishFlush(waiters, status, started);
    });
  });
}

void DeviceWorker::FinishFlush(const std::vector<FlushWaiter>& waiters, const absl::Status& status,
                               uint64_t started_nanos) {
  const uint64_t now = context_->clock->BootNanos();
  context_->metrics->flush_seconds->Observe(Seconds(now - started_nanos));
  if (!status.ok()) FailDevice(status);
  const uint64_t sync_began = flush_timeline_.Done(started_nanos, now);
  for (const FlushWaiter& waiter : waiters) {
    work_ = waiter.work;
    if (work_.began_nanos == 0) work_.began_nanos = work_.ended_nanos = started_nanos;
    work_.flush_wait_nanos = sync_began - std::min(sync_began, work_.ended_nanos);
    work_.flush_sync_nanos = now - sync_began;
    work_.ended_nanos = now;
    if (status.ok()) {
      Answer(waiter.operation, waiter.answer);
    } else {
      Answer(waiter.operation, v1::IO_STATUS_DEVICE_FAILED, std::string(status.message()));
    }
  }
  work_ = {};
}

}  // namespace tessera::sds
