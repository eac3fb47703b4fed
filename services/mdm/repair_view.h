// What the repair planner looks at, and what it decides: plain data, filled in by RepairScheduler
// and by tests.
#ifndef TESSERA_SERVICES_MDM_REPAIR_VIEW_H_
#define TESSERA_SERVICES_MDM_REPAIR_VIEW_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "services/mdm/membership_rules.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::mdm {

// Whether a device can be used.
enum class DeviceCondition {
  kReady,    // its server is well and has opened it
  kUnknown,  // not opened yet in the server's present life, or not heard from since the MDM started
  kAway,     // its server is known to be away
  kFailed,   // it does not work, or its server does not have it any more
};

struct RepairDevice {
  uint64_t device_id = 0;
  uint64_t sds_id = 0;
  uint64_t fault_set_id = 0;  // 0: the server is a fault set of its own
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;
  DeviceCondition condition = DeviceCondition::kReady;
  bool resting = false;              // a learner on it failed a moment ago
  uint32_t failures = 0;             // of learners on it in a row
  bool draining = false;             // everything is to leave it
  bool maintenance = false;          // its server is expected to be away for a while
  uint64_t successor_device_id = 0;  // of a replaced device: where its copies go by preference
};

struct RepairGroup {
  v1::PlacementGroup entry;
  std::optional<RepairMove> move;
  uint64_t bytes = 0;  // of one copy, estimated
  // Members that can neither serve nor learn, and since when (MDM time).
  std::map<uint64_t, uint64_t> unavailable_since_ms;
};

struct RepairPool {
  uint64_t pool_id = 0;
  uint32_t replica_count = 0;
  std::vector<RepairDevice> devices;  // all of the pool, and others that hold replicas of it
  std::vector<RepairGroup> groups;
};

struct RepairRules {
  uint64_t rebuild_delay_ms = 600'000;
  uint32_t learners_per_target = 4;
  uint32_t learners_per_source = 4;
  uint32_t rebalance_per_device = 1;
  uint32_t full_percent = 85;
  bool rebuild_paused = false;
  bool rebalance_paused = false;
  // A new member that is lost itself gets this long to come back before another is chosen.
  uint64_t target_patience_ms = 60'000;
  // Learners of a device that fail this often in a row: it is as good as away.
  uint32_t failures_max = 5;
};

enum class RepairAction {
  kMakeLearner,  // an out-of-sync member catches up
  kStartMove,    // `move`
  kAbandonMove,  // its `to` leaves, the row goes
  kForgetMove,   // the row goes, the entry stays
  kDropMember,   // an unneeded member that is not in sync leaves
  kDropSurplus,  // more are in sync than are wanted: one leaves
};

struct RepairDecision {
  RepairAction action = RepairAction::kMakeLearner;
  uint64_t placement_group_id = 0;
  uint64_t epoch = 0;             // of the entry that it was decided on
  uint64_t device_id = 0;         // of the member that learns, comes or goes
  uint64_t source_device_id = 0;  // whom to copy from
  RepairMove move;                // kStartMove, with no operation yet
  bool swap = false;  // kStartMove: `from` is of the same server and leaves as `to` joins
  std::string reason;
};

// Why a group that needs a new member has not begun to get one.
enum class Obstacle {
  kNone,
  kBusy,           // the bounds of its devices are reached
  kPaused,         // rebuild is paused
  kNoSource,       // no in-sync copy can be reached
  kNoOtherServer,  // every server that works holds a copy already
  kNoRoom,         // those that don't are full
};
// "no other server of the pool works" …: for people.
[[nodiscard]] const char* ObstacleText(Obstacle obstacle);

struct RepairPlan {
  std::vector<RepairDecision> decisions;
  // Groups that wait for a new member in place of the device (0: just one more), by what they wait
  // for. Those whose delay is not over are not among them.
  std::map<uint64_t, std::map<Obstacle, uint32_t>> waiting;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_REPAIR_VIEW_H_
