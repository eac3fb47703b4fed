#include "services/sdc/rules/placement_group_writer.h"

#include <algorithm>
#include <utility>

namespace tessera::sdc {
namespace {
constexpr size_t kNone = SIZE_MAX;
constexpr size_t kFirstRingSize = 8;
constexpr size_t kRoundsRemembered = 64;
}  // namespace

PlacementGroupWriter::PlacementGroupWriter(const MapEntry& entry, uint64_t generation,
                                           uint32_t min_replicas)
    : placement_group_id_(entry.placement_group_id),
      min_replicas_(std::max<uint32_t>(1, min_replicas)),
      generation_(generation),
      ring_(kFirstRingSize) {
  Adopt(entry, 0);
}

void PlacementGroupWriter::Resume(uint64_t front_sequence, std::span<const WriteCookie> retained,
                                  std::span<const WriteCookie> unacknowledged,
                                  bool learners_in_doubt, uint64_t now_nanos) {
  front_sequence_ = next_sequence_ = front_sequence;
  for (const WriteCookie cookie : retained) {
    if (retained_ == ring_.size()) Grow();
    RingAt(retained_++) = Kept{cookie, now_nanos, 0};
  }
  for (WriterMember& member : members_) member.next_send = front_sequence_;
  learners_in_doubt_ =
      learners_in_doubt && std::any_of(members_.begin(), members_.end(),
                                       [](const WriterMember& member) { return !member.in_sync; });
  for (const WriteCookie cookie : unacknowledged) Append(cookie, now_nanos);
}

uint64_t PlacementGroupWriter::Append(WriteCookie cookie, uint64_t now_nanos) {
  if (retained_ + count_ == ring_.size()) Grow();
  At(count_) = Kept{cookie, now_nanos, 0};
  ++count_;
  return next_sequence_++;
}

void PlacementGroupWriter::Grow() {
  std::vector<Kept> larger(ring_.size() * 2);
  for (size_t i = 0; i < retained_ + count_; ++i) larger[i] = RingAt(i);
  ring_ = std::move(larger);
  head_ = 0;
}

bool PlacementGroupWriter::Adopt(const MapEntry& entry, uint64_t now_nanos) {
  if (entry.epoch <= epoch_) return false;
  // Between two entries that do not follow each other a member may have left and come back.
  const bool missed = entry.epoch > epoch_ + 1;
  epoch_ = entry.epoch;
  const auto before = std::exchange(members_, {});
  for (const MapMember& from : entry.members) {
    WriterMember member;
    static_cast<MapMember&>(member) = from;
    member.next_send = front_sequence_;
    // One that comes in sync has learned from a member that may itself have lacked, just then, what
    // was acknowledged: it is asked like one whose server began another life, also when nothing is
    // retained any more.
    const auto* old =
        std::find_if(before.begin(), before.end(), [&](const WriterMember& candidate) {
          return candidate.device_id == from.device_id && candidate.in_sync;
        });
    const bool came = old == before.end() || missed;
    member.behind = from.in_sync && ((old != before.end() && old->behind) ||
                                     (came && retaining_ && front_sequence_ > 1));
    member.lacking = member.behind && old != before.end() && old->lacking;
    members_.push_back(member);
  }
  NoteDoubt();
  for (size_t i = 0; i < count_; ++i) {
    At(i).answered = 0;
    At(i).since_nanos = now_nanos;
  }
  return true;
}

void PlacementGroupWriter::Renumber(uint64_t generation, uint64_t now_nanos) {
  generation_ = generation;
  front_sequence_ = 1;
  next_sequence_ = 1 + count_;
  no_space_.clear();
  for (size_t i = 0; i < count_; ++i) {
    At(i).answered = 0;
    At(i).since_nanos = now_nanos;
  }
  for (WriterMember& member : members_) {
    Rewind(member, front_sequence_);
    member.hold_until_nanos = 0;
    member.complaints = 0;
    // Nobody can give again what was acknowledged before.
    member.behind = member.lacking = false;
  }
  learners_in_doubt_ = false;
}

void PlacementGroupWriter::StreamOpened(uint64_t sds_id) {
  for (WriterMember& member : members_) {
    if (member.sds_id != sds_id) continue;
    Rewind(member, front_sequence_);
    member.hold_until_nanos = 0;
  }
}

void PlacementGroupWriter::Rewind(WriterMember& member, uint64_t sequence) {
  if (sequence >= member.next_send) return;
  member.next_send = sequence;
  ++member.round;
  if (member.round_starts.size() == kRoundsRemembered) {
    member.round_starts.erase(member.round_starts.begin());
    ++member.forgotten_rounds;
  }
  member.round_starts.push_back(sequence);
}

// Whether `sequence` was sent, or is due, once more after what the stamp is of.
bool PlacementGroupWriter::SentAgain(const WriterMember& member, const SendStamp& stamp,
                                     uint64_t sequence) {
  if (sequence >= member.next_send || stamp.round < member.forgotten_rounds) return true;
  const auto* first_later = member.round_starts.begin() + (stamp.round - member.forgotten_rounds);
  return std::any_of(first_later, member.round_starts.end(),
                     [sequence](uint64_t start) { return start <= sequence; });
}

size_t PlacementGroupWriter::Find(uint64_t device_id) const {
  for (size_t i = 0; i < members_.size(); ++i) {
    if (members_[i].device_id == device_id) return i;
  }
  return kNone;
}

WriterReaction PlacementGroupWriter::Answer(uint64_t device_id, const SendStamp& stamp,
                                            WriteAnswer answer, const WriteAnswerDetail& detail,
                                            uint64_t now_nanos) {
  if (stamp.epoch != epoch_ || stamp.generation != generation_) return WriterReaction::kNothing;
  const size_t index = Find(device_id);
  if (index == kNone) return WriterReaction::kNothing;
  if (stamp.sequence < retained_front() || stamp.sequence >= next_sequence_) {
    return WriterReaction::kNothing;
  }
  const bool retained = stamp.sequence < front_sequence_;
  WriterMember& member = members_[index];
  // What others have acknowledged and this one has no room for is a failure of this one.
  if (answer == WriteAnswer::kNoSpace && retained) answer = WriteAnswer::kFailed;
  switch (answer) {
    case WriteAnswer::kNoSpace:
      no_space_.push_back({stamp.sequence, device_id});
      [[fallthrough]];
    case WriteAnswer::kOk:
    case WriteAnswer::kDuplicate:
      return AnswerTaken(index, stamp.sequence);
    default:
      break;
  }
  const uint64_t wanted =
      answer == WriteAnswer::kSequenceGap ? detail.expected_sequence : stamp.sequence;
  if (member.reported || SentAgain(member, stamp, wanted)) return WriterReaction::kNothing;
  switch (answer) {
    case WriteAnswer::kSequenceGap:
      return AnswerGap(member, stamp.sequence, detail.expected_sequence);
    case WriteAnswer::kStaleEpoch:
    case WriteAnswer::kUnknownEpoch:
    case WriteAnswer::kNotMember:
      return AnswerEpoch(member, answer, stamp.sequence, detail.current_epoch, now_nanos);
    case WriteAnswer::kRetry:
      // Not counted as a complaint: a server may be short of room for as long as it likes, the time
      // limit judges it.
      Rewind(member, stamp.sequence);
      member.hold_until_nanos = now_nanos + kRetryHoldNanos;
      return WriterReaction::kSendLater;
    default:
      member.reported = true;
      return WriterReaction::kReport;
  }
}

WriterReaction PlacementGroupWriter::AnswerTaken(size_t index, uint64_t sequence) {
  WriterMember& member = members_[index];
  member.complaints = 0;
  // It takes nothing but the next of its order: so it has everything before.
  if (sequence + 1 >= front_sequence_) member.behind = member.lacking = false;
  if (sequence < front_sequence_) return WriterReaction::kNothing;
  At(sequence - front_sequence_).answered |= 1u << index;
  return sequence == front_sequence_ ? WriterReaction::kCheckCompletion : WriterReaction::kNothing;
}

WriteCookie PlacementGroupWriter::ReleaseOldest() {
  const WriteCookie cookie = RingAt(0).cookie;
  head_ = (head_ + 1) & mask();
  --retained_;
  return cookie;
}

bool PlacementGroupWriter::Doubt(uint64_t device_id) {
  const size_t index = Find(device_id);
  if (index == kNone || retained_ == 0 || !members_[index].in_sync) return false;
  members_[index].behind = true;
  return true;
}

void PlacementGroupWriter::NoteDoubt() {
  const auto learner = [](const WriterMember& member) { return !member.in_sync; };
  const bool learners = std::any_of(members_.begin(), members_.end(), learner);
  const bool doubt = std::any_of(members_.begin(), members_.end(),
                                 [](const WriterMember& member) { return member.lacking; });
  learners_in_doubt_ = learners && (learners_in_doubt_ || doubt);
}

bool PlacementGroupWriter::MayRelease() const {
  return !learners_in_doubt_ &&
         std::none_of(members_.begin(), members_.end(),
                      [](const WriterMember& member) { return member.behind; });
}

Proof PlacementGroupWriter::Prove(uint64_t device_id, uint64_t expected_sequence) {
  const size_t index = Find(device_id);
  if (index == kNone) return Proof::kLacking;
  if (expected_sequence < retained_front()) {
    // Nobody can make it better.
    members_[index].behind = members_[index].lacking = false;
    return Proof::kLacking;
  }
  if (expected_sequence >= front_sequence_) {
    members_[index].behind = members_[index].lacking = false;
    return Proof::kComplete;
  }
  // What is under way may have reached it meanwhile.
  if (!members_[index].behind || members_[index].next_send >= front_sequence_) {
    CatchUp(index, expected_sequence);
  }
  return Proof::kCatchingUp;
}

void PlacementGroupWriter::CatchUp(size_t index, uint64_t expected) {
  WriterMember& member = members_[index];
  member.behind = member.lacking = true;
  NoteDoubt();
  Rewind(member, expected);
  for (size_t i = 0; i < count_; ++i) At(i).answered &= ~(1u << index);
}

WriterReaction PlacementGroupWriter::Complain(WriterMember& member, uint64_t sequence,
                                              uint64_t hold_until_nanos, WriterReaction reaction) {
  if (++member.complaints > kMaximumComplaints) {
    member.reported = true;
    return WriterReaction::kReport;
  }
  Rewind(member, sequence);
  member.hold_until_nanos = hold_until_nanos;
  return reaction;
}

WriterReaction PlacementGroupWriter::AnswerGap(WriterMember& member, uint64_t sequence,
                                               uint64_t expected) {
  // It lacks what was acknowledged, or is ahead of what was ever sent: not the replica that we
  // knew.
  if (expected < retained_front() || expected > sequence) {
    member.reported = true;
    return WriterReaction::kReport;
  }
  if (expected < front_sequence_) {
    CatchUp(Find(member.device_id), expected);
    return Complain(member, expected, 0, WriterReaction::kCatchUp);
  }
  return Complain(member, expected, 0, WriterReaction::kSend);
}

WriterReaction PlacementGroupWriter::AnswerEpoch(WriterMember& member, WriteAnswer answer,
                                                 uint64_t sequence, uint64_t server_epoch,
                                                 uint64_t now_nanos) {
  if (server_epoch > epoch_) {
    return Complain(member, sequence, now_nanos + kEpochHoldNanos, WriterReaction::kFetchEntry);
  }
  if (answer == WriteAnswer::kNotMember && server_epoch == epoch_) {
    member.reported = true;
    return WriterReaction::kReport;
  }
  return Complain(member, sequence, now_nanos + kRetryHoldNanos, WriterReaction::kShowEntry);
}

PlacementGroupWriter::Completion PlacementGroupWriter::PopCompleted() {
  Completion completion;
  if (count_ == 0 || below_minimum()) return completion;
  const Kept front = At(0);
  if ((front.answered & AllMembers()) != AllMembers()) return completion;
  if (!no_space_.empty()) {
    for (const NoSpace& full : no_space_) {
      if (full.sequence != front_sequence_ || Find(full.device_id) == kNone) continue;
      if (std::find(completion.failed_device_ids.begin(), completion.failed_device_ids.end(),
                    full.device_id) == completion.failed_device_ids.end()) {
        completion.failed_device_ids.push_back(full.device_id);
      }
    }
  }
  completion.cookie = front.cookie;
  completion.sequence = front_sequence_;
  if (completion.failed_device_ids.empty()) {
    completion.kind = Completion::Kind::kDone;
  } else if (completion.failed_device_ids.size() == members_.size()) {
    completion.kind = Completion::Kind::kNoSpace;
  } else {
    completion.kind = Completion::Kind::kReport;
    return completion;
  }
  if (!no_space_.empty()) {
    std::erase_if(no_space_, [this](const NoSpace& n) { return n.sequence <= front_sequence_; });
  }
  if (retaining_) {
    ++retained_;
  } else {
    head_ = (head_ + 1) & mask();
  }
  --count_;
  ++front_sequence_;
  for (WriterMember& member : members_) {
    member.next_send = std::max(member.next_send, front_sequence_);
  }
  return completion;
}

bool PlacementGroupWriter::ReportFailed(uint64_t device_id) {
  const size_t index = Find(device_id);
  if (index == kNone || members_[index].reported) return false;
  members_[index].reported = true;
  return true;
}

void PlacementGroupWriter::ReportRejected(uint64_t device_id, uint64_t now_nanos) {
  const size_t index = Find(device_id);
  if (index == kNone || !members_[index].reported) return;
  WriterMember& member = members_[index];
  member.reported = false;
  member.complaints = 0;
  Rewind(member, front_sequence_);
  member.hold_until_nanos = now_nanos + kEpochHoldNanos;
  ForgiveWaiting(now_nanos);
}

absl::InlinedVector<uint64_t, 2> PlacementGroupWriter::Overdue(uint64_t deadline_nanos) const {
  absl::InlinedVector<uint64_t, 2> overdue;
  if (count_ == 0 || At(0).since_nanos >= deadline_nanos) return overdue;
  for (size_t i = 0; i < members_.size(); ++i) {
    const bool answered = (At(0).answered & (1u << i)) != 0;
    if (!answered && !members_[i].reported) overdue.push_back(members_[i].device_id);
  }
  return overdue;
}

void PlacementGroupWriter::ForgiveWaiting(uint64_t now_nanos) {
  if (count_ > 0) At(0).since_nanos = now_nanos;
}

size_t PlacementGroupWriter::in_sync_count() const {
  return static_cast<size_t>(
      std::count_if(members_.begin(), members_.end(), [](const auto& m) { return m.in_sync; }));
}

}  // namespace tessera::sdc
