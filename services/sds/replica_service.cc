#include "services/sds/replica_service.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/crc32c.h"
#include "services/common/status_macros.h"
#include "services/common/thread_priority.h"
#include "services/common/wait.h"
#include "services/sds/replica_messages.h"

namespace tessera::sds {
namespace {

constexpr size_t kChunksPerPage = 1'024;
constexpr int kKeysLimit = 64;
constexpr int kFetchedBlocksLimit = 256;
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
             StreamWriter<v1::ListChunkVersionsResponse>& writer) { return List(list, writer); });
}

grpc::Status ReplicaServiceImpl::CopyChunks(grpc::ServerContext* context,
                                            const v1::CopyChunksRequest* request,
                                            grpc::ServerWriter<v1::CopyChunksResponse>* out) {
  return rpc_->RunServerStream<v1::CopyChunksRequest, v1::CopyChunksResponse>(
      context, *request, out,
      [this](const CallContext&, const v1::CopyChunksRequest& copy,
             StreamWriter<v1::CopyChunksResponse>& writer) {
        absl::Status status;
        RunInBackground([&] { status = Copy(copy, writer); });
        return status;
      });
}

grpc::Status ReplicaServiceImpl::FetchBlocks(grpc::ServerContext* context,
                                             const v1::FetchBlocksRequest* request,
                                             v1::FetchBlocksResponse* response) {
  return rpc_->RunUnary(context, *request, response,
                        [this](const CallContext&, const v1::FetchBlocksRequest& fetch,
                               v1::FetchBlocksResponse* fetched) { return Fetch(fetch, fetched); });
}

grpc::Status ReplicaServiceImpl::ListBlockChecksums(grpc::ServerContext* context,
                                                    const v1::ListBlockChecksumsRequest* request,
                                                    v1::ListBlockChecksumsResponse* response) {
  return rpc_->RunUnary(
      context, *request, response,
      [this](const CallContext&, const v1::ListBlockChecksumsRequest& list,
             v1::ListBlockChecksumsResponse* listed) { return ListChecksums(list, listed); });
}

absl::StatusOr<DeviceWorker*> ReplicaServiceImpl::CheckTicket(const v1::LearningTicket& ticket,
                                                              TicketPurpose purpose) const {
  const auto refuse = [](const char* why) {
    return WithReason(absl::PermissionDeniedError(why), "TICKET_REFUSED");
  };
  if (!VerifyTicket(*context_->keys, purpose, ticket)) {
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
  // Who learned from it now could be made in sync before the MDM knows what both lack.
  if (worker->device()->volatile_state_lost()) {
    return absl::UnavailableError(
        "the source lost unflushed writes: the map of after that is not there yet");
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

absl::Status ReplicaServiceImpl::List(const v1::ListChunkVersionsRequest& request,
                                      StreamWriter<v1::ListChunkVersionsResponse>& writer) const {
  std::optional<chunk::ChunkKey> after;
  while (true) {
    TESSERA_ASSIGN_OR_RETURN(DeviceWorker * worker, CheckTicket(request.ticket()));
    chunk::Store* store = worker->device()->store();
    TESSERA_ASSIGN_OR_RETURN(
        const std::vector<chunk::ChunkInfo> page,
        store->ListChunks(request.ticket().placement_group_id(), after, kChunksPerPage));
    if (page.empty()) return absl::OkStatus();
    v1::ListChunkVersionsResponse response;
    for (chunk::ChunkInfo info : page) {
      std::string digest;
      if (request.with_digests()) {
        const auto blocks = store->ReadBlocks(
            info.key, 0, store->chunk_bytes() / chunk::kBlockBytes, chunk::BlockRead::kMetadata);
        if (absl::IsNotFound(blocks.status())) continue;  // dropped just now
        TESSERA_RETURN_IF_ERROR(blocks.status());
        info = blocks->info;  // of the same moment
        digest = ContentDigest(*blocks);
      }
      v1::ChunkVersion* chunk = response.add_chunks();
      SetChunkKey(info.key, chunk->mutable_key());
      SetVersion(info.version, chunk->mutable_version());
      chunk->set_incomplete(info.incomplete);
      chunk->set_content_digest(std::move(digest));
    }
    if (!writer.Write(response)) return absl::CancelledError("the learner is gone");
    if (page.size() < kChunksPerPage) return absl::OkStatus();
    after = page.back().key;
  }
}

absl::StatusOr<chunk::ChunkImage> ReplicaServiceImpl::ReadForLearner(
    DeviceWorker* worker, uint64_t placement_group_id, const chunk::ChunkKey& key,
    chunk::ImageContent content) const {
  chunk::Store* store = worker->device()->store();
  absl::StatusOr<chunk::ChunkImage> image = store->ReadImage(key, content);
  if (image.ok() || absl::IsNotFound(image.status())) return image;
  const uint32_t blocks = store->chunk_bytes() / chunk::kBlockBytes;
  const BadRange range{.device_id = worker->device()->device_id(),
                       .placement_group_id = placement_group_id,
                       .key = key,
                       .block_count = blocks,
                       .finder = v1::CORRUPT_BLOCK_FINDER_COPY};
  if (!context_->settle_bad_blocks(range)) {
    return absl::UnavailableError(absl::StrCat("the source is repairing bad blocks of the chunk: ",
                                               image.status().message()));
  }
  TESSERA_ASSIGN_OR_RETURN(const chunk::ChunkBlocks now,
                           store->ReadBlocks(key, 0, blocks, chunk::BlockRead::kVerify));
  return ImageOf(now);
}

absl::Status ReplicaServiceImpl::Fetch(const v1::FetchBlocksRequest& request,
                                       v1::FetchBlocksResponse* response) const {
  TESSERA_ASSIGN_OR_RETURN(DeviceWorker * worker,
                           CheckTicket(request.ticket(), TicketPurpose::kRepair));
  int blocks = 0;
  for (const v1::BlockList& wanted : request.chunks()) blocks += wanted.blocks_size();
  if (blocks > kFetchedBlocksLimit) {
    return InvalidField("chunks",
                        absl::StrCat("names ", blocks, " blocks; at most ", kFetchedBlocksLimit));
  }
  for (const v1::BlockList& wanted : request.chunks()) {
    TESSERA_RETURN_IF_ERROR(
        FetchChunk(worker, request.ticket().placement_group_id(), wanted, response->add_chunks()));
  }
  // Between the first look and now the server may have been stopped for long.
  return CheckTicket(request.ticket(), TicketPurpose::kRepair).status();
}

absl::Status ReplicaServiceImpl::FetchChunk(DeviceWorker* worker, uint64_t placement_group_id,
                                            const v1::BlockList& wanted,
                                            v1::FetchedChunk* out) const {
  chunk::Store* store = worker->device()->store();
  const uint32_t blocks_per_chunk = store->chunk_bytes() / chunk::kBlockBytes;
  *out->mutable_key() = wanted.key();
  uint32_t before = 0;
  for (int i = 0; i < wanted.blocks_size(); ++i) {
    if (wanted.blocks(i) >= blocks_per_chunk || (i > 0 && wanted.blocks(i) <= before)) {
      return InvalidField("chunks",
                          absl::StrCat("blocks must ascend and be below ", blocks_per_chunk));
    }
    before = wanted.blocks(i);
  }
  if (wanted.blocks_size() == 0) return InvalidField("chunks", "names a chunk without blocks");
  const chunk::ChunkKey key = ChunkKeyOf(wanted.key());
  const uint32_t first = wanted.blocks(0);
  const absl::StatusOr<chunk::ChunkBlocks> read =
      store->ReadBlocks(key, first, before - first + 1, chunk::BlockRead::kVerify);
  if (absl::IsNotFound(read.status())) {
    out->set_absent(true);
    return absl::OkStatus();
  }
  TESSERA_RETURN_IF_ERROR(read.status());
  SetVersion(read->info.version, out->mutable_version());
  out->set_incomplete(read->info.incomplete);
  for (const uint32_t block : wanted.blocks()) {
    const chunk::BlockState& state = read->states[block - first];
    if (!state.readable) {
      out->add_states(v1::FETCHED_BLOCK_STATE_BAD);
      context_->on_bad_blocks({.device_id = worker->device()->device_id(),
                               .placement_group_id = placement_group_id,
                               .key = key,
                               .first_block = block,
                               .block_count = 1,
                               .finder = v1::CORRUPT_BLOCK_FINDER_COPY});
      continue;
    }
    switch (state.presence) {
      case chunk::BlockPresence::kZeros:
        out->add_states(v1::FETCHED_BLOCK_STATE_UNMAPPED);
        continue;
      case chunk::BlockPresence::kGone:
        out->add_states(v1::FETCHED_BLOCK_STATE_GONE);
        continue;
      case chunk::BlockPresence::kMapped:
        break;
    }
    out->add_states(v1::FETCHED_BLOCK_STATE_GOOD);
    const std::byte* content = read->content.data() + uint64_t{block - first} * chunk::kBlockBytes;
    out->mutable_content()->append(reinterpret_cast<const char*>(content), chunk::kBlockBytes);
  }
  out->set_content_crc32c(Crc32c(std::as_bytes(std::span(out->content()))));
  return absl::OkStatus();
}

absl::Status ReplicaServiceImpl::ListChecksums(const v1::ListBlockChecksumsRequest& request,
                                               v1::ListBlockChecksumsResponse* response) const {
  TESSERA_ASSIGN_OR_RETURN(DeviceWorker * worker,
                           CheckTicket(request.ticket(), TicketPurpose::kRepair));
  if (request.keys_size() > kKeysLimit) {
    return InvalidField("keys", absl::StrCat("at most ", kKeysLimit));
  }
  chunk::Store* store = worker->device()->store();
  for (const v1::ChunkKey& key : request.keys()) {
    v1::ChunkChecksums* out = response->add_chunks();
    *out->mutable_key() = key;
    const absl::StatusOr<chunk::ChunkBlocks> read = store->ReadBlocks(
        ChunkKeyOf(key), 0, store->chunk_bytes() / chunk::kBlockBytes, chunk::BlockRead::kMetadata);
    if (absl::IsNotFound(read.status())) {
      out->set_absent(true);
      continue;
    }
    TESSERA_RETURN_IF_ERROR(read.status());
    SetChecksums(*read, out);
  }
  return CheckTicket(request.ticket(), TicketPurpose::kRepair).status();
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
        ReadForLearner(worker, request.ticket().placement_group_id(), ChunkKeyOf(key),
                       request.whole() ? chunk::ImageContent::kWhole : chunk::ImageContent::kOwn);
    // What clients leave; a stop of the server ends the call, so no wait is long.
    if (image.ok()) {
      const uint64_t now = context_->clock->BootNanos();
      const uint64_t wait =
          context_->pacer->Reserve(RecoveryPacer::Direction::kOut, image->blocks.size(), now);
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
