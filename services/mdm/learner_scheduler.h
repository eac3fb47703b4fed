// Turns out-of-sync replicas of servers that are well into learners, a bounded number at a time.
//
// Groups with a single in-sync copy come first. A device whose learners fail rests before it is
// tried again, longer each time, so that a broken disk does not raise epochs for ever.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_LEARNER_SCHEDULER_H_
#define TESSERA_SERVICES_MDM_LEARNER_SCHEDULER_H_

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::mdm {

struct LearnerRules {
  uint32_t learners_per_server = 8;
  uint64_t back_off_ms = 1'000;  // after the first failure of a device
  uint64_t back_off_max_ms = 60'000;
};

// One replica to be made a learner.
struct LearnerChoice {
  uint64_t placement_group_id = 0;
  uint64_t device_id = 0;
};

// Which replicas may learn now. `ready` are the servers that are well, `resting` the devices that
// are not to be tried. A group without an in-sync replica on a ready server has nobody to learn
// from.
[[nodiscard]] std::vector<LearnerChoice> ChooseLearners(
    const LearnerRules& rules, const std::vector<v1::PlacementGroup>& groups,
    const std::set<uint64_t>& ready, const std::set<uint64_t>& resting);

class LearnerScheduler {
 public:
  LearnerScheduler(const LearnerRules& rules, MdmStore* store, const HealthMonitor* health,
                   const MdmTime* time)
      : rules_(rules), store_(store), health_(health), time_(time) {}

  // Everything that is due now: for the maintenance loop.
  void Run();
  void LearnerFailed(uint64_t device_id);
  void LearnerDone(uint64_t device_id);

 private:
  struct Rest {
    uint32_t failures = 0;
    uint64_t until_boot_ms = 0;
  };
  const LearnerRules rules_;
  MdmStore* const store_;
  const HealthMonitor* const health_;
  const MdmTime* const time_;
  absl::Mutex mutex_;
  std::map<uint64_t, Rest> rests_ ABSL_GUARDED_BY(mutex_);  // by device
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_LEARNER_SCHEDULER_H_
