// Volumes, mappings and the tombstones of deleted vtrees in mdm.db.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_VOLUME_TABLE_H_
#define TESSERA_SERVICES_MDM_VOLUME_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/mdm/layer_paths.h"
#include "services/mdm/node_table.h"
#include "tessera/v1/volume.pb.h"

namespace tessera::mdm {

// What may be done in a second: volume_limits.h.
struct VolumeLimits {
  uint32_t iops = 0;             // 0: no limit
  uint64_t bandwidth_bytes = 0;  // 0: no limit
  uint32_t burst_seconds = 1;    // how much may be saved up

  [[nodiscard]] bool any() const { return iops != 0 || bandwidth_bytes != 0; }
  friend bool operator==(const VolumeLimits&, const VolumeLimits&) = default;
};

struct VolumeRow {
  uint64_t volume_id = 0;
  std::string name;
  uint64_t pool_id = 0;
  uint64_t vtree_id = 0;
  uint64_t size_bytes = 0;
  v1::Provisioning provisioning = v1::PROVISIONING_THIN;
  uint64_t generation = 1;
  // Every server has confirmed at least this generation, or all older grants have run out.
  uint64_t fenced_generation = 1;
  // In-sync replicas were found or made equal under this generation (I5).
  uint64_t reconciled_generation = 1;
  // The layer that it is written to; of a snapshot the newest that it can have.
  uint64_t snapshot_sequence = 0;
  uint64_t created_ms = 0;
  std::string trashed_name;       // what it was called; in the trash only
  uint64_t trashed_until_ms = 0;  // 0: not in the trash
  VolumeLimits limits;            // of all mappings together
  v1::VolumeKind kind = v1::VOLUME_KIND_VOLUME;
  uint64_t parent_id = 0;  // of a snapshot its volume, of a clone its snapshot
  LayerPath path;          // which layers it sees
  uint64_t locked_until_ms = 0;
  uint64_t operation_id = 0;  // of the snapshot operation that made it; 0: none, or not known
  bool being_made = false;    // a snapshot of which nobody knows yet but its operation
  // Mapped shared: which client has the right to write, or is about to get it; 0: none.
  uint64_t writer_sdc_id = 0;
  uint64_t expires_ms = 0;    // when it deletes itself; 0: never
  bool expiry_waits = false;  // it was told that its snapshots keep it

  [[nodiscard]] bool is_snapshot() const { return kind == v1::VOLUME_KIND_SNAPSHOT; }
  [[nodiscard]] bool trashed() const { return trashed_until_ms > 0; }
  [[nodiscard]] bool Expired(uint64_t now_ms) const {
    return expires_ms > 0 && expires_ms <= now_ms;
  }
  // For people.
  [[nodiscard]] const std::string& shown_name() const { return trashed() ? trashed_name : name; }
};
// The name of a volume in the trash: none that a caller can give.
[[nodiscard]] inline std::string TrashName(uint64_t volume_id) {
  return "~" + std::to_string(volume_id);
}
using VolumeLabels = std::map<std::string, std::string>;

struct MappingRow {
  uint64_t volume_id = 0;
  uint64_t sdc_id = 0;
  v1::MappingMode mode = v1::MAPPING_MODE_READ_WRITE;
  VolumeLimits limits;  // its own
  // The volume's generation when it was mapped. Unmapping raises the generation, so two mappings of
  // one volume to one client never have the same.
  uint64_t since_generation = 0;
};

// Whether the mapping's client is the one that writes the volume.
[[nodiscard]] inline bool IsWriter(const VolumeRow& volume, const MappingRow& mapping) {
  return mapping.mode == v1::MAPPING_MODE_READ_WRITE ||
         (mapping.mode == v1::MAPPING_MODE_SHARED && volume.writer_sdc_id == mapping.sdc_id);
}

struct DeletedVtree {
  uint64_t vtree_id = 0;
  uint64_t volume_id = 0;
  std::string volume_name;
  uint64_t pool_id = 0;
  uint64_t generation = 0;
  uint64_t deleted_ms = 0;
};

// These find snapshots that are being made, too.
[[nodiscard]] std::optional<VolumeRow> FindVolume(SQLite::Database& db, uint64_t volume_id);
[[nodiscard]] std::optional<VolumeRow> FindVolumeByName(SQLite::Database& db,
                                                        const std::string& name);

struct VolumeFilter {
  uint64_t pool_id = 0;       // 0: of all pools
  std::string name_contains;  // empty: all
  std::string label_key;      // empty: all
  std::optional<std::string> label_value;
  std::optional<bool> trashed;                        // absent: all
  v1::VolumeKind kind = v1::VOLUME_KIND_UNSPECIFIED;  // unspecified: all
  uint64_t parent_id = 0;                             // 0: all
  uint64_t vtree_id = 0;                              // 0: all
  uint64_t operation_id = 0;                          // 0: all
  bool with_unfinished = false;                       // snapshots that are being made, too
};
[[nodiscard]] std::vector<VolumeRow> ListVolumeRows(SQLite::Database& db,
                                                    const VolumeFilter& filter = {},
                                                    const Page& page = {});
// Of the pool, or with 0 of all; snapshots count unless a kind says otherwise.
[[nodiscard]] uint64_t CountVolumes(SQLite::Database& db, uint64_t pool_id,
                                    v1::VolumeKind kind = v1::VOLUME_KIND_UNSPECIFIED);
// Snapshots of the volume: those being made, and those in the trash, included.
struct SnapshotCount {
  uint64_t all = 0;
  uint64_t ready = 0;    // the trash included
  uint64_t trashed = 0;  // of those
};
[[nodiscard]] SnapshotCount CountSnapshots(SQLite::Database& db, uint64_t volume_id);
// Makes the vtree, too, unless it is given: with the volume's number, where both are not given.
// Returns the volume with its ids.
VolumeRow InsertVolume(SQLite::Database& db, VolumeRow row);
// Writes name, size, limits, the lock, when it expires, and what the trash knows of it.
void UpdateVolumeRow(SQLite::Database& db, const VolumeRow& row);
[[nodiscard]] VolumeLabels ReadLabels(SQLite::Database& db, uint64_t volume_id);
// Replaces all.
void WriteLabels(SQLite::Database& db, uint64_t volume_id, const VolumeLabels& labels);
// Whose time in the trash is over.
[[nodiscard]] std::vector<VolumeRow> ListDueTrash(SQLite::Database& db, uint64_t now_ms);
// Those that are to delete themselves by now, the trash included; with no snapshot that is being
// made.
[[nodiscard]] std::vector<VolumeRow> ListExpired(SQLite::Database& db, uint64_t now_ms);
// Writes generation, fenced_generation and reconciled_generation.
void UpdateVolumeGenerations(SQLite::Database& db, const VolumeRow& row);
// Writes which client has the right to write.
void UpdateVolumeWriter(SQLite::Database& db, const VolumeRow& row);
// The client has left in good order: others need not wait for it. False: it writes none.
bool ForgetWriter(SQLite::Database& db, uint64_t sdc_id);
// Writes path, layer and whether it is being made.
void UpdateVolumeLayers(SQLite::Database& db, const VolumeRow& row);
// Removes the volume. When it was the last of its vtree, which goes with it, leaves a tombstone to
// be confirmed by each of the servers, and returns true; else they have layers to drop.
bool DeleteVolumeRow(SQLite::Database& db, const VolumeRow& row,
                     const std::vector<uint64_t>& sds_ids, uint64_t now_ms);
// Forgets which volumes were deleted before, of vtrees that went on.
void ForgetDeletedVolumes(SQLite::Database& db, uint64_t before_ms);

[[nodiscard]] std::vector<MappingRow> ListMappings(SQLite::Database& db, uint64_t volume_id);
[[nodiscard]] std::vector<MappingRow> ListMappingsOfSdc(SQLite::Database& db, uint64_t sdc_id);
[[nodiscard]] std::optional<MappingRow> FindMapping(SQLite::Database& db, uint64_t volume_id,
                                                    uint64_t sdc_id);
void InsertMapping(SQLite::Database& db, const MappingRow& row);
// Writes the limits; the mode never changes.
void UpdateMapping(SQLite::Database& db, const MappingRow& row);
void DeleteMapping(SQLite::Database& db, uint64_t volume_id, uint64_t sdc_id);

[[nodiscard]] bool WasVolumeDeleted(SQLite::Database& db, uint64_t volume_id,
                                    const std::string& name);
// Tombstones that the server has not confirmed, oldest first.
[[nodiscard]] std::vector<DeletedVtree> ListPendingDeletions(SQLite::Database& db, uint64_t sds_id);
// Pairs of (vtree id, server id) that are not confirmed.
[[nodiscard]] uint64_t CountPendingDeletions(SQLite::Database& db);
void ConfirmDeletion(SQLite::Database& db, uint64_t vtree_id, uint64_t sds_id);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_VOLUME_TABLE_H_
