// One replica without a server: the real worker over the real store on a simulated disk, in the
// test's thread, so that a test decides what happens between which two steps.
//
// Threads: one.
#ifndef TESSERA_SERVICES_SDS_TESTING_BARE_REPLICA_H_
#define TESSERA_SERVICES_SDS_TESTING_BARE_REPLICA_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "libchunk/sim_disk.h"
#include "services/common/clock.h"
#include "services/common/executor.h"
#include "services/common/metrics.h"
#include "services/sds/device_worker.h"
#include "services/sds/testing/test_basics.h"
#include "services/sds/testing/test_store.h"

namespace tessera::sds {

// A write as its writer signs it; without data it is a trim of `length_bytes`.
struct BareWrite {
  uint64_t volume_id = 0;
  uint64_t vtree_id = 0;
  chunk::Version version;
  uint64_t layer = 0;
  std::vector<token::PathPart> path;
  uint64_t chunk_index = 0;
  uint32_t offset_bytes = 0;
  uint32_t length_bytes = 0;
  std::string data;
  bool adopts = false;  // no write: a layer of the branch is made
};

class BareReplica {
 public:
  BareReplica(uint64_t seed, uint64_t placement_group_id);
  ~BareReplica();

  [[nodiscard]] DeviceWorker* worker() { return worker_.get(); }
  [[nodiscard]] chunk::Store* store() { return device_->store(); }
  [[nodiscard]] StoreFaults& faults() { return faults_; }
  // A new epoch.
  void SetRole(uint64_t epoch, v1::ReplicaRole role);
  [[nodiscard]] LearnerState* learner();
  [[nodiscard]] v1::IoResult Do(const BareWrite& write);
  // The whole chunk, as the path sees it.
  [[nodiscard]] std::string Read(const std::vector<token::PathPart>& path, uint64_t vtree_id,
                                 uint64_t chunk_index);

 private:
  const uint64_t placement_group_id_;
  uint64_t epoch_ = 0;
  chunk::SimulatedDisk disk_;
  StoreFaults faults_;
  TestFolder folder_;
  SystemClock clock_;
  MdmClock mdm_clock_{&clock_};
  MetricRegistry registry_{"sds"};
  SdsMetrics metrics_{&registry_};
  std::unique_ptr<LocalState> state_;
  VolumeTable volumes_;
  PlacementTable placements_;
  ReplayWindows windows_;
  ClientLimits limits_;
  TokenAccounting accounting_{1, 0};
  DeletedVtrees deleted_vtrees_;
  UnservedWrites unserved_;
  RecoveryPacer pacer_;
  std::atomic<uint64_t> sds_id_{1};
  EngineContext context_;
  std::unique_ptr<Device> device_;
  Executor readers_;
  std::unique_ptr<DeviceWorker> worker_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_TESTING_BARE_REPLICA_H_
