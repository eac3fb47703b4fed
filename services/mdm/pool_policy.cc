// TopologyService: what is set of a pool about space.
#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/capacity_rules.h"
#include "services/mdm/pool_capacity.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/topology_service.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {
namespace {

constexpr const char* kWarn = "capacity_policy.warn_percent";
constexpr const char* kCritical = "capacity_policy.critical_percent";
constexpr const char* kOvercommit = "capacity_policy.overcommit_limit_percent";

absl::Status CheckMask(const google::protobuf::FieldMask& mask) {
  if (mask.paths().empty()) {
    return InvalidField("update_mask", "names no field: nothing would change");
  }
  static constexpr const char* kFields[] = {kWarn, kCritical, kOvercommit};
  for (const std::string& path : mask.paths()) {
    if (std::find(std::begin(kFields), std::end(kFields), path) != std::end(kFields)) continue;
    return InvalidField(
        "update_mask",
        absl::StrCat("'", path, "' can't be changed: ", absl::StrJoin(kFields, ", "), " can"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TopologyService::Do(const v1::UpdateStoragePoolRequest& request,
                                 v1::UpdateStoragePoolResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckMask(request.update_mask()));
  const auto named = [&](const char* field) {
    const auto& paths = request.update_mask().paths();
    return std::find(paths.begin(), paths.end(), field) != paths.end();
  };
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    std::optional<v1::StoragePool> pool = request.pool_id() != 0
                                              ? FindPool(db, request.pool_id())
                                              : FindPoolByName(db, request.name());
    if (!pool.has_value()) return NoSuch("pool", request.pool_id(), request.name());
    const v1::CapacityPolicy& wanted = request.capacity_policy();
    v1::CapacityPolicy* policy = pool->mutable_capacity_policy();
    if (named(kWarn)) policy->set_warn_percent(wanted.warn_percent());
    if (named(kCritical)) policy->set_critical_percent(wanted.critical_percent());
    if (named(kOvercommit)) {
      policy->set_overcommit_limit_percent(wanted.overcommit_limit_percent());
    }
    *policy = WithDefaults(*policy);
    TESSERA_RETURN_IF_ERROR(CheckPolicy("capacity_policy.", *policy));
    UpdatePoolPolicy(db, pool->pool_id(), *policy);
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "pool_policy_changed", {},
                    absl::StrCat("pool ", pool->name(), ": warning from ", policy->warn_percent(),
                                 " % on, critical from ", policy->critical_percent(), " % on, ",
                                 policy->overcommit_limit_percent() == 0
                                     ? std::string("no limit of over-commit")
                                     : absl::StrCat("over-commit up to ",
                                                    policy->overcommit_limit_percent(), " %")));
    JudgePool(transaction, *events_, *health_, *pool, /*anew=*/true);
    *response->mutable_pool() = TopologyReader(db, *health_).Pool(*pool);
    return absl::OkStatus();
  });
}

}  // namespace tessera::mdm
