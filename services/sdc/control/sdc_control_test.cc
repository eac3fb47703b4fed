// Local state, authentication of the MDM, and the whole process against an MDM in the test.
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "libtoken/token.h"
#include "services/common/node.h"
#include "services/sdc/control/attachments.h"
#include "services/sdc/control/fake_mdm.h"
#include "services/sdc/control/local_state.h"
#include "services/sdc/control/mdm_authenticator.h"
#include "services/sdc/control/sdc_control_service.h"
#include "services/sdc/control/sdc_process.h"
#include "tessera/v1/monitoring.grpc.pb.h"
#include "tessera/v1/token.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::sdc {
namespace {

TEST_CASE("identity and attachments survive restarts, and each start is a new incarnation",
          "[local_state]") {
  TemporaryFolder folder;
  std::string uuid;
  {
    auto state = LocalState::Open(folder.path(), "first");
    REQUIRE(state.ok());
    uuid = (*state)->identity().node_uuid;
    CHECK((*state)->identity().incarnation == 1);
    CHECK((*state)->SaveRegistration(5, kFakeSecret, "cluster").ok());
    CHECK((*state)->SaveRegistration(5, "", "cluster").ok());
    v1::IssuedGrant grant;
    grant.set_grant("bytes");
    CHECK((*state)->SaveAttachment({7, "vol", grant}).ok());
    CHECK((*state)->SaveAttachment({8, "other", grant}).ok());
    CHECK((*state)->RemoveAttachment(8).ok());
  }
  auto state = LocalState::Open(folder.path(), "second");
  REQUIRE(state.ok());
  CHECK((*state)->identity().node_uuid == uuid);
  CHECK((*state)->identity().name == "first");
  CHECK((*state)->identity().incarnation == 2);
  CHECK((*state)->identity().node_secret == kFakeSecret);
  const auto attachments = (*state)->Attachments();
  REQUIRE(attachments.ok());
  REQUIRE(attachments->size() == 1);
  CHECK((*attachments)[0].volume_name == "vol");
  CHECK((*attachments)[0].grant.grant() == "bytes");
  const auto mode = std::filesystem::status(folder.path() + "/sdc_local.db").permissions();
  CHECK((mode & std::filesystem::perms::mask) ==
        (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
}

TEST_CASE("only the MDM's signature for this client is believed", "[authenticator]") {
  MdmAuthenticator authenticator;
  token::Key key;
  const std::string bytes = *FromHex(kFakeSecret);
  std::copy(bytes.begin(), bytes.end(), key.begin());
  const token::Key signature = token::SignMessage(key, "control", "5");
  const std::string hex =
      ToHex({reinterpret_cast<const char*>(signature.data()), signature.size()});
  CHECK_FALSE(authenticator.Authenticate(FormatBearer({"mdm", 5, hex})).ok());
  authenticator.SetIdentity(5, kFakeSecret);
  const auto caller = authenticator.Authenticate(FormatBearer({"mdm", 5, hex}));
  REQUIRE(caller.ok());
  CHECK(caller->Has(v1::ROLE_MDM));
  CHECK_FALSE(authenticator.Authenticate(FormatBearer({"sds", 5, hex})).ok());
  CHECK_FALSE(authenticator.Authenticate(FormatBearer({"mdm", 6, hex})).ok());
  CHECK_FALSE(authenticator.Authenticate(FormatBearer({"mdm", 5, kFakeSecret})).ok());
  CHECK_FALSE(authenticator.Authenticate("").ok());
}

TEST_CASE("delays, URIs and errors", "[control]") {
  CHECK(RenewalDelay(1'000'000, 1'060'000) == std::chrono::seconds(30));
  CHECK(RenewalDelay(1'000'000, 999'000) == std::chrono::seconds(1));
  CHECK(RetryDelay(0) == std::chrono::milliseconds(200));
  CHECK(RetryDelay(100) == std::chrono::seconds(5));
  CHECK(ExportUri("nbd://h:1", "v") == "nbd://h:1/v");
  CHECK(ExportUri("nbd+unix:///?socket=/s", "v") == "nbd+unix:///v?socket=/s");
  CHECK(FromBlockError(0, "").ok());
  CHECK(absl::IsDataLoss(FromBlockError(EIO, "x")));
  CHECK(absl::IsResourceExhausted(FromBlockError(ENOSPC, "x")));
  CHECK(absl::IsPermissionDenied(FromBlockError(EPERM, "x")));
  CHECK(absl::IsUnavailable(FromBlockError(ESHUTDOWN, "x")));
}

// Events of the process's health log with this code.
size_t Logged(const TemporaryFolder& folder, const std::string& code) {
  const auto stub = v1::MonitoringService::NewStub(
      grpc::CreateChannel(Endpoint(folder, "management"), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::ListHealthLogResponse log;
  REQUIRE(stub->ListHealthLog(&context, {}, &log).ok());
  return static_cast<size_t>(
      std::count_if(log.events().begin(), log.events().end(),
                    [&](const v1::Event& event) { return event.code() == code; }));
}

TEST_CASE("a renewal that began before it was asked for is followed by another", "[process]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  auto process = SdcProcess::Start(Options(folder, mdm));
  REQUIRE(process.ok());
  const auto control = Control(folder);
  while (AttachmentCount(*control) == 0) std::this_thread::yield();
  mdm.renewals_held = true;
  const int before = mdm.renewals;
  while (mdm.renewals == before) std::this_thread::yield();
  mdm.iops_limit = 500;  // what is on its way does not know
  std::atomic<bool> asked{false};
  std::thread release([&] {
    while (!asked) std::this_thread::yield();
    mdm.renewals_held = false;
  });
  grpc::ClientContext context;
  v1::AttachVolumeRequest request;
  request.set_volume_id(7);
  v1::AttachVolumeResponse response;
  grpc::CompletionQueue queue;
  const auto call = control->AsyncAttachVolume(&context, request, &queue);
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  while (AttachmentCount(*control) != 1) std::this_thread::yield();
  asked = true;
  void* tag = nullptr;
  bool ok = false;
  REQUIRE(queue.Next(&tag, &ok));
  release.join();
  CHECK(status.ok());
  grpc::ClientContext listing;
  v1::ListAttachmentsResponse list;
  REQUIRE(control->ListAttachments(&listing, {}, &list).ok());
  REQUIRE(list.attachments_size() == 1);
  CHECK(list.attachments(0).iops_limit() == 500);
  (*process)->Stop();
}

TEST_CASE("a volume that was unmapped and mapped again unnoticed begins anew", "[process]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  auto process = SdcProcess::Start(Options(folder, mdm));
  REQUIRE(process.ok());
  const auto control = Control(folder);
  while (AttachmentCount(*control) == 0) std::this_thread::yield();
  const auto attach = [&] {
    grpc::ClientContext context;
    v1::AttachVolumeRequest request;
    request.set_volume_id(7);
    v1::AttachVolumeResponse response;
    return control->AttachVolume(&context, request, &response);
  };
  REQUIRE(attach().ok());
  CHECK(Logged(folder, "volume_attached") == 1);
  mdm.Remap();
  // The MDM asks for what it has mapped; the client finds out that this is another mapping.
  REQUIRE(attach().ok());
  CHECK(Logged(folder, "mapping_replaced") == 1);
  CHECK(Logged(folder, "volume_detached") == 1);
  CHECK(Logged(folder, "volume_attached") == 2);
  (*process)->Stop();
}

TEST_CASE("the map that comes with a grant is adopted before it, whatever the watch says",
          "[process]") {
  FakeMdm mdm;
  mdm.granted_epoch = 5;
  TemporaryFolder folder;
  auto process = SdcProcess::Start(Options(folder, mdm));
  REQUIRE(process.ok());
  const auto control = Control(folder);
  while (AttachmentCount(*control) == 0) std::this_thread::yield();
  const uint64_t acquired = mdm.generation();
  mdm.Remap();
  while (mdm.generation() < acquired + 2) {
    grpc::ClientContext context;
    v1::AttachVolumeRequest request;
    request.set_volume_id(7);
    v1::AttachVolumeResponse response;
    REQUIRE(control->AttachVolume(&context, request, &response).ok());
  }
  CHECK(mdm.known_epoch == 5);
  (*process)->Stop();
}

TEST_CASE("an orderly end gets the grants that it needs, and is over when its mapping is",
          "[process]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  auto process = SdcProcess::Start(Options(folder, mdm));
  REQUIRE(process.ok());
  const auto control = Control(folder);
  while (AttachmentCount(*control) == 0) std::this_thread::yield();
  {
    // Answered and not flushed: the end has to flush it.
    grpc::ClientContext context;
    v1::WriteVolumeResponse response;
    const auto writer = control->WriteVolume(&context, &response);
    v1::WriteVolumeRequest request;
    request.set_volume_name("vol");
    request.set_data(std::string(4096, 'x'));
    CHECK(writer->Write(request));
    writer->WritesDone();
    REQUIRE(writer->Finish().ok());
  }
  const auto detach = [&control] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    v1::DetachVolumeRequest request;
    request.set_volume_id(7);
    v1::DetachVolumeResponse response;
    return control->DetachVolume(&context, request, &response);
  };
  SECTION("the generation moved on, the mapping is the same") {
    mdm.Fence();
    CHECK(detach().ok());
    CHECK(mdm.flushes() == 1);
  }
  SECTION("another mapping has taken its place") {
    mdm.Remap();
    CHECK(detach().ok());
    CHECK(mdm.flushes() == 0);
  }
  SECTION("nothing is mapped any more") {
    mdm.Fence();
    mdm.mapped = false;
    CHECK(detach().ok());
    CHECK(mdm.flushes() == 0);
  }
  // What is mapped is offered again.
  if (mdm.mapped) {
    while (Logged(folder, "volume_attached") < 2) std::this_thread::yield();
  }
  CHECK(Logged(folder, "volume_detached") == 1);
  (*process)->Stop();
}

TEST_CASE("the process registers, attaches, does IO by RPC, and detaches what is unmapped",
          "[process]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  auto process = SdcProcess::Start(Options(folder, mdm));
  REQUIRE(process.ok());
  const auto control = Control(folder);
  {
    grpc::ClientContext context;
    v1::AttachVolumeRequest request;
    request.set_volume_id(7);
    v1::AttachVolumeResponse response;
    // Before it has registered the MDM refuses; the heartbeat's list attaches it then.
    while (AttachmentCount(*control) == 0) std::this_thread::yield();
    REQUIRE(control->AttachVolume(&context, request, &response).ok());
    CHECK(response.nbd_uris_size() == 2);
  }
  const std::string bytes(100'000, 'x');
  {
    grpc::ClientContext context;
    v1::WriteVolumeResponse response;
    const auto writer = control->WriteVolume(&context, &response);
    v1::WriteVolumeRequest request;
    request.set_volume_name("vol");
    request.set_offset_bytes(1234);
    request.set_flush(true);
    request.set_data(bytes);
    CHECK(writer->Write(request));
    writer->WritesDone();
    REQUIRE(writer->Finish().ok());
    CHECK(response.written_bytes() == bytes.size());
  }
  {
    grpc::ClientContext context;
    v1::ReadVolumeRequest request;
    request.set_volume_id(7);
    request.set_offset_bytes(1234);
    request.set_length_bytes(bytes.size());
    const auto reader = control->ReadVolume(&context, request);
    std::string read;
    v1::ReadVolumeResponse response;
    while (reader->Read(&response)) read += response.data();
    CHECK(reader->Finish().ok());
    CHECK(read == bytes);
  }
  {
    grpc::ClientContext context;
    v1::ReadVolumeRequest request;
    request.set_volume_id(7);
    request.set_offset_bytes(kFakeVolumeBytes);
    request.set_length_bytes(1);
    v1::ReadVolumeResponse response;
    const auto reader = control->ReadVolume(&context, request);
    CHECK_FALSE(reader->Read(&response));
    CHECK(reader->Finish().error_code() == grpc::StatusCode::OUT_OF_RANGE);
  }
  {
    grpc::ClientContext context;
    v1::GetStatusResponse status;
    const auto monitoring = v1::MonitoringService::NewStub(
        grpc::CreateChannel(Endpoint(folder, "management"), grpc::InsecureChannelCredentials()));
    REQUIRE(monitoring->GetStatus(&context, {}, &status).ok());
    CHECK(status.histograms_size() > 3);
    CHECK(status.component_id() == 5);
    CHECK(status.state() == v1::COMPONENT_STATE_ONLINE);
    CHECK(status.figures_size() > 50);
  }
  // Half the life of a grant of 100 ms is less than the shortest renewal period of a second.
  while (mdm.renewals == 0) std::this_thread::yield();
  mdm.mapped = false;
  while (AttachmentCount(*control) != 0) std::this_thread::yield();
  (*process)->Stop();
  CHECK(mdm.left);
}

TEST_CASE("a restarted process knows itself by its secret", "[process]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  for (int life = 1; life <= 2; ++life) {
    SdcOptions options = Options(folder, mdm);
    if (life == 2) options.join_token = "";
    auto process = SdcProcess::Start(std::move(options));
    REQUIRE(process.ok());
    const auto control = Control(folder);
    while (AttachmentCount(*control) == 0 || mdm.registrations < life) std::this_thread::yield();
    CHECK(mdm.registrations == life);
  }
}

TEST_CASE("a process that starts while the MDM is away offers what it had", "[process]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  const std::string bytes(20'000, 'x');
  {
    auto process = SdcProcess::Start(Options(folder, mdm));
    REQUIRE(process.ok());
    const auto control = Control(folder);
    while (AttachmentCount(*control) == 0) std::this_thread::yield();
    WriteAll(*control, bytes);
    (*process)->Stop();
  }
  bool resumes = true;
  SdcOptions options = Options(folder, mdm);
  SECTION("as it was") {}
  SECTION("unless it is told to keep nothing") {
    options.resume_folder = "";
    resumes = false;
  }
  mdm.GoAway();
  auto process = SdcProcess::Start(std::move(options));
  REQUIRE(process.ok());
  const auto control = Control(folder);
  REQUIRE(AttachmentCount(*control) == (resumes ? 1 : 0));
  if (!resumes) return;
  CHECK(Logged(folder, "volume_resumed") == 1);
  CHECK(ReadAll(*control, bytes.size()) == bytes);
  WriteAll(*control, "y");
  CHECK(ReadAll(*control, 3) == "yxx");
  (*process)->Stop();
}

TEST_CASE("what became of a mapping while the process was away is found out", "[process]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  {
    auto process = SdcProcess::Start(Options(folder, mdm));
    REQUIRE(process.ok());
    const auto control = Control(folder);
    while (AttachmentCount(*control) == 0) std::this_thread::yield();
    (*process)->Stop();
  }
  std::function<void()> meanwhile = [] {};
  std::string found;
  SECTION("it is gone") {
    meanwhile = [&mdm] { mdm.mapped = false; };
    found = "volume_detached";
  }
  SECTION("it is another one") {
    meanwhile = [&mdm] { mdm.Remap(); };
    found = "mapping_replaced";
  }
  meanwhile();
  auto process = SdcProcess::Start(Options(folder, mdm));
  REQUIRE(process.ok());
  while (Logged(folder, found) == 0) std::this_thread::yield();
  const auto control = Control(folder);
  if (mdm.mapped) {
    while (AttachmentCount(*control) == 0) std::this_thread::yield();
  } else {
    CHECK(AttachmentCount(*control) == 0);
  }
  (*process)->Stop();
}

TEST_CASE("a start that can't succeed says why", "[process]") {
  FakeMdm mdm;
  TemporaryFolder folder;
  SdcOptions options = Options(folder, mdm);
  SECTION("an open port without TLS") {
    options.control_listen = "0.0.0.0:0";
    CHECK(SdcProcess::Start(options).status().code() == absl::StatusCode::kInvalidArgument);
  }
  SECTION("an NBD address that is none") {
    options.nbd_listen = "127.0.0.1:nbd";
    CHECK(SdcProcess::Start(options).status().code() == absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace tessera::sdc
