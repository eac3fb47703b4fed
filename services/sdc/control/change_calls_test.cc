// Lists of changed extents and writes with gaps and zeros by RPC, on a whole process.
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "services/sdc/control/fake_mdm.h"

namespace tessera::sdc {
namespace {

struct Running {
  Running() {
    auto started = SdcProcess::Start(Options(folder, mdm));
    REQUIRE(started.ok());
    process = *std::move(started);
    control = Control(folder);
    while (AttachmentCount(*control) == 0) std::this_thread::yield();
  }
  ~Running() { process->Stop(); }

  struct Listed {
    grpc::StatusCode code = grpc::StatusCode::OK;
    std::string text;  // "1+2 5-1": chunk, kind and how many chunks
    std::string message;
  };
  Listed List(v1::ListChangedExtentsRequest request) {
    if (request.volume_id() == 0 && request.volume_name().empty()) request.set_volume_name("vol");
    grpc::ClientContext context;
    const auto reader = control->ListChangedExtents(&context, request);
    Listed listed;
    v1::ListChangedExtentsResponse response;
    while (reader->Read(&response)) {
      for (const v1::ChangedExtent& extent : response.extents()) {
        if (!listed.text.empty()) listed.text += " ";
        listed.text += std::to_string(extent.offset_bytes() / kFakeChunkBytes) +
                       (extent.zero() ? "-" : "+") +
                       std::to_string(extent.length_bytes() / kFakeChunkBytes);
      }
    }
    const grpc::Status status = reader->Finish();
    listed.code = status.error_code();
    listed.message = status.error_message();
    return listed;
  }
  grpc::Status Write(const std::vector<v1::WriteVolumeRequest>& messages,
                     v1::WriteVolumeResponse* response) {
    grpc::ClientContext context;
    const auto writer = control->WriteVolume(&context, response);
    for (const v1::WriteVolumeRequest& message : messages) {
      if (!writer->Write(message)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }

  FakeMdm mdm;
  TemporaryFolder folder;
  std::unique_ptr<SdcProcess> process;
  std::unique_ptr<v1::SdcControlService::Stub> control;
};

v1::ListChangedExtentsRequest Since(uint64_t base_id) {
  v1::ListChangedExtentsRequest request;
  request.set_base_id(base_id);
  return request;
}

// A piece of a write to the fake's one volume.
v1::WriteVolumeRequest Piece(uint64_t skip, uint64_t zero, std::string data) {
  v1::WriteVolumeRequest request;
  request.set_volume_name("vol");
  request.set_skip_bytes(skip);
  request.set_zero_bytes(zero);
  request.set_data(std::move(data));
  return request;
}

TEST_CASE("changed extents by RPC, and what is wrong with asking", "[process][changes]") {
  Running running;
  constexpr uint64_t kChunk = kFakeChunkBytes;
  v1::WriteVolumeResponse written;
  REQUIRE(running
              .Write({Piece(kChunk, 0, std::string(2 * kChunk, 'a')),
                      Piece(2 * kChunk, 0, std::string(kChunk, 'b'))},
                     &written)
              .ok());
  CHECK(written.written_bytes() == 3 * kChunk);
  CHECK(running.List({}).text == "1+2 5+1");
  // The fake server: what it has differs from all but the paths of branch 0.
  CHECK(running.List(Since(8)).text.empty());
  CHECK(running.List(Since(10)).text == "1+2 5+1");
  v1::ListChangedExtentsRequest by_name;
  by_name.set_base_name("other");
  CHECK(running.List(by_name).text == "1+2 5+1");
  v1::ListChangedExtentsRequest part = Since(10);
  part.set_offset_bytes(2 * kChunk);
  part.set_length_bytes(3 * kChunk);
  CHECK(running.List(part).text == "2+1");

  const auto code_of = [&](const v1::ListChangedExtentsRequest& request) {
    return running.List(request).code;
  };
  CHECK(code_of(Since(11)) == grpc::StatusCode::INVALID_ARGUMENT);  // of another origin
  CHECK(code_of(Since(12)) == grpc::StatusCode::NOT_FOUND);
  v1::ListChangedExtentsRequest wrong = Since(8);
  wrong.set_volume_id(99);
  CHECK(code_of(wrong) == grpc::StatusCode::NOT_FOUND);
  wrong = Since(8);
  wrong.set_offset_bytes(512);
  CHECK(code_of(wrong) == grpc::StatusCode::INVALID_ARGUMENT);
  wrong = Since(8);
  wrong.set_length_bytes(100);
  CHECK(code_of(wrong) == grpc::StatusCode::INVALID_ARGUMENT);
  wrong = Since(8);
  wrong.set_offset_bytes(kFakeVolumeBytes);
  wrong.set_length_bytes(4096);
  CHECK(code_of(wrong) == grpc::StatusCode::OUT_OF_RANGE);
  wrong.set_length_bytes(0);
  CHECK(code_of(wrong) == grpc::StatusCode::OK);
  wrong.set_offset_bytes(4096);
  wrong.set_length_bytes(~uint64_t{4095});
  CHECK(code_of(wrong) == grpc::StatusCode::OUT_OF_RANGE);
}

TEST_CASE("a list whose base is deleted or rolled back meanwhile is not taken for whole",
          "[process][changes]") {
  Running running;
  std::atomic<bool>& moved =
      GENERATE(true, false) ? running.mdm.base_deleted : running.mdm.base_rolled_back;
  running.mdm.sds().SetScript(
      [&moved](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
        if (operation.type() == v1::IO_OPERATION_TYPE_CHANGES) moved = true;
        return std::nullopt;
      });
  const Running::Listed listed = running.List(Since(10));
  CHECK(listed.code == grpc::StatusCode::ABORTED);
  INFO(listed.message);
  CHECK(listed.message.find(&moved == &running.mdm.base_deleted ? "deleted" : "rolled back") !=
        std::string::npos);
  running.mdm.sds().SetScript(nullptr);
}

TEST_CASE("a write by RPC passes over what is to stay, and makes zeros", "[process][changes]") {
  Running running;
  v1::WriteVolumeResponse written;
  REQUIRE(running.Write({Piece(0, 0, std::string(50'000, 'a'))}, &written).ok());
  std::atomic<uint64_t> zeroed{0};
  running.mdm.sds().SetScript(
      [&zeroed](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
        if (operation.type() == v1::IO_OPERATION_TYPE_WRITE_ZEROES)
          zeroed += operation.length_bytes();
        return std::nullopt;
      });
  REQUIRE(running
              .Write({Piece(4'096, 8'192, "bbbb"), Piece(1'000, 0, "cc"), Piece(0, 20'000, "")},
                     &written)
              .ok());
  CHECK(written.written_bytes() == 6);
  CHECK(written.zeroed_bytes() == 28'192);
  CHECK(zeroed == 8'192);  // small ones that cut sectors are written as data
  std::string expected(50'000, 'a');
  expected.replace(4'096, 8'192, std::string(8'192, '\0'));
  expected.replace(12'288, 4, "bbbb");
  expected.replace(13'292, 2, "cc");
  expected.replace(13'294, 20'000, std::string(20'000, '\0'));
  CHECK(ReadAll(*running.control, 50'000) == expected);
  running.mdm.sds().SetScript(nullptr);

  const auto code_of = [&](const v1::WriteVolumeRequest& piece) {
    return running.Write({piece}, &written).error_code();
  };
  CHECK(code_of(Piece(kFakeVolumeBytes + 1, 0, "")) == grpc::StatusCode::OUT_OF_RANGE);
  CHECK(code_of(Piece(kFakeVolumeBytes, 1, "")) == grpc::StatusCode::OUT_OF_RANGE);
  CHECK(code_of(Piece(0, kFakeVolumeBytes, "x")) == grpc::StatusCode::OUT_OF_RANGE);
  CHECK(code_of(Piece(~uint64_t{0}, 2, "")) == grpc::StatusCode::OUT_OF_RANGE);
  CHECK(code_of(Piece(1, ~uint64_t{0}, "")) == grpc::StatusCode::OUT_OF_RANGE);
  CHECK(code_of(Piece(0, kFakeVolumeBytes, "")) == grpc::StatusCode::OK);
  CHECK(ReadAll(*running.control, 50'000) == std::string(50'000, '\0'));
}

}  // namespace
}  // namespace tessera::sdc
