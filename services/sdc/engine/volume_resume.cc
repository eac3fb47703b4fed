// What the next life of this process is to know of a volume, and taking it over from the one
// before: docs/REPLICATION.md, "A client's restart". Each value is recorded before anything is done
// that depends on it.
#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/placement_hash.h"
#include "services/sdc/engine/volume_engine.h"

namespace tessera::sdc {
namespace {

// Content in the resume file, for as long as a stream or the volume has it.
grpc::Slice SliceOf(std::shared_ptr<ResumeBlock> block) {
  auto* keeper = new std::shared_ptr<ResumeBlock>(std::move(block));
  const std::span<std::byte> bytes = (*keeper)->bytes();
  return grpc::Slice(
      bytes.data(), bytes.size(),
      [](void* user_data) { delete static_cast<std::shared_ptr<ResumeBlock>*>(user_data); },
      keeper);
}

Command CommandOf(uint32_t type) {
  switch (type) {
    case v1::IO_OPERATION_TYPE_WRITE_ZEROES:
      return Command::kWriteZeroes;
    case v1::IO_OPERATION_TYPE_TRIM:
    case v1::IO_OPERATION_TYPE_ADOPT:
      return Command::kTrim;
    default:
      return Command::kWrite;
  }
}

absl::Status CheckWrite(const ResumeWrite& write, const token::Grant& grant) {
  const bool known = write.type == v1::IO_OPERATION_TYPE_WRITE ||
                     write.type == v1::IO_OPERATION_TYPE_WRITE_ZEROES ||
                     write.type == v1::IO_OPERATION_TYPE_TRIM ||
                     write.type == v1::IO_OPERATION_TYPE_ADOPT;
  const uint64_t chunks =
      (grant.volume_size_bytes + grant.chunk_bytes - 1) / std::max(grant.chunk_bytes, 1u);
  const bool inside = write.chunk_index < chunks && write.offset_bytes <= grant.chunk_bytes &&
                      write.length_bytes <= grant.chunk_bytes - write.offset_bytes;
  if (known && inside) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("write ", write.sequence, " makes no sense"));
}

}  // namespace

// ---- Recording.

void VolumeEngine::RecordNew() {
  table_ = context_.resume();
  if (table_ == nullptr) return;
  if (!table_->PutVolume(volume_id(), name_, grant_.fields.generation, grant_.issued)) {
    table_ = nullptr;
    return;
  }
  record_ = table_->Volume(volume_id());
}

// A counter is never used twice, whatever happens between the two lives.
uint64_t VolumeEngine::TakeCounter() {
  const uint64_t counter = next_counter_++;
  if (table_ != nullptr) record_.SetNextCounter(next_counter_);
  return counter;
}

void VolumeEngine::RecordGroup(Group& group) {
  if (table_ == nullptr) return;
  group.record =
      table_->PutGroup(volume_id(), group.writer.placement_group_id(), grant_.fields.generation,
                       group.probe_chunk, group.writer.epoch());
}

// The write with its content, which is sent from there. Where there is no room the next life can't
// go on with this volume until the write is durable.
void VolumeEngine::RecordWrite(Group& group, Piece* piece) {
  ForgetWrite(piece);
  if (table_ == nullptr) return;
  ResumeWrite write;
  write.volume_id = volume_id();
  write.placement_group_id = group.writer.placement_group_id();
  write.generation = group.writer.generation();
  write.sequence = group.writer.next_sequence();
  write.chunk_index = piece->where.chunk_index;
  write.offset_bytes = piece->where.offset_bytes;
  write.length_bytes = piece->where.length_bytes;
  write.type = static_cast<uint32_t>(piece->type);
  write.force_unit_access = piece->force_unit_access;
  write.data_crc32c = piece->crc32c;
  absl::InlinedVector<std::span<const std::byte>, 2> content;
  for (const grpc::Slice& slice : piece->slices) {
    content.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()), slice.size());
  }
  std::shared_ptr<ResumeBlock> block;
  piece->slot = table_->PutWrite(write, content, &block);
  if (piece->slot == kNoResumeSlot) {
    piece->outside = true;
    record_.AddOutside();
    context_.counters().writes_outside.Add();
    if (!retaining_groups_.empty() && !flushes_.round_running()) FlushKept();
    return;
  }
  if (block == nullptr) return;
  piece->slices.clear();
  piece->slices.push_back(SliceOf(std::move(block)));
}

void VolumeEngine::ForgetWrite(Piece* piece) {
  const ResumeSlot slot = std::exchange(piece->slot, kNoResumeSlot);
  const bool outside = std::exchange(piece->outside, false);
  if (table_ == nullptr) return;
  if (slot != kNoResumeSlot) table_->ReleaseWrite(slot);
  if (outside) record_.RemoveOutside();
}

// Before anybody is answered.
void VolumeEngine::RecordFront(Group& group) {
  if (table_ == nullptr || !group.record.valid()) return;
  const uint64_t front = group.writer.front_sequence();
  if (front == group.record.Get(resume::kFront)) return;
  if (context_.options().unflushed_bytes == 0) {
    group.unkept_below = front;
    RecordUnkept(group);
    if (!std::exchange(group.retaining, true)) retaining_groups_.push_back(&group);
  }
  group.record.Set(resume::kFront, front);
}

void VolumeEngine::RecordUnkept(Group& group) {
  group.record.Set(resume::kUnkeptBelow, group.unkept_below);
}

// Before a replica is given what it lacks: afterwards nothing shows that a learner may have copied
// from it.
void VolumeEngine::RecordDoubt(Group& group) {
  group.record.Set(resume::kLearnersInDoubt, group.writer.learners_in_doubt() ? 1 : 0);
}

// The next life is told of a loss again for as long as it would lose by it.
void VolumeEngine::RecordEpoch(Group& group) {
  if (!group.loss_kept) group.record.Set(resume::kKnownEpoch, group.writer.epoch());
}

void VolumeEngine::RecordLosses() {
  if (table_ == nullptr || record_.Get(resume::kLosses) == flushes_.losses()) return;
  RecordHeard();
  record_.SetLosses(flushes_.losses());
}

// Every open client, whose connection ends with this process, hears of a loss once it is back.
void VolumeEngine::RecordHeard() {
  if (table_ == nullptr) return;
  uint64_t heard = told_losses_;
  for (const auto& weak : cursors_) {
    const std::shared_ptr<LossCursor> cursor = weak.lock();
    if (cursor != nullptr && !cursor->closed) heard = std::min(heard, cursor->told);
  }
  if (heard != record_.Get(resume::kHeard)) record_.SetHeard(heard);
}

// Another grant, and the order that begins with it. REQUIRES: the record says that there are writes
// outside of it.
void VolumeEngine::RecordNewOrder() {
  next_counter_ = 1;
  uncovered_ = true;
  covering_earlier_ = false;
  if (table_ == nullptr) return;
  (void)table_->PutGrant(volume_id(), grant_.fields.generation, grant_.issued);
  record_.SetNextCounter(next_counter_);
  record_.SetUncovered(true);
  for (const auto& group : groups_) {
    if (group == nullptr || !group->record.valid()) continue;
    const PlacementGroupWriter& writer = group->writer;
    ResumeTable::MoveGroup(group->record, writer.generation());
    group->record.Set(resume::kFront, writer.front_sequence());
    RecordUnkept(*group);
    RecordDoubt(*group);
    for (uint64_t sequence = writer.front_sequence(); sequence < writer.next_sequence();
         ++sequence) {
      const auto* piece = reinterpret_cast<const Piece*>(writer.cookie(sequence));
      if (piece->slot == kNoResumeSlot) continue;
      table_->MoveWrite(piece->slot, writer.generation(), sequence);
    }
  }
  record_.RemoveOutside();
}

// ---- Taking over.

absl::Status VolumeEngine::CheckResumed(const ResumedVolume& left, const VolumeGrant& grant,
                                        const MapCache& map) {
  if (grant.fields.volume_id != left.volume_id || grant.fields.generation != left.generation) {
    return absl::DataLossError("its grant is of something else");
  }
  const v1::PoolLayout* pool = map.FindPool(grant.fields.pool_id);
  if (pool == nullptr || pool->placement_group_count() == 0 || grant.fields.chunk_bytes == 0) {
    return absl::DataLossError("the layout of its pool is not there");
  }
  for (const ResumedGroup& group : left.groups) {
    const uint32_t index = PlacementGroupIndex(grant.fields.vtree_id, group.chunk_index,
                                               pool->placement_group_count());
    if (PlacementGroupId(grant.fields.pool_id, index) != group.placement_group_id ||
        map.FindGroup(group.placement_group_id) == nullptr) {
      return absl::DataLossError("a placement group is not in the map");
    }
    for (const ResumedWrite& write : group.writes) {
      if (absl::Status status = CheckWrite(write.write, grant.fields); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

Piece* VolumeEngine::RestorePiece(const ResumedWrite& left) {
  Piece* piece = NewPiece();
  piece->type = static_cast<v1::IoOperationType>(left.write.type);
  piece->where = {left.write.chunk_index, left.write.offset_bytes, left.write.length_bytes};
  piece->force_unit_access = left.write.force_unit_access;
  piece->crc32c = left.write.data_crc32c;
  piece->slot = left.slot;
  if (left.block != nullptr) piece->slices.push_back(SliceOf(left.block));
  context_.counters().writes_resumed.Add();
  return piece;
}

void VolumeEngine::ResumeGroupWrites(Group& group, const ResumedGroup& left) {
  std::vector<WriteCookie> retained;
  std::vector<WriteCookie> unacknowledged;
  for (const ResumedWrite& write : left.writes) {
    Piece* piece = RestorePiece(write);
    if (write.write.sequence < left.front_sequence) {
      retained.push_back(reinterpret_cast<WriteCookie>(piece));
      continue;
    }
    unacknowledged.push_back(reinterpret_cast<WriteCookie>(piece));
    // Nobody waits for it but reads of the same range.
    BlockRequest block;
    block.command = CommandOf(write.write.type);
    block.offset_bytes =
        write.write.chunk_index * grant_.fields.chunk_bytes + write.write.offset_bytes;
    block.length_bytes = write.write.length_bytes;
    block.force_unit_access = write.write.force_unit_access;
    Request* request = NewRequest(std::move(block));
    request->answered = true;
    request->taken_write = true;
    ++writes_taken_;
    stats_.in_flight.Subtract(1);
    context_.counters().in_flight.Subtract(1);
    request->phase = Request::Phase::kRunning;
    if (cache_ != nullptr) cache_->WriteBegins(request->widened);
    const RangeGate::Entry entry = gate_.Enter(RangeGate::Kind::kWrite, request->widened, request);
    request->ticket = entry.ticket;
    request->in_gate = true;
    request->outstanding = 1;
    piece->request = request;
  }
  group.writer.Resume(left.front_sequence, retained, unacknowledged, left.learners_in_doubt,
                      context_.NowNanos());
  AccountRetained(group);
}

// As after a pause in which each server began another life: what is known of them is asked anew.
void VolumeEngine::Resume(const ResumedVolume& left) {
  table_ = context_.resume();
  record_ = table_->Volume(volume_id());
  next_counter_ = left.next_counter;
  uncovered_ = left.uncovered;
  told_losses_ = left.heard_losses;
  flushes_.ResumeLosses(left.losses);
  const v1::PoolLayout* pool = context_.map().FindPool(pool_id());
  groups_.resize(pool->placement_group_count());
  for (const ResumedGroup& from : left.groups) {
    const MapCache::Group* map = context_.map().FindGroup(from.placement_group_id);
    const uint64_t index = from.placement_group_id - PlacementGroupId(pool_id(), 0);
    groups_[index] = std::make_unique<Group>(
        PlacementGroupWriter(map->entry, grant_.fields.generation, pool->min_replicas()));
    ++group_count_;
    Group& group = *groups_[index];
    group.map = map;
    group.probe_chunk = from.chunk_index;
    group.record = from.record;
    group.unkept_below = from.unkept_below;
    if (context_.options().unflushed_bytes > 0) group.writer.Retain();
    ResumeGroupWrites(group, from);
    if (map->entry.loss_epoch > from.known_epoch) DropCache();
    if (read_only()) continue;
    for (const WriterMember& member : group.writer.members()) {
      if (!member.in_sync) continue;
      if (uncovered_ || group.unkept_below > 0) {
        flushes_.NoteInherited({member.device_id, from.placement_group_id});
      }
      if (group.writer.Doubt(member.device_id)) AskReplica(group, member.device_id);
    }
    if (map->entry.loss_epoch > from.known_epoch) UnflushedLost(group);
    RecordEpoch(group);
    ReportLearnersInDoubt(group);
  }
  context_.counters().volumes_resumed.Add();
}

}  // namespace tessera::sdc
