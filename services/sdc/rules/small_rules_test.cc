// The request splitter, what requests cost, and the read balancer.
#include <array>
#include <catch2/catch.hpp>

#include "libchunk/seeded_random.h"
#include "services/sdc/rules/read_balancer.h"
#include "services/sdc/rules/request_cost.h"
#include "services/sdc/rules/request_splitter.h"

namespace tessera::sdc {
namespace {

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

// What the pieces of a request cost, cut by the splitter.
IoCost CostByPieces(v1::IoOperationType type, const ByteRange& range, uint32_t chunk_bytes) {
  IoCost cost;
  for (PieceCursor cursor(range, chunk_bytes); !cursor.done();) {
    cost += CostOf(type, cursor.Take().length_bytes);
  }
  return cost;
}

TEST_CASE("a request costs what its pieces cost at one replica", "[cost]") {
  constexpr uint32_t kChunk = 1u << 20;
  CHECK(RequestCost(Command::kWrite, {4096, 8192}, kChunk) == IoCost{1, 4096});
  CHECK(RequestCost(Command::kRead, {0, 128 << 10}, kChunk) == IoCost{1, 128 << 10});
  // Two chunks.
  CHECK(RequestCost(Command::kWrite, {kChunk - 4096, kChunk + 4096}, kChunk) == IoCost{2, 8192});
  CHECK(RequestCost(Command::kFlush, {0, 0}, kChunk) == IoCost{});
  // 64 of these are one operation.
  CHECK(RequestCost(Command::kTrim, {0, 64ull * kChunk}, kChunk) == IoCost{1, 0});
  CHECK(RequestCost(Command::kWriteZeroes, {0, 4096}, kChunk) == IoCost{1.0 / 64, 0});
  CHECK(RequestCost(Command::kBlockStatus, {0, 1ull << 40}, kChunk) == IoCost{1, 0});
  CHECK(RequestCost(Command::kChanges, {0, 1ull << 40}, kChunk) == IoCost{1, 0});
  CHECK(RequestCost(Command::kChanges, {0, 3ull * kChunk}, kChunk) == IoCost{3.0 / 64, 0});
  // One sector is read and written for one byte; two where the ends lie in two.
  CHECK(RequestCost(Command::kWrite, {100, 101}, kChunk) == IoCost{2, 1024});
  CHECK(RequestCost(Command::kWrite, {100, 1000}, kChunk) == IoCost{3, 2048});
  CHECK(RequestCost(Command::kWriteZeroes, {1, 1024}, kChunk) == IoCost{2, 1536});
  CHECK(RequestCost(Command::kWriteZeroes, {1, 1 << 20}, kChunk) == IoCost{2 + 1.0 / 64, 1024});

  const uint64_t seed = GENERATE(31, 32);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  for (int i = 0; i < 1000; ++i) {
    const uint32_t chunk_bytes = 4096u << random.Below(9);
    const uint64_t begin = 512 * random.Below(1 << 20);
    const ByteRange range{begin, begin + 512 * (1 + random.Below(1 << 14))};
    REQUIRE(RequestCost(Command::kWrite, range, chunk_bytes) ==
            CostByPieces(v1::IO_OPERATION_TYPE_WRITE, range, chunk_bytes));
    REQUIRE(RequestCost(Command::kTrim, range, chunk_bytes) ==
            CostByPieces(v1::IO_OPERATION_TYPE_TRIM, range, chunk_bytes));
  }
}

}  // namespace
}  // namespace tessera::sdc
