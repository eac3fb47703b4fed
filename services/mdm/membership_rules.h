// Who counts in a placement group, and how that may change (docs/REPLICATION.md, invariants I3 to
// I5). Each function changes the entry in hand, epoch + 1, or leaves it alone and says why; the
// caller reads and stores it in one transaction, which makes it a compare-and-set.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_MEMBERSHIP_RULES_H_
#define TESSERA_SERVICES_MDM_MEMBERSHIP_RULES_H_

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "tessera/v1/placement.pb.h"

namespace tessera::mdm {

enum class MembershipOutcome {
  kChanged,     // epoch + 1
  kStaleEpoch,  // the request is about another epoch
  kNotMember,   // no such replica, or not in the role that the change starts from
  kLastInSync,  // the last in-sync replica never leaves
};

// Devices that are about to go, or that can't be asked.
using DeviceSet = std::set<uint64_t>;
using ServerSet = std::set<uint64_t>;

[[nodiscard]] uint32_t InSyncCount(const v1::PlacementGroup& group);
[[nodiscard]] const v1::Replica* FindReplica(const v1::PlacementGroup& group, uint64_t device_id);

// A reporter says that the device's replica failed in `epoch`: in sync or learner becomes out of
// sync.
MembershipOutcome RemoveFailed(v1::PlacementGroup* group, uint64_t epoch, uint64_t device_id);

// The devices lost what they had not flushed, or whose server restarted while they learned: out of
// sync where another in-sync replica remains. One epoch for all of them. True when the entry
// changed.
bool RemoveDevices(v1::PlacementGroup* group, const DeviceSet& devices);
// A replica in sync is on one of the devices: after RemoveDevices, the last one.
[[nodiscard]] bool HasInSyncOn(const v1::PlacementGroup& group, const DeviceSet& devices);
// Learners on these devices have forgotten what they learned.
bool RestartLearners(v1::PlacementGroup* group, const DeviceSet& devices);

// Out of sync becomes learner.
MembershipOutcome MakeLearner(v1::PlacementGroup* group, uint64_t device_id);
// A learner that equals its source becomes in sync, if `epoch` is still the current one.
MembershipOutcome Promote(v1::PlacementGroup* group, uint64_t epoch, uint64_t device_id);

// ---- Moves (docs/REPLICATION.md, Changing members)

enum class MoveKind { kRebuild = 1, kRebalance = 2, kDrain = 3 };

// A member is replaced: `from` leaves when `to` is in sync. At most one for a group.
struct RepairMove {
  MoveKind kind = MoveKind::kRebuild;
  uint64_t from_device_id = 0;  // 0: the group just lacks a member
  uint64_t to_device_id = 0;
  uint64_t operation_id = 0;
  friend bool operator==(const RepairMove&, const RepairMove&) = default;
};

// The newcomer becomes a learner. A member of the same server is in its way unless it is
// `swapped_device_id`, is out of sync, and so leaves at once. kNotMember: in the way, or a member
// already.
struct Newcomer {
  uint64_t device_id = 0;
  uint64_t sds_id = 0;
  uint64_t swapped_device_id = 0;  // 0: none
};
MembershipOutcome AddLearner(v1::PlacementGroup* group, const Newcomer& newcomer);
// A member that is not in sync leaves for good. kLastInSync: it is in sync.
MembershipOutcome DropMember(v1::PlacementGroup* group, uint64_t device_id);
// An in-sync member leaves for good where more than `replica_count` are in sync. kLastInSync: they
// are not.
MembershipOutcome DropSurplus(v1::PlacementGroup* group, uint64_t device_id,
                              uint32_t replica_count);

// What became of a group whose learner is complete.
struct Settlement {
  MembershipOutcome outcome = MembershipOutcome::kNotMember;
  uint64_t dropped_device_id = 0;  // left for good in the same decision; 0: none
  uint64_t dropped_sds_id = 0;
  bool move_over = false;  // the move has to be forgotten
};
// Promote, and what follows for the group's move (null: it has none): the new member's `from`
// leaves; or the lost one of a rebuild is back, and the new member leaves, or goes on for another
// lost one (`move` is changed). One epoch for all of it.
Settlement PromoteAndSettle(v1::PlacementGroup* group, uint64_t epoch, uint64_t device_id,
                            uint32_t replica_count, RepairMove* move);

// Members on servers that did not confirm a volume's new generation leave where an in-sync replica
// on a server that did remains. True when the entry changed.
bool RemoveUnconfirmed(v1::PlacementGroup* group, const ServerSet& confirmed);
// In-sync members on servers that are not in `confirmed`.
[[nodiscard]] ServerSet UnconfirmedHolders(const v1::PlacementGroup& group,
                                           const ServerSet& confirmed);

// A replica's place in a volume's order: generation, then sequence.
using CursorVersion = std::pair<uint64_t, uint64_t>;
// Of the members whose server is in `cursors`, those behind the highest in-sync one leave (I5):
// they lack a write that the highest has. A server that is absent from `cursors` did not answer and
// is left alone. True when the entry changed.
bool RemoveShorter(v1::PlacementGroup* group, const std::map<uint64_t, CursorVersion>& cursors);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MEMBERSHIP_RULES_H_
