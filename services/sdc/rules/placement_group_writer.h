// The writer's side of one (volume, placement group): docs/REPLICATION.md, "A write".
//
// It numbers writes, keeps those that are not acknowledged in order, says what to send to which
// member next, and decides when a write is acknowledged. Its promises:
//
//  - Writes are acknowledged in sequence order, each when every in-sync replica and every learner
//  of the
//    current epoch has answered it under that epoch. So what it keeps is always the whole tail of
//    the order, and sending it again from the front can never put an old write over an acknowledged
//    one.
//  - With a newer entry of the map all kept writes are due again for every member of it, before any
//    new write, and answers under older epochs count for nothing.
//  - With a new generation the kept writes get the sequences 1, 2, 3, … in their old order.
//  - A member that answered NO_SPACE to a write keeps that answer through repeats, where it can
//  only
//    say DUPLICATE. All members: the application gets ENOSPC. Some: these have failed (they lack
//    what the others have).
//
// Acknowledged writes that are not durable yet are *retained*, in order, as far as the caller has
// room for them: a replica whose store has lost its unflushed tail (power) is sent them again from
// its place in the order on, so that nothing acknowledged is lost while the client lives. Until it
// has proved that it has every acknowledged write it is *behind*: not to be read from.
//
// Sending is by pull: each member has a place in the order up to which it was sent; a rewind moves
// it back and starts a new round. A complaint from an earlier round is ignored when what it is
// about has been sent again since.
//
// Threads: one at a time. Time is passed in: boot time, nanoseconds.
#ifndef TESSERA_SERVICES_SDC_RULES_PLACEMENT_GROUP_WRITER_H_
#define TESSERA_SERVICES_SDC_RULES_PLACEMENT_GROUP_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/inlined_vector.h"

namespace tessera::sdc {

// The caller's name for a write.
using WriteCookie = uintptr_t;

// An entry of the map as a writer needs it.
struct MapMember {
  uint64_t device_id = 0;
  uint64_t sds_id = 0;
  bool in_sync = false;  // else a learner; replicas out of sync are not listed

  friend bool operator==(const MapMember&, const MapMember&) = default;
};
struct MapEntry {
  uint64_t placement_group_id = 0;
  uint64_t epoch = 0;
  uint64_t loss_epoch = 0;  // PlacementGroup.loss_epoch
  absl::InlinedVector<MapMember, 4> members;
};

struct WriterMember : MapMember {
  uint64_t next_send = 1;  // sequence
  uint32_t round = 0;      // of sending; rises with each rewind
  // Where each round after the first began; the oldest are forgotten.
  absl::InlinedVector<uint64_t, 2> round_starts;
  uint32_t forgotten_rounds = 0;
  uint32_t complaints = 0;        // since it last took a write
  uint64_t hold_until_nanos = 0;  // nothing is sent to it before
  bool reported = false;          // as failed, in this epoch: nothing is sent to it
  bool behind = false;            // may lack writes that were acknowledged
  bool lacking = false;           // behind, and it is known
};

// What was sent: comes back with the answer.
struct SendStamp {
  uint64_t sequence = 0;
  uint64_t epoch = 0;
  uint64_t generation = 0;
  uint32_t round = 0;
};

// A replica's answer to a write, as far as the order is concerned.
enum class WriteAnswer : uint8_t {
  kOk,
  kDuplicate,
  kNoSpace,
  kSequenceGap,
  kStaleEpoch,
  kUnknownEpoch,
  kNotMember,
  kRetry,   // not taken, may be taken later: overloaded, a token to be renewed
  kFailed,  // the replica can't go on
};
struct WriteAnswerDetail {
  uint64_t expected_sequence = 0;  // kSequenceGap
  uint64_t current_epoch = 0;      // the epoch complaints: the server's
};

// What a replica's place in the order says.
enum class Proof : uint8_t {
  kComplete,    // it has every acknowledged write
  kCatchingUp,  // what it lacks is retained and due to it again
  kLacking,     // it lacks acknowledged writes that nobody has kept
};

// What the caller has to do after an answer.
enum class WriterReaction : uint8_t {
  kNothing,
  kCheckCompletion,  // call PopCompleted
  kSendLater,        // the member is held: send to it when the hold ends
  kSend,             // send to it
  kCatchUp,          // the same: it lacks acknowledged writes and is sent them again
  kShowEntry,        // show the server the map entry again; the member is held for a moment
  kFetchEntry,       // the server knows a newer entry: get it; the member is held
  kReport,           // the replica has failed: ReportFailed was done for it, tell the MDM
};

class PlacementGroupWriter {
 public:
  // Complaints in a row without one write taken after which a member counts as failed.
  static constexpr uint32_t kMaximumComplaints = 16;
  static constexpr uint64_t kRetryHoldNanos = 10'000'000;
  static constexpr uint64_t kEpochHoldNanos = 500'000'000;

  PlacementGroupWriter(const MapEntry& entry, uint64_t generation, uint32_t min_replicas);

  // Goes on where an earlier life of this writer was killed: `retained` are the last acknowledged
  // writes before `front_sequence`, `unacknowledged` come from it on. REQUIRES: nothing was
  // appended yet.
  void Resume(uint64_t front_sequence, std::span<const WriteCookie> retained,
              std::span<const WriteCookie> unacknowledged, bool learners_in_doubt,
              uint64_t now_nanos);

  // Puts a write at the end of the order; returns its sequence.
  uint64_t Append(WriteCookie cookie, uint64_t now_nanos);

  // True when the entry was newer.
  bool Adopt(const MapEntry& entry, uint64_t now_nanos);
  // A new generation of the volume is this writer's. REQUIRES: retained() == 0, since what was
  // acknowledged has no place in the new order.
  void Renumber(uint64_t generation, uint64_t now_nanos);
  // Everything kept is due again for the server's member: its stream is a new one.
  void StreamOpened(uint64_t sds_id);

  // The next write to send to a member, or 0 when there is none now.
  [[nodiscard]] uint64_t NextToSend(const WriterMember& member, uint64_t now_nanos) const {
    return member.next_send < next_sequence_ && !member.reported &&
                   now_nanos >= member.hold_until_nanos
               ? member.next_send
               : 0;
  }
  // Of a retained or an unacknowledged write.
  [[nodiscard]] WriteCookie cookie(uint64_t sequence) const {
    return RingAt(sequence - retained_front()).cookie;
  }
  [[nodiscard]] SendStamp MarkSent(WriterMember& member) {
    return {member.next_send++, epoch_, generation_, member.round};
  }

  WriterReaction Answer(uint64_t device_id, const SendStamp& stamp, WriteAnswer answer,
                        const WriteAnswerDetail& detail, uint64_t now_nanos);

  struct Completion {
    enum class Kind : uint8_t { kNone, kDone, kNoSpace, kReport } kind = Kind::kNone;
    WriteCookie cookie = 0;  // kDone, kNoSpace
    uint64_t sequence = 0;
    absl::InlinedVector<uint64_t, 2> failed_device_ids;  // kReport: members that lack the write
  };
  // Takes the front write when it is settled. Call until kNone (kReport also ends).
  [[nodiscard]] Completion PopCompleted();

  // ---- Acknowledged writes that are not durable yet.
  // From now on a write that PopCompleted returns stays, retained, until it is released.
  void Retain() { retaining_ = true; }
  // The caller's new name for the write that PopCompleted returned last. REQUIRES: it is retained.
  void RenameLast(WriteCookie cookie) { RingAt(retained_ - 1).cookie = cookie; }
  [[nodiscard]] size_t retained() const { return retained_; }
  // The oldest write that can be sent again; front_sequence() when none is retained.
  [[nodiscard]] uint64_t retained_front() const { return front_sequence_ - retained_; }
  // Forgets the oldest retained write; returns its name. REQUIRES: retained() > 0, and it
  // is due to no member.
  WriteCookie ReleaseOldest();
  // Whether what is durable may be released: every member is known to have it. A learner that
  // copies from a member which was behind is known to have it when it has come in sync and was
  // asked.
  [[nodiscard]] bool MayRelease() const;
  // A learner may have copied from a member what that one lacked at the time. It gets it from
  // nobody while it learns, so it has to learn anew.
  [[nodiscard]] bool learners_in_doubt() const { return learners_in_doubt_; }
  // The server's store began another life: its member may lack what is retained. False: nothing is.
  bool Doubt(uint64_t device_id);
  // The member expects `expected_sequence` next, in this generation.
  Proof Prove(uint64_t device_id, uint64_t expected_sequence);

  // The member is not sent to until the MDM has decided. False when there is no such member or it
  // is reported already.
  bool ReportFailed(uint64_t device_id);
  // The MDM keeps it (it is the last one in sync): try it again after the hold.
  void ReportRejected(uint64_t device_id, uint64_t now_nanos);

  // Members that owe the front write an answer, when it waits since before `deadline_nanos`.
  [[nodiscard]] absl::InlinedVector<uint64_t, 2> Overdue(uint64_t deadline_nanos) const;
  // Restarts the waiting time of the front write (nobody was to blame for it).
  void ForgiveWaiting(uint64_t now_nanos);

  [[nodiscard]] uint64_t placement_group_id() const { return placement_group_id_; }
  [[nodiscard]] uint64_t epoch() const { return epoch_; }
  [[nodiscard]] uint64_t generation() const { return generation_; }
  [[nodiscard]] bool idle() const { return count_ == 0; }
  [[nodiscard]] size_t unacknowledged() const { return count_; }
  [[nodiscard]] uint64_t front_sequence() const { return front_sequence_; }
  [[nodiscard]] uint64_t next_sequence() const { return next_sequence_; }
  [[nodiscard]] auto& members() { return members_; }
  [[nodiscard]] const auto& members() const { return members_; }
  [[nodiscard]] size_t in_sync_count() const;
  // Fewer in-sync replicas than the pool demands: nothing is acknowledged.
  [[nodiscard]] bool below_minimum() const { return in_sync_count() < min_replicas_; }

 private:
  struct Kept {
    WriteCookie cookie = 0;
    uint64_t since_nanos = 0;
    uint32_t answered = 0;  // bit for each member
  };
  struct NoSpace {
    uint64_t sequence;
    uint64_t device_id;
  };

  [[nodiscard]] const Kept& RingAt(uint64_t index) const { return ring_[(head_ + index) & mask()]; }
  [[nodiscard]] Kept& RingAt(uint64_t index) { return ring_[(head_ + index) & mask()]; }
  // Of the unacknowledged.
  [[nodiscard]] const Kept& At(uint64_t index) const { return RingAt(retained_ + index); }
  [[nodiscard]] Kept& At(uint64_t index) { return RingAt(retained_ + index); }
  [[nodiscard]] size_t mask() const { return ring_.size() - 1; }
  [[nodiscard]] size_t Find(uint64_t device_id) const;
  [[nodiscard]] uint32_t AllMembers() const { return (1u << members_.size()) - 1; }
  void Grow();
  static void Rewind(WriterMember& member, uint64_t sequence);
  static bool SentAgain(const WriterMember& member, const SendStamp& stamp, uint64_t sequence);
  WriterReaction Complain(WriterMember& member, uint64_t sequence, uint64_t hold_until_nanos,
                          WriterReaction reaction);
  WriterReaction AnswerGap(WriterMember& member, uint64_t sequence, uint64_t expected);
  WriterReaction AnswerTaken(size_t index, uint64_t sequence);
  // The member gets everything from `expected` on again, and its answers so far count for nothing.
  void CatchUp(size_t index, uint64_t expected);
  void NoteDoubt();
  WriterReaction AnswerEpoch(WriterMember& member, WriteAnswer answer, uint64_t sequence,
                             uint64_t server_epoch, uint64_t now_nanos);

  const uint64_t placement_group_id_;
  const uint32_t min_replicas_;
  uint64_t epoch_ = 0;
  uint64_t generation_;
  absl::InlinedVector<WriterMember, 4> members_;
  // The retained and then the unacknowledged writes, a ring whose size is a power of two.
  std::vector<Kept> ring_;
  size_t head_ = 0;
  size_t retained_ = 0;
  size_t count_ = 0;
  bool retaining_ = false;
  bool learners_in_doubt_ = false;  // a learner's source may have lacked retained writes
  uint64_t front_sequence_ = 1;
  uint64_t next_sequence_ = 1;
  std::vector<NoSpace> no_space_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RULES_PLACEMENT_GROUP_WRITER_H_
