#include "libchunk/journal.h"

#include <catch2/catch.hpp>

#include "libchunk/sim_disk.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kSize = 64u << 10;

// A journal in a small language: records of so many payload blocks.
class Fixture {
 public:
  Fixture() : disk({.seed = 1}) {
    auto file = disk.OpenFile("/journal", OpenMode::kCreateNew);
    REQUIRE(file.ok());
    REQUIRE(Journal::Format(file->get(), kSize).ok());
    Reopen(1);
    journal->Start({.position = 0, .next_lsn = 1, .incarnation = 1}, 0);
  }
  void Reopen(uint64_t store_id) {
    auto file = disk.OpenFile("/journal", OpenMode::kMustExist);
    REQUIRE(file.ok());
    journal = std::make_unique<Journal>(*std::move(file),
                                        JournalGeometry{.size_bytes = kSize, .store_id = store_id});
  }
  RecordBuilder& Build(uint32_t blocks) {
    builder.Clear();
    Operation operation;
    operation.header.kind = OperationKind::kJournalBlocks;
    operation.header.block_count = blocks;
    operation.checksums.resize(blocks);
    builder.Add(operation);
    return builder;
  }
  bool Fits(uint32_t blocks) {
    return journal->Fits(Build(blocks).size_bytes(), blocks * kBlockBytes);
  }
  uint64_t Append(uint32_t blocks, char letter, uint64_t durable_lsn = 0) {
    const std::vector<std::byte> bytes(size_t{blocks} * kBlockBytes,
                                       static_cast<std::byte>(letter));
    const auto position = journal->Append(&Build(blocks), {std::span<const std::byte>(bytes)},
                                          bytes.size(), durable_lsn);
    REQUIRE(position.ok());
    return *position;
  }
  // Letters of the records in the chain from `next` on.
  std::string Walk(JournalCursor next) {
    std::string letters;
    for (;;) {
      const auto record = journal->ReadRecord(next);
      if (!record.ok()) return letters;
      if (record->operations[0].header.kind == OperationKind::kSkip) {
        letters += '>';
      } else {
        std::array<std::byte, 1> first;
        REQUIRE(journal->ReadBytes(record->payload_position, first).ok());
        letters += static_cast<char>(first[0]);
      }
      next = {.position = record->next_position,
              .next_lsn = record->header.lsn + 1,
              .incarnation = record->header.incarnation};
    }
  }

  SimulatedDisk disk;
  std::unique_ptr<Journal> journal;
  RecordBuilder builder;
};

constexpr JournalCursor kStart{.position = 0, .next_lsn = 1, .incarnation = 1};

TEST_CASE("Records are read back in order, and the chain ends after the last") {
  Fixture f;
  f.Append(1, 'a');
  f.Append(3, 'b');
  f.Append(2, 'c');
  REQUIRE(f.Walk(kStart) == "abc");
  REQUIRE(f.journal->head().next_lsn == 4);
  REQUIRE(f.journal->head().position % kSectorBytes == 0);
}

TEST_CASE("A full journal takes nothing until its tail is freed, then goes round") {
  Fixture f;
  uint64_t second = 0;
  char letter = 'a';
  while (f.Fits(2)) {
    f.Append(2, letter++);
    if (second == 0) second = f.journal->head().position;
  }
  REQUIRE(f.journal->used_bytes() <= kSize);
  REQUIRE(f.Walk(kStart) == "abcdefg");
  const uint64_t middle = f.journal->head().position;
  const uint64_t lsn = f.journal->head().next_lsn;
  f.journal->FreeUpTo(middle);
  f.Append(2, 'x');
  f.Append(2, 'y');
  REQUIRE(f.Walk({.position = middle, .next_lsn = lsn, .incarnation = 1}) == ">xy");
  // What was before is overwritten or of an older lap: it never joins the chain.
  REQUIRE(f.Walk(kStart) == "");
}

TEST_CASE("A record of an older incarnation never follows one of a newer") {
  Fixture f;
  f.Append(1, 'a');
  const JournalCursor cut = f.journal->head();
  f.Append(1, 'b');
  f.Append(1, 'c');
  f.journal->Start({.position = cut.position, .next_lsn = cut.next_lsn, .incarnation = 2}, 0);
  f.Append(1, 'B');
  REQUIRE(f.Walk(kStart) == "aB");
}

TEST_CASE("Another store's records are not taken") {
  Fixture f;
  f.Append(1, 'a');
  f.Reopen(2);
  REQUIRE(f.Walk(kStart) == "");
}

TEST_CASE("A damaged record ends the chain, and a later one tells what had been durable") {
  Fixture f;
  f.Append(1, 'a');
  const uint64_t second = f.journal->head().position;
  f.Append(1, 'b');
  f.Append(1, 'c', 2);
  REQUIRE(f.disk.FlipBits("/journal", second + 70, std::byte{1}).ok());
  REQUIRE(f.Walk(kStart) == "a");
  const auto record = f.journal->ReadRecord({.position = second, .next_lsn = 2, .incarnation = 1});
  REQUIRE(absl::IsDataLoss(record.status()));
  const auto durable = f.journal->GreatestDurableLsn(second, kSize);
  REQUIRE(durable.ok());
  REQUIRE(*durable == 2);
}

TEST_CASE("Operations with impossible numbers are refused") {
  RecordBuilder builder;
  Operation operation;
  operation.header.kind = OperationKind::kZeroBlocks;
  operation.header.block_count = 1u << 30;
  builder.Add(operation);
  REQUIRE(absl::IsDataLoss(ParseOperations(builder.Finish({})).status()));
  builder.Clear();
  operation.header.kind = static_cast<OperationKind>(99);
  operation.header.block_count = 1;
  builder.Add(operation);
  REQUIRE(absl::IsDataLoss(ParseOperations(builder.Finish({})).status()));
  builder.Clear();
  operation.header.kind = OperationKind::kJournalBlocks;  // without its checksums
  builder.Add(operation);
  REQUIRE(absl::IsDataLoss(ParseOperations(builder.Finish({})).status()));
}

}  // namespace
}  // namespace tessera::chunk
