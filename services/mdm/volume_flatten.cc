// VolumeService: a path of one part for a clone of clones (docs/decisions/0010-snapshots.md,
// "Flattening").
#include <algorithm>
#include <chrono>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/snapshot_table.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFlattenMax{600'000};
// Kept back of the caller's time, so that it hears how it ended.
constexpr milliseconds kFlattenReserve{300};

struct Writer {
  VolumeRow volume;
  std::optional<SdcRow> sdc;  // who writes it
};

std::string Who(const VolumeRow& volume) {
  return absl::StrCat("volume ", volume.name, " (", volume.volume_id, ")");
}

absl::StatusOr<Writer> FindWriter(SQLite::Database& db, const v1::FlattenVolumeRequest& request) {
  Writer writer;
  TESSERA_ASSIGN_OR_RETURN(writer.volume,
                           ResolveVolume(db, request.volume_id(), request.volume_name()));
  TESSERA_RETURN_IF_ERROR(CheckNotTrashed(writer.volume));
  TESSERA_RETURN_IF_ERROR(CheckNotSnapshot(writer.volume));
  for (const MappingRow& mapping : ListMappings(db, writer.volume.volume_id)) {
    if (mapping.mode != v1::MAPPING_MODE_READ_WRITE) continue;
    if (auto sdc = FindSdc(db, mapping.sdc_id)) writer.sdc = *std::move(sdc);
  }
  return writer;
}

bool IsFlat(const VolumeRow& volume) { return volume.path.size() <= 1; }

// What the client's error means to the caller.
absl::Status Failed(const Writer& writer, const absl::Status& status) {
  const bool silent = absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status);
  const absl::StatusCode code = silent ? absl::StatusCode::kUnavailable : status.code();
  return absl::Status(
      code, absl::StrCat("client ", writer.sdc->name, " (", writer.sdc->sdc_id, "), which writes ",
                         Who(writer.volume), ": ", std::string(status.message()),
                         silent ? ": what it has done counts when this is called again" : ""));
}

}  // namespace

absl::Status VolumeService::Flatten(const CallContext& call,
                                    const v1::FlattenVolumeRequest& request,
                                    v1::FlattenVolumeResponse* response) {
  Writer writer;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(writer, FindWriter(db, request));
    *response->mutable_volume() = TopologyReader(db, *health_).Volume(writer.volume);
    return absl::OkStatus();
  }));
  if (IsFlat(writer.volume)) return absl::OkStatus();
  if (!writer.sdc.has_value()) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          Who(writer.volume),
                          " is mapped to nobody for writing: map it, so that a client can give it "
                          "layers of its own")),
                      "NO_WRITER");
  }
  v1::AdoptLayersRequest adopt;
  adopt.set_volume_id(writer.volume.volume_id);
  adopt.set_generation(writer.volume.generation);
  const milliseconds left = std::max(milliseconds(1), call.TimeLeft(kFlattenMax) - kFlattenReserve);
  const absl::Status adopted = control_->AdoptLayers(*writer.sdc, adopt, left);
  if (!adopted.ok()) return Failed(writer, adopted);
  // What the volume sees by its old path it sees by its own branch alone, and that stays so,
  // whoever writes it since: only another path is another matter.
  VolumeRow volume;
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    v1::FlattenVolumeRequest again;
    again.set_volume_id(writer.volume.volume_id);
    TESSERA_ASSIGN_OR_RETURN(const Writer now, FindWriter(db, again));
    volume = now.volume;
    if (volume.path != writer.volume.path) {
      return WithReason(absl::AbortedError(absl::StrCat(
                            Who(volume), " was rolled back or flattened meanwhile: try again")),
                        "VOLUME_MOVED_ON");
    }
    volume.path.resize(1);
    UpdateVolumeLayers(db, volume);
    MarkLayerDrops(db, volume.vtree_id, ServersOfPool(db, volume.pool_id), time_->NowMillis());
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_flattened", {},
                    absl::StrCat(Who(volume), ", which had ", writer.volume.path.size(),
                                 " branches on its path"));
    *response->mutable_volume() = TopologyReader(db, *health_).Volume(volume);
    return absl::OkStatus();
  });
}

absl::Status VolumeService::Do(const CallContext& call, const v1::FlattenVolumeRequest& request,
                               v1::FlattenVolumeResponse* response) {
  const absl::Status flattened = Flatten(call, request, response);
  if (!flattened.ok()) return flattened;
  std::vector<SdcRow> clients;
  const uint64_t volume_id = response->volume().volume_id();
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    clients = ClientsOf(db, ListMappings(db, volume_id));
    return absl::OkStatus();
  }));
  // It need not know: its old path means the same. But a depth of one is shown to servers then.
  google::protobuf::RepeatedField<uint64_t> later;
  TellClients(call, volume_id, clients, &later);
  deleted_();
  return absl::OkStatus();
}

}  // namespace tessera::mdm
