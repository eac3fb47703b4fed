// Which entry of a placement group counts when mdm.db is lost, and which of its replicas may be
// believed: from the entries that servers have persisted (docs/REPLICATION.md, "Losing the MDM's
// database").
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_RECOVERY_GROUPS_H_
#define TESSERA_SERVICES_MDM_RECOVERY_GROUPS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "tessera/v1/placement.pb.h"

namespace tessera::mdm {

// How far ahead of everything that is known epochs and generations begin: further than a server
// that did not answer, or a client, can have come meanwhile.
inline constexpr uint64_t kRecoveryStep = 1'000'000;

// What one server that answered knows.
struct ServerEntries {
  std::map<uint64_t, v1::PlacementGroup> entries;  // the newest it persisted, by placement group
  // Its devices that work and lost nothing since they were last in the cluster.
  std::set<uint64_t> good_device_ids;
};
using EntriesByServer = std::map<uint64_t, ServerEntries>;  // by SDS id

struct RecoveredGroup {
  // With its epoch raised; nullopt: no server that answered knows the group.
  std::optional<v1::PlacementGroup> entry;
  // Servers that did not answer and that may have a newer entry than all which answered.
  std::set<uint64_t> could_know_more;
  // No in-sync replica is on a server that answered: the group waits for these.
  bool waits = false;
  // Two servers have different entries of one epoch: not to be decided; which servers.
  std::string conflict;
};

// The entry with the highest epoch wins. A replica stays in sync when it is in sync there and on
// its own server, and its device is good; where there is none such, those that are in sync there
// stay (the last one never leaves). Others, learners too, become out of sync.
[[nodiscard]] RecoveredGroup RecoverGroup(uint64_t placement_group_id,
                                          const EntriesByServer& servers);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_RECOVERY_GROUPS_H_
