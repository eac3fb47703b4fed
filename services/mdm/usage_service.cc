#include "services/mdm/usage_service.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kMeasureMax{3'600'000};
// Kept back of the caller's time, so that it hears which server was silent.
constexpr milliseconds kReserve{300};

absl::StatusOr<SpaceScope> ScopeOf(SQLite::Database& db, const v1::GetUsageRequest& request) {
  SpaceScope scope;
  if (request.pool_id() != 0 || !request.pool_name().empty()) {
    const auto pool = request.pool_id() != 0 ? FindPool(db, request.pool_id())
                                             : FindPoolByName(db, request.pool_name());
    if (!pool.has_value()) return NoSuch("pool", request.pool_id(), request.pool_name());
    scope.pool_id = pool->pool_id();
  }
  if (request.volume_id() != 0 || !request.volume_name().empty()) {
    TESSERA_ASSIGN_OR_RETURN(const VolumeRow volume,
                             ResolveVolume(db, request.volume_id(), request.volume_name()));
    if (scope.pool_id != 0 && scope.pool_id != volume.pool_id) {
      return InvalidField("volume_name", "is of another pool than the one that is named");
    }
    scope.pool_id = volume.pool_id;
    scope.vtree_id = volume.vtree_id;
  }
  return scope;
}

}  // namespace

absl::Status UsageService::Do(const CallContext& call, const v1::GetUsageRequest& request,
                              v1::GetUsageResponse* response) {
  SpacePlan plan;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const SpaceScope scope, ScopeOf(db, request));
    plan = ReadSpacePlan(db, scope);
    return absl::OkStatus();
  }));
  const milliseconds left = std::max(milliseconds(1), call.TimeLeft(kMeasureMax) - kReserve);
  TESSERA_ASSIGN_OR_RETURN(*response,
                           measurer_->Measure(plan, left, [&call] { return call.cancelled(); }));
  return absl::OkStatus();
}

}  // namespace tessera::mdm
