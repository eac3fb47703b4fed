// Layers of a volume's own branch: every chunk, in the order of writes, durable at the end.
#include <catch2/catch.hpp>
#include <cerrno>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "services/sdc/engine/test_cluster.h"

namespace tessera::sdc {
namespace {

constexpr uint64_t kChunks = (kVolumeBytes + kChunkBytes - 1) / kChunkBytes;

std::multiset<uint64_t> AllChunks() {
  std::multiset<uint64_t> chunks;
  for (uint64_t chunk = 0; chunk < kChunks; ++chunk) chunks.insert(chunk);
  return chunks;
}

struct Adoption {
  absl::Notification done;
  absl::Status status;
};
std::shared_ptr<Adoption> Begin(TestCluster* cluster) {
  auto adoption = std::make_shared<Adoption>();  // shared with the engine
  cluster->OnLoop([&] {
    cluster->engine->FindVolume(7)->AdoptLayers([adoption](absl::Status status) {
      adoption->status = std::move(status);
      adoption->done.Notify();
    });
  });
  return adoption;
}
absl::Status End(const std::shared_ptr<Adoption>& adoption) {
  REQUIRE(adoption->done.WaitForNotificationWithTimeout(absl::FromChrono(kPatience)));
  return adoption->status;
}
absl::Status Adopt(TestCluster* cluster) { return End(Begin(cluster)); }

TEST_CASE("each chunk is adopted once at every replica, durably, and no content changes",
          "[engine][adopt]") {
  TestCluster cluster(2);
  REQUIRE(cluster.Write(0, Pattern(1, kVolumeBytes)) == 0);
  REQUIRE(Adopt(&cluster).ok());
  for (size_t server = 0; server < 2; ++server) {
    CHECK(cluster.servers[server]->DurablyAdopted() == AllChunks());
    CHECK(cluster.servers[server]->UnflushedWrites() == 0);
    CHECK(cluster.Volume(server) == Pattern(1, kVolumeBytes));
  }
  CHECK(cluster.Read(0, kVolumeBytes) == Pattern(1, kVolumeBytes));
  // It holds nothing any more.
  CHECK(cluster.Write(0, "x") == 0);
  REQUIRE(Adopt(&cluster).ok());
  CHECK(cluster.servers[0]->Adopted().size() == 2 * kChunks);
}

TEST_CASE("reads go on while layers are made, and a second call ends with the first",
          "[engine][adopt]") {
  TestCluster cluster(1);
  REQUIRE(cluster.Write(0, Pattern(1, kVolumeBytes)) == 0);
  // The server takes no adoption for now.
  absl::Mutex mutex;
  bool open = false;
  cluster.servers[0]->SetScript(
      [&](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
        absl::MutexLock lock(&mutex);
        if (operation.type() != v1::IO_OPERATION_TYPE_ADOPT || open) return std::nullopt;
        v1::IoResult later;
        later.set_status(v1::IO_STATUS_OVERLOADED);
        return later;
      });
  const auto first = Begin(&cluster);
  const auto second = Begin(&cluster);
  CHECK(cluster.Read(0, kVolumeBytes) == Pattern(1, kVolumeBytes));
  CHECK_FALSE(first->done.HasBeenNotified());
  {
    absl::MutexLock lock(&mutex);
    open = true;
  }
  CHECK(End(first).ok());
  CHECK(End(second).ok());
  CHECK(cluster.servers[0]->Adopted() == AllChunks());
}

TEST_CASE("what servers lose meanwhile is given again, and durable before the answer",
          "[engine][adopt]") {
  TestCluster cluster(2);
  REQUIRE(cluster.Write(0, Pattern(1, kVolumeBytes)) == 0);
  REQUIRE(cluster.Flush() == 0);
  // Power goes at both when half of it is done; nothing of that was flushed.
  absl::Notification half;
  cluster.servers[0]->SetScript(
      [&](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
        const bool there = operation.type() == v1::IO_OPERATION_TYPE_ADOPT &&
                           operation.chunk_index() == kChunks / 2;
        if (there && !half.HasBeenNotified()) half.Notify();
        return std::nullopt;
      });
  const auto adoption = Begin(&cluster);
  REQUIRE(half.WaitForNotificationWithTimeout(absl::FromChrono(kPatience)));
  for (auto& server : cluster.servers) {
    server->Stop();
    server->ReopenStore(true);
    server->Start();
  }
  cluster.PublishAddresses();
  const absl::Status ended = End(adoption);
  INFO(ended);
  REQUIRE(ended.ok());
  // One of them may have left, and learns: nobody looks at it.
  int judged = 0;
  for (int server = 0; server < 2; ++server) {
    if (cluster.Role(0, server) != v1::REPLICA_ROLE_IN_SYNC) continue;
    ++judged;
    const std::multiset<uint64_t> adopted = cluster.servers[server]->DurablyAdopted();
    CHECK(std::set<uint64_t>(adopted.begin(), adopted.end()).size() == kChunks);
    CHECK(cluster.servers[server]->UnflushedWrites() == 0);
  }
  CHECK(judged > 0);
  CHECK(cluster.Read(0, kVolumeBytes) == Pattern(1, kVolumeBytes));
}

TEST_CASE("layers are not made for what can't be written, or changes hands", "[engine][adopt]") {
  TestCluster cluster(1);
  SECTION("a new generation") {
    cluster.servers[0]->Hold(true);
    const auto adoption = Begin(&cluster);
    cluster.RaiseGeneration();
    cluster.OnLoop([&] { cluster.engine->SetGrant("test", cluster.MakeGrant()); });
    cluster.servers[0]->Hold(false);
    CHECK(absl::IsAborted(End(adoption)));
    CHECK(cluster.Write(0, "x") == 0);
    CHECK(Adopt(&cluster).ok());
  }
  SECTION("read only") {
    cluster.OnLoop([&] {
      cluster.access = token::AccessMode::kReadOnly;
      cluster.engine->SetGrant("test", cluster.MakeGrant());
    });
    CHECK(absl::IsFailedPrecondition(Adopt(&cluster)));
  }
  SECTION("it is detached") {
    cluster.servers[0]->Hold(true);
    const auto adoption = Begin(&cluster);
    cluster.OnLoop([&] { cluster.engine->Detach(7, /*drop=*/true, [] {}); });
    CHECK(absl::IsUnavailable(End(adoption)));
    cluster.servers[0]->Hold(false);
  }
  SECTION("the pool is full") {
    cluster.servers[0]->SetScript(
        [&](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
          if (operation.type() != v1::IO_OPERATION_TYPE_ADOPT) return std::nullopt;
          v1::IoResult full;
          full.set_status(v1::IO_STATUS_NO_SPACE);
          return full;
        });
    CHECK(absl::IsResourceExhausted(Adopt(&cluster)));
  }
}

TEST_CASE("a snapshot that is made meanwhile goes first", "[engine][adopt]") {
  TestCluster cluster(1);
  REQUIRE(cluster.Write(0, "x") == 0);
  auto held = AskLoop<absl::Status>(cluster.loop(), kPatience, [&](auto answer) {
    cluster.engine->FindVolume(7)->HoldWrites(3, std::chrono::seconds(20), std::move(answer));
  });
  REQUIRE(held.ok());
  REQUIRE(held->ok());
  const auto adoption = Begin(&cluster);
  cluster.PassTime(std::chrono::milliseconds(20));
  CHECK(cluster.servers[0]->Adopted().empty());
  CHECK_FALSE(adoption->done.HasBeenNotified());
  cluster.OnLoop([&] { cluster.engine->FindVolume(7)->ReleaseHold(3); });
  CHECK(End(adoption).ok());
  CHECK(cluster.servers[0]->Adopted() == AllChunks());
}

}  // namespace
}  // namespace tessera::sdc
