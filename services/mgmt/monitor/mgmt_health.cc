#include "services/mgmt/monitor/mgmt_health.h"

#include <utility>

namespace tessera::mgmt {

void MgmtHealth::Set(const std::string& code, const std::string& message) {
  absl::MutexLock lock(&mutex_);
  const auto found = problems_.find(code);
  const bool was = found != problems_.end();
  if (was && !message.empty()) {
    found->second = message;
    return;
  }
  if (was == !message.empty()) return;
  v1::Event event;
  event.set_event_id(next_event_id_++);
  event.set_time_ms(clock_->WallMillis());
  event.set_kind(v1::COMPONENT_KIND_MGMT);
  event.set_component_id(1);
  if (was) {
    event.set_severity(v1::EVENT_SEVERITY_INFO);
    event.set_code(code + "_over");
    event.set_message("no longer: " + found->second);
    problems_.erase(found);
  } else {
    event.set_severity(v1::EVENT_SEVERITY_WARNING);
    event.set_code(code);
    event.set_message(message);
    problems_[code] = message;
  }
  events_.push_back(std::move(event));
  if (events_.size() > kEventsMax) events_.pop_front();
}

std::vector<v1::HealthProblem> MgmtHealth::Problems() const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::HealthProblem> problems;
  for (const auto& [code, message] : problems_) {
    v1::HealthProblem& problem = problems.emplace_back();
    problem.set_code(code);
    problem.set_message(message);
  }
  return problems;
}

std::vector<v1::Event> MgmtHealth::After(uint64_t event_id, size_t count_max) const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::Event> events;
  for (const v1::Event& event : events_) {
    if (events.size() == count_max) break;
    if (event.event_id() > event_id) events.push_back(event);
  }
  return events;
}

}  // namespace tessera::mgmt
