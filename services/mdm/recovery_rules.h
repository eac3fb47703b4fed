// What mdm.db has to say, worked out from the copies that servers keep (docs/REPLICATION.md,
// "Losing the MDM's database").
//
// Records are taken whole from the server that has the latest: they are the MDM's own, as of one
// moment. What servers know by themselves is newer: entries of placement groups, generations, which
// vtrees have chunks, which are deleted.
//
// Pure: no SQL, files, clock or gRPC. Seals and signatures were checked by the caller. Threads:
// any.
#ifndef TESSERA_SERVICES_MDM_RECOVERY_RULES_H_
#define TESSERA_SERVICES_MDM_RECOVERY_RULES_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "services/mdm/recovery_groups.h"
#include "tessera/v1/cluster_record.pb.h"
#include "tessera/v1/placement.pb.h"
#include "tessera/v1/sds_control.pb.h"
#include "tessera/v1/topology.pb.h"

namespace tessera::mdm {

// One server's copy.
struct ServerCopy {
  v1::ServerIdentity identity;
  std::vector<v1::LocalDevice> devices;
  std::vector<v1::PoolLayout> pools;
  std::map<uint64_t, v1::PlacementGroup> groups;
  std::map<uint64_t, uint64_t> generations;  // by volume
  std::set<uint64_t> deleted_vtree_ids;
  uint64_t records_revision = 0;
  std::vector<v1::ClusterRecord> records;
  std::vector<v1::VtreeExtent> vtrees;
};

// The rows of the new database.
struct RecoveredCluster {
  v1::RecordedCluster cluster;      // highest_ids: what was given out; new ids come after
  uint64_t records_revision = 0;    // the highest that any server has
  uint64_t mdm_time_ms = 0;         // the latest that any server takes it to be; 0: none knows
  uint64_t highest_epoch_seen = 0;  // of pools without placement groups
  std::map<uint64_t, v1::ProtectionDomain> domains;
  std::map<uint64_t, v1::FaultSet> fault_sets;
  std::map<uint64_t, v1::StoragePool> pools;
  std::map<uint64_t, v1::Sds> servers;
  std::map<uint64_t, v1::Device> devices;
  std::set<uint64_t> configured_device_ids;  // their servers have them open for their pools
  std::map<uint64_t, v1::Sdc> clients;
  // With the generation to go on from.
  std::map<uint64_t, v1::RecordedVolume> volumes;
  // Those that have, or may have, more than the first layer.
  std::map<uint64_t, v1::RecordedVtree> vtrees;
  std::map<uint64_t, v1::SnapshotSchedule> schedules;
  std::map<uint64_t, v1::PlacementGroup> groups;
  std::set<uint64_t> deleted_vtree_ids;
  // (server, vtree): what is left of the vtree there has to go.
  std::set<std::pair<uint64_t, uint64_t>> pending_deletions;
};

// A server of the cluster of which there is no copy.
struct MissingServer {
  uint64_t sds_id = 0;
  std::string name;
  std::string control;  // where it was
  // Placement groups of which it may know more than all that answered.
  std::set<uint64_t> placement_group_ids;
  bool accepted = false;
};

struct RecoveryPlan {
  RecoveredCluster cluster;
  std::vector<MissingServer> missing;
  // Why it must not be done, and what would help; empty: it may.
  std::vector<std::string> refusals;
  // What an administrator should know.
  std::vector<std::string> notes;
};

// INVALID_ARGUMENT: no copies; FAILED_PRECONDITION: they are of different clusters, or two are of
// one server. `accepted_missing`: names of servers that are given up.
[[nodiscard]] absl::StatusOr<RecoveryPlan> PlanRecovery(
    const std::vector<ServerCopy>& copies, const std::set<std::string>& accepted_missing);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_RECOVERY_RULES_H_
