// A store of format version 1, which knew no layers, is raised when it is opened.
#include <SQLiteCpp/SQLiteCpp.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libchunk/checksum.h"
#include "libchunk/coding.h"
#include "libchunk/journal_record.h"
#include "libchunk/sqlite_vfs.h"
#include "libchunk/store_layers_fixture.h"
#include "libchunk/superblock.h"

namespace tessera::chunk {
namespace {

constexpr uint32_t kB = kBlockBytes;

std::vector<std::byte> ReadFile(LayersFixture& f, const std::string& path) {
  auto file = f.disk.OpenFile(path, OpenMode::kMustExist);
  REQUIRE(file.ok());
  std::vector<std::byte> bytes(*(*file)->Size());
  REQUIRE((*file)->Read(0, bytes).ok());
  return bytes;
}

void WriteFile(LayersFixture& f, const std::string& path, const std::vector<std::byte>& bytes) {
  auto file = f.disk.OpenFile(path, OpenMode::kMustExist);
  REQUIRE(file.ok());
  const std::span<const std::byte> slice(bytes);
  REQUIRE((*file)->Write(0, std::span(&slice, 1)).ok());
  REQUIRE((*file)->SyncData().ok());
}

// Turns the store, which has no layers, into what version 1 would have left.
void Lower(LayersFixture& f) {
  f.store.reset();
  std::vector<std::byte> superblock = ReadFile(f, "/d/store/superblock");
  for (const size_t copy : {size_t{0}, kSuperblockCopyBytes}) {
    const std::span<std::byte> bytes = std::span(superblock).subspan(copy);
    StoreInteger(bytes.data() + 12, uint32_t{1});
    StoreInteger(bytes.data() + 8, Crc32c(bytes.subspan(12, 256 - 12)));
  }
  WriteFile(f, "/d/store/superblock", superblock);
  std::vector<std::byte> journal = ReadFile(f, "/d/store/journal");
  int records = 0;
  for (size_t at = 0; at + kSectorBytes <= journal.size(); at += kSectorBytes) {
    const std::span<std::byte> bytes = std::span(journal).subspan(at);
    if (LoadInteger<uint32_t>(bytes.data()) != kRecordMagic) continue;
    const auto header_bytes = LoadInteger<uint32_t>(bytes.data() + 48);
    StoreInteger(bytes.data() + 60, uint32_t{1});
    StoreInteger(bytes.data() + 4, Crc32c(bytes.subspan(8, header_bytes - 8)));
    ++records;
  }
  REQUIRE(records > 0);
  WriteFile(f, "/d/store/journal", journal);
  auto vfs = SqliteVfs::Register(&f.disk);
  REQUIRE(vfs.ok());
  SQLite::Database database(std::string("/d/store/meta.db"), SQLite::OPEN_READWRITE, 0,
                            (*vfs)->name());
  database.exec("PRAGMA locking_mode=EXCLUSIVE");
  database.exec("PRAGMA journal_mode=WAL");
  for (const char* column : {"base", "inherited_blocks", "pruned"}) {
    database.exec("ALTER TABLE chunk DROP COLUMN " + std::string(column));
  }
  database.exec("DROP TABLE layered");
  database.exec("PRAGMA user_version=1");
}

TEST_CASE("a store of version 1 opens after a loss of power at any moment of being raised") {
  const bool clean = GENERATE(true, false);
  const LossStyle style = GENERATE(LossStyle::kLoseAll, LossStyle::kKeepAll, LossStyle::kSectors);
  bool is_through = false;
  for (uint64_t last = 1; !is_through; ++last) {
    REQUIRE(last < 100);
    LayersFixture f;
    Volume volume;
    f.WriteTo(volume, 0, 3 * kB, 'a');
    f.Checkpoint();
    f.WriteTo(volume, kB, kB, 'b');
    f.Flush();
    if (clean) f.Close();
    Lower(f);
    f.disk.CrashAtChange(last);
    is_through = f.TryOpen().ok();
    f.store.reset();
    f.disk.CancelCrash();
    f.disk.LosePower(style);
    f.Open();
    REQUIRE(f.ReadOf(volume, 0, 3 * kB) == "a4096 b4096 a4096");
    volume.Snapshot();
    f.WriteTo(volume, 0, kB, 'c');
    f.CheckClosed();
    REQUIRE(f.Layers() == "0:3 1<0:1");
  }
}

TEST_CASE("a store of version 1 opens, keeps what it has, and takes layers") {
  LayersFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 3 * kB, 'a');
  f.Write(2, 0, kB, 'x');
  f.Checkpoint();
  f.WriteTo(volume, kB, kB, 'b');  // in the journal alone
  f.Flush();
  const bool clean = GENERATE(true, false);
  if (clean) f.Close();
  Lower(f);

  std::vector<std::string> problems;
  REQUIRE(InspectStore(&f.disk, "/d/store", InspectDepth::kVerify, [&](const std::string& line) {
            if (line.starts_with("problem")) problems.push_back(line);
          }).ok());
  REQUIRE(problems == std::vector<std::string>());
  // A loss of power while it is raised leaves a store of either version.
  f.disk.CrashAtChange(GENERATE(2, 5, 9, 14));
  (void)f.TryOpen();
  f.store.reset();
  f.disk.LosePower(LossStyle::kLoseAll);

  f.Open();
  REQUIRE(f.ReadOf(volume, 0, 3 * kB) == "a4096 b4096 a4096");
  REQUIRE(f.Read(2, 0, kB) == "x4096");
  const LayerPath snapshot = volume.Snapshot();
  f.WriteTo(volume, 0, kB, 'c');
  f.LosePowerAndOpen(LossStyle::kKeepAll);
  REQUIRE(f.ReadOf(snapshot, 0, 3 * kB) == "a4096 b4096 a4096");
  REQUIRE(f.ReadOf(volume, 0, 3 * kB) == "c4096 b4096 a4096");
  REQUIRE(f.Layers() == "0:3 1<0:1");
  f.CheckClosed();
  REQUIRE(f.Layers() == "0:3 1<0:1");
}

}  // namespace
}  // namespace tessera::chunk
