// The metadata manager in the simulated world: services/mdm as it is, with its database in a folder
// that outlives it. Its calls come and go over the simulated network (see seam_node_control.cc).
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_MDM_NODE_H_
#define TESSERA_INTEGRATION_SIM_MDM_NODE_H_

#include <memory>
#include <string>

#include "integration/sim/cluster.h"
#include "services/mdm/device_assigner.h"
#include "services/mdm/discovery_service.h"
#include "services/mdm/health_service.h"
#include "services/mdm/integrity_board.h"
#include "services/mdm/layer_reaper.h"
#include "services/mdm/map_publisher.h"
#include "services/mdm/node_control.h"
#include "services/mdm/placement_service.h"
#include "services/mdm/repair_scheduler.h"
#include "services/mdm/scrub_scheduler.h"
#include "services/mdm/state_folder.h"
#include "services/mdm/token_service.h"
#include "services/mdm/upkeep.h"
#include "services/mdm/volume_service.h"

namespace tessera::sim {

class MdmNode {
 public:
  MdmNode(Cluster* cluster, mdm::StateFolder state, std::unique_ptr<MetricRegistry> metrics);

  // Begins to work: in a fiber of its life.
  [[nodiscard]] absl::Status Start();
  // What the kernel does for a dead process: its lock is free.
  void Ended() { state_.lock = mdm::FolderLock(); }

  [[nodiscard]] mdm::MdmStore* store() { return state_.store.get(); }
  [[nodiscard]] const std::string& join_token() const { return state_.join_token; }
  [[nodiscard]] mdm::DiscoveryService& discovery() { return *discovery_; }
  [[nodiscard]] mdm::HealthService& health() { return *heartbeat_; }
  [[nodiscard]] mdm::PlacementService& placement() { return *placement_; }
  [[nodiscard]] mdm::TokenService& token() { return *token_; }
  [[nodiscard]] mdm::VolumeService& volume() { return *volume_; }
  [[nodiscard]] mdm::HealthMonitor& monitor() { return monitor_; }
  // The caller of a node's call.
  [[nodiscard]] static CallContext CallOf(v1::Role role, uint64_t node_id);

  // A pool, made as an administrator would.
  [[nodiscard]] absl::Status MakePool();
  // Servers look once more for layers that nobody sees; how many have not ended.
  void DropLayersAgain();
  [[nodiscard]] uint64_t pending_layer_drops();
  // Streams the map to the machine: to the server of that id, or to a client (0).
  void Watch(NodeId node, uint64_t sds_id);

 private:
  Cluster* const cluster_;
  const std::unique_ptr<MetricRegistry> metrics_;
  mdm::StateFolder state_;
  const mdm::EventLog events_;
  mdm::HealthMonitor monitor_;
  mdm::NodeControl control_;
  mdm::MapPublisher publisher_;
  mdm::CacheLeases leases_;
  mdm::VolumeFence fence_;
  mdm::DeviceAssigner assigner_;
  mdm::LearnerBoard board_;
  mdm::RepairScheduler repair_;
  mdm::IntegrityBoard integrity_;
  mdm::LimitGovernor governor_;
  mdm::ScrubScheduler scrub_;
  mdm::LayerReaper layer_reaper_;
  mdm::Upkeep upkeep_;
  std::unique_ptr<mdm::HealthService> heartbeat_;
  std::unique_ptr<mdm::DiscoveryService> discovery_;
  std::unique_ptr<mdm::VolumeService> volume_;
  std::unique_ptr<mdm::PlacementService> placement_;
  std::unique_ptr<mdm::TokenService> token_;
  std::unique_ptr<mdm::BackgroundLoop> judge_loop_;
  std::unique_ptr<mdm::BackgroundLoop> placement_loop_;
  std::unique_ptr<mdm::BackgroundLoop> reaper_loop_;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_MDM_NODE_H_
