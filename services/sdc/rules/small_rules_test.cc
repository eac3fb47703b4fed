// The request splitter, the read balancer and the rate limiter.
#include <array>
#include <catch2/catch.hpp>

#include "libchunk/seeded_random.h"
#include "services/sdc/rules/rate_limiter.h"
#include "services/sdc/rules/read_balancer.h"
#include "services/sdc/rules/request_splitter.h"

namespace tessera::sdc {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

TEST_CASE("pieces end at chunk ends and cover the range", "[splitter]") {
  PieceCursor cursor({1000, 1000 + 3 * 4096}, 4096);
  CHECK(cursor.Take() == ChunkPiece{0, 1000, 3096});
  CHECK(cursor.position() == 4096);
  CHECK(cursor.Take() == ChunkPiece{1, 0, 4096});
  CHECK(cursor.Take() == ChunkPiece{2, 0, 4096});
  CHECK(cursor.Take() == ChunkPiece{3, 0, 1000});
  CHECK(cursor.done());
}

TEST_CASE("random ranges are covered once and in order", "[splitter]") {
  const uint64_t seed = GENERATE(11, 12, 13);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  for (int i = 0; i < 2000; ++i) {
    const uint32_t chunk_bytes = 512u << random.Below(12);
    const uint64_t begin = random.Below(1ull << 50);
    const ByteRange range{begin, begin + random.Below(20ull * chunk_bytes)};
    uint64_t at = range.begin;
    for (PieceCursor cursor(range, chunk_bytes); !cursor.done();) {
      const ChunkPiece piece = cursor.Take();
      REQUIRE(piece.chunk_index * chunk_bytes + piece.offset_bytes == at);
      REQUIRE(piece.length_bytes > 0);
      REQUIRE(piece.offset_bytes + piece.length_bytes <= chunk_bytes);
      at += piece.length_bytes;
    }
    REQUIRE(at == range.end);
  }
}

TEST_CASE("widening and narrowing go to sector boundaries", "[splitter]") {
  CHECK(WidenToSectors({1, 2}) == ByteRange{0, 512});
  CHECK(WidenToSectors({512, 1024}) == ByteRange{512, 1024});
  CHECK(NarrowToSectors({1, 1025}) == ByteRange{512, 1024});
  CHECK(NarrowToSectors({1, 511}).empty());
  CHECK(NarrowToSectors({513, 600}).empty());
}

TEST_CASE("a read goes to the same host first, then to who is least busy", "[balancer]") {
  std::array<ReadCandidate, 3> candidates{
      {{0, true, false, 0}, {1, true, true, 90}, {2, true, false, 0}}};
  CHECK(ChooseReplica(candidates, 0) == 1);
  candidates[1].same_host = false;
  CHECK(ChooseReplica(candidates, 0) == 0);
  CHECK(ChooseReplica(candidates, 2) == 2);
  candidates[0].in_flight = 50;
  CHECK(ChooseReplica(candidates, 0) == 2);
  for (auto& candidate : candidates) candidate.usable = false;
  CHECK(ChooseReplica(candidates, 7) == kNoCandidate);
}

TEST_CASE("without limits everything passes", "[rate_limiter]") {
  RateLimiter limiter;
  CHECK(limiter.unlimited());
  CHECK(limiter.Pass(1ull << 40, 0) == 0);
}

TEST_CASE("over a long time no more passes than the limits allow, and no less", "[rate_limiter]") {
  const uint64_t seed = GENERATE(21, 22, 23);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  RateLimiter limiter;
  limiter.Configure({1000, 10'000'000, 1}, 0);
  uint64_t now = 0;
  uint64_t operations = 0;
  uint64_t bytes = 0;
  while (now < 20 * kSecond) {
    const uint64_t size = random.Below(30'000);
    const uint64_t wait = limiter.Pass(size, now);
    if (wait == 0) {
      ++operations;
      bytes += size;
    } else {
      now += wait;
    }
  }
  const double seconds = static_cast<double>(now) / kSecond;
  CHECK(static_cast<double>(bytes) <= 10e6 * (seconds + 1) + 30'000);
  CHECK(static_cast<double>(operations) <= 1000 * (seconds + 1) + 1);
  // Bytes are the scarcer one here: 15,000 on average for one of the 1,000 operations.
  CHECK(static_cast<double>(bytes) >= 10e6 * seconds * 0.98);
}

TEST_CASE("a request larger than the bucket passes and is paid for afterwards", "[rate_limiter]") {
  RateLimiter limiter;
  limiter.Configure({0, 1'000'000, 1}, 0);
  CHECK(limiter.Pass(5'000'000, 0) == 0);
  const uint64_t wait = limiter.Pass(1, 0);
  CHECK(wait >= 3 * kSecond);
  CHECK(limiter.Pass(1, wait + 1) == 0);
}

}  // namespace
}  // namespace tessera::sdc
