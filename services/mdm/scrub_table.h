// What scrub keeps in mdm.db: the pools' schedules, and of each operation its devices and how each
// ended.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_SCRUB_TABLE_H_
#define TESSERA_SERVICES_MDM_SCRUB_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "tessera/v1/operation.pb.h"
#include "tessera/v1/scrub.pb.h"

namespace tessera::mdm {

[[nodiscard]] std::vector<v1::ScrubSettings> ListScrubSettings(SQLite::Database& db);
[[nodiscard]] std::optional<v1::ScrubSettings> FindScrubSettings(SQLite::Database& db,
                                                                 uint64_t pool_id);
void PutScrubSettings(SQLite::Database& db, const v1::ScrubSettings& settings);

// One device of a scrub operation.
struct ScrubTarget {
  uint64_t operation_id = 0;
  uint64_t device_id = 0;
  uint64_t vtree_id = 0;          // 0: everything
  uint64_t bytes_per_second = 0;  // 0: what the pool says
  bool done = false;
  v1::ScrubStatus result;  // done: its figures
};
void InsertScrubTarget(SQLite::Database& db, const ScrubTarget& target);
// In order of operation, then device.
[[nodiscard]] std::vector<ScrubTarget> ListScrubTargets(SQLite::Database& db,
                                                        uint64_t operation_id);
void FinishScrubTarget(SQLite::Database& db, const ScrubTarget& target);
// What is to be kept of a scrub that ends.
void SaveScrubFigures(SQLite::Database& db, const v1::Operation& operation);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SCRUB_TABLE_H_
