#include "services/sdc/rules/placement_group_writer.h"

#include <catch2/catch.hpp>
#include <deque>
#include <map>
#include <set>

#include "libchunk/seeded_random.h"

namespace tessera::sdc {
namespace {

using Completion = PlacementGroupWriter::Completion;

MapEntry Entry(uint64_t epoch, std::initializer_list<MapMember> members) {
  MapEntry entry;
  entry.placement_group_id = 65536;
  entry.epoch = epoch;
  entry.members.assign(members.begin(), members.end());
  return entry;
}

constexpr MapMember kA{1, 11, true};
constexpr MapMember kB{2, 12, true};
constexpr MapMember kLearnerB{2, 12, false};

SendStamp SendNext(PlacementGroupWriter& writer, size_t member, uint64_t now = 0) {
  REQUIRE(writer.NextToSend(writer.members()[member], now) != 0);
  return writer.MarkSent(writer.members()[member]);
}

WriterReaction Answer(PlacementGroupWriter& writer, uint64_t device, const SendStamp& stamp,
                      WriteAnswer answer, WriteAnswerDetail detail = {}) {
  return writer.Answer(device, stamp, answer, detail, 0);
}

TEST_CASE("a write is acknowledged when all members have answered, learners too", "[writer]") {
  PlacementGroupWriter writer(Entry(1, {kA, kLearnerB}), 5, 1);
  CHECK(writer.Append(77, 0) == 1);
  const SendStamp a = SendNext(writer, 0);
  const SendStamp b = SendNext(writer, 1);
  CHECK(a.generation == 5);
  CHECK(Answer(writer, 1, a, WriteAnswer::kOk) == WriterReaction::kCheckCompletion);
  CHECK(writer.PopCompleted().kind == Completion::Kind::kNone);
  Answer(writer, 2, b, WriteAnswer::kDuplicate);
  const Completion done = writer.PopCompleted();
  CHECK(done.kind == Completion::Kind::kDone);
  CHECK(done.cookie == 77);
  CHECK(writer.idle());
}

TEST_CASE("writes are acknowledged in order although answers are not", "[writer]") {
  PlacementGroupWriter writer(Entry(1, {kA}), 1, 1);
  writer.Append(1, 0);
  writer.Append(2, 0);
  const SendStamp first = SendNext(writer, 0);
  const SendStamp second = SendNext(writer, 0);
  CHECK(Answer(writer, 1, second, WriteAnswer::kOk) == WriterReaction::kNothing);
  CHECK(writer.PopCompleted().kind == Completion::Kind::kNone);
  Answer(writer, 1, first, WriteAnswer::kOk);
  CHECK(writer.PopCompleted().cookie == 1);
  CHECK(writer.PopCompleted().cookie == 2);
}

TEST_CASE("a newer entry makes all kept writes due again for every member", "[writer]") {
  PlacementGroupWriter writer(Entry(1, {kA, kB}), 1, 1);
  writer.Append(1, 0);
  writer.Append(2, 0);
  const SendStamp a = SendNext(writer, 0);
  Answer(writer, 1, a, WriteAnswer::kOk);
  CHECK_FALSE(writer.Adopt(Entry(1, {kA}), 0));
  CHECK(writer.Adopt(Entry(2, {kA}), 0));
  // An answer under the old epoch proves nothing now.
  CHECK(Answer(writer, 1, a, WriteAnswer::kOk) == WriterReaction::kNothing);
  CHECK(writer.PopCompleted().kind == Completion::Kind::kNone);
  const SendStamp again = SendNext(writer, 0);
  CHECK(again.sequence == 1);
  CHECK(again.epoch == 2);
  Answer(writer, 1, again, WriteAnswer::kDuplicate);
  CHECK(writer.PopCompleted().kind == Completion::Kind::kDone);
}

TEST_CASE("a new generation numbers the kept writes anew in their order", "[writer]") {
  PlacementGroupWriter writer(Entry(1, {kA}), 1, 1);
  writer.Append(1, 0);
  Answer(writer, 1, SendNext(writer, 0), WriteAnswer::kOk);
  CHECK(writer.PopCompleted().cookie == 1);
  writer.Append(2, 0);
  writer.Append(3, 0);
  const SendStamp old = SendNext(writer, 0);
  CHECK(old.sequence == 2);
  writer.Renumber(9, 0);
  CHECK(Answer(writer, 1, old, WriteAnswer::kOk) == WriterReaction::kNothing);
  const SendStamp first = SendNext(writer, 0);
  CHECK(first.sequence == 1);
  CHECK(first.generation == 9);
  CHECK(writer.cookie(1) == 2);
  CHECK(writer.cookie(2) == 3);
  CHECK(writer.Append(4, 0) == 3);
}

TEST_CASE("all members full: no space; some full: those have failed", "[writer]") {
  PlacementGroupWriter writer(Entry(1, {kA, kB}), 1, 1);
  writer.Append(1, 0);
  Answer(writer, 1, SendNext(writer, 0), WriteAnswer::kNoSpace);
  const SendStamp b = SendNext(writer, 1);
  SECTION("all") {
    Answer(writer, 2, b, WriteAnswer::kNoSpace);
    CHECK(writer.PopCompleted().kind == Completion::Kind::kNoSpace);
    CHECK(writer.idle());
  }
  SECTION("some, also when the full one can only say duplicate later") {
    Answer(writer, 2, b, WriteAnswer::kOk);
    Completion completion = writer.PopCompleted();
    CHECK(completion.kind == Completion::Kind::kReport);
    CHECK(completion.failed_device_ids.size() == 1);
    CHECK(completion.failed_device_ids[0] == 1);
    CHECK(writer.Adopt(Entry(2, {kA, kB}), 0));
    Answer(writer, 1, SendNext(writer, 0), WriteAnswer::kDuplicate);
    Answer(writer, 2, SendNext(writer, 1), WriteAnswer::kDuplicate);
    completion = writer.PopCompleted();
    CHECK(completion.kind == Completion::Kind::kReport);
    CHECK(completion.failed_device_ids[0] == 1);
  }
}

TEST_CASE("fewer in sync than the pool demands: nothing is acknowledged", "[writer]") {
  PlacementGroupWriter writer(Entry(1, {kA, kLearnerB}), 1, 2);
  writer.Append(1, 0);
  Answer(writer, 1, SendNext(writer, 0), WriteAnswer::kOk);
  Answer(writer, 2, SendNext(writer, 1), WriteAnswer::kOk);
  CHECK(writer.below_minimum());
  CHECK(writer.PopCompleted().kind == Completion::Kind::kNone);
  CHECK(writer.Adopt(Entry(2, {kA, kB}), 0));
  Answer(writer, 1, SendNext(writer, 0), WriteAnswer::kDuplicate);
  Answer(writer, 2, SendNext(writer, 1), WriteAnswer::kDuplicate);
  CHECK(writer.PopCompleted().kind == Completion::Kind::kDone);
}

TEST_CASE("a gap inside what is kept is filled, one before it is a failed replica", "[writer]") {
  PlacementGroupWriter writer(Entry(1, {kA}), 1, 1);
  for (WriteCookie cookie = 1; cookie <= 4; ++cookie) writer.Append(cookie, 0);
  Answer(writer, 1, SendNext(writer, 0), WriteAnswer::kOk);
  CHECK(writer.PopCompleted().cookie == 1);
  const SendStamp second = SendNext(writer, 0);
  const SendStamp third = SendNext(writer, 0);
  const SendStamp fourth = SendNext(writer, 0);
  SECTION("kept") {
    CHECK(Answer(writer, 1, third, WriteAnswer::kSequenceGap, {2, 0}) == WriterReaction::kSend);
    // The complaint about the one after it is of the round before.
    CHECK(Answer(writer, 1, fourth, WriteAnswer::kSequenceGap, {2, 0}) == WriterReaction::kNothing);
    CHECK(writer.NextToSend(writer.members()[0], 0) == 2);
  }
  SECTION("acknowledged before") {
    CHECK(Answer(writer, 1, second, WriteAnswer::kSequenceGap, {1, 0}) == WriterReaction::kReport);
    CHECK(writer.NextToSend(writer.members()[0], 0) == 0);
  }
}

TEST_CASE("a complaint about a later write does not hide one about an earlier write", "[writer]") {
  PlacementGroupWriter writer(Entry(1, {kA}), 1, 1);
  for (WriteCookie cookie = 1; cookie <= 3; ++cookie) writer.Append(cookie, 0);
  const SendStamp first = SendNext(writer, 0);
  SendNext(writer, 0);
  const SendStamp third = SendNext(writer, 0);
  CHECK(Answer(writer, 1, third, WriteAnswer::kRetry) == WriterReaction::kSendLater);
  CHECK(Answer(writer, 1, first, WriteAnswer::kRetry) == WriterReaction::kSendLater);
  CHECK(writer.NextToSend(writer.members()[0], PlacementGroupWriter::kRetryHoldNanos) == 1);
}

TEST_CASE("the side that is behind is shown or fetches the entry", "[writer]") {
  PlacementGroupWriter writer(Entry(5, {kA}), 1, 1);
  writer.Append(1, 0);
  const SendStamp sent = SendNext(writer, 0);
  SECTION("the server knows a newer one") {
    CHECK(Answer(writer, 1, sent, WriteAnswer::kStaleEpoch, {0, 6}) == WriterReaction::kFetchEntry);
    CHECK(writer.NextToSend(writer.members()[0], 0) == 0);
    CHECK(writer.NextToSend(writer.members()[0], PlacementGroupWriter::kEpochHoldNanos) == 1);
  }
  SECTION("the server knows an older one") {
    CHECK(Answer(writer, 1, sent, WriteAnswer::kUnknownEpoch, {0, 4}) ==
          WriterReaction::kShowEntry);
    CHECK(writer.NextToSend(writer.members()[0], PlacementGroupWriter::kRetryHoldNanos) == 1);
  }
  SECTION("it says in this epoch that it is no member") {
    CHECK(Answer(writer, 1, sent, WriteAnswer::kNotMember, {0, 5}) == WriterReaction::kReport);
  }
  SECTION("a device that fails is reported once") {
    CHECK(Answer(writer, 1, sent, WriteAnswer::kFailed) == WriterReaction::kReport);
    CHECK_FALSE(writer.ReportFailed(1));
    writer.ReportRejected(1, 0);
    CHECK(writer.NextToSend(writer.members()[0], 0) == 0);
    CHECK(writer.NextToSend(writer.members()[0], PlacementGroupWriter::kEpochHoldNanos) == 1);
  }
}

TEST_CASE("complaints without end make a failed replica", "[writer]") {
  PlacementGroupWriter writer(Entry(5, {kA}), 1, 1);
  writer.Append(1, 0);
  uint64_t now = 0;
  WriterReaction reaction = WriterReaction::kNothing;
  for (uint32_t i = 0; i <= PlacementGroupWriter::kMaximumComplaints; ++i) {
    now += PlacementGroupWriter::kRetryHoldNanos;
    const SendStamp sent = SendNext(writer, 0, now);
    reaction = writer.Answer(1, sent, WriteAnswer::kUnknownEpoch, {0, 4}, now);
  }
  CHECK(reaction == WriterReaction::kReport);
}

TEST_CASE("who owes the front write an answer for too long is overdue", "[writer]") {
  PlacementGroupWriter writer(Entry(1, {kA, kB}), 1, 1);
  writer.Append(1, 100);
  Answer(writer, 1, SendNext(writer, 0), WriteAnswer::kOk);
  CHECK(writer.Overdue(100).empty());
  REQUIRE(writer.Overdue(101).size() == 1);
  CHECK(writer.Overdue(101)[0] == 2);
  writer.ForgiveWaiting(200);
  CHECK(writer.Overdue(101).empty());
}

// A model of the other side: replicas that take what I1 allows, streams that keep order but break,
// an MDM that changes members, and learners. Checked at every acknowledgement: I2, and the order of
// the prefix.
class Model {
 public:
  explicit Model(uint64_t seed) : random_(seed), writer_(CurrentEntry(), 1, 1) {
    for (const MapMember& member : CurrentEntry().members) {
      replicas_[member.device_id].epoch = epoch_;
    }
  }

  void Step() {
    now_ += 1'000'000;
    switch (random_.Below(12)) {
      case 0:
      case 1:
        if (writer_.unacknowledged() < 20) order_.push_back(Append());
        break;
      case 2:
      case 3:
      case 4:
        SendSome();
        break;
      case 5:
      case 6:
      case 7:
        ReplicaTakes();
        break;
      case 8:
      case 9:
        WriterHears();
        break;
      case 10:
        if (random_.Chance(1, 8)) BreakStream(AnyDevice());
        break;
      case 11:
        if (random_.Chance(1, 10)) ChangeMembers();
        if (random_.Chance(1, 60)) NewGeneration();
        break;
    }
  }
  void Settle() {
    for (int i = 0; i < 20'000 && !writer_.idle(); ++i) {
      now_ += 1'000'000;
      SendSome();
      ReplicaTakes();
      WriterHears();
    }
    REQUIRE(writer_.idle());
  }
  size_t acknowledged() const { return acknowledged_.size(); }

 private:
  struct Sent {
    SendStamp stamp;
    WriteCookie cookie;
  };
  struct Reply {
    SendStamp stamp;
    WriteAnswer answer;
    WriteAnswerDetail detail;
  };
  struct Replica {
    uint64_t epoch = 0;
    uint64_t generation = 0;
    uint64_t cursor = 0;
    bool fresh_learner = false;    // takes the first write at whatever sequence
    std::vector<WriteCookie> log;  // everything it took, in order, repeats left out
    std::deque<Sent> stream;
    std::vector<Reply> replies;
  };

  MapEntry CurrentEntry() {
    MapEntry entry;
    entry.placement_group_id = 65536;
    entry.epoch = epoch_;
    for (const auto& [device, in_sync] : roles_)
      entry.members.push_back({device, device + 10, in_sync});
    return entry;
  }
  uint64_t AnyDevice() { return 1 + random_.Below(3); }
  WriteCookie Append() {
    writer_.Append(++last_cookie_, now_);
    return last_cookie_;
  }

  void SendSome() {
    for (WriterMember& member : writer_.members()) {
      for (uint64_t n = random_.Below(4); n > 0; --n) {
        const uint64_t sequence = writer_.NextToSend(member, now_);
        if (sequence == 0) break;
        const WriteCookie cookie = writer_.cookie(sequence);
        Replica& replica = replicas_[member.device_id];
        // A message shows the entry, as the real one does.
        replica.stream.push_back({writer_.MarkSent(member), cookie});
      }
    }
  }

  void ReplicaTakes() {
    Replica& replica = replicas_[AnyDevice()];
    if (replica.stream.empty()) return;
    const Sent sent = replica.stream.front();
    replica.stream.pop_front();
    Reply reply{sent.stamp, WriteAnswer::kOk, {}};
    const uint64_t sequence = sent.stamp.sequence;
    replica.epoch = std::max(replica.epoch, sent.stamp.epoch);
    const bool newer = sent.stamp.generation > replica.generation;
    if (sent.stamp.generation < generation_) {
      reply.answer = WriteAnswer::kRetry;
    } else if (sent.stamp.epoch < replica.epoch) {
      reply.answer = WriteAnswer::kStaleEpoch;
      reply.detail.current_epoch = replica.epoch;
    } else if (random_.Chance(1, 40)) {
      reply.answer = WriteAnswer::kRetry;  // overloaded
    } else if (replica.fresh_learner || (newer && sequence == 1) ||
               (!newer && sequence == replica.cursor + 1)) {
      replica.fresh_learner = false;
      replica.generation = sent.stamp.generation;
      replica.cursor = sequence;
      replica.log.push_back(sent.cookie);
    } else if (!newer && sequence <= replica.cursor) {
      reply.answer = WriteAnswer::kDuplicate;
    } else {
      reply.answer = WriteAnswer::kSequenceGap;
      reply.detail.expected_sequence = newer ? 1 : replica.cursor + 1;
    }
    replica.replies.push_back(reply);
  }

  void WriterHears() {
    const uint64_t device = AnyDevice();
    Replica& replica = replicas_[device];
    if (replica.replies.empty()) return;
    // In any order.
    const size_t which = random_.Below(replica.replies.size());
    const Reply reply = replica.replies[which];
    replica.replies.erase(replica.replies.begin() + static_cast<ptrdiff_t>(which));
    const WriterReaction reaction =
        writer_.Answer(device, reply.stamp, reply.answer, reply.detail, now_);
    REQUIRE(reaction != WriterReaction::kReport);
    if (reaction == WriterReaction::kCheckCompletion) Complete();
  }

  void Complete() {
    for (;;) {
      const Completion completion = writer_.PopCompleted();
      if (completion.kind == Completion::Kind::kNone) return;
      REQUIRE(completion.kind == Completion::Kind::kDone);
      acknowledged_.push_back(completion.cookie);
      REQUIRE(completion.cookie == acknowledged_.size());  // in the application's order
      for (const auto& [device, in_sync] : roles_) {
        if (writer_.epoch() != epoch_) break;
        const auto& log = replicas_[device].log;
        REQUIRE(std::find(log.begin(), log.end(), completion.cookie) != log.end());
        CheckOrder(log);
      }
    }
  }
  // A replica took the acknowledged writes last in the application's order. (What is not
  // acknowledged may be under way for the second time, in a new generation.)
  void CheckOrder(const std::vector<WriteCookie>& log) const {
    std::map<WriteCookie, size_t> last;
    for (size_t i = 0; i < log.size(); ++i) {
      if (log[i] <= acknowledged_.size()) last[log[i]] = i;
    }
    size_t before = 0;
    for (const auto& [cookie, place] : last) {
      REQUIRE(place >= before);
      before = place;
    }
  }

  void BreakStream(uint64_t device) {
    Replica& replica = replicas_[device];
    replica.stream.clear();
    replica.replies.clear();
    writer_.StreamOpened(device + 10);
  }

  void ChangeMembers() {
    const uint64_t device = AnyDevice();
    const auto role = roles_.find(device);
    if (role == roles_.end()) {
      roles_[device] = false;
      // A learner begins with what an in-sync replica has (the base) and takes the stream from
      // there.
      const Replica& source = replicas_[InSyncDevice()];
      Replica& learner = replicas_[device];
      learner.log = source.log;
      learner.generation = source.generation;
      learner.cursor = source.cursor;
      learner.stream.clear();
      learner.replies.clear();
      learner.epoch = epoch_ + 1;
      learner.fresh_learner = false;
    } else if (!role->second) {
      role->second = true;
    } else if (InSyncCount() > 1) {
      roles_.erase(role);
    } else {
      return;
    }
    ++epoch_;
    // The source refuses writes of older epochs from the moment the base is read.
    for (auto& [id, in_sync] : roles_) replicas_[id].epoch = epoch_;
    writer_.Adopt(CurrentEntry(), now_);
    Complete();
  }
  uint64_t InSyncDevice() {
    for (const auto& [device, in_sync] : roles_) {
      if (in_sync) return device;
    }
    return 0;
  }
  size_t InSyncCount() {
    size_t count = 0;
    for (const auto& [device, in_sync] : roles_) count += in_sync ? 1 : 0;
    return count;
  }

  // The MDM raises it at all members and takes out those that are shorter than the longest.
  void NewGeneration() {
    ++generation_;
    uint64_t longest = 0;
    std::pair<uint64_t, uint64_t> most{0, 0};
    for (const auto& [device, in_sync] : roles_) {
      const Replica& replica = replicas_[device];
      if (in_sync && std::pair(replica.generation, replica.cursor) >= most) {
        most = {replica.generation, replica.cursor};
        longest = device;
      }
    }
    std::erase_if(roles_, [&](const auto& role) {
      const Replica& replica = replicas_[role.first];
      return role.first != longest && std::pair(replica.generation, replica.cursor) < most;
    });
    ++epoch_;
    for (auto& [id, in_sync] : roles_) replicas_[id].epoch = epoch_;
    writer_.Adopt(CurrentEntry(), now_);
    writer_.Renumber(generation_, now_);
    Complete();
  }

  chunk::SeededRandom random_;
  uint64_t epoch_ = 1;
  uint64_t generation_ = 1;
  uint64_t now_ = 0;
  std::map<uint64_t, bool> roles_{{1, true}, {2, true}};
  std::map<uint64_t, Replica> replicas_;
  PlacementGroupWriter writer_;
  WriteCookie last_cookie_ = 0;
  std::vector<WriteCookie> order_;
  std::vector<WriteCookie> acknowledged_;
};

TEST_CASE("in random schedules every acknowledged write is on all members, in order", "[writer]") {
  size_t acknowledged = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    INFO("seed " << seed);
    Model model(seed);
    for (int step = 0; step < 2000; ++step) model.Step();
    model.Settle();
    acknowledged += model.acknowledged();
  }
  // The schedules do something.
  CHECK(acknowledged > 5'000);
}

}  // namespace
}  // namespace tessera::sdc
