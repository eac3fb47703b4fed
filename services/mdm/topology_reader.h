// Rows of mdm.db and heartbeats as the messages that callers see: volumes, pools with their
// capacity, servers, clients, and the whole tree.
//
// All functions run inside one transaction of MdmStore, so that everything in an answer is of one
// moment.
#ifndef TESSERA_SERVICES_MDM_TOPOLOGY_READER_H_
#define TESSERA_SERVICES_MDM_TOPOLOGY_READER_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <map>
#include <optional>
#include <vector>

#include "services/mdm/health_monitor.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/volume_table.h"
#include "tessera/v1/topology.pb.h"

namespace tessera::mdm {

class TopologyReader {
 public:
  TopologyReader(SQLite::Database& db, const HealthMonitor& health) : db_(db), health_(health) {}

  [[nodiscard]] v1::VolumeMapping Mapping(const MappingRow& row);
  [[nodiscard]] v1::Volume Volume(const VolumeRow& row);
  // Of the pool's row, as of the last heartbeats.
  [[nodiscard]] v1::PoolCapacity CapacityOf(const v1::StoragePool& pool);
  // How much the pool has promised, and what it can hold, as clients see it.
  struct Promise {
    uint64_t provisioned_bytes = 0;
    uint64_t usable_bytes = 0;
  };
  [[nodiscard]] Promise PromiseOf(const v1::StoragePool& pool);
  // Fills capacity and redundancy.
  [[nodiscard]] v1::StoragePool Pool(v1::StoragePool pool);
  [[nodiscard]] v1::Device Device(const DeviceRow& row);
  [[nodiscard]] v1::Sds Sds(const SdsRow& row);
  [[nodiscard]] v1::Sdc Sdc(const SdcRow& row);
  [[nodiscard]] v1::Topology Whole();

 private:
  [[nodiscard]] const std::map<uint64_t, ReplicaCounts>& Replicas();
  [[nodiscard]] v1::PoolCapacity Capacity(const v1::StoragePool& pool, uint64_t* usable_bytes);
  [[nodiscard]] v1::StoragePoolNode PoolNode(const v1::StoragePool& pool);

  SQLite::Database& db_;
  const HealthMonitor& health_;
  std::optional<std::map<uint64_t, ReplicaCounts>> replicas_;  // read when first needed
};

// The worst state of the groups; a server that can't be reached counts as no copy.
[[nodiscard]] v1::RedundancyState JudgeRedundancy(const v1::PlacementGroup& group,
                                                  uint32_t replica_count,
                                                  const HealthMonitor& health);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_TOPOLOGY_READER_H_
