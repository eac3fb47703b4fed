// The rules of bad blocks and of scrub by themselves: no server, no disk, no clock.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libchunk/checksum.h"
#include "services/common/crc32c.h"
#include "services/sds/block_rules.h"
#include "services/sds/corrupt_block_book.h"
#include "services/sds/replica_messages.h"
#include "services/sds/scrub_plan.h"

namespace tessera::sds {
namespace {

using chunk::ChunkKey;
using chunk::kBlockBytes;

constexpr ChunkKey kKey{.vtree_id = 3, .chunk_index = 7};

CorruptBlock Bad(uint32_t block, uint64_t group = 65536, uint64_t device = 4) {
  return {.id = {.device_id = device, .key = kKey, .block = block},
          .placement_group_id = group,
          .finder = v1::CORRUPT_BLOCK_FINDER_READ};
}

// "found 4+2, repaired 4": the next report in words.
std::string Told(CorruptBlockBook* book) {
  std::string text;
  const CorruptBlockBook::Report& report = book->NextReport();
  for (const v1::CorruptBlocks& run : report.changes) {
    if (!text.empty()) text += ", ";
    const std::string name = v1::CorruptBlockChange_Name(run.change());
    text +=
        name.substr(sizeof("CORRUPT_BLOCK_CHANGE_") - 1) + " " + std::to_string(run.first_block());
    if (run.block_count() > 1) text += "+" + std::to_string(run.block_count());
  }
  book->Confirm(report.number);
  return text;
}

TEST_CASE("A bad block is in the book once, and is told of once") {
  CorruptBlockBook book;
  CHECK(book.Found(Bad(4), 0));
  CHECK_FALSE(book.Found(Bad(4), 0));
  CHECK(book.Found(Bad(5), 0));
  CHECK(book.Due(0, 10).size() == 2);
  book.Repaired(Bad(4).id, 9);
  book.Healed(Bad(5).id);
  CHECK(book.size() == 0);
  CHECK(Told(&book) == "FOUND 4+2, REPAIRED 4, HEALED 5");
  CHECK(Told(&book).empty());
}

TEST_CASE("A report comes again until it is confirmed, and new changes wait") {
  CorruptBlockBook book;
  CHECK(book.NextReport().number == 0);
  book.Found(Bad(1), 0);
  CHECK(book.NextReport().number == 1);
  book.Found(Bad(9), 0);
  CHECK(book.NextReport().number == 1);
  CHECK(book.NextReport().changes.size() == 1);
  book.Confirm(7);
  CHECK(book.NextReport().number == 1);
  book.Confirm(1);
  CHECK(book.NextReport().number == 2);
  CHECK(book.NextReport().changes[0].first_block() == 9);
}

TEST_CASE("Tries come later each time, and a lost block is told of once") {
  CorruptBlockBook book;
  book.Found(Bad(1), 1'000);
  uint64_t now = 1'000;
  uint64_t last_wait = 0;
  for (int i = 0; i < 20; ++i) {
    REQUIRE(book.Due(now, 10).size() == 1);
    book.TryAgain(Bad(1).id, now);
    REQUIRE(book.Due(now, 10).empty());
    const uint64_t wait = *book.NextDueMillis() - now;
    REQUIRE(wait >= last_wait);
    REQUIRE(wait <= CorruptBlockBook::kRetryMaxMillis);
    last_wait = wait;
    now += wait;
  }
  book.Unreadable(Bad(1).id, "bad everywhere", now);
  book.Unreadable(Bad(1).id, "bad everywhere", now);
  CHECK(book.unreadable() == 1);
  CHECK(book.UnreadableRuns(10).size() == 1);
  CHECK(book.UnreadableRuns(10)[0].reason() == "bad everywhere");
  CHECK(Told(&book) == "FOUND 1, UNREPAIRABLE 1");
  book.TryAllNow(now);
  CHECK(book.Due(now, 10).size() == 1);
  book.Repaired(Bad(1).id, 9);
  CHECK(book.unreadable() == 0);
}

TEST_CASE("What is due together is of one device and group, the longest waiting first") {
  CorruptBlockBook book;
  book.Found(Bad(1, 65536), 20);
  book.Found(Bad(2, 65537), 10);
  book.Found(Bad(3, 65537), 10);
  book.Found(Bad(4, 65537, 5), 10);
  const auto due = book.Due(30, 10);
  REQUIRE(due.size() == 2);
  CHECK(due[0].id.block == 2);
  CHECK(due[1].id.block == 3);
  CHECK(book.Due(9, 10).empty());
  CHECK(book.Due(30, 1).size() == 1);
}

TEST_CASE("The book is bounded, and says what it left out") {
  CorruptBlockBook book;
  for (uint32_t i = 0; i < CorruptBlockBook::kBlocksMax; ++i) REQUIRE(book.Found(Bad(2 * i), 0));
  CHECK_FALSE(book.Found(Bad(1), 0));
  uint64_t told = 0;
  uint64_t dropped = 0;
  while (book.NextReport().number != 0) {
    const auto report = book.NextReport();
    CHECK(report.changes.size() <= CorruptBlockBook::kChangesPerReport);
    told += report.changes.size();
    dropped += report.dropped;
    book.Confirm(report.number);
  }
  CHECK(told == CorruptBlockBook::kChangesMax);
  CHECK(told + dropped == CorruptBlockBook::kBlocksMax);
}

// A source's answer for blocks 1 (good), 2 (unmapped), 3 (bad), 4 (good).
v1::FetchedChunk Fetched() {
  v1::FetchedChunk fetched;
  SetChunkKey(kKey, fetched.mutable_key());
  SetVersion({2, 5}, fetched.mutable_version());
  fetched.add_states(v1::FETCHED_BLOCK_STATE_GOOD);
  fetched.add_states(v1::FETCHED_BLOCK_STATE_UNMAPPED);
  fetched.add_states(v1::FETCHED_BLOCK_STATE_BAD);
  fetched.add_states(v1::FETCHED_BLOCK_STATE_GOOD);
  fetched.set_content(std::string(kBlockBytes, 'a') + std::string(kBlockBytes, 'd'));
  fetched.set_content_crc32c(Crc32c(std::as_bytes(std::span(fetched.content()))));
  return fetched;
}

TEST_CASE("A source's block is taken at this replica's version alone") {
  v1::FetchedChunk fetched = Fetched();
  CHECK(JudgeSource({2, 5}, fetched, 0).verdict == SourceVerdict::kApply);
  CHECK(JudgeSource({2, 5}, fetched, 0).content[0] == std::byte{'a'});
  CHECK(JudgeSource({2, 5}, fetched, 1).content == std::vector<std::byte>(kBlockBytes));
  CHECK(JudgeSource({2, 5}, fetched, 2).verdict == SourceVerdict::kSourceBad);
  CHECK(JudgeSource({2, 5}, fetched, 3).content[0] == std::byte{'d'});
  CHECK(JudgeSource({2, 4}, fetched, 0).verdict == SourceVerdict::kAgain);
  CHECK(JudgeSource({3, 1}, fetched, 0).verdict == SourceVerdict::kAgain);
  fetched.set_incomplete(true);
  CHECK(JudgeSource({2, 5}, fetched, 0).verdict == SourceVerdict::kSourceBad);
  fetched.set_absent(true);
  CHECK(JudgeSource({2, 5}, fetched, 0).verdict == SourceVerdict::kDropped);
}

TEST_CASE("An answer that is not one to the question is refused") {
  v1::BlockList asked;
  SetChunkKey(kKey, asked.mutable_key());
  for (const uint32_t block : {1, 2, 3, 4}) asked.add_blocks(block);
  CHECK(CheckFetched(asked, Fetched()).ok());
  v1::FetchedChunk fetched = Fetched();
  SECTION("another chunk") { fetched.mutable_key()->set_chunk_index(8); }
  SECTION("fewer states") { fetched.mutable_states()->RemoveLast(); }
  SECTION("less content") { fetched.mutable_content()->resize(kBlockBytes); }
  SECTION("damaged content") { (*fetched.mutable_content())[5] ^= 1; }
  CHECK(absl::IsDataLoss(CheckFetched(asked, fetched)));
}

TEST_CASE("Only a replica in sync in the epoch may repair or be asked") {
  CHECK(MayRepair({.epoch = 5, .role = v1::REPLICA_ROLE_IN_SYNC}, 5));
  CHECK_FALSE(MayRepair({.epoch = 6, .role = v1::REPLICA_ROLE_IN_SYNC}, 5));
  CHECK_FALSE(MayRepair({.epoch = 5, .role = v1::REPLICA_ROLE_LEARNER}, 5));
  CHECK_FALSE(MayRepair({.epoch = 5, .role = v1::REPLICA_ROLE_OUT_OF_SYNC}, 5));
  CHECK_FALSE(MayRepair({}, 0));
}

TEST_CASE("Replicas are compared at equal versions, block by block") {
  const chunk::BlockChecksum checksum(kKey);
  const std::vector<std::byte> content(kBlockBytes, std::byte{'x'});
  chunk::ChunkBlocks own;
  own.info = {.key = kKey, .version = {2, 5}};
  own.states.resize(4);
  own.states[0] = {.presence = chunk::BlockPresence::kMapped, .checksum = checksum.Of(0, content)};
  own.states[1] = {.presence = chunk::BlockPresence::kMapped, .checksum = checksum.OfZeros(1)};
  chunk::ChunkBlocks there = own;
  const auto compare = [&] {
    v1::ChunkChecksums other;
    SetChunkKey(kKey, other.mutable_key());
    SetChecksums(there, &other);
    return CompareChunk(own, other);
  };
  CHECK(compare().comparable);
  CHECK(compare().different_blocks.empty());
  SECTION("zeros written out are zeros") {
    there.states[1] = {};
    there.states[2] = {.presence = chunk::BlockPresence::kMapped, .checksum = checksum.OfZeros(2)};
    CHECK(compare().different_blocks.empty());
  }
  SECTION("another content") {
    there.states[0].checksum ^= 1;
    there.states[3] = {.presence = chunk::BlockPresence::kMapped,
                       .checksum = checksum.Of(3, content)};
    CHECK(compare().different_blocks == std::vector<uint32_t>{0, 3});
  }
  SECTION("content here, nothing there") {
    there.states[0] = {};
    CHECK(compare().different_blocks == std::vector<uint32_t>{0});
  }
  SECTION("what a pruned layer has no longer is not compared, whichever of the two it is") {
    const bool is_here = GENERATE(true, false);
    chunk::ChunkBlocks& pruned = is_here ? own : there;
    pruned.info.pruned = true;
    for (chunk::BlockState& state : pruned.states) {
      if (state.presence == chunk::BlockPresence::kZeros) {
        state.presence = chunk::BlockPresence::kGone;
      }
    }
    pruned.states[0] = {.presence = chunk::BlockPresence::kGone};
    (is_here ? there : own).states[3] = {.presence = chunk::BlockPresence::kMapped,
                                         .checksum = checksum.Of(3, content)};
    CHECK(compare().comparable);
    CHECK(compare().different_blocks.empty());
    there.states[1].checksum ^= 1;  // what both have is
    CHECK(compare().different_blocks == std::vector<uint32_t>{1});
  }
  SECTION("what is lost is not compared") {
    there.states[0].checksum = checksum.OfUnreadable(0);
    CHECK(compare().different_blocks.empty());
  }
  SECTION("another version") {
    there.info.version.sequence = 6;
    CHECK_FALSE(compare().comparable);
  }
  SECTION("a chunk with a gap proves nothing") {
    there.info.incomplete = true;
    CHECK_FALSE(compare().comparable);
  }
}

TEST_CASE("When a device is scrubbed") {
  v1::ScrubOrder order;
  order.set_interval_ms(1'000'000);
  order.set_bytes_per_second(64 << 20);
  ScrubRecord record{.completed_ms = 5'000'000};
  CHECK_FALSE(WishOf(order, record, 5'500'000).has_value());
  CHECK(WishOf(order, record, 6'000'000) == ScrubWish{});
  SECTION("one that has begun goes on though its time is not come") {
    record.started_ms = 5'400'000;
    CHECK(WishOf(order, record, 5'500'000) == ScrubWish{});
    CHECK(GoesOn(record, ScrubWish{}));
  }
  SECTION("what was asked for comes first, once") {
    order.set_operation_id(8);
    order.set_vtree_id(3);
    CHECK(WishOf(order, record, 6'000'000) == ScrubWish{8, 3});
    record.started_ms = 5'900'000;
    CHECK_FALSE(GoesOn(record, ScrubWish{8, 3}));
    record.completed_operation_id = 8;
    record.started_ms = 0;
    CHECK(WishOf(order, record, 6'000'000) == ScrubWish{});
  }
  SECTION("no schedule") {
    order.set_interval_ms(0);
    CHECK_FALSE(WishOf(order, record, 9'000'000'000).has_value());
  }
}

TEST_CASE("How fast a device is scrubbed") {
  v1::ScrubOrder order;
  order.set_interval_ms(1'000'000);
  order.set_bytes_per_second(100 << 20);
  // Half of the interval is 500 s.
  CHECK(ScrubRate(order, {}, 500ull * (10 << 20)) == 10 << 20);
  CHECK(ScrubRate(order, {}, 0) == kScrubRateMin);
  CHECK(ScrubRate(order, {}, 500ull << 40) == 100 << 20);
  CHECK(ScrubRate(order, {.operation_id = 3}, 1) == 100 << 20);
  order.set_operation_bytes_per_second(7 << 20);
  CHECK(ScrubRate(order, {.operation_id = 3}, 1) == 7 << 20);

  ScrubPace pace;
  CHECK(pace.WaitMillis(1'000) == 0);
  pace.Spend(1 << 20, 4 << 20, 1'000);
  CHECK(pace.WaitMillis(1'000) == 250);
  CHECK(pace.WaitMillis(1'250) == 0);
  pace.Spend(1, 1 << 20, 2'000);
  CHECK(pace.WaitMillis(2'000) == 0);
}

}  // namespace
}  // namespace tessera::sds
