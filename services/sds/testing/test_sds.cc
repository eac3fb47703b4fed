#include "services/sds/testing/test_sds.h"

#include <stdexcept>
#include <utility>

#include "libchunk/env_posix.h"
#include "services/common/crc32c.h"
#include "services/common/errors.h"
#include "services/sds/testing/test_store.h"

namespace tessera::sds {
namespace {

constexpr int kCallTimeoutMillis = 20'000;

StoreOpener RealStore() {
  static chunk::PosixEnv env;
  return [](const std::string& path, const chunk::StoreOptions& options) {
    return chunk::Store::Open(&env, path, options);
  };
}

}  // namespace

StoreOpener FaultyStores(StoreFaults* faults) {
  return [faults, open = RealStore()](
             const std::string& path,
             const chunk::StoreOptions& options) -> absl::StatusOr<std::unique_ptr<chunk::Store>> {
    auto store = open(path, options);
    if (!store.ok()) return store.status();
    return std::make_unique<FaultyStore>(*std::move(store), faults);
  };
}

TestSds::TestSds(FakeMdm* mdm, const std::string& name, StoreOpener opener, uint64_t capacity_bytes)
    : mdm_(mdm),
      name_(name),
      opener_(opener ? std::move(opener) : RealStore()),
      capacity_bytes_(capacity_bytes) {
  Start();
  if (!mdm_->AwaitRegistration(name_, ++starts_)) throw std::runtime_error("not registered");
  const auto control = NewControlStub();
  grpc::ClientContext call;
  PrepareCall(&call, kCallTimeoutMillis, mdm_->ControlBearer(1, id()));
  v1::ConfigureDeviceRequest request;
  request.set_device_uuid(server_->engine()->workers()[0]->device()->uuid());
  request.set_device_id(device_id());
  request.set_pool_id(kTestPool);
  request.set_chunk_bytes(kTestChunkBytes);
  v1::ConfigureDeviceResponse response;
  const grpc::Status configured = control->ConfigureDevice(&call, request, &response);
  if (!configured.ok()) throw std::runtime_error("configure: " + configured.error_message());
}

void TestSds::Start() {
  SdsOptions options;
  options.state_folder = state_.path();
  options.name = name_;
  options.mdm = mdm_->address();
  options.devices = {device_.path() + ",capacity=" + std::to_string(capacity_bytes_)};
  options.control_listen = options.management_listen = "127.0.0.1:0";
  options.metrics_listen = options.data_listen = "127.0.0.1:0";
  options.security.insecure = true;
  options.journal_mib = 16;
  auto server = SdsServer::Start(options, &clock_, opener_, [] {});
  if (!server.ok()) throw std::runtime_error(server.status().ToString());
  server_ = *std::move(server);
}

void TestSds::Restart() {
  RestartAlone();
  if (!mdm_->AwaitRegistration(name_, ++starts_)) throw std::runtime_error("not registered");
}

void TestSds::RestartAlone() {
  server_->Stop();
  server_ = nullptr;
  Start();
}

std::unique_ptr<v1::ChunkService::Stub> TestSds::NewChunkStub() const {
  return v1::ChunkService::NewStub(
      NewChannel(server_->endpoints().data(), grpc::InsecureChannelCredentials()));
}

std::unique_ptr<v1::SdsControlService::Stub> TestSds::NewControlStub() const {
  return v1::SdsControlService::NewStub(
      NewChannel(server_->endpoints().control(), grpc::InsecureChannelCredentials()));
}

absl::StatusOr<v1::RaiseGenerationResponse> TestSds::RaiseGeneration(uint64_t volume_id,
                                                                     uint64_t generation) {
  const auto control = NewControlStub();
  grpc::ClientContext call;
  PrepareCall(&call, kCallTimeoutMillis, mdm_->ControlBearer(1, id()));
  v1::RaiseGenerationRequest request;
  request.set_volume_id(volume_id);
  request.set_generation(generation);
  request.set_with_cursors(true);
  v1::RaiseGenerationResponse response;
  const grpc::Status raised = control->RaiseGeneration(&call, request, &response);
  if (!raised.ok()) return FromGrpcStatus(raised);
  return response;
}

bool TestSds::AwaitEpoch(uint64_t placement_group_id, uint64_t epoch) {
  if (!server_->engine()->AwaitEpoch(placement_group_id, epoch, absl::Seconds(10))) return false;
  // The entry is in the table; its installation is in the worker's queue, or about to be.
  DeviceWorker* worker = server_->engine()->workers()[0].get();
  bool there = false;
  while (!there) {
    worker->Control([&] {
      const GroupReplica* replica = worker->Find(placement_group_id);
      there = replica != nullptr && replica->membership.epoch >= epoch;
    });
  }
  return true;
}

double TestSds::Refusals(token::Refusal refusal) {
  return server_->metrics()->refused[static_cast<size_t>(refusal)]->Value();
}

v1::PlacementGroup GroupOf(uint64_t placement_group_id,
                           const std::vector<std::pair<const TestSds*, v1::ReplicaRole>>& members) {
  v1::PlacementGroup group;
  group.set_placement_group_id(placement_group_id);
  for (const auto& [sds, role] : members) {
    v1::Replica* replica = group.add_replicas();
    replica->set_sds_id(const_cast<TestSds*>(sds)->id());
    replica->set_device_id(const_cast<TestSds*>(sds)->device_id());
    replica->set_role(role);
  }
  return group;
}

token::Grant NewGrant(const FakeMdm& mdm, uint64_t volume_id, uint64_t generation) {
  const uint64_t now = mdm.NowMillis();
  return {.grant_id = 1'000 + volume_id * 100 + generation,
          .key_id = 1,
          .sdc_id = 1,
          .volume_id = volume_id,
          .vtree_id = 10 + volume_id,
          .pool_id = kTestPool,
          .volume_size_bytes = 1u << 30,
          .chunk_bytes = kTestChunkBytes,
          .generation = generation,
          .access = token::AccessMode::kReadWrite,
          .issued_ms = now - 1'000,
          .expiry_ms = now + 3'600'000,
          .outage_expiry_ms = now + 7'200'000};
}

TestClient::TestClient(FakeMdm* mdm, TestSds* sds, const token::Grant& with)
    : grant(with), mdm_(mdm), sds_(sds) {
  Connect();
}

TestClient::~TestClient() {
  if (context_ != nullptr) context_->TryCancel();
  if (stream_ != nullptr) (void)stream_->Finish();
}

void TestClient::Connect() {
  if (stream_ != nullptr) {
    context_->TryCancel();
    (void)stream_->Finish();
  }
  stub_ = sds_->NewChunkStub();
  context_ = std::make_unique<grpc::ClientContext>();
  PrepareCall(context_.get(), 120'000, "");
  stream_ = stub_->Io(context_.get());
  v1::IoResponse first;
  if (!stream_->Read(&first)) throw std::runtime_error("no hello");
  hello_ = first.hello();
  grant_to_show_ = true;
}

v1::IoOperation TestClient::NewWrite(uint64_t group, uint64_t chunk, uint32_t offset,
                                     const std::string& data) {
  v1::IoOperation operation;
  operation.set_tag(next_tag_++);
  operation.set_type(v1::IO_OPERATION_TYPE_WRITE);
  operation.set_grant_id(grant.grant_id);
  operation.set_generation(grant.generation);
  operation.set_placement_group_id(group);
  operation.set_epoch(epoch);
  operation.set_counter(++next[group]);
  operation.set_chunk_index(chunk);
  operation.set_offset_bytes(offset);
  operation.set_length_bytes(static_cast<uint32_t>(data.size()));
  operation.set_data_crc32c(Crc32c(std::as_bytes(std::span(data))));
  operation.set_snapshot_sequence(grant.snapshot_sequence);
  operation.set_sds_incarnation(hello_.incarnation());
  Sign(&operation);
  return operation;
}

v1::IoOperation TestClient::NewRead(uint64_t group, uint64_t chunk, uint32_t offset,
                                    uint32_t length) {
  v1::IoOperation operation;
  operation.set_tag(next_tag_++);
  operation.set_type(v1::IO_OPERATION_TYPE_READ);
  operation.set_grant_id(grant.grant_id);
  operation.set_generation(grant.generation);
  operation.set_placement_group_id(group);
  operation.set_epoch(epoch);
  operation.set_counter(next_counter++);
  operation.set_snapshot_sequence(grant.snapshot_sequence);
  operation.set_chunk_index(chunk);
  operation.set_offset_bytes(offset);
  operation.set_length_bytes(length);
  operation.set_sds_incarnation(hello_.incarnation());
  Sign(&operation);
  return operation;
}

v1::IoOperation TestClient::NewFlush(uint64_t group) {
  v1::IoOperation operation = NewRead(group, 0, 0, 0);
  operation.set_type(v1::IO_OPERATION_TYPE_FLUSH);
  Sign(&operation);
  return operation;
}

void TestClient::Sign(v1::IoOperation* operation) const {
  SignWith(mdm_->SdsKeyOf(grant.key_id, hello_.sds_id()), operation);
}

void TestClient::SignWith(const token::Key& sds_key, v1::IoOperation* operation) const {
  const auto kind = [&] {
    switch (operation->type()) {
      case v1::IO_OPERATION_TYPE_WRITE:
        return token::Operation::kWrite;
      case v1::IO_OPERATION_TYPE_WRITE_ZEROES:
        return token::Operation::kWriteZeroes;
      case v1::IO_OPERATION_TYPE_TRIM:
        return token::Operation::kTrim;
      case v1::IO_OPERATION_TYPE_ADOPT:
        return token::Operation::kAdopt;
      case v1::IO_OPERATION_TYPE_FLUSH:
        return token::Operation::kFlush;
      default:
        return token::Operation::kRead;
    }
  };
  const token::IoToken io{.operation = kind(),
                          .grant_id = operation->grant_id(),
                          .generation = operation->generation(),
                          .placement_group_id = operation->placement_group_id(),
                          .epoch = operation->epoch(),
                          .counter = operation->counter(),
                          .chunk_index = operation->chunk_index(),
                          .snapshot_sequence = operation->snapshot_sequence(),
                          .offset_bytes = operation->offset_bytes(),
                          .length_bytes = operation->length_bytes(),
                          .data_crc32c = operation->data_crc32c(),
                          .binds_data = !operation->unbound_data(),
                          .sds_incarnation = operation->sds_incarnation()};
  const token::Signature signature =
      token::GrantKey::Derive(sds_key, token::EncodeGrant(grant)).Sign(io);
  operation->set_signature(signature.data(), signature.size());
}

TestClient::Outcome TestClient::Send(const v1::IoRequest& request) {
  v1::IoRequest message = request;
  if (grant_to_show_) message.add_grants(token::EncodeGrant(grant));
  grant_to_show_ = false;
  Outcome outcome;
  bool alive = stream_->Write(message);
  v1::IoResponse response;
  while (alive && outcome.results.size() < static_cast<size_t>(request.operations_size())) {
    alive = stream_->Read(&response);
    size_t at = 0;
    int next = 0;
    for (const v1::StageTimes& run : response.stages()) {
      ++outcome.runs;
      for (uint32_t i = 0; i < run.results() && next < response.results_size(); ++i) {
        outcome.times[response.results(next++).tag()] = run;
      }
    }
    for (const v1::IoResult& result : response.results()) {
      outcome.results[result.tag()] = result;
      outcome.payload[result.tag()] = response.payload().substr(at, result.payload_bytes());
      at += result.payload_bytes();
    }
    response.Clear();
  }
  if (!alive) {
    outcome.stream_ended = true;
    outcome.end = stream_->Finish();
    stream_ = nullptr;
  }
  return outcome;
}

v1::IoResult TestClient::SendOne(const v1::IoOperation& operation, const std::string& data,
                                 std::string* read) {
  v1::IoRequest request;
  *request.add_operations() = operation;
  request.set_payload(data);
  const Outcome outcome = Send(request);
  if (outcome.results.empty()) {
    v1::IoResult none;
    none.set_message("the stream ended: " + outcome.end.error_message());
    return none;
  }
  if (read != nullptr) *read = outcome.payload.begin()->second;
  return outcome.results.begin()->second;
}

v1::IoStatus TestClient::Write(uint64_t group, uint64_t chunk, uint32_t offset,
                               const std::string& data) {
  return SendOne(NewWrite(group, chunk, offset, data), data).status();
}

std::pair<v1::IoStatus, std::string> TestClient::Read(uint64_t group, uint64_t chunk,
                                                      uint32_t offset, uint32_t length) {
  std::string data;
  const v1::IoResult result = SendOne(NewRead(group, chunk, offset, length), "", &data);
  return {result.status(), data};
}

}  // namespace tessera::sds
