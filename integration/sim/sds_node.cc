#include "integration/sim/sds_node.h"

#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "integration/sim/mdm_node.h"
#include "integration/sim/oracle.h"
#include "integration/sim/replica_stub.h"
#include "services/common/status_macros.h"
#include "services/sds/replica_messages.h"

namespace tessera::sim {
namespace {

constexpr Nanos kSdsCallTimeout = 5 * kSecond;
constexpr Nanos kLearningTimeout = 15 * kSecond;
constexpr Nanos kSdsRetryMin = 100 * kMillisecond;
constexpr Nanos kSdsRetryMax = 2 * kSecond;

}  // namespace

SdsNode::SdsNode(Cluster* cluster, NodeId node, std::string folder, Disk* disk)
    : cluster_(cluster),
      node_(node),
      folder_(std::move(folder)),
      disk_(disk),
      life_(World::Get().current()),
      mdm_clock_(life_->clock) {}

absl::Status SdsNode::Open() {
  TESSERA_ASSIGN_OR_RETURN(state_, sds::LocalState::Open(folder_ + "/sds_local.db"));
  sds_id_ = state_->node().sds_id;
  TESSERA_ASSIGN_OR_RETURN(auto generations, state_->Generations());
  volumes_ = std::make_unique<sds::VolumeTable>(
      std::move(generations), [this](std::span<const sds::VolumeGeneration> raised) {
        return state_->SaveGenerations(raised);
      });
  placements_ =
      std::make_unique<sds::PlacementTable>([this](std::span<const sds::PlacementRecord> records) {
        return state_->SavePlacementGroups(records);
      });
  TESSERA_ASSIGN_OR_RETURN(const std::vector<sds::UnservedRange> unserved, state_->Unserved());
  unserved_ = std::make_unique<sds::UnservedWrites>(
      unserved, [this](const sds::UnservedRange& range) { return state_->SaveUnserved(range); });
  accounting_ = std::make_unique<sds::TokenAccounting>(state_->node().incarnation,
                                                       life_->clock->BootMillis());
  sds::DeviceOptions options{.path = folder_ + "/device", .pool_name = "pool"};
  options.store.journal_bytes = 2u << 20;
  options.store.reserve_bytes = 1u << 20;
  options.store.capacity_bytes = disk_->capacity_bytes;
  options.store.metadata_cache_bytes = 64u << 10;
  options.store.background_threads = false;
  const auto opener = [this](const std::string&, const chunk::StoreOptions& store_options)
      -> absl::StatusOr<std::unique_ptr<chunk::Store>> {
    TESSERA_ASSIGN_OR_RETURN(auto store,
                             chunk::Store::Open(disk_->medium.get(), kStoreFolder, store_options));
    const auto observer = [this](const chunk::Change& change, const absl::Status& status) {
      cluster_->oracle().Changed(sds_id_, change, status);
    };
    cluster_->oracle().StoreOpened(cluster_->sds_id(node_), disk_->medium->fault_struck());
    return std::make_unique<SimStore>(std::move(store), disk_, observer);
  };
  TESSERA_ASSIGN_OR_RETURN(device_, sds::Device::Find(options, opener, state_.get()));
  return absl::OkStatus();
}

void SdsNode::FillContext() {
  context_.clock = life_->clock;
  context_.mdm_clock = &mdm_clock_;
  context_.keys = &keys_;
  context_.volumes = volumes_.get();
  context_.placements = placements_.get();
  context_.windows = &windows_;
  context_.limits = &limits_;
  context_.metrics = &metrics_;
  context_.accounting = accounting_.get();
  context_.deleted_vtrees = &deleted_vtrees_;
  context_.unserved = unserved_.get();
  context_.pacer = &pacer_;
  context_.sds_id = &sds_id_;
  context_.incarnation = state_->node().incarnation;
  context_.on_device_failed = [](sds::Device*, const absl::Status& why) {
    World::Get().Trace(absl::StrCat("device failed: ", why.ToString()));
  };
  context_.on_learner = [this](uint64_t group, uint64_t epoch, sds::Device*) {
    if (learner_ != nullptr) learner_->Learn(group, epoch, engine_->workers()[0].get());
  };
  // Repair of bad blocks is not simulated: they stay, as where no other replica can be reached.
  context_.on_bad_blocks = [](const sds::BadRange& range) {
    World::Get().Trace(absl::StrCat("bad blocks in chunk ", range.key.chunk_index));
  };
  // And so a learner gets them as unreadable, and does not wait for a repair.
  context_.settle_bad_blocks = [](const sds::BadRange&) { return true; };
  context_.on_retired = [this](uint64_t group, sds::Device*) {
    janitor_->OnRetired(group, engine_->workers()[0].get());
  };
}

void SdsNode::Start() {
  if (const absl::Status opened = Open(); !opened.ok()) {
    // A machine that went off meanwhile is no fault of the server's.
    if (!disk_->medium->off()) {
      World::Get().Trace(absl::StrCat("the server does not start: ", opened.ToString()));
    }
    return;
  }
  cluster_->oracle().ServerStarted(sds_id_, state_->node().incarnation);
  FillContext();
  engine_ = std::make_unique<sds::IoEngine>(&context_, std::vector<sds::Device*>{device_.get()}, 2);
  dropper_ = std::make_unique<sds::LayerDropper>(engine_.get(), &context_);
  janitor_ = std::make_unique<sds::Janitor>(engine_.get(), state_.get(), &deleted_vtrees_);
  engine_->Start();
  source_ = std::make_unique<sds::ReplicaServiceImpl>(engine_.get(), &context_, nullptr);
  io_server_.engine = engine_.get();
  io_server_.hello = [this] {
    v1::SdsHello hello;
    hello.set_sds_id(sds_id_);
    hello.set_incarnation(context_.incarnation);
    hello.set_window_bytes(4 << 20);
    hello.set_mdm_time_ms(mdm_clock_.Now().earliest_ms);
    return hello;
  };
  sds::LearnerOptions options;
  options.groups_at_once = 2;
  options.catch_up_timeout = std::chrono::milliseconds(3'000);
  learner_ = std::make_unique<sds::Learner>(
      options, engine_.get(), this,
      [this](const v1::SdsAddress& source) {
        return std::make_shared<ReplicaStub>(cluster_, NodeOf(source.endpoints().data()));
      },
      &context_);
  const auto pools = state_->Pools();
  if (pools.ok()) {
    for (const v1::PoolLayout& pool : *pools) placements_->SetPool(pool);
  }
  if (sds_id_ != 0) {
    placements_->SetSdsId(sds_id_);
    const auto records = state_->PlacementGroups();
    if (records.ok()) engine_->RestoreEntries(*records);
  }
  World::Get().Trace(
      absl::StrCat("server up: id ", sds_id_.load(), ", incarnation ", context_.incarnation,
                   device_->failed() ? ", device failed: " + device_->failure() : ""));
  World::Get().Spawn(life_, [this] { Beat(); });
}

void SdsNode::Beat() {
  Nanos delay = kSdsRetryMin;
  while (true) {
    absl::Status status = registered_ ? Heartbeat() : Register();
    if (!status.ok()) {
      if (absl::IsUnauthenticated(status)) registered_ = false;
      if (absl::IsFailedPrecondition(status)) return;  // superseded
      delay = std::min(delay * 2, kSdsRetryMax);
    } else {
      delay = 500 * kMillisecond;
    }
    if (registered_ && !watching_) {
      watching_ = true;
      const auto watched = cluster_->AskMdm<v1::WatchPlacementGroupsRequest>(
          kSdsCallTimeout, [node = node_, id = sds_id_.load()](MdmNode& mdm, auto*) {
            mdm.Watch(node, id);
            return absl::OkStatus();
          });
      watching_ = watching_ && watched.ok();
    }
    World::Get().Sleep(delay);
  }
}

absl::Status SdsNode::Register() {
  const sds::NodeState node = state_->node();
  v1::RegisterSdsRequest request;
  v1::NodeIdentity* identity = request.mutable_identity();
  identity->set_node_uuid(node.node_uuid);
  identity->set_name(absl::StrCat("s", node_));
  identity->set_incarnation(node.incarnation);
  identity->set_node_secret(node.node_secret);
  request.set_protection_domain_name("domain");
  request.mutable_endpoints()->set_control(AddressOf(node_));
  request.mutable_endpoints()->set_data(AddressOf(node_));
  request.mutable_endpoints()->set_host_id(AddressOf(node_));
  *request.add_devices() = device_->Describe();
  const uint64_t sent = life_->clock->BootNanos();
  TESSERA_ASSIGN_OR_RETURN(
      const v1::RegisterSdsResponse response,
      cluster_->AskMdm<v1::RegisterSdsResponse>(
          kSdsCallTimeout, [request](MdmNode& mdm, v1::RegisterSdsResponse* answer) mutable {
            if (request.identity().node_secret().empty()) {
              request.mutable_identity()->set_join_token(mdm.join_token());
            }
            return mdm.discovery().Register(request, answer);
          }));
  mdm_clock_.OnAnswer(response.mdm_time_ms(), sent, life_->clock->BootNanos());
  const std::string& secret =
      response.node_secret().empty() ? node.node_secret : response.node_secret();
  TESSERA_RETURN_IF_ERROR(
      state_->SaveRegistration(response.sds_id(), secret, response.cluster_uuid()));
  TESSERA_RETURN_IF_ERROR(device_->SetDeviceId(response.device_ids(0)));
  placements_->SetSdsId(response.sds_id());
  sds_id_ = response.sds_id();
  cluster_->NoteSdsId(node_, response.sds_id());
  keys_.Replace(response.keys());
  mdm_clock_.SetHeartbeatInterval(response.heartbeat_interval_ms());
  registered_ = true;
  cluster_->oracle().ServerStarted(sds_id_, node.incarnation);
  World::Get().Trace(absl::StrCat("registered as server ", sds_id_.load()));
  return absl::OkStatus();
}

absl::Status SdsNode::Heartbeat() {
  v1::HeartbeatRequest request;
  request.set_incarnation(state_->node().incarnation);
  engine_->NoticeFailedDevices();
  *request.add_devices() = device_->Describe();
  if (learners_ != nullptr) {
    for (v1::LearnerStatus& status : learners_->Status()) {
      *request.add_learners() = std::move(status);
    }
  }
  const uint64_t sent = life_->clock->BootNanos();
  TESSERA_ASSIGN_OR_RETURN(
      const v1::HeartbeatResponse response,
      cluster_->AskMdm<v1::HeartbeatResponse>(
          kSdsCallTimeout,
          [request, id = sds_id_.load()](MdmNode& mdm, v1::HeartbeatResponse* answer) {
            return mdm.health().Do(MdmNode::CallOf(v1::ROLE_SDS, id), request, answer);
          }));
  mdm_clock_.OnAnswer(response.mdm_time_ms(), sent, life_->clock->BootNanos());
  keys_.Replace(response.keys());
  return absl::OkStatus();
}

void SdsNode::MapArrived(const v1::WatchPlacementGroupsResponse& map) {
  maps_.push_back(map);
  if (std::exchange(taking_maps_, true)) return;
  World::Get().Spawn(life_, [this] { TakeMaps(); });
}

void SdsNode::TakeMaps() {
  while (!maps_.empty()) {
    const v1::WatchPlacementGroupsResponse map = std::move(maps_.front());
    maps_.pop_front();
    const std::vector<v1::PoolLayout> pools(map.pools().begin(), map.pools().end());
    if (!pools.empty() && !state_->SavePools(pools).ok()) continue;
    for (const v1::PoolLayout& pool : pools) placements_->SetPool(pool);
    const std::vector<v1::SignedPlacementGroup> entries(map.placement_groups().begin(),
                                                        map.placement_groups().end());
    const absl::Status accepted = engine_->AcceptEntries(entries);
    if (accepted.ok() && map.snapshot()) engine_->AcknowledgeLosses(entries);
  }
  taking_maps_ = false;
}

void SdsNode::WatchEnded() { watching_ = false; }

absl::Status SdsNode::RaiseGeneration(const v1::RaiseGenerationRequest& request,
                                      v1::RaiseGenerationResponse* response) {
  Hit(Coverage::kGenerationRaised);
  std::vector<chunk::StreamCursor> cursors;
  TESSERA_ASSIGN_OR_RETURN(const uint64_t lowest,
                           engine_->RaiseGeneration(request.volume_id(), request.generation(),
                                                    request.with_cursors() ? &cursors : nullptr));
  response->set_generation(lowest);
  for (const chunk::StreamCursor& cursor : cursors) {
    sds::SetCursor(cursor, response->add_cursors());
  }
  World::Get().Trace(absl::StrCat("volume ", request.volume_id(), " raised to generation ",
                                  request.generation(), " here: ", lowest));
  return absl::OkStatus();
}

absl::Status SdsNode::ApplyPlacementGroups(const v1::ApplyPlacementGroupsRequest& request) {
  const std::vector<v1::SignedPlacementGroup> entries(request.placement_groups().begin(),
                                                      request.placement_groups().end());
  return engine_->AcceptEntries(entries);
}

absl::Status SdsNode::DropLayers(const v1::DropLayersRequest& request,
                                 v1::DropLayersResponse* response) {
  TESSERA_RETURN_IF_ERROR(dropper_->Drop(request, response));
  Hit(Coverage::kLayersDropped, response->layers());
  return absl::OkStatus();
}

absl::Status SdsNode::ConfigureDevice(const v1::ConfigureDeviceRequest& request) {
  if (device_->uuid() != request.device_uuid()) return absl::NotFoundError("no such device");
  TESSERA_RETURN_IF_ERROR(
      device_->Configure(request.device_id(), request.pool_id(), request.chunk_bytes()));
  sds::DeviceWorker* worker = engine_->workers()[0].get();
  if (device_->store() != nullptr) worker->Control([worker] { worker->OnStoreOpened(); });
  return absl::OkStatus();
}

absl::StatusOr<v1::BeginLearningResponse> SdsNode::BeginLearning(
    const v1::BeginLearningRequest& request) {
  return cluster_->AskMdm<v1::BeginLearningResponse>(
      kLearningTimeout, [request, id = sds_id_.load()](MdmNode& mdm, auto* answer) {
        return mdm.placement().Do(MdmNode::CallOf(v1::ROLE_SDS, id), request, answer);
      });
}

absl::StatusOr<v1::CompleteLearningResponse> SdsNode::CompleteLearning(
    const v1::CompleteLearningRequest& request) {
  return cluster_->AskMdm<v1::CompleteLearningResponse>(
      kLearningTimeout, [request, id = sds_id_.load()](MdmNode& mdm, auto* answer) {
        return mdm.placement().Do(MdmNode::CallOf(v1::ROLE_SDS, id), request, answer);
      });
}

absl::StatusOr<v1::ReportReplicaFailuresResponse> SdsNode::ReportReplicaFailures(
    const v1::ReportReplicaFailuresRequest& request) {
  return cluster_->AskMdm<v1::ReportReplicaFailuresResponse>(
      kLearningTimeout, [request, id = sds_id_.load()](MdmNode& mdm, auto* answer) {
        return mdm.placement().Do(MdmNode::CallOf(v1::ROLE_SDS, id), request, answer);
      });
}

}  // namespace tessera::sim
