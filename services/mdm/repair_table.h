// What repair keeps in mdm.db: settings, moves, since when members are unavailable, and operations.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_REPAIR_TABLE_H_
#define TESSERA_SERVICES_MDM_REPAIR_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "services/mdm/membership_rules.h"
#include "services/mdm/node_table.h"
#include "tessera/v1/operation.pb.h"
#include "tessera/v1/repair.pb.h"

namespace tessera::mdm {

[[nodiscard]] v1::RepairSettings ReadRepairSettings(SQLite::Database& db);
void WriteRepairSettings(SQLite::Database& db, const v1::RepairSettings& settings);

[[nodiscard]] std::optional<RepairMove> FindMove(SQLite::Database& db, uint64_t placement_group_id);
[[nodiscard]] std::map<uint64_t, RepairMove> ListMoves(SQLite::Database& db);
void PutMove(SQLite::Database& db, uint64_t placement_group_id, const RepairMove& move);
void DeleteMove(SQLite::Database& db, uint64_t placement_group_id);

// By placement group, then device: since when.
using UnavailableSince = std::map<uint64_t, std::map<uint64_t, uint64_t>>;
[[nodiscard]] UnavailableSince ListUnavailable(SQLite::Database& db);
// Makes the table say exactly this of the groups named in either.
void ReplaceUnavailable(SQLite::Database& db, const UnavailableSince& before,
                        const UnavailableSince& after);

// An operation as far as it is stored: what is computed from learners is left empty.
inline constexpr uint64_t kEndedOperationsMax = 1'000;
[[nodiscard]] std::optional<v1::Operation> FindOperation(SQLite::Database& db,
                                                         uint64_t operation_id);
// The one that runs for exactly this.
struct OperationKey {
  v1::OperationKind kind = v1::OPERATION_KIND_UNSPECIFIED;
  uint64_t pool_id = 0;
  uint64_t sds_id = 0;
  uint64_t device_id = 0;
  friend auto operator<=>(const OperationKey&, const OperationKey&) = default;
};
[[nodiscard]] std::optional<v1::Operation> FindRunning(SQLite::Database& db,
                                                       const OperationKey& key);
[[nodiscard]] std::vector<v1::Operation> ListRunning(SQLite::Database& db);
[[nodiscard]] std::vector<v1::Operation> ListOperationRows(SQLite::Database& db, const Page& page);
// Returns the new id; operation.operation_id is not read.
uint64_t InsertOperation(SQLite::Database& db, const v1::Operation& operation);
// Ends it and forgets the oldest ended ones beyond kEndedOperationsMax.
void EndOperation(SQLite::Database& db, uint64_t operation_id, v1::OperationState state,
                  uint64_t now_ms);
// One placement group of it is done.
void CountGroupDone(SQLite::Database& db, uint64_t operation_id, uint64_t bytes);
// One attempt failed.
void CountRetry(SQLite::Database& db, uint64_t operation_id, const std::string& why);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_REPAIR_TABLE_H_
