#include "services/sds/chunk_service.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "libtoken/token.h"
#include "services/common/crc32c.h"
#include "services/common/status_macros.h"

namespace tessera::sds {
namespace {

constexpr size_t kReadPieceBytes = 256u << 10;
// Data of one simple write: a chunk is never larger.
constexpr size_t kWriteBytesLimit = 4u << 20;
constexpr std::chrono::milliseconds kOperationTimeout{30'000};

// A client of one operation.
class OneOperation final : public IoClient {
 public:
  void Deliver(IoResponseFrame frame) override {
    response_ = std::move(frame);
    done_.Notify();
  }
  void Release(size_t) override {}
  void Break(const absl::Status& why) override {
    broken_ = why;
    done_.Notify();
  }
  absl::StatusOr<IoResponseFrame> Wait(std::chrono::milliseconds timeout) {
    if (!done_.WaitForNotificationWithTimeout(absl::FromChrono(timeout))) {
      return absl::DeadlineExceededError("the device did not answer in time");
    }
    if (!broken_.ok()) return broken_;
    return std::move(response_);
  }

 private:
  absl::Notification done_;
  IoResponseFrame response_;
  absl::Status broken_;
};

std::string RefusalReason(v1::TokenRefusal refusal) {
  return absl::AsciiStrToUpper(
      std::string(token::RefusalName(static_cast<token::Refusal>(refusal))));
}

absl::Status RefusalStatus(const v1::IoResult& result) {
  const std::string text =
      absl::StrCat("the token was refused: ",
                   std::string(token::RefusalName(static_cast<token::Refusal>(result.refusal()))),
                   result.message().empty() ? "" : ": ", result.message());
  const bool used = result.refusal() == v1::TOKEN_REFUSAL_REPLAYED;
  return WithReason(used ? absl::AlreadyExistsError(text) : absl::PermissionDeniedError(text),
                    RefusalReason(result.refusal()));
}

}  // namespace

absl::Status StatusOfResult(const v1::IoResult& result) {
  const std::string name = v1::IoStatus_Name(result.status()).substr(sizeof("IO_STATUS_") - 1);
  const auto with_reason = [&](absl::Status status) { return WithReason(std::move(status), name); };
  switch (result.status()) {
    case v1::IO_STATUS_OK:
      return absl::OkStatus();
    case v1::IO_STATUS_TOKEN_REFUSED:
      return RefusalStatus(result);
    case v1::IO_STATUS_STALE_GENERATION:
      return WithReason(absl::PermissionDeniedError(absl::StrCat(
                            "the token's generation is over: ", result.lowest_generation(),
                            " is the lowest that is accepted")),
                        "WRONG_GENERATION");
    case v1::IO_STATUS_DUPLICATE:
      return with_reason(
          absl::AlreadyExistsError("the token was used: this write was taken before"));
    case v1::IO_STATUS_STALE_EPOCH:
    case v1::IO_STATUS_UNKNOWN_EPOCH:
      return with_reason(absl::FailedPreconditionError(
          absl::StrCat("the placement group is at epoch ", result.current_epoch(), " here")));
    case v1::IO_STATUS_NOT_MEMBER:
      return with_reason(
          absl::FailedPreconditionError("this server has no replica that may do this"));
    case v1::IO_STATUS_SEQUENCE_GAP:
      return with_reason(absl::FailedPreconditionError(
          absl::StrCat("not the next write: sequence ", result.expected_sequence(), " is")));
    case v1::IO_STATUS_CHECKSUM_ERROR:
      return with_reason(absl::DataLossError(result.message()));
    case v1::IO_STATUS_NO_SPACE:
      return with_reason(absl::ResourceExhaustedError("the device is full"));
    case v1::IO_STATUS_DEVICE_FAILED:
      return with_reason(absl::UnavailableError(absl::StrCat("device: ", result.message())));
    case v1::IO_STATUS_INVALID:
      return with_reason(absl::InvalidArgumentError(result.message()));
    case v1::IO_STATUS_OVERLOADED:
      return with_reason(absl::UnavailableError(result.message()));
    default:
      return with_reason(absl::InternalError(result.message()));
  }
}

void ChunkServiceImpl::AcceptStreams(std::vector<grpc::ServerCompletionQueue*> queue_of_worker) {
  queues_ = std::move(queue_of_worker);
  for (size_t home = 0; home < queues_.size(); ++home) AcceptNext(home);
}

void ChunkServiceImpl::AcceptNext(size_t home) {
  IoStream::Parts parts;
  parts.engine = engine_;
  parts.budget = budget_;
  parts.metrics = metrics_;
  parts.clock = clock_;
  parts.home = home;
  parts.hello = hello_;
  parts.on_accepted = [this, home](std::shared_ptr<IoStream> stream, bool accepted) {
    if (accepted) OnAccepted(stream, home);
  };
  parts.on_closed = [this](IoStream* stream) {
    absl::MutexLock lock(&mutex_);
    streams_.erase(stream);
  };
  std::make_shared<IoStream>(std::move(parts))
      ->Accept([this, home](grpc::ServerContext* context, IoStream::Rpc* rpc, void* tag) {
        RequestIo(context, rpc, queues_[home], queues_[home], tag);
      });
}

void ChunkServiceImpl::OnAccepted(const std::shared_ptr<IoStream>& stream, size_t home) {
  bool closing = false;
  {
    absl::MutexLock lock(&mutex_);
    streams_[stream.get()] = stream;
    closing = closing_;
  }
  if (closing) {
    stream->Close();
  } else {
    AcceptNext(home);
  }
}

void ChunkServiceImpl::CloseStreams() {
  std::vector<std::shared_ptr<IoStream>> open;
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
    for (const auto& [id, weak] : streams_) {
      if (auto stream = weak.lock(); stream != nullptr) open.push_back(std::move(stream));
    }
  }
  for (const auto& stream : open) stream->Close();
}

grpc::Status ChunkServiceImpl::ReadChunk(grpc::ServerContext* context,
                                         const v1::ReadChunkRequest* request,
                                         grpc::ServerWriter<v1::ReadChunkResponse>* out) {
  return rpc_->RunServerStream<v1::ReadChunkRequest, v1::ReadChunkResponse>(
      context, *request, out,
      [this](const CallContext& call, const v1::ReadChunkRequest& read,
             StreamWriter<v1::ReadChunkResponse>& writer) { return Read(call, read, writer); });
}

grpc::Status ChunkServiceImpl::WriteChunk(grpc::ServerContext* context,
                                          grpc::ServerReader<v1::WriteChunkRequest>* in,
                                          v1::WriteChunkResponse* response) {
  return rpc_->RunClientStream<v1::WriteChunkRequest>(
      context, in, response,
      [this](const CallContext& call, StreamReader<v1::WriteChunkRequest>& reader,
             v1::WriteChunkResponse* written) { return Write(call, reader, written); });
}

absl::StatusOr<IoResponseFrame> ChunkServiceImpl::Perform(const CallContext& call,
                                                          const v1::SignedOperation& operation,
                                                          std::vector<grpc::Slice> payload) {
  auto client = std::make_shared<OneOperation>();
  IoRequestFrame frame;
  frame.header.add_grants(operation.grant());
  *frame.header.add_operations() = operation.operation();
  frame.payload = std::move(payload);
  engine_->SubmitFrame(engine_->NewSession(client), std::move(frame));
  TESSERA_ASSIGN_OR_RETURN(IoResponseFrame response,
                           client->Wait(call.TimeLeft(kOperationTimeout)));
  if (response.header.results_size() != 1) return absl::InternalError("no result");
  TESSERA_RETURN_IF_ERROR(StatusOfResult(response.header.results(0)));
  return response;
}

absl::Status ChunkServiceImpl::Read(const CallContext& call, const v1::ReadChunkRequest& request,
                                    StreamWriter<v1::ReadChunkResponse>& writer) {
  if (request.operation().operation().type() != v1::IO_OPERATION_TYPE_READ) {
    return InvalidField("operation.operation.type", "must be IO_OPERATION_TYPE_READ");
  }
  TESSERA_ASSIGN_OR_RETURN(const IoResponseFrame frame, Perform(call, request.operation(), {}));
  PayloadCursor payload(frame.payload);
  while (payload.RemainingBytes() > 0) {
    v1::ReadChunkResponse piece;
    piece.mutable_data()->resize(std::min(payload.RemainingBytes(), kReadPieceBytes));
    const auto bytes = std::as_writable_bytes(std::span(*piece.mutable_data()));
    if (!payload.Copy(bytes)) return absl::InternalError("short payload");
    piece.set_data_crc32c(Crc32c(bytes));
    if (!writer.Write(piece)) return absl::CancelledError("the caller is gone");
  }
  return absl::OkStatus();
}

absl::Status ChunkServiceImpl::Write(const CallContext& call,
                                     StreamReader<v1::WriteChunkRequest>& reader,
                                     v1::WriteChunkResponse* response) {
  v1::WriteChunkRequest piece;
  if (!reader.Read(&piece)) return InvalidField("operation", "the first message must carry it");
  const v1::SignedOperation operation = piece.operation();
  const v1::IoOperationType type = operation.operation().type();
  if (!IsChange(type) || type == v1::IO_OPERATION_TYPE_ADOPT) {
    return InvalidField("operation.operation.type", "must be WRITE, WRITE_ZEROES or TRIM");
  }
  std::vector<grpc::Slice> payload;
  size_t bytes = 0;
  do {
    bytes += piece.data().size();
    if (bytes > kWriteBytesLimit) {
      return InvalidField("data", absl::StrCat("at most ", kWriteBytesLimit, " bytes"));
    }
    if (!piece.data().empty()) payload.emplace_back(piece.data());
  } while (reader.Read(&piece));
  const bool has_data = type == v1::IO_OPERATION_TYPE_WRITE;
  const size_t wanted = has_data ? operation.operation().length_bytes() : 0;
  if (bytes != wanted) {
    return InvalidField("data", absl::StrCat("has ", bytes, " bytes, the operation ", wanted));
  }
  TESSERA_ASSIGN_OR_RETURN(const IoResponseFrame done,
                           Perform(call, operation, std::move(payload)));
  response->mutable_version()->set_generation(operation.operation().generation());
  response->mutable_version()->set_sequence(operation.operation().counter());
  return absl::OkStatus();
}

}  // namespace tessera::sds
