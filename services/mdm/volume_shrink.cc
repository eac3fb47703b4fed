// VolumeService: making a volume smaller. The client that writes it discards what lies beyond the
// new end, in the order of its writes; then the row gets the new size.
#include <algorithm>
#include <chrono>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/token_table.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kShrinkMax{600'000};
constexpr milliseconds kTellTimeout{5'000};
// Kept back of the caller's time, so that it hears how it ended.
constexpr milliseconds kShrinkReserve{300};

struct Writer {
  VolumeRow volume;
  SdcRow sdc;
};

std::string Name(const VolumeRow& volume) {
  return absl::StrCat("volume ", volume.name, " (", volume.volume_id, ")");
}

absl::StatusOr<Writer> FindWriter(SQLite::Database& db, const v1::UpdateVolumeRequest& request) {
  Writer writer;
  TESSERA_ASSIGN_OR_RETURN(writer.volume,
                           ResolveVolume(db, request.volume_id(), request.volume_name()));
  TESSERA_RETURN_IF_ERROR(CheckNotTrashed(writer.volume));
  TESSERA_RETURN_IF_ERROR(CheckNotSnapshot(writer.volume));
  for (const MappingRow& mapping : ListMappings(db, writer.volume.volume_id)) {
    if (!IsWriter(writer.volume, mapping)) continue;
    const auto sdc = FindSdc(db, mapping.sdc_id);
    if (!sdc.has_value()) continue;
    writer.sdc = *sdc;
    return writer;
  }
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        Name(writer.volume),
                        " is mapped to nobody for writing: map it, so that a client can "
                        "discard what lies beyond the new end")),
                    "NO_WRITER");
}

absl::Status ByWriter(const Writer& writer, const absl::Status& status) {
  return absl::Status(
      absl::IsDeadlineExceeded(status) ? absl::StatusCode::kUnavailable : status.code(),
      absl::StrCat("client ", writer.sdc.name, " (", writer.sdc.sdc_id, "), which writes ",
                   Name(writer.volume), ": ", std::string(status.message())));
}

}  // namespace

absl::StatusOr<bool> VolumeService::WantsShrink(const v1::UpdateVolumeRequest& request) const {
  const auto& paths = request.update_mask().paths();
  if (!request.allow_shrink() || std::count(paths.begin(), paths.end(), "size_bytes") == 0) {
    return false;
  }
  uint64_t present = 0;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const VolumeRow volume,
                             ResolveVolume(db, request.volume_id(), request.volume_name()));
    present = volume.size_bytes;
    return absl::OkStatus();
  }));
  if (request.volume().size_bytes() >= present) return false;
  TESSERA_RETURN_IF_ERROR(CheckVolumeSize("volume.size_bytes", request.volume().size_bytes()));
  if (paths.size() == 1) return true;
  return WithReason(
      absl::FailedPreconditionError("a volume is made smaller by a call that changes nothing else"),
      "SHRINK_ALONE");
}

// The row gets the size only while the client that discarded is the volume's writer still, and in
// the same life: it takes nothing beyond the new end.
absl::Status VolumeService::Shrink(const CallContext& call, const v1::UpdateVolumeRequest& request,
                                   v1::UpdateVolumeResponse* response) {
  Writer writer;
  const auto find_writer = [&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(writer, FindWriter(db, request));
    return absl::OkStatus();
  };
  TESSERA_RETURN_IF_ERROR(store_->Read(find_writer));
  // It may not have heard of the present size yet. If it did later, it would take that for a
  // volume that grew, and write beyond the new end.
  const absl::Status told = control_
                                ->AttachVolume(writer.sdc, writer.volume.volume_id,
                                               std::min(kTellTimeout, call.TimeLeft(kShrinkMax)))
                                .status();
  if (!told.ok()) return ByWriter(writer, told);
  TESSERA_RETURN_IF_ERROR(store_->Read(find_writer));
  v1::ShrinkVolumeRequest shrink;
  shrink.set_volume_id(writer.volume.volume_id);
  shrink.set_generation(writer.volume.generation);
  shrink.set_size_bytes(request.volume().size_bytes());
  const milliseconds left = std::max(milliseconds(1), call.TimeLeft(kShrinkMax) - kShrinkReserve);
  if (const absl::Status shrunk = control_->ShrinkVolume(writer.sdc, shrink, left); !shrunk.ok()) {
    return ByWriter(writer, shrunk);
  }
  std::vector<SdcRow> concerned;
  VolumeRow volume;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    TESSERA_ASSIGN_OR_RETURN(const Writer now, FindWriter(db, request));
    volume = now.volume;
    if (volume.generation != writer.volume.generation || now.sdc.sdc_id != writer.sdc.sdc_id ||
        now.sdc.incarnation != writer.sdc.incarnation ||
        volume.size_bytes != writer.volume.size_bytes) {
      return WithReason(
          absl::AbortedError(absl::StrCat(Name(volume),
                                          " was unmapped, taken over or resized meanwhile, or its "
                                          "client was restarted: try again")),
          "VOLUME_MOVED_ON");
    }
    volume.size_bytes = shrink.size_bytes();
    UpdateVolumeRow(db, volume);
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_resized", {},
                    absl::StrCat(Name(volume), " from ", writer.volume.size_bytes, " to ",
                                 volume.size_bytes, " bytes"));
    concerned = ClientsOf(db, ListMappings(db, volume.volume_id));
    *response->mutable_volume() = TopologyReader(db, *health_).Volume(volume);
    return absl::OkStatus();
  }));
  TellClients(call, volume.volume_id, concerned, response->mutable_later_sdc_ids());
  return absl::OkStatus();
}

}  // namespace tessera::mdm
