#include "services/mdm/space_table.h"

#include "services/common/sql.h"

namespace tessera::mdm {
namespace {

#define TESSERA_BUDGET_COLUMNS \
  "SELECT volume_id, byte_budget, unique_bytes, over_budget FROM volume_budget "

VolumeBudget ReadBudget(Sql& query) {
  return {query.Unsigned(0), query.Unsigned(1), query.Unsigned(2), query.Bool(3)};
}

}  // namespace

std::optional<VolumeBudget> FindBudget(SQLite::Database& db, uint64_t volume_id) {
  return OneRow(Sql(db, TESSERA_BUDGET_COLUMNS "WHERE volume_id = ?", volume_id), ReadBudget);
}

std::vector<VolumeBudget> ListBudgets(SQLite::Database& db) {
  return AllRows(Sql(db, TESSERA_BUDGET_COLUMNS "ORDER BY volume_id"), ReadBudget);
}

bool IsOverBudget(SQLite::Database& db, uint64_t volume_id) {
  const auto budget = FindBudget(db, volume_id);
  return budget.has_value() && budget->over;
}

void SetBudget(SQLite::Database& db, uint64_t volume_id, uint64_t byte_budget) {
  if (byte_budget == 0) {
    Sql(db, "DELETE FROM volume_budget WHERE volume_id = ?", volume_id).Run();
    return;
  }
  // Not by ON CONFLICT: that would be the conflict policy of the triggers, too, which replace.
  const auto changed =
      Sql(db,
          "UPDATE volume_budget SET byte_budget = ?1, over_budget = unique_bytes > ?1"
          " WHERE volume_id = ?2",
          byte_budget, volume_id)
          .Run();
  if (changed > 0) return;
  Sql(db, "INSERT INTO volume_budget (volume_id, byte_budget) VALUES (?, ?)", volume_id,
      byte_budget)
      .Run();
}

bool NoteMeasured(SQLite::Database& db, uint64_t volume_id, uint64_t unique_bytes) {
  const bool was_over = IsOverBudget(db, volume_id);
  Sql(db,
      "UPDATE volume_budget SET unique_bytes = ?1, over_budget = ?1 > byte_budget"
      " WHERE volume_id = ?2 AND (unique_bytes <> ?1 OR over_budget <> (?1 > byte_budget))",
      unique_bytes, volume_id)
      .Run();
  return IsOverBudget(db, volume_id) != was_over;
}

v1::CapacityState ReadCapacityState(SQLite::Database& db, uint64_t pool_id) {
  Sql query(db, "SELECT state FROM pool_capacity WHERE pool_id = ?", pool_id);
  return query.Next() ? static_cast<v1::CapacityState>(query.Unsigned(0))
                      : v1::CAPACITY_STATE_UNSPECIFIED;
}

void WriteCapacityState(SQLite::Database& db, uint64_t pool_id, v1::CapacityState state) {
  Sql(db, "INSERT OR REPLACE INTO pool_capacity VALUES (?, ?)", pool_id, state).Run();
}

}  // namespace tessera::mdm
