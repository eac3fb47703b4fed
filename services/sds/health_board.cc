#include "services/sds/health_board.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"

namespace tessera::sds {

void HealthBoard::Raise(const std::string& code, const std::string& subject,
                        v1::EventSeverity severity, const std::string& message) {
  {
    absl::MutexLock lock(&mutex_);
    if (!problems_.insert_or_assign({code, subject}, message).second) return;
  }
  Note(severity, code, message);
}

void HealthBoard::Resolve(const std::string& code, const std::string& subject) {
  {
    absl::MutexLock lock(&mutex_);
    if (problems_.erase({code, subject}) == 0) return;
  }
  Note(v1::EVENT_SEVERITY_INFO, absl::StrCat(code, "_resolved"), absl::StrCat("over: ", subject));
}

void HealthBoard::Note(v1::EventSeverity severity, const std::string& code,
                       const std::string& message) {
  v1::Event event;
  event.set_time_ms(clock_->WallMillis());
  event.set_severity(severity);
  event.set_code(code);
  event.set_message(message);
  event.set_kind(v1::COMPONENT_KIND_SDS);
  event.set_component_id(state_->node().sds_id);
  if (severity == v1::EVENT_SEVERITY_INFO) {
    LogInfo("health", {{"code", code}, {"message", message}});
  } else {
    LogWarning("health", {{"code", code}, {"message", message}});
  }
  if (const absl::Status logged = state_->AppendHealthEvent(event); !logged.ok()) {
    LogError("health log can't be written", {{"error", logged}});
  }
}

std::vector<v1::HealthProblem> HealthBoard::Problems() const {
  std::vector<v1::HealthProblem> problems;
  absl::MutexLock lock(&mutex_);
  for (const auto& [name, message] : problems_) {
    v1::HealthProblem& problem = problems.emplace_back();
    problem.set_code(name.first);
    problem.set_message(message);
  }
  return problems;
}

v1::ComponentState HealthBoard::state() const {
  absl::MutexLock lock(&mutex_);
  return problems_.empty() ? v1::COMPONENT_STATE_ONLINE : v1::COMPONENT_STATE_DEGRADED;
}

}  // namespace tessera::sds
