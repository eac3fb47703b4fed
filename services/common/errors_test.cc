#include "services/common/errors.h"

#include <grpcpp/support/status.h>

#include <catch2/catch.hpp>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace tessera {
namespace {

TEST_CASE("A field error names the field in the message, the reason and the BadRequest detail") {
  const absl::Status status = InvalidField("size_bytes", "is 5, must be a multiple of 4096");
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(status.message() == "size_bytes: is 5, must be a multiple of 4096");
  CHECK(ReasonOf(status) == "INVALID_FIELD");
  google::rpc::Status wire;
  REQUIRE(wire.ParseFromString(ToGrpcStatus(status).error_details()));
  bool found = false;
  for (const auto& detail : wire.details()) {
    google::rpc::BadRequest bad;
    if (!detail.UnpackTo(&bad)) continue;
    found = true;
    REQUIRE(bad.field_violations_size() == 1);
    CHECK(bad.field_violations(0).field() == "size_bytes");
  }
  CHECK(found);
}

TEST_CASE("A status crosses gRPC and back with code, message and reason") {
  const absl::Status sent =
      WithReason(absl::AbortedError("epoch moved on"), "STALE_EPOCH", {{"epoch", "7"}});
  const absl::Status received = FromGrpcStatus(ToGrpcStatus(sent));
  CHECK(received.code() == sent.code());
  CHECK(received.message() == sent.message());
  CHECK(ReasonOf(received) == "STALE_EPOCH");
}

TEST_CASE("Annotate keeps code and reason, and OK stays OK") {
  const absl::Status inner = WithReason(absl::NotFoundError("volume 7"), "NO_SUCH_VOLUME");
  const absl::Status outer = Annotate(inner, "unmap");
  CHECK(outer.message() == "unmap: volume 7");
  CHECK(ReasonOf(outer) == "NO_SUCH_VOLUME");
  CHECK(Annotate(absl::OkStatus(), "x").ok());
  CHECK(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST_CASE("Garbage in the details of a peer does no harm") {
  const absl::Status status =
      FromGrpcStatus(grpc::Status(grpc::StatusCode::INTERNAL, "boom", "\xff\xfe garbage"));
  CHECK(status.message() == "boom");
  CHECK(ReasonOf(status).empty());
}

}  // namespace
}  // namespace tessera
