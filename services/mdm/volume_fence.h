// Ending a volume's older generations at every server of its pool, and making the in-sync replicas
// equal for a new writer (docs/REPLICATION.md, "Generations").
//
// The caller has committed the new generation. Each server persists it and confirms. A server that
// does not answer loses its in-sync replicas wherever one on a server that confirmed remains:
// writes of the old generation that still land there count for nothing, because the replica has to
// learn before it is believed again. Where no such witness remains, the old grants' expiry is
// waited for, as late as a server that hears nothing of the MDM would honour them (outage expiry),
// plus the clocks' error. Caches of clients ask no server: their leases under older generations are
// waited for, too.
//
// Threads: any; calls block until done, the deadline, or Stop.
#ifndef TESSERA_SERVICES_MDM_VOLUME_FENCE_H_
#define TESSERA_SERVICES_MDM_VOLUME_FENCE_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "services/mdm/cache_leases.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/learner_board.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/membership_rules.h"
#include "services/mdm/node_control.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {

struct FenceRules {
  std::chrono::milliseconds call_timeout{2'000};  // of one RaiseGeneration
  // A server that was well a moment ago gets this long to come back before it loses its replicas.
  std::chrono::milliseconds grace{500};
  std::chrono::milliseconds retry_pause{100};
  // By how much a server's idea of MDM time may be late: its heartbeat calls last at most this
  // long.
  uint64_t clock_error_ms = 5'000;
};

enum class FencePurpose {
  kEndOnly,    // unmap, delete, expire
  kReconcile,  // a new writer or reader: in-sync replicas must be equal, too
};

struct FenceReceipt {
  uint64_t generation = 0;
  std::set<uint64_t> confirmed_sds_ids;
  std::set<uint64_t> expired_sds_ids;  // did not answer: taken out, or their grants have run out
};

class VolumeFence {
 public:
  // `board` is told of members that left because their servers did not answer: they do not learn
  // before their servers are heard from again.
  VolumeFence(const FenceRules& rules, MdmStore* store, CacheLeases* leases, NodeControl* control,
              const HealthMonitor* health, LearnerBoard* board, const EventLog* events,
              const MdmTime* time, const Clock* clock)
      : rules_(rules),
        store_(store),
        leases_(leases),
        control_(control),
        health_(health),
        board_(board),
        events_(events),
        time_(time),
        clock_(clock) {}

  // Brings every server to `volume.generation` and records that in the volume's row. UNAVAILABLE,
  // saying who is waited for, at the deadline; ABORTED when the generation moved on meanwhile.
  [[nodiscard]] absl::StatusOr<FenceReceipt> Run(const VolumeRow& volume, FencePurpose purpose,
                                                 std::chrono::milliseconds time_left);
  [[nodiscard]] CacheLeases& leases() { return *leases_; }
  // Ends waiting calls with UNAVAILABLE.
  void Stop() { stop_.Notify(); }

 private:
  struct Round;
  [[nodiscard]] absl::Status Ask(const VolumeRow& volume, FencePurpose purpose, Round* round);
  [[nodiscard]] absl::Status Settle(const VolumeRow& volume, FencePurpose purpose, Round* round);
  // The servers, and the epochs of the groups.
  [[nodiscard]] absl::StatusOr<std::shared_ptr<const std::map<uint64_t, uint64_t>>> LoadPool(
      const VolumeRow& volume, Round* round);
  [[nodiscard]] static ServerSet OutdatedAnswers(const std::vector<v1::PlacementGroup>& groups,
                                                 const Round& round);
  [[nodiscard]] std::vector<v1::FenceReceipt> ReceiptsOf(const VolumeRow& volume,
                                                         const Round& round) const;
  [[nodiscard]] absl::Status HandleNewer(const VolumeRow& volume, uint64_t sds_id,
                                         uint64_t generation);

  const FenceRules rules_;
  MdmStore* const store_;
  CacheLeases* const leases_;
  NodeControl* const control_;
  const HealthMonitor* const health_;
  LearnerBoard* const board_;
  const EventLog* const events_;
  const MdmTime* const time_;
  const Clock* const clock_;  // of the waits
  absl::Notification stop_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_VOLUME_FENCE_H_
