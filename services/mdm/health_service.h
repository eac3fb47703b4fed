// HealthService: heartbeats, states, events, and the verdict on the cluster.
//
// Threads: handlers run on the dispatcher's threads. EventsChanged from any; it only wakes.
#ifndef TESSERA_SERVICES_MDM_HEALTH_SERVICE_H_
#define TESSERA_SERVICES_MDM_HEALTH_SERVICE_H_

#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/mdm/cache_leases.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/health_rules.h"
#include "services/mdm/integrity_board.h"
#include "services/mdm/learner_board.h"
#include "services/mdm/limit_governor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/repair_scheduler.h"
#include "services/mdm/rpc_methods.h"
#include "services/mdm/scrub_scheduler.h"
#include "tessera/v1/health.grpc.pb.h"

namespace tessera::mdm {

class HealthService final : public v1::HealthService::CallbackService {
 public:
  static constexpr uint32_t kEventWaitersMax = 8;  // each occupies a thread
  static constexpr uint32_t kEventWaitMaxMillis = 30'000;

  HealthService(RpcDispatcher* rpc, uint32_t heartbeat_interval_ms, MdmStore* store,
                ClusterKeys* keys, CacheLeases* leases, HealthMonitor* health, LearnerBoard* board,
                const RepairScheduler* repair, IntegrityBoard* integrity,
                const ScrubScheduler* scrub, LimitGovernor* governor, const EventLog* events,
                const MdmTime* time, MetricRegistry* metrics);

  TESSERA_MDM_UNARY(Heartbeat);
  TESSERA_MDM_UNARY(ListComponents);
  TESSERA_MDM_UNARY(ListEvents);
  TESSERA_MDM_UNARY(GetClusterHealth);
  TESSERA_MDM_UNARY(ListVolumeHealth);

  void EventsChanged();
  // Ends waiting calls.
  void Stop();

 private:
  [[nodiscard]] absl::Status TakeOutFailed(uint64_t sds_id, const v1::HeartbeatRequest& request);
  [[nodiscard]] prometheus::Counter& BlocksCounter(const v1::CorruptBlocks& blocks) const;
  // Events of devices that fill up, or have space again.
  [[nodiscard]] absl::Status NoteSpace(uint64_t sds_id, const v1::HeartbeatRequest& request);
  void AddSpaceCauses(v1::GetClusterHealthResponse* response);
  [[nodiscard]] std::vector<v1::CorruptBlocks> UnreadableNow() const;
  // Events of what is new about bad blocks.
  [[nodiscard]] absl::Status RecordCorruptBlocks(uint64_t sds_id,
                                                 const v1::HeartbeatRequest& request);

  RpcDispatcher* const rpc_;
  const uint32_t heartbeat_interval_ms_;
  MdmStore* const store_;
  ClusterKeys* const keys_;
  CacheLeases* const leases_;
  HealthMonitor* const health_;
  LearnerBoard* const board_;
  const RepairScheduler* const repair_;
  IntegrityBoard* const integrity_;
  const ScrubScheduler* const scrub_;
  LimitGovernor* const governor_;
  const EventLog* const events_;
  const MdmTime* const time_;
  MetricRegistry* const metrics_;
  prometheus::Counter& heartbeats_;
  absl::Mutex mutex_;
  uint64_t event_commits_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t waiters_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  struct Space {
    SpaceLevel level = SpaceLevel::kEnough;
    std::string what;
  };
  // By server and device uuid, as of its last heartbeat.
  std::map<uint64_t, std::map<std::string, Space>> space_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_HEALTH_SERVICE_H_
