#include "services/sds/testing/bare_replica.h"

#include <stdexcept>
#include <utility>

namespace tessera::sds {
namespace {

constexpr uint64_t kDevice = 100;

class OneClient final : public IoClient {
 public:
  void Deliver(IoResponseFrame frame) override {
    for (const v1::IoResult& result : frame.header.results()) results.push_back(result);
  }
  void Release(size_t) override {}
  void Break(const absl::Status& why) override { throw std::runtime_error(why.ToString()); }
  std::vector<v1::IoResult> results;
};

}  // namespace

BareReplica::BareReplica(uint64_t seed, uint64_t placement_group_id)
    : placement_group_id_(placement_group_id),
      disk_({.seed = seed}),
      volumes_({}, [](std::span<const VolumeGeneration>) { return absl::OkStatus(); }),
      placements_([](std::span<const PlacementRecord>) { return absl::OkStatus(); }),
      unserved_({}, [](const UnservedRange&) { return absl::OkStatus(); }),
      readers_({.name = "read", .threads = 1}) {
  auto state = LocalState::Open(folder_.path() + "/sds_local.db");
  if (!state.ok()) throw std::runtime_error(state.status().ToString());
  state_ = *std::move(state);
  context_.clock = &clock_;
  context_.mdm_clock = &mdm_clock_;
  context_.volumes = &volumes_;
  context_.placements = &placements_;
  context_.windows = &windows_;
  context_.limits = &limits_;
  context_.metrics = &metrics_;
  context_.accounting = &accounting_;
  context_.deleted_vtrees = &deleted_vtrees_;
  context_.unserved = &unserved_;
  context_.pacer = &pacer_;
  context_.sds_id = &sds_id_;
  context_.incarnation = 1;
  context_.on_device_failed = [](Device*, const absl::Status& why) {
    throw std::runtime_error(why.ToString());
  };
  context_.on_learner = [](uint64_t, uint64_t, Device*) {};
  context_.on_retired = [](uint64_t, Device*) {};
  context_.on_bad_blocks = [](const BadRange&) {};
  context_.settle_bad_blocks = [](const BadRange&) { return true; };
  const auto opener =
      [this](const std::string&,
             const chunk::StoreOptions& options) -> absl::StatusOr<std::unique_ptr<chunk::Store>> {
    auto store = chunk::Store::Open(&disk_, "/device", options);
    if (!store.ok()) return store.status();
    return std::make_unique<FaultyStore>(*std::move(store), &faults_);
  };
  DeviceOptions options{.path = folder_.path()};
  options.store.journal_bytes = 4u << 20;
  options.store.reserve_bytes = 1u << 20;
  options.store.capacity_bytes = 256u << 20;
  options.store.background_threads = false;
  auto device = Device::Find(options, opener, state_.get());
  if (!device.ok()) throw std::runtime_error(device.status().ToString());
  device_ = *std::move(device);
  const absl::Status configured = device_->Configure(kDevice, kTestPool, kTestChunkBytes);
  if (!configured.ok()) throw std::runtime_error(configured.ToString());
  worker_ = std::make_unique<DeviceWorker>(&context_, device_.get(), &readers_, 0);
}

BareReplica::~BareReplica() = default;

void BareReplica::SetRole(uint64_t epoch, v1::ReplicaRole role) {
  epoch_ = epoch;
  worker_->Install({.placement_group_id = placement_group_id_,
                    .membership = {.epoch = epoch, .role = role, .in_sync_count = 1},
                    .device_id = kDevice},
                   true, false);
}

LearnerState* BareReplica::learner() {
  GroupReplica* replica = worker_->FindLearner(placement_group_id_, epoch_);
  return replica == nullptr ? nullptr : replica->learner.get();
}

v1::IoResult BareReplica::Do(const BareWrite& write) {
  if (!volumes_.Raise(write.volume_id, write.version.generation).ok()) {
    throw std::runtime_error("the generation was not raised");
  }
  auto shown =
      std::make_shared<ShownGrant>(ShownGrant{.key = token::GrantKey::FromBytes(token::Key{})});
  shown->grant.volume_id = write.volume_id;
  shown->grant.vtree_id = write.vtree_id;
  shown->grant.generation = write.version.generation;
  shown->grant.snapshot_sequence = write.layer;
  shown->grant.path = write.path;
  shown->path = PathOf(shown->grant);
  shown->write_path = WritePathOf(*shown->path, write.layer);
  shown->volume = volumes_.Find(write.volume_id);
  const auto client = std::make_shared<OneClient>();
  auto batch = std::make_shared<RequestBatch>(std::make_shared<ClientSession>(client), 0);
  v1::IoOperation* operation = batch->frame.header.add_operations();
  operation->set_tag(1);
  operation->set_type(write.adopts         ? v1::IO_OPERATION_TYPE_ADOPT
                      : write.data.empty() ? v1::IO_OPERATION_TYPE_TRIM
                                           : v1::IO_OPERATION_TYPE_WRITE);
  operation->set_generation(write.version.generation);
  operation->set_placement_group_id(placement_group_id_);
  operation->set_epoch(epoch_);
  operation->set_counter(write.version.sequence);
  operation->set_chunk_index(write.chunk_index);
  operation->set_snapshot_sequence(write.layer);
  operation->set_offset_bytes(write.offset_bytes);
  operation->set_length_bytes(write.length_bytes);
  if (!write.data.empty()) batch->spans.push_back(std::as_bytes(std::span(write.data)));
  worker_->Execute(
      {.batch = batch, .operation = operation, .grant = shown, .span_count = batch->spans.size()});
  worker_->FinishCycle();
  if (client->results.size() != 1) throw std::runtime_error("not one result");
  return client->results[0];
}

std::string BareReplica::Read(const std::vector<token::PathPart>& path, uint64_t vtree_id,
                              uint64_t chunk_index) {
  token::Grant grant;
  grant.path = path;
  const std::optional<chunk::LayerPath> sees = PathOf(grant);
  std::string content(kTestChunkBytes, 0);
  const absl::Status read = store()->Read({.vtree_id = vtree_id, .chunk_index = chunk_index},
                                          &*sees, 0, std::as_writable_bytes(std::span(content)));
  return read.ok() ? content : read.ToString();
}

}  // namespace tessera::sds
