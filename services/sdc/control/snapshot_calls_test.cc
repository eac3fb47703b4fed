// The calls by which the MDM makes snapshots, on a whole process.
#include <algorithm>
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <thread>

#include "services/common/auth.h"
#include "services/common/node.h"
#include "services/sdc/control/fake_mdm.h"

namespace tessera::sdc {
namespace {

// As the MDM.
void Prove(grpc::ClientContext* context) {
  token::Key key;
  const std::string bytes = *FromHex(kFakeSecret);
  std::copy(bytes.begin(), bytes.end(), key.begin());
  const token::Key signature = token::SignMessage(key, "control", "5");
  const std::string hex =
      ToHex({reinterpret_cast<const char*>(signature.data()), signature.size()});
  context->AddMetadata("authorization", FormatBearer({"mdm", 5, hex}));
}

grpc::Status Hold(v1::SdcControlService::Stub& control, uint64_t volume_id, uint64_t hold_id,
                  uint32_t deadline_ms, v1::HoldWritesResponse* response) {
  grpc::ClientContext context;
  Prove(&context);
  v1::HoldWritesRequest request;
  request.set_volume_id(volume_id);
  request.set_hold_id(hold_id);
  request.set_deadline_ms(deadline_ms);
  return control.HoldWrites(&context, request, response);
}

grpc::Status Cut(v1::SdcControlService::Stub& control, const v1::IssuedGrant& grant,
                 uint64_t hold_id = 0, uint32_t deadline_ms = 10'000) {
  grpc::ClientContext context;
  Prove(&context);
  v1::CutSnapshotRequest request;
  request.set_volume_id(7);
  request.set_hold_id(hold_id);
  *request.mutable_grant() = grant;
  request.set_deadline_ms(deadline_ms);
  v1::CutSnapshotResponse response;
  return control.CutSnapshot(&context, request, &response);
}

// The layer of the last write that the server got.
struct LayerWatch {
  explicit LayerWatch(FakeMdm* mdm) {
    mdm->sds().SetScript([this](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
      if (operation.type() == v1::IO_OPERATION_TYPE_WRITE) layer = operation.snapshot_sequence();
      return std::nullopt;
    });
  }
  std::atomic<uint64_t> layer{0};
};

TEST_CASE("a renewal that was under way when a snapshot was cut is not gone back to",
          "[process][hold]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  LayerWatch watch(&mdm);
  auto process = SdcProcess::Start(Options(folder, mdm));
  REQUIRE(process.ok());
  const auto control = Control(folder);
  while (AttachmentCount(*control) == 0) std::this_thread::yield();
  mdm.renewals_held = true;
  const int before = mdm.renewals;
  while (mdm.renewals == before) std::this_thread::yield();
  const grpc::Status cut = Cut(*control, mdm.NextLayer());
  INFO(cut.error_message());
  REQUIRE(cut.ok());
  mdm.renewals_held = false;
  // The next renewal is of the new grant.
  while (mdm.renewals == before + 1) std::this_thread::yield();
  WriteAll(*control, "after");
  CHECK(watch.layer == 1);
  CHECK(ReadAll(*control, 5) == "after");
  (*process)->Stop();
}

TEST_CASE("holds and cuts by RPC, and what is wrong with them", "[process][hold]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  LayerWatch watch(&mdm);
  auto process = SdcProcess::Start(Options(folder, mdm));
  REQUIRE(process.ok());
  const auto control = Control(folder);
  while (AttachmentCount(*control) == 0) std::this_thread::yield();
  v1::HoldWritesResponse held;
  CHECK(Hold(*control, 7, 0, 1'000, &held).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(Hold(*control, 7, 1, 0, &held).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(Hold(*control, 7, 1, 10'001, &held).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(Hold(*control, 8, 1, 1'000, &held).error_code() == grpc::StatusCode::NOT_FOUND);
  REQUIRE(Hold(*control, 7, 1, 10'000, &held).ok());
  CHECK(held.generation() == mdm.generation());
  REQUIRE(Cut(*control, mdm.NextLayer(), 1).ok());
  WriteAll(*control, "one");
  CHECK(watch.layer == 1);
  CHECK(Cut(*control, mdm.NextLayer(), 1).error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  CHECK(Cut(*control, mdm.NextLayer(), 0, 0).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(Cut(*control, v1::IssuedGrant()).error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  v1::IssuedGrant nonsense = mdm.NextLayer();
  nonsense.set_grant("?");
  CHECK(Cut(*control, nonsense).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  REQUIRE(Hold(*control, 7, 2, 10'000, &held).ok());
  grpc::ClientContext context;
  Prove(&context);
  v1::ReleaseHoldRequest release;
  release.set_volume_id(7);
  release.set_hold_id(2);
  v1::ReleaseHoldResponse released;
  REQUIRE(control->ReleaseHold(&context, release, &released).ok());
  WriteAll(*control, "two");
  CHECK(watch.layer == 1);
  (*process)->Stop();
}

}  // namespace
}  // namespace tessera::sdc
