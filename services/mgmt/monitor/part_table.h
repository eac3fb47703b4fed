// The parts that are known, in mgmt.db: with them a process that has just started asks them also
// when the MDM is away.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_PART_TABLE_H_
#define TESSERA_SERVICES_MGMT_MONITOR_PART_TABLE_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/monitor/poller.h"

namespace tessera::mgmt {

[[nodiscard]] absl::StatusOr<std::vector<KnownPart>> LoadParts(MgmtDb* db);
// In place of those that are there.
[[nodiscard]] absl::Status SaveParts(MgmtDb* db, const std::vector<KnownPart>& parts);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_PART_TABLE_H_
