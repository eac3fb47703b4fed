#include "services/mdm/mdm_fixture.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "libtoken/token.h"
#include "services/common/auth.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/node.h"

namespace tessera::mdm {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(10);

std::unique_ptr<grpc::Server> Listen(grpc::Service* service, std::string* address) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(address->empty() ? "127.0.0.1:0" : *address,
                           grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service);
  auto server = builder.BuildAndStart();
  *address = absl::StrCat("127.0.0.1:", port);
  return server;
}

}  // namespace

FakeSds::FakeSds(const std::string& name_in)
    : name(name_in), uuid(NewUuid()), device_uuid(NewUuid()) {
  AnswerLayerDrops(true);
  Start();
}

FakeSds::~FakeSds() { Stop(); }

void FakeSds::Start() { server_ = Listen(this, &address_); }

void FakeSds::Stop() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

void FakeSds::SetCursor(uint64_t volume_id, uint64_t placement_group_id, uint64_t generation,
                        uint64_t sequence) {
  absl::MutexLock lock(&mutex_);
  v1::StreamCursor& cursor = cursors_.emplace_back();
  cursor.set_volume_id(volume_id);
  cursor.set_placement_group_id(placement_group_id);
  cursor.mutable_last()->set_generation(generation);
  cursor.mutable_last()->set_sequence(sequence);
}

void FakeSds::OnRaise(std::function<void(int count)> then) {
  absl::MutexLock lock(&mutex_);
  on_raise_ = std::move(then);
  raises_ = 0;
}

void FakeSds::ForgetCursors() {
  absl::MutexLock lock(&mutex_);
  cursors_.clear();
}

void FakeSds::AnswerVtreeDeletion(bool done) {
  absl::MutexLock lock(&mutex_);
  deletion_done_ = done;
}

void FakeSds::KnowGeneration(uint64_t volume_id, uint64_t generation) {
  absl::MutexLock lock(&mutex_);
  generations_[volume_id] = generation;
}

void FakeSds::AnswerLayerDrops(bool done, uint64_t layers) {
  absl::MutexLock lock(&mutex_);
  drop_answer_.set_done(done);
  drop_answer_.set_layers(layers);
}

std::vector<v1::VtreeCatalog> FakeSds::catalogs() {
  absl::MutexLock lock(&mutex_);
  return catalogs_;
}

uint64_t FakeSds::GenerationOf(uint64_t volume_id) {
  absl::MutexLock lock(&mutex_);
  return generations_[volume_id];
}

uint64_t FakeSds::EpochOf(uint64_t placement_group_id) {
  absl::MutexLock lock(&mutex_);
  return epochs_[placement_group_id];
}

std::set<uint64_t> FakeSds::deleted_vtrees() {
  absl::MutexLock lock(&mutex_);
  return deleted_vtrees_;
}

std::string FakeSds::last_authorization() {
  absl::MutexLock lock(&mutex_);
  return last_authorization_;
}

bool FakeSds::AwaitEpoch(uint64_t placement_group_id, uint64_t epoch) {
  absl::MutexLock lock(&mutex_);
  const auto arrived = [&] {
    mutex_.AssertReaderHeld();
    return epochs_[placement_group_id] >= epoch;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&arrived), kPatience);
}

bool FakeSds::AwaitDeletion(uint64_t vtree_id) {
  absl::MutexLock lock(&mutex_);
  const auto arrived = [&] {
    mutex_.AssertReaderHeld();
    return deleted_vtrees_.contains(vtree_id);
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&arrived), kPatience);
}

void FakeSds::NoteCaller(const grpc::ServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("authorization");
  absl::MutexLock lock(&mutex_);
  last_authorization_ =
      found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
}

void FakeSds::Raise(const v1::RaiseGenerationRequest& request,
                    v1::RaiseGenerationResponse* response) {
  uint64_t& generation = generations_[request.volume_id()];
  generation = std::max(generation, request.generation());
  response->set_generation(generation);
  response->set_incarnation(incarnation);
  if (!keys.empty()) {
    token::Key key{};
    std::copy_n(keys.rbegin()->second.begin(), key.size(), key.begin());
    const token::Key receipt = token::SignMessage(
        key, "fence",
        token::FenceReceiptMessage(request.volume_id(), generation, sds_id, incarnation));
    response->set_receipt(receipt.data(), receipt.size());
    response->set_receipt_key_id(keys.rbegin()->first);
  }
  if (!request.with_cursors()) return;
  for (const v1::StreamCursor& cursor : cursors_) *response->add_cursors() = cursor;
}

grpc::Status FakeSds::RaiseGeneration(grpc::ServerContext* context,
                                      const v1::RaiseGenerationRequest* request,
                                      v1::RaiseGenerationResponse* response) {
  NoteCaller(*context);
  std::function<void(int)> then;
  int count = 0;
  {
    absl::MutexLock lock(&mutex_);
    Raise(*request, response);
    then = on_raise_;
    count = ++raises_;
  }
  if (then != nullptr) then(count);
  return grpc::Status::OK;
}

grpc::Status FakeSds::ApplyPlacementGroups(grpc::ServerContext* context,
                                           const v1::ApplyPlacementGroupsRequest* request,
                                           v1::ApplyPlacementGroupsResponse*) {
  NoteCaller(*context);
  absl::MutexLock lock(&mutex_);
  for (const v1::SignedPlacementGroup& entry : request->placement_groups()) {
    v1::PlacementGroup group;
    group.ParseFromString(entry.placement_group());
    uint64_t& epoch = epochs_[group.placement_group_id()];
    epoch = std::max(epoch, group.epoch());
  }
  return grpc::Status::OK;
}

grpc::Status FakeSds::DeleteVtree(grpc::ServerContext* context,
                                  const v1::DeleteVtreeRequest* request,
                                  v1::DeleteVtreeResponse* response) {
  NoteCaller(*context);
  absl::MutexLock lock(&mutex_);
  deleted_vtrees_.insert(request->vtree_id());
  response->set_done(deletion_done_);
  return grpc::Status::OK;
}

grpc::Status FakeSds::DropLayers(grpc::ServerContext* context, const v1::DropLayersRequest* request,
                                 v1::DropLayersResponse* response) {
  NoteCaller(*context);
  absl::MutexLock lock(&mutex_);
  catalogs_.push_back(request->catalog());
  *response = drop_answer_;
  return grpc::Status::OK;
}

void FakeSds::AnswerMeasures(std::function<void(v1::VtreeMeasure*)> figures) {
  absl::MutexLock lock(&mutex_);
  measure_ = std::move(figures);
}

std::vector<v1::MeasureVtreesRequest> FakeSds::measures() {
  absl::MutexLock lock(&mutex_);
  return measures_;
}

grpc::Status FakeSds::MeasureVtrees(grpc::ServerContext* context,
                                    const v1::MeasureVtreesRequest* request,
                                    grpc::ServerWriter<v1::MeasureVtreesResponse>* writer) {
  NoteCaller(*context);
  absl::MutexLock lock(&mutex_);
  measures_.push_back(*request);
  // A message for each vtree, as if each had been large.
  for (const v1::VtreeCatalog& catalog : request->catalogs()) {
    v1::MeasureVtreesResponse piece;
    v1::VtreeMeasure* vtree = piece.add_vtrees();
    vtree->set_vtree_id(catalog.vtree_id());
    for (int i = 0; i < catalog.paths_size(); ++i) vtree->add_views();
    if (measure_ != nullptr) measure_(vtree);
    writer->Write(piece);
  }
  v1::MeasureVtreesResponse last;
  v1::DeviceMeasure* device = last.add_devices();
  device->set_device_id(device_id);
  device->set_capacity_bytes(capacity_bytes);
  device->set_used_bytes(used_bytes);
  device->set_data_bytes(data_bytes);
  last.set_complete(true);
  writer->Write(last);
  return grpc::Status::OK;
}

grpc::Status FakeSds::ConfigureDevice(grpc::ServerContext* context,
                                      const v1::ConfigureDeviceRequest*,
                                      v1::ConfigureDeviceResponse*) {
  NoteCaller(*context);
  return grpc::Status::OK;
}

FakeSdc::FakeSdc(const std::string& name_in) : name(name_in), uuid(NewUuid()) {
  server_ = Listen(this, &address_);
}

FakeSdc::~FakeSdc() { Stop(); }

void FakeSdc::Stop() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

std::set<uint64_t> FakeSdc::attached() {
  absl::MutexLock lock(&mutex_);
  return attached_;
}

int FakeSdc::attach_calls() {
  absl::MutexLock lock(&mutex_);
  return attach_calls_;
}

grpc::Status FakeSdc::AttachVolume(grpc::ServerContext*, const v1::AttachVolumeRequest* request,
                                   v1::AttachVolumeResponse* response) {
  std::function<grpc::Status(uint64_t)> then;
  {
    absl::MutexLock lock(&mutex_);
    attached_.insert(request->volume_id());
    ++attach_calls_;
    then = on_attach_;
  }
  response->add_nbd_uris("nbd://127.0.0.1:1/attached");
  return then == nullptr ? grpc::Status::OK : then(request->volume_id());
}

void FakeSdc::OnAttach(std::function<grpc::Status(uint64_t)> then) {
  absl::MutexLock lock(&mutex_);
  on_attach_ = std::move(then);
}

grpc::Status FakeSdc::DetachVolume(grpc::ServerContext*, const v1::DetachVolumeRequest* request,
                                   v1::DetachVolumeResponse* response) {
  absl::MutexLock lock(&mutex_);
  attached_.erase(request->volume_id());
  response->set_incarnation(detached_by == 0 ? incarnation : detached_by.load());
  return grpc::Status::OK;
}

std::vector<FakeSdc::SnapshotCall> FakeSdc::snapshot_calls() {
  absl::MutexLock lock(&mutex_);
  return snapshot_calls_;
}

void FakeSdc::OnSnapshotCall(std::function<grpc::Status(const SnapshotCall&)> then) {
  absl::MutexLock lock(&mutex_);
  on_snapshot_call_ = std::move(then);
}

void FakeSdc::SetGeneration(uint64_t volume_id, uint64_t generation) {
  absl::MutexLock lock(&mutex_);
  generations_[volume_id] = generation;
}

grpc::Status FakeSdc::Note(SnapshotCall call) {
  std::function<grpc::Status(const SnapshotCall&)> then;
  {
    absl::MutexLock lock(&mutex_);
    snapshot_calls_.push_back(call);
    then = on_snapshot_call_;
  }
  return then == nullptr ? grpc::Status::OK : then(call);
}

grpc::Status FakeSdc::HoldWrites(grpc::ServerContext*, const v1::HoldWritesRequest* request,
                                 v1::HoldWritesResponse* response) {
  {
    absl::MutexLock lock(&mutex_);
    response->set_generation(generations_[request->volume_id()]);
  }
  return Note(
      {SnapshotCall::kHold, request->volume_id(), request->hold_id(), request->deadline_ms(), {}});
}

grpc::Status FakeSdc::CutSnapshot(grpc::ServerContext*, const v1::CutSnapshotRequest* request,
                                  v1::CutSnapshotResponse* response) {
  response->set_held_micros(held_micros);
  return Note({SnapshotCall::kCut, request->volume_id(), request->hold_id(), request->deadline_ms(),
               request->grant()});
}

grpc::Status FakeSdc::ReleaseHold(grpc::ServerContext*, const v1::ReleaseHoldRequest* request,
                                  v1::ReleaseHoldResponse*) {
  return Note({SnapshotCall::kRelease, request->volume_id(), request->hold_id(), 0, {}});
}

grpc::Status FakeSdc::ShrinkVolume(grpc::ServerContext*, const v1::ShrinkVolumeRequest* request,
                                   v1::ShrinkVolumeResponse*) {
  return Note({.what = SnapshotCall::kShrink,
               .volume_id = request->volume_id(),
               .size_bytes = request->size_bytes()});
}

grpc::Status FakeSdc::YieldWriter(grpc::ServerContext*, const v1::YieldWriterRequest* request,
                                  v1::YieldWriterResponse*) {
  return Note({.what = SnapshotCall::kYield,
               .volume_id = request->volume_id(),
               .deadline_ms = request->deadline_ms(),
               .generation = request->generation()});
}

grpc::Status FakeSdc::ListAttachments(grpc::ServerContext*, const v1::ListAttachmentsRequest*,
                                      v1::ListAttachmentsResponse* response) {
  absl::MutexLock lock(&mutex_);
  for (const uint64_t volume_id : attached_) {
    response->add_attachments()->set_volume_id(volume_id);
  }
  return grpc::Status::OK;
}

void FakeSdc::AnswerLatency(LatencyAnswer answer) {
  absl::MutexLock lock(&mutex_);
  latency_ = std::move(answer);
}

grpc::Status FakeSdc::ExplainVolumeLatency(grpc::ServerContext*,
                                           const v1::ExplainVolumeLatencyRequest* request,
                                           v1::ExplainVolumeLatencyResponse* response) {
  absl::MutexLock lock(&mutex_);
  if (latency_ == nullptr) return {grpc::StatusCode::NOT_FOUND, "it is not attached here"};
  return latency_(*request, response);
}

grpc::Status FakeSdc::AdoptLayers(grpc::ServerContext*, const v1::AdoptLayersRequest* request,
                                  v1::AdoptLayersResponse*) {
  SnapshotCall call;
  call.what = SnapshotCall::kAdopt;
  call.volume_id = request->volume_id();
  call.generation = request->generation();
  return Note(std::move(call));
}

MdmFixture::MdmFixture() {
  // Once for all tests: what the MDM logs is not what they look at.
  static const bool quiet = InitLogging({.component = "mdm", .level = "error"}).ok();
  REQUIRE(quiet);
  std::string pattern = (std::filesystem::temp_directory_path() / "mdm-test-XXXXXX").string();
  folder = mkdtemp(pattern.data());
  options.state_folder = folder;
  options.listen = options.metrics_listen = "127.0.0.1:0";
  options.security.insecure = true;
  options.tick_ms = 50;
  options.fence.grace = std::chrono::milliseconds(20);
  options.fence.retry_pause = std::chrono::milliseconds(20);
  options.fence.call_timeout = std::chrono::milliseconds(1'000);
  options.fence.clock_error_ms = 100;
  StartMdm();
}

MdmFixture::~MdmFixture() {
  StopMdm();
  std::filesystem::remove_all(folder);
}

void MdmFixture::StartMdm() {
  auto started = MdmServer::Start(options, &clock);
  INFO(started.status());
  REQUIRE(started.ok());
  mdm = *std::move(started);
  channel_ = grpc::CreateChannel(mdm->address(), grpc::InsecureChannelCredentials());
}

void MdmFixture::StopMdm() {
  channel_.reset();
  mdm.reset();
}

void MdmFixture::Prepare(grpc::ClientContext* context, const std::string& kind, uint64_t id,
                         const std::string& secret, int timeout_ms) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
  if (!secret.empty()) context->AddMetadata("authorization", FormatBearer({kind, id, secret}));
}

namespace {

void FillDevice(const FakeSds& sds, v1::DeviceDescription* device) {
  device->set_device_uuid(sds.device_uuid);
  device->set_path("/dev/fake");
  device->set_capacity_bytes(sds.capacity_bytes);
  device->set_used_bytes(sds.used_bytes);
  device->set_pool_name("pool");
  device->set_volatile_state_lost(sds.volatile_state_lost);
  device->set_failure(sds.failure);
}

}  // namespace

grpc::Status MdmFixture::Register(FakeSds* sds) {
  v1::RegisterSdsRequest request;
  v1::NodeIdentity* identity = request.mutable_identity();
  identity->set_node_uuid(sds->uuid);
  identity->set_name(sds->name);
  identity->set_incarnation(sds->incarnation);
  identity->set_node_secret(sds->secret);
  if (sds->secret.empty()) identity->set_join_token(mdm->join_token());
  request.mutable_endpoints()->set_control(sds->address());
  request.set_protection_domain_name("pd");
  request.set_fault_set_name(sds->fault_set);
  FillDevice(*sds, request.add_devices());
  v1::RegisterSdsResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  grpc::Status status = Stub<v1::DiscoveryService>()->RegisterSds(&context, request, &response);
  if (!status.ok()) return status;
  sds->sds_id = response.sds_id();
  sds->device_id = response.device_ids(0);
  if (!response.node_secret().empty()) sds->secret = response.node_secret();
  sds->keys.clear();
  for (const v1::SdsKey& key : response.keys()) sds->keys[key.key_id()] = key.key();
  return status;
}

grpc::Status MdmFixture::Register(FakeSdc* sdc) {
  v1::RegisterSdcRequest request;
  v1::NodeIdentity* identity = request.mutable_identity();
  identity->set_node_uuid(sdc->uuid);
  identity->set_name(sdc->name);
  identity->set_incarnation(sdc->incarnation);
  identity->set_node_secret(sdc->secret);
  if (sdc->secret.empty()) identity->set_join_token(mdm->join_token());
  request.mutable_endpoints()->set_control(sdc->address());
  request.add_nbd_uris("nbd://127.0.0.1:10809");
  v1::RegisterSdcResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  grpc::Status status = Stub<v1::DiscoveryService>()->RegisterSdc(&context, request, &response);
  if (!status.ok()) return status;
  sdc->sdc_id = response.sdc_id();
  if (!response.node_secret().empty()) sdc->secret = response.node_secret();
  return status;
}

grpc::Status MdmFixture::Beat(FakeSds* sds) {
  v1::HeartbeatRequest request;
  request.set_incarnation(sds->incarnation);
  FillDevice(*sds, request.add_devices());
  v1::HeartbeatResponse response;
  grpc::ClientContext context;
  Prepare(&context, "sds", sds->sds_id, sds->secret);
  grpc::Status status = Stub<v1::HealthService>()->Heartbeat(&context, request, &response);
  if (!status.ok()) return status;
  sds->keys.clear();
  for (const v1::SdsKey& key : response.keys()) sds->keys[key.key_id()] = key.key();
  return status;
}

void MdmFixture::MakePool(std::vector<FakeSds*> servers, uint32_t replicas) {
  for (FakeSds* sds : servers) REQUIRE(Register(sds).ok());
  auto stub = Stub<v1::TopologyService>();
  v1::CreateProtectionDomainRequest domain;
  domain.set_name("pd");
  v1::CreateProtectionDomainResponse made;
  grpc::ClientContext first;
  Prepare(&first);
  REQUIRE(stub->CreateProtectionDomain(&first, domain, &made).ok());
  v1::CreateStoragePoolRequest pool;
  pool.set_protection_domain_id(made.protection_domain().protection_domain_id());
  pool.set_name("pool");
  pool.set_replica_count(replicas);
  pool.set_placement_group_count(4);
  v1::CreateStoragePoolResponse response;
  grpc::ClientContext second;
  Prepare(&second);
  REQUIRE(stub->CreateStoragePool(&second, pool, &response).ok());
  REQUIRE(Await([&] {
    std::set<uint64_t> seen;
    for (const v1::PlacementGroup& group : Groups()) {
      for (const v1::Replica& replica : group.replicas()) seen.insert(replica.sds_id());
    }
    return seen.size() == servers.size();
  }));
  for (FakeSds* sds : servers) REQUIRE(Beat(sds).ok());
}

v1::Volume MdmFixture::MakeVolume(const std::string& name, uint64_t size_bytes) {
  v1::CreateVolumeRequest request;
  request.set_name(name);
  request.set_size_bytes(size_bytes);
  v1::CreateVolumeResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  const grpc::Status status = Stub<v1::VolumeService>()->CreateVolume(&context, request, &response);
  INFO(status.error_message());
  REQUIRE(status.ok());
  return response.volume();
}

grpc::Status MdmFixture::Map(const v1::Volume& volume, const FakeSdc& sdc, v1::MappingMode mode) {
  v1::MapVolumeRequest request;
  request.set_volume_id(volume.volume_id());
  request.set_sdc_id(sdc.sdc_id);
  request.set_mode(mode);
  v1::MapVolumeResponse response;
  grpc::ClientContext context;
  Prepare(&context, "", 0, "", 2'000);
  return Stub<v1::VolumeService>()->MapVolume(&context, request, &response);
}

grpc::Status MdmFixture::Renew(const FakeSdc& sdc, v1::IssuedGrant* grant) {
  v1::RenewGrantRequest request;
  request.set_token_id(token::DecodeGrant(grant->grant())->grant_id);
  v1::RenewGrantResponse response;
  grpc::ClientContext context;
  Prepare(&context, "sdc", sdc.sdc_id, sdc.secret);
  const grpc::Status status = Stub<v1::TokenService>()->RenewGrant(&context, request, &response);
  if (status.ok()) *grant = response.grant();
  return status;
}

grpc::Status MdmFixture::Acquire(const v1::Volume& volume, const FakeSdc& sdc,
                                 v1::IssuedGrant* grant, int timeout_ms) {
  v1::AcquireGrantRequest request;
  request.set_volume_id(volume.volume_id());
  v1::AcquireGrantResponse response;
  grpc::ClientContext context;
  Prepare(&context, "sdc", sdc.sdc_id, sdc.secret, timeout_ms);
  const grpc::Status status = Stub<v1::TokenService>()->AcquireGrant(&context, request, &response);
  if (grant != nullptr) *grant = response.grant();
  return status;
}

grpc::Status MdmFixture::Report(const FakeSdc& sdc, uint64_t placement_group_id, uint64_t epoch,
                                uint64_t device_id, v1::PlacementGroup* entry) {
  v1::ReportReplicaFailuresRequest request;
  v1::ReplicaFailure* failure = request.add_failures();
  failure->set_placement_group_id(placement_group_id);
  failure->set_epoch(epoch);
  failure->set_device_id(device_id);
  failure->set_reason("no answer");
  v1::ReportReplicaFailuresResponse response;
  grpc::ClientContext context;
  Prepare(&context, "sdc", sdc.sdc_id, sdc.secret);
  grpc::Status status =
      Stub<v1::PlacementService>()->ReportReplicaFailures(&context, request, &response);
  if (status.ok()) entry->ParseFromString(response.placement_groups(0).placement_group());
  return status;
}

std::vector<v1::PlacementGroup> MdmFixture::Groups() {
  v1::ListPlacementGroupsRequest request;
  request.set_pool_id(1);
  v1::ListPlacementGroupsResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  if (!Stub<v1::PlacementService>()->ListPlacementGroups(&context, request, &response).ok())
    return {};
  return {response.placement_groups().begin(), response.placement_groups().end()};
}

v1::Volume MdmFixture::GetVolume(uint64_t volume_id) {
  v1::GetVolumeRequest request;
  request.set_volume_id(volume_id);
  v1::GetVolumeResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  REQUIRE(Stub<v1::VolumeService>()->GetVolume(&context, request, &response).ok());
  return response.volume();
}

bool MdmFixture::Await(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + kPatience;
  absl::Mutex mutex;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    mdm->Tick();
    // Between two looks others get the processor: the condition is behind an RPC, so nothing can be
    // waited on.
    absl::MutexLock lock(&mutex);
    bool never = false;
    mutex.AwaitWithTimeout(absl::Condition(&never), absl::Milliseconds(10));
  }
  return true;
}

std::string Reason(const grpc::Status& status) { return ReasonOf(FromGrpcStatus(status)); }

uint32_t CountRole(const v1::PlacementGroup& group, v1::ReplicaRole role) {
  uint32_t count = 0;
  for (const v1::Replica& replica : group.replicas()) count += replica.role() == role;
  return count;
}

ClusterFixture::ClusterFixture() {
  MakePool({&a, &b}, 2);
  REQUIRE(Register(&client).ok());
}

}  // namespace tessera::mdm
