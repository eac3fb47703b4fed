#include "services/mdm/token_table.h"

#include <algorithm>

#include "services/common/sql.h"

namespace tessera::mdm {
namespace {

#define TESSERA_TOKEN_COLUMNS                                                                      \
  "SELECT id, is_transaction, volume_id, sdc_id, generation, key_id, state, issued_ms, expiry_ms," \
  " reads, writes, read_bytes, write_bytes, errors, unacknowledged, end_reason, access, "          \
  "operation,"                                                                                     \
  " outage_expiry_ms, layer FROM token "

TokenRow ReadToken(Sql& query) {
  TokenRow row;
  v1::TokenRecord& record = row.record;
  record.set_token_id(query.Unsigned(0));
  record.set_transaction(query.Bool(1));
  record.set_volume_id(query.Unsigned(2));
  record.set_sdc_id(query.Unsigned(3));
  record.set_generation(query.Unsigned(4));
  record.set_key_id(query.Unsigned32(5));
  record.set_state(static_cast<v1::TokenState>(query.Unsigned(6)));
  record.set_issued_ms(query.Unsigned(7));
  record.set_expiry_ms(query.Unsigned(8));
  record.set_reads(query.Unsigned(9));
  record.set_writes(query.Unsigned(10));
  record.set_read_bytes(query.Unsigned(11));
  record.set_write_bytes(query.Unsigned(12));
  record.set_errors(query.Unsigned(13));
  record.set_unacknowledged(query.Unsigned32(14));
  record.set_end_reason(query.Text(15));
  row.access = static_cast<token::AccessMode>(query.Unsigned(16));
  row.operation = static_cast<token::Operation>(query.Unsigned(17));
  row.outage_expiry_ms = query.Unsigned(18);
  row.layer = query.Unsigned(19);
  return row;
}

v1::TokenRecord ReadRecord(Sql& query) { return ReadToken(query).record; }

}  // namespace

std::optional<TokenRow> FindToken(SQLite::Database& db, uint64_t token_id) {
  return OneRow(Sql(db, TESSERA_TOKEN_COLUMNS "WHERE id = ?", token_id), ReadToken);
}

uint64_t InsertToken(SQLite::Database& db, const TokenRow& row) {
  const v1::TokenRecord& record = row.record;
  Sql(db,
      "INSERT INTO token (is_transaction, volume_id, sdc_id, generation, key_id, access, operation,"
      " state, issued_ms, expiry_ms, outage_expiry_ms, unacknowledged, layer)"
      " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
      record.transaction(), record.volume_id(), record.sdc_id(), record.generation(),
      record.key_id(), row.access, row.operation, v1::TOKEN_STATE_ACTIVE, record.issued_ms(),
      record.expiry_ms(), row.outage_expiry_ms, record.unacknowledged(), row.layer)
      .Run();
  return LastId(db);
}

void RenewToken(SQLite::Database& db, const TokenRow& row) {
  Sql(db,
      "UPDATE token SET key_id = ?, issued_ms = ?, expiry_ms = ?, outage_expiry_ms = ? WHERE id = "
      "?",
      row.record.key_id(), row.record.issued_ms(), row.record.expiry_ms(), row.outage_expiry_ms,
      row.record.token_id())
      .Run();
}

uint32_t RevokeTokens(SQLite::Database& db, uint64_t volume_id, uint64_t generation,
                      const std::string& reason) {
  return static_cast<uint32_t>(
      Sql(db,
          "UPDATE token SET state = ?, end_reason = ? WHERE volume_id = ? AND generation < ?"
          " AND state = ?",
          v1::TOKEN_STATE_REVOKED, reason, volume_id, generation, v1::TOKEN_STATE_ACTIVE)
          .Run());
}

void RevokeWritersBelow(SQLite::Database& db, uint64_t volume_id, uint64_t layer,
                        const std::string& reason) {
  Sql(db,
      "UPDATE token SET state = ?, end_reason = ? WHERE volume_id = ? AND is_transaction = 0"
      " AND access = ? AND layer < ? AND state IN (?, ?)",
      v1::TOKEN_STATE_REVOKED, reason, volume_id, token::AccessMode::kReadWrite, layer,
      v1::TOKEN_STATE_ACTIVE, v1::TOKEN_STATE_EXPIRED)
      .Run();
}

bool HadWriteGrant(SQLite::Database& db, uint64_t volume_id, uint64_t sdc_id,
                   uint64_t since_generation) {
  return Sql(db,
             "SELECT 1 FROM token WHERE volume_id = ? AND generation >= ? AND sdc_id = ?"
             " AND is_transaction = 0 AND access = ?",
             volume_id, since_generation, sdc_id, token::AccessMode::kReadWrite)
      .Next();
}

uint32_t ExpireDueTokens(SQLite::Database& db, uint64_t now_ms) {
  return static_cast<uint32_t>(
      Sql(db,
          "UPDATE token SET state = ?, end_reason = 'ran out' WHERE state = ? AND expiry_ms <= ?",
          v1::TOKEN_STATE_EXPIRED, v1::TOKEN_STATE_ACTIVE, now_ms)
          .Run());
}

uint64_t LatestOutageExpiry(SQLite::Database& db, uint64_t volume_id, uint64_t generation) {
  Sql query(
      db,
      "SELECT ifnull(max(outage_expiry_ms), 0) FROM token WHERE volume_id = ? AND generation < ?",
      volume_id, generation);
  return query.Next() ? query.Unsigned(0) : 0;
}

std::optional<uint64_t> FindActiveWriteTransaction(SQLite::Database& db, uint64_t volume_id) {
  Sql query(db,
            "SELECT id FROM token WHERE volume_id = ? AND is_transaction = 1 AND state = ?"
            " AND operation <> ? LIMIT 1",
            volume_id, v1::TOKEN_STATE_ACTIVE, token::Operation::kRead);
  if (!query.Next()) return std::nullopt;
  return query.Unsigned(0);
}

uint64_t CountTokensUnderKey(SQLite::Database& db, uint32_t key_id, uint64_t now_ms) {
  Sql query(db,
            "SELECT count(*) FROM token WHERE key_id = ? AND state = ? AND outage_expiry_ms > ?",
            key_id, v1::TOKEN_STATE_ACTIVE, now_ms);
  return query.Next() ? query.Unsigned(0) : 0;
}

std::vector<v1::TokenRecord> ListTokenRows(SQLite::Database& db, const TokenFilter& filter) {
  return AllRows(
      Sql(db,
          TESSERA_TOKEN_COLUMNS "WHERE (?1 = 0 OR id < ?1) AND (?2 = 0 OR volume_id = ?2)"
                                " AND (?3 = 0 OR state = 1) ORDER BY id DESC LIMIT ?4",
          filter.before_id, filter.volume_id, filter.active_only, filter.limit),
      ReadRecord);
}

void ReadTokenStats(SQLite::Database& db, v1::GetTokenStatsResponse* stats) {
  Sql states(db, "SELECT state, count(*) FROM token GROUP BY state");
  while (states.Next()) {
    const uint64_t count = states.Unsigned(1);
    switch (static_cast<v1::TokenState>(states.Unsigned(0))) {
      case v1::TOKEN_STATE_ACTIVE:
        stats->set_active(count);
        break;
      case v1::TOKEN_STATE_ACKNOWLEDGED:
        stats->set_acknowledged(count);
        break;
      case v1::TOKEN_STATE_EXPIRED:
        stats->set_expired(count);
        break;
      default:
        stats->set_revoked(count);
    }
  }
  Sql sums(db,
           "SELECT ifnull(sum(reads + writes), 0), ifnull(sum(read_bytes + write_bytes), 0),"
           " ifnull(sum(errors), 0) FROM token");
  if (!sums.Next()) return;
  stats->set_acknowledged_io_total(sums.Unsigned(0));
  stats->set_acknowledged_bytes_total(sums.Unsigned(1));
  stats->set_error_total(sums.Unsigned(2));
}

uint64_t CleanupTokenRows(SQLite::Database& db, uint64_t ended_before_ms, uint64_t now_ms) {
  return static_cast<uint64_t>(
      Sql(db, "DELETE FROM token WHERE state <> ? AND expiry_ms < ? AND outage_expiry_ms < ?",
          v1::TOKEN_STATE_ACTIVE, ended_before_ms, now_ms)
          .Run());
}

bool TakeAckReport(SQLite::Database& db, uint64_t sds_id, uint64_t incarnation,
                   uint64_t report_sequence) {
  // Rows are compared as (incarnation, sequence): a restarted server counts from 1 again.
  return Sql(db,
             "INSERT INTO ack_report VALUES (?1, ?2, ?3) ON CONFLICT (sds_id) DO UPDATE"
             " SET incarnation = ?2, report_sequence = ?3"
             " WHERE incarnation < ?2 OR (incarnation = ?2 AND report_sequence < ?3)",
             sds_id, incarnation, report_sequence)
             .Run() > 0;
}

void AddAck(SQLite::Database& db, const v1::TokenAck& ack) {
  const uint64_t operations = ack.reads() + ack.writes();
  Sql(db,
      "UPDATE token SET reads = reads + ?, writes = writes + ?, read_bytes = read_bytes + ?,"
      " write_bytes = write_bytes + ?, errors = errors + ?,"
      " unacknowledged = max(0, unacknowledged - ?) WHERE id = ?",
      ack.reads(), ack.writes(), ack.read_bytes(), ack.write_bytes(), ack.errors(), operations,
      ack.token_id())
      .Run();
  Sql(db,
      "UPDATE token SET state = ?, end_reason = 'every part was acknowledged'"
      " WHERE id = ? AND is_transaction = 1 AND unacknowledged = 0 AND state = ?",
      v1::TOKEN_STATE_ACKNOWLEDGED, ack.token_id(), v1::TOKEN_STATE_ACTIVE)
      .Run();
}

}  // namespace tessera::mdm
