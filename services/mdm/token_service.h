// TokenService: the token authority. Issues, renews, checks and ends tokens and grants; executes no
// IO.
//
// Threads: handlers run on the dispatcher's threads and may wait for servers.
#ifndef TESSERA_SERVICES_MDM_TOKEN_SERVICE_H_
#define TESSERA_SERVICES_MDM_TOKEN_SERVICE_H_

#include <cstdint>
#include <vector>

#include "libtoken/token.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/event_log.h"
#include "services/mdm/grant_issuer.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/limit_governor.h"
#include "services/mdm/map_publisher.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/rpc_methods.h"
#include "services/mdm/shared_writers.h"
#include "services/mdm/token_table.h"
#include "services/mdm/transaction_plan.h"
#include "services/mdm/volume_fence.h"
#include "tessera/v1/token.grpc.pb.h"
#include "tessera/v1/topology.pb.h"

namespace tessera::mdm {

// One piece of a transaction at one server.
struct PlannedPart {
  PlannedPiece piece;
  uint64_t epoch = 0;  // of its placement group
  SdsRow sds;
};

class TokenService final : public v1::TokenService::CallbackService {
 public:
  static constexpr uint32_t kTransactionLifetimeMillis = 60'000;
  static constexpr uint32_t kTransactionLifetimeMaxMillis = 600'000;

  TokenService(RpcDispatcher* rpc, const GrantRules& rules, MdmStore* store, ClusterKeys* keys,
               VolumeFence* fence, MapPublisher* publisher, const HealthMonitor* health,
               LimitGovernor* governor, NodeControl* control, const EventLog* events,
               const MdmTime* time, MetricRegistry* metrics);

  TESSERA_MDM_UNARY(RequestToken);
  TESSERA_MDM_UNARY(VerifyToken);
  TESSERA_MDM_UNARY(AckTokens);
  TESSERA_MDM_UNARY(GetToken);
  TESSERA_MDM_UNARY(GetTokenStats);
  TESSERA_MDM_UNARY(ExpireTokens);
  TESSERA_MDM_UNARY(CleanupTokens);
  TESSERA_MDM_UNARY(AcquireGrant);
  TESSERA_MDM_UNARY(RenewGrant);
  TESSERA_MDM_UNARY(ListTokens);
  TESSERA_MDM_UNARY(RotateKey);
  TESSERA_MDM_UNARY(RevokeKey);

 private:
  // The volume and its mapping for a client that is about to get a grant of them; writers in a new
  // generation. True: another client writes, and the answer says where that is.
  [[nodiscard]] absl::StatusOr<bool> BeginGrant(const v1::AcquireGrantRequest& request,
                                                uint64_t sdc_id, VolumeRow* volume,
                                                MappingRow* mapping,
                                                v1::AcquireGrantResponse* response);
  void AddMap(SQLite::Database& db, uint64_t pool_id, const v1::AcquireGrantRequest& request,
              v1::AcquireGrantResponse* response) const;
  [[nodiscard]] absl::Status Plan(WriteTransaction& transaction, const VolumeRow& volume,
                                  const v1::RequestTokenRequest& request,
                                  v1::RequestTokenResponse* response);
  // Every replica that takes part in an operation. UNAVAILABLE when a piece has none that can be
  // reached.
  [[nodiscard]] absl::StatusOr<std::vector<PlannedPart>> GatherParts(
      SQLite::Database& db, const v1::StoragePool& pool, const std::vector<PlannedPiece>& pieces,
      token::Operation operation) const;
  [[nodiscard]] absl::Status SignParts(const token::Grant& grant,
                                       const std::vector<PlannedPart>& parts,
                                       v1::IoOperationType type,
                                       v1::RequestTokenResponse* response) const;
  // What the client is judged by from now on.
  void NoteLimits(const v1::IssuedGrant& issued);
  // What of a report counts for limits: token_acks.cc.
  [[nodiscard]] static std::vector<LimitGovernor::Use> CountedUses(
      SQLite::Database& db, const v1::AckTokensRequest& request);
  // Sends the whole map again, signed under the keys of now.
  [[nodiscard]] absl::Status Resign();

  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  ClusterKeys* const keys_;
  const GrantIssuer issuer_;
  SharedWriters shared_;
  VolumeFence* const fence_;
  MapPublisher* const publisher_;
  const HealthMonitor* const health_;
  LimitGovernor* const governor_;
  const EventLog* const events_;
  const MdmTime* const time_;
  prometheus::Counter& issued_;
  prometheus::Counter& renewed_;
  prometheus::Counter& acknowledged_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_TOKEN_SERVICE_H_
