// The schema of mdm.db as numbered steps: step i takes version i to i + 1. A step that was released
// is never changed; a change of the schema is a new step.
//
// Ids come from AUTOINCREMENT: SQLite hands a number out once, also after its row was deleted.
#ifndef TESSERA_SERVICES_MDM_MDM_SCHEMA_H_
#define TESSERA_SERVICES_MDM_MDM_SCHEMA_H_

#include <string>
#include <vector>

namespace tessera::mdm {

[[nodiscard]] const std::vector<std::string>& MdmMigrations();
// One of them: the account of what servers keep of the cluster.
[[nodiscard]] const char* ClusterRecordSchema();
// Another: snapshots, and the layers of vtrees.
[[nodiscard]] const char* SnapshotSchema();
// More of them: snapshot schedules, and volumes that delete themselves.
[[nodiscard]] const char* ScheduleSchema();
[[nodiscard]] const char* ExpirySchema();
// Another: what is set about space.
[[nodiscard]] const char* SpaceSchema();

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MDM_SCHEMA_H_
