// Writes held for a snapshot, and the cut: which layer each write goes to, and when it is durable.
#include <catch2/catch.hpp>
#include <cerrno>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "libchunk/seeded_random.h"
#include "services/sdc/engine/test_cluster.h"

namespace tessera::sdc {
namespace {

constexpr std::chrono::seconds kLong{20};
constexpr std::chrono::milliseconds kShort{30};

absl::StatusOr<uint64_t> Cut(TestCluster* cluster, uint64_t hold_id, uint64_t layer,
                             std::chrono::nanoseconds longest = kLong) {
  auto cut = AskLoop<absl::StatusOr<uint64_t>>(cluster->loop(), kPatience, [&](auto answer) {
    cluster->layer = layer;
    cluster->engine->FindVolume(7)->CutSnapshot(hold_id, cluster->MakeGrant(), longest,
                                                std::move(answer));
  });
  REQUIRE(cut.ok());
  return *cut;
}

absl::Status Hold(TestCluster* cluster, uint64_t hold_id,
                  std::chrono::nanoseconds longest = kLong) {
  auto held = AskLoop<absl::Status>(cluster->loop(), kPatience, [&](auto answer) {
    cluster->engine->FindVolume(7)->HoldWrites(hold_id, longest, std::move(answer));
  });
  REQUIRE(held.ok());
  return *held;
}

// A request that ends some time.
struct Pending {
  absl::Notification done;
  int error = -1;
};
std::shared_ptr<Pending> StartWrite(TestCluster* cluster, uint64_t offset, size_t length) {
  auto pending = std::make_shared<Pending>();  // shared with the request
  BlockRequest request = TestCluster::WriteRequest(offset, std::string(length, 'w'));
  request.done = [pending](const BlockReply& reply) {
    pending->error = reply.error;
    pending->done.Notify();
  };
  cluster->OnLoop([&] { cluster->engine->FindVolume(7)->Submit(std::move(request)); });
  return pending;
}
bool Ended(const std::shared_ptr<Pending>& pending) {
  return pending->done.WaitForNotificationWithTimeout(absl::FromChrono(kPatience));
}

bool IsChange(const v1::IoOperation& operation) {
  return operation.type() == v1::IO_OPERATION_TYPE_WRITE ||
         operation.type() == v1::IO_OPERATION_TYPE_WRITE_ZEROES ||
         operation.type() == v1::IO_OPERATION_TYPE_TRIM ||
         operation.type() == v1::IO_OPERATION_TYPE_ADOPT;
}

// What all servers were sent.
class Watcher {
 public:
  explicit Watcher(TestCluster* cluster) {
    for (auto& server : cluster->servers) {
      server->SetScript([this](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
        absl::MutexLock lock(&mutex_);
        if (!IsChange(operation)) return std::nullopt;
        const Place place{operation.placement_group_id(), operation.generation(),
                          operation.counter()};
        const auto [known, added] = layers_.emplace(place, operation.snapshot_sequence());
        if (known->second != operation.snapshot_sequence()) torn_ = true;
        return std::nullopt;
      });
    }
  }
  // One layer for each write at whatever server, and never a lower one after a higher.
  [[nodiscard]] bool InOrder() {
    absl::MutexLock lock(&mutex_);
    std::map<uint64_t, uint64_t> highest;
    for (const auto& [place, layer] : layers_) {
      if (layer < highest[std::get<0>(place)]) return false;
      highest[std::get<0>(place)] = layer;
    }
    return !torn_;
  }
  [[nodiscard]] std::set<uint64_t> Layers() {
    absl::MutexLock lock(&mutex_);
    std::set<uint64_t> layers;
    for (const auto& [place, layer] : layers_) layers.insert(layer);
    return layers;
  }

 private:
  using Place = std::tuple<uint64_t, uint64_t, uint64_t>;
  absl::Mutex mutex_;
  std::map<Place, uint64_t> layers_ ABSL_GUARDED_BY(mutex_);
  bool torn_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST_CASE("a cut under load: each write is in one layer everywhere, and layers rise in order",
          "[engine][hold]") {
  TestCluster cluster(2);
  Watcher watcher(&cluster);
  const uint64_t seed = GENERATE(1, 2, 3);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  std::vector<std::shared_ptr<Pending>> pending;
  for (uint64_t layer = 1; layer <= 20; ++layer) {
    for (uint64_t i = random.Below(30); i > 0; --i) {
      const uint64_t offset = random.Below(kVolumeBytes / 512 - 80) * 512;
      pending.push_back(StartWrite(&cluster, offset, (1 + random.Below(80)) * 512));
    }
    FakeSds& slow = *cluster.servers[random.Below(2)];
    slow.Hold(random.Below(2) == 0);
    std::thread later([&slow] { slow.Hold(false); });
    if (random.Below(2) == 0) {
      CHECK(Cut(&cluster, 0, layer).ok());
    } else {
      CHECK(Hold(&cluster, layer).ok());
      CHECK(Cut(&cluster, layer, layer).ok());
    }
    later.join();
    // What the servers would lose now was not answered before.
    for (auto& server : cluster.servers) {
      if (random.Below(8) == 0) CHECK(server->UnflushedWrites() == 0);
    }
  }
  for (const auto& request : pending) {
    REQUIRE(Ended(request));
    CHECK(request->error == 0);
  }
  REQUIRE(cluster.Write(0, std::string(512, 'x')) == 0);
  CHECK(watcher.InOrder());
  CHECK(watcher.Layers().contains(20));
  for (auto& server : cluster.servers) server->SetScript(nullptr);
}

TEST_CASE("what was answered before a cut is durable everywhere when it returns",
          "[engine][hold]") {
  TestCluster cluster(2);
  REQUIRE(cluster.Write(0, std::string(3 * kChunkBytes, 'a')) == 0);
  CHECK(cluster.servers[0]->UnflushedWrites() > 0);
  REQUIRE(Cut(&cluster, 0, 1).ok());
  for (auto& server : cluster.servers) CHECK(server->UnflushedWrites() == 0);
}

TEST_CASE("held writes wait and reads go on; released, they go on as before", "[engine][hold]") {
  TestCluster cluster(2);
  Watcher watcher(&cluster);
  REQUIRE(cluster.Write(0, "before") == 0);
  REQUIRE(Hold(&cluster, 5).ok());
  CHECK(Hold(&cluster, 5).ok());
  CHECK(absl::IsAborted(Hold(&cluster, 6)));
  const auto waiting = StartWrite(&cluster, 0, 512);
  CHECK(cluster.Read(0, 6) == "before");
  CHECK(cluster.Flush() == 0);
  CHECK_FALSE(waiting->done.HasBeenNotified());
  SECTION("released") {
    cluster.OnLoop([&] { cluster.engine->FindVolume(7)->ReleaseHold(5); });
    REQUIRE(Ended(waiting));
    CHECK(watcher.Layers() == std::set<uint64_t>{0});
    CHECK(absl::IsFailedPrecondition(Cut(&cluster, 5, 1).status()));
  }
  SECTION("of another hold nothing is released") {
    cluster.OnLoop([&] { cluster.engine->FindVolume(7)->ReleaseHold(6); });
    CHECK_FALSE(waiting->done.HasBeenNotified());
    REQUIRE(Cut(&cluster, 5, 1).ok());
    REQUIRE(Ended(waiting));
    CHECK(watcher.Layers() == std::set<uint64_t>{0, 1});
    // The answer was lost: asked again.
    CHECK(Cut(&cluster, 5, 1).ok());
  }
  SECTION("detached") {
    auto gone = AskLoop<bool>(cluster.loop(), kPatience, [&](auto answer) {
      cluster.engine->Detach(7, false, [answer = std::move(answer)]() mutable { answer(true); });
    });
    REQUIRE(gone.ok());
    REQUIRE(Ended(waiting));
    CHECK(waiting->error == 0);
  }
  SECTION("detached without an end of what is under way") {
    auto gone = AskLoop<bool>(cluster.loop(), kPatience, [&](auto answer) {
      cluster.engine->Detach(7, true, [answer = std::move(answer)]() mutable { answer(true); });
    });
    REQUIRE(gone.ok());
    REQUIRE(Ended(waiting));
    CHECK(waiting->error == ESHUTDOWN);
    for (auto& server : cluster.servers) CHECK(server->Chunk(0).substr(0, 6) == "before");
  }
  SECTION("another generation") {
    cluster.RaiseGeneration();
    cluster.OnLoop([&] { cluster.engine->SetGrant("test", cluster.MakeGrant()); });
    REQUIRE(Ended(waiting));
    CHECK(waiting->error == 0);
    CHECK_FALSE(Cut(&cluster, 5, 1).ok());
  }
  for (auto& server : cluster.servers) server->SetScript(nullptr);
}

TEST_CASE("a hold ends at its deadline, and the cut with it", "[engine][hold]") {
  TestCluster cluster(1);
  Watcher watcher(&cluster);
  cluster.servers[0]->Hold(true);
  const auto stuck = StartWrite(&cluster, 0, 512);
  CHECK(absl::IsDeadlineExceeded(Cut(&cluster, 0, 1, kShort).status()));
  CHECK(absl::IsDeadlineExceeded(Hold(&cluster, 9, kShort)));
  cluster.OnLoop([&] { cluster.layer = 0; });
  cluster.servers[0]->Hold(false);
  REQUIRE(Ended(stuck));
  REQUIRE(cluster.Write(0, std::string(512, 'x')) == 0);
  CHECK(watcher.Layers() == std::set<uint64_t>{0});
  // One that nobody ends.
  REQUIRE(Hold(&cluster, 9, kShort).ok());
  CHECK(cluster.Write(0, std::string(512, 'x')) == 0);
  CHECK(absl::IsFailedPrecondition(Cut(&cluster, 9, 1).status()));
  cluster.servers[0]->SetScript(nullptr);
}

TEST_CASE("a late renewal of the grant before a cut changes nothing", "[engine][hold]") {
  TestCluster cluster(2);
  Watcher watcher(&cluster);
  std::optional<VolumeGrant> late;
  cluster.OnLoop([&] { late = cluster.MakeGrant(); });
  REQUIRE(Cut(&cluster, 0, 1).ok());
  cluster.OnLoop([&] { cluster.engine->SetGrant("test", *std::move(late)); });
  REQUIRE(cluster.Write(0, "after") == 0);
  CHECK(watcher.Layers() == std::set<uint64_t>{1});
  // Nor can one go back.
  CHECK(absl::IsFailedPrecondition(Cut(&cluster, 0, 0).status()));
  for (auto& server : cluster.servers) server->SetScript(nullptr);
}

TEST_CASE("the next life of a client goes on in the new layer", "[engine][hold][resume]") {
  TestCluster cluster(2);
  Watcher watcher(&cluster);
  REQUIRE(cluster.Write(0, "before") == 0);
  REQUIRE(Cut(&cluster, 0, 1).ok());
  cluster.Kill();
  REQUIRE(cluster.StartAgain() == 1);
  cluster.PublishAddresses();
  REQUIRE(cluster.Write(kChunkBytes, "after") == 0);
  CHECK(cluster.Read(0, 6) == "before");
  CHECK(watcher.InOrder());
  CHECK(watcher.Layers() == std::set<uint64_t>{0, 1});
  for (auto& server : cluster.servers) server->SetScript(nullptr);
}

TEST_CASE("what can't be written can't be held", "[engine][hold]") {
  TestCluster cluster(1);
  cluster.OnLoop([&] {
    cluster.access = token::AccessMode::kReadOnly;
    cluster.engine->SetGrant("test", cluster.MakeGrant());
  });
  CHECK(absl::IsFailedPrecondition(Hold(&cluster, 1)));
}

}  // namespace
}  // namespace tessera::sdc
