// The client's own log of what changed, for MonitoringService.ListHealthLog: the newest 10,000
// entries.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDC_CONTROL_HEALTH_LOG_H_
#define TESSERA_SERVICES_SDC_CONTROL_HEALTH_LOG_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "tessera/v1/health.pb.h"

namespace tessera::sdc {

class HealthLog {
 public:
  static constexpr size_t kLimit = 10'000;

  // `clock` must outlive the log.
  explicit HealthLog(const Clock& clock) : clock_(clock) {}

  void Add(v1::EventSeverity severity, const std::string& code, const std::string& message) {
    absl::MutexLock lock(&mutex_);
    v1::Event& event = events_.emplace_back();
    event.set_event_id(++last_id_);
    event.set_time_ms(clock_.WallMillis());
    event.set_severity(severity);
    event.set_code(code);
    event.set_message(message);
    event.set_kind(v1::COMPONENT_KIND_SDC);
    if (events_.size() > kLimit) events_.pop_front();
  }
  // Entries newer than the id, oldest first.
  [[nodiscard]] std::vector<v1::Event> After(uint64_t event_id, size_t limit) const {
    absl::MutexLock lock(&mutex_);
    std::vector<v1::Event> found;
    for (const v1::Event& event : events_) {
      if (event.event_id() > event_id && found.size() < limit) found.push_back(event);
    }
    return found;
  }

 private:
  const Clock& clock_;
  mutable absl::Mutex mutex_;
  std::deque<v1::Event> events_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_HEALTH_LOG_H_
