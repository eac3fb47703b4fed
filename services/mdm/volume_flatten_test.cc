// Flattening, over real gRPC with clients that make layers as they are told.
#include <algorithm>
#include <catch2/catch.hpp>
#include <string>

#include "services/mdm/snapshot_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

struct FlattenFixture : SnapshotFixture {
  grpc::Status Flatten(const v1::Volume& volume, v1::FlattenVolumeResponse* response = nullptr) {
    v1::FlattenVolumeRequest request;
    request.set_volume_id(volume.volume_id());
    v1::FlattenVolumeResponse ignored;
    return Ask(&Volumes::FlattenVolume, request, response == nullptr ? &ignored : response);
  }
  // A clone of a new snapshot of it.
  v1::Volume CloneNow(const v1::Volume& volume, const std::string& name) {
    v1::Volume clone;
    REQUIRE(Clone(SnapOne(volume, name + "-of"), name, &clone).ok());
    return clone;
  }
  int Depth(const v1::Volume& volume) { return GetVolume(volume.volume_id()).path().parts_size(); }
  static size_t Adoptions(FakeSdc* sdc) {
    size_t count = 0;
    for (const Call& call : sdc->snapshot_calls()) count += call.what == Call::kAdopt ? 1 : 0;
    return count;
  }
};

TEST_CASE_METHOD(FlattenFixture, "a flattened clone sees its own branch alone", "[flatten]") {
  const v1::Volume origin = MakeVolume("v");
  const v1::Volume clone = CloneNow(origin, "c");
  REQUIRE(Depth(clone) == 2);
  v1::IssuedGrant grant = MakeWriter(clone, &client);
  const v1::Volume before = SnapOne(clone, "before");
  REQUIRE(Renew(client, &grant).error_code() == StatusCode::FAILED_PRECONDITION);
  grant = client.snapshot_calls().back().grant;
  v1::FlattenVolumeResponse response;
  REQUIRE(Flatten(clone, &response).ok());
  REQUIRE(response.volume().path().parts_size() == 1);
  CHECK(response.volume().path().parts(0).branch() == 1);
  CHECK(response.volume().path().parts(0).ordinal_max() == token::kPathHead);
  REQUIRE(client.snapshot_calls().back().what == Call::kAdopt);
  CHECK(client.snapshot_calls().back().generation == Of(grant).generation);
  // The client hears of it, and its generation and layer are as they were.
  CHECK(client.attach_calls() >= 2);
  const token::Grant old = Of(grant);
  REQUIRE(Renew(client, &grant).ok());
  CHECK(Of(grant).path == Part(1, token::kPathHead));
  CHECK(Of(grant).generation == old.generation);
  CHECK(Of(grant).snapshot_sequence == old.snapshot_sequence);
  // What was made before keeps what it sees; what is made now has one part.
  CHECK(Depth(before) == 2);
  CHECK(Depth(SnapOne(clone, "after")) == 1);
  // Servers look for what nobody sees any more.
  REQUIRE(Await([&] {
    const v1::VtreeCatalog catalog = LastCatalog(&a, clone.vtree_id());
    return std::any_of(catalog.paths().begin(), catalog.paths().end(), [](const auto& path) {
      return path.parts_size() == 1 && path.parts(0).branch() == 1 &&
             path.parts(0).ordinal_max() == token::kPathHead;
    });
  }));
  CHECK(Events("volume_flattened").size() == 1);
  // Once more: nothing is to be done.
  const size_t adoptions = Adoptions(&client);
  CHECK(Flatten(clone).ok());
  CHECK(Flatten(origin).ok());
  CHECK(Adoptions(&client) == adoptions);
}

TEST_CASE_METHOD(FlattenFixture, "at the greatest depth it can be cloned again", "[flatten]") {
  v1::Volume volume = MakeVolume("v0");
  for (int depth = 2; depth <= 16; ++depth) {
    volume = CloneNow(volume, "v" + std::to_string(depth));
    REQUIRE(Depth(volume) == depth);
  }
  const v1::Volume deepest = SnapOne(volume, "deepest");
  CHECK(Reason(Clone(deepest, "no", nullptr)) == "TOO_DEEP");
  REQUIRE(Map(volume, client).ok());
  REQUIRE(Flatten(volume).ok());
  // Not of a snapshot of before.
  CHECK(Reason(Clone(deepest, "no", nullptr)) == "TOO_DEEP");
  REQUIRE(Unmap(volume).ok());
  CHECK(Depth(CloneNow(volume, "yes")) == 2);
}

TEST_CASE_METHOD(FlattenFixture, "what can't be flattened is refused, and stays", "[flatten]") {
  const v1::Volume clone = CloneNow(MakeVolume("v"), "c");
  CHECK(Reason(Flatten(clone)) == "NO_WRITER");
  REQUIRE(Map(clone, other, v1::MAPPING_MODE_READ_ONLY).ok());
  CHECK(Reason(Flatten(clone)) == "NO_WRITER");
  REQUIRE(Unmap(clone).ok());
  CHECK(Reason(Flatten(SnapOne(clone, "s"))) == "SNAPSHOT_READ_ONLY");
  v1::Volume missing;
  missing.set_volume_id(4711);
  CHECK(Reason(Flatten(missing)) == "VOLUME_NOT_FOUND");
  (void)MakeWriter(clone, &client);
  client.OnSnapshotCall(
      [](const Call&) { return grpc::Status(StatusCode::DEADLINE_EXCEEDED, "not yet"); });
  CHECK(Flatten(clone).error_code() == StatusCode::UNAVAILABLE);
  client.OnSnapshotCall([](const Call&) { return grpc::Status(StatusCode::ABORTED, "lost"); });
  CHECK(Flatten(clone).error_code() == StatusCode::ABORTED);
  CHECK(Depth(clone) == 2);
  client.OnSnapshotCall(nullptr);
  CHECK(Flatten(clone).ok());
}

TEST_CASE_METHOD(FlattenFixture, "a volume that is rolled back meanwhile has another path",
                 "[flatten]") {
  const v1::Volume clone = CloneNow(MakeVolume("v"), "c");
  const v1::Volume snapshot = SnapOne(clone, "s");
  (void)MakeWriter(clone, &client);
  client.OnSnapshotCall([&](const Call&) {
    CHECK(Unmap(clone).ok());
    CHECK(Rollback(BackTo(clone, snapshot)).ok());
    return grpc::Status::OK;
  });
  CHECK(Reason(Flatten(clone)) == "VOLUME_MOVED_ON");
  CHECK(Depth(clone) == 3);
}

TEST_CASE_METHOD(FlattenFixture, "a new writer meanwhile does not matter", "[flatten]") {
  const v1::Volume clone = CloneNow(MakeVolume("v"), "c");
  (void)MakeWriter(clone, &client);
  client.OnSnapshotCall([&](const Call&) {
    CHECK(Unmap(clone).ok());
    (void)MakeWriter(clone, &other);
    return grpc::Status::OK;
  });
  CHECK(Flatten(clone).ok());
  CHECK(Depth(clone) == 1);
}

}  // namespace
}  // namespace tessera::mdm
