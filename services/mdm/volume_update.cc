// VolumeService: changing a volume's name, size, labels and limits, and taking it out of the trash.
#include <google/protobuf/util/field_mask_util.h>

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/schedule_rules.h"
#include "services/mdm/space_table.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_limits.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

constexpr size_t kLabelsMax = 64;
constexpr size_t kLabelKeyMax = 63;
constexpr size_t kLabelValueMax = 255;
constexpr uint64_t kExpiryMaxMillis = 10 * 366 * 86'400'000ull;

bool IsKeyCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.' ||
         c == '/';
}

absl::StatusOr<std::set<std::string>> ParseMask(const google::protobuf::FieldMask& mask) {
  if (mask.paths().empty()) {
    return InvalidField("update_mask", "names no field: nothing would change");
  }
  std::set<std::string> fields;
  for (const std::string& path : mask.paths()) {
    static constexpr const char* kFields[] = {
        "name",          "size_bytes",      "labels",     "iops_limit", "bandwidth_limit_bytes",
        "burst_seconds", "locked_until_ms", "expires_ms", "byte_budget"};
    if (std::find(std::begin(kFields), std::end(kFields), path) == std::end(kFields)) {
      return InvalidField(
          "update_mask",
          absl::StrCat("'", path, "' can't be changed: ", absl::StrJoin(kFields, ", "), " can"));
    }
    fields.insert(path);
  }
  return fields;
}

absl::Status Lock(uint64_t locked_until_ms, uint64_t now_ms, VolumeRow* volume) {
  if (!volume->is_snapshot()) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "volume ", volume->name, " is not a snapshot: only these are locked")),
                      "NOT_A_SNAPSHOT");
  }
  TESSERA_RETURN_IF_ERROR(CheckLock("volume.locked_until_ms", locked_until_ms, now_ms));
  if (locked_until_ms < volume->locked_until_ms) {
    return WithReason(
        absl::OutOfRangeError(absl::StrCat("snapshot ", volume->name, " is locked until ",
                                           volume->locked_until_ms, ", which is later than ",
                                           locked_until_ms, ": a lock is never made shorter")),
        "LOCK_BELOW_PRESENT", {{"locked_until_ms", absl::StrCat(volume->locked_until_ms)}});
  }
  volume->locked_until_ms = locked_until_ms;
  return absl::OkStatus();
}

absl::Status Expire(uint64_t expires_ms, uint64_t now_ms, VolumeRow* volume) {
  TESSERA_RETURN_IF_ERROR(CheckExpiry("volume.expires_ms", expires_ms, now_ms));
  volume->expires_ms = expires_ms;
  volume->expiry_waits = false;
  return absl::OkStatus();
}

// What is locked stays until then.
absl::Status CheckLockedUntilItExpires(const VolumeRow& volume) {
  if (volume.expires_ms == 0 || volume.locked_until_ms <= volume.expires_ms) {
    return absl::OkStatus();
  }
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "snapshot ", volume.name, " would be locked until ", volume.locked_until_ms,
          ", and expire before, at ", volume.expires_ms, ": set expires_ms, too, or 0")),
      "EXPIRES_WHILE_LOCKED",
      {{"locked_until_ms", absl::StrCat(volume.locked_until_ms)},
       {"expires_ms", absl::StrCat(volume.expires_ms)}});
}

}  // namespace

absl::Status CheckExpiry(const std::string& field, uint64_t expires_ms, uint64_t now_ms) {
  if (expires_ms == 0) return absl::OkStatus();
  if (expires_ms <= now_ms) {
    return InvalidField(field, absl::StrCat(expires_ms, " is not in the future: now is ", now_ms));
  }
  if (expires_ms - now_ms <= kExpiryMaxMillis) return absl::OkStatus();
  return InvalidField(field,
                      absl::StrCat(expires_ms, " is more than ten years ahead: now is ", now_ms));
}

absl::Status CheckCallersLabels(const std::string& field, const VolumeLabels& labels,
                                const VolumeLabels& before) {
  TESSERA_RETURN_IF_ERROR(CheckLabels(field, labels));
  const auto given = labels.find(kScheduleLabel);
  if (given == labels.end()) return absl::OkStatus();
  const auto known = before.find(kScheduleLabel);
  if (known != before.end() && known->second == given->second) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("'", kScheduleLabel,
                                          "' is given to snapshots that a schedule makes, and to "
                                          "nothing else: it can be taken away"));
}

absl::Status CheckLabels(const std::string& field, const VolumeLabels& labels) {
  if (labels.size() > kLabelsMax) {
    return InvalidField(field, absl::StrCat("are ", labels.size(), ", more than ", kLabelsMax));
  }
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > kLabelKeyMax ||
        !std::all_of(key.begin(), key.end(), IsKeyCharacter)) {
      return InvalidField(field, absl::StrCat("key '", key,
                                              "' is not 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.', "
                                              "'/'"));
    }
    const bool plain = std::none_of(value.begin(), value.end(), [](char c) {
      return absl::ascii_iscntrl(static_cast<unsigned char>(c));
    });
    if (!plain || value.size() > kLabelValueMax) {
      return InvalidField(
          field, absl::StrCat("the value of '", key, "' has control characters or more than ",
                              kLabelValueMax, " bytes"));
    }
  }
  return absl::OkStatus();
}

absl::Status VolumeService::Resize(SQLite::Database& db, uint64_t size_bytes,
                                   VolumeRow* volume) const {
  if (size_bytes == volume->size_bytes) return absl::OkStatus();
  TESSERA_RETURN_IF_ERROR(CheckNotSnapshot(*volume));
  if (size_bytes < volume->size_bytes) {
    return WithReason(absl::OutOfRangeError(absl::StrCat(
                          "volume ", volume->name, " has ", volume->size_bytes, " bytes: with ",
                          size_bytes, " what lies behind would be lost: say so with allow_shrink")),
                      "SIZE_BELOW_PRESENT",
                      {{"present_bytes", absl::StrCat(volume->size_bytes)},
                       {"asked_bytes", absl::StrCat(size_bytes)}});
  }
  if (volume->provisioning == v1::PROVISIONING_THICK) {
    const auto pool = FindPool(db, volume->pool_id);
    if (!pool.has_value()) return NoSuch("pool", volume->pool_id);
    TESSERA_RETURN_IF_ERROR(CheckThickFits(db, *pool, size_bytes - volume->size_bytes));
  }
  TESSERA_RETURN_IF_ERROR(CheckOvercommit(db, volume->pool_id, size_bytes - volume->size_bytes));
  volume->size_bytes = size_bytes;
  return absl::OkStatus();
}

absl::Status VolumeService::Update(WriteTransaction& transaction,
                                   const v1::UpdateVolumeRequest& request, VolumeRow* volume,
                                   std::vector<SdcRow>* concerned) const {
  SQLite::Database& db = transaction.db;
  TESSERA_ASSIGN_OR_RETURN(const std::set<std::string> fields, ParseMask(request.update_mask()));
  TESSERA_ASSIGN_OR_RETURN(*volume, ResolveVolume(db, request.volume_id(), request.volume_name()));
  TESSERA_RETURN_IF_ERROR(CheckNotTrashed(*volume));
  const v1::VolumeUpdate& wanted = request.volume();
  const std::string name_before = volume->name;
  const uint64_t size_before = volume->size_bytes;
  const uint64_t lock_before = volume->locked_until_ms;
  const uint64_t expiry_before = volume->expires_ms;
  const VolumeLimits limits_before = volume->limits;
  const std::vector<MappingRow> mappings = ListMappings(db, volume->volume_id);
  if (fields.contains("name") && wanted.name() != volume->name) {
    TESSERA_RETURN_IF_ERROR(CheckVolumeName("volume.name", wanted.name()));
    if (!mappings.empty()) return MappedElsewhere(db, *volume, mappings.front());
    if (FindVolumeByName(db, wanted.name()).has_value()) return NameTaken(wanted.name());
    volume->name = wanted.name();
  }
  if (fields.contains("size_bytes")) {
    TESSERA_RETURN_IF_ERROR(CheckVolumeSize("volume.size_bytes", wanted.size_bytes()));
    TESSERA_RETURN_IF_ERROR(Resize(db, wanted.size_bytes(), volume));
  }
  if (fields.contains("labels")) {
    const VolumeLabels labels{wanted.labels().begin(), wanted.labels().end()};
    TESSERA_RETURN_IF_ERROR(
        CheckCallersLabels("volume.labels", labels, ReadLabels(db, volume->volume_id)));
    WriteLabels(db, volume->volume_id, labels);
  }
  if (fields.contains("locked_until_ms")) {
    TESSERA_RETURN_IF_ERROR(Lock(wanted.locked_until_ms(), time_->NowMillis(), volume));
  }
  if (fields.contains("expires_ms")) {
    TESSERA_RETURN_IF_ERROR(Expire(wanted.expires_ms(), time_->NowMillis(), volume));
  }
  TESSERA_RETURN_IF_ERROR(CheckLockedUntilItExpires(*volume));
  const VolumeLimits limits = AskedLimits(wanted);
  if (fields.contains("iops_limit")) volume->limits.iops = limits.iops;
  if (fields.contains("bandwidth_limit_bytes")) {
    volume->limits.bandwidth_bytes = limits.bandwidth_bytes;
  }
  if (fields.contains("burst_seconds")) volume->limits.burst_seconds = limits.burst_seconds;
  TESSERA_RETURN_IF_ERROR(CheckLimits("volume.", volume->limits));
  const VolumeBudget budget_before = FindBudget(db, volume->volume_id).value_or(VolumeBudget());
  if (fields.contains("byte_budget")) {
    TESSERA_RETURN_IF_ERROR(CheckNotSnapshot(*volume));
    TESSERA_RETURN_IF_ERROR(CheckBudget("volume.byte_budget", wanted.byte_budget()));
    SetBudget(db, volume->volume_id, wanted.byte_budget());
  }
  const VolumeBudget budget = FindBudget(db, volume->volume_id).value_or(VolumeBudget());
  UpdateVolumeRow(db, *volume);
  transaction.changes.topology = true;
  if (volume->name != name_before) {
    events_->Record(
        transaction, v1::EVENT_SEVERITY_INFO, "volume_renamed", {},
        absl::StrCat("volume ", name_before, " (", volume->volume_id, ") to ", volume->name));
  }
  const std::string who = absl::StrCat("volume ", volume->name, " (", volume->volume_id, ")");
  if (volume->size_bytes != size_before) {
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_resized", {},
                    absl::StrCat(who, " from ", size_before, " to ", volume->size_bytes, " bytes"));
  }
  if (volume->locked_until_ms != lock_before) {
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "snapshot_locked", {},
                    absl::StrCat(who, " until ", volume->locked_until_ms));
  }
  if (volume->expires_ms != expiry_before) {
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_expiry_changed", {},
                    volume->expires_ms == 0
                        ? absl::StrCat(who, " does not expire any more")
                        : absl::StrCat(who, " expires at ", volume->expires_ms));
  }
  if (volume->limits != limits_before) {
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_limits_changed", {},
                    absl::StrCat(who, ": ", DescribeLimits(volume->limits)));
  }
  if (budget.byte_budget != budget_before.byte_budget) {
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_budget_changed", {},
                    absl::StrCat(who, " from ", budget_before.byte_budget, " to ",
                                 budget.byte_budget, " bytes"));
  }
  if (volume->size_bytes != size_before || volume->limits != limits_before ||
      budget.over != budget_before.over) {
    *concerned = ClientsOf(db, mappings);
  }
  return absl::OkStatus();
}

absl::Status VolumeService::Do(const CallContext& call, const v1::UpdateVolumeRequest& request,
                               v1::UpdateVolumeResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const bool shrink, WantsShrink(request));
  if (shrink) return Shrink(call, request, response);
  VolumeRow volume;
  std::vector<SdcRow> concerned;  // clients that are to know of a new size or limits
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    concerned.clear();
    TESSERA_RETURN_IF_ERROR(Update(transaction, request, &volume, &concerned));
    *response->mutable_volume() = TopologyReader(transaction.db, *health_).Volume(volume);
    return absl::OkStatus();
  }));
  TellClients(call, volume.volume_id, concerned, response->mutable_later_sdc_ids());
  if (request.volume().byte_budget() != 0) budget_set_();
  return absl::OkStatus();
}

absl::Status VolumeService::Do(const CallContext&, const v1::RestoreVolumeRequest& request,
                               v1::RestoreVolumeResponse* response) {
  if (!request.name().empty()) {
    TESSERA_RETURN_IF_ERROR(CheckVolumeName("name", request.name()));
  }
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    TESSERA_ASSIGN_OR_RETURN(VolumeRow volume, ResolveVolume(db, request.volume_id(), ""));
    if (!volume.trashed()) {
      return WithReason(absl::FailedPreconditionError(
                            absl::StrCat("volume ", volume.name, " is not in the trash")),
                        "VOLUME_NOT_TRASHED");
    }
    if (volume.Expired(time_->NowMillis())) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "volume ", volume.trashed_name, " has expired: it is being deleted")),
                        "VOLUME_EXPIRED");
    }
    const std::string name = request.name().empty() ? volume.trashed_name : request.name();
    if (FindVolumeByName(db, name).has_value()) return NameTaken(name);
    volume.name = name;
    volume.trashed_name.clear();
    volume.trashed_until_ms = 0;
    UpdateVolumeRow(db, volume);
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_restored", {},
                    absl::StrCat("volume ", volume.name, " (", volume.volume_id, ")"));
    *response->mutable_volume() = TopologyReader(db, *health_).Volume(volume);
    return absl::OkStatus();
  });
}

}  // namespace tessera::mdm
