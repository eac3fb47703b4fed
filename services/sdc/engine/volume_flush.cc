// Flush rounds: see rules/flush_tracker.h.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/sdc/engine/volume_engine.h"

namespace tessera::sdc {

void VolumeEngine::RequestFlush(Request* request) {
  request->phase = Request::Phase::kFlushing;
  request->flush_nanos = context_.NowNanos();
  flush_waiting_.push_back(request);
  if (flushes_.round_running() || flush_waiting_.size() > 1) return;
  // By way of the loop: the answer may come at once, and flushes of this turn share a round.
  context_.loop().Post([this, alive = alive_] {
    if (*alive && !flushes_.round_running()) BeginFlushRound();
  });
}

// What an earlier client wrote, or this volume in an earlier life of this process, was answered and
// may not be durable: the first flush covers all groups that the volume has. False: the map is not
// here yet.
bool VolumeEngine::InheritUnflushed() {
  if (inherited_ || read_only()) return true;
  const v1::PoolLayout* pool = context_.map().FindPool(pool_id());
  if (pool == nullptr || pool->placement_group_count() == 0) return false;
  const uint64_t chunk_bytes = grant_.fields.chunk_bytes;
  const uint64_t chunks = (grant_.fields.volume_size_bytes + chunk_bytes - 1) / chunk_bytes;
  for (uint64_t chunk = 0; chunk < chunks && group_count_ < pool->placement_group_count();
       ++chunk) {
    if (GroupFor(chunk) == nullptr) return false;
  }
  inherited_ = true;
  return true;
}

void VolumeEngine::BeginFlushRound() {
  if (flush_waiting_.empty()) return;
  if (!InheritUnflushed()) {
    flush_wants_map_ = true;
    ArmRetry();
    return;
  }
  flush_round_.swap(flush_waiting_);
  flush_began_nanos_ = context_.NowNanos();
  flush_retried_ = false;
  flush_path_.reset();
  MarkFlushRound();
  covering_earlier_ = uncovered_;
  const std::vector<ReplicaName> targets = flushes_.BeginRound();
  for (const ReplicaName& target : targets) SendFlush(target.device_id);
  CheckFlushRound();
}

void VolumeEngine::SendFlush(uint64_t device_id) {
  const uint64_t placement_group_id = flushes_.PlacementGroupToAsk(device_id);
  if (placement_group_id == 0) return;
  Group* group = FindGroup(placement_group_id);
  const WriterMember* member = nullptr;
  for (const WriterMember& candidate : group->writer.members()) {
    if (candidate.device_id == device_id) member = &candidate;
  }
  SdsStream* stream = member == nullptr ? nullptr : context_.StreamTo(member->sds_id);
  const token::GrantKey* key = member == nullptr ? nullptr : grant_.KeyFor(member->sds_id);
  // One that the MDM keeps although it was reported is reported again at the pace of its hold only.
  const bool held = member != nullptr && context_.NowNanos() < member->hold_until_nanos;
  if (member != nullptr && stream != nullptr && stream->unreachable() && !held) {
    for (const ReplicaName& replica : flushes_.WaitedFor(device_id)) {
      ReplicaOverdue(replica, "the server is not reachable for a flush");
    }
  }
  if (grant_blocked_ || stream == nullptr || !stream->open() || key == nullptr) {
    flush_retried_ = true;
    flush_unsent_.push_back(device_id);
    ArmRetry();
    return;
  }
  InFlightOperation operation;
  operation.kind = InFlightOperation::Kind::kFlush;
  operation.volume = this;
  operation.device_id = device_id;
  operation.placement_group_id = placement_group_id;
  operation.stamp.epoch = group->writer.epoch();
  operation.stamp.generation = grant_.fields.generation;
  operation.sent_nanos = context_.NowNanos();
  stream->ShowGrant(grant_.fields.grant_id, grant_.revision, grant_.bytes);
  stream->ShowEntry(*group->map);
  Piece piece;
  piece.type = v1::IO_OPERATION_TYPE_FLUSH;
  FillOperation(stream->Add(operation, {}), *group, piece, TakeCounter(), *key);
}

void VolumeEngine::FlushAnswered(SdsStream& stream, const InFlightOperation& operation,
                                 const v1::IoResult& result) {
  switch (result.status()) {
    case v1::IO_STATUS_OK:
      NoteFlushAnswer(stream, operation);
      if (!flushes_.DeviceFlushed(operation.device_id, result.store_incarnation())) ReportLost();
      CheckFlushRound();
      return;
    case v1::IO_STATUS_STALE_EPOCH:
    case v1::IO_STATUS_UNKNOWN_EPOCH:
    case v1::IO_STATUS_NOT_MEMBER:
      HeedEpoch(stream, operation, result);
      break;
    case v1::IO_STATUS_STALE_GENERATION:
    case v1::IO_STATUS_TOKEN_REFUSED:
      HeedRefusal(stream, operation, result);
      break;
    case v1::IO_STATUS_OVERLOADED:
      break;
    default:
      // A device that can't flush can't be trusted with what it has not flushed, now or later.
      flushes_.FlushFailed(operation.device_id);
      ReportLost();
      CheckFlushRound();
      return;
  }
  flush_retried_ = true;
  flush_unsent_.push_back(operation.device_id);
  ArmRetry();
}

// A write of this generation is a mark in a replica's order that can be asked for.
bool VolumeEngine::CanBeProved(const Group& group, const ReplicaName& replica) const {
  return flushes_.CanProve(replica) && group.writer.front_sequence() > 1;
}

// A store that began another life is asked what it has before anybody is told that it lost it.
void VolumeEngine::ReportLost() {
  for (const ReplicaName& replica : flushes_.TakeNewlyLost()) {
    Group* group = FindGroup(replica.placement_group_id);
    // Worth it only where what it lacks could be given to it again.
    const bool kept = context_.options().unflushed_bytes > 0;
    if (kept && group != nullptr && CanBeProved(*group, replica)) {
      ProbeLater(replica);
      continue;
    }
    LogWarning("unflushed writes are lost on a replica",
               {{"volume", volume_id()},
                {"device", replica.device_id},
                {"placement_group", replica.placement_group_id}});
    ReplicaOverdue(replica, "it can no longer promise writes that were not flushed");
    if (kept && group != nullptr) ProbeLater(replica);
  }
}

// A report may have got lost, or come too late for its epoch: a round waits for the MDM's decision.
void VolumeEngine::ReportLostAgain(uint64_t now_nanos) {
  for (Group* group : retaining_groups_) ReportLearnersInDoubt(*group);
  for (const ReplicaName& replica : flushes_.Lost()) {
    Group* group = FindGroup(replica.placement_group_id);
    if (group == nullptr) continue;
    const bool asked = context_.options().unflushed_bytes > 0 && CanBeProved(*group, replica) &&
                       group->lost_device_id != replica.device_id;
    for (const WriterMember& member : group->writer.members()) {
      if (asked || member.device_id != replica.device_id || now_nanos < member.hold_until_nanos)
        continue;
      ReplicaOverdue(replica, "it can no longer promise writes that were not flushed");
      break;
    }
  }
}

void VolumeEngine::ProbeLater(const ReplicaName& replica) {
  const auto& unsent = probes_unsent_;
  if (std::find(unsent.begin(), unsent.end(), replica) == unsent.end()) {
    probes_unsent_.push_back(replica);
  }
  ArmRetry();
}

// Asks a replica, whose store was opened anew, how far its order goes. Every write before the place
// that it names is there, since a store keeps a prefix of the order.
void VolumeEngine::SendProbe(const ReplicaName& replica) {
  Group* group = FindGroup(replica.placement_group_id);
  if (group == nullptr) return;
  const WriterMember* member = nullptr;
  for (const WriterMember& candidate : group->writer.members()) {
    if (candidate.device_id == replica.device_id) member = &candidate;
  }
  const bool lost = flushes_.IsLost(replica);
  if (member == nullptr || (!lost && !member->behind)) return;
  if (lost && !CanBeProved(*group, replica)) {
    // A loss is accepted of the last replica only: where another is in sync, this one leaves.
    if (group->writer.in_sync_count() > 1) {
      group->lost_device_id = replica.device_id;
      Report(*group, replica.device_id, "it can't prove that it has what was not flushed");
      // It may be able to before it has left: once it has taken a write of this generation.
      return ProbeLater(replica);
    }
    flushes_.AcceptLoss(replica);
    DropCache();
    CheckFlushRound();
    if (!member->behind) return;
  }
  SdsStream* stream = member == nullptr ? nullptr : context_.StreamTo(member->sds_id);
  const token::GrantKey* key = member == nullptr ? nullptr : grant_.KeyFor(member->sds_id);
  if (grant_blocked_ || stream == nullptr || !stream->open() || key == nullptr) {
    return ProbeLater(replica);
  }
  InFlightOperation operation;
  operation.kind = InFlightOperation::Kind::kProbe;
  operation.volume = this;
  operation.device_id = replica.device_id;
  operation.placement_group_id = replica.placement_group_id;
  operation.stamp.epoch = group->writer.epoch();
  operation.stamp.generation = grant_.fields.generation;
  operation.sent_nanos = context_.NowNanos();
  stream->ShowGrant(grant_.fields.grant_id, grant_.revision, grant_.bytes);
  stream->ShowEntry(*group->map);
  Piece piece;
  piece.type = v1::IO_OPERATION_TYPE_POSITION;
  piece.where = {group->probe_chunk, 0, static_cast<uint32_t>(kSectorBytes)};
  FillOperation(stream->Add(operation, {}), *group, piece, TakeCounter(), *key);
}

void VolumeEngine::ProbeAnswered(SdsStream& stream, const InFlightOperation& operation,
                                 const v1::IoResult& result) {
  const ReplicaName replica{operation.device_id, operation.placement_group_id};
  Group* group = FindGroup(operation.placement_group_id);
  if (group == nullptr) return;
  switch (result.status()) {
    case v1::IO_STATUS_OK:
      if (operation.stamp.generation == group->writer.generation()) break;
      return ProbeLater(replica);
    case v1::IO_STATUS_STALE_EPOCH:
    case v1::IO_STATUS_UNKNOWN_EPOCH:
    case v1::IO_STATUS_NOT_MEMBER:
      HeedEpoch(stream, operation, result);
      return ProbeLater(replica);
    case v1::IO_STATUS_TOKEN_REFUSED:
    case v1::IO_STATUS_STALE_GENERATION:
      HeedRefusal(stream, operation, result);
      return ProbeLater(replica);
    case v1::IO_STATUS_OVERLOADED:
      return ProbeLater(replica);
    default:
      Report(*group, replica.device_id, "it can't say what it has");
      return ProbeLater(replica);
  }
  // One that has nothing of this generation may lack what came before it, which nobody keeps.
  const bool without_earlier =
      result.expected_sequence() <= 1 && !flushes_.OwesThisGenerationOnly(replica);
  switch (without_earlier ? Proof::kLacking
                          : group->writer.Prove(replica.device_id, result.expected_sequence())) {
    case Proof::kComplete:
      LogInfo("a reopened store has every acknowledged write",
              {{"volume", volume_id()},
               {"device", replica.device_id},
               {"placement_group", replica.placement_group_id}});
      group->lost_device_id = 0;
      if (flushes_.Recover(replica)) SendFlush(replica.device_id);
      RetryParked();
      break;
    case Proof::kCatchingUp:
      CatchingUp(*group, replica.device_id, result.expected_sequence());
      Pump(*group);
      break;
    case Proof::kLacking:
      LogWarning("unflushed writes are lost on a replica",
                 {{"volume", volume_id()},
                  {"device", replica.device_id},
                  {"placement_group", replica.placement_group_id}});
      group->lost_device_id = replica.device_id;
      Report(*group, replica.device_id, "it has lost writes that it had answered");
      RetryParked();
      break;
  }
  CheckFlushRound();
}

// Of a flush alone: an error of a write says nothing of other writes. One that was answered when
// its time was over told of no loss.
void VolumeEngine::NoteTold(const Request& request, uint64_t losses) {
  if (request.internal || request.answered) return;
  LossCursor* client = request.block.client.get();
  if (client != nullptr) client->told = losses;
  if (client == nullptr || !client->closed) told_losses_ = losses;
  RecordHeard();
}

void VolumeEngine::CheckFlushRound() {
  RecordLosses();
  if (!flushes_.round_running() && flush_round_.empty()) return;
  if (LearnersInDoubt() || !flushes_.FinishRound()) return;
  FlushRoundCovered();
  const uint64_t losses = flushes_.losses();
  for (Request* request : std::exchange(flush_round_, {})) {
    NoteFlushed(request);
    if (request->told_losses < losses && request->error == 0) {
      request->error = EIO;
      request->message =
          "the last replica failed or was restarted before this flush: writes answered earlier may "
          "be lost";
    }
    if (request->block.command == Command::kFlush) {
      NoteTold(*request, losses);
      request->phase = Request::Phase::kRunning;
      Answer(request);
    } else {
      Finish(request);
    }
  }
  if (!flush_waiting_.empty()) BeginFlushRound();
}

}  // namespace tessera::sdc
