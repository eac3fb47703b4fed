// A storage data server in the simulated world: the data path, learners and local state of
// services/sds as they are, on a simulated disk; what SdsServer and MdmLink do with gRPC is done
// here over the simulated network.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_SDS_NODE_H_
#define TESSERA_INTEGRATION_SIM_SDS_NODE_H_

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "integration/sim/cluster.h"
#include "integration/sim/io_connection.h"
#include "integration/sim/sim_store.h"
#include "services/sds/janitor.h"
#include "services/sds/layer_dropper.h"
#include "services/sds/learner.h"
#include "services/sds/local_state.h"
#include "services/sds/replica_service.h"
#include "tessera/v1/sds_control.pb.h"

namespace tessera::sim {

// On its disk.
inline constexpr char kStoreFolder[] = "/store";

class SdsNode final : public sds::PlacementAuthority {
 public:
  // `folder` keeps sds_local.db and the device's identity over all lives.
  SdsNode(Cluster* cluster, NodeId node, std::string folder, Disk* disk);

  // Begins to run: in a fiber of its life.
  void Start();

  [[nodiscard]] uint64_t sds_id() const { return sds_id_; }
  [[nodiscard]] NodeId node() const { return node_; }
  [[nodiscard]] IoServer* io_server() { return engine_ == nullptr ? nullptr : &io_server_; }
  [[nodiscard]] sds::Device* device() { return device_.get(); }
  [[nodiscard]] sds::IoEngine* engine() { return engine_.get(); }
  [[nodiscard]] sds::ReplicaServiceImpl* source() { return source_.get(); }
  // Its control plane.
  [[nodiscard]] absl::Status RaiseGeneration(const v1::RaiseGenerationRequest& request,
                                             v1::RaiseGenerationResponse* response);
  [[nodiscard]] absl::Status ApplyPlacementGroups(const v1::ApplyPlacementGroupsRequest& request);
  [[nodiscard]] absl::Status ConfigureDevice(const v1::ConfigureDeviceRequest& request);
  [[nodiscard]] absl::Status DropLayers(const v1::DropLayersRequest& request,
                                        v1::DropLayersResponse* response);
  // A message of the map's watch; in order.
  void MapArrived(const v1::WatchPlacementGroupsResponse& map);
  void WatchEnded();

  // PlacementAuthority.
  void SetLearners(sds::LearnerObserver* learners) override { learners_ = learners; }
  absl::StatusOr<v1::BeginLearningResponse> BeginLearning(
      const v1::BeginLearningRequest& request) override;
  absl::StatusOr<v1::CompleteLearningResponse> CompleteLearning(
      const v1::CompleteLearningRequest& request) override;
  absl::StatusOr<v1::BeginRepairResponse> BeginRepair(const v1::BeginRepairRequest&) override {
    return absl::UnavailableError("not simulated");
  }
  absl::StatusOr<v1::ReportReplicaFailuresResponse> ReportReplicaFailures(
      const v1::ReportReplicaFailuresRequest& request) override;

 private:
  [[nodiscard]] absl::Status Open();
  void FillContext();
  void Beat();
  [[nodiscard]] absl::Status Register();
  [[nodiscard]] absl::Status Heartbeat();
  void TakeMaps();

  Cluster* const cluster_;
  const NodeId node_;
  const std::string folder_;
  Disk* const disk_;
  Life* const life_;
  MetricRegistry registry_{"sds"};
  sds::SdsMetrics metrics_{&registry_};
  std::atomic<uint64_t> sds_id_{0};
  sds::KeyStore keys_;
  sds::MdmClock mdm_clock_;
  sds::ReplayWindows windows_;
  sds::ClientLimits limits_;
  sds::DeletedVtrees deleted_vtrees_;
  std::unique_ptr<sds::LocalState> state_;
  std::unique_ptr<sds::VolumeTable> volumes_;
  std::unique_ptr<sds::PlacementTable> placements_;
  std::unique_ptr<sds::UnservedWrites> unserved_;
  sds::RecoveryPacer pacer_;
  std::unique_ptr<sds::TokenAccounting> accounting_;
  std::unique_ptr<sds::Device> device_;
  sds::EngineContext context_;
  std::unique_ptr<sds::IoEngine> engine_;
  std::unique_ptr<sds::LayerDropper> dropper_;
  std::unique_ptr<sds::Janitor> janitor_;
  std::unique_ptr<sds::ReplicaServiceImpl> source_;
  std::unique_ptr<sds::Learner> learner_;
  sds::LearnerObserver* learners_ = nullptr;
  IoServer io_server_;
  bool registered_ = false;
  bool watching_ = false;
  std::deque<v1::WatchPlacementGroupsResponse> maps_;
  bool taking_maps_ = false;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_SDS_NODE_H_
