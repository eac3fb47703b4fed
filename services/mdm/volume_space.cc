// VolumeService: how much a pool may promise, and budgets (docs/volumes/space.md).
#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/mdm/capacity_rules.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

constexpr uint64_t kBudgetMin = 1 << 20;

}  // namespace

absl::Status CheckBudget(const std::string& field, uint64_t byte_budget) {
  if (byte_budget == 0 || byte_budget >= kBudgetMin) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat(byte_budget, " is less than ", kBudgetMin, " bytes; 0 means no budget"));
}

absl::Status VolumeService::CheckOvercommit(SQLite::Database& db, uint64_t pool_id,
                                            uint64_t more_bytes) const {
  const auto pool = FindPool(db, pool_id);
  if (!pool.has_value()) return NoSuch("pool", pool_id);
  const uint32_t limit = pool->capacity_policy().overcommit_limit_percent();
  if (limit == 0 || more_bytes == 0) return absl::OkStatus();
  const TopologyReader::Promise promise = TopologyReader(db, *health_).PromiseOf(*pool);
  const uint32_t percent = PercentOf(promise.provisioned_bytes + more_bytes, promise.usable_bytes);
  if (percent <= limit) return absl::OkStatus();
  return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                        "with ", more_bytes, " bytes more, pool ", pool->name(), " would promise ",
                        promise.provisioned_bytes + more_bytes, " bytes, ", percent, " % of the ",
                        promise.usable_bytes, " that it can hold; its limit is ", limit, " %")),
                    "OVERCOMMIT_LIMIT",
                    {{"overcommit_percent", absl::StrCat(percent)},
                     {"overcommit_limit_percent", absl::StrCat(limit)}});
}

}  // namespace tessera::mdm
