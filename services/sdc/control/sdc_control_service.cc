#include "services/sdc/control/sdc_control_service.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/sdc/control/loop_call.h"
#include "services/sdc/control/request_window.h"

namespace tessera::sdc {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;
constexpr size_t kWriteMessageBytes = 4 << 20;
constexpr uint64_t kZeroBytes = 64 << 20;  // in one request
constexpr std::chrono::milliseconds kLongest = std::chrono::hours(1);

void FillStatus(const ReadCache& cache, v1::ReadCacheStatus* status) {
  const ReadCacheFigures& figures = cache.figures();
  status->set_folder(cache.folder());
  status->set_size_bytes(cache.size_bytes());
  status->set_used_bytes(figures.used_bytes);
  status->set_admitted_bytes(figures.admitted_bytes);
  status->set_evicted_bytes(figures.evicted_bytes);
  status->set_errors(figures.errors);
  if (figures.resting) status->set_suspended(cache.why_resting());
}

}  // namespace

std::string ExportUri(const std::string& listener_uri, const std::string& name) {
  if (!absl::StartsWith(listener_uri, "nbd+unix://")) return absl::StrCat(listener_uri, "/", name);
  const size_t query = listener_uri.find('?');
  return absl::StrCat("nbd+unix:///", name,
                      query == std::string::npos ? "" : listener_uri.substr(query));
}

absl::Status FromBlockError(int error, const std::string& message) {
  switch (error) {
    case 0:
      return absl::OkStatus();
    case EPERM:
      return absl::PermissionDeniedError(message);
    case EINVAL:
      return absl::OutOfRangeError(message);
    case ENOSPC:
      return absl::ResourceExhaustedError(message);
    case EIO:
      return absl::DataLossError(message);
    default:
      return absl::UnavailableError(message);
  }
}

SdcControlServiceImpl::SdcControlServiceImpl(RpcDispatcher& rpc, EventLoop& loop, IoEngine& engine,
                                             const SharedVolumes& volumes, Attachments& attachments,
                                             MdmClient& mdm, const NbdServer& nbd,
                                             std::vector<std::string> nbd_uris)
    : rpc_(rpc),
      loop_(loop),
      engine_(engine),
      volumes_(volumes),
      attachments_(attachments),
      mdm_(mdm),
      nbd_(nbd),
      nbd_uris_(std::move(nbd_uris)) {}

grpc::ServerUnaryReactor* SdcControlServiceImpl::AttachVolume(
    grpc::CallbackServerContext* context, const v1::AttachVolumeRequest* request,
    v1::AttachVolumeResponse* response) {
  return rpc_.Unary(context, request, response,
                    [this](const CallContext& call, const auto& request, auto* response) {
                      return Attach(call, request, response);
                    });
}

grpc::ServerUnaryReactor* SdcControlServiceImpl::DetachVolume(
    grpc::CallbackServerContext* context, const v1::DetachVolumeRequest* request,
    v1::DetachVolumeResponse* response) {
  return rpc_.Unary(context, request, response,
                    [this](const CallContext& call, const auto& request, auto* response) {
                      response->set_incarnation(attachments_.incarnation());
                      return Detach(call, request);
                    });
}

grpc::ServerUnaryReactor* SdcControlServiceImpl::ListAttachments(
    grpc::CallbackServerContext* context, const v1::ListAttachmentsRequest* request,
    v1::ListAttachmentsResponse* response) {
  return rpc_.Unary(context, request, response,
                    [this](const CallContext& call, const auto&, auto* response) {
                      return List(call, response);
                    });
}

grpc::ServerWriteReactor<v1::ReadVolumeResponse>* SdcControlServiceImpl::ReadVolume(
    grpc::CallbackServerContext* context, const v1::ReadVolumeRequest* request) {
  return rpc_.ServerStream<v1::ReadVolumeRequest, v1::ReadVolumeResponse>(
      context, request, [this](const CallContext& call, const auto& request, auto& writer) {
        return Read(call, request, writer);
      });
}

grpc::ServerReadReactor<v1::WriteVolumeRequest>* SdcControlServiceImpl::WriteVolume(
    grpc::CallbackServerContext* context, v1::WriteVolumeResponse* response) {
  return rpc_.ClientStream<v1::WriteVolumeRequest>(
      context, response, [this](const CallContext& call, auto& reader, auto* response) {
        return Write(call, reader, response);
      });
}

grpc::ServerUnaryReactor* SdcControlServiceImpl::FlushVolume(grpc::CallbackServerContext* context,
                                                             const v1::FlushVolumeRequest* request,
                                                             v1::FlushVolumeResponse* response) {
  return rpc_.Unary(context, request, response,
                    [this](const CallContext& call, const auto& request, auto*) -> absl::Status {
                      TESSERA_ASSIGN_OR_RETURN(
                          const SharedVolumes::Offer offer,
                          FindOffer(call, request.volume_id(), request.volume_name()));
                      BlockRequest flush;
                      flush.command = Command::kFlush;
                      return Submit(call, offer, std::move(flush)).status();
                    });
}

absl::Status SdcControlServiceImpl::Attach(const CallContext& call,
                                           const v1::AttachVolumeRequest& request,
                                           v1::AttachVolumeResponse* response) {
  const uint64_t volume_id = request.volume_id();
  if (volume_id == 0) return InvalidField("volume_id", "must be the id of a mapped volume, not 0");
  TESSERA_ASSIGN_OR_RETURN(
      const absl::Status attached,
      AskLoop<absl::Status>(loop_, call.TimeLeft(kLongest), [this, volume_id](auto answer) {
        attachments_.Attach(volume_id, std::move(answer));
      }));
  TESSERA_RETURN_IF_ERROR(attached);
  TESSERA_ASSIGN_OR_RETURN(const SharedVolumes::Offer offer, FindOffer(call, volume_id, ""));
  for (const std::string& uri : UrisOf(offer.name)) response->add_nbd_uris(uri);
  return absl::OkStatus();
}

absl::Status SdcControlServiceImpl::Detach(const CallContext& call,
                                           const v1::DetachVolumeRequest& request) {
  if (request.volume_id() == 0) return InvalidField("volume_id", "must be a volume's id, not 0");
  TESSERA_ASSIGN_OR_RETURN(
      const absl::Status detached,
      AskLoop<absl::Status>(
          loop_, call.TimeLeft(kLongest),
          [this, volume_id = request.volume_id(), drop = request.force()](auto answer) {
            attachments_.Detach(volume_id, drop, std::move(answer));
          }));
  return detached;
}

absl::Status SdcControlServiceImpl::List(const CallContext& call,
                                         v1::ListAttachmentsResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(
      *response,
      AskLoop<v1::ListAttachmentsResponse>(loop_, call.TimeLeft(kLongest), [this](auto answer) {
        v1::ListAttachmentsResponse list;
        for (const SharedVolumes::Offer& offer : volumes_.Offers()) {
          FillAttachment(offer, list.add_attachments());
        }
        if (engine_.read_cache() != nullptr)
          FillStatus(*engine_.read_cache(), list.mutable_cache());
        answer(std::move(list));
      }));
  return absl::OkStatus();
}

void SdcControlServiceImpl::FillAttachment(const SharedVolumes::Offer& offer,
                                           v1::Attachment* attachment) const {
  const std::vector<NbdConnectionInfo> connections = nbd_.Connections();
  attachment->set_volume_id(offer.volume_id);
  attachment->set_volume_name(offer.name);
  attachment->set_size_bytes(offer.device->info().size_bytes);
  attachment->set_read_only(offer.device->info().read_only);
  for (const std::string& uri : UrisOf(offer.name)) attachment->add_nbd_uris(uri);
  attachment->set_connections(static_cast<uint32_t>(
      std::count_if(connections.begin(), connections.end(),
                    [&offer](const auto& c) { return c.export_name == offer.name; })));
  // What this client's own applications asked for.
  const VolumeStats& stats =
      offer.shared != nullptr ? offer.shared->stats() : offer.engine->stats();
  attachment->set_reads(stats.reads.Get());
  attachment->set_writes(stats.writes.Get());
  attachment->set_read_bytes(stats.read_bytes.Get());
  attachment->set_write_bytes(stats.write_bytes.Get());
  attachment->set_errors(stats.errors.Get());
  attachment->set_in_flight(static_cast<uint32_t>(stats.in_flight.Get()));
  attachment->set_waiting_for(offer.shared != nullptr ? offer.shared->WaitingFor()
                                                      : offer.engine->WaitingFor());
  if (offer.shared != nullptr) {
    attachment->set_generation(offer.shared->generation());
    attachment->set_forwarded_to_sdc_id(offer.shared->forwarded_to());
  }
  if (offer.engine == nullptr) return;
  const token::Grant& grant = offer.engine->grant().fields;
  attachment->set_size_bytes(grant.volume_size_bytes);
  attachment->set_generation(grant.generation);
  attachment->set_grant_expiry_ms(grant.expiry_ms);
  attachment->set_iops_limit(grant.iops_limit);
  attachment->set_bandwidth_limit_bytes(grant.bandwidth_limit_bytes);
  attachment->set_burst_seconds(grant.burst_seconds);
  attachment->set_over_budget(offer.engine->grant().over_budget);
  attachment->set_limited_requests(offer.engine->stats().limited.Get());
  attachment->set_limited_wait_ms(offer.engine->stats().limited_wait_micros.Get() / 1000);
  if (const CachedVolume* cached = offer.engine->cache()) {
    attachment->set_cache_hits(cached->hits());
    attachment->set_cache_misses(cached->misses());
    attachment->set_cache_hit_bytes(cached->hit_bytes());
    attachment->set_cache_leased(cached->leased());
  }
}

absl::StatusOr<SharedVolumes::Offer> SdcControlServiceImpl::FindOffer(const CallContext& call,
                                                                      uint64_t volume_id,
                                                                      const std::string& name) {
  using Offer = SharedVolumes::Offer;
  TESSERA_ASSIGN_OR_RETURN(
      Offer found,
      AskLoop<Offer>(loop_, call.TimeLeft(kLongest), [this, volume_id, name](auto answer) {
        for (Offer& offer : volumes_.Offers()) {
          if (volume_id != 0 ? offer.volume_id == volume_id : offer.name == name) {
            return answer(std::move(offer));
          }
        }
        answer({});
      }));
  if (found.device != nullptr) return found;
  return absl::NotFoundError(volume_id != 0
                                 ? absl::StrCat("volume ", volume_id, " is not attached here")
                                 : absl::StrCat("volume '", name, "' is not attached here"));
}

absl::StatusOr<SdcControlServiceImpl::Device> SdcControlServiceImpl::Find(const CallContext& call,
                                                                          uint64_t volume_id,
                                                                          const std::string& name) {
  TESSERA_ASSIGN_OR_RETURN(const SharedVolumes::Offer offer, FindOffer(call, volume_id, name));
  if (offer.engine != nullptr) return offer.engine;
  return absl::NotFoundError(
      absl::StrCat("volume ", offer.name, " is attached here, but another client writes it"));
}

absl::StatusOr<BlockReply> SdcControlServiceImpl::Submit(const CallContext& call,
                                                         const SharedVolumes::Offer& offer,
                                                         BlockRequest request) {
  TESSERA_ASSIGN_OR_RETURN(
      BlockReply reply,
      AskLoop<BlockReply>(
          loop_, call.TimeLeft(kLongest),
          [this, volume_id = offer.volume_id, request = std::move(request)](auto answer) mutable {
            // The device may have been detached since it was found.
            const auto device = volumes_.FindOffer(volume_id).device;
            if (device == nullptr) {
              BlockReply gone;
              gone.error = ESHUTDOWN;
              gone.message = "the volume was detached";
              return answer(std::move(gone));
            }
            request.done = std::move(answer);
            device->Submit(std::move(request));
          }));
  TESSERA_RETURN_IF_ERROR(FromBlockError(reply.error, reply.message));
  return reply;
}

absl::Status SdcControlServiceImpl::Read(const CallContext& call,
                                         const v1::ReadVolumeRequest& request,
                                         StreamWriter<v1::ReadVolumeResponse>& writer) {
  TESSERA_ASSIGN_OR_RETURN(const SharedVolumes::Offer offer,
                           FindOffer(call, request.volume_id(), request.volume_name()));
  const uint64_t size = offer.device->info().size_bytes;
  if (request.offset_bytes() > size || request.length_bytes() > size - request.offset_bytes()) {
    return absl::OutOfRangeError(absl::StrCat("bytes ", request.offset_bytes(), " to ",
                                              request.offset_bytes(), " + ", request.length_bytes(),
                                              " of a volume of ", size));
  }
  uint64_t offset = request.offset_bytes();
  uint64_t left = request.length_bytes();
  while (left > 0) {
    if (call.cancelled()) return absl::CancelledError("cancelled by the caller");
    BlockRequest read;
    read.command = Command::kRead;
    read.offset_bytes = offset;
    read.length_bytes = std::min(left, kReadBytes);
    const uint64_t length = read.length_bytes;
    TESSERA_ASSIGN_OR_RETURN(const BlockReply reply, Submit(call, offer, std::move(read)));
    v1::ReadVolumeResponse response;
    response.mutable_data()->reserve(length);
    for (const auto piece : reply.data.pieces) {
      response.mutable_data()->append(reinterpret_cast<const char*>(piece.data()), piece.size());
    }
    if (!writer.Write(response)) return absl::CancelledError("the caller is gone");
    offset += length;
    left -= length;
  }
  return absl::OkStatus();
}

absl::Status SdcControlServiceImpl::Write(const CallContext& call,
                                          StreamReader<v1::WriteVolumeRequest>& reader,
                                          v1::WriteVolumeResponse* response) {
  auto message = std::make_shared<v1::WriteVolumeRequest>();
  if (!reader.Read(message.get())) {
    return absl::InvalidArgumentError("the stream has no message: the first one names the volume");
  }
  TESSERA_ASSIGN_OR_RETURN(const SharedVolumes::Offer offer,
                           FindOffer(call, message->volume_id(), message->volume_name()));
  const bool flush = message->flush();
  TESSERA_ASSIGN_OR_RETURN(
      const std::shared_ptr<LossCursor> cursor,
      AskLoop<std::shared_ptr<LossCursor>>(
          loop_, call.TimeLeft(kLongest),
          [device = offer.device](auto answer) { answer(device->OpenCursor()); }));
  uint64_t offset = message->offset_bytes();
  const uint64_t size = offer.device->info().size_bytes;
  RequestWindow window(loop_, volumes_, offer.volume_id);
  for (;;) {
    const std::string& data = message->data();
    if (data.size() > kWriteMessageBytes) {
      return InvalidField("data", absl::StrCat("has ", data.size(), " bytes, at most ",
                                               kWriteMessageBytes, " go into one message"));
    }
    // Each step by itself: their sum may be no 64-bit number.
    for (const uint64_t length : {message->skip_bytes(), message->zero_bytes(), data.size()}) {
      if (offset > size || length > size - offset) {
        return absl::OutOfRangeError(absl::StrCat("bytes ", offset, " to ", offset, " + ", length,
                                                  " of a volume of ", size));
      }
      offset += length;
    }
    uint64_t zero_at = offset - data.size() - message->zero_bytes();
    response->set_zeroed_bytes(response->zeroed_bytes() + message->zero_bytes());
    while (zero_at < offset - data.size()) {
      BlockRequest zero;
      zero.command = Command::kWriteZeroes;
      zero.offset_bytes = zero_at;
      zero.length_bytes = std::min(offset - data.size() - zero_at, kZeroBytes);
      zero_at += zero.length_bytes;
      TESSERA_RETURN_IF_ERROR(window.Begin(std::move(zero), call.TimeLeft(kLongest)));
    }
    if (!data.empty()) {
      response->set_written_bytes(response->written_bytes() + data.size());
      BlockRequest write;
      write.command = Command::kWrite;
      write.offset_bytes = offset - data.size();
      write.length_bytes = data.size();
      write.data.pieces.push_back(std::as_bytes(std::span(data)));
      write.data.owner = message;
      TESSERA_RETURN_IF_ERROR(window.Begin(std::move(write), call.TimeLeft(kLongest)));
    }
    // A fresh message: streams may still hold the last one's bytes.
    message = std::make_shared<v1::WriteVolumeRequest>();
    if (!reader.Read(message.get())) break;
  }
  TESSERA_RETURN_IF_ERROR(window.Finish(call.TimeLeft(kLongest)));
  if (call.cancelled()) return absl::CancelledError("cancelled by the caller");
  if (!flush) return absl::OkStatus();
  BlockRequest request;
  request.command = Command::kFlush;
  request.client = cursor;
  return Submit(call, offer, std::move(request)).status();
}

std::vector<std::string> SdcControlServiceImpl::UrisOf(const std::string& volume_name) const {
  std::vector<std::string> uris;
  for (const std::string& uri : nbd_uris_) uris.push_back(ExportUri(uri, volume_name));
  return uris;
}

}  // namespace tessera::sdc
