// Goal: no sequence of changes takes the last in-sync replica away, every change is one epoch, and
// what did not change keeps its epoch.
#include "services/mdm/membership_rules.h"

#include <catch2/catch.hpp>
#include <random>

namespace tessera::mdm {
namespace {

constexpr auto kIn = v1::REPLICA_ROLE_IN_SYNC;
constexpr auto kLearner = v1::REPLICA_ROLE_LEARNER;
constexpr auto kOut = v1::REPLICA_ROLE_OUT_OF_SYNC;

// Server n has device 10 n.
v1::PlacementGroup Group(const std::vector<v1::ReplicaRole>& roles) {
  v1::PlacementGroup group;
  group.set_placement_group_id(65'536);
  group.set_epoch(5);
  for (size_t i = 0; i < roles.size(); ++i) {
    v1::Replica* replica = group.add_replicas();
    replica->set_sds_id(i + 1);
    replica->set_device_id(10 * (i + 1));
    replica->set_role(roles[i]);
  }
  return group;
}

std::vector<v1::ReplicaRole> Roles(const v1::PlacementGroup& group) {
  std::vector<v1::ReplicaRole> roles;
  for (const v1::Replica& replica : group.replicas()) roles.push_back(replica.role());
  return roles;
}

using RoleList = std::vector<v1::ReplicaRole>;

TEST_CASE("a failed replica leaves with a new epoch") {
  v1::PlacementGroup group = Group({kIn, kIn});
  CHECK(RemoveFailed(&group, 5, 10) == MembershipOutcome::kChanged);
  CHECK(group.epoch() == 6);
  CHECK(Roles(group) == RoleList{kOut, kIn});
}

TEST_CASE("a report about another epoch, a stranger, or one that is out changes nothing") {
  v1::PlacementGroup group = Group({kIn, kIn, kOut});
  CHECK(RemoveFailed(&group, 4, 10) == MembershipOutcome::kStaleEpoch);
  CHECK(RemoveFailed(&group, 6, 10) == MembershipOutcome::kStaleEpoch);
  CHECK(RemoveFailed(&group, 5, 99) == MembershipOutcome::kNotMember);
  CHECK(RemoveFailed(&group, 5, 30) == MembershipOutcome::kNotMember);
  CHECK(group.epoch() == 5);
}

TEST_CASE("the last in-sync replica never leaves, even beside a learner") {
  v1::PlacementGroup group = Group({kIn, kLearner, kOut});
  CHECK(RemoveFailed(&group, 5, 10) == MembershipOutcome::kLastInSync);
  CHECK(RemoveFailed(&group, 5, 20) == MembershipOutcome::kChanged);
  CHECK(Roles(group) == RoleList{kIn, kOut, kOut});
  CHECK_FALSE(RemoveDevices(&group, {10, 20, 30}));
  CHECK(group.epoch() == 6);
}

TEST_CASE("losing all devices at once leaves one in sync") {
  v1::PlacementGroup group = Group({kIn, kIn, kLearner});
  CHECK(RemoveDevices(&group, {10, 20, 30}));
  CHECK(InSyncCount(group) == 1);
  CHECK(group.epoch() == 6);
  CHECK(Roles(group)[2] == kOut);
}

TEST_CASE("a restart makes learners start over and leaves the others alone") {
  v1::PlacementGroup group = Group({kIn, kLearner});
  CHECK(RestartLearners(&group, {10, 20}));
  CHECK(Roles(group) == RoleList{kIn, kOut});
  CHECK_FALSE(RestartLearners(&group, {10, 20}));
}

TEST_CASE("out of sync becomes learner becomes in sync, and nothing else") {
  v1::PlacementGroup group = Group({kIn, kOut});
  CHECK(MakeLearner(&group, 10) == MembershipOutcome::kNotMember);
  CHECK(MakeLearner(&group, 20) == MembershipOutcome::kChanged);
  CHECK(MakeLearner(&group, 20) == MembershipOutcome::kNotMember);
  CHECK(Promote(&group, 5, 20) == MembershipOutcome::kStaleEpoch);
  CHECK(Promote(&group, 6, 10) == MembershipOutcome::kNotMember);
  CHECK(Promote(&group, 6, 20) == MembershipOutcome::kChanged);
  CHECK(group.epoch() == 7);
  CHECK(Roles(group) == RoleList{kIn, kIn});
}

TEST_CASE("servers that did not confirm lose their replicas only beside a witness") {
  v1::PlacementGroup witnessed = Group({kIn, kIn, kLearner});
  CHECK(RemoveUnconfirmed(&witnessed, {1}));
  CHECK(Roles(witnessed) == RoleList{kIn, kOut, kOut});
  CHECK(UnconfirmedHolders(witnessed, {1}).empty());

  v1::PlacementGroup alone = Group({kIn, kIn, kOut});
  CHECK_FALSE(RemoveUnconfirmed(&alone, {3}));
  CHECK(UnconfirmedHolders(alone, {3}) == ServerSet{1, 2});
}

TEST_CASE("the shorter replicas leave before a new generation's first write") {
  v1::PlacementGroup group = Group({kIn, kIn, kIn});
  CHECK(RemoveShorter(&group, {{1, {3, 7}}, {2, {3, 6}}, {3, {2, 900}}}));
  CHECK(Roles(group) == RoleList{kIn, kOut, kOut});
  CHECK(group.epoch() == 6);
  v1::PlacementGroup equal = Group({kIn, kIn});
  CHECK_FALSE(RemoveShorter(&equal, {{1, {3, 7}}, {2, {3, 7}}}));
  CHECK(equal.epoch() == 5);
}

TEST_CASE("a learner that is not level with the in-sync replicas starts over") {
  v1::PlacementGroup behind = Group({kIn, kLearner});
  CHECK(RemoveShorter(&behind, {{1, {3, 7}}, {2, {3, 6}}}));
  v1::PlacementGroup ahead = Group({kIn, kLearner});
  CHECK(RemoveShorter(&ahead, {{1, {3, 7}}, {2, {3, 8}}}));
  CHECK(Roles(ahead) == RoleList{kIn, kOut});
  v1::PlacementGroup level = Group({kIn, kLearner});
  CHECK_FALSE(RemoveShorter(&level, {{1, {3, 7}}, {2, {3, 7}}}));
}

TEST_CASE("whatever happens, a replica is in sync, and epochs count changes") {
  const auto seed = static_cast<uint32_t>(std::random_device{}());
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int run = 0; run < 200; ++run) {
    v1::PlacementGroup group = Group({kIn, kIn, kIn});
    for (int step = 0; step < 100; ++step) {
      const v1::PlacementGroup before = group;
      const uint64_t device = 10 * (1 + random() % 3);
      switch (random() % 6) {
        case 0:
          (void)RemoveFailed(&group, group.epoch(), device);
          break;
        case 1:
          (void)MakeLearner(&group, device);
          break;
        case 2:
          (void)Promote(&group, group.epoch(), device);
          break;
        case 3:
          (void)RemoveDevices(&group, {device, 10});
          break;
        case 4:
          (void)RemoveUnconfirmed(&group, {1 + random() % 3});
          break;
        default:
          (void)RemoveShorter(&group,
                              {{1, {1, random() % 3}}, {2, {1, random() % 3}}, {3, {1, 1}}});
      }
      REQUIRE(InSyncCount(group) >= 1);
      REQUIRE(group.epoch() == before.epoch() + (Roles(group) == Roles(before) ? 0 : 1));
    }
  }
}

}  // namespace
}  // namespace tessera::mdm
