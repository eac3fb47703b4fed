#include "services/mdm/shared_writers.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/common/forward_ticket.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/mdm/node_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {

bool SharedWriters::Lives(const SdcRow& sdc, uint64_t volume_id) {
  const auto list = control_->ListAttachments(sdc, kAskTimeout);
  if (!list.ok()) {
    LogInfo("a client does not answer", {{"sdc", sdc.sdc_id}, {"error", list.status()}});
    return false;
  }
  return std::any_of(list->attachments().begin(), list->attachments().end(),
                     [&](const v1::Attachment& entry) { return entry.volume_id() == volume_id; });
}

absl::StatusOr<bool> SharedWriters::WriterGone(uint64_t volume_id, uint64_t asking_sdc_id,
                                               uint64_t generation) {
  std::optional<SdcRow> writer;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    const auto volume = FindVolume(db, volume_id);
    const bool known = volume.has_value() && volume->generation == generation &&
                       volume->writer_sdc_id != asking_sdc_id &&
                       FindMapping(db, volume_id, asking_sdc_id).has_value();
    if (known) writer = FindSdc(db, volume->writer_sdc_id);
    return absl::OkStatus();
  }));
  return writer.has_value() && !Lives(*writer, volume_id);
}

void SharedWriters::SetWriter(WriteTransaction& transaction, uint64_t sdc_id,
                              const std::string& why, VolumeRow* volume) const {
  if (volume->writer_sdc_id == sdc_id) return;
  volume->writer_sdc_id = sdc_id;
  UpdateVolumeWriter(transaction.db, *volume);
  transaction.changes.topology = true;
  const auto sdc = FindSdc(transaction.db, sdc_id);
  events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "volume_writer_changed",
                  {v1::COMPONENT_KIND_SDC, sdc_id},
                  absl::StrCat("volume ", volume->name, " is written by client ",
                               sdc.has_value() ? sdc->name : absl::StrCat(sdc_id), ": ", why));
}

absl::Status SharedWriters::Forward(SQLite::Database& db, const VolumeRow& volume,
                                    const MappingRow& mapping,
                                    v1::AcquireGrantResponse* response) const {
  const auto writer = FindSdc(db, volume.writer_sdc_id);
  const auto pool = FindPool(db, volume.pool_id);
  if (!pool.has_value()) return NoSuch("pool", volume.pool_id);
  if (!writer.has_value()) return absl::UnavailableError("its writer is not known any more");
  const uint64_t now = time_->NowMillis();
  v1::ForwardTarget* target = response->mutable_forward_to();
  target->set_sdc_id(writer->sdc_id);
  *target->mutable_endpoints() = writer->endpoints;
  target->set_generation(volume.generation);
  // As long as the writer's own right when the MDM is away: a new generation ends it before.
  target->set_expiry_ms(now + std::max(rules_.lifetime_ms, rules_.outage_lifetime_ms));
  target->set_volume_size_bytes(volume.size_bytes);
  target->set_chunk_bytes(pool->chunk_bytes());
  ForwardTicket ticket;
  ticket.volume_id = volume.volume_id;
  ticket.generation = volume.generation;
  ticket.writer_sdc_id = writer->sdc_id;
  ticket.sender_sdc_id = mapping.sdc_id;
  ticket.expiry_ms = target->expiry_ms();
  target->set_ticket(
      SignForwardTicket(keys_->NodeSecret("sdc", writer->sdc_id, writer->node_uuid), ticket));
  // No grant, but which mapping this is of, and what time it is.
  response->mutable_grant()->set_mapping_id(mapping.since_generation);
  response->mutable_grant()->set_mdm_time_ms(now);
  return absl::OkStatus();
}

}  // namespace tessera::mdm
