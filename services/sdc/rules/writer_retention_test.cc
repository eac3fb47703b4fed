// Acknowledged writes that are not durable yet: kept, and given again to a replica that lost them.
#include <catch2/catch.hpp>
#include <deque>
#include <vector>

#include "libchunk/seeded_random.h"
#include "services/sdc/rules/placement_group_writer.h"

namespace tessera::sdc {
namespace {

using Completion = PlacementGroupWriter::Completion;

MapEntry TwoMembers(uint64_t epoch) {
  MapEntry entry;
  entry.placement_group_id = 65536;
  entry.epoch = epoch;
  entry.members = {{1, 11, true}, {2, 12, true}};
  return entry;
}

// `count` writes that both members took.
void Acknowledge(PlacementGroupWriter& writer, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t sequence = writer.Append(100 + writer.next_sequence(), 0);
    for (WriterMember& member : writer.members()) {
      writer.Answer(member.device_id, writer.MarkSent(member), WriteAnswer::kOk, {}, 0);
    }
    const Completion done = writer.PopCompleted();
    REQUIRE(done.kind == Completion::Kind::kDone);
    REQUIRE(done.sequence == sequence);
    writer.RenameLast(done.cookie + 1'000);
  }
}

TEST_CASE("what was acknowledged stays until it is released", "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 20);
  CHECK(writer.retained() == 20);
  CHECK(writer.retained_front() == 1);
  CHECK(writer.idle());
  CHECK(writer.cookie(7) == 1'107);
  CHECK(writer.ReleaseOldest() == 1'101);
  CHECK(writer.retained_front() == 2);
  writer.Append(1, 0);
  CHECK(writer.cookie(21) == 1);
  CHECK(writer.cookie(20) == 1'120);
}

TEST_CASE("a replica that lost its tail gets it again, from its place on", "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 5);
  REQUIRE(writer.Doubt(2));
  CHECK(writer.members()[1].behind);
  CHECK_FALSE(writer.members()[0].behind);
  CHECK(writer.Prove(2, 3) == Proof::kCatchingUp);
  // Asked again before anything was sent: nothing is due twice.
  CHECK(writer.Prove(2, 3) == Proof::kCatchingUp);
  WriterMember& member = writer.members()[1];
  for (uint64_t sequence = 3; sequence <= 5; ++sequence) {
    CHECK(member.behind);
    REQUIRE(writer.NextToSend(member, 0) == sequence);
    CHECK(writer.Answer(2, writer.MarkSent(member), WriteAnswer::kOk, {}, 0) ==
          WriterReaction::kNothing);
  }
  CHECK(writer.NextToSend(member, 0) == 0);
  CHECK_FALSE(member.behind);
  CHECK(writer.Prove(2, 6) == Proof::kComplete);
}

TEST_CASE("a gap below the front is filled from what is kept, and answers of before are void",
          "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 2);
  writer.Append(9, 0);
  WriterMember& a = writer.members()[0];
  WriterMember& b = writer.members()[1];
  writer.Answer(2, writer.MarkSent(b), WriteAnswer::kOk, {}, 0);
  // b loses its power: all three writes, one of which a has not answered yet.
  writer.StreamOpened(12);
  const SendStamp again = writer.MarkSent(b);
  CHECK(writer.Answer(2, again, WriteAnswer::kSequenceGap, {.expected_sequence = 1}, 0) ==
        WriterReaction::kCatchUp);
  writer.Answer(1, writer.MarkSent(a), WriteAnswer::kOk, {}, 0);
  CHECK(writer.PopCompleted().kind == Completion::Kind::kNone);  // b lacks it
  for (uint64_t sequence = 1; sequence <= 3; ++sequence) {
    REQUIRE(writer.NextToSend(b, 0) == sequence);
    writer.Answer(2, writer.MarkSent(b), WriteAnswer::kOk, {}, 0);
  }
  CHECK(writer.PopCompleted().kind == Completion::Kind::kDone);
}

TEST_CASE("what nobody has kept is lacking, and is reported", "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 5);
  writer.ReleaseOldest();
  writer.ReleaseOldest();
  writer.Doubt(2);
  SECTION("by its answer to the question") {
    CHECK(writer.Prove(2, 2) == Proof::kLacking);
    CHECK_FALSE(writer.members()[1].behind);
    CHECK(writer.Prove(2, 3) == Proof::kCatchingUp);
  }
  SECTION("by a gap") {
    writer.Append(9, 0);
    const SendStamp sent = writer.MarkSent(writer.members()[1]);
    CHECK(writer.Answer(2, sent, WriteAnswer::kSequenceGap, {.expected_sequence = 2}, 0) ==
          WriterReaction::kReport);
  }
  SECTION("for want of space") {
    CHECK(writer.Prove(2, 4) == Proof::kCatchingUp);
    const SendStamp sent = writer.MarkSent(writer.members()[1]);
    CHECK(writer.Answer(2, sent, WriteAnswer::kNoSpace, {}, 0) == WriterReaction::kReport);
  }
}

TEST_CASE("a newer entry does not make a replica that is behind readable", "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 3);
  writer.Doubt(1);
  REQUIRE(writer.Adopt(TwoMembers(2), 0));
  CHECK(writer.members()[0].behind);
  CHECK_FALSE(writer.members()[1].behind);
}

TEST_CASE("one that comes in sync is asked, too: its source may have lacked what is kept",
          "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 3);
  MapEntry learning = TwoMembers(2);
  learning.members[1].in_sync = false;
  REQUIRE(writer.Adopt(learning, 0));
  CHECK_FALSE(writer.members()[1].behind);
  REQUIRE(writer.Adopt(TwoMembers(3), 0));
  CHECK(writer.members()[1].behind);
  CHECK_FALSE(writer.members()[0].behind);
  CHECK(writer.Prove(2, 2) == Proof::kCatchingUp);
  CHECK(writer.NextToSend(writer.members()[1], 0) == 2);
}

TEST_CASE("one that comes in sync is asked also when nothing is kept any more", "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 3);
  while (writer.retained() > 0) writer.ReleaseOldest();
  MapEntry learning = TwoMembers(2);
  learning.members[1].in_sync = false;
  REQUIRE(writer.Adopt(learning, 0));
  REQUIRE(writer.Adopt(TwoMembers(3), 0));
  CHECK(writer.members()[1].behind);
  SECTION("it has all") { CHECK(writer.Prove(2, 4) == Proof::kComplete); }
  SECTION("it lacks something") { CHECK(writer.Prove(2, 3) == Proof::kLacking); }
  CHECK_FALSE(writer.members()[1].behind);
}

TEST_CASE("one that may have left and come back between two entries is asked, too", "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 5);
  // Nobody can have left.
  REQUIRE(writer.Adopt(TwoMembers(2), 0));
  CHECK(writer.MayRelease());
  // Out, a learner, in sync: its source may have lost what this one had made durable.
  REQUIRE(writer.Adopt(TwoMembers(5), 0));
  CHECK(writer.members()[0].behind);
  CHECK(writer.members()[1].behind);
  CHECK_FALSE(writer.MayRelease());
  CHECK(writer.Prove(1, 3) == Proof::kCatchingUp);
  CHECK(writer.Prove(2, 6) == Proof::kComplete);
  CHECK_FALSE(writer.members()[1].behind);
}

TEST_CASE("nothing is released while a learner may copy from a member that lacks it", "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 3);
  CHECK(writer.MayRelease());
  MapEntry learning = TwoMembers(2);
  learning.members[1].in_sync = false;
  REQUIRE(writer.Adopt(learning, 0));
  CHECK(writer.MayRelease());
  writer.Doubt(1);
  CHECK_FALSE(writer.MayRelease());
  SECTION("its source had everything") {
    CHECK(writer.Prove(1, 4) == Proof::kComplete);
    CHECK_FALSE(writer.learners_in_doubt());
    CHECK(writer.MayRelease());
  }
  SECTION("its source is whole again; what the learner copied before is not") {
    CHECK(writer.Prove(1, 3) == Proof::kCatchingUp);
    CHECK(writer.learners_in_doubt());
    CHECK(writer.Answer(1, writer.MarkSent(writer.members()[0]), WriteAnswer::kOk, {}, 0) ==
          WriterReaction::kNothing);
    CHECK_FALSE(writer.members()[0].behind);
    CHECK_FALSE(writer.MayRelease());
    SECTION("it comes in sync nevertheless, and is asked") {
      REQUIRE(writer.Adopt(TwoMembers(3), 0));
      CHECK_FALSE(writer.MayRelease());
      CHECK(writer.Prove(2, 4) == Proof::kComplete);
    }
    SECTION("it begins again") {
      MapEntry alone = TwoMembers(3);
      alone.members.pop_back();
      REQUIRE(writer.Adopt(alone, 0));
    }
    CHECK(writer.MayRelease());
  }
}

TEST_CASE("a learner that joins while its source is given writes again is in doubt, too",
          "[writer]") {
  PlacementGroupWriter writer(TwoMembers(1), 1, 1);
  writer.Retain();
  Acknowledge(writer, 3);
  MapEntry entry = TwoMembers(2);
  entry.members.pop_back();
  REQUIRE(writer.Adopt(entry, 0));
  writer.Doubt(1);
  REQUIRE(writer.Prove(1, 3) == Proof::kCatchingUp);
  entry = TwoMembers(3);
  entry.members[1].in_sync = false;
  REQUIRE(writer.Adopt(entry, 0));
  CHECK(writer.learners_in_doubt());
}

// Two replicas that keep a prefix of what they took when their power goes, one that is never
// shorter than at their last flush; both may lose power at once. Whatever happens, in the end each
// has every write, in order, once.
class PowerLossModel {
 public:
  explicit PowerLossModel(uint64_t seed) : random_(seed), writer_(TwoMembers(1), 1, 1) {
    writer_.Retain();
  }

  void Step() {
    ++now_;
    switch (random_.Below(10)) {
      case 0:
      case 1:
        if (writer_.unacknowledged() < 12) writer_.Append(writer_.next_sequence(), now_);
        break;
      case 2:
      case 3:
        Send(random_.Below(2), random_.Below(4));
        break;
      case 4:
      case 5:
        Take(random_.Below(2));
        break;
      case 6:
      case 7:
        Hear(random_.Below(2));
        break;
      case 8:
        if (random_.Chance(1, 6)) Flush();
        break;
      case 9:
        if (random_.Chance(1, 12)) LosePower(random_.Below(2));
        if (random_.Chance(1, 40)) {
          LosePower(0);
          LosePower(1);
        }
        break;
    }
  }
  void Settle() {
    for (int i = 0; i < 2'000; ++i) {
      ++now_;
      for (size_t r = 0; r < 2; ++r) {
        Send(r, 8);
        while (!replicas_[r].stream.empty()) Take(r);
        while (!replicas_[r].replies.empty()) Hear(r);
        Ask(r);
      }
      if (writer_.idle() && Complete(0) && Complete(1)) break;
    }
    for (size_t r = 0; r < 2; ++r) {
      REQUIRE(replicas_[r].log.size() == writer_.next_sequence() - 1);
      for (size_t i = 0; i < replicas_[r].log.size(); ++i) REQUIRE(replicas_[r].log[i] == i + 1);
      REQUIRE_FALSE(writer_.members()[r].behind);
    }
  }
  size_t losses = 0;

 private:
  struct Replica {
    std::vector<WriteCookie> log;
    size_t durable = 0;
    std::deque<std::pair<SendStamp, WriteCookie>> stream;
    std::deque<std::pair<SendStamp, std::pair<WriteAnswer, uint64_t>>> replies;
  };

  void Send(size_t r, uint64_t count) {
    WriterMember& member = writer_.members()[r];
    for (; count > 0 && writer_.NextToSend(member, now_) != 0; --count) {
      const WriteCookie cookie = writer_.cookie(member.next_send);
      replicas_[r].stream.emplace_back(writer_.MarkSent(member), cookie);
    }
  }
  void Take(size_t r) {
    Replica& replica = replicas_[r];
    if (replica.stream.empty()) return;
    const auto [stamp, cookie] = replica.stream.front();
    replica.stream.pop_front();
    WriteAnswer answer = WriteAnswer::kOk;
    if (stamp.sequence == replica.log.size() + 1) {
      replica.log.push_back(cookie);
    } else {
      answer = stamp.sequence <= replica.log.size() ? WriteAnswer::kDuplicate
                                                    : WriteAnswer::kSequenceGap;
    }
    replica.replies.push_back({stamp, {answer, replica.log.size() + 1}});
  }
  void Hear(size_t r) {
    Replica& replica = replicas_[r];
    if (replica.replies.empty()) return;
    const auto [stamp, reply] = replica.replies.front();
    replica.replies.pop_front();
    const WriterReaction reaction =
        writer_.Answer(r + 1, stamp, reply.first, {.expected_sequence = reply.second}, now_);
    REQUIRE(reaction != WriterReaction::kReport);
    while (writer_.PopCompleted().kind == Completion::Kind::kDone) {
    }
  }
  // A round of the writer's: what was acknowledged when it began is durable at the end.
  void Flush() {
    if (writer_.members()[0].behind || writer_.members()[1].behind) return;
    const uint64_t mark = writer_.front_sequence();
    for (Replica& replica : replicas_) {
      if (replica.log.size() + 1 < mark) return;  // it has lost some, and the writer will learn
    }
    for (Replica& replica : replicas_) replica.durable = replica.log.size();
    while (writer_.retained() > 0 && writer_.retained_front() < mark) writer_.ReleaseOldest();
  }
  void LosePower(size_t r) {
    Replica& replica = replicas_[r];
    replica.log.resize(replica.durable + random_.Below(replica.log.size() - replica.durable + 1));
    replica.stream.clear();
    replica.replies.clear();
    ++losses;
    writer_.Doubt(r + 1);
    writer_.StreamOpened(r + 11);
    if (random_.Chance(1, 2)) Ask(r);
  }
  void Ask(size_t r) {
    const Proof proof = writer_.Prove(r + 1, replicas_[r].log.size() + 1);
    REQUIRE(proof != Proof::kLacking);
    // Nobody reads what it lacks.
    if (!writer_.members()[r].behind) {
      REQUIRE(replicas_[r].log.size() + 1 >= writer_.front_sequence());
    }
  }
  bool Complete(size_t r) { return replicas_[r].log.size() + 1 == writer_.next_sequence(); }

  chunk::SeededRandom random_;
  uint64_t now_ = 0;
  PlacementGroupWriter writer_;
  Replica replicas_[2];
};

TEST_CASE("no loss of power loses an acknowledged write while the writer lives", "[writer]") {
  size_t losses = 0;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    INFO("seed " << seed);
    PowerLossModel model(seed);
    for (int step = 0; step < 1'500; ++step) model.Step();
    model.Settle();
    losses += model.losses;
  }
  CHECK(losses > 2'000);  // the schedules do something
}

}  // namespace
}  // namespace tessera::sdc
