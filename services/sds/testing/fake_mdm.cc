#include "services/sds/testing/fake_mdm.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/auth.h"
#include "services/common/clock.h"

namespace tessera::sds {
namespace {

std::string_view AsText(const token::Key& key) {
  return {reinterpret_cast<const char*>(key.data()), key.size()};
}

uint64_t CallerOf(const grpc::ServerContext* context) {
  const auto header = context->client_metadata().find("authorization");
  if (header == context->client_metadata().end()) return 0;
  const auto credential = ParseBearer({header->second.data(), header->second.size()});
  return credential.ok() ? credential->id : 0;
}

std::string NodeSecretOf(uint64_t sds_id) {
  return absl::StrCat(std::string(62, 'a'), sds_id / 10 % 10, sds_id % 10);
}

const grpc::Status kAway(grpc::StatusCode::UNAVAILABLE, "the MDM is away");

}  // namespace

class FakeMdm::Discovery final : public v1::DiscoveryService::Service {
 public:
  explicit Discovery(FakeMdm* mdm) : mdm_(mdm) {}
  grpc::Status RegisterSds(grpc::ServerContext*, const v1::RegisterSdsRequest* request,
                           v1::RegisterSdsResponse* response) override {
    if (!mdm_->reachable_) return kAway;
    absl::MutexLock lock(&mdm_->mutex_);
    const auto [known, fresh] =
        mdm_->ids_.emplace(request->identity().node_uuid(), mdm_->ids_.size() + 1);
    const uint64_t sds_id = known->second;
    mdm_->nodes_[sds_id].registration = *request;
    ++mdm_->nodes_[sds_id].registrations;
    mdm_->nodes_[sds_id].heartbeats = 0;
    response->set_sds_id(sds_id);
    if (fresh) response->set_node_secret(NodeSecretOf(sds_id));
    response->set_cluster_uuid("00000000-0000-4000-8000-000000000001");
    for (const auto& [key_id, secret] : mdm_->secrets_) {
      v1::SdsKey* key = response->add_keys();
      key->set_key_id(key_id);
      key->set_key(std::string(AsText(token::DeriveSdsKey(secret, sds_id))));
    }
    for (int i = 0; i < request->devices_size(); ++i) {
      response->add_device_ids(100 * sds_id + static_cast<uint64_t>(i));
    }
    response->set_mdm_time_ms(mdm_->NowMillis());
    response->set_heartbeat_interval_ms(20);
    return grpc::Status::OK;
  }

 private:
  FakeMdm* const mdm_;
};

class FakeMdm::Health final : public v1::HealthService::Service {
 public:
  explicit Health(FakeMdm* mdm) : mdm_(mdm) {}
  grpc::Status Heartbeat(grpc::ServerContext* context, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    if (!mdm_->reachable_) return kAway;
    absl::MutexLock lock(&mdm_->mutex_);
    const uint64_t sds_id = CallerOf(context);
    for (const auto& [key_id, secret] : mdm_->secrets_) {
      v1::SdsKey* key = response->add_keys();
      key->set_key_id(key_id);
      key->set_key(std::string(AsText(token::DeriveSdsKey(secret, sds_id))));
    }
    ++mdm_->nodes_[sds_id].heartbeats;
    if (request->corrupt_block_report() > mdm_->reports_[sds_id]) {
      mdm_->reports_[sds_id] = request->corrupt_block_report();
      mdm_->changes_.insert(mdm_->changes_.end(), request->corrupt_block_changes().begin(),
                            request->corrupt_block_changes().end());
    }
    for (const v1::ScrubStatus& status : request->scrubs()) {
      mdm_->scrubs_[status.device_id()] = status;
    }
    for (const v1::ScrubOrder& order : mdm_->scrub_orders_) *response->add_scrub_orders() = order;
    for (const v1::ClientCap& cap : mdm_->client_caps_) *response->add_client_caps() = cap;
    response->set_mdm_time_ms(mdm_->NowMillis());
    response->set_heartbeat_interval_ms(20);
    return grpc::Status::OK;
  }

 private:
  FakeMdm* const mdm_;
};

class FakeMdm::Tokens final : public v1::TokenService::Service {
 public:
  explicit Tokens(FakeMdm* mdm) : mdm_(mdm) {}
  grpc::Status AckTokens(grpc::ServerContext* context, const v1::AckTokensRequest* request,
                         v1::AckTokensResponse*) override {
    if (!mdm_->reachable_) return kAway;
    absl::MutexLock lock(&mdm_->mutex_);
    Node& node = mdm_->nodes_[CallerOf(context)];
    ++node.ack_reports;
    node.acks.insert(node.acks.end(), request->acks().begin(), request->acks().end());
    return grpc::Status::OK;
  }

 private:
  FakeMdm* const mdm_;
};

class FakeMdm::Placement final : public v1::PlacementService::Service {
 public:
  explicit Placement(FakeMdm* mdm) : mdm_(mdm) {}

  grpc::Status WatchPlacementGroups(
      grpc::ServerContext* context, const v1::WatchPlacementGroupsRequest* request,
      grpc::ServerWriter<v1::WatchPlacementGroupsResponse>* writer) override {
    if (!mdm_->reachable_) return kAway;
    uint64_t seen = 0;
    if (request->with_records()) mdm_->records_wanted_after_ = request->records_after_revision();
    while (!context->IsCancelled()) {
      v1::WatchPlacementGroupsResponse map;
      {
        absl::MutexLock lock(&mdm_->mutex_);
        const auto news = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mdm_->mutex_) {
          return mdm_->map_version_ != seen && !mdm_->map_held_;
        };
        if (!mdm_->mutex_.AwaitWithTimeout(absl::Condition(&news), absl::Milliseconds(20)))
          continue;
        seen = mdm_->map_version_;
        map.set_snapshot(true);
        for (const v1::PoolLayout& pool : mdm_->pools_) *map.add_pools() = pool;
        for (const auto& [id, group] : mdm_->groups_) {
          if (!mdm_->silent_[id]) *map.add_placement_groups() = mdm_->Sign(group);
        }
        if (mdm_->records_.revision() != 0) *map.mutable_records() = mdm_->records_;
      }
      if (!writer->Write(map)) break;
    }
    return grpc::Status::OK;
  }

  grpc::Status BeginLearning(grpc::ServerContext* context, const v1::BeginLearningRequest* request,
                             v1::BeginLearningResponse* response) override {
    if (!mdm_->reachable_) return kAway;
    absl::MutexLock lock(&mdm_->mutex_);
    const v1::PlacementGroup& group = mdm_->groups_[request->placement_group_id()];
    if (group.epoch() != request->epoch()) {
      return {grpc::StatusCode::ABORTED, "the epoch moved on"};
    }
    for (const v1::Replica& replica : group.replicas()) {
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC) continue;
      const Node& node = mdm_->nodes_[replica.sds_id()];
      response->mutable_source()->set_sds_id(replica.sds_id());
      *response->mutable_source()->mutable_endpoints() = node.registration.endpoints();
      response->set_source_device_id(replica.device_id());
      FillTicket(*request, "learn", CallerOf(context), replica.sds_id(),
                 response->mutable_ticket());
      return grpc::Status::OK;
    }
    return {grpc::StatusCode::UNAVAILABLE, "no source"};
  }

  grpc::Status BeginRepair(grpc::ServerContext* context, const v1::BeginRepairRequest* request,
                           v1::BeginRepairResponse* response) override {
    if (!mdm_->reachable_) return kAway;
    absl::MutexLock lock(&mdm_->mutex_);
    const v1::PlacementGroup& group = mdm_->groups_[request->placement_group_id()];
    if (group.epoch() != request->epoch()) {
      return {grpc::StatusCode::ABORTED, "the epoch moved on"};
    }
    for (const v1::Replica& replica : group.replicas()) {
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC) continue;
      if (replica.device_id() == request->device_id()) continue;
      v1::RepairSource* source = response->add_sources();
      source->mutable_address()->set_sds_id(replica.sds_id());
      *source->mutable_address()->mutable_endpoints() =
          mdm_->nodes_[replica.sds_id()].registration.endpoints();
      source->set_device_id(replica.device_id());
      FillTicket(*request, "repair", CallerOf(context), replica.sds_id(), source->mutable_ticket());
    }
    return grpc::Status::OK;
  }

  grpc::Status CompleteLearning(grpc::ServerContext*, const v1::CompleteLearningRequest* request,
                                v1::CompleteLearningResponse* response) override {
    if (!mdm_->reachable_) return kAway;
    absl::MutexLock lock(&mdm_->mutex_);
    v1::PlacementGroup& group = mdm_->groups_[request->placement_group_id()];
    if (group.epoch() != request->epoch()) {
      return {grpc::StatusCode::ABORTED, "the epoch moved on"};
    }
    SetRoleLocked(&group, request->device_id(), v1::REPLICA_ROLE_IN_SYNC);
    mdm_->completions_.push_back(*request);
    *response->mutable_placement_group() = mdm_->Sign(group);
    return grpc::Status::OK;
  }

  grpc::Status ReportReplicaFailures(grpc::ServerContext*,
                                     const v1::ReportReplicaFailuresRequest* request,
                                     v1::ReportReplicaFailuresResponse* response) override {
    if (!mdm_->reachable_) return kAway;
    absl::MutexLock lock(&mdm_->mutex_);
    for (const v1::ReplicaFailure& failure : request->failures()) {
      v1::PlacementGroup& group = mdm_->groups_[failure.placement_group_id()];
      if (group.epoch() == failure.epoch()) {
        SetRoleLocked(&group, failure.device_id(), v1::REPLICA_ROLE_OUT_OF_SYNC);
        mdm_->failures_.push_back(failure);
      }
      *response->add_placement_groups() = mdm_->Sign(group);
    }
    return grpc::Status::OK;
  }

 private:
  void SetRoleLocked(v1::PlacementGroup* group, uint64_t device_id, v1::ReplicaRole role)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mdm_->mutex_) {
    group->set_epoch(group->epoch() + 1);
    for (v1::Replica& replica : *group->mutable_replicas()) {
      if (replica.device_id() == device_id) replica.set_role(role);
    }
    mdm_->SendToWatchers();
  }

  template <typename Request>
  void FillTicket(const Request& request, const char* label, uint64_t learner, uint64_t source,
                  v1::LearningTicket* ticket) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mdm_->mutex_) {
    const auto& [key_id, secret] = *mdm_->secrets_.begin();
    ticket->set_placement_group_id(request.placement_group_id());
    ticket->set_epoch(request.epoch());
    ticket->set_learner_sds_id(learner);
    ticket->set_expiry_ms(mdm_->NowMillis() + 60'000);
    ticket->set_key_id(key_id);
    std::string bytes;
    for (const uint64_t value : {ticket->placement_group_id(), ticket->epoch(),
                                 ticket->learner_sds_id(), ticket->expiry_ms()}) {
      for (int shift = 0; shift < 64; shift += 8)
        bytes.push_back(static_cast<char>(value >> shift));
    }
    ticket->set_signature(
        std::string(AsText(token::SignMessage(token::DeriveSdsKey(secret, source), label, bytes))));
  }

  FakeMdm* const mdm_;
};

FakeMdm::FakeMdm()
    : discovery_(std::make_unique<Discovery>(this)),
      health_(std::make_unique<Health>(this)),
      placement_(std::make_unique<Placement>(this)),
      tokens_(std::make_unique<Tokens>(this)) {
  AddKey(1);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  for (grpc::Service* service :
       {discovery_.get(), health_.get(), placement_.get(), tokens_.get()}) {
    builder.RegisterService(service);
  }
  server_ = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeMdm::~FakeMdm() { server_->Shutdown(std::chrono::system_clock::now()); }

uint64_t FakeMdm::NowMillis() const { return SystemClock().WallMillis(); }

void FakeMdm::AddKey(uint32_t key_id) {
  absl::MutexLock lock(&mutex_);
  token::Key secret;
  token::RandomBytes(secret);
  secrets_[key_id] = secret;
}

void FakeMdm::RemoveKey(uint32_t key_id) {
  absl::MutexLock lock(&mutex_);
  secrets_.erase(key_id);
}

token::Key FakeMdm::SdsKeyOf(uint32_t key_id, uint64_t sds_id) const {
  absl::MutexLock lock(&mutex_);
  return token::DeriveSdsKey(secrets_.at(key_id), sds_id);
}

std::string FakeMdm::ControlBearer(uint32_t key_id, uint64_t sds_id) const {
  const token::Key proof =
      token::SignMessage(SdsKeyOf(key_id, sds_id), "control", absl::StrCat(sds_id));
  return FormatBearer({.kind = "mdm", .id = key_id, .secret = ToHex(AsText(proof))});
}

std::string FakeMdm::NodeBearer(uint64_t sds_id) {
  token::Key key{};
  const absl::StatusOr<std::string> bytes = FromHex(NodeSecretOf(sds_id));
  if (bytes.ok()) std::copy(bytes->begin(), bytes->end(), key.begin());
  const token::Key proof = token::SignMessage(key, "control", absl::StrCat(sds_id));
  return FormatBearer({.kind = "mdm", .id = 0, .secret = ToHex(AsText(proof))});
}

void FakeMdm::SendRecords(const v1::ClusterRecords& records) {
  absl::MutexLock lock(&mutex_);
  records_ = records;
  SendToWatchers();
}

FakeMdm::Node FakeMdm::NodeOf(uint64_t sds_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = nodes_.find(sds_id);
  return found == nodes_.end() ? Node{} : found->second;
}

bool FakeMdm::AwaitRegistration(const std::string& name, uint64_t times) const {
  absl::MutexLock lock(&mutex_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const auto& [id, node] : nodes_) {
      if (node.registration.identity().name() != name) continue;
      if (node.registrations >= times && node.heartbeats > 0) return true;
    }
    return false;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(20));
}

void FakeMdm::SetClientCaps(std::vector<v1::ClientCap> caps) {
  absl::MutexLock lock(&mutex_);
  client_caps_ = std::move(caps);
}

void FakeMdm::AwaitHeartbeat(uint64_t sds_id) const {
  absl::MutexLock lock(&mutex_);
  const auto count = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = nodes_.find(sds_id);
    return found == nodes_.end() ? 0 : found->second.heartbeats;
  };
  const uint64_t wanted = count() + 2;
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return count() >= wanted; };
  mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(10));
}

v1::SignedPlacementGroup FakeMdm::Sign(const v1::PlacementGroup& group) const {
  // Called with and without the lock held: secrets_ changes only between the steps of a test.
  const auto sign = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    v1::SignedPlacementGroup entry;
    entry.set_placement_group(group.SerializeAsString());
    for (const v1::Replica& replica : group.replicas()) {
      for (const auto& [key_id, secret] : secrets_) {
        v1::PlacementGroupSignature* signature = entry.add_signatures();
        signature->set_sds_id(replica.sds_id());
        signature->set_key_id(key_id);
        signature->set_signature(std::string(AsText(token::SignMessage(
            token::DeriveSdsKey(secret, replica.sds_id()), "map", entry.placement_group()))));
      }
    }
    return entry;
  };
  return sign();
}

v1::SignedPlacementGroup FakeMdm::CommitSilently(v1::PlacementGroup group) {
  absl::MutexLock lock(&mutex_);
  v1::PlacementGroup& known = groups_[group.placement_group_id()];
  group.set_epoch(known.epoch() + 1);
  known = group;
  silent_[group.placement_group_id()] = true;
  return Sign(known);
}

v1::SignedPlacementGroup FakeMdm::Commit(v1::PlacementGroup group) {
  const v1::SignedPlacementGroup entry = CommitSilently(std::move(group));
  v1::PlacementGroup committed;
  committed.ParseFromString(entry.placement_group());
  absl::MutexLock lock(&mutex_);
  silent_[committed.placement_group_id()] = false;
  SendToWatchers();
  return entry;
}

v1::PlacementGroup FakeMdm::Group(uint64_t placement_group_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = groups_.find(placement_group_id);
  return found == groups_.end() ? v1::PlacementGroup() : found->second;
}

void FakeMdm::SetRole(uint64_t placement_group_id, uint64_t device_id, v1::ReplicaRole role) {
  v1::PlacementGroup group = Group(placement_group_id);
  for (v1::Replica& replica : *group.mutable_replicas()) {
    if (replica.device_id() == device_id) replica.set_role(role);
  }
  Commit(group);
}

v1::ReplicaRole FakeMdm::RoleOf(uint64_t placement_group_id, uint64_t device_id) const {
  const v1::PlacementGroup group = Group(placement_group_id);
  for (const v1::Replica& replica : group.replicas()) {
    if (replica.device_id() == device_id) return replica.role();
  }
  return v1::REPLICA_ROLE_UNSPECIFIED;
}

bool FakeMdm::AwaitRole(uint64_t placement_group_id, uint64_t device_id,
                        v1::ReplicaRole role) const {
  absl::MutexLock lock(&mutex_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = groups_.find(placement_group_id);
    if (found == groups_.end()) return false;
    for (const v1::Replica& replica : found->second.replicas()) {
      if (replica.device_id() == device_id) return replica.role() == role;
    }
    return false;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(20));
}

void FakeMdm::SetPools(std::vector<v1::PoolLayout> pools) {
  absl::MutexLock lock(&mutex_);
  pools_ = std::move(pools);
  SendToWatchers();
}

std::vector<v1::CompleteLearningRequest> FakeMdm::Completions() const {
  absl::MutexLock lock(&mutex_);
  return completions_;
}

std::vector<v1::CorruptBlocks> FakeMdm::CorruptChanges() const {
  absl::MutexLock lock(&mutex_);
  return changes_;
}

bool FakeMdm::AwaitChange(v1::CorruptBlockChange change, uint32_t blocks) const {
  absl::MutexLock lock(&mutex_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    uint32_t count = 0;
    for (const v1::CorruptBlocks& run : changes_) {
      if (run.change() == change) count += run.block_count();
    }
    return count >= blocks;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(20));
}

void FakeMdm::SetScrubOrders(std::vector<v1::ScrubOrder> orders) {
  absl::MutexLock lock(&mutex_);
  scrub_orders_ = std::move(orders);
}

bool FakeMdm::AwaitScrub(uint64_t device_id,
                         const std::function<bool(const v1::ScrubStatus&)>& fits) const {
  absl::MutexLock lock(&mutex_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = scrubs_.find(device_id);
    return found != scrubs_.end() && fits(found->second);
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(20));
}

v1::ScrubStatus FakeMdm::ScrubOf(uint64_t device_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = scrubs_.find(device_id);
  return found == scrubs_.end() ? v1::ScrubStatus() : found->second;
}

std::vector<v1::ReplicaFailure> FakeMdm::Failures() const {
  absl::MutexLock lock(&mutex_);
  return failures_;
}

}  // namespace tessera::sds
