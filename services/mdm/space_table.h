// Budgets of volumes and how full pools were when last judged, in mdm.db.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_SPACE_TABLE_H_
#define TESSERA_SERVICES_MDM_SPACE_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "tessera/v1/topology.pb.h"

namespace tessera::mdm {

struct VolumeBudget {
  uint64_t volume_id = 0;
  uint64_t byte_budget = 0;
  uint64_t unique_bytes = 0;  // as last measured
  bool over = false;
};

// nullopt: it has none.
[[nodiscard]] std::optional<VolumeBudget> FindBudget(SQLite::Database& db, uint64_t volume_id);
// Of volumes in the trash, too.
[[nodiscard]] std::vector<VolumeBudget> ListBudgets(SQLite::Database& db);
[[nodiscard]] bool IsOverBudget(SQLite::Database& db, uint64_t volume_id);
// 0: none any more. Judges by what was measured last.
void SetBudget(SQLite::Database& db, uint64_t volume_id, uint64_t byte_budget);
// Judges by what was measured now. False: that changes nothing, or it has no budget.
bool NoteMeasured(SQLite::Database& db, uint64_t volume_id, uint64_t unique_bytes);

// UNSPECIFIED: never judged yet.
[[nodiscard]] v1::CapacityState ReadCapacityState(SQLite::Database& db, uint64_t pool_id);
void WriteCapacityState(SQLite::Database& db, uint64_t pool_id, v1::CapacityState state);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SPACE_TABLE_H_
