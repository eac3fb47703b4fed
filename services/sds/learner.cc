#include "services/sds/learner.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/crc32c.h"
#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/common/wait.h"
#include "services/sds/image_merge.h"
#include "services/sds/replica_messages.h"

namespace tessera::sds {
namespace {

constexpr size_t kChunksPerCopy = 16;
constexpr size_t kOwnChunksPerPage = 1'024;
constexpr int kCallTimeoutMillis = 10'000;
constexpr int kStreamTimeoutMillis = 120'000;

}  // namespace

Learner::Learner(const LearnerOptions& options, IoEngine* engine, PlacementAuthority* authority,
                 Connect connect, const EngineContext* context)
    : options_(options),
      engine_(engine),
      authority_(authority),
      connect_(std::move(connect)),
      context_(context),
      executor_({.name = "learn",
                 .threads = options.groups_at_once,
                 .queue_limit = 65'536,
                 .background = true}) {
  authority_->SetLearners(this);
}

Learner::~Learner() {
  Stop();
  authority_->SetLearners(nullptr);
}

void Learner::Learn(uint64_t placement_group_id, uint64_t epoch, DeviceWorker* worker) {
  v1::LearnerStatus status;
  status.set_placement_group_id(placement_group_id);
  status.set_epoch(epoch);
  status.set_device_id(worker->device()->device_id());
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_ || !running_.try_emplace({placement_group_id, epoch}, status).second) return;
  }
  Task task{.id = {.placement_group_id = placement_group_id, .epoch = epoch}, .worker = worker};
  if (!executor_.Post([this, task = std::move(task)]() mutable { Run(std::move(task)); })) {
    absl::MutexLock lock(&mutex_);
    running_.erase({placement_group_id, epoch});
  }
}

std::vector<v1::LearnerStatus> Learner::Status() const {
  std::vector<v1::LearnerStatus> all;
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, status] : running_) all.push_back(status);
  return all;
}

void Learner::NoteProgress(const Task& task, const LearningView& view) {
  absl::MutexLock lock(&mutex_);
  const auto found = running_.find({task.id.placement_group_id, task.id.epoch});
  if (found == running_.end()) return;
  v1::LearnerStatus& status = found->second;
  status.set_chunks_compared(view.progress.chunks_compared);
  status.set_chunks_copied(view.progress.chunks_copied);
  status.set_bytes_copied(view.progress.bytes_copied);
  status.set_chunks_left(view.pending_count);
  status.set_listing_done(view.listing_done);
  // A listing names chunks, not their bytes: what is left is judged by what was copied.
  const uint64_t chunk_bytes = view.progress.chunks_copied == 0
                                   ? view.chunk_bytes
                                   : view.progress.bytes_copied / view.progress.chunks_copied;
  status.set_bytes_left(view.pending_count * chunk_bytes);
}

void Learner::NotePart(const Task& task, uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const auto found = running_.find({task.id.placement_group_id, task.id.epoch});
  if (found == running_.end()) return;
  v1::LearnerStatus& status = found->second;
  status.set_bytes_copied(status.bytes_copied() + bytes);
  status.set_bytes_left(status.bytes_left() - std::min(status.bytes_left(), bytes));
}

void Learner::NoteInterruption(const Task& task, const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  const auto found = running_.find({task.id.placement_group_id, task.id.epoch});
  if (found == running_.end()) return;
  found->second.set_interruptions(found->second.interruptions() + 1);
  found->second.set_last_error(std::string(why.message()).substr(0, 200));
}

Learner::Call::Call(Learner* learner, int timeout_ms) : learner_(learner) {
  PrepareCall(&context_, timeout_ms, "");
  absl::MutexLock lock(&learner_->mutex_);
  learner_->calls_.insert(&context_);
  if (learner_->stopping_) context_.TryCancel();
}

Learner::Call::~Call() {
  absl::MutexLock lock(&learner_->mutex_);
  learner_->calls_.erase(&context_);
}

void Learner::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (grpc::ClientContext* call : calls_) call->TryCancel();
  }
  executor_.Shutdown();
}

bool Learner::Pause(std::chrono::nanoseconds duration) {
  absl::MutexLock lock(&mutex_);
  return AwaitWithTimeout(&mutex_, absl::Condition(&stopping_), absl::FromChrono(duration));
}

void Learner::Throttle(uint64_t bytes) {
  uint64_t limit = options_.bytes_per_second;
  const uint64_t allowed = allowed_bytes_per_second_.load(std::memory_order_relaxed);
  if (allowed != 0) limit = limit == 0 ? allowed : std::min(limit, allowed);
  const uint64_t now = context_->clock->BootNanos();
  uint64_t until = now + context_->pacer->Reserve(RecoveryPacer::Direction::kIn, bytes, now);
  if (limit != 0) {
    absl::MutexLock lock(&mutex_);
    const double nanos = 1e9 * static_cast<double>(bytes) / static_cast<double>(limit);
    throttle_until_nanos_ = std::max(throttle_until_nanos_, now) + static_cast<uint64_t>(nanos);
    until = std::max(until, throttle_until_nanos_);
  }
  if (until > now) Pause(std::chrono::nanoseconds(until - now));
}

void Learner::Run(Task task) {
  LogInfo("learning begins",
          {{"placement_group", task.id.placement_group_id}, {"epoch", task.id.epoch}});
  std::chrono::milliseconds delay = options_.retry_min;
  while (true) {
    absl::Status status = Attempt(&task);
    if (status.ok()) break;
    // Its own store, not the source's: it will not do better.
    chunk::Store* store = task.worker->device()->store();
    const absl::Status failed = store == nullptr ? absl::OkStatus() : store->failed();
    if (!failed.ok()) {
      task.worker->FailDevice(failed);
      status = absl::AbortedError(failed.message());
    }
    if (absl::IsAborted(status)) {
      ReportFailure(task, std::string(status.message()));
      break;
    }
    LogWarning("learning is interrupted", {{"placement_group", task.id.placement_group_id},
                                           {"epoch", task.id.epoch},
                                           {"error", status}});
    NoteInterruption(task, status);
    if (Pause(delay)) break;
    delay = std::min(delay * 2, options_.retry_max);
  }
  absl::MutexLock lock(&mutex_);
  running_.erase({task.id.placement_group_id, task.id.epoch});
}

void Learner::ReportFailure(const Task& task, const std::string& reason) {
  bool ours = false;
  (void)OnWorker(task, [&] {
    // When the epoch moved on there is nothing to report.
    ours = task.worker->FindLearner(task.id.placement_group_id, task.id.epoch) != nullptr;
    FailLearning(task.worker, task.id, reason);
    return absl::OkStatus();
  });
  if (!ours) return;
  context_->metrics->learnings_failed->Increment();
  LogWarning("learning starts over", {{"placement_group", task.id.placement_group_id},
                                      {"epoch", task.id.epoch},
                                      {"reason", reason}});
  v1::ReportReplicaFailuresRequest request;
  v1::ReplicaFailure* failure = request.add_failures();
  failure->set_placement_group_id(task.id.placement_group_id);
  failure->set_epoch(task.id.epoch);
  failure->set_device_id(task.worker->device()->device_id());
  failure->set_reason(reason);
  std::chrono::milliseconds delay = options_.retry_min;
  while (true) {
    const auto response = authority_->ReportReplicaFailures(request);
    if (response.ok()) {
      const std::vector<v1::SignedPlacementGroup> entries(response->placement_groups().begin(),
                                                          response->placement_groups().end());
      const absl::Status taken = engine_->AcceptEntries(entries);
      if (taken.ok()) return;
    }
    if (Pause(delay)) return;
    delay = std::min(delay * 2, options_.retry_max);
    if (context_->placements->Find(task.id.placement_group_id).membership.epoch > task.id.epoch) {
      return;
    }
  }
}

absl::Status Learner::OnWorker(const Task& task, const std::function<absl::Status()>& step) const {
  absl::Status status = absl::AbortedError("the server stops");
  task.worker->Control([&] { status = step(); });
  return status;
}

absl::Status Learner::Attempt(Task* task) {
  while (true) {
    if (stopping()) return absl::CancelledError("the server stops");
    LearningView view;
    TESSERA_RETURN_IF_ERROR(OnWorker(*task, [&]() -> absl::Status {
      TESSERA_ASSIGN_OR_RETURN(view, ViewLearning(task->worker, task->id, kChunksPerCopy));
      return absl::OkStatus();
    }));
    NoteProgress(*task, view);
    if (view.done) return Complete(task, view.progress);
    if (task->source == nullptr || !view.base_known) TESSERA_RETURN_IF_ERROR(FindBase(task));
    absl::Status step;
    if (!view.listing_done) {
      step = Compare(task, view);
    } else if (!view.pending.empty()) {
      step = CopyPending(task, view.pending);
    }
    if (!step.ok()) {
      task->source = nullptr;
      return step;
    }
  }
}

absl::Status Learner::FindBase(Task* task) {
  v1::BeginLearningRequest begin;
  begin.set_placement_group_id(task->id.placement_group_id);
  begin.set_epoch(task->id.epoch);
  begin.set_device_id(task->worker->device()->device_id());
  TESSERA_ASSIGN_OR_RETURN(const v1::BeginLearningResponse begun, authority_->BeginLearning(begin));
  task->ticket = begun.ticket();
  std::shared_ptr<v1::ReplicaService::StubInterface> source = connect_(begun.source());
  v1::BeginCopyRequest request;
  *request.mutable_ticket() = task->ticket;
  v1::BeginCopyResponse base;
  Call call(this, kCallTimeoutMillis);
  TESSERA_RETURN_IF_ERROR(FromGrpcStatus(source->BeginCopy(call.context(), request, &base)));
  const std::vector<SourceStream> streams = SourceStreamsOf(base);
  // In sync, it may be the only one of its group that a writer of an older generation reaches: a
  // fence that it did not confirm has taken it out, and counts on what its source knows.
  std::vector<VolumeGeneration> lowest;
  for (const SourceStream& stream : streams) {
    if (stream.lowest_generation > 0)
      lowest.emplace_back(stream.volume_id, stream.lowest_generation);
  }
  TESSERA_RETURN_IF_ERROR(engine_->RaiseGenerations(lowest));
  TESSERA_RETURN_IF_ERROR(
      OnWorker(*task, [&] { return SetLearningBase(task->worker, task->id, streams); }));
  task->source = std::move(source);
  task->source_cursors.clear();
  for (const SourceStream& stream : streams) task->source_cursors[stream.volume_id] = stream.last;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<chunk::ChunkInfo>> Learner::OwnChunks(
    const Task& task, std::optional<chunk::ChunkKey> after,
    const std::optional<chunk::ChunkKey>& up_to) const {
  std::vector<chunk::ChunkInfo> own;
  while (true) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<chunk::ChunkInfo> page,
                             task.worker->device()->store()->ListChunks(task.id.placement_group_id,
                                                                        after, kOwnChunksPerPage));
    for (const chunk::ChunkInfo& info : page) {
      if (up_to.has_value() && info.key > *up_to) return own;
      own.push_back(info);
    }
    if (page.size() < kOwnChunksPerPage) return own;
    after = page.back().key;
  }
}

absl::Status Learner::CompareContents(const Task& task, std::span<const chunk::ChunkInfo> own,
                                      std::span<SourceChunk> source) {
  chunk::Store* store = task.worker->device()->store();
  const uint32_t blocks_per_chunk = store->chunk_bytes() / chunk::kBlockBytes;
  for (const chunk::ChunkInfo& here : own) {
    const auto there = std::lower_bound(
        source.begin(), source.end(), here.key,
        [](const SourceChunk& chunk, const chunk::ChunkKey& key) { return chunk.key < key; });
    if (there == source.end() || there->key != here.key) continue;
    if (there->version != here.version || there->incomplete || here.incomplete) continue;
    const auto blocks =
        store->ReadBlocks(here.key, 0, blocks_per_chunk, chunk::BlockRead::kMetadata);
    // Deleted or written since it was listed: it is copied.
    if (!blocks.ok() && !absl::IsNotFound(blocks.status())) return blocks.status();
    const bool equal = blocks.ok() && blocks->info.version == there->version &&
                       ContentDigest(*blocks) == there->content_digest;
    if (!equal) there->incomplete = true;
  }
  return absl::OkStatus();
}

absl::Status Learner::Compare(Task* task, const LearningView& view) {
  std::optional<chunk::ChunkKey> position = view.position;
  v1::ListChunkVersionsRequest request;
  // Nothing is here: nothing can look equal.
  TESSERA_ASSIGN_OR_RETURN(
      const std::vector<chunk::ChunkInfo> any,
      task->worker->device()->store()->ListChunks(task->id.placement_group_id, std::nullopt, 1));
  const bool compares_contents = view.compares_contents && !any.empty();
  request.set_with_digests(compares_contents);
  *request.mutable_ticket() = task->ticket;
  Call call(this, kStreamTimeoutMillis);
  const auto reader = task->source->ListChunkVersions(call.context(), request);
  const auto classify = [&](std::optional<chunk::ChunkKey> up_to,
                            std::span<SourceChunk> source) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<chunk::ChunkInfo> own,
                             OwnChunks(*task, position, up_to));
    if (compares_contents) {
      TESSERA_RETURN_IF_ERROR(CompareContents(*task, own, source));
    }
    return OnWorker(*task,
                    [&] { return ClassifyChunks(task->worker, task->id, up_to, source, own); });
  };
  v1::ListChunkVersionsResponse page;
  std::vector<SourceChunk> source;  // not classified yet
  absl::Status step;
  while (step.ok() && reader->Read(&page)) {
    for (const v1::ChunkVersion& chunk : page.chunks()) {
      const SourceChunk listed = SourceChunkOf(chunk);
      // A listing that is taken up again begins from the front.
      if (position.has_value() && listed.key <= *position) continue;
      if (context_->deleted_vtrees->Contains(listed.key.vtree_id)) continue;
      if (!source.empty() && listed.key <= source.back().key) {
        step = absl::InternalError("the source's list is not in key order");
        break;
      }
      source.push_back(listed);
    }
    if (!step.ok()) break;
    // The last chunk may have more layers in the next page.
    const auto whole = std::find_if(source.begin(), source.end(), [&](const SourceChunk& listed) {
      return listed.key.vtree_id == source.back().key.vtree_id &&
             listed.key.chunk_index == source.back().key.chunk_index;
    });
    if (whole == source.begin()) continue;
    chunk::ChunkKey up_to = std::prev(whole)->key;
    up_to.layer = chunk::kNoBase;
    step = classify(up_to, std::span(source.begin(), whole));
    position = up_to;
    source.erase(source.begin(), whole);
  }
  if (!step.ok()) {
    call.context()->TryCancel();
    (void)reader->Finish();
    return step;
  }
  TESSERA_RETURN_IF_ERROR(FromGrpcStatus(reader->Finish()));
  return classify(std::nullopt, source);
}

absl::Status Learner::CopyPending(Task* task, const std::vector<chunk::ChunkKey>& keys) {
  TESSERA_ASSIGN_OR_RETURN(const std::optional<chunk::ChunkKey> alone, Copy(task, keys, false));
  if (alone.has_value()) return Copy(task, {*alone}, true).status();
  // Who waits for writes to reach the source does not ask for them without a pause.
  const bool waits = std::all_of(keys.begin(), keys.end(), [task](const chunk::ChunkKey& key) {
    return task->awaited.contains(key);
  });
  if (waits && Pause(options_.retry_min)) return absl::CancelledError("the server stops");
  return absl::OkStatus();
}

absl::StatusOr<std::optional<chunk::ChunkKey>> Learner::Copy(
    Task* task, const std::vector<chunk::ChunkKey>& keys, bool whole) {
  v1::CopyChunksRequest request;
  *request.mutable_ticket() = task->ticket;
  request.set_whole(whole);
  for (const chunk::ChunkKey& key : keys) SetChunkKey(key, request.add_keys());
  std::vector<chunk::StreamCursor> before;
  for (const auto& [volume_id, last] : task->source_cursors) {
    before.push_back(
        {.stream = {.volume_id = volume_id, .placement_group_id = task->id.placement_group_id},
         .last = last});
  }
  Call call(this, kStreamTimeoutMillis);
  const auto reader = task->source->CopyChunks(call.context(), request);
  v1::CopyChunksResponse copied;
  absl::Status step;
  std::optional<chunk::ChunkKey> alone;
  while (step.ok() && !alone.has_value() && reader->Read(&copied)) {
    const chunk::ChunkKey key = ChunkKeyOf(copied.key());
    const absl::StatusOr<CopyOutcome::Kind> applied = ApplyWhenReached(task, copied, before);
    step = applied.status();
    if (!step.ok()) break;
    if (*applied == CopyOutcome::Kind::kNeedsWhole) alone = key;
    if (*applied == CopyOutcome::Kind::kDone) task->awaited.erase(key);
    if (*applied == CopyOutcome::Kind::kNotYet) step = Await(task, key);
  }
  if (!step.ok() || alone.has_value()) {
    call.context()->TryCancel();
    (void)reader->Finish();
    if (!step.ok()) return step;
    return alone;
  }
  TESSERA_RETURN_IF_ERROR(FromGrpcStatus(reader->Finish()));
  return alone;
}

absl::Status Learner::Await(Task* task, const chunk::ChunkKey& key) {
  const uint64_t now = context_->clock->BootMillis();
  const uint64_t since = task->awaited.try_emplace(key, now).first->second;
  if (now < since + static_cast<uint64_t>(options_.catch_up_timeout.count())) {
    return absl::OkStatus();
  }
  return absl::AbortedError("writes came here that never came to the source: their writer is gone");
}

absl::StatusOr<CopyOutcome::Kind> Learner::ApplyWhenReached(
    Task* task, const v1::CopyChunksResponse& response,
    const std::vector<chunk::StreamCursor>& before) {
  const uint32_t chunk_bytes = task->worker->device()->store()->chunk_bytes();
  TESSERA_ASSIGN_OR_RETURN(chunk::ChunkImage image,
                           ImageOf(response, task->id.placement_group_id, chunk_bytes));
  const uint64_t bytes = image.blocks.size();
  // Here, and not on the worker, where client IO would wait behind it.
  uint64_t paced = 0;
  const auto pace = [&](uint64_t part) {
    Throttle(part);
    NotePart(*task, part);
    paced += part;
  };
  CopiedChunk copied{.is_absent = response.absent(),
                     .staged = task->worker->device()->store()->StageImage(std::move(image), pace),
                     .before = before,
                     .after = CursorsOf(response.cursors())};
  if (bytes > paced) pace(bytes - paced);
  for (const chunk::StreamCursor& cursor : copied.after) {
    chunk::Version& known = task->source_cursors[cursor.stream.volume_id];
    known = std::max(known, cursor.last);
  }
  const uint64_t deadline =
      context_->clock->BootMillis() + static_cast<uint64_t>(options_.catch_up_timeout.count());
  CopyOutcome outcome;
  while (true) {
    TESSERA_RETURN_IF_ERROR(OnWorker(*task, [&]() -> absl::Status {
      TESSERA_ASSIGN_OR_RETURN(outcome, ApplyCopiedChunk(task->worker, task->id, &copied));
      return absl::OkStatus();
    }));
    if (outcome.kind != CopyOutcome::Kind::kWait) break;
    const uint64_t now = context_->clock->BootMillis();
    if (now >= deadline) {
      return absl::AbortedError("the source has writes that never came here: their writer is gone");
    }
    // In slices, so that stopping does not wait for the writer.
    AwaitNotification(
        *outcome.progress,
        absl::Milliseconds(static_cast<int64_t>(std::min<uint64_t>(deadline - now, 200))));
    if (stopping()) return absl::CancelledError("the server stops");
  }
  if (outcome.kind != CopyOutcome::Kind::kDone) return outcome.kind;
  context_->metrics->chunks_copied->Increment();
  context_->metrics->bytes_copied->Increment(static_cast<double>(bytes));
  return outcome.kind;
}

absl::Status Learner::Complete(Task* task, const LearnerProgress& progress) {
  TESSERA_RETURN_IF_ERROR(task->worker->device()->store()->Flush());
  v1::CompleteLearningRequest request;
  request.set_placement_group_id(task->id.placement_group_id);
  request.set_epoch(task->id.epoch);
  request.set_device_id(task->worker->device()->device_id());
  request.set_chunks_compared(progress.chunks_compared);
  request.set_chunks_copied(progress.chunks_copied);
  request.set_bytes_copied(progress.bytes_copied);
  TESSERA_ASSIGN_OR_RETURN(const v1::CompleteLearningResponse completed,
                           authority_->CompleteLearning(request));
  LogInfo("learning is complete", {{"placement_group", task->id.placement_group_id},
                                   {"epoch", task->id.epoch},
                                   {"chunks_compared", progress.chunks_compared},
                                   {"chunks_copied", progress.chunks_copied},
                                   {"bytes_copied", progress.bytes_copied}});
  context_->metrics->learnings_completed->Increment();
  const v1::SignedPlacementGroup entry = completed.placement_group();
  return engine_->AcceptEntries(std::span(&entry, 1));
}

}  // namespace tessera::sds
