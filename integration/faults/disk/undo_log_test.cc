// The simulated power cut: it takes back what was not fsynced, sector by sector, and nothing else.
#include "integration/faults/disk/undo_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace tessera::faults {
namespace {

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/undo-log-XXXXXX";
    root_ = mkdtemp(name);
    std::filesystem::create_directories(disk());
    std::filesystem::create_directories(aside());
  }
  ~Folder() { std::filesystem::remove_all(root_); }
  [[nodiscard]] std::string disk() const { return root_ + "/disk"; }
  [[nodiscard]] std::string aside() const { return root_ + "/aside"; }
  [[nodiscard]] std::string file(const std::string& name) const { return disk() + "/" + name; }

 private:
  std::string root_;
};

std::string Content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class File {
 public:
  File(UndoLog* log, const std::string& path) : log_(log) {
    descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  }
  ~File() { close(descriptor_); }
  void Write(uint64_t offset, const std::string& data) {
    log_->BeforeWrite(descriptor_, offset, data.size());
    REQUIRE(pwrite(descriptor_, data.data(), data.size(), static_cast<off_t>(offset)) ==
            static_cast<ssize_t>(data.size()));
  }
  void Sync() { log_->Synced(descriptor_); }

 private:
  UndoLog* const log_;
  int descriptor_ = -1;
};

}  // namespace

TEST_CASE("what was synced survives every power cut") {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    Folder folder;
    UndoLog log(folder.aside());
    File file(&log, folder.file("a"));
    file.Write(0, std::string(4096, 'x'));
    file.Sync();
    log.SyncedFolder(folder.disk());
    log.PowerCut(seed);
    REQUIRE(Content(folder.file("a")) == std::string(4096, 'x'));
  }
}

TEST_CASE("unsynced sectors hold one of the contents they had, each for itself") {
  bool torn = false;
  bool old_content = false;
  bool new_content = false;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    Folder folder;
    UndoLog log(folder.aside());
    File file(&log, folder.file("a"));
    file.Write(0, std::string(1024, 'x'));
    file.Sync();
    file.Write(0, std::string(1024, 'y'));
    file.Write(0, std::string(1024, 'z'));
    log.PowerCut(seed);
    const std::string content = Content(folder.file("a"));
    REQUIRE(content.size() == 1024);
    for (size_t sector = 0; sector < 2; ++sector) {
      const std::string part = content.substr(sector * 512, 512);
      REQUIRE((part == std::string(512, 'x') || part == std::string(512, 'y') ||
               part == std::string(512, 'z')));
    }
    torn |= content[0] != content[1023];
    old_content |= content[0] == 'x';
    new_content |= content[0] == 'z';
  }
  CHECK(torn);
  CHECK(old_content);
  CHECK(new_content);
}

TEST_CASE("a file that grew may lose its new end, and never gets longer") {
  std::set<size_t> sizes;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Folder folder;
    UndoLog log(folder.aside());
    File file(&log, folder.file("a"));
    file.Write(0, std::string(512, 'x'));
    file.Sync();
    file.Write(512, std::string(512, 'y'));
    log.PowerCut(seed);
    sizes.insert(Content(folder.file("a")).size());
  }
  CHECK(sizes == std::set<size_t>{512, 1024});
}

TEST_CASE("names that were not synced go in the reverse of their order") {
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Folder folder;
    UndoLog log(folder.aside());
    {
      File file(&log, folder.file("new"));
      log.Created(folder.file("new"));
    }
    std::ofstream(folder.file("old")) << "old";
    std::ofstream(folder.file("new")) << "new";
    REQUIRE(log.Rename(folder.file("new"), folder.file("old")) == 0);
    log.PowerCut(seed);
    seen.insert(Content(folder.file("old")) + "," + Content(folder.file("new")));
  }
  CHECK(seen == std::set<std::string>{"new,", "old,new", "old,"});
}

TEST_CASE("an unlink that was not synced may be taken back, with its data") {
  bool back = false;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Folder folder;
    UndoLog log(folder.aside());
    std::ofstream(folder.file("a")) << "data";
    REQUIRE(log.Unlink(folder.file("a")) == 0);
    log.PowerCut(seed);
    back |= Content(folder.file("a")) == "data";
  }
  CHECK(back);
}

}  // namespace tessera::faults
