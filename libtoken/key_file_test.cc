#include "libtoken/key_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "libtoken/token.h"

namespace tessera::token {
namespace {

Key KeyOf(uint8_t fill) {
  Key key;
  key.fill(fill);
  return key;
}

KeyFile TwoKeys() { return {.active_key_id = 2, .keys = {{1, KeyOf(1)}, {2, KeyOf(2)}}}; }
KeyFile ThreeKeys() {
  return {.active_key_id = 3, .keys = {{1, KeyOf(1)}, {2, KeyOf(2)}, {3, KeyOf(3)}}};
}
bool Same(const KeyFile& a, const KeyFile& b) {
  return a.active_key_id == b.active_key_id && a.keys == b.keys;
}

// A folder of its own with a path for a key file in it.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "token_test.XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    folder_ = pattern;
  }
  ~Folder() { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string path() const { return folder_ + "/keys"; }
  [[nodiscard]] std::string Contents() const {
    std::ifstream file(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  void Put(const std::string& contents) const {
    std::ofstream(path(), std::ios::binary)
        .write(contents.data(), static_cast<std::streamsize>(contents.size()));
    REQUIRE(::chmod(path().c_str(), 0600) == 0);
  }
  [[nodiscard]] absl::StatusCode LoadCode() const { return LoadKeyFile(path()).status().code(); }

 private:
  std::string folder_;
};

// The real system, which notes its calls and fails the Nth of them.
class FaultySystem final : public KeyFileSystem {
 public:
  int Open(const std::string& path, int flags, mode_t mode) override {
    return Fails("open") ? -1 : real_.Open(path, flags, mode);
  }
  int Close(int descriptor) override {
    const bool fails = Fails("close");
    const int result = real_.Close(descriptor);  // a failed close closes, too
    if (fails) errno = EIO;
    return fails ? -1 : result;
  }
  int Stat(int descriptor, struct stat* out) override {
    if (Fails("stat")) return -1;
    const int result = real_.Stat(descriptor, out);
    if (owner != 0) out->st_uid = owner;
    return result;
  }
  int ChangeMode(int descriptor, mode_t mode) override {
    return Fails("chmod") ? -1 : real_.ChangeMode(descriptor, mode);
  }
  ssize_t Read(int descriptor, void* out, size_t bytes) override {
    return Fails("read") ? -1 : real_.Read(descriptor, out, std::min(bytes, piece_bytes));
  }
  ssize_t Write(int descriptor, const void* data, size_t bytes) override {
    return Fails("write") ? -1 : real_.Write(descriptor, data, std::min(bytes, piece_bytes));
  }
  int Sync(int descriptor) override {
    struct stat info = {};
    REQUIRE(real_.Stat(descriptor, &info) == 0);
    return Fails(S_ISDIR(info.st_mode) ? "fsync folder" : "fsync file") ? -1
                                                                        : real_.Sync(descriptor);
  }
  int Rename(const std::string& from, const std::string& to) override {
    return Fails("rename") ? -1 : real_.Rename(from, to);
  }
  int Unlink(const std::string& path) override { return Fails("unlink") ? -1 : real_.Unlink(path); }

  int fail_at = 0;  // the call of this number fails, counted from 1; 0: none
  int error = EIO;
  bool crash = false;  // all calls after it fail, too
  uid_t owner = 0;
  size_t piece_bytes = 1 << 20;
  std::vector<std::string> calls;

 private:
  bool Fails(const char* call) {
    calls.emplace_back(call);
    const int number = static_cast<int>(calls.size());
    const bool fails = fail_at != 0 && (number == fail_at || (crash && number > fail_at));
    if (fails) errno = error;
    return fails;
  }

  PosixKeyFileSystem real_;
};

TEST_CASE("A saved key file comes back with mode 0600, whatever the umask") {
  const Folder folder;
  const mode_t before = ::umask(GENERATE(0000, 0022, 0777));
  const absl::Status status = SaveKeyFile(folder.path(), TwoKeys());
  ::umask(before);
  REQUIRE(status.ok());
  struct stat info = {};
  REQUIRE(::stat(folder.path().c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0600);
  const auto keys = LoadKeyFile(folder.path());
  REQUIRE(keys.ok());
  CHECK(Same(*keys, TwoKeys()));
}

TEST_CASE("A key file that anybody else may touch is refused") {
  const Folder folder;
  REQUIRE(SaveKeyFile(folder.path(), TwoKeys()).ok());
  for (const mode_t mode : {0640, 0604, 0660, 0610, 0601, 0602, 0644, 0700, 04600, 0666}) {
    REQUIRE(::chmod(folder.path().c_str(), mode) == 0);
    CAPTURE(mode);
    CHECK(folder.LoadCode() == absl::StatusCode::kPermissionDenied);
  }
  REQUIRE(::chmod(folder.path().c_str(), 0400) == 0);
  CHECK(LoadKeyFile(folder.path()).ok());
}

TEST_CASE("A key file of another user is refused") {
  const Folder folder;
  REQUIRE(SaveKeyFile(folder.path(), TwoKeys()).ok());
  FaultySystem system;
  system.owner = ::geteuid() + 1;
  CHECK(LoadKeyFileFrom(system, folder.path()).status().code() ==
        absl::StatusCode::kPermissionDenied);
}

TEST_CASE("What is no regular file is refused without waiting for it") {
  const Folder folder;
  CHECK(folder.LoadCode() == absl::StatusCode::kNotFound);
  REQUIRE(::mkfifo(folder.path().c_str(), 0600) == 0);
  CHECK(folder.LoadCode() == absl::StatusCode::kFailedPrecondition);
  REQUIRE(::unlink(folder.path().c_str()) == 0);
  REQUIRE(::mkdir(folder.path().c_str(), 0600) == 0);
  CHECK(folder.LoadCode() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("A key file torn at any byte, or with any bit flipped, is refused") {
  const Folder folder;
  const std::string bytes = EncodeKeyFile(TwoKeys());
  for (size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    CHECK(DecodeKeyFile(bytes.substr(0, length)).status().code() == absl::StatusCode::kDataLoss);
  }
  CHECK(DecodeKeyFile(bytes + '\0').status().code() == absl::StatusCode::kDataLoss);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string altered = bytes;
    altered[bit / 8] = static_cast<char>(altered[bit / 8] ^ (1 << (bit % 8)));
    CAPTURE(bit);
    const absl::StatusCode code = DecodeKeyFile(altered).status().code();
    const bool in_version = bit / 8 >= 8 && bit / 8 < 12;
    CHECK(code == (in_version ? absl::StatusCode::kUnimplemented : absl::StatusCode::kDataLoss));
  }
  folder.Put(bytes.substr(0, 50));
  CHECK(folder.LoadCode() == absl::StatusCode::kDataLoss);
  folder.Put(std::string(20000, 'x'));
  CHECK(folder.LoadCode() == absl::StatusCode::kDataLoss);
  folder.Put(bytes);
  CHECK(LoadKeyFile(folder.path()).ok());
}

TEST_CASE("A set of keys that makes no sense is neither saved nor loaded") {
  const Folder folder;
  REQUIRE(SaveKeyFile(folder.path(), TwoKeys()).ok());
  KeyFile many{.active_key_id = 0, .keys = {}};
  for (uint32_t id = 0; id <= kKeyFileKeysMax; ++id) many.keys.emplace_back(id, KeyOf(1));
  const KeyFile wrongs[] = {KeyFile{},
                            {.active_key_id = 3, .keys = {{1, KeyOf(1)}}},
                            {.active_key_id = 1, .keys = {{1, KeyOf(1)}, {1, KeyOf(2)}}},
                            many};
  for (const KeyFile& wrong : wrongs) {
    CHECK(SaveKeyFile(folder.path(), wrong).code() == absl::StatusCode::kInvalidArgument);
    CHECK_FALSE(DecodeKeyFile(EncodeKeyFile(wrong)).ok());
  }
  many.keys.pop_back();
  CHECK(SaveKeyFile(folder.path(), many).ok());
  CHECK(LoadKeyFile(folder.path()).ok());
}

TEST_CASE("The new file is whole and on disk before it takes the name, and the name before OK") {
  const Folder folder;
  FaultySystem system;
  REQUIRE(SaveKeyFileTo(system, folder.path(), TwoKeys()).ok());
  CHECK(system.calls == std::vector<std::string>{"open", "unlink", "open", "chmod", "write",
                                                 "fsync file", "close", "rename", "fsync folder",
                                                 "close"});
}

TEST_CASE("Whatever call of a save fails or is the last, the file is the old one or the new one") {
  const bool crash = GENERATE(false, true);
  bool done = false;
  for (int fail_at = 1; !done; ++fail_at) {
    REQUIRE(fail_at < 100);
    CAPTURE(crash, fail_at);
    const Folder folder;
    REQUIRE(SaveKeyFile(folder.path(), TwoKeys()).ok());
    FaultySystem system;
    system.piece_bytes = 40;  // several writes
    system.fail_at = fail_at;
    system.crash = crash;
    const absl::Status status = SaveKeyFileTo(system, folder.path(), ThreeKeys());
    done = static_cast<int>(system.calls.size()) < fail_at;
    const auto keys = LoadKeyFile(folder.path());
    REQUIRE(keys.ok());
    const bool renamed = Same(*keys, ThreeKeys());
    CHECK((renamed || Same(*keys, TwoKeys())));
    if (status.ok()) CHECK(renamed);
    // The one failure that changes nothing is that of closing the folder, after all is done.
    if (!done && system.calls[static_cast<size_t>(fail_at) - 1] != "close")
      CHECK_FALSE(status.ok());
    // The next save succeeds, whatever was left lying.
    CHECK(SaveKeyFile(folder.path(), ThreeKeys()).ok());
    CHECK_FALSE(std::filesystem::exists(folder.path() + ".new"));
  }
}

TEST_CASE("An interrupted call of a save is made again, an interrupted fsync is an error") {
  const Folder folder;
  FaultySystem probe;
  REQUIRE(SaveKeyFileTo(probe, folder.path(), TwoKeys()).ok());
  for (size_t i = 0; i < probe.calls.size(); ++i) {
    const std::string& call = probe.calls[i];
    if (call != "open" && call != "write" && call != "fsync file") continue;
    CAPTURE(i, call);
    FaultySystem system;
    system.fail_at = static_cast<int>(i) + 1;
    system.error = EINTR;
    CHECK(SaveKeyFileTo(system, folder.path(), TwoKeys()).ok() == (call != "fsync file"));
  }
}

TEST_CASE("Whatever call of a load fails, it is an error and never a part of the keys") {
  const Folder folder;
  REQUIRE(SaveKeyFile(folder.path(), TwoKeys()).ok());
  bool done = false;
  for (int fail_at = 1; !done; ++fail_at) {
    REQUIRE(fail_at < 100);
    CAPTURE(fail_at);
    FaultySystem system;
    system.piece_bytes = 30;  // several reads
    system.fail_at = fail_at;
    const auto keys = LoadKeyFileFrom(system, folder.path());
    done = static_cast<int>(system.calls.size()) < fail_at;
    const bool harmless = done || system.calls[static_cast<size_t>(fail_at) - 1] == "close";
    CHECK(keys.ok() == harmless);
    if (keys.ok()) CHECK(Same(*keys, TwoKeys()));
  }
}

TEST_CASE("No key's bytes are in an error message") {
  const Folder folder;
  const KeyFile wrong{.active_key_id = 9, .keys = {{1, KeyOf('K')}}};
  const absl::Status status = SaveKeyFile(folder.path(), wrong);
  CHECK(std::string(status.message()).find("KK") == std::string::npos);
  CHECK_FALSE(SaveKeyFile(folder.path() + "/none/keys", TwoKeys()).ok());
}

}  // namespace
}  // namespace tessera::token
