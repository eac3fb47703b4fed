// Health, transactions, MDM time, and the checks of request fields.
#include <catch2/catch.hpp>

#include "services/common/errors.h"
#include "services/common/placement_hash.h"
#include "services/mdm/health_rules.h"
#include "services/mdm/mdm_time.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/transaction_plan.h"

namespace tessera::mdm {
namespace {

TEST_CASE("a device is full by marks that do not flap") {
  const auto judge = [](SpaceLevel before, uint64_t percent) {
    return JudgeSpace(before, percent, 100, 85);
  };
  CHECK(judge(SpaceLevel::kEnough, 84) == SpaceLevel::kEnough);
  CHECK(judge(SpaceLevel::kEnough, 85) == SpaceLevel::kNearlyFull);
  CHECK(judge(SpaceLevel::kNearlyFull, 82) == SpaceLevel::kNearlyFull);
  CHECK(judge(SpaceLevel::kNearlyFull, 81) == SpaceLevel::kEnough);
  CHECK(judge(SpaceLevel::kEnough, 95) == SpaceLevel::kFull);
  CHECK(judge(SpaceLevel::kFull, 92) == SpaceLevel::kFull);
  CHECK(judge(SpaceLevel::kFull, 91) == SpaceLevel::kNearlyFull);
  CHECK(judge(SpaceLevel::kFull, 81) == SpaceLevel::kEnough);
  CHECK(JudgeSpace(SpaceLevel::kFull, 7, 0, 85) == SpaceLevel::kEnough);
}

TEST_CASE("a part goes from online over stale to offline as it stays silent") {
  const HealthRules rules{.stale_after_ms = 1'000};
  CHECK(Judge(rules, {.silence_ms = 0}) == v1::COMPONENT_STATE_ONLINE);
  CHECK(Judge(rules, {.silence_ms = 999}) == v1::COMPONENT_STATE_ONLINE);
  CHECK(Judge(rules, {.silence_ms = 1'000}) == v1::COMPONENT_STATE_STALE);
  CHECK(Judge(rules, {.silence_ms = 4'999}) == v1::COMPONENT_STATE_STALE);
  CHECK(Judge(rules, {.silence_ms = 5'000}) == v1::COMPONENT_STATE_OFFLINE);
}

TEST_CASE("goodbye is offline at once, problems are degraded, failure beats all") {
  const HealthRules rules;
  CHECK(Judge(rules, {.left = true}) == v1::COMPONENT_STATE_OFFLINE);
  CHECK(Judge(rules, {.has_problems = true}) == v1::COMPONENT_STATE_DEGRADED);
  CHECK(Judge(rules, {.silence_ms = 30'000, .has_problems = true}) == v1::COMPONENT_STATE_STALE);
  CHECK(Judge(rules, {.left = true, .failed = true}) == v1::COMPONENT_STATE_FAILED);
}

TEST_CASE("a device shares its server's absence, not its problems") {
  CHECK(JudgeDevice(v1::COMPONENT_STATE_DEGRADED, false) == v1::COMPONENT_STATE_ONLINE);
  CHECK(JudgeDevice(v1::COMPONENT_STATE_STALE, false) == v1::COMPONENT_STATE_STALE);
  CHECK(JudgeDevice(v1::COMPONENT_STATE_ONLINE, true) == v1::COMPONENT_STATE_FAILED);
}

VolumeShape Shape() {
  return {.size_bytes = 8 << 20,
          .vtree_id = 7,
          .pool_id = 3,
          .chunk_bytes = 1 << 20,
          .placement_group_count = 4};
}

TEST_CASE(
    "a transaction's pieces cover its range, each in one chunk, numbered within their group") {
  const VolumeShape volume = Shape();
  const ByteRange range{(1 << 20) - 512, (3 << 20) + 1'024};
  REQUIRE(CheckRange(volume, range).ok());
  const auto pieces = SplitByChunk(volume, range);
  REQUIRE(pieces.size() == 5);
  uint64_t offset = range.offset_bytes;
  std::map<uint64_t, uint64_t> sequences;
  for (const PlannedPiece& piece : pieces) {
    CHECK(piece.volume_offset_bytes == offset);
    CHECK(piece.chunk_index * volume.chunk_bytes + piece.offset_in_chunk_bytes == offset);
    CHECK(piece.offset_in_chunk_bytes + piece.length_bytes <= volume.chunk_bytes);
    CHECK(piece.placement_group_id ==
          PlacementGroupId(3, PlacementGroupIndex(7, piece.chunk_index, 4)));
    CHECK(piece.sequence == ++sequences[piece.placement_group_id]);
    offset += piece.length_bytes;
  }
  CHECK(offset == range.offset_bytes + range.length_bytes);
}

TEST_CASE(
    "a transaction's range must be aligned, short, and inside the volume, also when it wraps") {
  const VolumeShape volume = Shape();
  CHECK(absl::IsInvalidArgument(CheckRange(volume, {1, 512})));
  CHECK(absl::IsInvalidArgument(CheckRange(volume, {0, 0})));
  CHECK(absl::IsInvalidArgument(CheckRange(volume, {0, 100})));
  CHECK(absl::IsInvalidArgument(CheckRange(volume, {0, (16ull << 20) + 512})));
  CHECK(absl::IsOutOfRange(CheckRange(volume, {8 << 20, 512})));
  CHECK(absl::IsOutOfRange(CheckRange(volume, {UINT64_MAX - 511, 1'024})));
  CHECK(CheckRange(volume, {(8 << 20) - 512, 512}).ok());
}

TEST_CASE("MDM time goes on exactly within a boot, whatever the wall clock does") {
  ManualClock clock(1'000'000'000'000);
  MdmTime time(&clock, "boot-a", {});
  const uint64_t start = time.NowMillis();
  CHECK(start == 1'000'000'000'000);
  clock.SetWallMillis(500'000'000'000);
  clock.AdvanceMillis(10);
  CHECK(time.NowMillis() == start + 10);
  CHECK(time.WallClockErrorMillis() < -400'000'000'000);
  // A restart of the MDM in the same boot.
  MdmTime again(&clock, "boot-a", time.Persist());
  clock.AdvanceMillis(5);
  CHECK(again.NowMillis() == start + 15);
}

TEST_CASE(
    "after a boot with a clock that went back, MDM time goes on from where it was persisted") {
  ManualClock before(2'000'000'000'000);
  MdmTime time(&before, "boot-a", {});
  const PersistedTime persisted = time.Persist();
  ManualClock after(1'000'000'000'000);
  CHECK(MdmTime(&after, "boot-b", persisted).NowMillis() > persisted.latest_ms);
  ManualClock good(3'000'000'000'000);
  CHECK(MdmTime(&good, "boot-b", persisted).NowMillis() == 3'000'000'000'000);
}

TEST_CASE("a boot id that was copied with a disk image does not take time back") {
  ManualClock before(2'000'000'000'000);
  before.AdvanceMillis(1'000'000);
  const PersistedTime persisted = MdmTime(&before, "boot-a", {}).Persist();
  ManualClock young(1'000'000'000'000);  // boot time of a second
  CHECK(MdmTime(&young, "boot-a", persisted).NowMillis() > persisted.latest_ms);
}

TEST_CASE("names, request ids and page tokens are checked") {
  CHECK(CheckName("name", "pool-1").ok());
  CHECK(CheckName("name", std::string(63, 'a')).ok());
  for (const std::string& bad : {std::string(), std::string(64, 'a'), std::string("A"),
                                 std::string("a b"), std::string("a\0b", 3)}) {
    CHECK(absl::IsInvalidArgument(CheckName("name", bad)));
  }
  CHECK(ReasonOf(CheckName("name", "")) == "INVALID_FIELD");
  CHECK(CheckVolumeName("name", "Data_1.x").ok());
  CHECK_FALSE(CheckVolumeName("name", "a/b").ok());
  CHECK(CheckRequestId("").ok());
  CHECK_FALSE(CheckRequestId(std::string(65, 'a')).ok());
  CHECK_FALSE(CheckRequestId("a b").ok());
  CHECK(ParsePage(0, "")->limit == 100);
  CHECK(ParsePage(5'000, "17")->limit == 1'000);
  CHECK(ParsePage(5'000, "17")->after_id == 17);
  CHECK_FALSE(ParsePage(1, "x").ok());
  CHECK(NextPageToken({.limit = 2}, 2, 9) == "9");
  CHECK(NextPageToken({.limit = 2}, 1, 9).empty());
}

TEST_CASE("NBD URIs name the export where the scheme wants it") {
  CHECK(NbdUriOf("nbd://host:10809", "vol") == "nbd://host:10809/vol");
  CHECK(NbdUriOf("nbd+unix:///?socket=/run/s", "vol") == "nbd+unix:///vol?socket=/run/s");
}

}  // namespace
}  // namespace tessera::mdm
