// Errors with machine-readable reasons, and their one mapping to gRPC and back.
//
// A status made here carries google.rpc details as payloads keyed by type URL; ToGrpcStatus packs
// them into `grpc-status-details-bin`, FromGrpcStatus unpacks them.
//
// Threads: free functions, any thread.
#ifndef TESSERA_SERVICES_COMMON_ERRORS_H_
#define TESSERA_SERVICES_COMMON_ERRORS_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace grpc {
class Status;
}

namespace tessera {

using ErrorMetadata = std::vector<std::pair<std::string, std::string>>;

// INVALID_ARGUMENT about one field of the request: says what is wrong and what would be right.
[[nodiscard]] absl::Status InvalidField(std::string_view field, std::string_view description);

// `status` with an ErrorInfo: `reason` is UPPER_SNAKE_CASE and never changes its meaning.
[[nodiscard]] absl::Status WithReason(absl::Status status, std::string_view reason,
                                      const ErrorMetadata& metadata = {});
// The ErrorInfo reason, empty when there is none.
[[nodiscard]] std::string ReasonOf(const absl::Status& status);

// `status` with "context: " before its message, payloads kept.
[[nodiscard]] absl::Status Annotate(absl::Status status, std::string_view context);

[[nodiscard]] grpc::Status ToGrpcStatus(const absl::Status& status);
[[nodiscard]] absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_ERRORS_H_
