#include "services/common/node.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <set>

#include "services/common/auth.h"
#include "services/common/placement_hash.h"

namespace tessera {
namespace {

std::string NewFolder() {
  std::string path = (std::filesystem::temp_directory_path() / "tessera-node-XXXXXX").string();
  REQUIRE(mkdtemp(path.data()) != nullptr);
  return path;
}

TEST_CASE("UUIDs are version 4 and differ") {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string uuid = NewUuid();
    REQUIRE(uuid.size() == 36);
    REQUIRE(uuid[14] == '4');
    seen.insert(uuid);
  }
  CHECK(seen.size() == 1000);
}

TEST_CASE("A file is replaced whole, with its mode") {
  const std::string folder = NewFolder();
  const std::string path = folder + "/secret";
  REQUIRE(WriteFileAtomically(path, "one", 0600).ok());
  REQUIRE(WriteFileAtomically(path, "two", 0600).ok());
  CHECK(ReadFile(path).value() == "two");
  struct stat info {};
  REQUIRE(stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);
  CHECK_FALSE(WriteFileAtomically(folder + "/missing/file", "x", 0600).ok());
  CHECK_FALSE(ReadFile(folder + "/missing").ok());
  std::filesystem::remove_all(folder);
}

TEST_CASE(
    "A bearer credential is read back as written, and anything else is refused with the form") {
  const auto parsed = ParseBearer(FormatBearer({.kind = "sds", .id = 42, .secret = "00ff"}));
  REQUIRE(parsed.ok());
  CHECK(parsed->kind == "sds");
  CHECK(parsed->id == 42);
  CHECK(parsed->secret == "00ff");
  for (const char* bad :
       {"", "Basic abc", "Bearer ", "Bearer sds", "Bearer sds.1", "Bearer sds.x.ff",
        "Bearer sds.1.", "Bearer .1.ff", "Bearer sds.99999999999999999999.ff"}) {
    INFO(bad);
    CHECK(ParseBearer(bad).status().code() == absl::StatusCode::kUnauthenticated);
  }
  CHECK(FromHex("0aFF").value() == std::string("\x0a\xff"));
  CHECK_FALSE(FromHex("0").ok());
  CHECK_FALSE(FromHex("zz").ok());
}

TEST_CASE("Chunks spread evenly over placement groups, and the function never changes") {
  CHECK(PlacementGroupIndex(1, 0, 64) == 47);
  CHECK(PlacementGroupIndex(1, 1, 64) == 50);
  CHECK(PlacementGroupIndex(7, 123456789, 4096) == 1085);
  std::vector<int> counts(64);
  for (uint64_t chunk = 0; chunk < 64'000; ++chunk) ++counts[PlacementGroupIndex(3, chunk, 64)];
  for (const int count : counts) {
    CHECK(count > 800);
    CHECK(count < 1200);
  }
  CHECK(PoolOfPlacementGroup(PlacementGroupId(5, 4095)) == 5);
}

}  // namespace
}  // namespace tessera
