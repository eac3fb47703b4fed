#include "integration/sim/mdm_node.h"

#include <chrono>
#include <utility>

#include "integration/sim/map_watch.h"
#include "integration/sim/oracle.h"
#include "services/common/status_macros.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/repair_table.h"
#include "services/mdm/snapshot_table.h"
#include "services/mdm/topology_table.h"

namespace tessera::sim {
namespace {

// Everything is quicker than an installation's defaults, in proportion.
constexpr uint32_t kHeartbeatMillis = 500;
constexpr uint64_t kStaleMillis = 3'000;
constexpr uint64_t kGrantMillis = 8'000;
constexpr uint64_t kOutageMillis = 14'000;
constexpr std::chrono::milliseconds kTick{500};
constexpr Nanos kCallLimit = 15 * kSecond;

}  // namespace

MdmNode::MdmNode(Cluster* cluster, mdm::StateFolder state, std::unique_ptr<MetricRegistry> metrics)
    : cluster_(cluster),
      metrics_(std::move(metrics)),
      state_(std::move(state)),
      events_(state_.time.get()),
      monitor_({kStaleMillis}, state_.time.get()),
      control_(state_.keys.get(), nullptr),
      publisher_(state_.store.get(), state_.keys.get(), &control_, &monitor_, metrics_.get()),
      leases_(state_.store.get(), &state_.time->clock()),
      fence_(mdm::FenceRules{}, state_.store.get(), &leases_, &control_, &monitor_, &board_,
             &events_, state_.time.get(), &state_.time->clock()),
      assigner_(mdm::AssignerRules{}, state_.store.get(), &control_, &monitor_, &events_,
                state_.time.get()),
      board_(mdm::LearnerBackOff{.back_off_ms = 300, .back_off_max_ms = 3'000}, &monitor_,
             state_.time.get()),
      repair_(state_.store.get(), &monitor_, &board_, &events_, state_.time.get(), metrics_.get()),
      scrub_(state_.store.get(), &integrity_, &monitor_, &events_, state_.time.get()),
      layer_reaper_(state_.store.get(), &control_, &monitor_),
      upkeep_(state_.store.get(), &monitor_, &governor_, &events_, state_.time.get(),
              metrics_.get()) {}

absl::Status MdmNode::Start() {
  TESSERA_RETURN_IF_ERROR(upkeep_.ExpectNodes(state_.nodes.get()));
  TESSERA_RETURN_IF_ERROR(state_.store->Write([&](mdm::WriteTransaction& transaction) {
    mdm::DropUnfinishedSnapshots(transaction, state_.time->NowMillis());
    return absl::OkStatus();
  }));
  TESSERA_RETURN_IF_ERROR(leases_.Load());
  mdm::MdmStore* const store = state_.store.get();
  mdm::ClusterKeys* const keys = state_.keys.get();
  const mdm::MdmTime* const time = state_.time.get();
  heartbeat_ = std::make_unique<mdm::HealthService>(
      nullptr, kHeartbeatMillis, store, keys, &leases_, &monitor_, &board_, &repair_, &integrity_,
      &scrub_, &governor_, &events_, time, metrics_.get());
  discovery_ = std::make_unique<mdm::DiscoveryService>(
      nullptr, mdm::ClusterIdentity{state_.cluster_uuid, state_.join_token, kHeartbeatMillis},
      store, keys, state_.nodes.get(), &monitor_, &events_, time, [this] {
        publisher_.AddressesChanged();
        placement_loop_->Wake();
      });
  const mdm::GrantRules grant_rules{kGrantMillis, kOutageMillis};
  volume_ = std::make_unique<mdm::VolumeService>(
      nullptr, grant_rules, store, keys, &control_, &fence_, &monitor_, &events_, time,
      [this] { reaper_loop_->Wake(); }, [] {});
  placement_ = std::make_unique<mdm::PlacementService>(nullptr, store, keys, &publisher_, &board_,
                                                       &monitor_, &events_, time);
  token_ = std::make_unique<mdm::TokenService>(nullptr, grant_rules, store, keys, &fence_,
                                               &publisher_, &monitor_, &governor_, &control_,
                                               &events_, time, metrics_.get());
  store->SetCommitListener([this](const mdm::ChangeSet& changes) {
    publisher_.OnCommit(changes);
    cluster_->oracle().Committed(changes);
  });
  placement_loop_ = std::make_unique<mdm::BackgroundLoop>(
      mdm::BackgroundLoop::Options{.name = "placement", .period = kTick}, [this] {
        assigner_.Run();
        repair_.Run();
      });
  reaper_loop_ = std::make_unique<mdm::BackgroundLoop>(
      mdm::BackgroundLoop::Options{.name = "reaper", .period = 2 * kTick},
      [this] { layer_reaper_.Run(); });
  judge_loop_ = std::make_unique<mdm::BackgroundLoop>(
      mdm::BackgroundLoop::Options{.name = "health", .period = kTick}, [this] {
        if (!upkeep_.Run()) return;
        publisher_.AddressesChanged();
        placement_loop_->Wake();
      });
  return absl::OkStatus();
}

CallContext MdmNode::CallOf(v1::Role role, uint64_t node_id) {
  Caller caller;
  caller.roles = {role};
  caller.node_id = node_id;
  caller.name = absl::StrCat(role == v1::ROLE_SDS ? "sds" : "sdc", node_id);
  // Its deadline is virtual time's: the call is cancelled then.
  auto cancelled = std::make_shared<std::atomic<bool>>(false);
  if (role == v1::ROLE_ADMIN) {
    World::Get().After(kCallLimit, nullptr, [cancelled] { cancelled->store(true); });
  }
  return CallContext(std::move(caller), std::chrono::system_clock::time_point::max(), cancelled);
}

absl::Status MdmNode::MakePool() {
  const RunOptions& options = cluster_->options();
  return state_.store->Write([&](mdm::WriteTransaction& transaction) {
    v1::ProtectionDomain domain;
    domain.set_name("domain");
    domain.set_protection_domain_id(mdm::InsertProtectionDomain(transaction.db, domain));
    v1::StoragePool pool;
    pool.set_name("pool");
    pool.set_protection_domain_id(domain.protection_domain_id());
    pool.set_replica_count(options.replicas);
    pool.set_chunk_bytes(256u << 10);
    pool.set_placement_group_count(options.groups);
    pool.set_min_replicas(1);
    (void)mdm::InsertPool(transaction.db, pool);
    v1::RepairSettings settings = mdm::ReadRepairSettings(transaction.db);
    settings.set_rebuild_delay_ms(8'000);
    mdm::WriteRepairSettings(transaction.db, settings);
    transaction.changes.topology = transaction.changes.pools = true;
    return absl::OkStatus();
  });
}

void MdmNode::DropLayersAgain() {
  const absl::Status marked = store()->Write([&](mdm::WriteTransaction& transaction) {
    const uint64_t now = state_.time->NowMillis();
    mdm::MarkLayerDropsAgain(transaction.db, now + 1, now);
    return absl::OkStatus();
  });
  if (!marked.ok()) World::Get().Violation(absl::StrCat("layers not marked: ", marked.ToString()));
}

uint64_t MdmNode::pending_layer_drops() {
  uint64_t pending = 0;
  const absl::Status read = store()->Read([&](SQLite::Database& db) {
    for (const mdm::SdsRow& sds : mdm::ListSdsRows(db)) {
      if (!monitor_.Reachable({v1::COMPONENT_KIND_SDS, sds.sds_id})) continue;
      pending += mdm::ListPendingLayerDrops(db, sds.sds_id).size();
    }
    return absl::OkStatus();
  });
  return read.ok() ? pending : 1;
}

void MdmNode::Watch(NodeId node, uint64_t sds_id) {
  mdm::MapWatcher watcher;
  watcher.stream = MapWatch::Open(cluster_, node);
  watcher.sds_id = sds_id;
  publisher_.Watch(std::move(watcher)).IgnoreError();
}

}  // namespace tessera::sim
