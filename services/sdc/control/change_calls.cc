// ListChangedExtents: where an attached volume differs from another of its vtree.
//
// The base need not be attached: the MDM says which layers it sees. Servers drop layers that nobody
// sees, and what a path sees changes then; so the MDM is asked again at the end, and a list whose
// base was deleted, or rolled back, meanwhile is worth nothing.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/sdc/control/loop_call.h"
#include "services/sdc/control/sdc_control_service.h"
#include "services/sdc/rules/request_cost.h"

namespace tessera::sdc {
namespace {

constexpr std::chrono::milliseconds kLongest = std::chrono::hours(1);
constexpr uint64_t kBlockBytes = 4096;
constexpr int kExtentsInMessage = 1'000;

std::vector<token::PathPart> PathOf(const v1::Volume& volume) {
  std::vector<token::PathPart> path;
  for (const v1::LayerPathPart& part : volume.path().parts()) {
    path.push_back({.branch = part.branch(), .ordinal_max = part.ordinal_max()});
  }
  if (path.empty()) path.push_back({.branch = 0, .ordinal_max = token::kPathHead});
  return path;
}

// Puts extents together and sends them in messages that are not too small.
class ExtentSender {
 public:
  explicit ExtentSender(StreamWriter<v1::ListChangedExtentsResponse>& writer) : writer_(writer) {}

  // False: the caller is gone.
  [[nodiscard]] bool Add(uint64_t offset_bytes, uint64_t length_bytes, bool zero) {
    if (!message_.extents().empty()) {
      v1::ChangedExtent& last = *message_.mutable_extents()->rbegin();
      if (last.zero() == zero && last.offset_bytes() + last.length_bytes() == offset_bytes) {
        last.set_length_bytes(last.length_bytes() + length_bytes);
        return true;
      }
    }
    // Only then: the last one may still grow.
    if (message_.extents_size() >= kExtentsInMessage && !Send()) return false;
    v1::ChangedExtent* extent = message_.add_extents();
    extent->set_offset_bytes(offset_bytes);
    extent->set_length_bytes(length_bytes);
    extent->set_zero(zero);
    return true;
  }
  [[nodiscard]] bool Send() {
    if (message_.extents().empty()) return true;
    const bool sent = writer_.Write(message_);
    message_.Clear();
    return sent;
  }

 private:
  StreamWriter<v1::ListChangedExtentsResponse>& writer_;
  v1::ListChangedExtentsResponse message_;
};

}  // namespace

grpc::ServerWriteReactor<v1::ListChangedExtentsResponse>* SdcControlServiceImpl::ListChangedExtents(
    grpc::CallbackServerContext* context, const v1::ListChangedExtentsRequest* request) {
  return rpc_.ServerStream<v1::ListChangedExtentsRequest, v1::ListChangedExtentsResponse>(
      context, request, [this](const CallContext& call, const auto& request, auto& writer) {
        return ListChanges(call, request, writer);
      });
}

absl::StatusOr<v1::Volume> SdcControlServiceImpl::AskForVolume(const CallContext& call,
                                                               const v1::GetVolumeRequest& which) {
  using Answer = absl::StatusOr<v1::GetVolumeResponse>;
  TESSERA_ASSIGN_OR_RETURN(
      Answer answer, AskLoop<Answer>(loop_, call.TimeLeft(kLongest), [this, which](auto answer) {
        mdm_.GetVolume(which, std::move(answer));
      }));
  TESSERA_RETURN_IF_ERROR(answer.status());
  return std::move(*answer->mutable_volume());
}

absl::StatusOr<std::shared_ptr<const ComparisonBase>> SdcControlServiceImpl::FindBase(
    const CallContext& call, const v1::ListChangedExtentsRequest& request, const Device& device,
    v1::Volume* base) {
  if (request.base_id() == 0 && request.base_name().empty()) return nullptr;
  v1::GetVolumeRequest which;
  which.set_volume_id(request.base_id());
  if (request.base_id() == 0) which.set_name(request.base_name());
  auto found = AskForVolume(call, which);
  if (!found.ok()) return Annotate(found.status(), "the base");
  *base = *std::move(found);
  TESSERA_ASSIGN_OR_RETURN(const uint64_t vtree_id,
                           AskLoop<uint64_t>(loop_, call.TimeLeft(kLongest), [device](auto answer) {
                             answer(device->grant().fields.vtree_id);
                           }));
  if (base->vtree_id() != vtree_id) {
    return InvalidField("base", absl::StrCat("'", base->name(), "' and '", device->name(),
                                             "' have no common origin: nothing can be said of "
                                             "their differences"));
  }
  return std::make_shared<const ComparisonBase>(PathOf(*base));
}

absl::Status SdcControlServiceImpl::CheckBaseStays(const CallContext& call,
                                                   const v1::Volume& base) {
  v1::GetVolumeRequest which;
  which.set_volume_id(base.volume_id());
  const auto now = AskForVolume(call, which);
  if (now.ok() && PathOf(*now) == PathOf(base)) return absl::OkStatus();
  if (!now.ok() && !absl::IsNotFound(now.status())) {
    return Annotate(now.status(), "whether the base is still there could not be asked");
  }
  return absl::AbortedError(absl::StrCat("the base '", base.name(), "' was ",
                                         now.ok() ? "rolled back" : "deleted",
                                         " meanwhile: what was listed may not be all"));
}

absl::Status SdcControlServiceImpl::ListChanges(
    const CallContext& call, const v1::ListChangedExtentsRequest& request,
    StreamWriter<v1::ListChangedExtentsResponse>& writer) {
  if (request.volume_id() == 0 && request.volume_name().empty()) {
    return InvalidField("volume_id", "give an attached volume or snapshot by id or name");
  }
  if (request.offset_bytes() % kBlockBytes != 0) {
    return InvalidField("offset_bytes",
                        absl::StrCat("is ", request.offset_bytes(), ", no multiple of 4,096"));
  }
  if (request.length_bytes() % kBlockBytes != 0) {
    return InvalidField("length_bytes",
                        absl::StrCat("is ", request.length_bytes(), ", no multiple of 4,096"));
  }
  TESSERA_ASSIGN_OR_RETURN(const SharedVolumes::Offer offer,
                           FindOffer(call, request.volume_id(), request.volume_name()));
  if (offer.shared != nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "volume ", offer.name, " is mapped shared: take a snapshot, and list what that has"));
  }
  const Device& device = offer.engine;
  const uint64_t size = device->info().size_bytes;
  uint64_t offset = request.offset_bytes();
  if (offset > size || request.length_bytes() > size - offset) {
    return absl::OutOfRangeError(absl::StrCat("bytes ", offset, " to ", offset, " + ",
                                              request.length_bytes(), " of a volume of ", size));
  }
  const uint64_t end = request.length_bytes() == 0 ? size : offset + request.length_bytes();
  v1::Volume base;
  TESSERA_ASSIGN_OR_RETURN(const std::shared_ptr<const ComparisonBase> path,
                           FindBase(call, request, device, &base));
  ExtentSender sender(writer);
  while (offset < end) {
    if (call.cancelled()) return absl::CancelledError("cancelled by the caller");
    BlockRequest compare;
    compare.command = Command::kChanges;
    compare.offset_bytes = offset;
    compare.length_bytes = std::min(end - offset, kBlockStatusBytes);
    compare.base = path;
    auto reply = Submit(call, offer, std::move(compare));
    // No content was looked at.
    if (absl::IsDataLoss(reply.status())) return absl::UnavailableError(reply.status().message());
    TESSERA_RETURN_IF_ERROR(reply.status());
    for (const StatusExtent& extent : reply->extents) {
      if (extent.changed && !sender.Add(offset, extent.length_bytes, extent.zero)) {
        return absl::CancelledError("the caller is gone");
      }
      offset += extent.length_bytes;
    }
  }
  if (!sender.Send()) return absl::CancelledError("the caller is gone");
  return path == nullptr ? absl::OkStatus() : CheckBaseStays(call, base);
}

}  // namespace tessera::sdc
