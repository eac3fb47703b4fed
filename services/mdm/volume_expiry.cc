#include "services/mdm/volume_expiry.h"

#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

std::string Who(const VolumeRow& volume) {
  return absl::StrCat(volume.is_snapshot() ? "snapshot " : "volume ", volume.shown_name(), " (",
                      volume.volume_id, ")");
}

}  // namespace

void VolumeExpiry::Run() {
  std::vector<VolumeRow> due;
  const absl::Status read = store_->Read([&](SQLite::Database& db) {
    for (VolumeRow& row : ListExpired(db, time_->NowMillis())) {
      // Told once; looked at again when they are gone.
      if (row.expiry_waits && CountSnapshots(db, row.volume_id).all > 0) continue;
      due.push_back(std::move(row));
    }
    return absl::OkStatus();
  });
  if (!read.ok()) LogError("reading expired volumes failed", {{"error", read}});
  for (const VolumeRow& row : due) {
    VolumeRow volume;
    if (!Begin(row.volume_id, &volume)) continue;
    if (!volume.trashed()) {
      const absl::Status fenced =
          fence_->Run(volume, FencePurpose::kEndOnly, kFenceTimeout).status();
      if (!fenced.ok()) {
        LogWarning("an expired volume is not fenced yet",
                   {{"volume", volume.volume_id}, {"error", fenced}});
        continue;
      }
    }
    if (const absl::Status ended = End(volume); !ended.ok()) {
      LogWarning("an expired volume is not deleted yet",
                 {{"volume", volume.volume_id}, {"error", ended}});
      continue;
    }
    ended_generations_.erase(volume.volume_id);
    deleted_();
  }
}

bool VolumeExpiry::Begin(uint64_t volume_id, VolumeRow* volume) {
  bool begun = false;
  std::vector<MappingRow> mappings;
  const absl::Status written = store_->Write([&](WriteTransaction& transaction) {
    SQLite::Database& db = transaction.db;
    begun = false;
    mappings.clear();
    const auto row = FindVolume(db, volume_id);
    const uint64_t now = time_->NowMillis();
    if (!row.has_value() || !row->Expired(now)) return absl::OkStatus();
    *volume = *row;
    if (row->locked_until_ms > now) return absl::OkStatus();
    if (const SnapshotCount snapshots = CountSnapshots(db, volume_id); snapshots.all > 0) {
      // One that is being made ends by itself, in either way.
      if (snapshots.ready == 0 || row->expiry_waits) return absl::OkStatus();
      volume->expiry_waits = true;
      UpdateVolumeRow(db, *volume);
      events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "volume_expiry_waits", {},
                      absl::StrCat(Who(*row), " has expired, and has ", snapshots.ready,
                                   " snapshots: it is deleted when these are gone"));
      return absl::OkStatus();
    }
    begun = true;
    mappings = ListMappings(db, volume_id);
    // A run before this one has done it, and the fence is to be finished.
    const auto before = ended_generations_.find(volume_id);
    const bool begun_before =
        mappings.empty() && before != ended_generations_.end() && before->second == row->generation;
    if (row->trashed() || begun_before) return absl::OkStatus();
    for (const MappingRow& mapping : mappings) {
      DeleteMapping(db, volume_id, mapping.sdc_id);
      events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "volume_unmapped",
                      {v1::COMPONENT_KIND_SDC, mapping.sdc_id},
                      absl::StrCat(Who(*row), " from client ", mapping.sdc_id, ": it has expired"));
    }
    RaiseGeneration(transaction, volume, "the volume has expired");
    return absl::OkStatus();
  });
  if (!written.ok()) {
    LogError("taking an expired volume away failed", {{"volume", volume_id}, {"error", written}});
    return false;
  }
  if (begun) ended_generations_[volume_id] = volume->generation;
  for (const MappingRow& mapping : mappings) {
    health_->SetAttached(mapping.sdc_id, volume_id, false);
  }
  return begun;
}

absl::Status VolumeExpiry::End(const VolumeRow& volume) {
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const auto row = FindVolume(db, volume.volume_id);
    if (!row.has_value()) return absl::OkStatus();  // by somebody else
    const uint64_t now = time_->NowMillis();
    // Mapped, snapshotted or given more time meanwhile: what was ended is not all any more.
    if (!row->Expired(now) || row->generation != volume.generation ||
        CountSnapshots(db, row->volume_id).all > 0) {
      return absl::AbortedError("it was used meanwhile");
    }
    if (absl::Status deletable = CheckDeletable(db, *row, now); !deletable.ok()) return deletable;
    RemoveVolume(transaction, *row, now);
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO,
                    row->is_snapshot() ? "snapshot_expired" : "volume_expired", {},
                    absl::StrCat(Who(*row), " had its time, and is deleted"));
    return absl::OkStatus();
  });
}

}  // namespace tessera::mdm
