// TokenService: what servers report as done under grants and tokens.
#include "services/common/status_macros.h"
#include "services/mdm/token_service.h"
#include "services/mdm/token_table.h"

namespace tessera::mdm {

std::vector<LimitGovernor::Use> TokenService::CountedUses(SQLite::Database& db,
                                                          const v1::AckTokensRequest& request) {
  std::vector<LimitGovernor::Use> uses;
  for (const v1::TokenAck& ack : request.acks()) {
    if (ack.counted_operations() == 0) continue;
    const auto token = FindToken(db, ack.token_id());
    if (!token.has_value() || token->record.transaction()) continue;
    uses.push_back({.volume_id = token->record.volume_id(),
                    .sdc_id = token->record.sdc_id(),
                    .operations = ack.counted_operations(),
                    .bytes = static_cast<double>(ack.counted_bytes()),
                    .client_operations = ack.client_operations(),
                    .client_bytes = ack.client_bytes()});
  }
  return uses;
}

absl::Status TokenService::Do(const CallContext& call, const v1::AckTokensRequest& request,
                              v1::AckTokensResponse*) {
  bool taken = false;
  std::vector<LimitGovernor::Use> uses;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) {
    taken = TakeAckReport(transaction.db, call.caller().node_id, request.incarnation(),
                          request.report_sequence());
    if (!taken) return absl::OkStatus();
    for (const v1::TokenAck& ack : request.acks()) AddAck(transaction.db, ack);
    uses = CountedUses(transaction.db, request);
    return absl::OkStatus();
  }));
  if (!taken) return absl::OkStatus();
  governor_->Report(call.caller().node_id, request.covered_ms(), uses, time_->NowMillis());
  for (const v1::TokenAck& ack : request.acks()) {
    acknowledged_.Increment(static_cast<double>(ack.reads() + ack.writes()));
  }
  return absl::OkStatus();
}

}  // namespace tessera::mdm
