// The bytes of gRPC-Web: frames in binary and base64 form, deadlines, metadata values. By the
// protocol's description (github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md) and that of gRPC
// over HTTP/2.
//
// Errors are INVALID_ARGUMENT and say what was wrong and what would be right. No input makes a
// function take more memory than a few times the input's size.
//
// Threads: free functions, any thread.
#ifndef TESSERA_SERVICES_MGMT_WEB_GRPCWEB_CODEC_H_
#define TESSERA_SERVICES_MGMT_WEB_GRPCWEB_CODEC_H_

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::mgmt {

enum class GrpcWebForm { kBinary, kText };

inline constexpr size_t kFrameHeaderBytes = 5;

// The form that a content type asks for: "application/grpc-web", "application/grpc-web+proto" and
// the same with "grpc-web-text", with or without parameters. INVALID_ARGUMENT for all others.
[[nodiscard]] absl::StatusOr<GrpcWebForm> FormOfContentType(std::string_view content_type);
// "application/grpc-web+proto" or "application/grpc-web-text+proto".
[[nodiscard]] std::string_view ContentTypeOf(GrpcWebForm form);

// The one message of a request's body, whose text form is decoded first. RESOURCE_EXHAUSTED when it
// is longer than `message_limit`; UNIMPLEMENTED when it is compressed.
[[nodiscard]] absl::StatusOr<std::string> DecodeRequestBody(GrpcWebForm form, std::string_view body,
                                                            size_t message_limit);

// Base64 in runs: each may end with padding, after which the next begins, as browsers make it when
// they encode piece by piece. The last run may lack its padding.
[[nodiscard]] absl::StatusOr<std::string> DecodeBase64Runs(std::string_view text);

// A message as the piece of an answer's body that carries it. A message has at most 4 GiB less one.
[[nodiscard]] std::string EncodeMessage(GrpcWebForm form, std::string_view message);

// Names are lower case; values of names that end with "-bin" are bytes.
using MetadataList = std::vector<std::pair<std::string, std::string>>;

// The last piece: status and trailing metadata, values encoded as EncodeMetadataValue does.
[[nodiscard]] std::string EncodeTrailers(GrpcWebForm form, int code, std::string_view message,
                                         const MetadataList& metadata);

// The header `grpc-timeout`: 1 to 8 digits and a unit of H, M, S, m, u, n.
[[nodiscard]] absl::StatusOr<std::chrono::nanoseconds> ParseTimeout(std::string_view value);

// As `grpc-message` wants it: bytes outside printable ASCII, and '%', as %XX.
[[nodiscard]] std::string PercentEncode(std::string_view text);

// A value for an HTTP header or trailer: base64 without padding for "-bin" names; for others the
// value itself, with bytes that no header may have (all but printable ASCII) replaced by '?'.
[[nodiscard]] std::string EncodeMetadataValue(std::string_view name, std::string_view value);
// And back. INVALID_ARGUMENT naming the header when "-bin" is no base64 or another has bytes
// outside printable ASCII.
[[nodiscard]] absl::StatusOr<std::string> DecodeMetadataValue(std::string_view name,
                                                              std::string_view value);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_GRPCWEB_CODEC_H_
