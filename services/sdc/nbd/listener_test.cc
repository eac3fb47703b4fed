#include "services/sdc/nbd/listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

namespace tessera::sdc::nbd {
namespace {

struct TemporaryFolder {
  TemporaryFolder() {
    char name[] = "/tmp/listener_test.XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::string path;
};

// A bound socket whose owner is gone.
void LeaveDeadSocket(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  ::close(fd);
}

mode_t ModeOf(const std::string& path) {
  struct stat found {};
  REQUIRE(::lstat(path.c_str(), &found) == 0);
  return found.st_mode & 07777;
}

TEST_CASE("Port 0 binds a free port and says which") {
  const auto first = Listener::Tcp("127.0.0.1", 0);
  const auto second = Listener::Tcp("127.0.0.1", 0);
  REQUIRE(first.ok());
  REQUIRE(second.ok());
  CHECK(first->port() != 0);
  CHECK(first->port() != second->port());
  CHECK(Listener::Tcp("127.0.0.1", first->port()).status().code() ==
        absl::StatusCode::kUnavailable);
}

TEST_CASE("Every address, and hosts that do not resolve") {
  CHECK(Listener::Tcp("", 0).ok());
  CHECK(Listener::Tcp("no such host.invalid", 0).status().code() ==
        absl::StatusCode::kInvalidArgument);
}

TEST_CASE(
    "A unix socket has the mode that was asked for, whatever the umask, and goes at the end") {
  const TemporaryFolder folder;
  const std::string path = folder.path + "/s";
  for (const mode_t mode : {0600, 0660, 0666}) {
    const mode_t before = ::umask(027);
    {
      const auto listener = Listener::Unix(path, mode);
      ::umask(before);
      REQUIRE(listener.ok());
      CHECK(ModeOf(path) == mode);
    }
    CHECK_FALSE(std::filesystem::exists(path));
  }
}

TEST_CASE("A dead socket is replaced, a living one is not") {
  const TemporaryFolder folder;
  const std::string path = folder.path + "/s";
  LeaveDeadSocket(path);
  const auto listener = Listener::Unix(path, 0600);
  REQUIRE(listener.ok());
  CHECK(Listener::Unix(path, 0600).status().code() == absl::StatusCode::kAlreadyExists);
  CHECK(std::filesystem::exists(path));
}

TEST_CASE("A path that is no socket, or too long, is left alone") {
  const TemporaryFolder folder;
  const std::string path = folder.path + "/file";
  std::ofstream(path) << "precious";
  CHECK(Listener::Unix(path, 0600).status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(std::filesystem::file_size(path) == 8);
  CHECK(Listener::Unix(std::string(200, 'x'), 0600).status().code() ==
        absl::StatusCode::kInvalidArgument);
  CHECK(Listener::Unix("", 0600).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Listener::Unix(folder.path + "/no/such/folder", 0600).status().code() ==
        absl::StatusCode::kUnavailable);
}

TEST_CASE("A path that somebody else has taken over meanwhile is not removed") {
  const TemporaryFolder folder;
  const std::string path = folder.path + "/s";
  {
    const auto listener = Listener::Unix(path, 0600);
    REQUIRE(listener.ok());
    std::filesystem::remove(path);
    std::ofstream(path) << "another";
  }
  CHECK(std::filesystem::exists(path));
}

}  // namespace
}  // namespace tessera::sdc::nbd
