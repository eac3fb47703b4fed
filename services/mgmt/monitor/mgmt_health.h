// MGMT's own health: its problems now, and the log of their changes, of which the newest are kept
// in memory.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_MGMT_HEALTH_H_
#define TESSERA_SERVICES_MGMT_MONITOR_MGMT_HEALTH_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "tessera/v1/health.pb.h"

namespace tessera::mgmt {

class MgmtHealth {
 public:
  static constexpr size_t kEventsMax = 10'000;

  explicit MgmtHealth(const Clock* clock) : clock_(clock) {}
  // The problem is there with this message, or, with an empty one, is not.
  void Set(const std::string& code, const std::string& message);
  [[nodiscard]] std::vector<v1::HealthProblem> Problems() const;
  // Oldest first.
  [[nodiscard]] std::vector<v1::Event> After(uint64_t event_id, size_t count_max) const;

 private:
  const Clock* const clock_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::string> problems_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::Event> events_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_event_id_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_MGMT_HEALTH_H_
