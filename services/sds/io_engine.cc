#include "services/sds/io_engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"

namespace tessera::sds {
namespace {

// Operations in one message; more are no batch but an attack.
constexpr int kOperationsLimit = 16'384;
// What the reads of one message may ask for. A stream is not read while its replies fill the
// window, so this bounds what one stream makes the server hold.
constexpr uint64_t kReadBytesLimit = 64u << 20;

// Takes the payload of every write, in order. INVALID_ARGUMENT: it is not what the operations say.
absl::Status TakePayload(RequestBatch* batch, std::vector<IoOperationRef>* operations) {
  PayloadCursor payload(batch->frame.payload);
  for (IoOperationRef& operation : *operations) {
    operation.first_span = batch->spans.size();
    if (operation.operation->type() == v1::IO_OPERATION_TYPE_WRITE &&
        !payload.Take(operation.operation->length_bytes(), &batch->spans)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the payload ends before the data of the write with tag ", operation.operation->tag()));
    }
    operation.span_count = batch->spans.size() - operation.first_span;
  }
  if (payload.RemainingBytes() > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the payload has ", payload.RemainingBytes(), " bytes more than the writes"));
  }
  return absl::OkStatus();
}

}  // namespace

IoEngine::IoEngine(const EngineContext* context, const std::vector<Device*>& devices,
                   size_t reader_threads)
    : context_(context),
      admission_(context,
                 [this](uint64_t volume_id, uint64_t generation) {
                   OnGenerationProven(volume_id, generation);
                 }),
      readers_({.name = "read", .threads = reader_threads, .queue_limit = 8'192}) {
  for (size_t i = 0; i < devices.size(); ++i) {
    workers_.push_back(std::make_unique<DeviceWorker>(context, devices[i], &readers_, i));
    DeviceWorker* const home = workers_.back().get();
    held_.push_back(std::make_unique<HeldOperations>(
        context->metrics,
        [this, home](IoOperationRef operation) { BeginHeld(std::move(operation), home); },
        [this, home, i](absl::Duration delay) {
          home->PostAfter(delay, [this, i] { held_[i]->ReleaseDue(context_->clock->BootNanos()); });
        }));
  }
}

void IoEngine::Start() {
  for (const auto& worker : workers_) worker->Start();
}

void IoEngine::Stop() {
  readers_.Shutdown();
  for (const auto& worker : workers_) worker->Stop();
}

void IoEngine::EndHolding() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->Control([this, i] { held_[i]->End(context_->clock->BootNanos()); });
  }
}

std::shared_ptr<ClientSession> IoEngine::NewSession(std::shared_ptr<IoClient> client, size_t home) {
  auto session = std::make_shared<ClientSession>(std::move(client));
  session->home = home;
  return session;
}

std::shared_ptr<ClientSession> IoEngine::NewSession(std::shared_ptr<IoClient> client) {
  return NewSession(std::move(client),
                    next_home_.fetch_add(1, std::memory_order_relaxed) % workers_.size());
}

void IoEngine::Submit(const std::shared_ptr<ClientSession>& session,
                      const grpc::ByteBuffer& message, size_t window_bytes) {
  auto batch = std::make_shared<RequestBatch>(session, window_bytes);
  batch->arrived_nanos = context_->clock->BootNanos();
  batch->away_nanos = workers_[session->home]->look_out()->Found(batch->arrived_nanos);
  if (absl::Status decoded = DecodeIoRequest(message, &batch->frame); !decoded.ok()) {
    context_->metrics->requests_malformed->Increment();
    session->client->Break(decoded);
    return;
  }
  Process(batch, workers_[session->home].get());
}

void IoEngine::SubmitFrame(std::shared_ptr<ClientSession> session, IoRequestFrame frame) {
  DeviceWorker* home = workers_[session->home].get();
  const uint64_t arrived = context_->clock->BootNanos();
  home->Post(
      [this, home, session = std::move(session), frame = std::move(frame), arrived]() mutable {
        auto batch = std::make_shared<RequestBatch>(std::move(session), 0);
        batch->arrived_nanos = arrived;
        batch->frame = std::move(frame);
        Process(batch, home);
      });
}

void IoEngine::Process(const std::shared_ptr<RequestBatch>& batch, DeviceWorker* home) {
  const v1::IoRequest& request = batch->frame.header;
  const uint64_t taken = context_->clock->BootNanos();
  context_->metrics->queue_seconds->Observe(static_cast<double>(taken - batch->arrived_nanos) *
                                            1e-9);
  const token::MdmTime now = context_->mdm_clock->Now();
  ClientSession* session = batch->session.get();
  for (const std::string& grant : request.grants()) {
    // A grant that can't be taken shows when an operation comes under it.
    (void)session->grants.Show(grant, *context_->keys, now.earliest_ms);
  }
  if (request.placement_groups_size() > 0) TakeShownEntries(request, home);

  std::vector<IoOperationRef> operations(static_cast<size_t>(request.operations_size()));
  for (int i = 0; i < request.operations_size(); ++i) {
    operations[static_cast<size_t>(i)] = {.batch = batch, .operation = &request.operations(i)};
  }
  absl::Status payload = TakePayload(batch.get(), &operations);
  if (payload.ok() && request.operations_size() > kOperationsLimit) {
    payload = absl::InvalidArgumentError(absl::StrCat(
        request.operations_size(), " operations in one message: at most ", kOperationsLimit));
  }
  if (!payload.ok()) {
    context_->metrics->requests_malformed->Increment();
    session->client->Break(payload);
    return;
  }
  std::vector<std::vector<IoOperationRef>> elsewhere(workers_.size());
  uint64_t read_bytes = 0;
  for (IoOperationRef& operation : operations) {
    if (operation.operation->type() == v1::IO_OPERATION_TYPE_READ) {
      read_bytes += operation.operation->length_bytes();
      if (read_bytes > kReadBytesLimit) {
        ReportRefusal(operation,
                      {.status = v1::IO_STATUS_OVERLOADED,
                       .message = "the reads of one message ask for more than 64 MiB"},
                      home);
        continue;
      }
    }
    const AdmissionVerdict verdict = admission_.Judge(session, &operation, now);
    if (verdict.status != v1::IO_STATUS_OK) {
      ReportRefusal(operation, verdict, home);
      continue;
    }
    if (!MayBegin(&operation, home)) continue;
    const size_t target = TargetOf(operation);
    if (workers_[target].get() == home) {
      home->Execute(std::move(operation));
    } else {
      elsewhere[target].push_back(std::move(operation));
    }
  }
  batch->token_nanos = context_->clock->BootNanos() - taken;
  for (size_t i = 0; i < elsewhere.size(); ++i) {
    if (elsewhere[i].empty()) continue;
    DeviceWorker* worker = workers_[i].get();
    worker->Post([worker, operations = std::move(elsewhere[i])]() mutable {
      for (IoOperationRef& operation : operations) worker->Execute(std::move(operation));
    });
  }
}

size_t IoEngine::TargetOf(const IoOperationRef& operation) const {
  if (workers_.size() == 1) return 0;
  return WorkerIndex(
      context_->placements->Find(operation.operation->placement_group_id()).device_id);
}

bool IoEngine::MayBegin(IoOperationRef* operation, DeviceWorker* home) {
  if (operation->grant->limit == nullptr) return true;
  HeldOperations& held = *held_[operation->batch->session->home];
  switch (held.Offer(operation, context_->clock->BootNanos())) {
    case HeldOperations::Outcome::kBegin:
      return true;
    case HeldOperations::Outcome::kHeld:
      return false;
    case HeldOperations::Outcome::kRefused:
      break;
  }
  ReportRefusal(*operation,
                {.status = v1::IO_STATUS_OVERLOADED,
                 .message = "the client exceeds its limits, and as much waits already as may"},
                home);
  return false;
}

void IoEngine::BeginHeld(IoOperationRef operation, DeviceWorker* home) {
  // What was judged when it came is judged again by the worker, but for the grant's end.
  if (HasRunOut(operation.grant->grant, context_->mdm_clock->Now())) {
    ReportRefusal(operation,
                  {.status = v1::IO_STATUS_TOKEN_REFUSED,
                   .refusal = token::Refusal::kExpired,
                   .message = "the grant ran out while the operation waited for a limit"},
                  home);
    return;
  }
  DeviceWorker* worker = workers_[TargetOf(operation)].get();
  if (worker == home) return home->Execute(std::move(operation));
  worker->Post([worker, operation = std::move(operation)]() mutable {
    worker->Execute(std::move(operation));
  });
}

void IoEngine::ReportRefusal(const IoOperationRef& operation, const AdmissionVerdict& verdict,
                             DeviceWorker* home) const {
  v1::IoResult* result = home->Answer(operation, verdict.status, verdict.message);
  if (verdict.refusal == token::Refusal::kNone) return;
  result->set_refusal(static_cast<v1::TokenRefusal>(verdict.refusal));
  result->set_lowest_generation(verdict.lowest_generation);
  context_->metrics->refused[static_cast<size_t>(verdict.refusal)]->Increment();
}

void IoEngine::TakeShownEntries(const v1::IoRequest& request, DeviceWorker* home) {
  std::vector<v1::SignedPlacementGroup> newer;
  for (const v1::SignedPlacementGroup& entry : request.placement_groups()) {
    if (!context_->placements->IsNewer(entry)) continue;
    if (!VerifyPlacementGroup(*context_->keys, context_->sds_id->load(), entry)) {
      context_->metrics->map_refused->Increment();
      continue;
    }
    newer.push_back(entry);
  }
  if (newer.empty()) return;
  const absl::StatusOr<std::vector<LocalMembership>> accepted = context_->placements->Accept(newer);
  if (!accepted.ok()) {
    LogError("map entries could not be made durable", {{"error", accepted.status()}});
    return;
  }
  InstallEverywhere(*accepted, home, false);
}

absl::Status IoEngine::AcceptEntries(std::span<const v1::SignedPlacementGroup> entries) {
  std::vector<v1::SignedPlacementGroup> newer;
  for (const v1::SignedPlacementGroup& entry : entries) {
    if (!context_->placements->IsNewer(entry)) continue;
    if (!VerifyPlacementGroup(*context_->keys, context_->sds_id->load(), entry)) {
      context_->metrics->map_refused->Increment();
      continue;
    }
    newer.push_back(entry);
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<LocalMembership> accepted,
                           context_->placements->Accept(newer));
  InstallEverywhere(accepted, nullptr, false);
  return absl::OkStatus();
}

void IoEngine::AcknowledgeLosses(std::span<const v1::SignedPlacementGroup> whole_map) {
  const bool in_force = std::none_of(whole_map.begin(), whole_map.end(),
                                     [this](const v1::SignedPlacementGroup& entry) {
                                       return context_->placements->IsNewer(entry);
                                     });
  for (const auto& worker : workers_) {
    Device* const device = worker->device();
    if (!device->volatile_state_lost()) continue;
    if (!in_force) {
      LogError("a map entry was refused: a device that lost unflushed writes serves nothing yet",
               {{"device", device->uuid()}});
      continue;
    }
    // Behind entries that came by a stream and are still on their way to the worker.
    worker->Control([device] { device->AcknowledgeLoss(); });
  }
}

void IoEngine::RestoreEntries(std::span<const PlacementRecord> records) {
  InstallEverywhere(context_->placements->Restore(records), nullptr, true);
}

void IoEngine::InstallEverywhere(const std::vector<LocalMembership>& entries, DeviceWorker* current,
                                 bool restored) {
  if (entries.empty()) return;
  for (const auto& worker : workers_) {
    auto install = [this, worker = worker.get(), entries, restored] {
      for (const LocalMembership& entry : entries) {
        const bool mine = entry.device_id != 0 &&
                          workers_[WorkerIndex(entry.device_id)].get() == worker &&
                          worker->device()->device_id() == entry.device_id;
        worker->Install(entry, mine, restored);
      }
    };
    if (worker.get() == current) {
      install();
    } else if (current != nullptr) {
      worker->Post(install);
    } else {
      worker->Control(install);
    }
  }
}

void IoEngine::ForgetPlacementGroup(uint64_t placement_group_id) {
  LocalMembership gone = context_->placements->Find(placement_group_id);
  if (gone.membership.epoch == 0) return;
  gone.device_id = 0;
  gone.membership = {.epoch = gone.membership.epoch + 1};
  InstallEverywhere({gone}, nullptr, false);
  context_->placements->Forget(placement_group_id);
}

absl::StatusOr<uint64_t> IoEngine::RaiseGeneration(uint64_t volume_id, uint64_t generation,
                                                   std::vector<chunk::StreamCursor>* cursors) {
  TESSERA_ASSIGN_OR_RETURN(const uint64_t lowest, context_->volumes->Raise(volume_id, generation));
  for (const auto& worker : workers_) {
    worker->Control([&, worker = worker.get()] {
      worker->OnGenerationRaised(volume_id, lowest);
      if (cursors == nullptr) return;
      for (GroupReplica* replica : worker->Replicas()) {
        if (replica->device_id == 0 || !worker->LoadCursors(replica)) continue;
        const chunk::Version last = replica->CursorOf(volume_id);
        if (last == chunk::Version{}) continue;
        cursors->push_back(
            {.stream = {.volume_id = volume_id, .placement_group_id = replica->placement_group_id},
             .last = last});
      }
    });
  }
  return lowest;
}

absl::Status IoEngine::RaiseGenerations(std::span<const VolumeGeneration> generations) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<VolumeGeneration> risen,
                           context_->volumes->RaiseAll(generations));
  if (risen.empty()) return absl::OkStatus();
  for (const auto& worker : workers_) {
    worker->Control([&, worker = worker.get()] {
      for (const auto& [id, generation] : risen) worker->OnGenerationRaised(id, generation);
    });
  }
  return absl::OkStatus();
}

void IoEngine::OnGenerationProven(uint64_t volume_id, uint64_t generation) {
  for (const auto& worker : workers_) {
    auto tell = [worker = worker.get(), volume_id, generation] {
      worker->OnGenerationRaised(volume_id, generation);
    };
    if (worker->OnThisThread()) {
      tell();
    } else {
      worker->Post(tell);
    }
  }
}

size_t IoEngine::WorkerIndex(uint64_t device_id) const {
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i]->device()->device_id() == device_id) return i;
  }
  return 0;
}

void IoEngine::NoticeFailedDevices() {
  for (const auto& worker : workers_) {
    chunk::Store* store = worker->device()->store();
    if (store == nullptr || worker->device()->failed()) continue;
    if (const absl::Status failed = store->failed(); !failed.ok()) worker->FailDevice(failed);
  }
}

DeviceWorker* IoEngine::WorkerOf(uint64_t placement_group_id) const {
  return workers_[WorkerIndex(context_->placements->Find(placement_group_id).device_id)].get();
}

}  // namespace tessera::sds
