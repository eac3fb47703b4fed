#include "services/mdm/repair_service.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/field_mask_util.h"
#include "services/common/errors.h"
#include "services/common/placement_hash.h"
#include "services/common/status_macros.h"
#include "services/mdm/maintenance_rules.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/rebalance_planner.h"
#include "services/mdm/repair_planner.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/target_chooser.h"
#include "services/mdm/topology_reader.h"

namespace tessera::mdm {
namespace {

constexpr uint64_t kMaintenanceMillisMin = 1'000;
constexpr uint64_t kMaintenanceMillisMax = 7 * 86'400'000ull;
constexpr size_t kReasonBytesMax = 200;

absl::Status OutOfRange(const std::string& field, uint64_t value, uint64_t least, uint64_t most) {
  return InvalidField(field, absl::StrCat(value, " is not from ", least, " to ", most));
}

const char* DrainReason(Obstacle obstacle) {
  switch (obstacle) {
    case Obstacle::kNoRoom:
      return "NO_ROOM";
    case Obstacle::kNoSource:
      return "NO_SOURCE";
    default:
      return "NOT_ENOUGH_SERVERS";
  }
}

}  // namespace

absl::StatusOr<v1::RepairSettings> MergeSettings(const v1::RepairSettings& now,
                                                 const v1::UpdateRepairSettingsRequest& request) {
  using google::protobuf::util::FieldMaskUtil;
  if (request.update_mask().paths().empty()) {
    return InvalidField("update_mask", "names no setting: nothing would change");
  }
  for (const std::string& path : request.update_mask().paths()) {
    if (!FieldMaskUtil::IsValidPath<v1::RepairSettings>(path)) {
      return InvalidField("update_mask", absl::StrCat("'", path, "' is no setting of repair"));
    }
  }
  v1::RepairSettings settings = now;
  FieldMaskUtil::MergeOptions replace;
  replace.set_replace_message_fields(true);
  FieldMaskUtil::MergeMessageTo(request.settings(), request.update_mask(), replace, &settings);
  const auto in = [](uint64_t value, uint64_t least, uint64_t most) {
    return value >= least && value <= most;
  };
  if (settings.rebuild_delay_ms() > 86'400'000) {
    return OutOfRange("settings.rebuild_delay_ms", settings.rebuild_delay_ms(), 0, 86'400'000);
  }
  if (!in(settings.learners_per_target_device(), 1, 64)) {
    return OutOfRange("settings.learners_per_target_device", settings.learners_per_target_device(),
                      1, 64);
  }
  if (!in(settings.learners_per_source_device(), 1, 64)) {
    return OutOfRange("settings.learners_per_source_device", settings.learners_per_source_device(),
                      1, 64);
  }
  if (!in(settings.rebalance_moves_per_device(), 1, 64)) {
    return OutOfRange("settings.rebalance_moves_per_device", settings.rebalance_moves_per_device(),
                      1, 64);
  }
  if (settings.bytes_per_second_per_server() > INT64_MAX) {
    return OutOfRange("settings.bytes_per_second_per_server",
                      settings.bytes_per_second_per_server(), 0, INT64_MAX);
  }
  if (!in(settings.full_percent(), 50, 95)) {
    return OutOfRange("settings.full_percent", settings.full_percent(), 50, 95);
  }
  return settings;
}

absl::Status RepairService::Do(const CallContext&, const v1::GetRepairSettingsRequest&,
                               v1::GetRepairSettingsResponse* response) {
  return store_->Read([&](SQLite::Database& db) {
    *response->mutable_settings() = ReadRepairSettings(db);
    return absl::OkStatus();
  });
}

absl::Status RepairService::Do(const CallContext& call,
                               const v1::UpdateRepairSettingsRequest& request,
                               v1::UpdateRepairSettingsResponse* response) {
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(*response->mutable_settings(),
                             MergeSettings(ReadRepairSettings(transaction.db), request));
    WriteRepairSettings(transaction.db, response->settings());
    events_->Record(
        transaction, v1::EVENT_SEVERITY_INFO, "repair_settings_changed", {},
        absl::StrCat(call.caller().name, " changed ",
                     google::protobuf::util::FieldMaskUtil::ToString(request.update_mask())));
    return absl::OkStatus();
  }));
  wake_();
  return absl::OkStatus();
}

absl::Status RepairService::Do(const CallContext&, const v1::GetRebalanceStatusRequest&,
                               v1::GetRebalanceStatusResponse* response) {
  RepairSnapshot snapshot;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    snapshot = ReadRepairSnapshot(db, *health_, *board_, time_->NowMillis());
    return absl::OkStatus();
  }));
  response->set_paused(snapshot.settings.rebalance_paused());
  for (const RepairPoolView& view : snapshot.pools) {
    v1::PoolBalance* pool = response->add_pools();
    pool->set_pool_id(view.pool.pool_id);
    pool->set_name(view.name);
    pool->set_moves_needed(CountMovesNeeded(snapshot.rules, view.pool));
    const TargetChooser chooser(snapshot.rules, view.pool);
    const std::map<uint64_t, double> shares = Shares(view.pool);
    for (const RepairDevice& device : view.pool.devices) {
      v1::DeviceBalance* balance = pool->add_devices();
      balance->set_device_id(device.device_id);
      balance->set_sds_id(device.sds_id);
      balance->set_placement_groups(chooser.Load(device.device_id));
      balance->set_share(shares.at(device.device_id));
      balance->set_used_bytes(device.used_bytes);
      balance->set_capacity_bytes(device.capacity_bytes);
    }
    for (const RepairGroup& group : view.pool.groups) {
      if (!group.move || group.move->kind != MoveKind::kRebalance) continue;
      pool->set_moves_running(pool->moves_running() + 1);
    }
  }
  return absl::OkStatus();
}

absl::Status RepairService::CheckMaintenance(const RepairSnapshot& snapshot,
                                             uint64_t sds_id) const {
  for (const RepairPoolView& view : snapshot.pools) {
    const std::vector<uint64_t> groups = GroupsThatNeed(view.pool, view.min_replicas, sds_id);
    if (groups.empty()) continue;
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "without server ", sds_id, " ", groups.size(), " placement groups of pool ", view.name,
            " (the first is ", groups.front(), ") have fewer than the ", view.min_replicas,
            " good copies on other servers that IO needs: wait until they are made, or force it")),
        "MAINTENANCE_UNSAFE", {{"placement_groups", absl::StrCat(groups.size())}});
  }
  return absl::OkStatus();
}

absl::Status RepairService::Do(const CallContext& call, const v1::EnterMaintenanceRequest& request,
                               v1::EnterMaintenanceResponse* response) {
  if (request.duration_ms() < kMaintenanceMillisMin ||
      request.duration_ms() > kMaintenanceMillisMax) {
    return OutOfRange("duration_ms", request.duration_ms(), kMaintenanceMillisMin,
                      kMaintenanceMillisMax);
  }
  if (request.reason().size() > kReasonBytesMax) {
    return InvalidField("reason", absl::StrCat("has more than ", kReasonBytesMax, " characters"));
  }
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const uint64_t now_ms = time_->NowMillis();
    std::optional<SdsRow> sds = FindSds(db, request.sds_id());
    if (!sds.has_value()) return NoSuch("server", request.sds_id());
    if (!request.force()) {
      TESSERA_RETURN_IF_ERROR(
          CheckMaintenance(ReadRepairSnapshot(db, *health_, *board_, now_ms), sds->sds_id));
    }
    sds->maintenance_until_ms = now_ms + request.duration_ms();
    sds->maintenance_reason = request.reason();
    UpdateSds(db, *sds);
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "maintenance_entered",
                    {v1::COMPONENT_KIND_SDS, sds->sds_id},
                    absl::StrCat("server ", sds->name, " for ", request.duration_ms() / 1'000,
                                 " s by ", call.caller().name, ": ", request.reason()));
    *response->mutable_sds() = TopologyReader(db, *health_).Sds(*sds);
    return absl::OkStatus();
  });
}

absl::Status RepairService::Do(const CallContext& call, const v1::ExitMaintenanceRequest& request,
                               v1::ExitMaintenanceResponse* response) {
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    std::optional<SdsRow> sds = FindSds(db, request.sds_id());
    if (!sds.has_value()) return NoSuch("server", request.sds_id());
    if (sds->maintenance_until_ms != 0) {
      sds->maintenance_until_ms = 0;
      sds->maintenance_reason.clear();
      UpdateSds(db, *sds);
      transaction.changes.topology = true;
      events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "maintenance_exited",
                      {v1::COMPONENT_KIND_SDS, sds->sds_id},
                      absl::StrCat("server ", sds->name, " by ", call.caller().name));
    }
    *response->mutable_sds() = TopologyReader(db, *health_).Sds(*sds);
    return absl::OkStatus();
  }));
  wake_();
  return absl::OkStatus();
}

absl::StatusOr<RepairService::DrainSubject> RepairService::Subject(SQLite::Database& db,
                                                                   uint64_t sds_id,
                                                                   uint64_t device_id) const {
  DrainSubject subject{.sds_id = sds_id, .device_id = device_id};
  if (device_id != 0) {
    const std::optional<DeviceRow> device = FindDevice(db, device_id);
    if (!device.has_value()) return NoSuch("device", device_id);
    subject.sds_id = device->sds_id;
  }
  const std::optional<SdsRow> sds = FindSds(db, subject.sds_id);
  if (!sds.has_value()) return NoSuch("server", subject.sds_id);
  subject.name = device_id == 0 ? sds->name : absl::StrCat("device ", device_id, " of ", sds->name);
  for (const DeviceRow& device : ListDeviceRowsOfSds(db, subject.sds_id)) {
    if (device_id != 0 && device.device_id != device_id) continue;
    if (device.pool_id != 0) subject.device_ids.push_back(device.device_id);
  }
  return subject;
}

absl::StatusOr<v1::Operation> RepairService::Drain(WriteTransaction& transaction,
                                                   const DrainSubject& subject,
                                                   uint64_t successor_device_id) const {
  SQLite::Database& db = transaction.db;
  const uint64_t now_ms = time_->NowMillis();
  const RepairSnapshot snapshot = ReadRepairSnapshot(db, *health_, *board_, now_ms);
  for (const RepairPoolView& view : snapshot.pools) {
    const std::vector<DrainObstacle> obstacles =
        CheckDrain(snapshot.rules, view.pool, subject.device_ids);
    if (obstacles.empty()) continue;
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            subject.name, " can't be drained: ", obstacles.size(), " placement groups of pool ",
            view.name, " (the first is ", obstacles.front().placement_group_id,
            ") have no place to go to: ", ObstacleText(obstacles.front().obstacle))),
        DrainReason(obstacles.front().obstacle),
        {{"placement_groups", absl::StrCat(obstacles.size())}});
  }
  for (uint64_t device_id : subject.device_ids) {
    DeviceRow device = *FindDevice(db, device_id);
    device.use = v1::DEVICE_USE_DRAINING;
    if (successor_device_id != 0) device.successor_device_id = successor_device_id;
    UpdateDevice(db, device);
  }
  transaction.changes.topology = true;
  const OperationKey key{v1::OPERATION_KIND_DRAIN, 0, subject.sds_id, subject.device_id};
  if (auto running = FindRunning(db, key)) return *std::move(running);
  v1::Operation operation;
  operation.set_kind(v1::OPERATION_KIND_DRAIN);
  operation.set_state(v1::OPERATION_STATE_RUNNING);
  operation.set_subject(subject.name);
  operation.set_sds_id(subject.sds_id);
  operation.set_device_id(subject.device_id);
  operation.set_started_ms(now_ms);
  operation.set_operation_id(InsertOperation(db, operation));
  events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "drain_started",
                  {v1::COMPONENT_KIND_SDS, subject.sds_id},
                  absl::StrCat("drain ", operation.operation_id(), " of ", subject.name));
  return operation;
}

absl::Status RepairService::Do(const CallContext&, const v1::StartDrainRequest& request,
                               v1::StartDrainResponse* response) {
  if ((request.sds_id() == 0) == (request.device_id() == 0)) {
    return InvalidField("sds_id", "name exactly one of sds_id and device_id");
  }
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const DrainSubject subject,
                             Subject(transaction.db, request.sds_id(), request.device_id()));
    TESSERA_ASSIGN_OR_RETURN(*response->mutable_operation(), Drain(transaction, subject, 0));
    return absl::OkStatus();
  }));
  wake_();
  return absl::OkStatus();
}

absl::Status RepairService::Do(const CallContext&, const v1::RemoveDeviceRequest& request,
                               v1::RemoveDeviceResponse* response) {
  TESSERA_RETURN_IF_ERROR(assigner_->Unassign(request.device_id(), v1::DEVICE_USE_REMOVED));
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    const auto row = FindDevice(db, request.device_id());
    if (!row.has_value()) return NoSuch("device", request.device_id());
    *response->mutable_device() = TopologyReader(db, *health_).Device(*row);
    return absl::OkStatus();
  });
}

absl::Status RepairService::Do(const CallContext& call, const v1::RemoveSdsRequest& request,
                               v1::RemoveSdsResponse*) {
  std::vector<uint64_t> devices;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    const std::optional<SdsRow> sds = FindSds(db, request.sds_id());
    if (!sds.has_value()) return NoSuch("server", request.sds_id());
    const auto held = CountReplicasByDevice(db);
    for (const DeviceRow& device : ListDeviceRowsOfSds(db, sds->sds_id)) {
      devices.push_back(device.device_id);
      const auto found = held.find(device.device_id);
      if (found == held.end()) continue;
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat(
              "device ", device.device_id, " of server ", sds->name, " is a member of ",
              found->second.total(), " placement groups: drain the server first")),
          "SDS_IN_USE");
    }
    return absl::OkStatus();
  }));
  for (uint64_t device_id : devices) {
    TESSERA_RETURN_IF_ERROR(assigner_->Unassign(device_id, v1::DEVICE_USE_REMOVED));
  }
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const std::optional<SdsRow> sds = FindSds(db, request.sds_id());
    if (!sds.has_value()) return absl::OkStatus();
    // Somebody may have assigned one again meanwhile.
    for (const DeviceRow& device : ListDeviceRowsOfSds(db, sds->sds_id)) {
      if (device.pool_id == 0) continue;
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "device ", device.device_id, " is in pool ", device.pool_id, " again")),
                        "SDS_IN_USE");
    }
    DeleteSdsRow(db, sds->sds_id);
    transaction.changes.topology = transaction.changes.sds_addresses = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "sds_removed",
                    {v1::COMPONENT_KIND_SDS, sds->sds_id},
                    absl::StrCat("server ", sds->name, " by ", call.caller().name));
    return absl::OkStatus();
  }));
  nodes_->Remove("sds", request.sds_id());
  health_->Forget({v1::COMPONENT_KIND_SDS, request.sds_id()});
  return absl::OkStatus();
}

absl::Status RepairService::Do(const CallContext&, const v1::ReplaceDeviceRequest& request,
                               v1::ReplaceDeviceResponse* response) {
  uint64_t pool_id = 0;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    const std::optional<DeviceRow> old = FindDevice(db, request.device_id());
    if (!old.has_value()) return NoSuch("device", request.device_id());
    const std::optional<DeviceRow> successor = FindDevice(db, request.successor_device_id());
    if (!successor.has_value()) return NoSuch("device", request.successor_device_id());
    if (old->device_id == successor->device_id) {
      return InvalidField("successor_device_id", "is the device that goes");
    }
    if (old->sds_id != successor->sds_id) {
      return InvalidField(
          "successor_device_id",
          absl::StrCat("device ", successor->device_id, " is of server ", successor->sds_id,
                       ", not of ", old->sds_id,
                       ": drain the old device instead, the others share its data"));
    }
    if (old->pool_id == 0) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "device ", old->device_id, " is in no pool: nothing to replace")),
                        "DEVICE_UNASSIGNED");
    }
    pool_id = old->pool_id;
    return absl::OkStatus();
  }));
  TESSERA_RETURN_IF_ERROR(assigner_->Assign(request.successor_device_id(), pool_id));
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const DrainSubject subject,
                             Subject(transaction.db, 0, request.device_id()));
    TESSERA_ASSIGN_OR_RETURN(*response->mutable_operation(),
                             Drain(transaction, subject, request.successor_device_id()));
    return absl::OkStatus();
  }));
  wake_();
  return absl::OkStatus();
}

}  // namespace tessera::mdm
