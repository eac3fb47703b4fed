#include "services/mdm/scrub_service.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/field_mask_util.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/node_table.h"
#include "services/mdm/repair_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/scrub_table.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

constexpr uint64_t kIntervalMin = 60'000;
constexpr uint64_t kIntervalMax = 31'536'000'000;
constexpr uint64_t kRateMin = 65'536;
constexpr uint64_t kRateMax = uint64_t{1} << 40;

absl::Status CheckRate(const std::string& field, uint64_t rate) {
  if (rate >= kRateMin && rate <= kRateMax) return absl::OkStatus();
  return InvalidField(field, absl::StrCat(rate, " is not from ", kRateMin, " to ", kRateMax));
}

absl::StatusOr<v1::ScrubSettings> Merge(const v1::ScrubSettings& now,
                                        const v1::UpdateScrubSettingsRequest& request) {
  using google::protobuf::util::FieldMaskUtil;
  if (request.update_mask().paths().empty()) {
    return InvalidField("update_mask", "names no setting: nothing would change");
  }
  for (const std::string& path : request.update_mask().paths()) {
    if (path != "interval_ms" && path != "bytes_per_second") {
      return InvalidField("update_mask",
                          absl::StrCat("'", path, "' is not interval_ms or bytes_per_second"));
    }
  }
  v1::ScrubSettings settings = now;
  FieldMaskUtil::MergeMessageTo(request.settings(), request.update_mask(),
                                FieldMaskUtil::MergeOptions(), &settings);
  const uint64_t interval = settings.interval_ms();
  if (interval != 0 && (interval < kIntervalMin || interval > kIntervalMax)) {
    return InvalidField("settings.interval_ms", absl::StrCat(interval, " is neither 0 nor from ",
                                                             kIntervalMin, " to ", kIntervalMax));
  }
  TESSERA_RETURN_IF_ERROR(CheckRate("settings.bytes_per_second", settings.bytes_per_second()));
  return settings;
}

}  // namespace

absl::StatusOr<ScrubService::Subject> ScrubService::SubjectOf(
    SQLite::Database& db, const v1::StartScrubRequest& request) const {
  const int named = (request.pool_id() != 0) + (request.sds_id() != 0) +
                    (request.device_id() != 0) + (request.volume_id() != 0);
  if (named != 1) {
    return InvalidField("pool_id", absl::StrCat("exactly one of pool_id, sds_id, device_id and "
                                                "volume_id must be set, not ",
                                                named));
  }
  Subject subject{.pool_id = request.pool_id(), .sds_id = request.sds_id()};
  std::vector<DeviceRow> devices;
  if (request.volume_id() != 0) {
    const auto volume = FindVolume(db, request.volume_id());
    if (!volume.has_value()) return NoSuch("volume", request.volume_id());
    subject.pool_id = volume->pool_id;
    subject.vtree_id = volume->vtree_id;
    subject.name = absl::StrCat("volume ", volume->name);
    devices = ListDeviceRowsOfPool(db, volume->pool_id);
  } else if (request.pool_id() != 0) {
    const auto pool = FindPool(db, request.pool_id());
    if (!pool.has_value()) return NoSuch("pool", request.pool_id());
    subject.name = absl::StrCat("pool ", pool->name());
    devices = ListDeviceRowsOfPool(db, request.pool_id());
  } else if (request.sds_id() != 0) {
    const auto sds = FindSds(db, request.sds_id());
    if (!sds.has_value()) return NoSuch("server", request.sds_id());
    subject.name = absl::StrCat("server ", sds->name);
    devices = ListDeviceRowsOfSds(db, request.sds_id());
  } else {
    const auto device = FindDevice(db, request.device_id());
    if (!device.has_value()) return NoSuch("device", request.device_id());
    const auto sds = FindSds(db, device->sds_id);
    subject.sds_id = device->sds_id;
    subject.device_id = device->device_id;
    subject.name =
        absl::StrCat("device ", device->device_id, " of ", sds.has_value() ? sds->name : "?");
    devices = {*device};
  }
  for (const DeviceRow& device : devices) {
    if (device.pool_id != 0) subject.device_ids.push_back(device.device_id);
  }
  return subject;
}

absl::Status ScrubService::Do(const CallContext& call, const v1::StartScrubRequest& request,
                              v1::StartScrubResponse* response) {
  if (request.bytes_per_second() != 0) {
    TESSERA_RETURN_IF_ERROR(CheckRate("bytes_per_second", request.bytes_per_second()));
  }
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    TESSERA_ASSIGN_OR_RETURN(const Subject subject, SubjectOf(db, request));
    if (subject.device_ids.empty()) {
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat(
              subject.name, " has no device that is in a pool: there is nothing to scrub")),
          "NOTHING_TO_SCRUB");
    }
    const auto running = FindRunning(
        db, {v1::OPERATION_KIND_SCRUB, subject.pool_id, subject.sds_id, subject.device_id});
    if (running.has_value()) {
      *response->mutable_operation() = *running;
      const auto targets = ListScrubTargets(db, running->operation_id());
      if (!targets.empty() && targets.front().vtree_id == subject.vtree_id) return absl::OkStatus();
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "scrub ", running->operation_id(), " of ", running->subject(),
                            " runs on the same devices: wait for it or cancel it")),
                        "SCRUB_RUNNING");
    }
    v1::Operation operation;
    operation.set_kind(v1::OPERATION_KIND_SCRUB);
    operation.set_state(v1::OPERATION_STATE_RUNNING);
    operation.set_subject(subject.name);
    operation.set_pool_id(subject.pool_id);
    operation.set_sds_id(subject.sds_id);
    operation.set_device_id(subject.device_id);
    operation.set_started_ms(time_->NowMillis());
    const uint64_t id = InsertOperation(db, operation);
    for (const uint64_t device_id : subject.device_ids) {
      InsertScrubTarget(db, {.operation_id = id,
                             .device_id = device_id,
                             .vtree_id = subject.vtree_id,
                             .bytes_per_second = request.bytes_per_second()});
    }
    operation.set_operation_id(id);
    operation.set_devices_total(static_cast<uint32_t>(subject.device_ids.size()));
    *response->mutable_operation() = operation;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "scrub_started",
                    {v1::COMPONENT_KIND_SDS, subject.sds_id},
                    absl::StrCat("scrub ", id, " of ", subject.name, " by ", call.caller().name));
    return absl::OkStatus();
  }));
  scheduler_->Run();
  scheduler_->FillFigures(response->mutable_operation());
  wake_();
  return absl::OkStatus();
}

absl::Status ScrubService::Do(const CallContext&, const v1::ListScrubSettingsRequest&,
                              v1::ListScrubSettingsResponse* response) {
  return store_->Read([&](SQLite::Database& db) {
    for (v1::ScrubSettings& settings : mdm::ListScrubSettings(db)) {
      *response->add_settings() = std::move(settings);
    }
    return absl::OkStatus();
  });
}

absl::Status ScrubService::Do(const CallContext& call,
                              const v1::UpdateScrubSettingsRequest& request,
                              v1::UpdateScrubSettingsResponse* response) {
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    const auto now = FindScrubSettings(transaction.db, request.settings().pool_id());
    if (!now.has_value()) return NoSuch("pool", request.settings().pool_id());
    TESSERA_ASSIGN_OR_RETURN(*response->mutable_settings(), Merge(*now, request));
    PutScrubSettings(transaction.db, response->settings());
    events_->Record(
        transaction, v1::EVENT_SEVERITY_INFO, "scrub_settings_changed", {},
        absl::StrCat(call.caller().name, " changed ",
                     google::protobuf::util::FieldMaskUtil::ToString(request.update_mask()),
                     " of pool ", now->pool_id()));
    return absl::OkStatus();
  }));
  scheduler_->Run();
  return absl::OkStatus();
}

absl::Status ScrubService::Do(const CallContext&, const v1::ListScrubStatusRequest&,
                              v1::ListScrubStatusResponse* response) {
  for (v1::ScrubStatus& status : board_->Scrubs()) *response->add_devices() = std::move(status);
  return absl::OkStatus();
}

}  // namespace tessera::mdm
