// A volume becomes smaller while it is written.
#include <catch2/catch.hpp>
#include <cerrno>
#include <string>
#include <utility>

#include "services/sdc/engine/test_cluster.h"

namespace tessera::sdc {
namespace {

constexpr uint64_t kSmaller = 5 * kChunkBytes + 4096;

absl::Status Shrink(TestCluster* cluster, uint64_t size_bytes) {
  auto shrunk = AskLoop<absl::Status>(cluster->loop(), kPatience, [&](auto answer) {
    cluster->engine->FindVolume(7)->Shrink(size_bytes, std::move(answer));
  });
  REQUIRE(shrunk.ok());
  return *shrunk;
}

TEST_CASE("what lies beyond the new end is zeros everywhere, durable, and out of reach",
          "[engine][shrink]") {
  TestCluster cluster(2);
  REQUIRE(cluster.Write(0, Pattern(1, kVolumeBytes)) == 0);
  REQUIRE(Shrink(&cluster, kSmaller).ok());
  const std::string kept = Pattern(1, kVolumeBytes).substr(0, kSmaller);
  for (size_t server = 0; server < 2; ++server) {
    const std::string volume = cluster.Volume(server);
    CHECK(volume.substr(0, kSmaller) == kept);
    CHECK(volume.substr(kSmaller) == std::string(kVolumeBytes - kSmaller, '\0'));
    CHECK(cluster.servers[server]->UnflushedWrites() == 0);
  }
  CHECK(cluster.Write(kSmaller, "x") == EINVAL);
  CHECK(cluster.Write(kSmaller - 1, "xy") == EINVAL);
  CHECK(cluster.Write(kSmaller - 1, "x") == 0);
  cluster.OnLoop([&] { CHECK(cluster.engine->Find("test")->info().size_bytes == kSmaller); });
  SECTION("a renewal changes nothing") {
    cluster.OnLoop([&] { cluster.engine->SetGrant("test", cluster.MakeGrant()); });
    CHECK(cluster.Write(kSmaller, "x") == EINVAL);
  }
  SECTION("once more") { CHECK(Shrink(&cluster, kSmaller).ok()); }
  SECTION("another generation has the size of its grant") {
    cluster.RaiseGeneration();
    cluster.OnLoop([&] { cluster.engine->SetGrant("test", cluster.MakeGrant()); });
    CHECK(cluster.Write(kSmaller, "x") == 0);
  }
}

TEST_CASE("what is no smaller size is refused and changes nothing", "[engine][shrink]") {
  TestCluster cluster(1);
  CHECK(absl::IsInvalidArgument(Shrink(&cluster, kVolumeBytes)));
  CHECK(absl::IsInvalidArgument(Shrink(&cluster, 0)));
  CHECK(absl::IsInvalidArgument(Shrink(&cluster, 4096 + 512)));
  CHECK(cluster.Write(kVolumeBytes - 1, "x") == 0);
  cluster.OnLoop([&] {
    cluster.access = token::AccessMode::kReadOnly;
    cluster.engine->SetGrant("test", cluster.MakeGrant());
  });
  CHECK(absl::IsFailedPrecondition(Shrink(&cluster, 4096)));
}

}  // namespace
}  // namespace tessera::sdc
