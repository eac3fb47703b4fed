#include "services/sdc/resume/resume_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>

namespace tessera::sdc {
namespace {

constexpr ResumeGeometry kGeometry{64, 256 << 10};

class Folder {
 public:
  Folder() {
    std::array<char, 32> name{"/tmp/resume_file_test.XXXXXX"};
    path_ = mkdtemp(name.data());
  }
  ~Folder() {
    unlink(file().c_str());
    unlink((path_ + "/other").c_str());
    rmdir(path_.c_str());
  }
  [[nodiscard]] std::string file() const { return path_ + "/resume"; }
  [[nodiscard]] std::string other() const { return path_ + "/other"; }

 private:
  std::string path_;
};

absl::StatusOr<std::unique_ptr<ResumeTable>> Open(const std::string& path, ResumedState* state,
                                                  uint64_t incarnation = 1) {
  return OpenResumeFile(path, {"boot-1", "node-1", incarnation}, kGeometry, state);
}

TEST_CASE("what a killed process stored is there for the next", "[resume]") {
  const Folder folder;
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ResumedState state;
    auto table = Open(folder.file(), &state);
    if (!table.ok() || !(*table)->PutVolume(7, "db", 3, "grant")) _exit(1);
    (*table)->Volume(7).SetNextCounter(12);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  struct stat info {};
  REQUIRE(stat(folder.file().c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  ResumedState state;
  auto table = Open(folder.file(), &state, 2);
  REQUIRE(table.ok());
  REQUIRE(state.volumes.size() == 1);
  CHECK(state.volumes[0].name == "db");
  CHECK(state.volumes[0].next_counter == 12);
}

TEST_CASE("of another boot nothing is left", "[resume]") {
  const Folder folder;
  ResumedState state;
  {
    auto table = Open(folder.file(), &state);
    REQUIRE(table.ok());
    REQUIRE((*table)->PutVolume(7, "db", 3, "grant"));
  }
  {
    auto table = OpenResumeFile(folder.file(), {"boot-2", "node-1", 2}, kGeometry, &state);
    REQUIRE(table.ok());
    CHECK(state.volumes.empty());
  }
  // Emptied, not only passed over.
  auto table = OpenResumeFile(folder.file(), {"boot-2", "node-1", 3}, kGeometry, &state);
  REQUIRE(table.ok());
  CHECK(state.volumes.empty());
}

TEST_CASE("a file of noise is made anew", "[resume]") {
  const Folder folder;
  {
    std::ofstream file(folder.file());
    for (int i = 0; i < 10'000; ++i) file << "noise";
  }
  chmod(folder.file().c_str(), 0600);
  ResumedState state;
  {
    auto table = Open(folder.file(), &state);
    REQUIRE(table.ok());
    REQUIRE((*table)->PutVolume(7, "db", 3, "grant"));
  }
  REQUIRE(Open(folder.file(), &state, 2).ok());
  CHECK(state.volumes.size() == 1);
}

TEST_CASE("two processes never share a file", "[resume]") {
  const Folder folder;
  ResumedState state;
  auto first = Open(folder.file(), &state);
  REQUIRE(first.ok());
  REQUIRE((*first)->PutVolume(7, "db", 3, "grant"));
  auto second = Open(folder.file(), &state, 2);
  REQUIRE(second.ok());
  CHECK(state.volumes.empty());
  REQUIRE((*second)->PutVolume(8, "other", 1, "grant"));
  // The path is the second's now.
  REQUIRE((*first)->PutVolume(9, "late", 1, "grant"));
  *second = nullptr;
  auto third = Open(folder.file(), &state, 3);
  REQUIRE(third.ok());
  REQUIRE(state.volumes.size() == 1);
  CHECK(state.volumes[0].volume_id == 8);
}

TEST_CASE("a file that others can write, or a link, is not used", "[resume]") {
  const Folder folder;
  { std::ofstream file(folder.other()); }
  SECTION("mode") {
    REQUIRE(link(folder.other().c_str(), folder.file().c_str()) == 0);
    unlink(folder.other().c_str());
    chmod(folder.file().c_str(), 0666);
  }
  SECTION("hard link") {
    chmod(folder.other().c_str(), 0600);
    REQUIRE(link(folder.other().c_str(), folder.file().c_str()) == 0);
  }
  SECTION("symbolic link") {
    chmod(folder.other().c_str(), 0600);
    REQUIRE(symlink(folder.other().c_str(), folder.file().c_str()) == 0);
  }
  ResumedState state;
  CHECK_FALSE(Open(folder.file(), &state).ok());
}

}  // namespace
}  // namespace tessera::sdc
