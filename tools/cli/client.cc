#include "tools/cli/client.h"

#include "absl/strings/str_cat.h"
#include "services/common/tls.h"

namespace tessera::cli {

ExitCode ExitCodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kDone;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return kUsage;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
      return kRefused;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return kDenied;
    case absl::StatusCode::kUnavailable:
      return kUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return kTimedOut;
    default:
      return kFailed;
  }
}

std::shared_ptr<grpc::Channel> Client::Channel(const std::string& target) {
  auto& channel = channels_[target];
  if (channel == nullptr) {
    auto credentials = globals_->security.ForClient({kRoleMdm, kRoleMgmt, kRoleSdc, kRoleSds});
    if (!credentials.ok()) throw CommandError(credentials.status());
    channel = NewChannel(target, *credentials);
  }
  return channel;
}

void Client::Prepare(grpc::ClientContext* context) const {
  PrepareCall(context, globals_->timeout_seconds * 1000,
              globals_->token.empty() ? "" : absl::StrCat("Bearer ", globals_->token));
}

void Client::Check(const grpc::Status& status, const std::string& target) {
  if (status.ok()) return;
  absl::Status converted = FromGrpcStatus(status);
  if (converted.code() == absl::StatusCode::kUnavailable) {
    converted = Annotate(converted, absl::StrCat("cannot reach ", target));
  }
  throw CommandError(converted);
}

}  // namespace tessera::cli
