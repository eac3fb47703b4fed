// Servers that come back, or fill up: what their replicas count for, and who learns of it.
#include <algorithm>
#include <catch2/catch.hpp>

#include "services/mdm/mdm_fixture.h"
#include "services/mdm/membership_rules.h"

namespace tessera::mdm {
namespace {

struct ReturnFixture : MdmFixture {
  ReturnFixture() {
    MakePool({&a, &b}, 2);
    (void)MakeVolume("v");  // a pool without volumes is laid out anew when a device fails
  }
  [[nodiscard]] size_t CountEvents(const std::string& code) {
    v1::ListEventsResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::HealthService>()->ListEvents(&context, {}, &response).ok());
    return static_cast<size_t>(
        std::count_if(response.events().begin(), response.events().end(),
                      [&code](const v1::Event& event) { return event.code() == code; }));
  }
  FakeSds a{"sds-a"};
  FakeSds b{"sds-b"};
};

TEST_CASE_METHOD(ReturnFixture,
                 "power loss takes a server's replicas out before it is told its map") {
  b.incarnation = 2;
  b.volatile_state_lost = true;
  b.Stop();
  REQUIRE(Register(&b).ok());
  const auto before = Groups();
  for (const v1::PlacementGroup& group : before) {
    const v1::Replica& of_b = group.replicas(group.replicas(0).sds_id() == b.sds_id ? 0 : 1);
    CHECK(of_b.role() == v1::REPLICA_ROLE_OUT_OF_SYNC);
    CHECK(group.loss_epoch() == 0);
  }
  // Both lost theirs: the one that is left stays, and the entry says so.
  a.incarnation = 2;
  a.volatile_state_lost = true;
  REQUIRE(Register(&a).ok());
  const auto after = Groups();
  REQUIRE(after.size() == before.size());
  for (size_t i = 0; i < after.size(); ++i) {
    CHECK(InSyncCount(after[i]) == 1);
    CHECK(after[i].loss_epoch() > before[i].epoch());
    CHECK(after[i].loss_epoch() <= after[i].epoch());
  }
  CHECK(CountEvents("unflushed_writes_lost") > 0);
  // In the same life it is no news; nor is a device that does not open: it may come back whole.
  REQUIRE(Register(&a).ok());
  a.incarnation = 3;
  a.volatile_state_lost = false;
  a.failure = "its file is not there";
  REQUIRE(Register(&a).ok());
  // A loss stays known, whatever happens to the group next.
  b.incarnation = 3;
  b.volatile_state_lost = false;
  REQUIRE(Register(&b).ok());
  const auto later = Groups();
  REQUIRE(later.size() == after.size());
  for (size_t i = 0; i < after.size(); ++i) {
    CHECK(later[i].loss_epoch() == after[i].loss_epoch());
  }
}

TEST_CASE_METHOD(ReturnFixture, "a process restart alone keeps replicas in sync") {
  const auto before = Groups();
  b.incarnation = 2;
  REQUIRE(Register(&b).ok());
  const auto after = Groups();
  for (size_t i = 0; i < before.size(); ++i) CHECK(after[i].epoch() == before[i].epoch());
}

TEST_CASE_METHOD(ReturnFixture, "a device that fills up is told of, once for each mark") {
  const auto causes = [this] {
    v1::GetClusterHealthResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    REQUIRE(Stub<v1::HealthService>()->GetClusterHealth(&context, {}, &response).ok());
    return response;
  };
  const auto fill = [this](uint64_t percent) {
    a.used_bytes = a.capacity_bytes / 100 * percent;
    REQUIRE(Beat(&a).ok());
  };
  REQUIRE(Beat(&b).ok());
  fill(84);
  CHECK(CountEvents("device_nearly_full") == 0);
  fill(86);
  fill(87);
  CHECK(CountEvents("device_nearly_full") == 1);
  CHECK(CountEvents("device_full") == 0);
  REQUIRE(causes().causes_size() == 1);
  CHECK(causes().causes(0).code() == "device_nearly_full");
  CHECK(causes().verdict() == v1::CLUSTER_VERDICT_OK);
  fill(96);
  fill(97);
  CHECK(CountEvents("device_full") == 1);
  CHECK(causes().verdict() == v1::CLUSTER_VERDICT_DEGRADED);
  fill(80);
  fill(79);
  CHECK(CountEvents("device_has_space_again") == 1);
  CHECK(causes().causes_size() == 0);
}

}  // namespace
}  // namespace tessera::mdm
