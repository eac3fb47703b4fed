// The monitor's tables in mgmt.db: one migration. A change of the schema is a further one, appended
// by whoever composes them.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_HISTORY_SCHEMA_H_
#define TESSERA_SERVICES_MGMT_MONITOR_HISTORY_SCHEMA_H_

namespace tessera::mgmt {

extern const char kHistorySchema[];

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_HISTORY_SCHEMA_H_
