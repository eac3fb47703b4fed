// ExplainLatency over real gRPC, with clients that say what they are told.
#include <catch2/catch.hpp>

#include "services/mdm/snapshot_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

struct LatencyFixture : SnapshotFixture {
  grpc::Status Explain(const v1::ExplainLatencyRequest& request,
                       v1::ExplainLatencyResponse* response, const std::string& kind = "",
                       const std::string& secret = "") {
    grpc::ClientContext context;
    Prepare(&context, kind, 0, secret);
    return Stub<v1::LatencyService>()->ExplainLatency(&context, request, response);
  }
  v1::ExplainLatencyRequest RequestFor(const std::string& name, uint32_t window_s = 60) {
    v1::ExplainLatencyRequest request;
    request.set_volume_name(name);
    request.set_window_s(window_s);
    return request;
  }
  // `count` reads of 1 ms, all of it at the device of the server.
  void Says(FakeSdc* sdc, const FakeSds& sds, uint64_t count) {
    sdc->AnswerLatency([this, &sds, count](const v1::ExplainVolumeLatencyRequest& request,
                                           v1::ExplainVolumeLatencyResponse* response) {
      asked.push_back(request);
      v1::LatencyFigures* figures = response->mutable_figures();
      for (v1::LatencyRow* row : {figures->add_requests(), figures->add_rows()}) {
        row->set_operation(v1::LATENCY_OPERATION_READ);
        row->set_count(count);
        row->set_sum_micros(count * 1'000);
        row->set_max_micros(1'000);
      }
      figures->mutable_rows(0)->set_stage(v1::LATENCY_STAGE_DISK_READ);
      figures->mutable_rows(0)->set_sds_id(sds.sds_id);
      figures->mutable_rows(0)->set_device_id(sds.device_id);
      return grpc::Status::OK;
    });
  }
  std::vector<v1::ExplainVolumeLatencyRequest> asked;
};

TEST_CASE_METHOD(LatencyFixture, "a volume that nobody has mapped has no latency, and is told so",
                 "[latency]") {
  const v1::Volume volume = MakeVolume("v");
  v1::ExplainLatencyResponse response;
  const grpc::Status status = Explain(RequestFor("v"), &response);
  CHECK(status.error_code() == StatusCode::FAILED_PRECONDITION);
  CHECK(status.error_message().find("volume v is mapped to no client") != std::string::npos);
  CHECK(Explain(RequestFor("w"), &response).error_code() == StatusCode::NOT_FOUND);
}

TEST_CASE_METHOD(LatencyFixture, "a window that can't be is refused before anybody is asked",
                 "[latency]") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  Says(&client, a, 1);
  v1::ExplainLatencyResponse response;
  for (const uint32_t window_s : {5u, 601u}) {
    const grpc::Status status = Explain(RequestFor("v", window_s), &response);
    CHECK(status.error_code() == StatusCode::INVALID_ARGUMENT);
    CHECK(status.error_message().find("10 to 600 seconds") != std::string::npos);
  }
  CHECK(asked.empty());
  REQUIRE(Explain(RequestFor("v", 0), &response).ok());
  REQUIRE(asked.size() == 1);
  CHECK(asked[0].window_s() == 300);
  CHECK(asked[0].volume_id() == volume.volume_id());
}

TEST_CASE_METHOD(LatencyFixture, "the answer has names, and adds up all clients of the volume",
                 "[latency]") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client, v1::MAPPING_MODE_READ_ONLY).ok());
  REQUIRE(Map(volume, other, v1::MAPPING_MODE_READ_ONLY).ok());
  Says(&client, a, 10);
  Says(&other, b, 30);
  v1::ExplainLatencyResponse response;
  v1::ExplainLatencyRequest request = RequestFor("v");
  request.set_operation(v1::LATENCY_OPERATION_READ);
  REQUIRE(Explain(request, &response).ok());
  CHECK(response.volume_id() == volume.volume_id());
  CHECK(response.volume_name() == "v");
  CHECK(asked[0].operation() == v1::LATENCY_OPERATION_READ);
  REQUIRE(response.summaries_size() == 1);
  CHECK(response.summaries(0).samples() == 40);
  REQUIRE(response.causes_size() == 2);
  CHECK(response.causes(0).sds_name() == "sds-b");
  CHECK(response.causes(0).device_id() == b.device_id);
  CHECK_FALSE(response.causes(0).device_path().empty());
  CHECK(response.causes(0).share() == Approx(0.75));
  CHECK(response.causes(1).sds_name() == "sds-a");
  CHECK(response.silent_sdc_ids().empty());
}

TEST_CASE_METHOD(LatencyFixture, "clients that do not answer are named, and the others count",
                 "[latency]") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client, v1::MAPPING_MODE_READ_ONLY).ok());
  REQUIRE(Map(volume, other, v1::MAPPING_MODE_READ_ONLY).ok());
  Says(&client, a, 10);
  other.Stop();
  v1::ExplainLatencyResponse response;
  REQUIRE(Explain(RequestFor("v"), &response).ok());
  REQUIRE(response.silent_sdc_ids_size() == 1);
  CHECK(response.silent_sdc_ids(0) == other.sdc_id);
  CHECK(response.summaries(0).samples() == 10);
  client.Stop();
  const grpc::Status status = Explain(RequestFor("v"), &response);
  CHECK(status.error_code() == StatusCode::UNAVAILABLE);
  CHECK(status.error_message().find("client client: ") != std::string::npos);
}

TEST_CASE_METHOD(LatencyFixture, "of a shared volume the one that writes it answers for all",
                 "[latency]") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client, v1::MAPPING_MODE_SHARED).ok());
  REQUIRE(Map(volume, other, v1::MAPPING_MODE_SHARED).ok());
  Says(&client, a, 10);  // the other one says that another client writes it
  v1::ExplainLatencyResponse response;
  REQUIRE(Explain(RequestFor("v"), &response).ok());
  CHECK(response.silent_sdc_ids().empty());
  CHECK(response.summaries(0).samples() == 10);
}

}  // namespace
}  // namespace tessera::mdm
