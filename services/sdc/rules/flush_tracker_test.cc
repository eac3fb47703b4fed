#include "services/sdc/rules/flush_tracker.h"

#include <catch2/catch.hpp>

namespace tessera::sdc {
namespace {

TEST_CASE("what an earlier client wrote is covered by the first round", "[flush]") {
  FlushTracker tracker;
  tracker.NoteInherited({1, 10});
  tracker.NoteInherited({2, 10});
  CHECK_FALSE(tracker.clean());
  CHECK(tracker.BeginRound().size() == 2);
  CHECK(tracker.DeviceFlushed(1, 7));
  CHECK_FALSE(tracker.FinishRound());
  CHECK(tracker.DeviceFlushed(2, 9));
  CHECK(tracker.FinishRound());
  CHECK(tracker.clean());
  // From now on the stores' lives are known.
  CHECK(tracker.NoteWrite({1, 10}, 7));
  CHECK_FALSE(tracker.NoteWrite({1, 10}, 8));
}

TEST_CASE("what an earlier client wrote belongs to no life of a store", "[flush]") {
  FlushTracker tracker;
  tracker.NoteInherited({1, 10});
  tracker.NoteInherited({1, 11});
  CHECK(tracker.NoteWrite({1, 10}, 7));
  CHECK_FALSE(tracker.GroupOwesThisGenerationOnly(11));
  const auto targets = tracker.BeginRound();
  CHECK(targets.size() == 1);
  SECTION("the round covers it, and this client's own write is lost") {
    CHECK_FALSE(tracker.DeviceFlushed(1, 8));
    CHECK(tracker.TakeNewlyLost() == std::vector<ReplicaName>{{1, 10}});
    CHECK(tracker.GroupOwesThisGenerationOnly(11));
    CHECK(tracker.PlacementGroupToAsk(1) == 0);
  }
  SECTION("the map tells that it was lost") {
    CHECK(tracker.LoseGroup(11));
    CHECK(tracker.losses() == 1);
  }
  SECTION("a device that can't flush has lost it") {
    tracker.FlushFailed(1);
    CHECK(tracker.TakeNewlyLost().size() == 2);
  }
}

constexpr ReplicaName kFirst{1, 100};
constexpr ReplicaName kSecond{2, 100};
constexpr ReplicaName kFirstOther{1, 101};

TEST_CASE("a round asks each device with uncovered writes once", "[flush_tracker]") {
  FlushTracker tracker;
  CHECK(tracker.clean());
  CHECK(tracker.BeginRound().empty());
  CHECK_FALSE(tracker.round_running());
  CHECK(tracker.NoteWrite(kFirst, 7));
  CHECK(tracker.NoteWrite(kFirstOther, 7));
  CHECK(tracker.NoteWrite(kSecond, 9));
  CHECK(tracker.BeginRound().size() == 2);
  CHECK(tracker.WaitedFor(1).size() == 2);
  CHECK(tracker.DeviceFlushed(1, 7));
  CHECK_FALSE(tracker.FinishRound());
  CHECK(tracker.DeviceFlushed(2, 9));
  CHECK(tracker.FinishRound());
  CHECK(tracker.clean());
}

TEST_CASE("a write answered during a round is not covered by it", "[flush_tracker]") {
  FlushTracker tracker;
  CHECK(tracker.NoteWrite(kFirst, 7));
  CHECK(tracker.BeginRound().size() == 1);
  CHECK(tracker.NoteWrite(kFirst, 7));
  CHECK(tracker.DeviceFlushed(1, 7));
  CHECK(tracker.FinishRound());
  CHECK_FALSE(tracker.clean());
  CHECK(tracker.BeginRound().size() == 1);
}

TEST_CASE("a flush answered by another life of the store covers nothing", "[flush_tracker]") {
  FlushTracker tracker;
  CHECK(tracker.NoteWrite(kFirst, 7));
  CHECK(tracker.NoteWrite(kSecond, 9));
  (void)tracker.BeginRound();
  CHECK_FALSE(tracker.DeviceFlushed(1, 8));
  CHECK(tracker.TakeNewlyLost() == std::vector<ReplicaName>{kFirst});
  CHECK(tracker.DeviceFlushed(2, 9));
  CHECK_FALSE(tracker.FinishRound());
  SECTION("the map drops the replica: the others cover the round") {
    tracker.DropReplica(kFirst);
    CHECK(tracker.FinishRound());
    CHECK(tracker.losses() == 0);
  }
  SECTION("it proves that it has everything: it is asked again") {
    CHECK(tracker.IsLost(kFirst));
    CHECK(tracker.Lost() == std::vector<ReplicaName>{kFirst});
    CHECK(tracker.Recover(kFirst));
    CHECK_FALSE(tracker.FinishRound());
    CHECK(tracker.DeviceFlushed(1, 8));
    CHECK(tracker.FinishRound());
    CHECK(tracker.losses() == 0);
  }
  SECTION("it is the last one: the round ends and says so") {
    tracker.AcceptLoss(kFirst);
    CHECK(tracker.FinishRound());
    CHECK(tracker.losses() == 1);
  }
}

TEST_CASE("a write answered by another life loses what the earlier one took", "[flush_tracker]") {
  FlushTracker tracker;
  CHECK(tracker.NoteWrite(kFirst, 7));
  CHECK_FALSE(tracker.NoteWrite(kFirstOther, 8));
  CHECK(tracker.TakeNewlyLost() == std::vector<ReplicaName>{kFirst});
  const auto targets = tracker.BeginRound();
  REQUIRE(targets.size() == 1);
  CHECK(tracker.DeviceFlushed(1, 8));
  CHECK_FALSE(tracker.FinishRound());
  tracker.DropReplica(kFirst);
  CHECK(tracker.FinishRound());
}

TEST_CASE("what was answered before a new generation is owed until it is flushed",
          "[flush_tracker]") {
  FlushTracker tracker;
  CHECK(tracker.NoteWrite(kFirst, 7));
  CHECK(tracker.OwesThisGenerationOnly(kFirst));
  CHECK(tracker.GroupOwesThisGenerationOnly(kFirst.placement_group_id));
  tracker.NewGeneration();
  CHECK_FALSE(tracker.OwesThisGenerationOnly(kFirst));
  CHECK_FALSE(tracker.GroupOwesThisGenerationOnly(kFirst.placement_group_id));
  CHECK_FALSE(tracker.CanProve(kFirst));
  CHECK(tracker.OwesThisGenerationOnly(kSecond));
  SECTION("a flush in the same life of the store covers it") {
    (void)tracker.BeginRound();
    // A volume that is written to all the time gets there, too.
    CHECK(tracker.NoteWrite(kFirst, 7));
    CHECK(tracker.DeviceFlushed(1, 7));
    CHECK(tracker.OwesThisGenerationOnly(kFirst));
  }
  SECTION("a flush in another life does not") {
    (void)tracker.BeginRound();
    CHECK_FALSE(tracker.DeviceFlushed(1, 8));
    CHECK_FALSE(tracker.CanProve(kFirst));
    tracker.AcceptLoss(kFirst);
    CHECK(tracker.losses() == 1);
    CHECK(tracker.OwesThisGenerationOnly(kFirst));
  }
  SECTION("a write of the new order in the same life is a mark after it") {
    CHECK(tracker.NoteWrite(kFirst, 7));
    CHECK(tracker.CanProve(kFirst));
    CHECK_FALSE(tracker.OwesThisGenerationOnly(kFirst));
    (void)tracker.BeginRound();
    CHECK_FALSE(tracker.DeviceFlushed(1, 8));
    CHECK(tracker.CanProve(kFirst));
    CHECK(tracker.Recover(kFirst));
    CHECK_FALSE(tracker.OwesThisGenerationOnly(kFirst));
    CHECK(tracker.DeviceFlushed(1, 8));
    CHECK(tracker.OwesThisGenerationOnly(kFirst));
  }
  SECTION("one in another life is not") {
    CHECK_FALSE(tracker.NoteWrite(kFirst, 8));
    CHECK_FALSE(tracker.CanProve(kFirst));
  }
  SECTION("a replica that left owes nothing") {
    tracker.DropReplica(kFirst);
    CHECK(tracker.OwesThisGenerationOnly(kFirst));
  }
}

TEST_CASE("a replica under suspicion holds a round until it was asked, and is flushed then",
          "[flush_tracker]") {
  FlushTracker tracker;
  const bool wrote = GENERATE(true, false);
  CHECK(tracker.NoteWrite(kSecond, 9));
  if (wrote) CHECK(tracker.NoteWrite(kFirst, 7));
  const bool within = GENERATE(true, false);
  if (!within) tracker.Suspect(kFirst);
  (void)tracker.BeginRound();
  if (within) tracker.Suspect(kFirst);
  CHECK(tracker.IsLost(kFirst));
  CHECK(tracker.TakeNewlyLost().empty());
  CHECK(tracker.DeviceFlushed(2, 9));
  CHECK_FALSE(tracker.FinishRound());
  CHECK(tracker.Recover(kFirst));
  CHECK_FALSE(tracker.FinishRound());
  CHECK(tracker.PlacementGroupToAsk(1) == kFirst.placement_group_id);
  CHECK(tracker.DeviceFlushed(1, 7));
  CHECK(tracker.FinishRound());
  CHECK(tracker.clean());
}

TEST_CASE("a device that was mended can prove what it has, one that has just failed can't",
          "[flush]") {
  FlushTracker tracker;
  CHECK(tracker.NoteWrite(kFirst, 7));
  (void)tracker.BeginRound();
  tracker.FlushFailed(1);
  CHECK_FALSE(tracker.CanProve(kFirst));
  // It left, its disk was replaced, it learned, and is in sync again: nothing was written
  // meanwhile.
  tracker.DropReplica(kFirst);
  CHECK(tracker.FinishRound());
  tracker.Suspect(kFirst);
  CHECK(tracker.IsLost(kFirst));
  CHECK(tracker.CanProve(kFirst));
}

TEST_CASE("with everything flushed another life of a store loses nothing", "[flush_tracker]") {
  FlushTracker tracker;
  CHECK(tracker.NoteWrite(kFirst, 7));
  (void)tracker.BeginRound();
  CHECK(tracker.DeviceFlushed(1, 7));
  CHECK(tracker.FinishRound());
  CHECK(tracker.NoteWrite(kFirst, 8));
  CHECK(tracker.TakeNewlyLost().empty());
}

TEST_CASE("a loss that the map tells takes all that is not covered, of that group alone",
          "[flush_tracker]") {
  FlushTracker tracker;
  const ReplicaName other_device{2, kFirst.placement_group_id};
  const ReplicaName other_group{1, kFirst.placement_group_id + 1};
  CHECK_FALSE(tracker.LoseGroup(kFirst.placement_group_id));
  SECTION("answered") {
    CHECK(tracker.NoteWrite(kFirst, 7));
    CHECK(tracker.NoteWrite(other_device, 7));
  }
  SECTION("asked for in a round") {
    CHECK(tracker.NoteWrite(kFirst, 7));
    (void)tracker.BeginRound();
  }
  SECTION("known as lost already") {
    CHECK(tracker.NoteWrite(kFirst, 7));
    (void)tracker.BeginRound();
    CHECK_FALSE(tracker.DeviceFlushed(1, 8));
  }
  SECTION("on a replica that has left since") {
    CHECK(tracker.NoteWrite(kFirst, 7));
    CHECK(tracker.NoteWrite(other_device, 7));
    tracker.DropReplica(other_device);
  }
  CHECK(tracker.losses() == 0);
  CHECK(tracker.LoseGroup(kFirst.placement_group_id));
  CHECK(tracker.losses() == 1);
  CHECK(tracker.clean());
  CHECK(tracker.TakeNewlyLost().empty());
  CHECK(tracker.FinishRound());
  CHECK_FALSE(tracker.LoseGroup(kFirst.placement_group_id));
  CHECK(tracker.losses() == 1);

  CHECK(tracker.NoteWrite(other_group, 9));
  CHECK_FALSE(tracker.LoseGroup(kFirst.placement_group_id));
  CHECK_FALSE(tracker.clean());
}

TEST_CASE("a device that can't flush has lost what it did not flush", "[flush_tracker]") {
  FlushTracker tracker;
  CHECK(tracker.NoteWrite(kFirst, 7));
  (void)tracker.BeginRound();
  tracker.FlushFailed(1);
  CHECK(tracker.TakeNewlyLost() == std::vector<ReplicaName>{kFirst});
  CHECK_FALSE(tracker.FinishRound());
}

}  // namespace
}  // namespace tessera::sdc
