// Events: one line in the log and one row in mdm.db for each thing that happened.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_EVENT_LOG_H_
#define TESSERA_SERVICES_MDM_EVENT_LOG_H_

#include <string>

#include "services/mdm/event_table.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_time.h"

namespace tessera::mdm {

class EventLog {
 public:
  explicit EventLog(const MdmTime* time) : time_(time) {}

  // `code` is a constant word ("replica_removed"), `message` is for people.
  void Record(WriteTransaction& transaction, v1::EventSeverity severity, const std::string& code,
              const ComponentId& about, const std::string& message) const;

 private:
  const MdmTime* const time_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_EVENT_LOG_H_
