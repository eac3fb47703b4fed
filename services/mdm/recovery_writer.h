// Writes a database of the MDM from what its servers had (docs/REPLICATION.md, "Losing the MDM's
// database"): a new file, checked, then put in its place in one step.
//
// Threads: one.
#ifndef TESSERA_SERVICES_MDM_RECOVERY_WRITER_H_
#define TESSERA_SERVICES_MDM_RECOVERY_WRITER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/mdm/recovery_rules.h"

namespace tessera::mdm {

// New ids of resources begin this far above the highest that is known: further than what was made
// and never told to any server that answered.
inline constexpr uint64_t kRecoveredIdStep = 1'000;

struct RecoveryWriting {
  uint64_t wall_ms = 0;        // now
  uint32_t active_key_id = 0;  // of the cluster secrets
  std::string summary;         // of the event
};

// Makes the database at `path`, which must not exist, closed when it returns; on an error the file
// is of no use.
[[nodiscard]] absl::Status WriteRecoveredDatabase(const std::string& path,
                                                  const RecoveredCluster& cluster,
                                                  const RecoveryWriting& writing);
// What is in the way of a new mdm.db in the folder: "mdm.db", or the leftovers of one; empty:
// nothing.
[[nodiscard]] std::string OldDatabaseIn(const std::string& folder);
// Renames mdm.db and its -wal and -shm to "mdm.db.old-<n>.."; returns the new name of mdm.db.
[[nodiscard]] absl::StatusOr<std::string> KeepOldDatabase(const std::string& folder);
// Renames `path` to mdm.db of the folder, durable when it returns.
[[nodiscard]] absl::Status InstallDatabase(const std::string& path, const std::string& folder);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_RECOVERY_WRITER_H_
