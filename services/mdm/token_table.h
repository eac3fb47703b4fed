// Tokens and grants, and the acknowledgements of servers, in mdm.db.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_TOKEN_TABLE_H_
#define TESSERA_SERVICES_MDM_TOKEN_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "libtoken/token.h"
#include "services/mdm/node_table.h"
#include "tessera/v1/token.pb.h"

namespace tessera::mdm {

// A record with what its message has no field for.
struct TokenRow {
  v1::TokenRecord record;
  token::AccessMode access = token::AccessMode::kReadOnly;
  token::Operation operation = token::Operation::kRead;  // of a transaction
  uint64_t outage_expiry_ms = 0;
  uint64_t layer = 0;  // that its writes go to; it never changes
};

[[nodiscard]] std::optional<TokenRow> FindToken(SQLite::Database& db, uint64_t token_id);
// Returns the new id; record.token_id is not read.
uint64_t InsertToken(SQLite::Database& db, const TokenRow& row);
// Writes key id, issued, expiry and outage expiry.
void RenewToken(SQLite::Database& db, const TokenRow& row);
// Ends the volume's active tokens of generations below `generation`; returns how many.
uint32_t RevokeTokens(SQLite::Database& db, uint64_t volume_id, uint64_t generation,
                      const std::string& reason);
// Ends the volume's grants for writing to layers below `layer`: a snapshot has them now.
void RevokeWritersBelow(SQLite::Database& db, uint64_t volume_id, uint64_t layer,
                        const std::string& reason);
// Whether the client was given a grant for writing in this generation or a later one, whatever
// became of it: it may hold what it has answered under that, and give it again under its next.
[[nodiscard]] bool HadWriteGrant(SQLite::Database& db, uint64_t volume_id, uint64_t sdc_id,
                                 uint64_t since_generation);
// Marks tokens that have run out; returns how many.
uint32_t ExpireDueTokens(SQLite::Database& db, uint64_t now_ms);

// When the last grant or token of the volume with a generation below `generation` stops being
// honoured by a server that hears nothing of us; 0 when there is none.
[[nodiscard]] uint64_t LatestOutageExpiry(SQLite::Database& db, uint64_t volume_id,
                                          uint64_t generation);
// A write transaction of the volume that is neither done nor over.
[[nodiscard]] std::optional<uint64_t> FindActiveWriteTransaction(SQLite::Database& db,
                                                                 uint64_t volume_id);
// Grants signed under the key that may still be good.
[[nodiscard]] uint64_t CountTokensUnderKey(SQLite::Database& db, uint32_t key_id, uint64_t now_ms);

// Newest first: ids below `before_id` (0: from the newest on).
struct TokenFilter {
  uint64_t before_id = 0;
  uint32_t limit = 100;
  uint64_t volume_id = 0;
  bool active_only = false;
};
[[nodiscard]] std::vector<v1::TokenRecord> ListTokenRows(SQLite::Database& db,
                                                         const TokenFilter& filter);
// Counts by state, and sums of what was acknowledged.
void ReadTokenStats(SQLite::Database& db, v1::GetTokenStatsResponse* stats);
// Forgets what ended before and can't be accepted by any server any more; returns how many.
uint64_t CleanupTokenRows(SQLite::Database& db, uint64_t ended_before_ms, uint64_t now_ms);

// True when the report is new, which is remembered; false for a repeated or older one.
[[nodiscard]] bool TakeAckReport(SQLite::Database& db, uint64_t sds_id, uint64_t incarnation,
                                 uint64_t report_sequence);
// Adds what was done. Unknown tokens are ignored: they were cleaned up.
void AddAck(SQLite::Database& db, const v1::TokenAck& ack);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_TOKEN_TABLE_H_
