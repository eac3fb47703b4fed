#include "services/mdm/budget_keeper.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/mdm/space_table.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {

absl::Status BudgetKeeper::MeasurePool(uint64_t pool_id) {
  SpacePlan plan;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    plan = ReadSpacePlan(db, {.pool_id = pool_id});
    std::set<uint64_t> volumes;
    for (const VolumeBudget& budget : ListBudgets(db)) volumes.insert(budget.volume_id);
    for (SpacePlan::Pool& pool : plan.pools) {
      std::erase_if(pool.vtrees, [&](const SpacePlan::Vtree& vtree) {
        return std::none_of(vtree.rows.begin(), vtree.rows.end(),
                            [&](const VolumeRow& row) { return volumes.contains(row.volume_id); });
      });
    }
    return absl::OkStatus();
  }));
  TESSERA_ASSIGN_OR_RETURN(
      const v1::GetUsageResponse usage,
      measurer_->Measure(plan, kMeasureTimeout, [this] { return stopped_.load(); }));
  bool has_budgets = false;
  for (const v1::PoolUsage& pool : usage.pools()) has_budgets |= pool.vtrees_size() > 0;
  return has_budgets ? Judge(usage) : absl::OkStatus();
}

absl::Status BudgetKeeper::Judge(const v1::GetUsageResponse& usage) {
  std::vector<std::pair<uint64_t, SdcRow>> concerned;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) {
    SQLite::Database& db = transaction.db;
    concerned.clear();
    for (const v1::PoolUsage& pool : usage.pools()) {
      for (const v1::VtreeUsage& vtree : pool.vtrees()) {
        for (const v1::VolumeUsage& volume : vtree.volumes()) {
          if (!NoteMeasured(db, volume.volume_id(), volume.unique_bytes())) continue;
          const auto budget = FindBudget(db, volume.volume_id());
          if (!budget.has_value()) continue;
          events_->Record(
              transaction, budget->over ? v1::EVENT_SEVERITY_WARNING : v1::EVENT_SEVERITY_INFO,
              budget->over ? "volume_over_budget" : "volume_within_budget", {},
              absl::StrCat("volume ", volume.volume_name(), " (", volume.volume_id(),
                           ") alone takes ", volume.unique_bytes(), " bytes of ",
                           budget->byte_budget, budget->over ? ": its writes get ENOSPC" : ""));
          transaction.changes.topology = true;
          for (const MappingRow& mapping : ListMappings(db, volume.volume_id())) {
            if (auto sdc = FindSdc(db, mapping.sdc_id)) {
              concerned.emplace_back(volume.volume_id(), *std::move(sdc));
            }
          }
        }
      }
    }
    return absl::OkStatus();
  }));
  for (const auto& [volume_id, sdc] : concerned) {
    if (!health_->Reachable({v1::COMPONENT_KIND_SDC, sdc.sdc_id})) continue;
    // It renews its grant, which says so; one that can't be reached hears of it when it renews.
    const auto told = control_->AttachVolume(sdc, volume_id, kTellTimeout);
    if (!told.ok()) {
      LogWarning("a client was not told of a volume's budget",
                 {{"volume", volume_id}, {"sdc", sdc.sdc_id}, {"error", told.status()}});
    }
  }
  return absl::OkStatus();
}

void BudgetKeeper::Run() {
  const uint64_t began = clock_->BootMillis();
  if (began < not_before_boot_ms_) return;
  std::vector<v1::StoragePool> pools;
  const absl::Status read = store_->Read([&](SQLite::Database& db) {
    pools = ListPoolRows(db);
    return absl::OkStatus();
  });
  if (!read.ok()) LogError("reading pools to measure failed", {{"error", read}});
  for (const v1::StoragePool& pool : pools) {
    if (stopped_) break;
    const absl::Status measured = MeasurePool(pool.pool_id());
    if (measured.ok()) {
      not_measured_.erase(pool.pool_id());
    } else if (not_measured_.insert(pool.pool_id()).second) {
      LogWarning("what volumes with a budget take was not measured",
                 {{"pool", pool.name()}, {"error", measured}});
    }
  }
  const uint64_t ended = clock_->BootMillis();
  not_before_boot_ms_ = ended + (kShare - 1) * (ended - began);
}

}  // namespace tessera::mdm
