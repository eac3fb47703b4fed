// A server whose store came back without what was not flushed: what it serves, and from when on.
#include <catch2/catch.hpp>
#include <string>
#include <thread>

#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"
#include "services/sds/testing/test_store.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kGroup = kTestPool * 65536;

TEST_CASE("After power loss nothing is served by the map of before") {
  FakeMdm mdm;
  StoreFaults faults;
  TestSds sds(&mdm, "sds-a", FaultyStores(&faults));
  TestClient client(&mdm, &sds, NewGrant(mdm, 1, 5));
  mdm.Commit(GroupOf(kGroup, {{&sds, v1::REPLICA_ROLE_IN_SYNC}}));
  REQUIRE(sds.AwaitEpoch(kGroup, 1));
  const std::string data(4096, '1');
  REQUIRE(client.Write(kGroup, 0, 0, data) == v1::IO_STATUS_OK);

  mdm.HoldMap(true);
  faults.tail_lost = true;
  sds.Restart();
  CHECK(mdm.NodeOf(sds.id()).registration.devices(0).volatile_state_lost());
  client.Connect();
  // It has registered, and knows the epoch in which it was in sync.
  CHECK(client.Read(kGroup, 0, 0, 4096).first == v1::IO_STATUS_OVERLOADED);
  CHECK(client.Write(kGroup, 0, 0, data) == v1::IO_STATUS_OVERLOADED);
  CHECK(client.SendOne(client.NewFlush(kGroup)).status() == v1::IO_STATUS_OVERLOADED);
  CHECK(faults.losses_acknowledged == 0);

  SECTION("another replica has taken its place") {
    mdm.SetRole(kGroup, sds.device_id(), v1::REPLICA_ROLE_OUT_OF_SYNC);
    mdm.HoldMap(false);
    v1::IoStatus status = v1::IO_STATUS_OVERLOADED;
    while (status == v1::IO_STATUS_OVERLOADED) status = client.Read(kGroup, 0, 0, 4096).first;
    CHECK(status == v1::IO_STATUS_STALE_EPOCH);
  }
  SECTION("it was the last, and goes on") {
    mdm.HoldMap(false);
    v1::IoStatus status = v1::IO_STATUS_OVERLOADED;
    while (status == v1::IO_STATUS_OVERLOADED) status = client.Read(kGroup, 0, 0, 4096).first;
    CHECK(status == v1::IO_STATUS_OK);
  }
  while (faults.losses_acknowledged == 0) std::this_thread::yield();
  CHECK(faults.losses_acknowledged == 1);
}

}  // namespace
}  // namespace tessera::sds
