// VolumeService: snapshots, clones and rollback (docs/decisions/0010-snapshots.md).
#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/snapshot_table.h"
#include "services/mdm/space_table.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWaitMax{600'000};
constexpr size_t kNameMax = 63;

std::string Who(const VolumeRow& volume) {
  return absl::StrCat(volume.is_snapshot() ? "snapshot " : "volume ", volume.shown_name(), " (",
                      volume.volume_id, ")");
}

absl::StatusOr<VolumeRow> ResolveSnapshot(SQLite::Database& db, uint64_t id,
                                          const std::string& name) {
  if (id == 0 && name.empty()) {
    return InvalidField("snapshot_id",
                        "is 0 and no name is given: one of them says which snapshot");
  }
  TESSERA_ASSIGN_OR_RETURN(VolumeRow snapshot, ResolveVolume(db, id, name));
  if (!snapshot.is_snapshot()) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(Who(snapshot), " is not a snapshot")),
        "NOT_A_SNAPSHOT");
  }
  TESSERA_RETURN_IF_ERROR(CheckNotTrashed(snapshot));
  return snapshot;
}

absl::Status TooDeep(const VolumeRow& snapshot) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          Who(snapshot), " is ", snapshot.path.size(),
          " clones and rollbacks deep, and there may be no more: copy it into a new volume")),
      "TOO_DEEP");
}

// `<volume>-before-<snapshot>`, cut to what a name may be, with a number where that is taken.
std::string SafetyName(SQLite::Database& db, const VolumeRow& volume, const VolumeRow& snapshot) {
  const std::string base = absl::StrCat(volume.name, "-before-", snapshot.name);
  std::string name = base.substr(0, kNameMax);
  for (uint64_t number = 2; FindVolumeByName(db, name).has_value(); ++number) {
    const std::string suffix = absl::StrCat("-", number);
    name = absl::StrCat(base.substr(0, kNameMax - suffix.size()), suffix);
  }
  return name;
}

}  // namespace

absl::Status VolumeService::Do(const CallContext& call, const v1::CreateSnapshotsRequest& request,
                               v1::CreateSnapshotsResponse* response) {
  TESSERA_RETURN_IF_ERROR(
      CheckCallersLabels("labels", {request.labels().begin(), request.labels().end()}));
  return MakeSnapshots(call, request, response);
}

absl::Status VolumeService::MakeSnapshots(const CallContext& call,
                                          const v1::CreateSnapshotsRequest& request,
                                          v1::CreateSnapshotsResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const uint64_t operation_id, maker_.Make(call, request));
  return store_->Read([&](SQLite::Database& db) {
    TopologyReader reader(db, *health_);
    for (const VolumeRow& row : ListSnapshotsOfOperation(db, operation_id)) {
      *response->add_snapshots() = reader.Volume(row);
    }
    response->set_held_micros(HeldMicros(db, operation_id));
    return absl::OkStatus();
  });
}

absl::Status VolumeService::Clone(WriteTransaction& transaction,
                                  const v1::CloneVolumeRequest& request, VolumeRow* volume) const {
  SQLite::Database& db = transaction.db;
  TESSERA_ASSIGN_OR_RETURN(const VolumeRow snapshot,
                           ResolveSnapshot(db, request.snapshot_id(), request.snapshot_name()));
  if (FindVolumeByName(db, request.name()).has_value()) return NameTaken(request.name());
  const uint32_t branch = TakeBranch(db, snapshot.vtree_id);
  std::optional<LayerPath> path = BranchPath(branch, snapshot.path);
  if (!path.has_value()) return TooDeep(snapshot);
  volume->name = request.name();
  volume->pool_id = snapshot.pool_id;
  volume->vtree_id = snapshot.vtree_id;
  volume->size_bytes = snapshot.size_bytes;
  volume->snapshot_sequence = MakeLayer(branch, 0);
  volume->created_ms = time_->NowMillis();
  volume->expires_ms = request.expires_ms();
  volume->parent_id = snapshot.volume_id;
  volume->path = *std::move(path);
  TESSERA_RETURN_IF_ERROR(CheckOvercommit(db, snapshot.pool_id, snapshot.size_bytes));
  *volume = InsertVolume(db, *std::move(volume));
  SetBudget(db, volume->volume_id, request.byte_budget());
  WriteLabels(db, volume->volume_id, {request.labels().begin(), request.labels().end()});
  RememberRequest(db, "clone", request.request_id(), volume->volume_id, volume->created_ms);
  transaction.changes.topology = true;
  events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_cloned", {},
                  absl::StrCat(Who(*volume), " from ", Who(snapshot)));
  return absl::OkStatus();
}

absl::Status VolumeService::Do(const CallContext&, const v1::CloneVolumeRequest& request,
                               v1::CloneVolumeResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckVolumeName("name", request.name()));
  TESSERA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  TESSERA_RETURN_IF_ERROR(
      CheckCallersLabels("labels", {request.labels().begin(), request.labels().end()}));
  TESSERA_RETURN_IF_ERROR(CheckBudget("byte_budget", request.byte_budget()));
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    VolumeRow volume;
    if (const auto earlier = FindRequest(transaction.db, "clone", request.request_id())) {
      TESSERA_ASSIGN_OR_RETURN(volume, ResolveVolume(transaction.db, *earlier, ""));
    } else {
      TESSERA_RETURN_IF_ERROR(CheckExpiry("expires_ms", request.expires_ms(), time_->NowMillis()));
      TESSERA_RETURN_IF_ERROR(Clone(transaction, request, &volume));
    }
    *response->mutable_volume() = TopologyReader(transaction.db, *health_).Volume(volume);
    return absl::OkStatus();
  });
}

absl::Status VolumeService::PrepareRollback(SQLite::Database& db,
                                            const v1::RollbackVolumeRequest& request,
                                            Rollback* rollback) const {
  VolumeRow& volume = rollback->volume;
  VolumeRow& snapshot = rollback->snapshot;
  TESSERA_ASSIGN_OR_RETURN(volume, ResolveVolume(db, request.volume_id(), request.volume_name()));
  TESSERA_RETURN_IF_ERROR(CheckNotSnapshot(volume));
  TESSERA_RETURN_IF_ERROR(CheckNotTrashed(volume));
  TESSERA_ASSIGN_OR_RETURN(snapshot,
                           ResolveSnapshot(db, request.snapshot_id(), request.snapshot_name()));
  if (snapshot.parent_id != volume.volume_id) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(Who(snapshot), " is none of ", Who(volume))),
        "SNAPSHOT_OF_ANOTHER");
  }
  const auto mappings = ListMappings(db, volume.volume_id);
  if (!mappings.empty()) return MappedElsewhere(db, volume, mappings.front());
  if (snapshot.path.size() >= token::kPathPartsMax) return TooDeep(snapshot);
  const uint64_t now = time_->NowMillis();
  for (const VolumeRow& later :
       ListVolumeRows(db, {.kind = v1::VOLUME_KIND_SNAPSHOT, .parent_id = volume.volume_id},
                      {.after_id = snapshot.volume_id})) {
    if (later.locked_until_ms <= now) continue;
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            Who(later), " is later than ", Who(snapshot), ", and locked for ",
            (later.locked_until_ms - now + 999) / 1'000, " s more: clone the earlier one instead")),
        "SNAPSHOT_LOCKED", {{"locked_until_ms", absl::StrCat(later.locked_until_ms)}});
  }
  if (volume.provisioning == v1::PROVISIONING_THICK && snapshot.size_bytes > volume.size_bytes) {
    const auto pool = FindPool(db, volume.pool_id);
    if (!pool.has_value()) return NoSuch("pool", volume.pool_id);
    TESSERA_RETURN_IF_ERROR(CheckThickFits(db, *pool, snapshot.size_bytes - volume.size_bytes));
  }
  if (snapshot.size_bytes > volume.size_bytes) {
    TESSERA_RETURN_IF_ERROR(
        CheckOvercommit(db, volume.pool_id, snapshot.size_bytes - volume.size_bytes));
  }
  if (request.no_safety_snapshot()) return absl::OkStatus();
  TESSERA_RETURN_IF_ERROR(CheckSnapshotCount(db, volume));
  rollback->safety_name = request.safety_snapshot_name();
  if (rollback->safety_name.empty()) {
    rollback->safety_name = SafetyName(db, volume, snapshot);
  } else if (FindVolumeByName(db, rollback->safety_name).has_value()) {
    return NameTaken(rollback->safety_name);
  }
  return absl::OkStatus();
}

absl::Status VolumeService::CarryRollback(WriteTransaction& transaction, Rollback* rollback,
                                          v1::RollbackVolumeResponse* response) const {
  SQLite::Database& db = transaction.db;
  VolumeRow& volume = rollback->volume;
  const VolumeRow& snapshot = rollback->snapshot;
  TopologyReader reader(db, *health_);
  if (!rollback->safety_name.empty()) {
    VolumeRow safety;
    safety.name = rollback->safety_name;
    safety.created_ms = time_->NowMillis();
    TESSERA_ASSIGN_OR_RETURN(safety, InsertSnapshot(db, std::move(safety), &volume));
    *response->mutable_safety_snapshot() = reader.Volume(safety);
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "snapshot_created", {},
                    absl::StrCat(Who(safety), " of ", Who(volume), ", which is rolled back"));
  }
  const uint32_t branch = TakeBranch(db, volume.vtree_id);
  std::optional<LayerPath> path = BranchPath(branch, snapshot.path);
  if (!path.has_value()) return TooDeep(snapshot);
  volume.path = *std::move(path);
  volume.snapshot_sequence = MakeLayer(branch, 0);
  volume.size_bytes = snapshot.size_bytes;
  UpdateVolumeLayers(db, volume);
  UpdateVolumeRow(db, volume);
  // Nobody sees what came after its last snapshot any more, unless the safety snapshot does.
  if (rollback->safety_name.empty()) {
    MarkLayerDrops(db, volume.vtree_id, ServersOfPool(db, volume.pool_id), time_->NowMillis());
  }
  transaction.changes.topology = true;
  events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "volume_rolled_back", {},
                  absl::StrCat(Who(volume), " to ", Who(snapshot), " of ", snapshot.created_ms));
  *response->mutable_volume() = reader.Volume(volume);
  return absl::OkStatus();
}

absl::Status VolumeService::Do(const CallContext& call, const v1::RollbackVolumeRequest& request,
                               v1::RollbackVolumeResponse* response) {
  if (!request.safety_snapshot_name().empty()) {
    TESSERA_RETURN_IF_ERROR(
        CheckVolumeName("safety_snapshot_name", request.safety_snapshot_name()));
    if (request.no_safety_snapshot()) {
      return InvalidField("safety_snapshot_name", "is given, and no_safety_snapshot as well");
    }
  }
  Rollback rollback;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    rollback = {};
    TESSERA_RETURN_IF_ERROR(PrepareRollback(transaction.db, request, &rollback));
    RaiseGeneration(transaction, &rollback.volume, "the volume is being rolled back");
    return absl::OkStatus();
  }));
  // The safety snapshot has to be one thing, also where a writer died: replicas must be equal.
  const FencePurpose purpose =
      request.no_safety_snapshot() ? FencePurpose::kEndOnly : FencePurpose::kReconcile;
  TESSERA_RETURN_IF_ERROR(fence_->Run(rollback.volume, purpose, call.TimeLeft(kWaitMax)).status());
  const VolumeRow fenced = rollback.volume;
  v1::RollbackVolumeRequest again = request;  // by ids: these are the ones that were fenced
  again.set_volume_id(fenced.volume_id);
  again.set_snapshot_id(rollback.snapshot.volume_id);
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    response->Clear();
    rollback = {};
    TESSERA_RETURN_IF_ERROR(PrepareRollback(transaction.db, again, &rollback));
    if (rollback.volume.generation != fenced.generation) {
      return absl::AbortedError("the volume was used meanwhile: try again");
    }
    return CarryRollback(transaction, &rollback, response);
  }));
  deleted_();
  return absl::OkStatus();
}

}  // namespace tessera::mdm
