#include "services/mdm/token_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/cache_leases.h"
#include "services/mdm/membership_rules.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/transaction_plan.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWaitMax{600'000};

absl::StatusOr<token::Operation> OperationOf(v1::IoOperationType type) {
  switch (type) {
    case v1::IO_OPERATION_TYPE_READ:
      return token::Operation::kRead;
    case v1::IO_OPERATION_TYPE_WRITE:
      return token::Operation::kWrite;
    case v1::IO_OPERATION_TYPE_WRITE_ZEROES:
      return token::Operation::kWriteZeroes;
    case v1::IO_OPERATION_TYPE_TRIM:
      return token::Operation::kTrim;
    default:
      return InvalidField("operation", absl::StrCat(v1::IoOperationType_Name(type),
                                                    " is not read, write, write-zeroes or trim"));
  }
}

// What a signed operation on the wire binds; a map is a read.
token::IoToken TokenOf(const v1::IoOperation& operation) {
  token::IoToken token;
  token.operation = operation.type() == v1::IO_OPERATION_TYPE_FLUSH ? token::Operation::kFlush
                                                                    : token::Operation::kRead;
  if (const auto known = OperationOf(operation.type()); known.ok()) token.operation = *known;
  token.grant_id = operation.grant_id();
  token.generation = operation.generation();
  token.placement_group_id = operation.placement_group_id();
  token.epoch = operation.epoch();
  token.counter = operation.counter();
  token.chunk_index = operation.chunk_index();
  token.snapshot_sequence = operation.snapshot_sequence();
  token.offset_bytes = operation.offset_bytes();
  token.length_bytes = operation.length_bytes();
  token.data_crc32c = operation.unbound_data() ? 0 : operation.data_crc32c();
  token.binds_data = !operation.unbound_data();
  token.sds_incarnation = operation.sds_incarnation();
  return token;
}

absl::Status NotMapped(const VolumeRow& volume, uint64_t sdc_id) {
  return WithReason(absl::PermissionDeniedError(absl::StrCat("volume ", volume.volume_id,
                                                             " is not mapped to client ", sdc_id)),
                    "NOT_MAPPED");
}

absl::Status MovedOn(const VolumeRow& volume, uint64_t generation) {
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "volume ", volume.volume_id, " is at generation ", volume.generation,
                        ", not ", generation, ": acquire a new grant")),
                    "GENERATION_MOVED", {{"generation", absl::StrCat(volume.generation)}});
}

// In a generation that still stands: its client writes to a later layer since, under another.
absl::Status Ended(const VolumeRow& volume, const v1::TokenRecord& record) {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("grant ", record.token_id(), " of volume ", volume.volume_id,
                                     " ended: ", record.end_reason(), "; acquire a new one")),
                    "GENERATION_MOVED", {{"generation", absl::StrCat(volume.generation)}});
}

}  // namespace

TokenService::TokenService(RpcDispatcher* rpc, const GrantRules& rules, MdmStore* store,
                           ClusterKeys* keys, VolumeFence* fence, MapPublisher* publisher,
                           const HealthMonitor* health, LimitGovernor* governor,
                           NodeControl* control, const EventLog* events, const MdmTime* time,
                           MetricRegistry* metrics)
    : rpc_(rpc),
      store_(store),
      keys_(keys),
      issuer_(rules, keys, time),
      shared_(rules, store, control, keys, events, time),
      fence_(fence),
      publisher_(publisher),
      health_(health),
      governor_(governor),
      events_(events),
      time_(time),
      issued_(metrics->Counter("tessera_mdm_tokens_issued_total", "Grants and tokens given out.")),
      renewed_(metrics->Counter("tessera_mdm_grants_renewed_total", "Grants renewed.")),
      acknowledged_(metrics->Counter("tessera_mdm_acknowledged_operations_total",
                                     "Operations that servers reported as done.")) {}

// Not by way of the watch, which may be behind: until a client has a group's newest entry, it could
// read from a replica that has left since and does not know.
void TokenService::AddMap(SQLite::Database& db, uint64_t pool_id,
                          const v1::AcquireGrantRequest& request,
                          v1::AcquireGrantResponse* response) const {
  const auto& known = request.known_pools();
  const bool newest = std::any_of(known.begin(), known.end(), [&](const v1::KnownPool& pool) {
    return pool.pool_id() == pool_id && pool.epoch_sum() == EpochSum(db, pool_id);
  });
  if (newest) return;
  for (const v1::PlacementGroup& group : ListPlacementGroupRows(db, pool_id)) {
    *response->add_placement_groups() = keys_->SignGroup(group);
  }
}

void TokenService::NoteLimits(const v1::IssuedGrant& issued) {
  const auto grant = token::DecodeGrant(issued.grant());
  if (!grant.ok()) return;  // it is ours
  governor_->Granted(grant->volume_id, grant->sdc_id,
                     {grant->iops_limit, grant->bandwidth_limit_bytes, grant->burst_seconds},
                     static_cast<size_t>(issued.keys_size()), grant->issued_ms);
}

absl::StatusOr<bool> TokenService::BeginGrant(const v1::AcquireGrantRequest& request,
                                              uint64_t sdc_id, VolumeRow* volume,
                                              MappingRow* mapping,
                                              v1::AcquireGrantResponse* response) {
  const uint64_t unreachable = request.unreachable_generation();
  bool gone = false;
  if (unreachable != 0) {
    TESSERA_ASSIGN_OR_RETURN(gone, shared_.WriterGone(request.volume_id(), sdc_id, unreachable));
  }
  bool forward = false;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    TESSERA_ASSIGN_OR_RETURN(*volume, ResolveVolume(db, request.volume_id(), ""));
    const auto mapped = FindMapping(db, volume->volume_id, sdc_id);
    if (!mapped.has_value()) return NotMapped(*volume, sdc_id);
    *mapping = *mapped;
    if (mapping->mode == v1::MAPPING_MODE_SHARED) {
      const bool taken = gone && volume->generation == unreachable;
      forward = volume->writer_sdc_id != 0 && volume->writer_sdc_id != sdc_id && !taken;
      if (forward) return shared_.Forward(db, *volume, *mapping, response);
      shared_.SetWriter(transaction, sdc_id,
                        taken ? "the client before does not answer" : "nobody had the right",
                        volume);
    }
    if (IsWriter(*volume, *mapping)) RaiseGeneration(transaction, volume, "a new writer");
    return absl::OkStatus();
  }));
  return forward;
}

absl::Status TokenService::Do(const CallContext& call, const v1::AcquireGrantRequest& request,
                              v1::AcquireGrantResponse* response) {
  const uint64_t sdc_id = call.caller().node_id;
  fence_->leases().GiveUp(request.volume_id(), {sdc_id, request.incarnation()},
                          request.given_up_generation());
  VolumeRow volume;
  MappingRow mapping;
  TESSERA_ASSIGN_OR_RETURN(const bool forward,
                           BeginGrant(request, sdc_id, &volume, &mapping, response));
  if (forward) return absl::OkStatus();
  if (volume.reconciled_generation != volume.generation) {
    TESSERA_RETURN_IF_ERROR(
        fence_->Run(volume, FencePurpose::kReconcile, call.TimeLeft(kWaitMax)).status());
  }
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    TESSERA_ASSIGN_OR_RETURN(const VolumeRow now, ResolveVolume(db, volume.volume_id, ""));
    if (now.generation != volume.generation) return MovedOn(now, volume.generation);
    // A grant that nobody receives would be waited for by the next fence that a server is silent
    // in.
    if (call.cancelled() || call.TimeLeft(kWaitMax).count() == 0) {
      return absl::CancelledError("nobody waits for this grant any more");
    }
    const auto mapped = FindMapping(db, volume.volume_id, sdc_id);
    if (!mapped.has_value()) return NotMapped(volume, sdc_id);
    // It was passed on meanwhile, or the client said goodbye.
    if (mapped->mode == v1::MAPPING_MODE_SHARED && !IsWriter(now, *mapped)) {
      return MovedOn(now, volume.generation);
    }
    response->Clear();
    AddMap(db, volume.pool_id, request, response);
    return issuer_.Give(db, now, *mapped, response->mutable_grant());
  });
  if (!status.ok()) return status;
  issued_.Increment();
  NoteLimits(response->grant());
  return status;
}

absl::Status TokenService::Do(const CallContext& call, const v1::RenewGrantRequest& request,
                              v1::RenewGrantResponse* response) {
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const std::optional<TokenRow> row = FindToken(db, request.token_id());
    if (!row.has_value()) {
      // Forgotten, as after this database was made anew: whether the volume is still the client's,
      // the next grant says.
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat("grant ", request.token_id(),
                                                     " is not known any more: acquire a new one")),
          "GRANT_UNKNOWN");
    }
    if (row->record.transaction() || row->record.sdc_id() != call.caller().node_id) {
      return WithReason(
          absl::PermissionDeniedError(absl::StrCat("grant ", request.token_id(),
                                                   " is none of client ", call.caller().node_id)),
          "NOT_YOUR_GRANT");
    }
    const auto volume = FindVolume(db, row->record.volume_id());
    if (!volume.has_value()) return NoSuch("volume", row->record.volume_id());
    const auto mapped = FindMapping(db, volume->volume_id, row->record.sdc_id());
    if (!mapped.has_value()) return NotMapped(*volume, row->record.sdc_id());
    // A grant that ran out may be renewed: its generation still stands, so nobody came between.
    if (volume->generation != row->record.generation()) {
      return MovedOn(*volume, row->record.generation());
    }
    if (row->record.state() == v1::TOKEN_STATE_REVOKED) return Ended(*volume, row->record);
    return issuer_.Renew(db, *volume, *mapped, *row, response->mutable_grant());
  });
  if (!status.ok()) return status;
  renewed_.Increment();
  NoteLimits(response->grant());
  return status;
}

absl::StatusOr<std::vector<PlannedPart>> TokenService::GatherParts(
    SQLite::Database& db, const v1::StoragePool& pool, const std::vector<PlannedPiece>& pieces,
    token::Operation operation) const {
  const bool read = operation == token::Operation::kRead;
  std::vector<PlannedPart> parts;
  for (const PlannedPiece& piece : pieces) {
    const auto group = FindPlacementGroup(db, piece.placement_group_id);
    if (!group.has_value()) return NoSuch("placement group", piece.placement_group_id);
    if (!read && InSyncCount(*group) < pool.min_replicas()) {
      return absl::UnavailableError(absl::StrCat("placement group ", piece.placement_group_id,
                                                 " has fewer than ", pool.min_replicas(),
                                                 " replicas in sync"));
    }
    bool reachable = false;
    for (const v1::Replica& replica : group->replicas()) {
      const bool takes_part = replica.role() == v1::REPLICA_ROLE_IN_SYNC ||
                              (!read && replica.role() == v1::REPLICA_ROLE_LEARNER);
      if (!takes_part) continue;
      const auto sds = FindSds(db, replica.sds_id());
      const bool alive = health_->Reachable({v1::COMPONENT_KIND_SDS, replica.sds_id()});
      if (!sds.has_value() || (read && !alive)) continue;
      reachable = reachable || alive;
      parts.push_back({piece, group->epoch(), *sds});
    }
    if (!reachable) {
      return absl::UnavailableError(absl::StrCat("no server with placement group ",
                                                 piece.placement_group_id, " can be reached"));
    }
  }
  return parts;
}

absl::Status TokenService::SignParts(const token::Grant& grant,
                                     const std::vector<PlannedPart>& parts,
                                     v1::IoOperationType type,
                                     v1::RequestTokenResponse* response) const {
  const std::string grant_bytes = token::EncodeGrant(grant);
  uint64_t counter = 0;
  for (const PlannedPart& part : parts) {
    const auto sds_key = keys_->SdsKey(grant.key_id, part.sds.sds_id);
    if (!sds_key.has_value()) return absl::AbortedError("the cluster secret was just revoked");
    v1::PlannedOperation* planned = response->add_plan();
    planned->set_volume_offset_bytes(part.piece.volume_offset_bytes);
    planned->set_sds_id(part.sds.sds_id);
    *planned->mutable_endpoints() = part.sds.endpoints;
    planned->mutable_operation()->set_grant(grant_bytes);
    v1::IoOperation* io = planned->mutable_operation()->mutable_operation();
    io->set_tag(++counter);
    io->set_type(type);
    io->set_grant_id(grant.grant_id);
    io->set_generation(grant.generation);
    io->set_placement_group_id(part.piece.placement_group_id);
    io->set_epoch(part.epoch);
    io->set_counter(type == v1::IO_OPERATION_TYPE_READ ? counter : part.piece.sequence);
    io->set_chunk_index(part.piece.chunk_index);
    io->set_snapshot_sequence(grant.snapshot_sequence);
    io->set_offset_bytes(part.piece.offset_in_chunk_bytes);
    io->set_length_bytes(part.piece.length_bytes);
    io->set_unbound_data(true);
    io->set_sds_incarnation(part.sds.incarnation);
    const token::Signature signature =
        token::GrantKey::Derive(*sds_key, grant_bytes).Sign(TokenOf(*io));
    io->set_signature(signature.data(), signature.size());
  }
  response->set_token_id(grant.grant_id);
  response->set_expiry_ms(grant.expiry_ms);
  const auto secret = keys_->ClusterSecret(grant.key_id);
  if (!secret.has_value()) return absl::AbortedError("the cluster secret was just revoked");
  const token::Key hmac = token::SignMessage(*secret, "token", grant_bytes);
  response->set_hmac(hmac.data(), hmac.size());
  return absl::OkStatus();
}

absl::Status TokenService::Plan(WriteTransaction& transaction, const VolumeRow& volume,
                                const v1::RequestTokenRequest& request,
                                v1::RequestTokenResponse* response) {
  SQLite::Database& db = transaction.db;
  const auto pool = FindPool(db, volume.pool_id);
  if (!pool.has_value()) return NoSuch("pool", volume.pool_id);
  TESSERA_ASSIGN_OR_RETURN(const token::Operation operation, OperationOf(request.operation()));
  const VolumeShape shape{volume.size_bytes, volume.vtree_id, volume.pool_id, pool->chunk_bytes(),
                          pool->placement_group_count()};
  const std::vector<PlannedPiece> pieces =
      SplitByChunk(shape, {request.offset_bytes(), request.length_bytes()});
  TESSERA_ASSIGN_OR_RETURN(const std::vector<PlannedPart> parts,
                           GatherParts(db, *pool, pieces, operation));
  token::Grant grant = issuer_.Draft(db, volume, *pool);
  const uint32_t lifetime = request.lifetime_ms() == 0
                                ? kTransactionLifetimeMillis
                                : std::min(request.lifetime_ms(), kTransactionLifetimeMaxMillis);
  grant.access = token::AccessMode::kTransaction;
  grant.expiry_ms = grant.outage_expiry_ms = grant.issued_ms + lifetime;
  grant.transaction_operation = operation;
  grant.transaction_offset_bytes = request.offset_bytes();
  grant.transaction_length_bytes = request.length_bytes();
  TokenRow row;
  row.access = grant.access;
  row.operation = operation;
  row.outage_expiry_ms = grant.outage_expiry_ms;
  row.layer = grant.snapshot_sequence;
  row.record.set_transaction(true);
  row.record.set_volume_id(volume.volume_id);
  row.record.set_generation(grant.generation);
  row.record.set_key_id(grant.key_id);
  row.record.set_issued_ms(grant.issued_ms);
  row.record.set_expiry_ms(grant.expiry_ms);
  // One replica of each piece is enough for a read, a write is done by all.
  const bool read = operation == token::Operation::kRead;
  row.record.set_unacknowledged(static_cast<uint32_t>(read ? pieces.size() : parts.size()));
  grant.grant_id = InsertToken(db, row);
  return SignParts(grant, parts, request.operation(), response);
}

absl::Status TokenService::Do(const CallContext& call, const v1::RequestTokenRequest& request,
                              v1::RequestTokenResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const token::Operation operation, OperationOf(request.operation()));
  VolumeRow volume;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    TESSERA_ASSIGN_OR_RETURN(volume, ResolveVolume(db, request.volume_id(), request.volume_name()));
    TESSERA_RETURN_IF_ERROR(CheckNotTrashed(volume));
    TESSERA_RETURN_IF_ERROR(CheckRange(VolumeShape{.size_bytes = volume.size_bytes},
                                       {request.offset_bytes(), request.length_bytes()}));
    if (operation == token::Operation::kRead) return absl::OkStatus();
    TESSERA_RETURN_IF_ERROR(CheckNotSnapshot(volume));
    for (const MappingRow& mapping : ListMappings(db, volume.volume_id)) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "volume ", volume.name, " is mapped to client ", mapping.sdc_id)),
                        "VOLUME_MAPPED", {{"sdc_id", absl::StrCat(mapping.sdc_id)}});
    }
    (void)ExpireDueTokens(db, time_->NowMillis());
    if (const auto other = FindActiveWriteTransaction(db, volume.volume_id)) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "write token ", *other, " for volume ", volume.name, " is out")),
                        "WRITE_TOKEN_OUT", {{"token_id", absl::StrCat(*other)}});
    }
    RaiseGeneration(transaction, &volume, "a write token");
    RecordWriteToken(db, volume.volume_id, volume.generation);
    return absl::OkStatus();
  }));
  if (volume.reconciled_generation != volume.generation) {
    TESSERA_RETURN_IF_ERROR(
        fence_->Run(volume, FencePurpose::kReconcile, call.TimeLeft(kWaitMax)).status());
  }
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const VolumeRow now,
                             ResolveVolume(transaction.db, volume.volume_id, ""));
    TESSERA_RETURN_IF_ERROR(CheckNotTrashed(now));
    if (now.generation != volume.generation) return MovedOn(now, volume.generation);
    response->Clear();
    return Plan(transaction, now, request, response);
  });
  if (status.ok()) issued_.Increment();
  return status;
}

absl::Status TokenService::Do(const CallContext&, const v1::VerifyTokenRequest& request,
                              v1::VerifyTokenResponse* response) {
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    const auto refuse = [&](token::Refusal refusal) {
      response->set_valid(refusal == token::Refusal::kNone);
      if (!response->valid()) response->set_refusal(std::string(token::RefusalName(refusal)));
      return absl::OkStatus();
    };
    const auto sds = FindSds(db, request.sds_id());
    if (!sds.has_value()) return NoSuch("server", request.sds_id());
    const std::string& bytes = request.operation().grant();
    const absl::StatusOr<token::Grant> grant = token::DecodeGrant(bytes);
    if (!grant.ok()) return refuse(token::Refusal::kNoToken);
    const auto sds_key = keys_->SdsKey(grant->key_id, request.sds_id());
    if (!sds_key.has_value()) return refuse(token::Refusal::kUnknownKey);
    const v1::IoOperation& operation = request.operation().operation();
    const auto volume = FindVolume(db, grant->volume_id);
    const uint64_t now = time_->NowMillis();
    const std::string& signature = operation.signature();
    return refuse(token::CheckToken(
        *grant, token::GrantKey::Derive(*sds_key, bytes), TokenOf(operation),
        {reinterpret_cast<const uint8_t*>(signature.data()), signature.size()}, sds->incarnation,
        volume.has_value() ? volume->generation : UINT64_MAX, token::MdmTime{now, now, true}));
  });
}

absl::Status TokenService::Do(const CallContext&, const v1::GetTokenRequest& request,
                              v1::GetTokenResponse* response) {
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    const auto row = FindToken(db, request.token_id());
    if (!row.has_value()) return NoSuch("token", request.token_id());
    *response->mutable_token() = row->record;
    return absl::OkStatus();
  });
}

absl::Status TokenService::Do(const CallContext&, const v1::GetTokenStatsRequest&,
                              v1::GetTokenStatsResponse* response) {
  response->set_issued_total(static_cast<uint64_t>(issued_.Value()));
  response->set_renewed_total(static_cast<uint64_t>(renewed_.Value()));
  response->set_active_key_id(keys_->active_key_id());
  for (uint32_t key_id : keys_->key_ids()) response->add_key_ids(key_id);
  return store_->Read([&](SQLite::Database& db) {
    ReadTokenStats(db, response);
    return absl::OkStatus();
  });
}

absl::Status TokenService::Do(const CallContext& call, const v1::ExpireTokensRequest& request,
                              v1::ExpireTokensResponse* response) {
  if ((request.token_id() == 0) == (request.volume_id() == 0)) {
    return InvalidField("token_id", "exactly one of token_id and volume_id must be set");
  }
  VolumeRow volume;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    uint64_t volume_id = request.volume_id();
    if (request.token_id() != 0) {
      const auto row = FindToken(db, request.token_id());
      if (!row.has_value()) return NoSuch("token", request.token_id());
      volume_id = row->record.volume_id();
    }
    TESSERA_ASSIGN_OR_RETURN(volume, ResolveVolume(db, volume_id, ""));
    response->set_expired(
        RevokeTokens(db, volume_id, volume.generation + 1, "ended by an administrator"));
    RaiseGeneration(transaction, &volume, "ended by an administrator");
    events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "tokens_expired", {},
                    absl::StrCat(response->expired(), " tokens of volume ", volume.name,
                                 " ended by an administrator"));
    return absl::OkStatus();
  }));
  response->set_generation(volume.generation);
  return fence_->Run(volume, FencePurpose::kEndOnly, call.TimeLeft(kWaitMax)).status();
}

absl::Status TokenService::Do(const CallContext&, const v1::CleanupTokensRequest& request,
                              v1::CleanupTokensResponse* response) {
  const uint64_t now = time_->NowMillis();
  return store_->Write([&](WriteTransaction& transaction) {
    (void)ExpireDueTokens(transaction.db, now);
    response->set_removed(CleanupTokenRows(
        transaction.db, request.ended_before_ms() == 0 ? now : request.ended_before_ms(), now));
    return absl::OkStatus();
  });
}

absl::Status TokenService::Do(const CallContext&, const v1::ListTokensRequest& request,
                              v1::ListTokensResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token()));
  return store_->Read([&](SQLite::Database& db) {
    uint64_t last = 0;
    for (v1::TokenRecord& record : ListTokenRows(
             db, {page.after_id, page.limit, request.volume_id(), request.active_only()})) {
      last = record.token_id();
      *response->add_tokens() = std::move(record);
    }
    response->set_next_page_token(
        NextPageToken(page, static_cast<size_t>(response->tokens_size()), last));
    return absl::OkStatus();
  });
}

absl::Status TokenService::Resign() {
  ChangeSet changes;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    for (const v1::PlacementGroup& group : ListPlacementGroupRows(db, 0)) {
      changes.placement_group_ids.insert(group.placement_group_id());
    }
    return absl::OkStatus();
  }));
  publisher_->OnCommit(changes);
  return absl::OkStatus();
}

absl::Status TokenService::Do(const CallContext& call, const v1::RotateKeyRequest&,
                              v1::RotateKeyResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const uint32_t key_id, keys_->Rotate());
  response->set_active_key_id(key_id);
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) {
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "key_rotated", {},
                    absl::StrCat("cluster secret ", key_id, " by ", call.caller().name));
    return absl::OkStatus();
  }));
  return Resign();
}

absl::Status TokenService::Do(const CallContext& call, const v1::RevokeKeyRequest& request,
                              v1::RevokeKeyResponse*) {
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    const uint64_t good = CountTokensUnderKey(transaction.db, request.key_id(), time_->NowMillis());
    if (good > 0 && !request.force()) {
      return WithReason(absl::FailedPreconditionError(
                            absl::StrCat(good, " grants under cluster secret ", request.key_id(),
                                         " may still be good: wait until they run out, or force")),
                        "KEY_IN_USE");
    }
    // Under the writer's turn: no grant is signed with it from here on.
    TESSERA_RETURN_IF_ERROR(keys_->Revoke(request.key_id()));
    events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "key_revoked", {},
                    absl::StrCat("cluster secret ", request.key_id(), " by ", call.caller().name));
    return absl::OkStatus();
  }));
  return Resign();
}

}  // namespace tessera::mdm
