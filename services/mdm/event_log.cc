#include "services/mdm/event_log.h"

#include "services/common/logging.h"

namespace tessera::mdm {

void EventLog::Record(WriteTransaction& transaction, v1::EventSeverity severity,
                      const std::string& code, const ComponentId& about,
                      const std::string& message) const {
  v1::Event event;
  event.set_time_ms(time_->NowMillis());
  event.set_severity(severity);
  event.set_code(code);
  event.set_message(message);
  event.set_kind(about.kind);
  event.set_component_id(about.id);
  AddEvent(transaction, event);
  if (severity == v1::EVENT_SEVERITY_ERROR) {
    LogError(code, {{"component", about.id}, {"what", message}});
  } else if (severity == v1::EVENT_SEVERITY_WARNING) {
    LogWarning(code, {{"component", about.id}, {"what", message}});
  } else {
    LogInfo(code, {{"component", about.id}, {"what", message}});
  }
}

}  // namespace tessera::mdm
