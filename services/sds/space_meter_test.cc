// What a server says of the space of vtrees, over real gRPC and the real store.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kGroup = kTestPool * 65536;
constexpr uint64_t kOther = kGroup + 1;
constexpr uint64_t kVtree = 11;
constexpr uint32_t kBlock = chunk::kBlockBytes;

std::string Blocks(size_t count) { return std::string(count * kBlock, 'x'); }

struct MeterFixture {
  MeterFixture() : sds(&mdm, "sds-a"), client(&mdm, &sds, Grant()) {
    mdm.Commit(GroupOf(kGroup, {{&sds, v1::REPLICA_ROLE_IN_SYNC}}));
    mdm.Commit(GroupOf(kOther, {{&sds, v1::REPLICA_ROLE_IN_SYNC}}));
    REQUIRE(sds.AwaitEpoch(kGroup, 1));
    REQUIRE(sds.AwaitEpoch(kOther, 1));
  }
  token::Grant Grant() {
    token::Grant grant = NewGrant(mdm, 1, 5);
    grant.vtree_id = kVtree;
    return grant;
  }
  void Cut(uint64_t layer) {
    client.grant.snapshot_sequence = layer;
    client.Show();
  }
  static void AddPath(const std::vector<token::PathPart>& path, v1::VtreeCatalog* catalog) {
    v1::LayerPath* to = catalog->add_paths();
    for (const token::PathPart& part : path) {
      v1::LayerPathPart* added = to->add_parts();
      added->set_branch(part.branch);
      added->set_ordinal_max(part.ordinal_max);
    }
  }
  absl::StatusOr<v1::MeasureVtreesResponse> Measure(const v1::MeasureVtreesRequest& request) {
    const auto control = sds.NewControlStub();
    grpc::ClientContext call;
    PrepareCall(&call, 20'000, mdm.ControlBearer(1, sds.id()));
    const auto reader = control->MeasureVtrees(&call, request);
    v1::MeasureVtreesResponse all;
    v1::MeasureVtreesResponse piece;
    while (reader->Read(&piece)) {
      CHECK_FALSE(all.complete());
      all.MergeFrom(piece);
    }
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return FromGrpcStatus(status);
    return all;
  }
  void Count(uint64_t group, v1::MeasureVtreesRequest* request, uint64_t device_id = 0) {
    v1::CountedReplica* replica = request->add_counted();
    replica->set_device_id(device_id == 0 ? sds.device_id() : device_id);
    replica->set_placement_group_id(group);
  }

  FakeMdm mdm;
  TestSds sds;
  TestClient client;
};

TEST_CASE_METHOD(MeterFixture,
                 "a server counts what its counted replicas hold, and all for the raw", "[space]") {
  REQUIRE(client.Write(kGroup, 0, 0, Blocks(4)) == v1::IO_STATUS_OK);
  REQUIRE(client.Write(kGroup, 2, 0, Blocks(1)) == v1::IO_STATUS_OK);
  REQUIRE(client.Write(kOther, 1, 0, Blocks(2)) == v1::IO_STATUS_OK);
  Cut(1);
  REQUIRE(client.Write(kGroup, 0, 0, Blocks(1)) == v1::IO_STATUS_OK);
  v1::MeasureVtreesRequest request;
  v1::VtreeCatalog* catalog = request.add_catalogs();
  catalog->set_vtree_id(kVtree);
  AddPath({}, catalog);
  AddPath({{.branch = 0, .ordinal_max = 0}}, catalog);
  request.add_catalogs()->set_vtree_id(99);
  AddPath({}, request.mutable_catalogs(1));
  Count(kGroup, &request);
  const auto answer = Measure(request);
  REQUIRE(answer.ok());
  CHECK(answer->complete());
  REQUIRE(answer->vtrees_size() == 2);
  const v1::VtreeMeasure& vtree = answer->vtrees(0);
  CHECK(vtree.vtree_id() == kVtree);
  REQUIRE(vtree.views_size() == 2);
  CHECK(vtree.views(0).logical_bytes() == 5 * kBlock);
  CHECK(vtree.views(0).unique_bytes() == 1 * kBlock);
  CHECK(vtree.views(1).logical_bytes() == 5 * kBlock);
  CHECK(vtree.views(1).unique_bytes() == 1 * kBlock);
  CHECK(vtree.data_bytes() == 6 * kBlock);
  CHECK(vtree.snapshot_only_bytes() == 1 * kBlock);
  CHECK(vtree.unseen_bytes() == 0);
  CHECK(vtree.raw_data_bytes() == 8 * kBlock);
  CHECK(answer->vtrees(1).data_bytes() == 0);
  REQUIRE(answer->devices_size() == 1);
  CHECK(answer->devices(0).device_id() == sds.device_id());
  CHECK(answer->devices(0).data_bytes() == 8 * kBlock);
  CHECK(answer->devices(0).used_bytes() > 8 * kBlock);
  CHECK(answer->devices(0).capacity_bytes() > 0);

  // Without the snapshot what it alone saw is seen by nobody.
  catalog->mutable_paths()->RemoveLast();
  const auto without = Measure(request);
  REQUIRE(without.ok());
  CHECK(without->vtrees(0).unseen_bytes() == 1 * kBlock);
  CHECK(without->vtrees(0).views(0).unique_bytes() == 5 * kBlock);
  // All groups.
  Count(kOther, &request);
  CHECK(Measure(request)->vtrees(0).data_bytes() == 8 * kBlock);
}

TEST_CASE_METHOD(MeterFixture, "what can't be counted is refused; nothing to count is an answer",
                 "[space]") {
  v1::MeasureVtreesRequest request;
  const auto nothing = Measure(request);
  REQUIRE(nothing.ok());
  CHECK(nothing->complete());
  CHECK(nothing->devices_size() == 1);
  Count(kGroup, &request, sds.device_id() + 1);
  CHECK(absl::IsUnavailable(Measure(request).status()));
  request.clear_counted();
  request.add_catalogs();
  CHECK(absl::IsInvalidArgument(Measure(request).status()));
}

}  // namespace
}  // namespace tessera::sds
