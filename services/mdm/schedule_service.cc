#include "services/mdm/schedule_service.h"

#include <google/protobuf/util/field_mask_util.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/schedule_rules.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

constexpr char kRequestKind[] = "schedule";

std::string Who(const ScheduleRow& row) {
  return absl::StrCat("schedule ", row.settings.name(), " (", row.schedule_id, ")");
}

absl::StatusOr<ScheduleRow> Resolve(SQLite::Database& db, uint64_t schedule_id,
                                    const std::string& name) {
  if (schedule_id == 0 && name.empty()) {
    return InvalidField("schedule_id",
                        "is 0 and no name is given: one of them says which schedule");
  }
  auto row = schedule_id != 0 ? FindSchedule(db, schedule_id) : FindScheduleByName(db, name);
  if (!row.has_value()) return NoSuch("schedule", schedule_id, name);
  return *std::move(row);
}

absl::Status CheckNameFree(SQLite::Database& db, const std::string& name) {
  if (!FindScheduleByName(db, name).has_value()) return absl::OkStatus();
  return WithReason(
      absl::AlreadyExistsError(absl::StrCat("there is already a schedule named '", name, "'")),
      "NAME_TAKEN");
}

// Each of them is a volume, unless it was named before: those may be gone by now.
absl::Status CheckVolumes(SQLite::Database& db, const v1::SnapshotSchedule& settings,
                          const v1::SnapshotSchedule& before) {
  const std::set<uint64_t> known(before.volume_ids().begin(), before.volume_ids().end());
  std::set<uint64_t> seen;
  for (const uint64_t id : settings.volume_ids()) {
    if (!seen.insert(id).second) {
      return InvalidField("schedule.volume_ids", absl::StrCat("name volume ", id, " twice"));
    }
    if (known.contains(id)) continue;
    TESSERA_ASSIGN_OR_RETURN(const VolumeRow volume, ResolveVolume(db, id, ""));
    TESSERA_RETURN_IF_ERROR(CheckNotSnapshot(volume));
    TESSERA_RETURN_IF_ERROR(CheckNotTrashed(volume));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::set<std::string>> ParseMask(const google::protobuf::FieldMask& mask) {
  static constexpr const char* kFields[] = {
      "name",      "volume_ids", "volume_label", "interval_seconds", "offset_seconds",
      "retention", "consistent", "lock_seconds", "deadline_ms",      "paused"};
  if (mask.paths().empty()) {
    return InvalidField("update_mask", "names no field: nothing would change");
  }
  for (const std::string& path : mask.paths()) {
    if (std::find(std::begin(kFields), std::end(kFields), path) == std::end(kFields)) {
      return InvalidField(
          "update_mask",
          absl::StrCat("'", path, "' can't be changed: ", absl::StrJoin(kFields, ", "), " can"));
    }
  }
  return std::set<std::string>(mask.paths().begin(), mask.paths().end());
}

}  // namespace

absl::Status SnapshotScheduleService::Do(const CallContext&,
                                         const v1::CreateSnapshotScheduleRequest& request,
                                         v1::CreateSnapshotScheduleResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  TESSERA_RETURN_IF_ERROR(CheckSchedule(request.schedule()));
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    ScheduleRow row;
    if (const auto earlier = FindRequest(db, kRequestKind, request.request_id())) {
      TESSERA_ASSIGN_OR_RETURN(row, Resolve(db, *earlier, ""));
    } else {
      row.settings = OnlySettings(request.schedule());
      TESSERA_RETURN_IF_ERROR(CheckNameFree(db, row.settings.name()));
      TESSERA_RETURN_IF_ERROR(CheckVolumes(db, row.settings, {}));
      row.created_ms = time_->NowMillis();
      row.run_time_ms = LastRunTime(row.settings, row.created_ms);  // it begins with the next
      row.schedule_id = InsertSchedule(db, row);
      RememberRequest(db, kRequestKind, request.request_id(), row.schedule_id, row.created_ms);
      events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "snapshot_schedule_created", {},
                      Who(row));
    }
    *response->mutable_schedule() = ToMessage(row);
    return absl::OkStatus();
  });
}

absl::Status SnapshotScheduleService::Do(const CallContext&,
                                         const v1::GetSnapshotScheduleRequest& request,
                                         v1::GetSnapshotScheduleResponse* response) {
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const ScheduleRow row,
                             Resolve(db, request.schedule_id(), request.name()));
    *response->mutable_schedule() = ToMessage(row);
    return absl::OkStatus();
  });
}

absl::Status SnapshotScheduleService::Do(const CallContext&,
                                         const v1::ListSnapshotSchedulesRequest& request,
                                         v1::ListSnapshotSchedulesResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token()));
  return store_->Read([&](SQLite::Database& db) {
    uint64_t last = 0;
    for (const ScheduleRow& row : ListScheduleRows(db, page)) {
      last = row.schedule_id;
      *response->add_schedules() = ToMessage(row);
    }
    response->set_next_page_token(
        NextPageToken(page, static_cast<size_t>(response->schedules_size()), last));
    return absl::OkStatus();
  });
}

absl::Status SnapshotScheduleService::Update(WriteTransaction& transaction,
                                             const v1::UpdateSnapshotScheduleRequest& request,
                                             ScheduleRow* row) const {
  using google::protobuf::util::FieldMaskUtil;
  SQLite::Database& db = transaction.db;
  TESSERA_ASSIGN_OR_RETURN(const std::set<std::string> fields, ParseMask(request.update_mask()));
  TESSERA_ASSIGN_OR_RETURN(*row, Resolve(db, request.schedule_id(), request.name()));
  const v1::SnapshotSchedule before = row->settings;
  FieldMaskUtil::MergeOptions replace;
  replace.set_replace_message_fields(true);
  replace.set_replace_repeated_fields(true);
  FieldMaskUtil::MergeMessageTo(request.schedule(), request.update_mask(), replace, &row->settings);
  TESSERA_RETURN_IF_ERROR(CheckSchedule(row->settings));
  if (row->settings.name() != before.name()) {
    TESSERA_RETURN_IF_ERROR(CheckNameFree(db, row->settings.name()));
  }
  TESSERA_RETURN_IF_ERROR(CheckVolumes(db, row->settings, before));
  UpdateScheduleSettings(db, *row);
  const auto times = [](const v1::SnapshotSchedule& of) {
    return std::tuple(of.interval_seconds(), of.offset_seconds(), of.paused());
  };
  if (times(row->settings) != times(before)) {
    // It goes on with the next of its times: those of before are not made up for.
    row->run_time_ms = LastRunTime(row->settings, time_->NowMillis());
    row->run_ended = true;
    UpdateScheduleRuns(db, *row);
  }
  events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "snapshot_schedule_changed", {},
                  absl::StrCat(Who(*row), ": ", absl::StrJoin(fields, ", ")));
  return absl::OkStatus();
}

absl::Status SnapshotScheduleService::Do(const CallContext&,
                                         const v1::UpdateSnapshotScheduleRequest& request,
                                         v1::UpdateSnapshotScheduleResponse* response) {
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    ScheduleRow row;
    TESSERA_RETURN_IF_ERROR(Update(transaction, request, &row));
    *response->mutable_schedule() = ToMessage(row);
    return absl::OkStatus();
  });
}

absl::Status SnapshotScheduleService::Do(const CallContext&,
                                         const v1::DeleteSnapshotScheduleRequest& request,
                                         v1::DeleteSnapshotScheduleResponse*) {
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    const absl::StatusOr<ScheduleRow> row =
        Resolve(transaction.db, request.schedule_id(), request.name());
    if (absl::IsNotFound(row.status())) return absl::OkStatus();
    TESSERA_RETURN_IF_ERROR(row.status());
    DeleteScheduleRow(transaction.db, row->schedule_id);
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "snapshot_schedule_deleted", {},
                    Who(*row));
    return absl::OkStatus();
  });
}

absl::Status SnapshotScheduleService::Do(const CallContext& call,
                                         const v1::RunSnapshotScheduleRequest& request,
                                         v1::RunSnapshotScheduleResponse* response) {
  ScheduleRow row;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(row, Resolve(db, request.schedule_id(), request.name()));
    return absl::OkStatus();
  }));
  TESSERA_ASSIGN_OR_RETURN(const ScheduleRun run, runner_->RunNow(call, row.schedule_id));
  *response->mutable_snapshots() = {run.snapshots.begin(), run.snapshots.end()};
  *response->mutable_deleted_snapshot_ids() = {run.deleted_snapshot_ids.begin(),
                                               run.deleted_snapshot_ids.end()};
  return absl::OkStatus();
}

}  // namespace tessera::mdm
