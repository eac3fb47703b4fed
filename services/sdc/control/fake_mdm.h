// For tests of the client's process: an MDM with one volume and one server, in this process.
#ifndef TESSERA_SERVICES_SDC_CONTROL_FAKE_MDM_H_
#define TESSERA_SERVICES_SDC_CONTROL_FAKE_MDM_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "libtoken/token.h"
#include "services/common/node.h"
#include "services/sdc/control/sdc_process.h"
#include "services/sdc/engine/fake_sds.h"
#include "tessera/v1/discovery.grpc.pb.h"
#include "tessera/v1/health.grpc.pb.h"
#include "tessera/v1/placement.grpc.pb.h"
#include "tessera/v1/sdc_control.grpc.pb.h"
#include "tessera/v1/token.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::sdc {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    char path[] = "/tmp/sdc_test_XXXXXX";
    path_ = mkdtemp(path);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline constexpr uint32_t kFakeChunkBytes = 16 << 10;
inline constexpr uint64_t kFakeVolumeBytes = 1 << 20;
inline constexpr char kFakeSecret[] =
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

// An MDM with one volume and one server.
class FakeMdm final : public v1::DiscoveryService::Service,
                      public v1::HealthService::Service,
                      public v1::PlacementService::Service,
                      public v1::TokenService::Service,
                      public v1::VolumeService::Service {
 public:
  FakeMdm() : sds_(MakeSds()) {
    sds_->Start();
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(static_cast<v1::DiscoveryService::Service*>(this));
    builder.RegisterService(static_cast<v1::HealthService::Service*>(this));
    builder.RegisterService(static_cast<v1::PlacementService::Service*>(this));
    builder.RegisterService(static_cast<v1::TokenService::Service*>(this));
    builder.RegisterService(static_cast<v1::VolumeService::Service*>(this));
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  ~FakeMdm() override { GoAway(); }
  const std::string& address() const { return address_; }
  // The servers stay.
  void GoAway() {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }
  std::atomic<bool> mapped{true};
  std::atomic<int> renewals{0};
  std::atomic<bool> renewals_held{false};  // made, but not answered yet
  std::atomic<uint32_t> iops_limit{0};
  std::atomic<int> registrations{0};
  std::atomic<bool> left{false};
  std::atomic<bool> base_deleted{false};
  std::atomic<bool> base_rolled_back{false};
  std::atomic<uint64_t> granted_epoch{0};  // of the entry that comes with a grant; 0: none
  std::atomic<uint64_t> known_epoch{0};    // by the client, as it acquired its last grant
  // The volume is unmapped and mapped again: the generation moves on, and so does the mapping.
  void Remap() {
    ++mapping_id_;
    Fence();
  }
  // The server refuses what was signed before; a client with the mapping may acquire again.
  void Fence() { sds_->RaiseGeneration(++generation_); }
  // The grant of a cut: the same generation, the next layer.
  [[nodiscard]] v1::IssuedGrant NextLayer() {
    ++layer_;
    return Issue(generation_);
  }
  [[nodiscard]] FakeSds& sds() { return *sds_; }
  [[nodiscard]] uint64_t generation() const { return generation_; }
  [[nodiscard]] uint64_t flushes() const { return sds_->counts().flushes; }

  grpc::Status RegisterSdc(grpc::ServerContext*, const v1::RegisterSdcRequest* request,
                           v1::RegisterSdcResponse* response) override {
    if (request->identity().node_secret().empty() && request->identity().join_token() != "join") {
      return {grpc::StatusCode::UNAUTHENTICATED, "join token"};
    }
    ++registrations;
    response->set_sdc_id(5);
    if (request->identity().node_secret().empty()) response->set_node_secret(kFakeSecret);
    response->set_cluster_uuid("cluster");
    response->set_mdm_time_ms(1'000'000);
    response->set_heartbeat_interval_ms(20);
    if (mapped) response->add_mapped_volume_ids(7);
    return grpc::Status::OK;
  }
  grpc::Status Heartbeat(grpc::ServerContext* context, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    const auto bearer = context->client_metadata().find("authorization");
    if (bearer == context->client_metadata().end() ||
        std::string(bearer->second.data(), bearer->second.size()) !=
            absl::StrCat("Bearer sdc.5.", kFakeSecret)) {
      return {grpc::StatusCode::UNAUTHENTICATED, "bearer"};
    }
    if (request->leaving()) left = true;
    response->set_mdm_time_ms(1'000'000);
    response->set_heartbeat_interval_ms(20);
    if (mapped) response->add_mapped_volume_ids(7);
    return grpc::Status::OK;
  }
  grpc::Status GetVolume(grpc::ServerContext*, const v1::GetVolumeRequest* request,
                         v1::GetVolumeResponse* response) override {
    // 7 is the volume; 8 and 10 ("other") are of its origin, 11 is of another, more are not there.
    const uint64_t id = request->name() == "other" ? 10 : request->volume_id();
    if (id > 11 || (id == 10 && base_deleted)) return {grpc::StatusCode::NOT_FOUND, "no volume"};
    v1::Volume* volume = response->mutable_volume();
    volume->set_volume_id(id);
    volume->set_name("vol");
    volume->set_vtree_id(id == 11 ? 11 : 7);
    if (id == 7) return grpc::Status::OK;
    v1::LayerPathPart* part = volume->mutable_path()->add_parts();
    part->set_branch(id == 8 ? 0 : base_rolled_back ? 3 : 2);
    part->set_ordinal_max(3);
    return grpc::Status::OK;
  }
  grpc::Status AcquireGrant(grpc::ServerContext*, const v1::AcquireGrantRequest* request,
                            v1::AcquireGrantResponse* response) override {
    if (request->volume_id() != 7 || !mapped) {
      return {grpc::StatusCode::PERMISSION_DENIED, "not mapped"};
    }
    known_epoch = request->known_pools().empty() ? 0 : request->known_pools(0).epoch_sum();
    *response->mutable_grant() = Issue(++generation_);
    if (granted_epoch != 0) {
      response->add_placement_groups()->set_placement_group(
          EntryOf(granted_epoch).SerializeAsString());
    }
    return grpc::Status::OK;
  }
  grpc::Status RenewGrant(grpc::ServerContext*, const v1::RenewGrantRequest*,
                          v1::RenewGrantResponse* response) override {
    ++renewals;
    if (issued_generation_ != generation_) return {grpc::StatusCode::FAILED_PRECONDITION, "moved"};
    *response->mutable_grant() = Issue(generation_);
    while (renewals_held) std::this_thread::yield();
    return grpc::Status::OK;
  }
  grpc::Status WatchPlacementGroups(
      grpc::ServerContext* context, const v1::WatchPlacementGroupsRequest*,
      grpc::ServerWriter<v1::WatchPlacementGroupsResponse>* writer) override {
    v1::WatchPlacementGroupsResponse map;
    map.set_snapshot(true);
    v1::PoolLayout* pool = map.add_pools();
    pool->set_pool_id(1);
    pool->set_placement_group_count(1);
    pool->set_chunk_bytes(kFakeChunkBytes);
    map.add_placement_groups()->set_placement_group(EntryOf(1).SerializeAsString());
    *map.add_sds_addresses() = sds_->Address();
    writer->Write(map);
    while (!context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::OK;
  }

 private:
  static v1::PlacementGroup EntryOf(uint64_t epoch) {
    v1::PlacementGroup entry;
    entry.set_placement_group_id(65536);
    entry.set_epoch(epoch);
    v1::Replica* replica = entry.add_replicas();
    replica->set_device_id(100);
    replica->set_sds_id(10);
    replica->set_role(v1::REPLICA_ROLE_IN_SYNC);
    return entry;
  }
  std::unique_ptr<FakeSds> MakeSds() {
    token::RandomBytes(secret_);
    return std::make_unique<FakeSds>(10, 100, secret_, kFakeChunkBytes);
  }
  v1::IssuedGrant Issue(uint64_t generation) {
    issued_generation_ = generation;
    token::Grant grant;
    grant.grant_id = 1000 + generation + layer_ * 1'000'000;
    grant.key_id = 1;
    grant.sdc_id = 5;
    grant.volume_id = 7;
    grant.vtree_id = 7;
    grant.pool_id = 1;
    grant.volume_size_bytes = kFakeVolumeBytes;
    grant.chunk_bytes = kFakeChunkBytes;
    grant.generation = generation;
    grant.snapshot_sequence = layer_;
    grant.access = token::AccessMode::kReadWrite;
    grant.issued_ms = 1'000'000;
    grant.expiry_ms = 1'000'100 + static_cast<uint64_t>(renewals);
    grant.outage_expiry_ms = 2'000'000;
    grant.iops_limit = iops_limit;
    v1::IssuedGrant issued;
    issued.set_grant(token::EncodeGrant(grant));
    issued.set_mdm_time_ms(1'000'000);
    issued.set_mapping_id(mapping_id_);
    v1::GrantKeyForSds* key = issued.add_keys();
    key->set_sds_id(10);
    const token::Key bytes =
        token::GrantKey::Derive(token::DeriveSdsKey(secret_, 10), issued.grant()).bytes();
    key->set_key(bytes.data(), bytes.size());
    return issued;
  }

  token::Key secret_{};
  std::unique_ptr<FakeSds> sds_;
  std::atomic<uint64_t> generation_{1};
  std::atomic<uint64_t> issued_generation_{0};
  std::atomic<uint64_t> mapping_id_{1};
  std::atomic<uint64_t> layer_{0};
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

inline SdcOptions Options(const TemporaryFolder& folder, const FakeMdm& mdm) {
  SdcOptions options;
  options.state_folder = options.resume_folder = folder.path();
  options.name = "test";
  options.mdm_address = mdm.address();
  options.join_token = "join";
  options.control_listen = options.management_listen = "127.0.0.1:0";
  options.metrics_listen = options.nbd_listen = "127.0.0.1:0";
  options.security.insecure = true;
  return options;
}

inline std::string Endpoint(const TemporaryFolder& folder, const std::string& name) {
  const auto file = ReadFile(folder.path() + "/endpoints");
  REQUIRE(file.ok());
  const size_t at = file->find(name + "=");
  REQUIRE(at != std::string::npos);
  return file->substr(at + name.size() + 1, file->find('\n', at) - at - name.size() - 1);
}

inline std::unique_ptr<v1::SdcControlService::Stub> Control(const TemporaryFolder& folder) {
  return v1::SdcControlService::NewStub(
      grpc::CreateChannel(Endpoint(folder, "control"), grpc::InsecureChannelCredentials()));
}

inline size_t AttachmentCount(v1::SdcControlService::Stub& control) {
  grpc::ClientContext context;
  v1::ListAttachmentsResponse list;
  REQUIRE(control.ListAttachments(&context, {}, &list).ok());
  return static_cast<size_t>(list.attachments_size());
}

inline void WriteAll(v1::SdcControlService::Stub& control, const std::string& bytes) {
  grpc::ClientContext context;
  v1::WriteVolumeResponse response;
  const auto writer = control.WriteVolume(&context, &response);
  v1::WriteVolumeRequest request;
  request.set_volume_name("vol");
  request.set_data(bytes);
  CHECK(writer->Write(request));
  writer->WritesDone();
  REQUIRE(writer->Finish().ok());
}

inline std::string ReadAll(v1::SdcControlService::Stub& control, uint64_t length) {
  grpc::ClientContext context;
  v1::ReadVolumeRequest request;
  request.set_volume_id(7);
  request.set_length_bytes(length);
  const auto reader = control.ReadVolume(&context, request);
  std::string bytes;
  v1::ReadVolumeResponse response;
  while (reader->Read(&response)) bytes += response.data();
  CHECK(reader->Finish().ok());
  return bytes;
}

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_FAKE_MDM_H_
