// The rules of learning where chunks have layers (docs/REPLICATION.md, L1 to L6).
#include <catch2/catch.hpp>

#include "services/sds/learner_state.h"

namespace tessera::sds {
namespace {

using chunk::ChunkKey;
using chunk::Version;

constexpr uint64_t kVolume = 1;
constexpr uint32_t kChunkBytes = 256u << 10;

ChunkKey Key(uint64_t layer, uint64_t index = 1) {
  return {.vtree_id = 1, .chunk_index = index, .layer = layer};
}
chunk::ChunkInfo Own(uint64_t layer, Version version, std::optional<uint64_t> base = std::nullopt,
                     bool incomplete = false) {
  return {.key = Key(layer), .version = version, .incomplete = incomplete, .base = base};
}
SourceChunk There(uint64_t layer, Version version, bool incomplete = false) {
  return {.key = Key(layer), .version = version, .incomplete = incomplete};
}

struct Rules {
  LearnerState state{9, kChunkBytes};
  bool is_here = false;
  int asked = 0;

  std::vector<ChunkKey> Classify(const std::vector<SourceChunk>& source,
                                 const std::vector<chunk::ChunkInfo>& own) {
    return state.Classify(Key(chunk::kNoBase), source, own);
  }
  bool BeginWrite(const ChunkKey& key) {
    return state.BeginWrite(key, [this] {
      ++asked;
      return is_here;
    });
  }
  void Receive(uint64_t layer, Version version) {
    state.OnApplied(Key(layer), kVolume, 0, 512, version);
  }
};

TEST_CASE("A layer is made from those below only when all of these are verified") {
  Rules rules;
  CHECK_FALSE(rules.BeginWrite(Key(4)));  // the listing has not come here
  REQUIRE(rules.Classify({There(1, {1, 5}), There(2, {1, 9})}, {Own(1, {1, 5}), Own(2, {1, 8})})
              .empty());
  CHECK(rules.state.Pending(9) == std::vector{Key(2)});
  SECTION("the one that is to be copied is below") {
    CHECK_FALSE(rules.BeginWrite(Key(4)));
    CHECK(rules.state.IsPending(Key(4)));
    rules.Receive(4, {1, 10});
    CHECK(rules.state.Received(Key(4)) != nullptr);
    // Another write of it, in the same batch or later: it is pending already.
    CHECK_FALSE(rules.BeginWrite(Key(4)));
    CHECK(rules.asked == 1);
  }
  SECTION("a layer that is here does not depend on others") {
    rules.is_here = true;
    CHECK(rules.BeginWrite(Key(4)));
    CHECK_FALSE(rules.state.IsPending(Key(4)));
  }
  SECTION("it is not below") {
    CHECK(rules.BeginWrite(Key(1)));
    CHECK(rules.BeginWrite(Key(4, 0)));
    CHECK(rules.asked == 0);
  }
  SECTION("it was copied") {
    rules.state.OnCopied(Key(2), 0);
    CHECK(rules.BeginWrite(Key(4)));
    CHECK(rules.asked == 0);
  }
}

TEST_CASE("What was made from a layer that is to be copied is to be copied, too") {
  Rules rules;
  const bool incomplete = GENERATE(false, true);
  REQUIRE(rules
              .Classify({There(0, {1, 5}), There(2, {1, 9}), There(3, {1, 10}), There(4, {1, 11})},
                        {Own(0, {1, incomplete ? 5u : 4u}, {}, incomplete), Own(2, {1, 9}, 0),
                         Own(3, {1, 10}, 2), Own(4, {1, 11})})
              .empty());
  CHECK(rules.state.Pending(9) == std::vector{Key(0), Key(2), Key(3)});
  CHECK(rules.state.IsBase(Key(0)));
  CHECK(rules.state.IsBase(Key(2)));
  CHECK_FALSE(rules.state.IsBase(Key(3)));
  CHECK(rules.state.IsVerified(Key(4)));
}

TEST_CASE("Layers that the source lacks go from the end") {
  Rules rules;
  CHECK(rules.Classify({}, {Own(0, {1, 5}), Own(2, {1, 9}, 0), Own(3, {1, 10}, 2)}) ==
        std::vector{Key(3), Key(2), Key(0)});
  CHECK(rules.state.pending_count() == 0);
}

TEST_CASE("A layer that the source has dropped stays while a verified one was made from it") {
  Rules rules;
  CHECK(rules
            .Classify({There(3, {1, 10}), There(4, {1, 11})},
                      {Own(0, {1, 5}), Own(2, {1, 9}, 0), Own(3, {1, 10}, 2), Own(4, {1, 7}, 2)})
            .empty());
  CHECK(rules.state.Pending(9) == std::vector{Key(4)});
}

TEST_CASE("A layer that only this side has is asked for when all made from it are") {
  Rules rules;
  CHECK(rules.Classify({There(3, {1, 10})}, {Own(2, {1, 9}), Own(3, {1, 8}, 2)}).empty());
  CHECK(rules.state.Pending(9) == std::vector{Key(2), Key(3)});
  CHECK(rules.state.IsBase(Key(2)));
}

TEST_CASE("What the stream touched before the listing makes what was made from it doubtful") {
  Rules rules;
  rules.Receive(2, {1, 12});
  CHECK(
      rules.Classify({There(3, {1, 10})}, {Own(2, {1, 12}, {}, true), Own(3, {1, 10}, 2)}).empty());
  CHECK(rules.state.Pending(9) == std::vector{Key(2), Key(3)});
}

TEST_CASE("That a source has no such layer means different things") {
  ReceivedChunk received;
  received.first = {2, 7};
  received.last = {2, 9};
  // Nothing came here either.
  CHECK(JudgeAbsence(Key(3), nullptr, {}, {}) == Absence::kGone);
  // It had taken all of it before it was asked.
  CHECK(JudgeAbsence(Key(3), &received, {2, 9}, {2, 12}) == Absence::kGone);
  CHECK(JudgeAbsence(Key(0), &received, {2, 9}, {2, 12}) == Absence::kGone);
  // It has taken it while it was asked, or not: the layer is made from one below, or is gone.
  CHECK(JudgeAbsence(Key(3), &received, {2, 8}, {2, 12}) == Absence::kNotYet);
  CHECK(JudgeAbsence(Key(3), &received, {1, 8}, {2, 6}) == Absence::kNotYet);
  CHECK(JudgeAbsence(Key(0), &received, {1, 8}, {2, 7}) == Absence::kNotYet);
  // Layer 0 is made from nothing.
  CHECK(JudgeAbsence(Key(0), &received, {1, 8}, {2, 6}) == Absence::kNeverMade);
}

}  // namespace
}  // namespace tessera::sds
