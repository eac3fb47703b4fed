#include "services/sds/device_worker.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"

namespace tessera::sds {
namespace {

// A cycle applies what it has when it gets this big, so that answers do not wait for a long queue.
constexpr uint64_t kApplyBytesLimit = 2u << 20;
constexpr size_t kApplyOperationsLimit = 256;
constexpr size_t kReadsLimit = 256;
// gRPC needs some time to bring what is in a socket.
constexpr uint64_t kLookNanos = 100'000;

}  // namespace

chunk::Version GroupReplica::CursorOf(uint64_t volume_id) const {
  const auto found = cursors.find(volume_id);
  return found == cursors.end() ? chunk::Version{} : found->second;
}

DeviceWorker::DeviceWorker(const EngineContext* context, Device* device, Executor* readers,
                           size_t index)
    : context_(context), device_(device), readers_(readers), index_(index), look_out_(kLookNanos) {}

void DeviceWorker::Start() {
  thread_.Start(absl::StrCat("io-", index_), [this] { EndCycle(); });
}

bool DeviceWorker::Control(const std::function<void()>& task) {
  return thread_.RunAndWait([this, &task] {
    FinishCycle();
    task();
  });
}

void DeviceWorker::Execute(IoOperationRef operation) {
  const v1::IoOperationType type = operation.operation->type();
  if (IsChange(type)) {
    AdmitWrite(std::move(operation));
    if (pending_write_bytes_ >= kApplyBytesLimit ||
        pending_writes_.size() >= kApplyOperationsLimit) {
      FinishCycle();
    }
    return;
  }
  if (type == v1::IO_OPERATION_TYPE_FLUSH) {
    GroupReplica* replica = nullptr;
    if (!CheckUsable(operation, &replica, Audience::kWriter)) return;
    waiting_for_flush_.push_back({std::move(operation), v1::IO_STATUS_OK, {}});
    return;
  }
  pending_reads_.push_back(std::move(operation));
  if (pending_reads_.size() >= kReadsLimit) FinishCycle();
}

uint64_t DeviceWorker::FinishCycle() {
  ApplyWrites();
  AnswerReads();
  StartFlush();
  outbox_.Observe(&stages_);
  outbox_.Deliver();
  return PublishCounts();
}

void DeviceWorker::EndCycle() {
  const uint64_t answered = FinishCycle();
  if (!look_out_.working()) return;
  look_out_.Done(answered != 0 ? answered : context_->clock->BootNanos());
}

bool DeviceWorker::CheckGeneration(const IoOperationRef& operation) {
  const uint64_t lowest =
      operation.grant->volume->lowest_generation.load(std::memory_order_acquire);
  if (operation.operation->generation() >= lowest) return true;
  v1::IoResult* result = Answer(operation, v1::IO_STATUS_STALE_GENERATION);
  result->set_refusal(v1::TOKEN_REFUSAL_WRONG_GENERATION);
  result->set_lowest_generation(lowest);
  context_->metrics->refused[static_cast<size_t>(token::Refusal::kWrongGeneration)]->Increment();
  return false;
}

bool DeviceWorker::CheckUsable(const IoOperationRef& operation, GroupReplica** replica,
                               Audience audience) {
  *replica = Find(operation.operation->placement_group_id());
  const Membership membership = *replica == nullptr ? Membership{} : (*replica)->membership;
  const v1::IoStatus status = JudgeMembership(membership, operation.operation->epoch(), audience);
  if (status != v1::IO_STATUS_OK) {
    Answer(operation, status)->set_current_epoch(membership.epoch);
    return false;
  }
  if (!CheckGeneration(operation)) return false;
  if (device_->failed() || device_->store() == nullptr) {
    Answer(operation, v1::IO_STATUS_DEVICE_FAILED,
           device_->failed() ? device_->failure() : "the device has no store yet");
    return false;
  }
  if (device_->volatile_state_lost()) {
    // The entry is of the life before, and may name a replica in sync that the MDM has taken out.
    Answer(operation, v1::IO_STATUS_OVERLOADED,
           "the device lost what was not flushed: the map of after that is not here yet");
    return false;
  }
  return true;
}

v1::IoResult* DeviceWorker::Answer(const IoOperationRef& operation, v1::IoStatus status,
                                   const std::string& message) {
  const v1::IoOperation& what = *operation.operation;
  const uint64_t bytes = what.type() == v1::IO_OPERATION_TYPE_ADOPT ? 0 : what.length_bytes();
  tally_.Count(what.type(), status, bytes, operation.batch->arrived_nanos);
  const uint64_t grant_id = what.grant_id();
  if (what.type() != v1::IO_OPERATION_TYPE_FLUSH && !what.force_unit_access()) {
    arrived_nanos_.push_back(operation.admitted_nanos != 0 ? operation.admitted_nanos
                                                           : operation.batch->arrived_nanos);
  }
  v1::IoResult* result = outbox_.Add(operation, work_);
  result->set_status(status);
  if (!message.empty()) result->set_message(message);
  if (chunk::Store* store = device_->store(); store != nullptr) {
    result->set_store_incarnation(store->open_report().incarnation);
  }
  // Nobody answers for what was done in the name of a grant that was not proven.
  if (operation.grant == nullptr) return result;
  if (grant_uses_.empty() || grant_uses_.back().first != grant_id) {
    grant_uses_.emplace_back(grant_id, GrantUse{});
  }
  GrantUse& use = grant_uses_.back().second;
  if (status == v1::IO_STATUS_OK && IsChange(what.type())) {
    ++use.writes;
    use.write_bytes += bytes;
  } else if (status == v1::IO_STATUS_OK && what.type() == v1::IO_OPERATION_TYPE_READ) {
    ++use.reads;
    use.read_bytes += bytes;
  } else if (status != v1::IO_STATUS_OK && status != v1::IO_STATUS_DUPLICATE) {
    ++use.errors;
  }
  if (status == v1::IO_STATUS_OK) CountForLimits(what, &use);
  return result;
}

void DeviceWorker::CountForLimits(const v1::IoOperation& operation, GrantUse* use) {
  const IoCost cost = CostOf(operation.type(), operation.length_bytes());
  use->counted_operations += cost.operations;
  use->counted_bytes += cost.bytes;
  double part = 1;
  if (IsChange(operation.type())) {
    // The client sent it to each replica, and did it once. What a learner takes beside them counts
    // for nothing.
    const GroupReplica* replica = Find(operation.placement_group_id());
    const bool counts = replica != nullptr && replica->membership.in_sync_count > 0 &&
                        replica->membership.role == v1::REPLICA_ROLE_IN_SYNC;
    part = counts ? 1.0 / replica->membership.in_sync_count : 0;
  }
  use->client_operations += part * cost.operations;
  use->client_bytes += part * static_cast<double>(cost.bytes);
}

uint64_t DeviceWorker::PublishCounts() {
  uint64_t now = 0;
  if (!tally_.empty()) {
    now = context_->clock->BootNanos();
    if (!arrived_nanos_.empty()) context_->pacer->Observe(arrived_nanos_, now);
    arrived_nanos_.clear();
    tally_.PublishAndClear(now, context_->metrics);
  }
  if (grant_uses_.empty()) return now;
  context_->accounting->Add(grant_uses_);
  grant_uses_.clear();
  return now;
}

void DeviceWorker::FailDevice(const absl::Status& why) {
  if (device_->Fail(why)) context_->on_device_failed(device_, why);
}

GroupReplica* DeviceWorker::Find(uint64_t placement_group_id) {
  const auto found = replicas_.find(placement_group_id);
  return found == replicas_.end() ? nullptr : found->second.get();
}

GroupReplica* DeviceWorker::FindLearner(uint64_t placement_group_id, uint64_t epoch) {
  GroupReplica* replica = Find(placement_group_id);
  if (replica == nullptr || replica->membership.epoch != epoch || replica->learner == nullptr) {
    return nullptr;
  }
  return replica;
}

std::vector<GroupReplica*> DeviceWorker::Replicas() {
  std::vector<GroupReplica*> replicas;
  for (const auto& [id, replica] : replicas_) replicas.push_back(replica.get());
  return replicas;
}

bool DeviceWorker::LoadCursors(GroupReplica* replica) {
  if (replica->cursors_loaded) return true;
  chunk::Store* store = device_->store();
  if (store == nullptr) return false;
  for (const chunk::StreamCursor& cursor : store->Cursors(replica->placement_group_id)) {
    replica->cursors[cursor.stream.volume_id] = cursor.last;
  }
  replica->cursors_loaded = true;
  return true;
}

void DeviceWorker::Install(const LocalMembership& entry, bool mine, bool restored) {
  FinishCycle();
  std::unique_ptr<GroupReplica>& slot = replicas_[entry.placement_group_id];
  if (slot != nullptr && slot->membership.epoch >= entry.membership.epoch) return;
  const bool was_here = slot != nullptr && slot->device_id != 0;
  if (slot == nullptr) slot = std::make_unique<GroupReplica>();
  GroupReplica& replica = *slot;
  replica.placement_group_id = entry.placement_group_id;
  replica.membership = entry.membership;
  replica.device_id = mine ? entry.device_id : 0;
  replica.learner = nullptr;
  for (const auto& waiter : replica.progress_waiters) waiter->Notify();
  replica.progress_waiters.clear();
  if (!mine) {
    // Kept without a role, so that operations which come here by an old route get the right answer.
    replica.membership.role = v1::REPLICA_ROLE_UNSPECIFIED;
    replica.cursors.clear();
    replica.too_old.clear();
    replica.cursors_loaded = false;
    // What an earlier life left behind is looked for as well.
    if (was_here || restored) context_->on_retired(entry.placement_group_id, device_);
    return;
  }
  if (replica.membership.role != v1::REPLICA_ROLE_LEARNER || device_->store() == nullptr) return;
  replica.learner =
      std::make_unique<LearnerState>(entry.membership.epoch, device_->store()->chunk_bytes());
  if (restored) replica.learner->Fail("the server was restarted while learning");
  context_->on_learner(entry.placement_group_id, entry.membership.epoch, device_);
}

void DeviceWorker::OnStoreOpened() {
  for (const auto& [id, replica] : replicas_) {
    if (replica->device_id == 0 || replica->learner != nullptr) continue;
    if (replica->membership.role != v1::REPLICA_ROLE_LEARNER) continue;
    replica->learner =
        std::make_unique<LearnerState>(replica->membership.epoch, device_->store()->chunk_bytes());
    context_->on_learner(id, replica->membership.epoch, device_);
  }
}

void DeviceWorker::OnGenerationRaised(uint64_t volume_id, uint64_t generation) {
  for (const auto& [id, replica] : replicas_) {
    if (replica->learner != nullptr) replica->learner->OnGenerationRaised(volume_id, generation);
  }
}

void DeviceWorker::ForgetVtree(uint64_t vtree_id, uint64_t volume_id) {
  for (const auto& [id, replica] : replicas_) {
    replica->cursors.erase(volume_id);
    if (replica->learner != nullptr) replica->learner->ForgetVtree(vtree_id);
  }
}

}  // namespace tessera::sds
