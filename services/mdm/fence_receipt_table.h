// The proofs of fences in mdm.db: for each volume and generation, a line for each server of the
// pool (FenceReceipt in volume.proto). They outlive volumes and servers.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_FENCE_RECEIPT_TABLE_H_
#define TESSERA_SERVICES_MDM_FENCE_RECEIPT_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <vector>

#include "tessera/v1/volume.pb.h"

namespace tessera::mdm {

inline constexpr uint64_t kFenceGenerationsKept = 100;  // of a volume

// Writes the lines of one fence (a repeated fence of a generation writes them anew), and forgets
// what is too many generations old.
void PutFenceReceipts(SQLite::Database& db, const std::vector<v1::FenceReceipt>& receipts);
// Newest generation first, then by server; `generation` 0: all. Names and `verified` are not filled
// in.
[[nodiscard]] std::vector<v1::FenceReceipt> ListFenceReceiptRows(SQLite::Database& db,
                                                                 uint64_t volume_id,
                                                                 uint64_t generation);
// Those of volumes that are gone and that were recorded before `before_ms`. Returns how many went.
uint64_t ForgetFenceReceipts(SQLite::Database& db, uint64_t before_ms);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_FENCE_RECEIPT_TABLE_H_
