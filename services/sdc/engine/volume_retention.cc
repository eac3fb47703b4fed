// Acknowledged writes stay here until a flush has made them durable, so that a replica that lost
// them with its power can be given them again: docs/REPLICATION.md, "Restarts and power loss".
#include <algorithm>
#include <utility>

#include "services/common/logging.h"
#include "services/sdc/engine/volume_engine.h"

namespace tessera::sdc {
namespace {

// What a write costs besides its data.
constexpr uint64_t kWriteOverheadBytes = 256;
// Space comes back when something is trimmed or deleted: no need to ask often.
constexpr auto kFullRetryDelay = std::chrono::milliseconds(250);

uint64_t CostOf(const Piece& piece) {
  uint64_t bytes = kWriteOverheadBytes;
  for (const grpc::Slice& slice : piece.slices) bytes += slice.size();
  return bytes;
}

}  // namespace

// The piece was taken by all members and is about to be freed: what the write is lives on.
void VolumeEngine::KeepUntilDurable(Group& group, Piece* piece) {
  const uint64_t limit = context_.options().unflushed_bytes;
  if (limit == 0) return;
  Piece* kept = NewPiece();
  kept->slot = std::exchange(piece->slot, kNoResumeSlot);
  kept->outside = std::exchange(piece->outside, false);
  kept->type = piece->type;
  kept->where = piece->where;
  kept->crc32c = piece->crc32c;
  kept->force_unit_access = piece->force_unit_access;
  kept->slices.swap(piece->slices);
  group.writer.RenameLast(reinterpret_cast<WriteCookie>(kept));
  if (!std::exchange(group.retaining, true)) retaining_groups_.push_back(&group);
  ArmKeepTimer();
  const uint64_t cost = CostOf(*kept);
  LoopCounter& kept_bytes = context_.counters().unflushed_bytes;
  kept_bytes.Add(cost);
  StayWithinLimit(group);
  const bool pressed = table_ != nullptr && table_->pressed();
  if ((kept_bytes.Get() > limit / 2 || pressed) && !flushes_.round_running()) FlushKept();
}

// What an earlier life of this process kept.
void VolumeEngine::AccountRetained(Group& group) {
  const PlacementGroupWriter& writer = group.writer;
  const bool keeps = context_.options().unflushed_bytes > 0;
  if (!keeps && writer.retained() > 0) group.unkept_below = writer.front_sequence();
  for (uint64_t sequence = writer.retained_front(); sequence < writer.front_sequence();
       ++sequence) {
    context_.counters().unflushed_bytes.Add(
        CostOf(*reinterpret_cast<const Piece*>(writer.cookie(sequence))));
  }
  if (!keeps) ReleaseWrites(group, UINT64_MAX);
  if (writer.retained() == 0 && group.unkept_below == 0) return;
  group.retaining = true;
  retaining_groups_.push_back(&group);
  ArmKeepTimer();
}

void VolumeEngine::ArmKeepTimer() {
  if (std::exchange(keep_timer_set_, true)) return;
  keep_timer_ = context_.loop().After(context_.options().flush_after, [this] {
    keep_timer_set_ = false;
    if (!retaining_groups_.empty()) FlushKept();
  });
}

void VolumeEngine::FlushKept() {
  if (detaching_ || std::exchange(flushing_kept_, true)) return;
  BlockRequest flush;
  flush.command = Command::kFlush;
  flush.done = [this, alive = alive_](const BlockReply&) {
    if (!*alive) return;
    flushing_kept_ = false;
    // What was acknowledged meanwhile.
    if (!retaining_groups_.empty()) ArmKeepTimer();
  };
  Request* request = NewRequest(std::move(flush));
  request->internal = true;
  RequestFlush(request);
}

// Where the flush does not keep up, the oldest can't be given again from now on. Only of the group
// that has just acknowledged one: nothing of it is due to any member, and the new write is among
// what can go, so that this is enough.
void VolumeEngine::StayWithinLimit(Group& group) {
  const uint64_t limit = context_.options().unflushed_bytes;
  while (context_.counters().unflushed_bytes.Get() > limit && group.writer.retained() > 0) {
    group.unkept_below = group.writer.retained_front() + 1;
    RecordUnkept(group);
    ReleaseWrites(group, group.unkept_below);
  }
}

// A write that no replica had space for keeps its place in the order. What would be given again,
// should it come to that, is the write itself: one that has failed may take effect.
void VolumeEngine::KeepNothing(Group& group, Piece* piece) {
  if (context_.options().unflushed_bytes == 0) return;
  Piece copy = *piece;
  KeepUntilDurable(group, &copy);
  // The kept one's now.
  piece->slot = kNoResumeSlot;
  piece->outside = false;
}

bool VolumeEngine::WaitForSpace(Piece* piece) {
  const auto limit = static_cast<uint64_t>(context_.options().full_wait.count());
  const Request* request = piece->request;
  if (limit == 0 || request->error != 0 || request->answered ||
      context_.NowNanos() - request->started_nanos >= limit) {
    return false;
  }
  context_.counters().waits_for_space.Add();
  full_waiting_.push_back(piece);
  if (std::exchange(full_timer_set_, true)) return true;
  full_timer_ = context_.loop().After(kFullRetryDelay, [this] {
    full_timer_set_ = false;
    for (Piece* waiting : std::exchange(full_waiting_, {})) SendPiece(waiting);
  });
  return true;
}

void VolumeEngine::ReleaseWrites(Group& group, uint64_t below_sequence) {
  while (group.writer.retained() > 0 && group.writer.retained_front() < below_sequence) {
    auto* piece = reinterpret_cast<Piece*>(group.writer.ReleaseOldest());
    const uint64_t cost = CostOf(*piece);
    context_.counters().unflushed_bytes.Subtract(cost);
    FreePiece(piece);
  }
}

void VolumeEngine::ReleaseAllWrites() {
  for (Group* group : retaining_groups_) {
    ReleaseWrites(*group, UINT64_MAX);
    group->retaining = false;
    group->flush_mark = group->unkept_below = 0;
  }
  retaining_groups_.clear();
}

// What is acknowledged now was answered by every member, and is covered by the round that begins.
void VolumeEngine::MarkFlushRound() {
  for (Group* group : retaining_groups_) {
    group->flush_mark = group->writer.front_sequence();
    group->loss_covering = group->loss_kept;
  }
}

void VolumeEngine::FlushRoundCovered() {
  std::erase_if(retaining_groups_, [this](Group* group) {
    if (group->writer.MayRelease()) {
      ReleaseWrites(*group, group->flush_mark);
      if (group->flush_mark >= group->unkept_below) group->unkept_below = 0;
      RecordUnkept(*group);
      if (std::exchange(group->loss_covering, false)) group->loss_kept = false;
      RecordEpoch(*group);
    }
    group->flush_mark = 0;
    group->retaining = group->writer.retained() > 0 || group->unkept_below > 0;
    return !group->retaining;
  });
  if (std::exchange(covering_earlier_, false)) {
    uncovered_ = false;
    if (table_ != nullptr) record_.SetUncovered(false);
  }
}

// Until the replica has proved that it has every acknowledged write, or has got what it lacks, no
// flush ends.
void VolumeEngine::AskReplica(Group& group, uint64_t device_id) {
  const ReplicaName replica{device_id, group.writer.placement_group_id()};
  flushes_.Suspect(replica);
  ProbeLater(replica);
}

// The group's last replica came back without what was not flushed. Where all of that is kept here,
// nothing is lost: each member that began another life, or came in sync, is asked what it has, and
// given the rest. Else the next flush says that something is lost: that no member proves to lack it
// would say nothing, where all have learned from the same one. Where that is of earlier clients or
// generations alone, what is kept is given again all the same, and nothing is read or flushed
// before: it is asked for at once, since a round that waits for nothing else would count it as
// durable.
void VolumeEngine::UnflushedLost(Group& group) {
  const bool all_kept = context_.options().unflushed_bytes > 0 && group.unkept_below == 0;
  if (all_kept && flushes_.GroupOwesThisGenerationOnly(group.writer.placement_group_id())) {
    group.loss_kept = group.writer.retained() > 0;
    group.loss_covering = false;
    return;
  }
  GiveUpUnflushed(group);
  if (!all_kept) return;
  for (const WriterMember& member : group.writer.members()) {
    if (group.writer.Doubt(member.device_id)) AskReplica(group, member.device_id);
  }
}

void VolumeEngine::GiveUpUnflushed(Group& group) {
  const uint64_t placement_group_id = group.writer.placement_group_id();
  group.loss_kept = false;
  DropCache();
  if (!flushes_.LoseGroup(placement_group_id)) return;
  RecordLosses();
  LogWarning("unflushed writes are lost: the last replica came back without them",
             {{"volume", volume_id()},
              {"placement_group", placement_group_id},
              {"loss_epoch", group.map->entry.loss_epoch}});
}

uint64_t VolumeEngine::GiveUpGeneration() {
  for (Group* group : retaining_groups_) {
    if (group->loss_kept) GiveUpUnflushed(*group);
  }
  return flushes_.losses();
}

void VolumeEngine::CatchingUp(Group& group, uint64_t device_id, uint64_t from_sequence) {
  LogWarning("a replica lost acknowledged writes and is sent them again",
             {{"volume", volume_id()},
              {"device", device_id},
              {"placement_group", group.writer.placement_group_id()},
              {"from", from_sequence},
              {"to", group.writer.front_sequence() - 1}});
  context_.counters().replicas_caught_up.Add();
  RecordDoubt(group);
  group.lost_device_id = 0;
  AskReplica(group, device_id);
  ReportLearnersInDoubt(group);
}

// A learner that copied from a replica which lacked something gets that from nobody. It begins
// again, by difference, and what is kept here stays until then.
void VolumeEngine::ReportLearnersInDoubt(Group& group) {
  if (!group.writer.learners_in_doubt()) return;
  const uint64_t now = context_.NowNanos();
  for (const WriterMember& member : group.writer.members()) {
    if (member.in_sync || now < member.hold_until_nanos) continue;
    Report(group, member.device_id, "it may have copied from a replica that lacked writes");
  }
}

bool VolumeEngine::LearnersInDoubt() const {
  return std::any_of(retaining_groups_.begin(), retaining_groups_.end(), [](const Group* group) {
    return group->flush_mark > 0 && group->writer.learners_in_doubt();
  });
}

// A server that begins another life may have lost what was not flushed. Until its replicas have
// proved the contrary, or have got it again, nothing is read from them.
void VolumeEngine::DoubtReplicas(SdsStream& stream) {
  const auto [life, first] = server_lives_.try_emplace(stream.sds_id(), stream.incarnation());
  // A volume may have begun on a stream that was open already: what it keeps is in doubt then, too.
  if (!first && std::exchange(life->second, stream.incarnation()) == stream.incarnation()) return;
  for (Group* group : retaining_groups_) {
    for (const WriterMember& member : group->writer.members()) {
      if (member.sds_id != stream.sds_id() || !group->writer.Doubt(member.device_id)) continue;
      AskReplica(*group, member.device_id);
    }
  }
}

}  // namespace tessera::sdc
