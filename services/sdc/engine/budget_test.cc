// A volume that takes more than its byte budget: what would take more is refused, all else goes on.
#include <catch2/catch.hpp>
#include <cerrno>
#include <string>

#include "services/sdc/engine/test_cluster.h"

namespace tessera::sdc {
namespace {

void SetOverBudget(TestCluster* cluster, bool over) {
  cluster->OnLoop([&] {
    cluster->over_budget = over;
    cluster->engine->SetGrant("test", cluster->MakeGrant());
  });
}

TEST_CASE("over its budget a volume takes no writes, until its grant says otherwise",
          "[engine][budget]") {
  TestCluster cluster(2);
  REQUIRE(cluster.Write(0, Pattern(1, 3 * 4096)) == 0);
  SetOverBudget(&cluster, true);
  const BlockReply refused = cluster.Do(TestCluster::WriteRequest(0, "x"));
  CHECK(refused.error == ENOSPC);
  CHECK_FALSE(refused.message.empty());
  BlockRequest kept = TestCluster::Simple(Command::kWriteZeroes, 0, 4096);
  kept.no_hole = true;
  CHECK(cluster.Do(std::move(kept)).error == ENOSPC);
  CHECK(cluster.Read(0, 3 * 4096) == Pattern(1, 3 * 4096));
  CHECK(cluster.Do(TestCluster::Simple(Command::kTrim, 0, 4096)).error == 0);
  CHECK(cluster.Do(TestCluster::Simple(Command::kWriteZeroes, 4096, 4096)).error == 0);
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Read(0, 2 * 4096) == std::string(2 * 4096, '\0'));
  for (size_t server = 0; server < 2; ++server) {
    CHECK(cluster.Volume(server).substr(0, 2 * 4096) == std::string(2 * 4096, '\0'));
  }
  SetOverBudget(&cluster, false);
  CHECK(cluster.Write(0, "x") == 0);
  CHECK(cluster.Read(0, 1) == "x");
}

TEST_CASE("what was taken before is done", "[engine][budget]") {
  TestCluster cluster(1);
  cluster.OnLoop([&] {
    cluster.over_budget = true;
    auto done = std::make_shared<int>(-1);
    BlockRequest request = TestCluster::WriteRequest(0, "early");
    request.done = [done](const BlockReply& reply) { *done = reply.error; };
    cluster.engine->Find("test")->Submit(std::move(request));
    cluster.engine->SetGrant("test", cluster.MakeGrant());
  });
  CHECK(cluster.Flush() == 0);
  CHECK(cluster.Read(0, 5) == "early");
  CHECK(cluster.Write(0, "later") == ENOSPC);
}

}  // namespace
}  // namespace tessera::sdc
