// A storage data client in the simulated world: the IO engine of services/sdc as it is; what
// MdmLink and Attachments do with gRPC is done here over the simulated network.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_SDC_NODE_H_
#define TESSERA_INTEGRATION_SIM_SDC_NODE_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "integration/sim/cache_medium.h"
#include "integration/sim/cluster.h"
#include "services/sdc/engine/io_engine.h"
#include "services/sdc/resume/resume_table.h"
#include "services/sdc/resume/test_memory.h"
#include "tessera/v1/sdc_control.pb.h"
#include "tessera/v1/token.pb.h"

namespace tessera::sim {

class SdcNode final : private sdc::ClusterLink {
 public:
  // `uuid` and `secret` are what the machine keeps over all lives.
  struct Identity {
    std::string uuid;
    std::string secret;
    uint64_t sdc_id = 0;
    uint64_t incarnation = 0;
    uint64_t boots = 0;
    const Life* last_life = nullptr;
    // Outlives its processes. What it holds is of no use after another boot.
    std::shared_ptr<sdc::TestMemory> resume_memory;
    uint64_t unflushed_bytes = 0;
    sdc::ResumeGeometry resume_geometry;
    uint32_t cache_lines = 0;  // of its read cache; 0: it has none
  };
  SdcNode(Cluster* cluster, NodeId node, Identity* identity);

  void Start();
  [[nodiscard]] uint64_t sdc_id() const { return identity_->sdc_id; }
  [[nodiscard]] uint64_t incarnation() const { return identity_->incarnation; }
  [[nodiscard]] Life* life() { return life_; }
  [[nodiscard]] sdc::IoEngine& engine() { return engine_; }
  // It goes on with what its earlier life left, and has not heard of the MDM yet.
  [[nodiscard]] bool on_its_own() const { return resumed_ && !registered_; }
  // Null while it is not attached.
  [[nodiscard]] std::shared_ptr<sdc::VolumeEngine> Volume(uint64_t volume_id);

  // A request of an application; by way of the loop.
  void Submit(uint64_t volume_id, sdc::BlockRequest request);

  // The control plane, in fibers.
  [[nodiscard]] absl::Status AttachAndWait(uint64_t volume_id);
  [[nodiscard]] absl::Status DetachAndWait(uint64_t volume_id, bool drop);
  [[nodiscard]] absl::Status HoldAndWait(const v1::HoldWritesRequest& request,
                                         v1::HoldWritesResponse* response);
  [[nodiscard]] absl::Status CutAndWait(const v1::CutSnapshotRequest& request,
                                        v1::CutSnapshotResponse* response);
  void ReleaseHold(const v1::ReleaseHoldRequest& request);
  [[nodiscard]] absl::Status ShrinkAndWait(const v1::ShrinkVolumeRequest& request);
  [[nodiscard]] absl::Status AdoptAndWait(const v1::AdoptLayersRequest& request);
  void MapArrived(const v1::WatchPlacementGroupsResponse& map);
  void WatchEnded() { watching_ = false; }

 private:
  struct Attached {
    uint64_t grant_id = 0;
    uint64_t mapping_id = 0;
    Nanos since = 0;
    bool attached = false;
    bool detaching = false;
    bool dropping = false;
    bool calling = false;
    bool acquire_next = false;
    bool renew_next = false;
    Nanos acquired = 0;  // when last
    uint64_t timer = 0;  // the number of the one that counts
    bool timer_set = false;
    uint32_t failures = 0;
    std::vector<std::function<void(absl::Status)>> waiting;

    [[nodiscard]] bool ending() const { return dropping || (detaching && !attached); }
  };

  // sdc::ClusterLink.
  void ReportReplicas(std::vector<sdc::ReplicaReport> reports) override;
  void GrantNeeded(uint64_t volume_id, sdc::GrantTrouble trouble) override;

  void Resume();
  void OpenCache();
  void Beat();
  [[nodiscard]] absl::Status Register();
  [[nodiscard]] absl::Status Heartbeat();
  void Mapped(const google::protobuf::RepeatedField<uint64_t>& volume_ids, Nanos asked);
  void Attach(uint64_t volume_id, std::function<void(absl::Status)> done);
  void Detach(uint64_t volume_id, bool drop, std::function<void(absl::Status)> done);
  void Acquire(uint64_t volume_id);
  void Renew(uint64_t volume_id);
  void Granted(uint64_t volume_id, const v1::IssuedGrant& issued);
  void Failed(uint64_t volume_id, const absl::Status& status);
  void After(uint64_t volume_id, Nanos delay, bool acquire);
  void AnswerAll(Attached& volume, const absl::Status& status);

  Cluster* const cluster_;
  const NodeId node_;
  Identity* const identity_;
  Life* const life_;
  sdc::EventLoop loop_;
  const sdc::EngineOptions options_;
  std::unique_ptr<sdc::ResumeTable> table_;
  std::unique_ptr<CacheMedium> cache_medium_;
  std::unique_ptr<sdc::ReadCache> cache_;
  uint64_t cache_hits_ = 0;  // counted so far
  sdc::IoEngine engine_;
  std::map<uint64_t, Attached> volumes_;
  uint64_t revision_ = 0;
  uint64_t timers_ = 0;
  bool registered_ = false;
  bool watching_ = false;
  bool resumed_ = false;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_SDC_NODE_H_
