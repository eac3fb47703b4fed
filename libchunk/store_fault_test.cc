// What the store does when the device fails, lies or loses power: every call failing in turn,
// flipped bits, damage in the journal, syncs that fail.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libchunk/store_test_fixture.h"

namespace tessera::chunk {
namespace {

TEST_CASE("Flipped bits are DATA_LOSS, never wrong bytes") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.Write(1, 4096, 4096, 'b');
  std::string path = "/d/store/data";
  uint64_t offset = 100;
  SECTION("in the data file") { f.Checkpoint(); }
  SECTION("in the journal") {
    path = "/d/store/journal";
    // After the Opened record and this record's header.
    offset = 512 + 64 + 72 + 4 + 100;
  }
  REQUIRE(f.disk.FlipBits(path, offset, std::byte{1}).ok());
  REQUIRE(f.Read(1, 0, 4096) == "DATA_LOSS");
  REQUIRE(f.Read(1, 4096, 4096) == "b4096");
  REQUIRE(absl::IsDataLoss(f.TryWrite(1, 512, 512, 'c')));
  REQUIRE(f.BadBlocks() == 1);
  REQUIRE(f.store->stats().checksum_errors > 0);
  f.Checkpoint();
  REQUIRE(f.Read(1, 0, 4096) == "DATA_LOSS");
  f.Write(1, 0, 4096, 'd');
  REQUIRE(f.Read(1, 0, 4096) == "d4096");
}

TEST_CASE("Damage in the flushed part of the journal is told, not taken for its end") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.Write(2, 0, 4096, 'b');
  f.Flush();
  f.Write(3, 0, 4096, 'c');
  f.Flush();
  SECTION("in a header: the store does not open") {
    REQUIRE(f.disk.FlipBits("/d/store/journal", 512 + 20, std::byte{1}).ok());
    f.disk.CrashProcess();
    REQUIRE(absl::IsDataLoss(f.TryOpen()));
  }
  SECTION("in the content: one block is lost") {
    REQUIRE(f.disk.FlipBits("/d/store/journal", 512 + 64 + 72 + 4 + 100, std::byte{1}).ok());
    f.CrashAndOpen();
    REQUIRE(f.Read(1, 0, 4096) == "DATA_LOSS");
    REQUIRE(f.Read(2, 0, 4096) == "b4096");
    REQUIRE(f.Read(3, 0, 4096) == "c4096");
  }
}

TEST_CASE("A failed sync fails the store for good") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.disk.FailCall(CallKind::kSyncData, 1, FaultKind::kInputOutputError);
  REQUIRE(absl::IsFailedPrecondition(f.store->Flush()));
  REQUIRE_FALSE(f.store->failed().ok());
  REQUIRE(absl::IsFailedPrecondition(f.store->Flush()));
  REQUIRE(absl::IsFailedPrecondition(f.TryWrite(1, 0, 4096, 'b')));
  REQUIRE(absl::IsFailedPrecondition(f.store->RunBackgroundWork(true)));
  REQUIRE(f.Read(1, 0, 4096) == "a4096");
}

TEST_CASE("A store without its superblock is not overwritten") {
  Fixture f;
  f.Open();
  f.Close();
  REQUIRE(f.disk.Delete("/d/store/superblock").ok());
  REQUIRE(absl::IsDataLoss(f.TryOpen()));
}

TEST_CASE("With the nth call failing, then the next, every step fails cleanly or passes") {
  const auto script = [](Fixture& f, uint32_t* acknowledged) -> absl::Status {
    if (absl::Status status = f.TryOpen(); !status.ok()) return status;
    for (uint32_t i = 0; i < 6; ++i) {
      const char letter = static_cast<char>('a' + i);
      absl::Status status = f.TryWrite(i % 2, 0, i % 3 == 0 ? 64 * kKiB : 4096, letter);
      if (!status.ok()) return status;
      if (status = f.store->Flush(); !status.ok()) return status;
      *acknowledged = i + 1;
      if (i % 2 == 1) {
        if (status = f.store->RunBackgroundWork(true); !status.ok()) return status;
      }
    }
    return f.store->Close();
  };
  const FaultKind fault = GENERATE(FaultKind::kInputOutputError, FaultKind::kNoSpace);
  const CallKind kind =
      GENERATE(CallKind::kWrite, CallKind::kSyncData, CallKind::kPunchHole, CallKind::kAllocate,
               CallKind::kOpenFile, CallKind::kRename, CallKind::kSyncFolder, CallKind::kRead);
  bool struck = true;
  for (uint64_t nth = 1; struck; ++nth) {
    Fixture f;
    INFO(CallKindName(kind) << " number " << nth << " fails");
    f.disk.FailCall(kind, nth, fault);
    uint32_t acknowledged = 0;
    const absl::Status status = script(f, &acknowledged);
    struck = f.disk.fault_struck();
    if (!struck) REQUIRE(status.ok());
    f.disk.CancelFault();
    f.store.reset();
    f.LosePowerAndOpen();
    for (uint64_t chunk = 0; chunk < 2; ++chunk) {
      // The last acknowledged letter of the chunk, or the one that was under way.
      std::vector<std::byte> bytes(4096);
      REQUIRE(f.store->Read(Fixture::Key(chunk), 0, bytes).ok());
      uint32_t last = 0;
      for (uint32_t i = 0; i < acknowledged; ++i) last = i % 2 == chunk ? i + 1 : last;
      const char got = static_cast<char>(bytes[0]);
      const char least = last == 0 ? '\0' : static_cast<char>('a' + last - 1);
      const uint32_t next = acknowledged;
      const bool next_here = next < 6 && next % 2 == chunk;
      INFO("chunk " << chunk << " has " << static_cast<int>(got) << ", not less than "
                    << static_cast<int>(least));
      REQUIRE((got == least || (next_here && got == static_cast<char>('a' + next))));
    }
    REQUIRE(f.BadBlocks() == 0);
    f.Checkpoint();
    REQUIRE(f.BadBlocks() == 0);
    f.Close();
  }
}

TEST_CASE("A folder that a process made and did not sync is made durable by the next Open") {
  Fixture f;
  REQUIRE(f.disk.CreateFolder("/d/store").ok());
  f.CrashAndOpen();
  f.Write(1, 0, 4096, 'a');
  f.Flush();
  f.LosePowerAndOpen(LossStyle::kLoseAll);
  REQUIRE_FALSE(f.store->open_report().created);
  REQUIRE(f.Read(1, 0, 4096) == "a4096");
}

TEST_CASE("After lost volatile state every Open says so until it is acknowledged") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.LosePowerAndOpen();
  REQUIRE(f.store->open_report().volatile_state_lost);
  f.CrashAndOpen();
  REQUIRE(f.store->open_report().volatile_state_lost);
  // Nothing that the store is used for tells anybody.
  (void)f.Read(1, 0, 4096);
  f.Write(1, 0, 4096, 'b');
  f.Flush();
  f.CrashAndOpen();
  REQUIRE(f.store->open_report().volatile_state_lost);
  f.Close();
  f.Open();
  REQUIRE(f.store->open_report().clean);
  REQUIRE(f.store->open_report().volatile_state_lost);
  REQUIRE(f.store->AcknowledgeLoss().ok());
  f.CrashAndOpen();
  REQUIRE_FALSE(f.store->open_report().volatile_state_lost);
  f.Write(1, 0, 4096, 'c');
  f.LosePowerAndOpen();
  REQUIRE(f.store->open_report().volatile_state_lost);
}

TEST_CASE("What a failed sync left in memory only is not taken for durable after a restart") {
  Fixture f;
  f.Open();
  f.Write(1, 0, 4096, 'a');
  f.Write(2, 0, 64 * kKiB, 'b');
  f.disk.FailCall(CallKind::kSyncData, 1, FaultKind::kInputOutputError);
  REQUIRE_FALSE(f.store->Flush().ok());
  f.CrashAndOpen();
  REQUIRE(f.store->open_report().volatile_state_lost);
  const std::string first = f.Read(1, 0, 4096);
  const std::string second = f.Read(2, 0, 64 * kKiB);
  REQUIRE((first == "a4096" || first == ".4096"));
  REQUIRE((second == "b65536" || second == ".65536"));
  f.Flush();
  f.LosePowerAndOpen();
  REQUIRE(f.Read(1, 0, 4096) == first);
  REQUIRE(f.Read(2, 0, 64 * kKiB) == second);
}

}  // namespace
}  // namespace tessera::chunk
