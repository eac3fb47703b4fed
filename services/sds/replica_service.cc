#include "services/sds/replica_service.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"
#include "services/common/wait.h"
#include "services/sds/replica_messages.h"

namespace tessera::sds {
namespace {

constexpr size_t kChunksPerPage = 1'024;
constexpr int kKeysLimit = 64;
constexpr absl::Duration kEpochWait = absl::Seconds(2);

}  // namespace

grpc::Status ReplicaServiceImpl::BeginCopy(grpc::ServerContext* context,
                                           const v1::BeginCopyRequest* request,
                                           v1::BeginCopyResponse* response) {
  return rpc_->RunUnary(context, *request, response,
                        [this](const CallContext&, const v1::BeginCopyRequest& begin,
                               v1::BeginCopyResponse* base) -> absl::Status {
                          TESSERA_ASSIGN_OR_RETURN(DeviceWorker * worker,
                                                   CheckTicket(begin.ticket()));
                          return ReadCursors(worker, begin.ticket(), base);
                        });
}

grpc::Status ReplicaServiceImpl::ListChunkVersions(
    grpc::ServerContext* context, const v1::ListChunkVersionsRequest* request,
    grpc::ServerWriter<v1::ListChunkVersionsResponse>* out) {
  return rpc_->RunServerStream<v1::ListChunkVersionsRequest, v1::ListChunkVersionsResponse>(
      context, *request, out,
      [this](const CallContext&, const v1::ListChunkVersionsRequest& list,
             StreamWriter<v1::ListChunkVersionsResponse>& writer) {
        return List(list.ticket(), writer);
      });
}

grpc::Status ReplicaServiceImpl::CopyChunks(grpc::ServerContext* context,
                                            const v1::CopyChunksRequest* request,
                                            grpc::ServerWriter<v1::CopyChunksResponse>* out) {
  return rpc_->RunServerStream<v1::CopyChunksRequest, v1::CopyChunksResponse>(
      context, *request, out,
      [this](const CallContext&, const v1::CopyChunksRequest& copy,
             StreamWriter<v1::CopyChunksResponse>& writer) { return Copy(copy, writer); });
}

absl::StatusOr<DeviceWorker*> ReplicaServiceImpl::CheckTicket(
    const v1::LearningTicket& ticket) const {
  const auto refuse = [](const char* why) {
    return WithReason(absl::PermissionDeniedError(why), "TICKET_REFUSED");
  };
  if (!VerifyTicket(*context_->keys, ticket)) {
    return refuse("the ticket is not the MDM's for this server");
  }
  const token::MdmTime now = context_->mdm_clock->Now();
  if (now.mdm_reachable && now.latest_ms >= ticket.expiry_ms()) return refuse("the ticket ran out");
  const LocalMembership local =
      context_->placements->WaitForEpoch(ticket.placement_group_id(), ticket.epoch(), kEpochWait);
  if (local.membership.epoch < ticket.epoch()) {
    return absl::UnavailableError(absl::StrCat("the source is still at epoch ",
                                               local.membership.epoch, " of placement group ",
                                               ticket.placement_group_id()));
  }
  if (local.membership.epoch > ticket.epoch() ||
      local.membership.role != v1::REPLICA_ROLE_IN_SYNC) {
    return absl::AbortedError(absl::StrCat("the source is at epoch ", local.membership.epoch,
                                           ", the ticket is for ", ticket.epoch()));
  }
  DeviceWorker* worker = engine_->WorkerOf(ticket.placement_group_id());
  if (worker->device()->failed() || worker->device()->store() == nullptr) {
    return absl::UnavailableError("the source's device failed");
  }
  return worker;
}

absl::Status ReplicaServiceImpl::ReadCursors(DeviceWorker* worker, const v1::LearningTicket& ticket,
                                             v1::BeginCopyResponse* response) const {
  absl::Status status = absl::UnavailableError("the server stops");
  worker->Control([&] {
    GroupReplica* replica = worker->Find(ticket.placement_group_id());
    const uint64_t epoch = replica == nullptr ? 0 : replica->membership.epoch;
    if (epoch < ticket.epoch()) {
      // Accepted, but not in force on the worker yet: it still takes writes of the older epoch.
      status = absl::UnavailableError("the source is on its way to the ticket's epoch");
      return;
    }
    if (epoch > ticket.epoch()) {
      status = absl::AbortedError("the epoch moved on at the source");
      return;
    }
    worker->LoadCursors(replica);
    // Generations first: what is refused from here on can't move a cursor afterwards.
    for (const auto& [volume_id, generation] : context_->volumes->All()) {
      v1::VolumeGeneration* lowest = response->add_lowest_generations();
      lowest->set_volume_id(volume_id);
      lowest->set_generation(generation);
    }
    for (const auto& [volume_id, last] : replica->cursors) {
      SetCursor(
          {.stream = {.volume_id = volume_id, .placement_group_id = replica->placement_group_id},
           .last = last},
          response->add_cursors());
    }
    status = absl::OkStatus();
  });
  return status;
}

absl::Status ReplicaServiceImpl::List(const v1::LearningTicket& ticket,
                                      StreamWriter<v1::ListChunkVersionsResponse>& writer) const {
  std::optional<chunk::ChunkKey> after;
  while (true) {
    TESSERA_ASSIGN_OR_RETURN(DeviceWorker * worker, CheckTicket(ticket));
    TESSERA_ASSIGN_OR_RETURN(
        const std::vector<chunk::ChunkInfo> page,
        worker->device()->store()->ListChunks(ticket.placement_group_id(), after, kChunksPerPage));
    if (page.empty()) return absl::OkStatus();
    v1::ListChunkVersionsResponse response;
    for (const chunk::ChunkInfo& info : page) {
      v1::ChunkVersion* chunk = response.add_chunks();
      SetChunkKey(info.key, chunk->mutable_key());
      SetVersion(info.version, chunk->mutable_version());
      chunk->set_incomplete(info.incomplete);
    }
    if (!writer.Write(response)) return absl::CancelledError("the learner is gone");
    if (page.size() < kChunksPerPage) return absl::OkStatus();
    after = page.back().key;
  }
}

absl::Status ReplicaServiceImpl::Copy(const v1::CopyChunksRequest& request,
                                      StreamWriter<v1::CopyChunksResponse>& writer) const {
  if (request.keys_size() > kKeysLimit) {
    return InvalidField("keys", absl::StrCat("at most ", kKeysLimit));
  }
  for (const v1::ChunkKey& key : request.keys()) {
    TESSERA_ASSIGN_OR_RETURN(DeviceWorker * worker, CheckTicket(request.ticket()));
    v1::CopyChunksResponse response;
    *response.mutable_key() = key;
    const absl::StatusOr<chunk::ChunkImage> image =
        worker->device()->store()->ReadImage(ChunkKeyOf(key));
    // What clients leave; a stop of the server ends the call, so no wait is long.
    if (image.ok()) {
      const uint64_t now = context_->clock->BootNanos();
      const uint64_t wait = context_->pacer->Reserve(image->blocks.size(), now);
      Pause(absl::Nanoseconds(static_cast<int64_t>(std::min<uint64_t>(wait, 500'000'000))));
    }
    if (absl::IsNotFound(image.status())) {
      response.set_absent(true);
    } else if (!image.ok()) {
      return image.status();
    } else {
      SetImage(*image, &response);
    }
    // Read after the image, so that they are at least what is in it.
    v1::BeginCopyResponse cursors;
    TESSERA_RETURN_IF_ERROR(ReadCursors(worker, request.ticket(), &cursors));
    response.mutable_cursors()->Swap(cursors.mutable_cursors());
    if (!writer.Write(response)) return absl::CancelledError("the learner is gone");
  }
  return absl::OkStatus();
}

}  // namespace tessera::sds
