#include "services/mdm/volume_service.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libtoken/token.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/common/wait.h"
#include "services/mdm/fence_receipt_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/space_table.h"
#include "services/mdm/token_table.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_limits.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kVolumeBytesMax = 1ull << 50;
constexpr uint64_t kKeepMaxMillis = 366 * 86'400'000ull;
constexpr milliseconds kWaitMax{600'000};
constexpr milliseconds kAttachRetryPause{200};
// A client that is silent hears of a change when it renews.
constexpr milliseconds kTellTimeout{2'000};

absl::StatusOr<v1::StoragePool> ResolvePool(SQLite::Database& db,
                                            const v1::CreateVolumeRequest& request) {
  std::optional<v1::StoragePool> pool;
  if (request.pool_id() != 0) {
    pool = FindPool(db, request.pool_id());
  } else if (!request.pool_name().empty()) {
    pool = FindPoolByName(db, request.pool_name());
  } else {
    std::vector<v1::StoragePool> all = ListPoolRows(db, {.limit = 2});
    if (all.size() != 1) {
      return InvalidField(
          "pool_name", all.empty() ? "there is no pool yet" : "there are several pools: name one");
    }
    pool = all.front();
  }
  if (!pool.has_value()) return NoSuch("pool", request.pool_id(), request.pool_name());
  return *pool;
}

// Whether an earlier call of the same request, whose answer was lost, has done it.
bool WasDone(SQLite::Database& db, const v1::DeleteVolumeRequest& request) {
  if (WasVolumeDeleted(db, request.volume_id(), request.name())) return true;
  if (request.keep_ms() == 0 || request.volume_id() != 0) return false;
  const std::vector<VolumeRow> trash =
      ListVolumeRows(db, {.name_contains = request.name(), .trashed = true});
  return std::any_of(trash.begin(), trash.end(), [&](const VolumeRow& volume) {
    return volume.trashed_name == request.name();
  });
}

absl::StatusOr<v1::MappingMode> AskedMode(const v1::MapVolumeRequest& request) {
  switch (request.mode()) {
    case v1::MAPPING_MODE_UNSPECIFIED:
    case v1::MAPPING_MODE_READ_WRITE:
      return v1::MAPPING_MODE_READ_WRITE;
    case v1::MAPPING_MODE_READ_ONLY:
      return v1::MAPPING_MODE_READ_ONLY;
    case v1::MAPPING_MODE_SHARED:
      break;
    default:
      return InvalidField("mode", absl::StrCat(request.mode(), " is none that is known"));
  }
  if (AskedLimits(request).any()) {
    return InvalidField(request.iops_limit() != 0 ? "iops_limit" : "bandwidth_limit_bytes",
                        "a shared mapping has no limits of its own: all go through the client "
                        "that writes; set the volume's");
  }
  return v1::MAPPING_MODE_SHARED;
}

}  // namespace

absl::StatusOr<SdcRow> ResolveSdc(SQLite::Database& db, uint64_t sdc_id, const std::string& name) {
  std::optional<SdcRow> sdc;
  if (sdc_id != 0) {
    sdc = FindSdc(db, sdc_id);
  } else if (!name.empty()) {
    sdc = FindSdcByName(db, name);
  } else {
    std::vector<SdcRow> all = ListSdcRows(db, {.limit = 2});
    if (all.size() != 1) {
      return InvalidField("sdc_name", all.empty() ? "there is no client yet"
                                                  : "there are several clients: name one");
    }
    sdc = all.front();
  }
  if (!sdc.has_value()) return NoSuch("client", sdc_id, name);
  return *sdc;
}

std::vector<SdcRow> ClientsOf(SQLite::Database& db, const std::vector<MappingRow>& mappings) {
  std::vector<SdcRow> clients;
  for (const MappingRow& mapping : mappings) {
    if (auto sdc = FindSdc(db, mapping.sdc_id)) clients.push_back(*std::move(sdc));
  }
  return clients;
}

absl::Status MappedElsewhere(SQLite::Database& db, const VolumeRow& volume,
                             const MappingRow& other) {
  const auto sdc = FindSdc(db, other.sdc_id);
  const std::string name = sdc.has_value() ? sdc->name : "";
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "volume ", volume.shown_name(), " is mapped to client ", name, " (", other.sdc_id, ") ",
          other.mode == v1::MAPPING_MODE_READ_ONLY ? "for reading"
          : other.mode == v1::MAPPING_MODE_SHARED  ? "shared"
                                                   : "for reading and writing")),
      "VOLUME_MAPPED", {{"sdc_id", absl::StrCat(other.sdc_id)}, {"sdc_name", name}});
}

absl::StatusOr<VolumeRow> ResolveVolume(SQLite::Database& db, uint64_t volume_id,
                                        const std::string& name) {
  if (volume_id == 0 && name.empty()) {
    return InvalidField("volume_id", "is 0 and no name is given: one of them says which volume");
  }
  std::optional<VolumeRow> volume =
      volume_id != 0 ? FindVolume(db, volume_id) : FindVolumeByName(db, name);
  const bool hidden =
      volume.has_value() && (volume->being_made || (volume->trashed() && volume_id == 0));
  if (!volume.has_value() || hidden) return NoSuch("volume", volume_id, name);
  return *std::move(volume);
}

absl::Status CheckNotTrashed(const VolumeRow& volume) {
  if (!volume.trashed()) return absl::OkStatus();
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("volume ", volume.shown_name(), " (", volume.volume_id,
                                     ") is in the trash: restore it first")),
                    "VOLUME_TRASHED");
}

absl::Status CheckNotSnapshot(const VolumeRow& volume) {
  if (!volume.is_snapshot()) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(volume.shown_name(), " (", volume.volume_id,
                                                 ") is a snapshot, which can only be read: clone "
                                                 "it to write")),
      "SNAPSHOT_READ_ONLY");
}

absl::Status CheckDeletable(SQLite::Database& db, const VolumeRow& volume, uint64_t now_ms) {
  const auto mappings = ListMappings(db, volume.volume_id);
  if (!mappings.empty()) return MappedElsewhere(db, volume, mappings.front());
  if (volume.locked_until_ms > now_ms) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "snapshot ", volume.shown_name(), " (", volume.volume_id, ") is locked for ",
            (volume.locked_until_ms - now_ms + 999) / 1'000, " s more")),
        "SNAPSHOT_LOCKED", {{"locked_until_ms", absl::StrCat(volume.locked_until_ms)}});
  }
  const SnapshotCount snapshots = CountSnapshots(db, volume.volume_id);
  if (snapshots.ready == 0) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "volume ", volume.shown_name(), " (", volume.volume_id, ") has ", snapshots.ready,
          " snapshots, ", snapshots.trashed, " of them in the trash: delete these first")),
      "HAS_SNAPSHOTS", {{"snapshots", absl::StrCat(snapshots.ready)}});
}

absl::Status CheckVolumeSize(const std::string& field, uint64_t size_bytes) {
  if (size_bytes != 0 && size_bytes % 4096 == 0 && size_bytes <= kVolumeBytesMax) {
    return absl::OkStatus();
  }
  return InvalidField(
      field, absl::StrCat(size_bytes, " is not a multiple of 4096 from 4096 to ", kVolumeBytesMax));
}

absl::Status NameTaken(const std::string& name) {
  return WithReason(
      absl::AlreadyExistsError(absl::StrCat("there is already a volume named '", name, "'")),
      "NAME_TAKEN");
}

void RemoveVolume(WriteTransaction& transaction, const VolumeRow& volume, uint64_t now_ms) {
  const bool last = DeleteVolumeRow(transaction.db, volume,
                                    ServersOfPool(transaction.db, volume.pool_id), now_ms);
  transaction.changes.topology = true;
  if (last) transaction.changes.deleted_vtree_ids.insert(volume.vtree_id);
}

void DropVolume(WriteTransaction& transaction, const EventLog& events, const VolumeRow& volume,
                uint64_t now_ms) {
  RemoveVolume(transaction, volume, now_ms);
  events.Record(transaction, v1::EVENT_SEVERITY_INFO,
                volume.is_snapshot() ? "snapshot_deleted" : "volume_deleted", {},
                absl::StrCat(volume.is_snapshot() ? "snapshot " : "volume ", volume.shown_name(),
                             " (", volume.volume_id, ")"));
}

absl::Status VolumeService::CheckThickFits(SQLite::Database& db, const v1::StoragePool& pool,
                                           uint64_t more_bytes) const {
  const v1::PoolCapacity capacity = TopologyReader(db, *health_).Pool(pool).capacity();
  if (more_bytes <= capacity.available_bytes()) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "a thick volume of ", more_bytes, " bytes does not fit into pool ", pool.name(),
          ", which has ", capacity.available_bytes(), " bytes available")),
      "POOL_FULL",
      {{"asked_bytes", absl::StrCat(more_bytes)},
       {"available_bytes", absl::StrCat(capacity.available_bytes())}});
}

void RaiseGeneration(WriteTransaction& transaction, VolumeRow* volume, const std::string& reason) {
  ++volume->generation;
  UpdateVolumeGenerations(transaction.db, *volume);
  (void)RevokeTokens(transaction.db, volume->volume_id, volume->generation, reason);
  transaction.changes.topology = true;
}

absl::Status VolumeService::Insert(WriteTransaction& transaction,
                                   const v1::CreateVolumeRequest& request,
                                   VolumeRow* volume) const {
  SQLite::Database& db = transaction.db;
  TESSERA_ASSIGN_OR_RETURN(const v1::StoragePool pool, ResolvePool(db, request));
  if (FindVolumeByName(db, request.name()).has_value()) return NameTaken(request.name());
  if (CountPlacementGroups(db, pool.pool_id()) == 0) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "pool ", pool.name(), " has no placement groups yet: its ", pool.replica_count(),
            " replicas need open devices on as many servers, assign more")),
        "POOL_NOT_READY");
  }
  if (request.provisioning() == v1::PROVISIONING_THICK) {
    TESSERA_RETURN_IF_ERROR(CheckThickFits(db, pool, request.size_bytes()));
  }
  TESSERA_RETURN_IF_ERROR(CheckOvercommit(db, pool.pool_id(), request.size_bytes()));
  volume->name = request.name();
  volume->pool_id = pool.pool_id();
  volume->size_bytes = request.size_bytes();
  volume->provisioning = request.provisioning() == v1::PROVISIONING_THICK ? v1::PROVISIONING_THICK
                                                                          : v1::PROVISIONING_THIN;
  volume->limits = AskedLimits(request);
  volume->created_ms = time_->NowMillis();
  volume->expires_ms = request.expires_ms();
  *volume = InsertVolume(db, *volume);
  SetBudget(db, volume->volume_id, request.byte_budget());
  WriteLabels(db, volume->volume_id, {request.labels().begin(), request.labels().end()});
  RememberRequest(db, "volume", request.request_id(), volume->volume_id, volume->created_ms);
  transaction.changes.topology = true;
  events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_created", {},
                  absl::StrCat("volume ", volume->name, " (", volume->volume_id, ") of ",
                               volume->size_bytes, " bytes in pool ", pool.name()));
  return absl::OkStatus();
}

absl::Status VolumeService::Do(const CallContext&, const v1::CreateVolumeRequest& request,
                               v1::CreateVolumeResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckVolumeName("name", request.name()));
  TESSERA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  TESSERA_RETURN_IF_ERROR(CheckVolumeSize("size_bytes", request.size_bytes()));
  TESSERA_RETURN_IF_ERROR(
      CheckCallersLabels("labels", {request.labels().begin(), request.labels().end()}));
  TESSERA_RETURN_IF_ERROR(CheckLimits("", AskedLimits(request)));
  TESSERA_RETURN_IF_ERROR(CheckBudget("byte_budget", request.byte_budget()));
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    VolumeRow volume;
    if (const auto earlier = FindRequest(transaction.db, "volume", request.request_id())) {
      TESSERA_ASSIGN_OR_RETURN(volume, ResolveVolume(transaction.db, *earlier, ""));
    } else {
      TESSERA_RETURN_IF_ERROR(CheckExpiry("expires_ms", request.expires_ms(), time_->NowMillis()));
      TESSERA_RETURN_IF_ERROR(Insert(transaction, request, &volume));
    }
    *response->mutable_volume() = TopologyReader(transaction.db, *health_).Volume(volume);
    return absl::OkStatus();
  });
}

absl::Status VolumeService::Do(const CallContext&, const v1::GetVolumeRequest& request,
                               v1::GetVolumeResponse* response) {
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const VolumeRow volume,
                             ResolveVolume(db, request.volume_id(), request.name()));
    *response->mutable_volume() = TopologyReader(db, *health_).Volume(volume);
    return absl::OkStatus();
  });
}

absl::Status VolumeService::Do(const CallContext&, const v1::ListVolumesRequest& request,
                               v1::ListVolumesResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token()));
  VolumeFilter filter{.pool_id = request.pool_id(),
                      .name_contains = request.name_contains(),
                      .trashed = request.trashed(),
                      .kind = request.kind(),
                      .parent_id = request.parent_id()};
  const size_t equals = request.label().find('=');
  filter.label_key = request.label().substr(0, equals);
  if (equals != std::string::npos) {
    filter.label_value = request.label().substr(equals + 1);
    if (filter.label_key.empty()) return InvalidField("label", "has no key before '='");
  }
  return store_->Read([&](SQLite::Database& db) {
    TopologyReader reader(db, *health_);
    uint64_t last = 0;
    for (const VolumeRow& row : ListVolumeRows(db, filter, page)) {
      last = row.volume_id;
      *response->add_volumes() = reader.Volume(row);
    }
    response->set_next_page_token(
        NextPageToken(page, static_cast<size_t>(response->volumes_size()), last));
    return absl::OkStatus();
  });
}

absl::Status VolumeService::Do(const CallContext& call, const v1::DeleteVolumeRequest& request,
                               v1::DeleteVolumeResponse*) {
  if (request.keep_ms() > kKeepMaxMillis) {
    return InvalidField("keep_ms",
                        absl::StrCat(request.keep_ms(), " is more than a year, ", kKeepMaxMillis));
  }
  VolumeRow volume;
  bool done = false;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    absl::StatusOr<VolumeRow> found = ResolveVolume(db, request.volume_id(), request.name());
    if (absl::IsNotFound(found.status()) && WasDone(db, request)) {
      done = true;
      return absl::OkStatus();
    }
    TESSERA_ASSIGN_OR_RETURN(volume, std::move(found));
    TESSERA_RETURN_IF_ERROR(CheckDeletable(db, volume, time_->NowMillis()));
    if (volume.trashed()) {
      // All older generations have ended, and none has begun.
      Remove(transaction, request.keep_ms(), volume);
      done = true;
      return absl::OkStatus();
    }
    RaiseGeneration(transaction, &volume, "the volume is being deleted");
    return absl::OkStatus();
  }));
  if (!done) {
    TESSERA_RETURN_IF_ERROR(
        fence_->Run(volume, FencePurpose::kEndOnly, call.TimeLeft(kWaitMax)).status());
    TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
      const auto row = FindVolume(transaction.db, volume.volume_id);
      if (!row.has_value()) return absl::OkStatus();  // somebody else deleted it, too
      TESSERA_RETURN_IF_ERROR(CheckDeletable(transaction.db, *row, time_->NowMillis()));
      // A token or a mapping that came meanwhile: what was ended is not all any more.
      if (row->generation != volume.generation) {
        return absl::AbortedError("the volume was used or deleted meanwhile: try again");
      }
      Remove(transaction, request.keep_ms(), *row);
      return absl::OkStatus();
    }));
  }
  deleted_();
  return absl::OkStatus();
}

void VolumeService::Remove(WriteTransaction& transaction, uint64_t keep_ms,
                           VolumeRow volume) const {
  const uint64_t now = time_->NowMillis();
  if (keep_ms == 0) return DropVolume(transaction, *events_, volume, now);
  if (!volume.trashed()) {
    volume.trashed_name = std::exchange(volume.name, TrashName(volume.volume_id));
  }
  volume.trashed_until_ms = now + keep_ms;
  UpdateVolumeRow(transaction.db, volume);
  transaction.changes.topology = true;
  events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_trashed", {},
                  absl::StrCat("volume ", volume.shown_name(), " (", volume.volume_id, ") for ",
                               keep_ms / 1000, " s"));
}

void VolumeService::Attach(const CallContext& call, const SdcRow& sdc, v1::VolumeMapping* mapping) {
  // A little is kept back, so that the answer arrives before the caller gives up.
  const milliseconds reserve{200};
  while (!call.cancelled()) {
    const milliseconds left = call.TimeLeft(kWaitMax) - reserve;
    if (left <= milliseconds(0)) break;
    const auto uris = control_->AttachVolume(sdc, mapping->volume_id(), left);
    if (uris.ok()) {
      health_->SetAttached(sdc.sdc_id, mapping->volume_id(), true);
      mapping->set_attached(true);
      if (!uris->empty()) mapping->clear_nbd_uris();
      for (const std::string& uri : *uris) mapping->add_nbd_uris(uri);
      return;
    }
    LogWarning("client did not attach the volume",
               {{"volume", mapping->volume_id()}, {"sdc", sdc.sdc_id}, {"error", uris.status()}});
    const bool transient = absl::IsUnavailable(uris.status()) || absl::IsAborted(uris.status());
    if (!transient || call.TimeLeft(kWaitMax) <= reserve + kAttachRetryPause) break;
    Pause(absl::FromChrono(kAttachRetryPause));
  }
  // The mapping stays: the client attaches it when it learns of it by its heartbeat.
}

void VolumeService::TellClients(const CallContext& call, uint64_t volume_id,
                                const std::vector<SdcRow>& clients,
                                google::protobuf::RepeatedField<uint64_t>* later) {
  for (const SdcRow& sdc : clients) {
    absl::Status told = absl::UnavailableError("it is not heard from");
    if (health_->Reachable({v1::COMPONENT_KIND_SDC, sdc.sdc_id})) {
      told = control_->AttachVolume(sdc, volume_id, std::min(kTellTimeout, call.TimeLeft(kWaitMax)))
                 .status();
    }
    if (told.ok()) continue;
    LogWarning("a client was not told of a change of a volume",
               {{"volume", volume_id}, {"sdc", sdc.sdc_id}, {"error", told}});
    later->Add(sdc.sdc_id);
  }
}

absl::Status VolumeService::Do(const CallContext& call, const v1::MapVolumeRequest& request,
                               v1::MapVolumeResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const v1::MappingMode mode, AskedMode(request));
  TESSERA_RETURN_IF_ERROR(CheckLimits("", AskedLimits(request)));
  SdcRow sdc;
  std::vector<SdcRow> concerned;  // whose part of the volume's limits is another by this mapping
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    concerned.clear();
    TESSERA_ASSIGN_OR_RETURN(const VolumeRow volume,
                             ResolveVolume(db, request.volume_id(), request.volume_name()));
    TESSERA_RETURN_IF_ERROR(CheckNotTrashed(volume));
    const bool writes = mode != v1::MAPPING_MODE_READ_ONLY;
    if (writes) TESSERA_RETURN_IF_ERROR(CheckNotSnapshot(volume));
    TESSERA_ASSIGN_OR_RETURN(sdc, ResolveSdc(db, request.sdc_id(), request.sdc_name()));
    const MappingRow row{volume.volume_id, sdc.sdc_id, mode, AskedLimits(request),
                         volume.generation};
    const std::vector<MappingRow> mappings = ListMappings(db, volume.volume_id);
    std::optional<MappingRow> before;
    for (const MappingRow& other : mappings) {
      if (other.sdc_id == sdc.sdc_id) before = other;
      const bool excludes =
          other.mode != mode || (other.sdc_id != sdc.sdc_id && mode == v1::MAPPING_MODE_READ_WRITE);
      if (excludes) return MappedElsewhere(db, volume, other);
    }
    if (writes) {
      if (const auto token = FindActiveWriteTransaction(db, volume.volume_id)) {
        return WithReason(absl::FailedPreconditionError(absl::StrCat(
                              "write token ", *token, " for volume ", volume.name, " is out")),
                          "WRITE_TOKEN_OUT");
      }
    }
    if (before.has_value()) {
      UpdateMapping(db, row);
      if (before->limits != row.limits) {
        transaction.changes.topology = true;
        events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "mapping_limits_changed",
                        {v1::COMPONENT_KIND_SDC, sdc.sdc_id},
                        absl::StrCat("volume ", volume.name, ", client ", sdc.name, ": ",
                                     DescribeLimits(row.limits)));
      }
    } else {
      if (volume.limits.any()) concerned = ClientsOf(db, mappings);
      InsertMapping(db, row);
      transaction.changes.topology = true;
      events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_mapped",
                      {v1::COMPONENT_KIND_SDC, sdc.sdc_id},
                      absl::StrCat("volume ", volume.name, " to client ", sdc.name));
    }
    *response->mutable_mapping() = TopologyReader(db, *health_).Mapping(row);
    return absl::OkStatus();
  }));
  // First those that get less by it.
  TellClients(call, response->mapping().volume_id(), concerned, response->mutable_later_sdc_ids());
  Attach(call, sdc, response->mutable_mapping());
  return absl::OkStatus();
}

absl::Status VolumeService::Do(const CallContext& call, const v1::UnmapVolumeRequest& request,
                               v1::UnmapVolumeResponse* response) {
  VolumeRow volume;
  std::optional<SdcRow> sdc;      // absent: nobody has it mapped
  std::vector<SdcRow> remaining;  // whose part of the volume's limits is another by this
  bool shared = false;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(volume, ResolveVolume(db, request.volume_id(), request.volume_name()));
    const auto mappings = ListMappings(db, volume.volume_id);
    if (request.sdc_id() == 0 && request.sdc_name().empty()) {
      if (mappings.size() > 1) {
        return InvalidField("sdc_name", "several clients have the volume mapped: name one");
      }
      if (!mappings.empty()) sdc = FindSdc(db, mappings.front().sdc_id);
      return absl::OkStatus();
    }
    TESSERA_ASSIGN_OR_RETURN(const SdcRow named,
                             ResolveSdc(db, request.sdc_id(), request.sdc_name()));
    if (FindMapping(db, volume.volume_id, named.sdc_id).has_value()) sdc = named;
    return absl::OkStatus();
  }));
  if (sdc.has_value() && !request.force()) {
    const uint64_t moment = fence_->leases().Now();
    const absl::StatusOr<uint64_t> detached =
        control_->DetachVolume(*sdc, volume.volume_id, NodeControl::Detach::kOrderly,
                               std::min(kDetachTimeout, call.TimeLeft(kWaitMax)));
    if (!detached.ok()) {
      LogWarning(
          "client did not detach the volume",
          {{"volume", volume.volume_id}, {"sdc", sdc->sdc_id}, {"error", detached.status()}});
    } else {
      fence_->leases().GiveUpBefore(volume.volume_id, {sdc->sdc_id, *detached}, moment);
    }
  }
  if (sdc.has_value()) YieldForUnmap(call, volume.volume_id, sdc->sdc_id);
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(volume, ResolveVolume(transaction.db, volume.volume_id, ""));
    const auto mapping =
        sdc.has_value() ? FindMapping(transaction.db, volume.volume_id, sdc->sdc_id) : std::nullopt;
    if (!mapping.has_value()) return absl::OkStatus();
    shared = mapping->mode == v1::MAPPING_MODE_SHARED;
    if (volume.writer_sdc_id == sdc->sdc_id) {
      volume.writer_sdc_id = 0;
      UpdateVolumeWriter(transaction.db, volume);
    }
    DeleteMapping(transaction.db, volume.volume_id, sdc->sdc_id);
    if (volume.limits.any() || shared) {
      remaining = ClientsOf(transaction.db, ListMappings(transaction.db, volume.volume_id));
    }
    RaiseGeneration(transaction, &volume, "unmapped");
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_unmapped",
                    {v1::COMPONENT_KIND_SDC, sdc->sdc_id},
                    absl::StrCat("volume ", volume.name, " from client ", sdc->name));
    return absl::OkStatus();
  }));
  response->set_generation(volume.generation);
  if (sdc.has_value()) health_->SetAttached(sdc->sdc_id, volume.volume_id, false);
  // Nothing to take away, and an earlier unmap's promise was kept.
  if (!sdc.has_value() && volume.fenced_generation == volume.generation) return absl::OkStatus();
  TESSERA_ASSIGN_OR_RETURN(
      const FenceReceipt receipt,
      shared ? FenceShared(call, volume)
             : fence_->Run(volume, FencePurpose::kEndOnly, call.TimeLeft(kWaitMax)));
  for (uint64_t sds_id : receipt.confirmed_sds_ids) response->add_confirmed_sds_ids(sds_id);
  for (uint64_t sds_id : receipt.expired_sds_ids) response->add_expired_sds_ids(sds_id);
  // They get more by it, now or when they renew; of a shared volume, in the new generation.
  google::protobuf::RepeatedField<uint64_t> later;
  TellClients(call, volume.volume_id, remaining, &later);
  return absl::OkStatus();
}

absl::Status VolumeService::Do(const CallContext&, const v1::ListFenceReceiptsRequest& request,
                               v1::ListFenceReceiptsResponse* response) {
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    uint64_t volume_id = request.volume_id();
    // The volume may be gone: its receipts are not.
    if (volume_id == 0) {
      TESSERA_ASSIGN_OR_RETURN(const VolumeRow volume, ResolveVolume(db, 0, request.volume_name()));
      volume_id = volume.volume_id;
    }
    std::vector<v1::FenceReceipt> receipts =
        ListFenceReceiptRows(db, volume_id, request.generation());
    if (receipts.empty() && !FindVolume(db, volume_id).has_value() &&
        !WasVolumeDeleted(db, volume_id, "")) {
      return NoSuch("volume", volume_id);
    }
    for (v1::FenceReceipt& receipt : receipts) {
      const auto sds = FindSds(db, receipt.sds_id());
      if (sds.has_value()) receipt.set_sds_name(sds->name);
      const auto key = keys_->SdsKey(receipt.key_id(), receipt.sds_id());
      const std::string message = token::FenceReceiptMessage(
          receipt.volume_id(), receipt.generation(), receipt.sds_id(), receipt.sds_incarnation());
      const std::string& signature = receipt.signature();
      receipt.set_verified(key.has_value() &&
                           token::VerifyMessage(*key, "fence", message,
                                                {reinterpret_cast<const uint8_t*>(signature.data()),
                                                 signature.size()}));
      *response->add_receipts() = std::move(receipt);
    }
    return absl::OkStatus();
  });
}

}  // namespace tessera::mdm
