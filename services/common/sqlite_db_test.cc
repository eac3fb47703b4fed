#include "services/common/sqlite_db.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

namespace tessera {
namespace {

class Fixture {
 public:
  Fixture() {
    std::string path = (std::filesystem::temp_directory_path() / "tessera-db-XXXXXX").string();
    REQUIRE(mkdtemp(path.data()) != nullptr);
    folder_ = path;
  }
  ~Fixture() { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/a.db"; }

 private:
  std::string folder_;
};

const std::vector<std::string> kFirst{
    "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL)"};

int Count(SqliteDb* db) {
  int count = -1;
  REQUIRE(db->Run([&](SQLite::Database& sql) {
              count = sql.execAndGet("SELECT count(*) FROM t").getInt();
              return absl::OkStatus();
            }).ok());
  return count;
}

TEST_CASE_METHOD(Fixture, "A transaction that fails leaves nothing behind") {
  auto db = SqliteDb::Open(path(), kFirst);
  REQUIRE(db.ok());
  REQUIRE((*db)
              ->Transaction([](SQLite::Database& sql) {
                sql.exec("INSERT INTO t(name) VALUES('a')");
                return absl::OkStatus();
              })
              .ok());
  const absl::Status refused = (*db)->Transaction([](SQLite::Database& sql) {
    sql.exec("INSERT INTO t(name) VALUES('b')");
    return absl::AbortedError("no");
  });
  CHECK(refused.code() == absl::StatusCode::kAborted);
  const absl::Status duplicate = (*db)->Transaction([](SQLite::Database& sql) {
    sql.exec("INSERT INTO t(name) VALUES('c')");
    sql.exec("INSERT INTO t(name) VALUES('a')");
    return absl::OkStatus();
  });
  CHECK(duplicate.code() == absl::StatusCode::kAlreadyExists);
  CHECK(Count(db->get()) == 1);
}

TEST_CASE_METHOD(Fixture, "Migrations run once each, and a newer database is refused") {
  {
    auto db = SqliteDb::Open(path(), kFirst);
    REQUIRE(db.ok());
    CHECK((*db)->schema_version() == 1);
  }
  auto more = kFirst;
  more.push_back("ALTER TABLE t ADD COLUMN size INTEGER NOT NULL DEFAULT 0");
  {
    auto db = SqliteDb::Open(path(), more);
    REQUIRE(db.ok());
    CHECK((*db)->schema_version() == 2);
  }
  CHECK(SqliteDb::Open(path(), more).ok());
  CHECK(SqliteDb::Open(path(), kFirst).status().code() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE_METHOD(Fixture, "The file is for its owner only, and a damaged one is called so") {
  { REQUIRE(SqliteDb::Open(path(), kFirst).ok()); }
  struct stat info {};
  REQUIRE(stat(path().c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  { std::ofstream(path(), std::ios::trunc) << std::string(8192, 'x'); }
  CHECK(SqliteDb::Open(path(), kFirst).status().code() == absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace tessera
