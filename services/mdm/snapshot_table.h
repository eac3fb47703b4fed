// The branches of vtrees, who sees which layers, and what servers have yet to drop, in mdm.db.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_SNAPSHOT_TABLE_H_
#define TESSERA_SERVICES_MDM_SNAPSHOT_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "services/mdm/volume_table.h"
#include "tessera/v1/cluster_record.pb.h"
#include "tessera/v1/types.pb.h"

namespace tessera::mdm {

// A branch of the vtree that nobody has had, with its ordinal 0 given out.
[[nodiscard]] uint32_t TakeBranch(SQLite::Database& db, uint64_t vtree_id);
// Remembers that writes may have this layer; a lower ordinal than known changes nothing.
void GiveOutLayer(SQLite::Database& db, uint64_t vtree_id, uint64_t layer);
// Who sees what now.
[[nodiscard]] v1::VtreeCatalog ReadCatalog(SQLite::Database& db, uint64_t vtree_id);
// nullopt: there was never a layer but the first.
[[nodiscard]] std::optional<v1::RecordedVtree> ReadVtreeRecord(SQLite::Database& db,
                                                               uint64_t vtree_id);
// REQUIRES: the vtree has no branches yet but its first.
void WriteVtreeRecord(SQLite::Database& db, const v1::RecordedVtree& vtree);

struct PendingLayerDrop {
  uint64_t vtree_id = 0;
  uint64_t revision = 0;
};
// The servers have to look again for layers of the vtree that nobody sees.
void MarkLayerDrops(SQLite::Database& db, uint64_t vtree_id, const std::vector<uint64_t>& sds_ids,
                    uint64_t now_ms);
// A replica was made on the server from one that may not have dropped everything: it has to look
// again at all vtrees of the pool that ever had anything to drop.
void MarkLayerDropsOfServer(SQLite::Database& db, uint64_t pool_id, uint64_t sds_id);
// All servers of the pool, for vtrees that had something to drop and were marked last before
// `before_ms`: a layer can fall out of sight later, when what replaces it is first written.
void MarkLayerDropsAgain(SQLite::Database& db, uint64_t before_ms, uint64_t now_ms);
// Oldest vtree first.
[[nodiscard]] std::vector<PendingLayerDrop> ListPendingLayerDrops(SQLite::Database& db,
                                                                  uint64_t sds_id);
// Pairs of (vtree id, server id).
[[nodiscard]] uint64_t CountPendingLayerDrops(SQLite::Database& db);
// Unless it was marked again since it was asked with this revision.
void ConfirmLayerDrops(SQLite::Database& db, const PendingLayerDrop& drop, uint64_t sds_id);

// An operation that makes snapshots: its id, which is never 0.
[[nodiscard]] uint64_t InsertSnapshotOperation(SQLite::Database& db, uint64_t now_ms);
void SetHeldMicros(SQLite::Database& db, uint64_t operation_id, uint64_t held_micros);
[[nodiscard]] uint64_t HeldMicros(SQLite::Database& db, uint64_t operation_id);
// What it made, in the order in which it was asked for.
[[nodiscard]] std::vector<VolumeRow> ListSnapshotsOfOperation(SQLite::Database& db,
                                                              uint64_t operation_id);
// Those of operations that have not ended.
[[nodiscard]] std::vector<VolumeRow> ListUnfinishedSnapshots(SQLite::Database& db);
void ForgetSnapshotOperations(SQLite::Database& db, uint64_t before_ms);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SNAPSHOT_TABLE_H_
