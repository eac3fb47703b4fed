// SQLite over the simulated disk: its own promises (a committed transaction survives, a torn one is
// never seen) must hold at every crash point, which tests both sides of the adapter.
#include "libchunk/sqlite_vfs.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <sqlite3.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <memory>
#include <string>

#include "libchunk/env_posix.h"
#include "libchunk/sim_disk.h"

namespace tessera::chunk {
namespace {

std::unique_ptr<SQLite::Database> OpenDatabase(const SqliteVfs& vfs, const std::string& path) {
  auto database = std::make_unique<SQLite::Database>(
      path, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, 0, vfs.name());
  database->exec("PRAGMA locking_mode=EXCLUSIVE");
  database->exec("PRAGMA journal_mode=WAL");
  database->exec("PRAGMA synchronous=FULL");
  database->exec("CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v TEXT)");
  return database;
}

std::unique_ptr<SqliteVfs> Register(Env* env) {
  auto vfs = SqliteVfs::Register(env);
  REQUIRE(vfs.ok());
  return *std::move(vfs);
}

// Commits k = 1, 2, 3, … in two rows each until an error; the last k that was acknowledged.
int64_t CommitUntilError(SQLite::Database& database, int64_t first, int64_t last) {
  int64_t acknowledged = first - 1;
  try {
    for (int64_t k = first; k <= last; ++k) {
      SQLite::Transaction transaction(database);
      for (const int64_t row : {2 * k, 2 * k + 1}) {
        SQLite::Statement insert(database, "INSERT INTO t VALUES (?, ?)");
        insert.bind(1, row);
        insert.bind(2, std::string(300, 'x'));
        insert.exec();
      }
      transaction.commit();
      acknowledged = k;
      if (k % 5 == 0) database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    }
  } catch (const SQLite::Exception&) {
  }
  return acknowledged;
}

TEST_CASE("a WAL database lives on the simulated disk without shared memory") {
  SimulatedDisk disk({.seed = 1});
  const auto vfs = Register(&disk);
  {
    const auto database = OpenDatabase(*vfs, "/meta.db");
    CHECK(database->execAndGet("PRAGMA journal_mode").getString() == "wal");
    CHECK(CommitUntilError(*database, 1, 20) == 20);
    CHECK(*disk.Exists("/meta.db-wal"));
    CHECK_FALSE(*disk.Exists("/meta.db-shm"));
  }
  CHECK_FALSE(*disk.Exists("/meta.db-wal"));
  const auto database = OpenDatabase(*vfs, "/meta.db");
  CHECK(database->execAndGet("SELECT count(*) FROM t").getInt64() == 40);
  CHECK(database->execAndGet("PRAGMA quick_check").getString() == "ok");
  // A sorter and a statement journal: files without a name.
  database->exec("PRAGMA temp_store=FILE; PRAGMA cache_size=1");
  database->exec(
      "CREATE TEMP TABLE s AS SELECT a.v AS v, a.k AS k FROM t a, t b ORDER BY b.k, a.k");
  CHECK(database->execAndGet("SELECT count(*) FROM s").getInt64() == 1600);
}

TEST_CASE("committed transactions survive a loss of power at every change, whole") {
  for (uint64_t crash_at = 1;; ++crash_at) {
    INFO("crash at change " << crash_at);
    SimulatedDisk disk({.seed = crash_at});
    const auto vfs = Register(&disk);
    disk.CrashAtChange(crash_at);
    int64_t acknowledged = 0;
    try {
      const auto database = OpenDatabase(*vfs, "/meta.db");
      acknowledged = CommitUntilError(*database, 1, 12);
    } catch (const SQLite::Exception&) {
    }
    const bool finished = !disk.off();
    disk.LosePower();
    const auto database = OpenDatabase(*vfs, "/meta.db");
    CHECK(database->execAndGet("PRAGMA quick_check").getString() == "ok");
    const int64_t rows = database->execAndGet("SELECT count(*) FROM t").getInt64();
    CHECK(rows % 2 == 0);
    CHECK(rows / 2 >= acknowledged);
    CHECK(rows / 2 <= acknowledged + 1);
    if (finished) break;
  }
}

TEST_CASE("a file that a dead process made is made durable by the next that opens it") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SimulatedDisk disk({.seed = seed});
    for (const char* path : {"/meta.db", "/meta.db-wal"}) {
      REQUIRE(disk.OpenFile(path, OpenMode::kCreateNew).ok());  // and its folder is not synced
    }
    disk.CrashProcess();
    const auto vfs = Register(&disk);
    {
      const auto database = OpenDatabase(*vfs, "/meta.db");
      CHECK(CommitUntilError(*database, 1, 4) == 4);
      disk.LosePower(LossStyle::kLoseAll);
    }
    const auto database = OpenDatabase(*vfs, "/meta.db");
    CHECK(database->execAndGet("SELECT count(*) FROM t").getInt64() == 8);
  }
}

TEST_CASE("a lying sync loses commits: the test above can fail") {
  int lost = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SimulatedDisk disk({.seed = seed});
    const auto vfs = Register(&disk);
    const auto database = OpenDatabase(*vfs, "/meta.db");
    disk.set_lying_sync(true);
    CHECK(CommitUntilError(*database, 1, 4) == 4);
    disk.LosePower(LossStyle::kLoseAll);
    const auto again_vfs = Register(&disk);
    const auto again = OpenDatabase(*again_vfs, "/meta.db");
    lost += again->execAndGet("SELECT count(*) FROM t").getInt64() < 8 ? 1 : 0;
  }
  CHECK(lost == 20);
}

TEST_CASE("a second connection to a database that is open is busy") {
  SimulatedDisk disk({.seed = 2});
  const auto vfs = Register(&disk);
  const auto first = OpenDatabase(*vfs, "/meta.db");
  CHECK_THROWS_AS(OpenDatabase(*vfs, "/meta.db"), SQLite::Exception);
  try {
    OpenDatabase(*vfs, "/meta.db");
  } catch (const SQLite::Exception& error) {
    CHECK(error.getErrorCode() == SQLITE_BUSY);
  }
  CHECK_NOTHROW(OpenDatabase(*vfs, "/other.db"));
}

TEST_CASE("errors of the disk arrive as SQLite's codes, their text in last_error") {
  SimulatedDisk disk({.seed = 3});
  const auto vfs = Register(&disk);
  CHECK(vfs->last_error().ok());
  const auto database = OpenDatabase(*vfs, "/meta.db");
  struct Case {
    CallKind call;
    FaultKind fault;
    int code;
  };
  for (const Case& c :
       {Case{CallKind::kWrite, FaultKind::kInputOutputError, SQLITE_IOERR_WRITE},
        Case{CallKind::kWrite, FaultKind::kNoSpace, SQLITE_FULL},
        Case{CallKind::kSyncData, FaultKind::kInputOutputError, SQLITE_IOERR_FSYNC}}) {
    disk.FailCall(c.call, 1, c.fault);
    int code = SQLITE_OK;
    try {
      database->exec("INSERT INTO t (v) VALUES ('x')");
    } catch (const SQLite::Exception& error) {
      code = error.getExtendedErrorCode();
    }
    CHECK(code == c.code);
    CHECK(vfs->last_error().message().find("simulated fault") != std::string::npos);
    disk.CancelFault();
  }
  CHECK_THROWS_AS(OpenDatabase(*vfs, "/none/meta.db"), SQLite::Exception);
}

TEST_CASE("every failing call at opening and committing is an error, never a wrong answer") {
  for (uint64_t nth = 1;; ++nth) {
    INFO("call " << nth << " fails");
    SimulatedDisk disk({.seed = nth});
    {
      const auto vfs = Register(&disk);
      const auto database = OpenDatabase(*vfs, "/meta.db");
      CHECK(CommitUntilError(*database, 1, 3) == 3);
    }
    disk.FailCall(std::nullopt, nth, FaultKind::kInputOutputError);
    const auto vfs = Register(&disk);
    int64_t acknowledged = 3;
    try {
      const auto database = OpenDatabase(*vfs, "/meta.db");
      acknowledged = CommitUntilError(*database, 4, 6);
    } catch (const SQLite::Exception&) {
    }
    const bool struck = disk.fault_struck();
    disk.LosePower();
    const auto again_vfs = Register(&disk);
    const auto again = OpenDatabase(*again_vfs, "/meta.db");
    CHECK(again->execAndGet("SELECT count(*) FROM t").getInt64() >= 2 * acknowledged);
    CHECK(again->execAndGet("PRAGMA quick_check").getString() == "ok");
    if (!struck) break;
  }
}

TEST_CASE("the adapter works on POSIX files too") {
  PosixEnv env;
  const auto vfs = Register(&env);
  std::string folder = "/tmp/sqlite_vfs_XXXXXX";
  REQUIRE(mkdtemp(folder.data()) != nullptr);
  {
    const auto database = OpenDatabase(*vfs, folder + "/meta.db");
    CHECK(CommitUntilError(*database, 1, 7) == 7);
  }
  {
    const auto database = OpenDatabase(*vfs, folder + "/meta.db");
    CHECK(database->execAndGet("SELECT count(*) FROM t").getInt64() == 14);
  }
  REQUIRE(env.Delete(folder + "/meta.db").ok());
  CHECK(rmdir(folder.c_str()) == 0);
}

}  // namespace
}  // namespace tessera::chunk
