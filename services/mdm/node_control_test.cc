// The MDM's calls to nodes that come and go.
#include "services/mdm/node_control.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "services/mdm/mdm_fixture.h"

namespace tessera::mdm {

TEST_CASE("a server that has registered again is reached at once") {
  std::string folder = "/tmp/node-control-XXXXXX";
  REQUIRE(mkdtemp(folder.data()) != nullptr);
  const auto keys = ClusterKeys::Open(folder + "/secrets.key", false);
  std::filesystem::remove_all(folder);
  REQUIRE(keys.ok());
  NodeControl control(keys->get(), grpc::InsecureChannelCredentials());
  FakeSds sds("sds");
  SdsTarget target{1, sds.address(), 1};
  const auto reach = [&] {
    return control.RaiseGeneration({target}, {}, std::chrono::milliseconds(5'000)).at(1).status();
  };
  CHECK_FALSE(absl::IsUnavailable(reach()));
  sds.Stop();
  // Long enough for gRPC to wait between its attempts.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (std::chrono::steady_clock::now() < end) REQUIRE(absl::IsUnavailable(reach()));
  sds.Start();
  target.incarnation = 2;
  CHECK_FALSE(absl::IsUnavailable(reach()));
}

}  // namespace tessera::mdm
