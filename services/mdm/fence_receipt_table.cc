#include "services/mdm/fence_receipt_table.h"

#include <string>

#include "absl/strings/escaping.h"
#include "services/common/sql.h"

namespace tessera::mdm {
namespace {

v1::FenceReceipt ReadReceipt(Sql& query) {
  v1::FenceReceipt receipt;
  receipt.set_volume_id(query.Unsigned(0));
  receipt.set_generation(query.Unsigned(1));
  receipt.set_sds_id(query.Unsigned(2));
  receipt.set_proof(static_cast<v1::FenceProof>(query.Unsigned(3)));
  receipt.set_recorded_ms(query.Unsigned(4));
  receipt.set_sds_incarnation(query.Unsigned(5));
  receipt.set_key_id(query.Unsigned32(6));
  receipt.set_signature(absl::HexStringToBytes(query.Text(7)));
  return receipt;
}

}  // namespace

void PutFenceReceipts(SQLite::Database& db, const std::vector<v1::FenceReceipt>& receipts) {
  for (const v1::FenceReceipt& receipt : receipts) {
    Sql(db, "INSERT OR REPLACE INTO fence_receipt VALUES (?,?,?,?,?,?,?,?)", receipt.volume_id(),
        receipt.generation(), receipt.sds_id(), receipt.proof(), receipt.recorded_ms(),
        receipt.sds_incarnation(), receipt.key_id(), absl::BytesToHexString(receipt.signature()))
        .Run();
  }
  if (receipts.empty()) return;
  Sql(db,
      "DELETE FROM fence_receipt WHERE volume_id = ?1 AND generation <= (SELECT generation FROM "
      "(SELECT DISTINCT generation FROM fence_receipt WHERE volume_id = ?1 ORDER BY generation "
      "DESC "
      "LIMIT 1 OFFSET ?2))",
      receipts.front().volume_id(), kFenceGenerationsKept)
      .Run();
}

std::vector<v1::FenceReceipt> ListFenceReceiptRows(SQLite::Database& db, uint64_t volume_id,
                                                   uint64_t generation) {
  return AllRows(
      Sql(db,
          "SELECT volume_id, generation, sds_id, proof, recorded_ms, sds_incarnation, key_id, "
          "signature FROM fence_receipt WHERE volume_id = ?1 AND (?2 = 0 OR generation = ?2) "
          "ORDER BY generation DESC, sds_id",
          volume_id, generation),
      ReadReceipt);
}

uint64_t ForgetFenceReceipts(SQLite::Database& db, uint64_t before_ms) {
  return static_cast<uint64_t>(
      Sql(db,
          "DELETE FROM fence_receipt WHERE recorded_ms < ? AND volume_id NOT IN (SELECT id FROM "
          "volume)",
          before_ms)
          .Run());
}

}  // namespace tessera::mdm
