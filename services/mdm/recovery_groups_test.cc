// RecoverGroup by table, and by random histories: whatever happened to a group, and whichever
// servers answer, either the rules name a server that has to be waited for, or nothing acknowledged
// is lost.
#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "services/mdm/membership_rules.h"
#include "services/mdm/recovery_groups.h"

namespace tessera::mdm {
namespace {

constexpr uint64_t kGroup = 65'536;

// Server and device have one number.
v1::PlacementGroup Entry(uint64_t epoch,
                         std::vector<std::pair<uint64_t, v1::ReplicaRole>> members) {
  v1::PlacementGroup group;
  group.set_placement_group_id(kGroup);
  group.set_epoch(epoch);
  for (const auto& [id, role] : members) {
    v1::Replica* replica = group.add_replicas();
    replica->set_device_id(id);
    replica->set_sds_id(id);
    replica->set_role(role);
  }
  return group;
}

constexpr auto kInSync = v1::REPLICA_ROLE_IN_SYNC;
constexpr auto kLearner = v1::REPLICA_ROLE_LEARNER;
constexpr auto kOut = v1::REPLICA_ROLE_OUT_OF_SYNC;

void Know(EntriesByServer* servers, uint64_t sds_id, const v1::PlacementGroup& entry) {
  (*servers)[sds_id].entries[kGroup] = entry;
  (*servers)[sds_id].good_device_ids.insert(sds_id);
}

v1::ReplicaRole RoleOf(const RecoveredGroup& group, uint64_t device_id) {
  const v1::Replica* replica = FindReplica(*group.entry, device_id);
  return replica == nullptr ? v1::REPLICA_ROLE_UNSPECIFIED : replica->role();
}

TEST_CASE("the entry with the highest epoch wins, and its epoch is raised") {
  EntriesByServer servers;
  Know(&servers, 1, Entry(4, {{1, kInSync}, {2, kInSync}}));
  Know(&servers, 2, Entry(5, {{1, kOut}, {2, kInSync}}));
  const RecoveredGroup group = RecoverGroup(kGroup, servers);
  REQUIRE(group.entry.has_value());
  CHECK(group.entry->epoch() == 5 + kRecoveryStep);
  CHECK(RoleOf(group, 1) == kOut);
  CHECK(RoleOf(group, 2) == kInSync);
  CHECK(group.entry->loss_epoch() == 0);
  CHECK(group.could_know_more.empty());
  CHECK(group.conflict.empty());
}

TEST_CASE("a server that does not answer may know more when it was in sync or learned") {
  EntriesByServer servers;
  Know(&servers, 1, Entry(4, {{1, kInSync}, {2, kInSync}, {3, kLearner}, {4, kOut}}));
  const RecoveredGroup group = RecoverGroup(kGroup, servers);
  CHECK(group.could_know_more == std::set<uint64_t>{2, 3});
  CHECK(RoleOf(group, 1) == kInSync);
  CHECK(RoleOf(group, 2) == kOut);
  CHECK(RoleOf(group, 3) == kOut);
  CHECK_FALSE(group.waits);
}

TEST_CASE("the last replicas in sync stay so though their servers do not answer") {
  EntriesByServer servers;
  Know(&servers, 1, Entry(9, {{1, kOut}, {2, kInSync}}));
  const RecoveredGroup group = RecoverGroup(kGroup, servers);
  CHECK(group.could_know_more == std::set<uint64_t>{2});
  CHECK(RoleOf(group, 1) == kOut);
  CHECK(RoleOf(group, 2) == kInSync);
  CHECK(group.entry->loss_epoch() == 0);
  CHECK(group.waits);
}

TEST_CASE("a replica is believed only when its own server says so, too, and its device is good") {
  const auto both = Entry(7, {{1, kInSync}, {2, kInSync}});
  EntriesByServer servers;
  Know(&servers, 1, both);
  SECTION("its server has heard nothing of the group") { servers[2].good_device_ids.insert(2); }
  SECTION("its server only knows that it learned") {
    Know(&servers, 2, Entry(6, {{1, kInSync}, {2, kLearner}}));
  }
  SECTION("its device lost what was not flushed") {
    Know(&servers, 2, both);
    servers[2].good_device_ids.clear();
  }
  const RecoveredGroup group = RecoverGroup(kGroup, servers);
  CHECK(RoleOf(group, 1) == kInSync);
  CHECK(RoleOf(group, 2) == kOut);
  CHECK(group.could_know_more.empty());
}

TEST_CASE("where no replica can be believed, the in-sync ones that are there stay") {
  EntriesByServer servers;
  Know(&servers, 1, Entry(7, {{1, kInSync}, {2, kInSync}}));
  Know(&servers, 2, Entry(7, {{1, kInSync}, {2, kInSync}}));
  servers[1].good_device_ids.clear();
  servers[2].good_device_ids.clear();
  const RecoveredGroup group = RecoverGroup(kGroup, servers);
  CHECK(RoleOf(group, 1) == kInSync);
  CHECK(RoleOf(group, 2) == kInSync);
  CHECK(group.entry->loss_epoch() == group.entry->epoch());
}

TEST_CASE("two entries of one epoch are not decided between") {
  EntriesByServer servers;
  Know(&servers, 1, Entry(7, {{1, kInSync}, {2, kOut}}));
  Know(&servers, 2, Entry(7, {{1, kOut}, {2, kInSync}}));
  CHECK_FALSE(RecoverGroup(kGroup, servers).conflict.empty());
  // A later one settles it.
  Know(&servers, 3, Entry(8, {{1, kOut}, {2, kInSync}}));
  CHECK(RecoverGroup(kGroup, servers).conflict.empty());
}

TEST_CASE("a group that nobody knows has no entry") {
  EntriesByServer servers;
  servers[1];
  CHECK_FALSE(RecoverGroup(kGroup, servers).entry.has_value());
}

// One group, its MDM, its writer and four servers, by the rules of docs/REPLICATION.md. Messages
// get lost; servers are away for a while.
class World {
 public:
  explicit World(uint64_t seed) : random_(seed) {
    truth_ = Entry(1, {{1, kInSync}, {2, kInSync}});
    writer_ = truth_;
    for (uint64_t id = 1; id <= kServers; ++id) servers_[id].entry = truth_;
  }

  void Step() {
    for (auto& [id, server] : servers_) {
      if (OneIn(10)) server.away = !server.away;
    }
    switch (Pick(7)) {
      case 0:
      case 1:
        return Write();
      case 2:
        return Deliver();
      case 3:
        return MakeLearner();
      case 4:
        return FinishLearning();
      case 5:
        return AddMember();
      default:
        return DropMember();
    }
  }

  // What `answering` servers say, and whether it was judged rightly. Returns whether it may be
  // done.
  bool Check(const std::set<uint64_t>& answering) {
    EntriesByServer known;
    for (const uint64_t id : answering) Know(&known, id, servers_[id].entry);
    const RecoveredGroup group = RecoverGroup(kGroup, known);
    REQUIRE(group.entry.has_value());
    CHECK(group.conflict.empty());
    for (const auto& [id, server] : servers_) CHECK(group.entry->epoch() > server.entry.epoch());
    if (!group.could_know_more.empty()) return false;
    uint32_t in_sync = 0;
    for (const v1::Replica& replica : group.entry->replicas()) {
      if (replica.role() != kInSync) continue;
      ++in_sync;
      CHECK(answering.contains(replica.sds_id()));
      CHECK(servers_[replica.sds_id()].last >= acknowledged_);
    }
    CHECK(in_sync > 0);
    return true;
  }

  static constexpr uint64_t kServers = 4;

 private:
  struct Server {
    v1::PlacementGroup entry;  // persisted
    uint64_t last = 0;         // the writes that it has: a prefix
    bool away = false;
  };

  uint64_t Pick(uint64_t choices) { return random_() % choices; }
  bool OneIn(uint64_t n) { return Pick(n) == 0; }
  void Persist(uint64_t id, const v1::PlacementGroup& entry) {
    if (entry.epoch() > servers_[id].entry.epoch()) servers_[id].entry = entry;
  }

  // The next write, or the one that is not acknowledged yet, to all members.
  void Write() {
    next_ = std::max(next_, acknowledged_ + 1);
    std::vector<uint64_t> failed;
    bool stale = false;
    for (const v1::Replica& replica : writer_.replicas()) {
      if (replica.role() == kOut) continue;
      Server& server = servers_[replica.sds_id()];
      if (server.away || OneIn(12)) {
        failed.push_back(replica.device_id());
        continue;
      }
      if (server.entry.epoch() > writer_.epoch()) {
        stale = true;
        continue;
      }
      Persist(replica.sds_id(), writer_);
      const bool in_order = server.last + 1 >= next_ || replica.role() == kLearner;
      if (!in_order) failed.push_back(replica.device_id());
      if (in_order && server.last + 1 == next_) server.last = next_;
    }
    if (stale) {
      writer_ = truth_;
    } else if (failed.empty()) {
      acknowledged_ = next_;
    } else {
      Report(failed);
    }
  }

  void Report(const std::vector<uint64_t>& failed) {
    if (truth_.epoch() == writer_.epoch()) {
      const uint64_t epoch = truth_.epoch();
      bool changed = false;
      for (const uint64_t id : failed) {
        changed |= RemoveFailed(&truth_, truth_.epoch(), id) == MembershipOutcome::kChanged;
      }
      if (changed) truth_.set_epoch(epoch + 1);
    }
    writer_ = truth_;
  }

  void Deliver() {
    for (const v1::Replica& replica : truth_.replicas()) {
      if (!servers_[replica.sds_id()].away && OneIn(2)) Persist(replica.sds_id(), truth_);
    }
  }

  void MakeLearner() {
    const v1::PlacementGroup before = truth_;
    for (const v1::Replica& replica : before.replicas()) {
      if (replica.role() != kOut || servers_[replica.sds_id()].away) continue;
      (void)mdm::MakeLearner(&truth_, replica.device_id());
      return;
    }
  }

  void FinishLearning() {
    const v1::PlacementGroup before = truth_;
    for (const v1::Replica& learner : before.replicas()) {
      if (learner.role() != kLearner || servers_[learner.sds_id()].away) continue;
      for (const v1::Replica& source : before.replicas()) {
        if (source.role() != kInSync || servers_[source.sds_id()].away) continue;
        // The learner works in this epoch, and so does its source from now on.
        Persist(learner.sds_id(), truth_);
        Persist(source.sds_id(), truth_);
        servers_[learner.sds_id()].last = servers_[source.sds_id()].last;
        if (OneIn(3)) return;  // it is not done yet
        (void)Promote(&truth_, truth_.epoch(), learner.device_id());
        if (OneIn(2)) Persist(learner.sds_id(), truth_);
        return;
      }
    }
  }

  void AddMember() {
    const uint64_t id = 1 + Pick(kServers);
    if (truth_.replicas_size() >= 3) return;
    (void)AddLearner(&truth_, {id, id, 0});
  }

  void DropMember() {
    if (truth_.replicas_size() < 2) return;
    const v1::PlacementGroup before = truth_;
    for (const v1::Replica& replica : before.replicas()) {
      if (replica.role() == kInSync) continue;
      const uint64_t sds_id = replica.sds_id();
      if (mdm::DropMember(&truth_, replica.device_id()) != MembershipOutcome::kChanged) continue;
      // A server gives the space back when it has heard that it is no member any more.
      if (!servers_[sds_id].away && OneIn(2)) {
        Persist(sds_id, truth_);
        servers_[sds_id].last = 0;
      }
      return;
    }
  }

  std::mt19937_64 random_;
  v1::PlacementGroup truth_;
  v1::PlacementGroup writer_;
  std::map<uint64_t, Server> servers_;
  uint64_t next_ = 0;
  uint64_t acknowledged_ = 0;
};

TEST_CASE(
    "whatever happened, nothing acknowledged is lost, or the rules wait for who may know more") {
  const uint64_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  uint64_t decided_without_all = 0;
  uint64_t waited = 0;
  for (int history = 0; history < 400; ++history) {
    World world(random());
    for (int step = 0; step < 150; ++step) {
      world.Step();
      std::set<uint64_t> answering;
      for (uint64_t id = 1; id <= World::kServers; ++id) {
        if (random() % 3 != 0) answering.insert(id);
      }
      if (answering.empty()) continue;
      if (!world.Check(answering)) {
        ++waited;
      } else if (answering.size() < World::kServers) {
        ++decided_without_all;
      }
    }
  }
  // Neither answer is given for want of the other.
  CHECK(decided_without_all > 1'000);
  CHECK(waited > 1'000);
}

}  // namespace
}  // namespace tessera::mdm
