// Pieces on their way to replicas and back.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/placement_hash.h"
#include "services/sdc/engine/volume_engine.h"
#include "services/sdc/rules/read_balancer.h"

namespace tessera::sdc {
namespace {

constexpr auto kRetryDelay = std::chrono::milliseconds(10);
// Refusals of a grant in a row after which only a newer generation can help.
constexpr uint32_t kRefusalsUntilAcquire = 3;
// What servers keep a checksum of.
constexpr uint32_t kChecksummedBytes = 4'096;

token::Operation TokenOperation(v1::IoOperationType type) {
  switch (type) {
    case v1::IO_OPERATION_TYPE_WRITE:
      return token::Operation::kWrite;
    case v1::IO_OPERATION_TYPE_WRITE_ZEROES:
      return token::Operation::kWriteZeroes;
    case v1::IO_OPERATION_TYPE_TRIM:
      return token::Operation::kTrim;
    case v1::IO_OPERATION_TYPE_ADOPT:
      return token::Operation::kAdopt;
    case v1::IO_OPERATION_TYPE_FLUSH:
      return token::Operation::kFlush;
    default:
      return token::Operation::kRead;
  }
}

WriteAnswer ToWriteAnswer(v1::IoStatus status) {
  switch (status) {
    case v1::IO_STATUS_OK:
      return WriteAnswer::kOk;
    case v1::IO_STATUS_DUPLICATE:
      return WriteAnswer::kDuplicate;
    case v1::IO_STATUS_NO_SPACE:
    case v1::IO_STATUS_CHECKSUM_ERROR:
      // Taken as a place in the order, without the change.
      return WriteAnswer::kNoSpace;
    case v1::IO_STATUS_SEQUENCE_GAP:
      return WriteAnswer::kSequenceGap;
    case v1::IO_STATUS_STALE_EPOCH:
      return WriteAnswer::kStaleEpoch;
    case v1::IO_STATUS_UNKNOWN_EPOCH:
      return WriteAnswer::kUnknownEpoch;
    case v1::IO_STATUS_NOT_MEMBER:
      return WriteAnswer::kNotMember;
    case v1::IO_STATUS_OVERLOADED:
    case v1::IO_STATUS_TOKEN_REFUSED:
    case v1::IO_STATUS_STALE_GENERATION:
      return WriteAnswer::kRetry;
    default:
      return WriteAnswer::kFailed;
  }
}

std::string Describe(const v1::IoResult& result) {
  std::string text = v1::IoStatus_Name(result.status());
  if (!result.message().empty()) absl::StrAppend(&text, ": ", result.message());
  return text;
}

}  // namespace

VolumeEngine::Group* VolumeEngine::GroupFor(uint64_t chunk_index) {
  const v1::PoolLayout* pool = context_.map().FindPool(pool_id());
  if (pool == nullptr || pool->placement_group_count() == 0) return nullptr;
  if (groups_.size() < pool->placement_group_count()) groups_.resize(pool->placement_group_count());
  const uint32_t index =
      PlacementGroupIndex(grant_.fields.vtree_id, chunk_index, pool->placement_group_count());
  std::unique_ptr<Group>& group = groups_[index];
  if (group == nullptr) {
    const MapCache::Group* map = context_.map().FindGroup(PlacementGroupId(pool_id(), index));
    if (map == nullptr) return nullptr;
    group = std::make_unique<Group>(
        PlacementGroupWriter(map->entry, grant_.fields.generation, pool->min_replicas()));
    ++group_count_;
    group->map = map;
    group->probe_chunk = chunk_index;
    RecordGroup(*group);
    if (context_.options().unflushed_bytes > 0) group->writer.Retain();
    if (!read_only()) {
      for (const WriterMember& member : group->writer.members()) {
        if (member.in_sync)
          flushes_.NoteInherited({member.device_id, map->entry.placement_group_id});
      }
    }
  }
  return group.get();
}

VolumeEngine::Group* VolumeEngine::FindGroup(uint64_t placement_group_id) {
  if (PoolOfPlacementGroup(placement_group_id) != pool_id()) return nullptr;
  const uint64_t index = placement_group_id - PlacementGroupId(pool_id(), 0);
  return index < groups_.size() ? groups_[index].get() : nullptr;
}

void VolumeEngine::SendPiece(Piece* piece) {
  if (!IsWriteType(piece->type)) {
    SendRead(piece);
    return;
  }
  Group* group = GroupFor(piece->where.chunk_index);
  if (group == nullptr) {
    Park(piece);
    return;
  }
  AppendWrite(*group, piece);
}

void VolumeEngine::AppendWrite(Group& group, Piece* piece) {
  RecordWrite(group, piece);
  const uint64_t now = context_.NowNanos();
  if (piece->began_nanos == 0) piece->began_nanos = now;
  group.writer.Append(reinterpret_cast<WriteCookie>(piece), now);
  Pump(group);
}

void VolumeEngine::Pump(Group& group) {
  if (grant_blocked_) return;
  bool blocked = false;
  for (WriterMember& member : group.writer.members()) blocked |= !PumpMember(group, member);
  if (blocked && !std::exchange(group.blocked, true)) blocked_groups_.push_back(&group);
}

// Sends what is due. False when the stream's window is full.
bool VolumeEngine::PumpMember(Group& group, WriterMember& member) {
  PlacementGroupWriter& writer = group.writer;
  if (member.next_send >= writer.next_sequence() || member.reported) return true;
  const uint64_t now = member.hold_until_nanos > 0 ? context_.NowNanos() : 0;
  if (now < member.hold_until_nanos) {
    Hold(group);
    return true;
  }
  SdsStream* stream = context_.StreamTo(member.sds_id);
  if (stream == nullptr || !stream->open()) {
    if (stream != nullptr && stream->unreachable()) {
      Report(group, member.device_id, "the server is not reachable");
    }
    return true;
  }
  const token::GrantKey* key = grant_.KeyFor(member.sds_id);
  if (key == nullptr) {
    NeedGrant(GrantTrouble::kRenew);
    return true;
  }
  while (const uint64_t sequence = writer.NextToSend(member, now)) {
    const auto* piece = reinterpret_cast<const Piece*>(writer.cookie(sequence));
    const bool data = piece->type == v1::IO_OPERATION_TYPE_WRITE;
    if (!stream->HasRoom(data ? piece->where.length_bytes : 0)) return false;
    SendWrite(group, member, *stream, *key);
  }
  return true;
}

void VolumeEngine::SendWrite(Group& group, WriterMember& member, SdsStream& stream,
                             const token::GrantKey& key) {
  const SendStamp stamp = group.writer.MarkSent(member);
  const auto* piece = reinterpret_cast<const Piece*>(group.writer.cookie(stamp.sequence));
  if (stamp.round > 0) context_.counters().write_repeats.Add();
  InFlightOperation operation;
  operation.kind = InFlightOperation::Kind::kWrite;
  operation.volume = this;
  operation.object = &group;
  operation.device_id = member.device_id;
  operation.placement_group_id = group.writer.placement_group_id();
  operation.stamp = stamp;
  operation.window_bytes =
      piece->type == v1::IO_OPERATION_TYPE_WRITE ? piece->where.length_bytes : 0;
  stream.ShowGrant(grant_.fields.grant_id, grant_.revision, grant_.bytes);
  stream.ShowEntry(*group.map);
  FillOperation(stream.Add(operation, piece->slices), group, *piece, stamp.sequence, key);
}

void VolumeEngine::FillOperation(v1::IoOperation* operation, const Group& group, const Piece& piece,
                                 uint64_t counter, const token::GrantKey& key) {
  token::IoToken token;
  token.operation = TokenOperation(piece.type);
  token.grant_id = grant_.fields.grant_id;
  token.generation = grant_.fields.generation;
  token.placement_group_id = group.writer.placement_group_id();
  token.epoch = group.writer.epoch();
  token.counter = counter;
  token.chunk_index = piece.where.chunk_index;
  token.snapshot_sequence = grant_.fields.snapshot_sequence;
  token.offset_bytes = piece.where.offset_bytes;
  token.length_bytes = piece.where.length_bytes;
  token.data_crc32c = piece.crc32c;
  token.sds_incarnation = operation->sds_incarnation();
  const token::Signature signature = key.Sign(token);

  operation->set_type(piece.type);
  operation->set_grant_id(token.grant_id);
  operation->set_generation(token.generation);
  operation->set_placement_group_id(token.placement_group_id);
  operation->set_epoch(token.epoch);
  operation->set_counter(counter);
  operation->set_chunk_index(token.chunk_index);
  operation->set_snapshot_sequence(token.snapshot_sequence);
  operation->set_offset_bytes(token.offset_bytes);
  operation->set_length_bytes(token.length_bytes);
  operation->set_data_crc32c(token.data_crc32c);
  operation->set_signature(signature.data(), signature.size());
  operation->set_force_unit_access(piece.force_unit_access);
  if (piece.type != v1::IO_OPERATION_TYPE_CHANGES || piece.request->block.base == nullptr) return;
  for (const token::PathPart& part : piece.request->block.base->parts) {
    v1::LayerPathPart* added = operation->add_base_path();
    added->set_branch(part.branch);
    added->set_ordinal_max(part.ordinal_max);
  }
}

size_t VolumeEngine::ChooseMember(Group& group, const Piece& piece) {
  absl::InlinedVector<ReadCandidate, 4> candidates;
  for (size_t i = 0; i < group.writer.members().size(); ++i) {
    const WriterMember& member = group.writer.members()[i];
    SdsStream* stream = context_.StreamTo(member.sds_id);
    const auto& tried = piece.tried_device_ids;
    ReadCandidate candidate;
    candidate.member = i;
    candidate.usable = member.in_sync && !member.behind && stream != nullptr && stream->open() &&
                       grant_.KeyFor(member.sds_id) != nullptr &&
                       std::find(tried.begin(), tried.end(), member.device_id) == tried.end();
    candidate.same_host = stream != nullptr && stream->same_host();
    candidate.in_flight = stream != nullptr ? stream->in_flight() : 0;
    candidates.push_back(candidate);
  }
  return candidates.empty() ? kNoCandidate : ChooseReplica(candidates, piece.where.chunk_index);
}

void VolumeEngine::SendRead(Piece* piece) {
  Group* group = grant_blocked_ ? nullptr : GroupFor(piece->where.chunk_index);
  if (group == nullptr) {
    Park(piece);
    return;
  }
  const size_t chosen = ChooseMember(*group, *piece);
  if (chosen == kNoCandidate) {
    if (piece->checksum_errors > 0 && piece->checksum_errors >= group->writer.in_sync_count()) {
      if (ReadOneBlockOnly(piece)) {
        SendRead(piece);
        return;
      }
      PieceDone(piece, EIO,
                absl::StrCat("chunk ", piece->where.chunk_index,
                             ": checksums are wrong on every replica in sync"));
      return;
    }
    // Another round over the replicas, when one can be asked again.
    piece->tried_device_ids.clear();
    piece->checksum_errors = 0;
    for (const WriterMember& member : group->writer.members()) {
      if (grant_.KeyFor(member.sds_id) == nullptr) NeedGrant(GrantTrouble::kRenew);
    }
    Park(piece);
    return;
  }
  const WriterMember& member = group->writer.members()[chosen];
  SdsStream& stream = *context_.StreamTo(member.sds_id);
  if (!stream.HasRoom(piece->where.length_bytes)) {
    Park(piece);
    return;
  }
  InFlightOperation operation;
  operation.kind = InFlightOperation::Kind::kRead;
  operation.volume = this;
  operation.object = piece;
  operation.device_id = member.device_id;
  operation.placement_group_id = group->writer.placement_group_id();
  operation.stamp.epoch = group->writer.epoch();
  operation.stamp.generation = grant_.fields.generation;
  operation.window_bytes =
      piece->type == v1::IO_OPERATION_TYPE_READ ? piece->where.length_bytes : 0;
  operation.sent_nanos = context_.NowNanos();
  if (piece->sends++ == 0) piece->began_nanos = operation.sent_nanos;
  stream.ShowGrant(grant_.fields.grant_id, grant_.revision, grant_.bytes);
  stream.ShowEntry(*group->map);
  FillOperation(stream.Add(operation, {}), *group, *piece, TakeCounter(),
                *grant_.KeyFor(member.sds_id));
}

void VolumeEngine::Answered(SdsStream& stream, const InFlightOperation& operation,
                            const v1::IoResult& result, PayloadCursor& payload) {
  if (result.status() == v1::IO_STATUS_OK) grant_refusals_ = 0;
  answer_nanos_ = stream.received_nanos();
  switch (operation.kind) {
    case InFlightOperation::Kind::kWrite:
      WriteAnswered(stream, operation, result);
      break;
    case InFlightOperation::Kind::kRead:
      ReadAnswered(stream, operation, result, payload);
      break;
    case InFlightOperation::Kind::kFlush:
      FlushAnswered(stream, operation, result);
      break;
    case InFlightOperation::Kind::kProbe:
      ProbeAnswered(stream, operation, result);
      break;
    default:
      break;
  }
}

void VolumeEngine::WriteAnswered(SdsStream& stream, const InFlightOperation& operation,
                                 const v1::IoResult& result) {
  Group& group = *static_cast<Group*>(operation.object);
  const WriteAnswer answer = ToWriteAnswer(result.status());
  const uint64_t now = context_.NowNanos();
  if (answer == WriteAnswer::kOk || answer == WriteAnswer::kDuplicate) {
    WriteTaken(group, stream, operation, result);
  } else if (answer == WriteAnswer::kRetry) {
    HeedRefusal(stream, operation, result);
  } else if (result.status() == v1::IO_STATUS_CHECKSUM_ERROR) {
    if (Piece* piece = PieceOf(group, operation.stamp)) piece->cuts_bad_block = true;
  }
  const WriterReaction reaction =
      group.writer.Answer(operation.device_id, operation.stamp, answer,
                          {result.expected_sequence(), result.current_epoch()}, now);
  React(group, stream, operation.device_id, reaction, result);
}

// The write that was sent so, if it still waits or is kept.
Piece* VolumeEngine::PieceOf(Group& group, const SendStamp& stamp) {
  const PlacementGroupWriter& writer = group.writer;
  if (stamp.epoch != writer.epoch() || stamp.generation != writer.generation() ||
      stamp.sequence < writer.retained_front() || stamp.sequence >= writer.next_sequence()) {
    return nullptr;
  }
  return reinterpret_cast<Piece*>(writer.cookie(stamp.sequence));
}

// Notes what a flush has to cover.
void VolumeEngine::WriteTaken(Group& group, SdsStream& stream, const InFlightOperation& operation,
                              const v1::IoResult& result) {
  Piece* piece = PieceOf(group, operation.stamp);
  if (piece == nullptr) return;
  NoteAnswer(stream, operation, piece);
  if (piece->force_unit_access) {
    if (result.status() == v1::IO_STATUS_OK) return;
    // A repeat does nothing now: whether the first time was made durable is not known.
    if (piece->request != nullptr) piece->request->flush_after = true;
  }
  if (!flushes_.NoteWrite({operation.device_id, operation.placement_group_id},
                          result.store_incarnation())) {
    ReportLost();
  }
}

void VolumeEngine::React(Group& group, SdsStream& stream, uint64_t device_id,
                         WriterReaction reaction, const v1::IoResult& result) {
  switch (reaction) {
    case WriterReaction::kNothing:
      break;
    case WriterReaction::kCheckCompletion:
      CompleteWrites(group);
      break;
    case WriterReaction::kCatchUp:
      CatchingUp(group, device_id, result.expected_sequence());
      [[fallthrough]];
    case WriterReaction::kSend:
      Pump(group);
      break;
    case WriterReaction::kSendLater:
      Hold(group);
      break;
    case WriterReaction::kShowEntry:
      stream.ForgetEntry(group.writer.placement_group_id());
      Hold(group);
      break;
    case WriterReaction::kFetchEntry:
      // A report about an epoch that is over changes nothing and is answered with the current
      // entry.
      context_.ReportReplica({group.writer.placement_group_id(), group.writer.epoch(), device_id,
                              "a server knows a newer map entry"});
      Hold(group);
      break;
    case WriterReaction::kReport:
      if (result.status() == v1::IO_STATUS_SEQUENCE_GAP) group.lacking_device_id = device_id;
      context_.ReportReplica({group.writer.placement_group_id(), group.writer.epoch(), device_id,
                              absl::StrCat("write: ", Describe(result))});
      break;
  }
}

void VolumeEngine::CompleteWrites(Group& group) {
  for (;;) {
    const PlacementGroupWriter::Completion completion = group.writer.PopCompleted();
    auto* piece = reinterpret_cast<Piece*>(completion.cookie);
    RecordFront(group);
    switch (completion.kind) {
      case PlacementGroupWriter::Completion::Kind::kNone:
        return;
      case PlacementGroupWriter::Completion::Kind::kDone:
        KeepUntilDurable(group, piece);
        PieceDone(piece, 0, "");
        break;
      case PlacementGroupWriter::Completion::Kind::kNoSpace:
        // Its place in the order is taken by nothing; what waits gets another.
        KeepNothing(group, piece);
        if (piece->cuts_bad_block) {
          PieceDone(piece, EIO, "the write cuts a block that no replica can read");
        } else if (!WaitForSpace(piece)) {
          PieceDone(piece, ENOSPC, "the pool is full");
        }
        break;
      case PlacementGroupWriter::Completion::Kind::kReport:
        for (const uint64_t device_id : completion.failed_device_ids) {
          Report(group, device_id,
                 "lacks a write that others have taken: no space, or a bad block");
        }
        return;
    }
  }
}

void VolumeEngine::ReadAnswered(SdsStream& stream, const InFlightOperation& operation,
                                const v1::IoResult& result, PayloadCursor& payload) {
  auto* piece = static_cast<Piece*>(operation.object);
  Group* group = FindGroup(operation.placement_group_id);
  if (result.status() == v1::IO_STATUS_OK) {
    NoteAnswer(stream, operation, piece);
    ReadServed(piece, result, payload);
    return;
  }
  context_.counters().read_retries.Add();
  switch (result.status()) {
    case v1::IO_STATUS_STALE_EPOCH:
    case v1::IO_STATUS_UNKNOWN_EPOCH:
    case v1::IO_STATUS_NOT_MEMBER:
      HeedEpoch(stream, operation, result);
      if (group != nullptr && operation.stamp.epoch == group->writer.epoch()) {
        piece->tried_device_ids.push_back(operation.device_id);
      }
      Park(piece);
      return;
    case v1::IO_STATUS_STALE_GENERATION:
    case v1::IO_STATUS_TOKEN_REFUSED:
      HeedRefusal(stream, operation, result);
      Park(piece);
      return;
    case v1::IO_STATUS_OVERLOADED:
      Park(piece);
      return;
    case v1::IO_STATUS_CHECKSUM_ERROR:
      LogError("replica has a block with a wrong checksum",
               {{"volume", volume_id()},
                {"device", operation.device_id},
                {"placement_group", operation.placement_group_id},
                {"chunk", piece->where.chunk_index}});
      ++piece->checksum_errors;
      break;
    case v1::IO_STATUS_INVALID:
      PieceDone(piece, EIO, absl::StrCat("a server refused a read: ", Describe(result)));
      return;
    default:
      // Reads of a last replica that has failed come back at once, and are tried again soon.
      if (group != nullptr && (group->kept_device_id != operation.device_id ||
                               context_.NowNanos() >= group->kept_until_nanos)) {
        Report(*group, operation.device_id, absl::StrCat("read: ", Describe(result)));
      }
      break;
  }
  piece->tried_device_ids.push_back(operation.device_id);
  SendRead(piece);
}

// Each replica may lack another block of the range: from now on it is read block by block. False:
// it is one block already.
bool VolumeEngine::ReadOneBlockOnly(Piece* piece) {
  FillCache(piece, {});
  piece->tried_device_ids.clear();
  piece->checksum_errors = 0;
  const uint32_t left_in_block = kChecksummedBytes - piece->where.offset_bytes % kChecksummedBytes;
  if (piece->where.length_bytes <= left_in_block) return false;
  piece->rest_bytes += piece->where.length_bytes - left_in_block;
  piece->where.length_bytes = left_in_block;
  return true;
}

void VolumeEngine::ReadServed(Piece* piece, const v1::IoResult& result, PayloadCursor& payload) {
  PiecePart& part = piece->request->parts[piece->part];
  if (piece->type == v1::IO_OPERATION_TYPE_MAP || piece->type == v1::IO_OPERATION_TYPE_CHANGES) {
    const bool compared = piece->type == v1::IO_OPERATION_TYPE_CHANGES;
    uint64_t left = piece->where.length_bytes;
    for (const v1::ChunkExtent& extent : result.extents()) {
      const uint64_t length = std::min<uint64_t>(extent.length_bytes(), left);
      part.extents.push_back(
          {length, !extent.mapped(), !extent.mapped(), compared && extent.changed()});
      left -= length;
    }
    // What a server says nothing of counts as data that differs: never wrong, only slower.
    if (left > 0) part.extents.push_back({left, false, false, compared});
    PieceDone(piece, 0, "");
    return;
  }
  std::vector<grpc::Slice> slices;
  if (result.payload_bytes() != piece->where.length_bytes ||
      !payload.TakeSlices(result.payload_bytes(), &slices)) {
    PieceDone(piece, EIO,
              absl::StrCat("a server answered a read of ", piece->where.length_bytes,
                           " bytes with ", result.payload_bytes()));
    return;
  }
  FillCache(piece, slices);
  if (piece->request->block.command != Command::kCache) {
    for (grpc::Slice& slice : slices) part.slices.push_back(std::move(slice));
  }
  if (piece->rest_bytes > 0) {
    piece->where.offset_bytes += piece->where.length_bytes;
    piece->where.length_bytes = std::exchange(piece->rest_bytes, 0);
    ReadOneBlockOnly(piece);
    SendRead(piece);
    return;
  }
  PieceDone(piece, 0, "");
}

void VolumeEngine::HeedRefusal(SdsStream& stream, const InFlightOperation& operation,
                               const v1::IoResult& result) {
  // What was signed under an earlier generation says nothing about this one.
  if (operation.stamp.generation != grant_.fields.generation) return;
  if (result.status() == v1::IO_STATUS_STALE_GENERATION) return NeedGrant(GrantTrouble::kAcquire);
  if (result.status() != v1::IO_STATUS_TOKEN_REFUSED) return;
  switch (result.refusal()) {
    case v1::TOKEN_REFUSAL_NO_TOKEN:
      stream.ForgetGrant(grant_.fields.grant_id);
      break;
    case v1::TOKEN_REFUSAL_WRONG_GENERATION:
    case v1::TOKEN_REFUSAL_WRONG_VOLUME:
    case v1::TOKEN_REFUSAL_WRONG_OPERATION:
    case v1::TOKEN_REFUSAL_OUT_OF_RANGE:
      NeedGrant(GrantTrouble::kAcquire);
      break;
    case v1::TOKEN_REFUSAL_EXPIRED:
    case v1::TOKEN_REFUSAL_UNKNOWN_KEY:
    case v1::TOKEN_REFUSAL_BAD_SIGNATURE:
      stream.ForgetGrant(grant_.fields.grant_id);
      NeedGrant(++grant_refusals_ > kRefusalsUntilAcquire ? GrantTrouble::kAcquire
                                                          : GrantTrouble::kRenew);
      break;
    default:
      break;  // this one operation: it is sent again
  }
}

// One of both sides is behind: the server is shown the entry, or the newer one is fetched. A report
// about an epoch that is over changes nothing and is answered with the current entry.
void VolumeEngine::HeedEpoch(SdsStream& stream, const InFlightOperation& operation,
                             const v1::IoResult& result) {
  const Group* group = FindGroup(operation.placement_group_id);
  if (group == nullptr || operation.stamp.epoch != group->writer.epoch()) return;
  if (result.current_epoch() <= group->writer.epoch()) {
    stream.ForgetEntry(operation.placement_group_id);
    return;
  }
  context_.ReportReplica({operation.placement_group_id, operation.stamp.epoch, operation.device_id,
                          "a server knows a newer map entry"});
}

void VolumeEngine::NeedGrant(GrantTrouble trouble) {
  if (!std::exchange(grant_blocked_, true)) {
    grant_blocked_nanos_ = context_.NowNanos();
    context_.counters().grants_needed.Add();
  }
  context_.GrantNeeded(volume_id(), trouble);
}

void VolumeEngine::Park(Piece* piece) {
  parked_.push_back(piece);
  ArmRetry();
}

void VolumeEngine::Hold(Group& group) {
  if (std::exchange(group.held, true)) return;
  held_groups_.push_back(&group);
  ArmRetry();
}

void VolumeEngine::ArmRetry() {
  if (std::exchange(retry_timer_set_, true)) return;
  retry_timer_ = context_.loop().After(kRetryDelay, [this] {
    retry_timer_set_ = false;
    RetryParked();
    for (Group* group : std::exchange(held_groups_, {})) {
      group->held = false;
      Pump(*group);
    }
    for (const uint64_t device_id : std::exchange(flush_unsent_, {})) SendFlush(device_id);
    for (const ReplicaName& replica : std::exchange(probes_unsent_, {})) SendProbe(replica);
    if (std::exchange(flush_wants_map_, false) && !flushes_.round_running()) BeginFlushRound();
  });
}

void VolumeEngine::RetryParked() {
  for (Piece* piece : std::exchange(parked_, {})) SendPiece(piece);
}

void VolumeEngine::RoomInWindow() {
  for (Group* group : std::exchange(blocked_groups_, {})) {
    group->blocked = false;
    Pump(*group);
  }
  if (!parked_.empty()) RetryParked();
}

void VolumeEngine::Report(Group& group, uint64_t device_id, std::string reason) {
  if (!group.writer.ReportFailed(device_id)) return;
  context_.ReportReplica(
      {group.writer.placement_group_id(), group.writer.epoch(), device_id, std::move(reason)});
}

void VolumeEngine::Unanswered(const InFlightOperation& operation) {
  switch (operation.kind) {
    case InFlightOperation::Kind::kRead: {
      auto* piece = static_cast<Piece*>(operation.object);
      context_.counters().read_retries.Add();
      piece->tried_device_ids.push_back(operation.device_id);
      SendRead(piece);
      break;
    }
    case InFlightOperation::Kind::kFlush:
      flush_retried_ = true;
      flush_unsent_.push_back(operation.device_id);
      ArmRetry();
      break;
    case InFlightOperation::Kind::kProbe:
      probes_unsent_.push_back({operation.device_id, operation.placement_group_id});
      ArmRetry();
      break;
    default:
      break;  // writes are sent again from their place in the order
  }
}

void VolumeEngine::StreamOpened(SdsStream& stream) {
  DoubtReplicas(stream);
  for (const auto& group : groups_) {
    if (group == nullptr) continue;
    group->writer.StreamOpened(stream.sds_id());
    if (!group->writer.idle()) Pump(*group);
  }
  RetryParked();
  for (const uint64_t device_id : std::exchange(flush_unsent_, {})) SendFlush(device_id);
}

void VolumeEngine::StreamUnreachable(uint64_t sds_id, const std::string& why) {
  const std::string reason = absl::StrCat("the server is not reachable: ", why);
  for (const auto& group : groups_) {
    if (group == nullptr) continue;
    for (const WriterMember& member : group->writer.members()) {
      if (member.sds_id != sds_id) continue;
      // What waits for it now; others are reported when something does.
      const bool flushing = flushes_.PlacementGroupToAsk(member.device_id) != 0;
      const bool lost =
          flushes_.IsLost({member.device_id, group->writer.placement_group_id()}) || member.behind;
      if (!group->writer.idle() || flushing || lost) Report(*group, member.device_id, reason);
    }
  }
  RetryParked();
}

void VolumeEngine::ReplicaOverdue(const ReplicaName& replica, const char* what) {
  Group* group = FindGroup(replica.placement_group_id);
  if (group != nullptr) Report(*group, replica.device_id, what);
}

void VolumeEngine::EntryChanged(uint64_t placement_group_id) {
  Group* group = FindGroup(placement_group_id);
  if (group == nullptr) {
    if (!parked_.empty()) RetryParked();
    return;
  }
  AdoptEntry(*group);
}

void VolumeEngine::AdoptEntry(Group& group) {
  const auto before = group.writer.members();
  const uint64_t known_epoch = group.writer.epoch();
  if (!group.writer.Adopt(group.map->entry, context_.NowNanos())) return;
  group.lacking_device_id = group.lost_device_id = 0;
  // Before members are compared: the one that lost it may have left since, and one that learned
  // from it is no better.
  if (group.map->entry.loss_epoch > known_epoch) {
    DropCache();
    UnflushedLost(group);
  }
  const auto& after = group.writer.members();
  for (const WriterMember& old : before) {
    const auto now = std::find_if(after.begin(), after.end(), [&old](const WriterMember& member) {
      return member.device_id == old.device_id;
    });
    // One that went, or learns anew, owes nothing of what it took before.
    if (now == after.end() || (old.in_sync && !now->in_sync)) {
      flushes_.DropReplica({old.device_id, group.writer.placement_group_id()});
    }
  }
  RecordDoubt(group);
  RecordEpoch(group);
  for (const WriterMember& member : after) {
    const ReplicaName replica{member.device_id, group.writer.placement_group_id()};
    if (member.behind) AskReplica(group, member.device_id);
    // What it was found to lack was reported too late, perhaps: under an epoch that is over.
    if (!member.behind && context_.options().unflushed_bytes > 0 && flushes_.IsLost(replica)) {
      ProbeLater(replica);
    }
  }
  ReportLearnersInDoubt(group);
  Pump(group);
  CompleteWrites(group);
  RetryParked();
  CheckFlushRound();
}

void VolumeEngine::ReportRejected(const ReplicaName& replica) {
  Group* group = FindGroup(replica.placement_group_id);
  if (group == nullptr) return;
  group->writer.ReportRejected(replica.device_id, context_.NowNanos());
  group->kept_device_id = replica.device_id;
  group->kept_until_nanos = context_.NowNanos() + PlacementGroupWriter::kEpochHoldNanos;
  Hold(*group);
  const bool last = group->writer.in_sync_count() == 1;
  if (last && std::exchange(group->lacking_device_id, 0) == replica.device_id) {
    // Power was lost on all replicas: the last one can never take the next of our order. Under a
    // new generation the order starts anew where the replicas are; the next flush says what was
    // lost.
    NeedGrant(GrantTrouble::kAcquire);
  }
  if (last && flushes_.IsLost(replica)) {
    if (!CanBeProved(*group, replica) || group->lost_device_id == replica.device_id) {
      flushes_.AcceptLoss(replica);
      DropCache();
    }
    // Also when that is settled: what is kept here can be given to it.
    ProbeLater(replica);
  }
  CheckFlushRound();
}

void VolumeEngine::ReportUnanswered(const ReplicaName& replica) {
  Group* group = FindGroup(replica.placement_group_id);
  if (group == nullptr) return;
  group->writer.ReportRejected(replica.device_id, context_.NowNanos());
  Hold(*group);
}

}  // namespace tessera::sdc
