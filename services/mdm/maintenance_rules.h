// Whether a server may be away without data becoming unusable.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_MAINTENANCE_RULES_H_
#define TESSERA_SERVICES_MDM_MAINTENANCE_RULES_H_

#include <cstdint>
#include <vector>

#include "services/mdm/repair_view.h"

namespace tessera::mdm {

// Placement groups that would have fewer than `min_replicas` (at least one) good copies on other
// servers that work and are not in maintenance.
[[nodiscard]] std::vector<uint64_t> GroupsThatNeed(const RepairPool& pool, uint32_t min_replicas,
                                                   uint64_t sds_id);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MAINTENANCE_RULES_H_
