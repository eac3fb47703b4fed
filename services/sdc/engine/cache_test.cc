// The engine with a read cache, against scripted servers.
#include <catch2/catch.hpp>

#include "libchunk/seeded_random.h"
#include "services/sdc/engine/test_cluster.h"

namespace tessera::sdc {
namespace {

constexpr uint32_t kSlots = 8;

uint64_t Reads(const TestCluster& cluster) {
  uint64_t count = 0;
  for (const auto& server : cluster.servers) count += server->counts().reads;
  return count;
}

// The next read is right; whether it asked no server.
bool FromCache(TestCluster& cluster, uint64_t offset, const std::string& bytes) {
  const uint64_t before = Reads(cluster);
  CHECK(cluster.Read(offset, bytes.size()) == bytes);
  return Reads(cluster) == before;
}

// Written, flushed, and in the cache.
void Warm(TestCluster& cluster, uint64_t offset, const std::string& bytes) {
  REQUIRE(cluster.Write(offset, bytes) == 0);
  REQUIRE(cluster.Flush() == 0);
  for (int i = 0; i < 2; ++i) REQUIRE(cluster.Read(offset, bytes.size()) == bytes);
  REQUIRE(FromCache(cluster, offset, bytes));
}

TEST_CASE("what was read twice is read without a server", "[engine]") {
  TestCluster cluster(2, TestCluster::PatientOptions(), kSlots);
  Warm(cluster, 4096, Pattern(1, 8192));
  CHECK(FromCache(cluster, 4096 + 512, Pattern(1, 8192).substr(512, 1000)));
  CHECK(cluster.CacheHits() == 2);
}

TEST_CASE("a write is seen by the reads after it, whatever was cached", "[engine]") {
  TestCluster cluster(2, TestCluster::PatientOptions(), kSlots);
  Warm(cluster, 0, Pattern(1, 8192));
  std::string now = Pattern(1, 8192);
  SECTION("all of it") {
    now = Pattern(2, 8192);
    REQUIRE(cluster.Write(0, now) == 0);
  }
  SECTION("a few bytes") {
    now.replace(4000, 200, Pattern(2, 200));
    REQUIRE(cluster.Write(4000, Pattern(2, 200)) == 0);
  }
  SECTION("zeroes") {
    now.replace(0, 8192, 8192, '\0');
    REQUIRE(cluster.Do(TestCluster::Simple(Command::kWriteZeroes, 0, 8192)).error == 0);
  }
  SECTION("trim") {
    now.replace(0, 8192, 8192, '\0');
    REQUIRE(cluster.Do(TestCluster::Simple(Command::kTrim, 0, kVolumeBytes)).error == 0);
  }
  CHECK_FALSE(FromCache(cluster, 0, now));
  (void)FromCache(cluster, 0, now);
  CHECK(FromCache(cluster, 0, now));
}

TEST_CASE("what is read while a write of it is in flight is not cached", "[engine]") {
  TestCluster cluster(2, TestCluster::PatientOptions(), kSlots);
  REQUIRE(cluster.Write(0, Pattern(1, 4096)) == 0);
  REQUIRE(cluster.Read(0, 4096) == Pattern(1, 4096));
  // The read is served; its answer is held up at the server until the write has begun.
  std::atomic<bool> held{true};
  std::atomic<int> reading{0};
  for (auto& server : cluster.servers) {
    server->SetScript([&](const v1::IoOperation& operation) -> std::optional<v1::IoResult> {
      if (operation.type() != v1::IO_OPERATION_TYPE_READ || !held) return std::nullopt;
      ++reading;
      v1::IoResult later;
      later.set_status(v1::IO_STATUS_OVERLOADED);
      return later;
    });
  }
  std::atomic<int> answered{0};
  BlockRequest read = TestCluster::Simple(Command::kRead, 0, 4096);
  read.done = [&](const BlockReply&) { ++answered; };
  cluster.Start(std::move(read));
  while (reading == 0) std::this_thread::yield();
  BlockRequest write = TestCluster::WriteRequest(0, Pattern(2, 4096));
  write.done = [&](const BlockReply&) { ++answered; };
  cluster.Start(std::move(write));
  while (answered == 0) std::this_thread::yield();
  held = false;
  while (answered < 2) std::this_thread::yield();
  CHECK_FALSE(FromCache(cluster, 0, Pattern(2, 4096)));
}

TEST_CASE("nothing is read from the cache without a lease", "[engine]") {
  TestCluster cluster(2, TestCluster::PatientOptions(), kSlots);
  Warm(cluster, 0, Pattern(1, 4096));
  cluster.OnLoop([&] { (void)cluster.engine->FindVolume(7)->cache()->GiveUpLease(); });
  for (int i = 0; i < 3; ++i) CHECK_FALSE(FromCache(cluster, 0, Pattern(1, 4096)));
}

TEST_CASE("a new generation begins with an empty cache", "[engine]") {
  TestCluster cluster(2, TestCluster::PatientOptions(), kSlots);
  Warm(cluster, 0, Pattern(1, 4096));
  cluster.RaiseGeneration();
  REQUIRE(cluster.Write(kChunkBytes, Pattern(2, 512)) == 0);  // finds out
  cluster.Lease();
  CHECK_FALSE(FromCache(cluster, 0, Pattern(1, 4096)));
  (void)FromCache(cluster, 0, Pattern(1, 4096));
  CHECK(FromCache(cluster, 0, Pattern(1, 4096)));
}

TEST_CASE("a loss that the map tells of empties the cache", "[engine]") {
  TestCluster cluster(2, TestCluster::PatientOptions(), kSlots);
  Warm(cluster, 0, Pattern(1, 4096));
  cluster.Change(static_cast<uint32_t>(PlacementGroupIndex(7, 0, kGroups)),
                 [](v1::PlacementGroup& entry) {
                   entry.set_epoch(entry.epoch() + 1);
                   entry.set_loss_epoch(entry.epoch());
                 });
  CHECK_FALSE(FromCache(cluster, 0, Pattern(1, 4096)));
}

TEST_CASE("the next life of a client that stopped in order has its cache", "[engine]") {
  TestCluster cluster(2, TestCluster::PatientOptions(), kSlots);
  Warm(cluster, 0, Pattern(1, 4096));
  SECTION("it stopped in order") {
    cluster.StopInOrder();
    REQUIRE(cluster.StartAgain() == 1);
    CHECK(FromCache(cluster, 0, Pattern(1, 4096)));
  }
  SECTION("and a loss was told meanwhile") {
    cluster.StopInOrder();
    REQUIRE(cluster.StartAgain() == 1);
    cluster.Change(static_cast<uint32_t>(PlacementGroupIndex(7, 0, kGroups)),
                   [](v1::PlacementGroup& entry) {
                     entry.set_epoch(entry.epoch() + 1);
                     entry.set_loss_epoch(entry.epoch());
                   });
    CHECK_FALSE(FromCache(cluster, 0, Pattern(1, 4096)));
  }
  SECTION("it was killed") {
    cluster.Kill();
    REQUIRE(cluster.StartAgain() == 1);
    CHECK_FALSE(FromCache(cluster, 0, Pattern(1, 4096)));
  }
}

TEST_CASE("whatever is done at once, a read brings what was there", "[engine]") {
  const uint64_t seed = GENERATE(41, 42, 43, 44);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  TestCluster cluster(2, TestCluster::PatientOptions(), seed % 2 == 0 ? 2 : kSlots);
  // Writers of a block take turns; what it is lies between the last answered and the last begun.
  constexpr uint64_t kBlocks = 48;
  std::vector<uint64_t> begun(kBlocks);
  std::vector<uint64_t> answered(kBlocks);
  std::vector<bool> writing(kBlocks);
  std::atomic<int> wrong{0};
  std::atomic<int> in_flight{0};
  const auto value_of = [](const std::string& bytes, size_t at) {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return value;
  };
  for (int i = 0; i < 3000; ++i) {
    while (in_flight >= 16) std::this_thread::yield();
    const uint64_t block = random.Chance(3, 4) ? random.Below(6) : random.Below(kBlocks);
    const uint64_t count = std::min(kBlocks - block, 1 + random.Below(4));
    const bool write = random.Chance(1, 4);
    ++in_flight;
    cluster.loop().Post([&, block, count, write] {
      VolumeEngine& volume = *cluster.engine->FindVolume(7);
      if (write) {
        if (writing[block]) {
          --in_flight;
          return;
        }
        writing[block] = true;
        std::string bytes(4096, '\0');
        const uint64_t value = ++begun[block];
        for (size_t at = 0; at < bytes.size(); at += 8) std::memcpy(&bytes[at], &value, 8);
        BlockRequest request = TestCluster::WriteRequest(block * 4096, bytes);
        request.done = [&, block, value](const BlockReply& reply) {
          wrong += reply.error == 0 ? 0 : 1;
          answered[block] = value;
          writing[block] = false;
          --in_flight;
        };
        volume.Submit(std::move(request));
        return;
      }
      const std::vector<uint64_t> floor(
          answered.begin() + static_cast<std::ptrdiff_t>(block),
          answered.begin() + static_cast<std::ptrdiff_t>(block + count));
      BlockRequest request = TestCluster::Simple(Command::kRead, block * 4096, count * 4096);
      request.done = [&, block, floor](const BlockReply& reply) {
        const std::string bytes = TestCluster::Text(reply.data);
        for (size_t k = 0; k < floor.size(); ++k) {
          const uint64_t first = value_of(bytes, k * 4096);
          const uint64_t last = value_of(bytes, k * 4096 + 4088);
          if (first != last || first < floor[k] || first > begun[block + k]) ++wrong;
        }
        --in_flight;
      };
      volume.Submit(std::move(request));
    });
  }
  while (in_flight > 0) std::this_thread::yield();
  CHECK(wrong == 0);
  CHECK(cluster.CacheHits() > 100);
}

}  // namespace
}  // namespace tessera::sdc
