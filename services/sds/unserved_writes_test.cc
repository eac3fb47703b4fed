// The memory of writes taken without their data, against what a replica must never do: call a write
// done that it lacks, also after a restart at any moment.
#include "services/sds/unserved_writes.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "libchunk/seeded_random.h"

namespace tessera::sds {
namespace {

using chunk::StreamId;
using chunk::Version;

constexpr StreamId kStream{.volume_id = 3, .placement_group_id = 65'541};

TEST_CASE("A write that was taken without its data is known as such, others are not") {
  std::vector<UnservedRange> written;
  UnservedWrites writes({}, [&](const UnservedRange& range) {
    written.push_back(range);
    return absl::OkStatus();
  });
  CHECK_FALSE(writes.MayLack(kStream, {7, 100}));
  REQUIRE(writes.Note(kStream, {7, 100}).ok());
  CHECK(writes.MayLack(kStream, {7, 100}));
  CHECK_FALSE(writes.MayLack(kStream, {7, 99}));
  CHECK_FALSE(writes.MayLack(kStream, {7, 101}));
  CHECK_FALSE(writes.MayLack(kStream, {8, 100}));
  CHECK_FALSE(writes.MayLack({.volume_id = 4, .placement_group_id = 65'541}, {7, 100}));
  SECTION("many writes cost one commit") {
    for (uint64_t sequence = 101; sequence < 1'000; ++sequence) {
      REQUIRE(writes.Note(kStream, {7, sequence}).ok());
    }
    CHECK(written.size() == 1);
    CHECK(writes.MayLack(kStream, {7, 999}));
  }
  SECTION("a new generation begins a new range") {
    REQUIRE(writes.Note(kStream, {9, 1}).ok());
    CHECK(writes.MayLack(kStream, {9, 1}));
    CHECK_FALSE(writes.MayLack(kStream, {7, 100}));
  }
}

TEST_CASE("What could not be made durable is not taken") {
  UnservedWrites writes({}, [](const UnservedRange&) { return absl::InternalError("no disk"); });
  CHECK_FALSE(writes.Note(kStream, {7, 100}).ok());
  CHECK_FALSE(writes.MayLack(kStream, {7, 100}));
}

TEST_CASE("No restart makes a replica forget a write that it lacks") {
  const uint64_t seed = GENERATE(range(1, 41));
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  std::map<std::pair<uint64_t, uint64_t>, UnservedRange> durable;
  const auto persist = [&](const UnservedRange& range) {
    durable[{range.volume_id, range.placement_group_id}] = range;
    return absl::OkStatus();
  };
  auto writes = std::make_unique<UnservedWrites>(std::vector<UnservedRange>{}, persist);
  std::set<std::tuple<uint64_t, uint64_t, uint64_t>> lacked;  // volume, generation, sequence
  std::map<uint64_t, Version> next;
  for (int step = 0; step < 3'000; ++step) {
    const uint64_t volume = 1 + random.Below(3);
    Version& version = next[volume];
    if (version.generation == 0 || random.Below(400) == 0) {
      version = {version.generation + 1, 0};
    }
    ++version.sequence;
    const StreamId stream{.volume_id = volume, .placement_group_id = 65'537};
    if (random.Below(3) == 0) {
      REQUIRE(writes->Note(stream, version).ok());
      lacked.emplace(volume, version.generation, version.sequence);
    }
    if (random.Below(100) == 0) {
      std::vector<UnservedRange> found;
      for (const auto& [key, range] : durable) found.push_back(range);
      writes = std::make_unique<UnservedWrites>(found, persist);
    }
    if (random.Below(50) != 0) continue;
    for (const auto& [of, generation, sequence] : lacked) {
      if (generation != next[of].generation) continue;  // nobody can repeat older ones
      REQUIRE(
          writes->MayLack({.volume_id = of, .placement_group_id = 65'537}, {generation, sequence}));
    }
  }
}

}  // namespace
}  // namespace tessera::sds
