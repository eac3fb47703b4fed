// Rows of mdm.db, heartbeats and learners as what the repair planner looks at.
//
// All functions run inside one transaction of MdmStore. Threads: any.
#ifndef TESSERA_SERVICES_MDM_REPAIR_READER_H_
#define TESSERA_SERVICES_MDM_REPAIR_READER_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "services/mdm/health_monitor.h"
#include "services/mdm/learner_board.h"
#include "services/mdm/node_table.h"
#include "services/mdm/repair_table.h"
#include "services/mdm/repair_view.h"

namespace tessera::mdm {

// A pool with what its operations are called by.
struct RepairPoolView {
  RepairPool pool;
  std::string name;
  uint32_t min_replicas = 1;
};

struct RepairSnapshot {
  RepairRules rules;
  v1::RepairSettings settings;
  std::vector<RepairPoolView> pools;
  UnavailableSince stored_unavailable;    // as mdm.db has it
  UnavailableSince unavailable;           // as it is
  std::map<uint64_t, DeviceRow> devices;  // of all servers, by id
  std::map<uint64_t, SdsRow> servers;
};

[[nodiscard]] RepairRules RulesFrom(const v1::RepairSettings& settings);
[[nodiscard]] RepairSnapshot ReadRepairSnapshot(SQLite::Database& db, const HealthMonitor& health,
                                                const LearnerBoard& board, uint64_t now_ms);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_REPAIR_READER_H_
