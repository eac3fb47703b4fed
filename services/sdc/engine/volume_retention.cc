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
  kept->type = piece->type;
  kept->where = piece->where;
  kept->crc32c = piece->crc32c;
  kept->force_unit_access = piece->force_unit_access;
  kept->slices.swap(piece->slices);
  group.writer.RenameLast(reinterpret_cast<WriteCookie>(kept));
  if (!std::exchange(group.retaining, true)) retaining_groups_.push_back(&group);
  const uint64_t cost = CostOf(*kept);
  LoopCounter& kept_bytes = context_.counters().unflushed_bytes;
  kept_bytes.Add(cost);
  if (kept_bytes.Get() > limit) {
    // The flush does not keep up: the oldest can't be given again from now on.
    ReleaseWrites(group, group.writer.retained_front() + 1);
  }
  if (kept_bytes.Get() <= limit / 2 || making_room_ || flushes_.round_running() || detaching_)
    return;
  making_room_ = true;
  BlockRequest flush;
  flush.command = Command::kFlush;
  flush.done = [this, alive = alive_](const BlockReply&) {
    if (*alive) making_room_ = false;
  };
  Request* request = NewRequest(std::move(flush));
  request->internal = true;
  RequestFlush(request);
}

// A write that no replica had space for keeps its place in the order. What would be given again,
// should it come to that, is the write itself: one that has failed may take effect.
void VolumeEngine::KeepNothing(Group& group, const Piece* piece) {
  if (context_.options().unflushed_bytes == 0) return;
  Piece copy = *piece;
  KeepUntilDurable(group, &copy);
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
    group->flush_mark = 0;
  }
  retaining_groups_.clear();
}

// What is acknowledged now was answered by every member, and is covered by the round that begins.
void VolumeEngine::MarkFlushRound() {
  for (Group* group : retaining_groups_) group->flush_mark = group->writer.front_sequence();
}

void VolumeEngine::FlushRoundCovered() {
  std::erase_if(retaining_groups_, [this](Group* group) {
    if (group->writer.MayRelease()) ReleaseWrites(*group, group->flush_mark);
    group->flush_mark = 0;
    group->retaining = group->writer.retained() > 0;
    return !group->retaining;
  });
}

void VolumeEngine::NoteCatchUp(const Group& group, uint64_t device_id, uint64_t from_sequence) {
  LogWarning("a replica lost acknowledged writes and is sent them again",
             {{"volume", volume_id()},
              {"device", device_id},
              {"placement_group", group.writer.placement_group_id()},
              {"from", from_sequence},
              {"to", group.writer.front_sequence() - 1}});
  context_.counters().replicas_caught_up.Add();
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
      SendProbe({member.device_id, group->writer.placement_group_id()});
    }
  }
}

}  // namespace tessera::sdc
