// What the MDM knows of learners that run, in memory: how far they are by their servers'
// heartbeats, whom they copy from, and which devices rest because a learner on them failed.
//
// A device whose learners fail rests before it is tried again, longer each time, so that a broken
// disk does not raise epochs for ever; and at least until its server was heard from again, so that
// a dead one is not tried while it only seems to be alive.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_LEARNER_BOARD_H_
#define TESSERA_SERVICES_MDM_LEARNER_BOARD_H_

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/mdm/health_monitor.h"
#include "tessera/v1/health.pb.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::mdm {

struct LearnerBackOff {
  uint64_t back_off_ms = 1'000;  // after the first failure of a device
  uint64_t back_off_max_ms = 60'000;
};

class LearnerBoard {
 public:
  LearnerBoard(const LearnerBackOff& rules, const HealthMonitor* health, const MdmTime* time)
      : rules_(rules), health_(health), time_(time) {}

  // A heartbeat of a server: all its learners.
  void Report(uint64_t sds_id,
              const google::protobuf::RepeatedPtrField<v1::LearnerStatus>& learners);
  // The planner chose whom to copy from.
  void SetSource(uint64_t placement_group_id, uint64_t device_id, uint64_t source_device_id);
  // The chosen source; 0: none.
  [[nodiscard]] uint64_t SourceOf(uint64_t placement_group_id, uint64_t device_id) const;
  // nullopt: its server has not told of it.
  [[nodiscard]] std::optional<v1::LearnerStatus> StatusOf(uint64_t placement_group_id,
                                                          uint64_t device_id, uint64_t epoch) const;

  void LearnerFailed(uint64_t device_id);
  void LearnerDone(uint64_t placement_group_id, uint64_t device_id);
  struct Rest {
    bool resting = false;
    uint32_t failures = 0;  // in a row
  };
  [[nodiscard]] Rest RestOf(uint64_t sds_id, uint64_t device_id) const;

 private:
  struct Failure {
    uint32_t count = 0;
    uint64_t at_boot_ms = 0;
    uint64_t until_boot_ms = 0;
  };
  using Id = std::pair<uint64_t, uint64_t>;  // placement group, device
  const LearnerBackOff rules_;
  const HealthMonitor* const health_;
  const MdmTime* const time_;
  mutable absl::Mutex mutex_;
  std::map<uint64_t, std::map<Id, v1::LearnerStatus>> status_ ABSL_GUARDED_BY(mutex_);  // by server
  std::map<Id, uint64_t> sources_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Failure> failures_ ABSL_GUARDED_BY(mutex_);  // by device
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_LEARNER_BOARD_H_
