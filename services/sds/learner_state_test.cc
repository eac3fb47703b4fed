#include "services/sds/learner_state.h"

#include <catch2/catch.hpp>

namespace tessera::sds {
namespace {

using chunk::ChunkKey;
using chunk::Version;

constexpr uint64_t kVolume = 1;
constexpr uint64_t kGroup = 65536;
constexpr uint32_t kChunkBytes = 256u << 10;

ChunkKey Key(uint64_t index) { return {.vtree_id = 1, .chunk_index = index}; }
chunk::ChunkInfo Own(uint64_t index, Version version, bool incomplete = false) {
  return {.key = Key(index), .version = version, .incomplete = incomplete};
}
SourceChunk There(uint64_t index, Version version) {
  return {.key = Key(index), .version = version};
}

// A learner with the cursor that its replica would have.
struct Replica {
  LearnerState state{9, kChunkBytes};
  Version cursor;

  v1::IoStatus Take(Version version) {
    const v1::IoStatus status = state.JudgeOrder(kVolume, cursor, version).status;
    if (status == v1::IO_STATUS_OK) {
      state.OnTaken(kVolume, version);
      cursor = version;
    }
    return status;
  }
  absl::Status Base(Version last, uint64_t lowest_generation) {
    const std::vector<SourceStream> source{
        {.volume_id = kVolume, .last = last, .lowest_generation = lowest_generation}};
    std::vector<chunk::StreamCursor> own;
    if (cursor != Version{}) own.push_back({.stream = {kVolume, kGroup}, .last = cursor});
    const auto cursors = state.SetBase(kGroup, source, own);
    if (!cursors.ok()) return cursors.status();
    for (const auto& set : *cursors) cursor = set.last;
    return absl::OkStatus();
  }
};

TEST_CASE("Before the base is known the first write is taken at any sequence, then only the next") {
  Replica replica;
  replica.cursor = {2, 40};  // from before it joined
  CHECK(replica.Take({3, 0}) == v1::IO_STATUS_SEQUENCE_GAP);
  CHECK(replica.Take({3, 17}) == v1::IO_STATUS_OK);
  CHECK(replica.Take({3, 17}) == v1::IO_STATUS_DUPLICATE);
  CHECK(replica.Take({3, 19}) == v1::IO_STATUS_SEQUENCE_GAP);
  CHECK(replica.Take({3, 18}) == v1::IO_STATUS_OK);
}

TEST_CASE("The first write may be at most one past the base") {
  const uint64_t first = GENERATE(1u, 16u, 17u, 18u);
  Replica replica;
  REQUIRE(replica.Take({3, first}) == v1::IO_STATUS_OK);
  const absl::Status base = replica.Base({3, 16}, 3);
  CHECK(base.ok() == (first <= 17));
  CHECK(replica.state.failure().empty() == (first <= 17));
  if (!base.ok()) {
    CHECK(absl::IsAborted(base));
    // Nothing more is taken in this epoch.
    CHECK(replica.Take({3, first + 1}) == v1::IO_STATUS_SEQUENCE_GAP);
  } else {
    CHECK(replica.cursor == Version{3, first});
  }
}

TEST_CASE("A stream that did not move gets the base as its cursor, also when that is lower") {
  Replica replica;
  replica.cursor = {3, 20};  // it took writes that the order does not have
  REQUIRE(replica.Base({3, 16}, 3).ok());
  CHECK(replica.cursor == Version{3, 16});
  CHECK(replica.Take({3, 18}) == v1::IO_STATUS_SEQUENCE_GAP);
  CHECK(replica.Take({3, 17}) == v1::IO_STATUS_OK);
}

TEST_CASE("A stream that the source does not have is forgotten") {
  Replica replica;
  replica.cursor = {3, 20};
  const std::vector<chunk::StreamCursor> own{{.stream = {kVolume, kGroup}, .last = replica.cursor}};
  const auto cursors = replica.state.SetBase(kGroup, {}, own);
  REQUIRE(cursors.ok());
  REQUIRE(cursors->size() == 1);
  CHECK((*cursors)[0].last == Version{});
}

TEST_CASE("A new generation is taken only where the source refused the old one at the base") {
  SECTION("the source was at the new generation: nothing older can have come after the base") {
    Replica replica;
    REQUIRE(replica.Base({3, 16}, 4).ok());
    CHECK(replica.Take({4, 1}) == v1::IO_STATUS_OK);
  }
  SECTION("the source still took the old one: it may have a write that never comes here") {
    Replica replica;
    REQUIRE(replica.Base({3, 16}, 3).ok());
    REQUIRE(replica.Take({3, 17}) == v1::IO_STATUS_OK);
    CHECK(replica.Take({4, 1}) == v1::IO_STATUS_SEQUENCE_GAP);
    CHECK_FALSE(replica.state.failure().empty());
  }
  SECTION("this replica has not reached the base: the rest of the old order never comes") {
    Replica replica;
    REQUIRE(replica.Take({3, 10}) == v1::IO_STATUS_OK);
    REQUIRE(replica.Base({3, 16}, 4).ok());
    CHECK(replica.Take({4, 1}) == v1::IO_STATUS_SEQUENCE_GAP);
    CHECK_FALSE(replica.state.failure().empty());
  }
  SECTION("before the base is known nothing can be said") {
    Replica replica;
    REQUIRE(replica.Take({3, 10}) == v1::IO_STATUS_OK);
    CHECK(replica.Take({4, 1}) == v1::IO_STATUS_SEQUENCE_GAP);
    CHECK_FALSE(replica.state.failure().empty());
  }
}

TEST_CASE("The first generation of a volume born while learning is taken, the second is not") {
  Replica replica;
  REQUIRE(replica.Base({0, 0}, 0).ok());
  replica.state.OnGenerationRaised(kVolume, 2);
  SECTION("first") { CHECK(replica.Take({2, 1}) == v1::IO_STATUS_OK); }
  SECTION("second, after writes of the first") {
    REQUIRE(replica.Take({2, 1}) == v1::IO_STATUS_OK);
    replica.state.OnGenerationRaised(kVolume, 3);
    CHECK(replica.Take({3, 1}) == v1::IO_STATUS_SEQUENCE_GAP);
  }
  SECTION("second, when nothing of the first came here") {
    replica.state.OnGenerationRaised(kVolume, 3);
    CHECK(replica.Take({3, 1}) == v1::IO_STATUS_SEQUENCE_GAP);
  }
}

TEST_CASE("Equal versions are equal chunks; others are copied; what the source lacks is dropped") {
  LearnerState state(9, kChunkBytes);
  const std::vector<SourceChunk> source{There(1, {1, 5}), There(2, {1, 6}), There(4, {1, 1}),
                                        There(6, {1, 2})};
  const std::vector<chunk::ChunkInfo> own{Own(1, {1, 5}), Own(2, {1, 9}), Own(3, {1, 3}),
                                          Own(6, {1, 2}, true)};
  const std::vector<ChunkKey> drop = state.Classify(Key(6), source, own);
  CHECK(drop == std::vector<ChunkKey>{Key(3)});
  // 2 looks newer here, 4 is missing here, 6 has a gap in its history.
  CHECK(state.Pending(10) == std::vector<ChunkKey>{Key(2), Key(4), Key(6)});
  CHECK(state.IsVerified(Key(1)));
  CHECK_FALSE(state.IsVerified(Key(2)));
  CHECK_FALSE(state.IsVerified(Key(7)));  // not reached yet
}

TEST_CASE(
    "A chunk that the stream touched before the listing came is copied, whatever the lists say") {
  LearnerState state(9, kChunkBytes);
  state.OnApplied(Key(1), kVolume, 0, 512, {1, 6});
  state.OnApplied(Key(2), kVolume, 0, 512, {1, 7});
  // Chunk 1: listed with equal versions. Chunk 2: born here, the source's list is older.
  CHECK(state.Classify(std::nullopt, std::vector{There(1, {1, 6})}, std::vector{Own(1, {1, 6})})
            .empty());
  CHECK(state.IsPending(Key(1)));
  CHECK(state.IsPending(Key(2)));
}

TEST_CASE("A chunk touched before the listing, and absent at the source, is not dropped") {
  LearnerState state(9, kChunkBytes);
  state.OnApplied(Key(2), kVolume, 0, 512, {1, 7});
  CHECK(state.Classify(std::nullopt, {}, std::vector{Own(2, {1, 7}, true)}).empty());
  CHECK(state.IsPending(Key(2)));
}

TEST_CASE("A chunk born after the listing passed it is verified at once") {
  LearnerState state(9, kChunkBytes);
  CHECK(state.Classify(Key(10), {}, {}).empty());
  CHECK(state.IsVerified(Key(5)));
  state.OnApplied(Key(5), kVolume, 0, 4096, {1, 8});
  CHECK(state.Received(Key(5)) == nullptr);
  CHECK_FALSE(state.IsVerified(Key(11)));
}

TEST_CASE("Received sectors are remembered to the sector until the chunk is copied") {
  LearnerState state(9, kChunkBytes);
  state.OnApplied(Key(1), kVolume, 4096 + 512, 1024, {1, 6});
  state.OnApplied(Key(1), kVolume, kChunkBytes - 4096, 4096, {1, 7});
  const ReceivedChunk* received = state.Received(Key(1));
  REQUIRE(received != nullptr);
  CHECK(received->SectorsOfBlock(0) == 0);
  CHECK(received->SectorsOfBlock(1) == 0b0000'0110);
  CHECK(received->SectorsOfBlock(kChunkBytes / 4096 - 1) == 0xff);
  CHECK(received->last == Version{1, 7});
  CHECK(state.Classify(std::nullopt, std::vector{There(1, {1, 7})}, {}).empty());
  CHECK_FALSE(state.Done());
  state.OnCopied(Key(1), 8192);
  CHECK(state.Received(Key(1)) == nullptr);
  CHECK(state.IsVerified(Key(1)));
  CHECK(state.progress().bytes_copied == 8192);
  state.OnCopied(Key(1), 8192);  // again: not counted
  CHECK(state.progress().chunks_copied == 1);
}

TEST_CASE("Learning is done when the base is known, the list at its end and nothing pending") {
  LearnerState state(9, kChunkBytes);
  CHECK(state.Classify(std::nullopt, std::vector{There(1, {1, 1})}, {}).empty());
  CHECK_FALSE(state.Done());
  state.OnCopied(Key(1), 0);
  CHECK_FALSE(state.Done());
  REQUIRE(state.SetBase(kGroup, {}, {}).ok());
  CHECK(state.Done());
  state.Fail("reason");
  CHECK_FALSE(state.Done());
}

TEST_CASE("A deleted vtree is not copied any more") {
  LearnerState state(9, kChunkBytes);
  state.OnApplied(Key(1), kVolume, 0, 512, {1, 6});
  CHECK(state.Classify(std::nullopt, std::vector{There(1, {1, 1}), There(2, {1, 1})}, {}).empty());
  state.ForgetVtree(1);
  CHECK(state.pending_count() == 0);
  CHECK(state.Received(Key(1)) == nullptr);
}

}  // namespace
}  // namespace tessera::sds
