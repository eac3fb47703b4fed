#include "services/sds/sds_control_service.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libtoken/token.h"
#include "services/common/status_macros.h"
#include "services/sds/replica_messages.h"

namespace tessera::sds {
namespace {

constexpr size_t kDigestsPerMessage = 32;

}  // namespace

grpc::ServerUnaryReactor* SdsControlServiceImpl::RaiseGeneration(
    grpc::CallbackServerContext* context, const v1::RaiseGenerationRequest* request,
    v1::RaiseGenerationResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const v1::RaiseGenerationRequest& raise,
                            v1::RaiseGenerationResponse* raised) { return Raise(raise, raised); });
}

absl::Status SdsControlServiceImpl::Raise(const v1::RaiseGenerationRequest& request,
                                          v1::RaiseGenerationResponse* response) {
  if (request.volume_id() == 0) return InvalidField("volume_id", "must not be 0");
  std::vector<chunk::StreamCursor> cursors;
  TESSERA_ASSIGN_OR_RETURN(const uint64_t lowest,
                           engine_->RaiseGeneration(request.volume_id(), request.generation(),
                                                    request.with_cursors() ? &cursors : nullptr));
  response->set_generation(lowest);
  response->set_incarnation(context_->incarnation);
  if (const auto key = context_->keys->Newest(); key.has_value()) {
    const token::Key receipt = token::SignMessage(
        key->second, "fence",
        token::FenceReceiptMessage(request.volume_id(), lowest, context_->sds_id->load(),
                                   context_->incarnation));
    response->set_receipt(receipt.data(), receipt.size());
    response->set_receipt_key_id(key->first);
  }
  for (const chunk::StreamCursor& cursor : cursors) SetCursor(cursor, response->add_cursors());
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* SdsControlServiceImpl::ApplyPlacementGroups(
    grpc::CallbackServerContext* context, const v1::ApplyPlacementGroupsRequest* request,
    v1::ApplyPlacementGroupsResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const v1::ApplyPlacementGroupsRequest& apply,
                            v1::ApplyPlacementGroupsResponse*) {
                       const std::vector<v1::SignedPlacementGroup> entries(
                           apply.placement_groups().begin(), apply.placement_groups().end());
                       return engine_->AcceptEntries(entries);
                     });
}

grpc::ServerUnaryReactor* SdsControlServiceImpl::DeleteVtree(grpc::CallbackServerContext* context,
                                                             const v1::DeleteVtreeRequest* request,
                                                             v1::DeleteVtreeResponse* response) {
  return rpc_->Unary(
      context, request, response,
      [this](const CallContext&, const v1::DeleteVtreeRequest& drop,
             v1::DeleteVtreeResponse* dropped) -> absl::Status {
        if (drop.vtree_id() == 0) return InvalidField("vtree_id", "must not be 0");
        TESSERA_RETURN_IF_ERROR(janitor_->DropVtree(drop.vtree_id(), drop.volume_id()));
        dropped->set_done(true);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* SdsControlServiceImpl::DropLayers(grpc::CallbackServerContext* context,
                                                            const v1::DropLayersRequest* request,
                                                            v1::DropLayersResponse* response) {
  return rpc_->Unary(
      context, request, response,
      [this](const CallContext&, const v1::DropLayersRequest& drop,
             v1::DropLayersResponse* dropped) { return dropper_.Drop(drop, dropped); });
}

grpc::ServerUnaryReactor* SdsControlServiceImpl::ConfigureDevice(
    grpc::CallbackServerContext* context, const v1::ConfigureDeviceRequest* request,
    v1::ConfigureDeviceResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const v1::ConfigureDeviceRequest& configure,
                            v1::ConfigureDeviceResponse*) { return Configure(configure); });
}

absl::Status SdsControlServiceImpl::Configure(const v1::ConfigureDeviceRequest& request) {
  for (const auto& worker : engine_->workers()) {
    Device* device = worker->device();
    if (device->uuid() != request.device_uuid()) continue;
    TESSERA_RETURN_IF_ERROR(
        device->Configure(request.device_id(), request.pool_id(), request.chunk_bytes()));
    if (device->store() != nullptr) worker->Control([&] { worker->OnStoreOpened(); });
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      absl::StrCat("no device with UUID '", request.device_uuid(), "' is here"));
}

grpc::ServerWriteReactor<v1::ListChunkDigestsResponse>* SdsControlServiceImpl::ListChunkDigests(
    grpc::CallbackServerContext* context, const v1::ListChunkDigestsRequest* request) {
  return rpc_->ServerStream<v1::ListChunkDigestsRequest, v1::ListChunkDigestsResponse>(
      context, request,
      [this](const CallContext& call, const v1::ListChunkDigestsRequest& list,
             StreamWriter<v1::ListChunkDigestsResponse>& writer) {
        return Digest(call, list, writer);
      });
}

absl::Status SdsControlServiceImpl::Digest(
    const CallContext& call, const v1::ListChunkDigestsRequest& request,
    StreamWriter<v1::ListChunkDigestsResponse>& writer) const {
  std::vector<uint64_t> groups;
  for (const LocalMembership& local : context_->placements->All()) {
    const bool asked = request.placement_group_id() == 0 ||
                       request.placement_group_id() == local.placement_group_id;
    if (asked && local.device_id != 0) groups.push_back(local.placement_group_id);
  }
  std::sort(groups.begin(), groups.end());
  for (const uint64_t group : groups) {
    DeviceWorker* worker = engine_->WorkerOf(group);
    if (worker->device()->store() == nullptr) continue;
    TESSERA_RETURN_IF_ERROR(DigestGroup(call, worker, group, request.vtree_id(), writer));
  }
  return absl::OkStatus();
}

absl::Status SdsControlServiceImpl::DigestGroup(
    const CallContext& call, DeviceWorker* worker, uint64_t placement_group_id, uint64_t vtree_id,
    StreamWriter<v1::ListChunkDigestsResponse>& writer) const {
  chunk::Store* store = worker->device()->store();
  std::optional<chunk::ChunkKey> after;
  while (!call.cancelled()) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<chunk::ChunkInfo> page,
                             store->ListChunks(placement_group_id, after, kDigestsPerMessage));
    v1::ListChunkDigestsResponse response;
    for (const chunk::ChunkInfo& info : page) {
      if (vtree_id != 0 && info.key.vtree_id != vtree_id) continue;
      v1::ChunkDigest* digest = response.add_digests();
      SetChunkKey(info.key, digest->mutable_key());
      digest->set_placement_group_id(placement_group_id);
      const absl::StatusOr<chunk::ChunkImage> image =
          store->ReadImage(info.key, chunk::ImageContent::kWhole);
      if (!image.ok()) {
        digest->set_error(std::string(image.status().message()));
        continue;
      }
      SetVersion(image->info.version, digest->mutable_version());
      const std::optional<uint32_t> crc32c = ContentCrc32c(*image, store->chunk_bytes());
      digest->set_content_crc32c(crc32c.value_or(0));
      digest->set_pruned(!crc32c.has_value());
      digest->set_mapped_bytes(image->blocks.size());
    }
    if (response.digests_size() > 0 && !writer.Write(response)) break;
    if (page.size() < kDigestsPerMessage) return absl::OkStatus();
    after = page.back().key;
  }
  return absl::CancelledError("the caller is gone");
}

grpc::ServerUnaryReactor* SdsControlServiceImpl::ListReplicas(
    grpc::CallbackServerContext* context, const v1::ListReplicasRequest* request,
    v1::ListReplicasResponse* response) {
  return rpc_->Unary(
      context, request, response,
      [this](const CallContext&, const v1::ListReplicasRequest&, v1::ListReplicasResponse* list) {
        List(list);
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<v1::MeasureVtreesResponse>* SdsControlServiceImpl::MeasureVtrees(
    grpc::CallbackServerContext* context, const v1::MeasureVtreesRequest* request) {
  return rpc_->ServerStream<v1::MeasureVtreesRequest, v1::MeasureVtreesResponse>(
      context, request,
      [this](const CallContext& call, const v1::MeasureVtreesRequest& measure,
             StreamWriter<v1::MeasureVtreesResponse>& writer) {
        return meter_.Measure(
            measure, [&call] { return call.cancelled(); },
            [&writer](const v1::MeasureVtreesResponse& page) { return writer.Write(page); });
      });
}

grpc::ServerUnaryReactor* SdsControlServiceImpl::GetServerIdentity(
    grpc::CallbackServerContext* context, const v1::GetServerIdentityRequest* request,
    v1::GetServerIdentityResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const v1::GetServerIdentityRequest&,
                            v1::GetServerIdentityResponse* answer) {
                       *answer->mutable_identity() = copy_->Identity();
                       return absl::OkStatus();
                     });
}

grpc::ServerWriteReactor<v1::ReadClusterCopyResponse>* SdsControlServiceImpl::ReadClusterCopy(
    grpc::CallbackServerContext* context, const v1::ReadClusterCopyRequest* request) {
  return rpc_->ServerStream<v1::ReadClusterCopyRequest, v1::ReadClusterCopyResponse>(
      context, request,
      [this](const CallContext& call, const v1::ReadClusterCopyRequest&,
             StreamWriter<v1::ReadClusterCopyResponse>& writer) {
        return copy_->Read([&](const v1::ReadClusterCopyResponse& piece) {
          return !call.cancelled() && writer.Write(piece);
        });
      });
}

void SdsControlServiceImpl::List(v1::ListReplicasResponse* response) const {
  for (const auto& worker : engine_->workers()) {
    worker->Control([&] {
      for (const GroupReplica* replica : worker->Replicas()) {
        if (replica->device_id == 0) continue;
        v1::LocalReplica* local = response->add_replicas();
        local->set_placement_group_id(replica->placement_group_id);
        local->set_epoch(replica->membership.epoch);
        local->set_device_id(replica->device_id);
        local->set_role(replica->membership.role);
        if (replica->learner == nullptr) continue;
        local->set_chunks_compared(replica->learner->progress().chunks_compared);
        local->set_chunks_copied(replica->learner->progress().chunks_copied);
        local->set_bytes_copied(replica->learner->progress().bytes_copied);
      }
    });
  }
  std::sort(response->mutable_replicas()->begin(), response->mutable_replicas()->end(),
            [](const v1::LocalReplica& a, const v1::LocalReplica& b) {
              return a.placement_group_id() < b.placement_group_id();
            });
}

}  // namespace tessera::sds
