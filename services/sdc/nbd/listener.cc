#include "services/sdc/nbd/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tessera::sdc::nbd {
namespace {

constexpr int kBacklog = 1024;

std::string ErrnoText(int error) { return std::strerror(error); }

uint16_t BoundPort(int descriptor) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

// Whether somebody accepts connections at this address.
bool IsAlive(const sockaddr_un& address) {
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) return true;
  const int result = ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const int error = errno;
  ::close(probe);
  // Anything but a plain refusal (a full backlog, no permission) may be a living server.
  return result == 0 || error != ECONNREFUSED;
}

absl::Status RemoveDeadSocket(const std::string& path, const sockaddr_un& address) {
  struct stat found {};
  if (::lstat(path.c_str(), &found) != 0) return absl::OkStatus();
  if (!S_ISSOCK(found.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("NBD socket ", path, ": the path exists and is no socket"));
  }
  if (IsAlive(address)) {
    return absl::AlreadyExistsError(
        absl::StrCat("NBD socket ", path, ": another server listens on it"));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return absl::UnavailableError(absl::StrCat("NBD socket ", path, ": ", ErrnoText(errno)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Listener> Listener::Tcp(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* addresses = nullptr;
  const std::string service = absl::StrCat(port);
  const int resolved =
      ::getaddrinfo(host.empty() ? nullptr : host.c_str(), service.c_str(), &hints, &addresses);
  if (resolved != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("NBD address ", host, ":", port, ": ", gai_strerror(resolved)));
  }
  const auto free_addresses = absl::MakeCleanup([addresses] { ::freeaddrinfo(addresses); });
  int error = EADDRNOTAVAIL;
  // A wildcard listens on IPv6 and by it on IPv4 too, so IPv6 goes first there.
  for (const int family : {AF_INET6, AF_INET}) {
    for (const addrinfo* it = addresses; it != nullptr; it = it->ai_next) {
      if (it->ai_family != family) continue;
      const int fd =
          ::socket(it->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, it->ai_protocol);
      if (fd < 0) {
        error = errno;
        continue;
      }
      const int on = 1;
      const int off = 0;
      ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
      if (family == AF_INET6) ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
      if (::bind(fd, it->ai_addr, it->ai_addrlen) == 0 && ::listen(fd, kBacklog) == 0) {
        return Listener(fd, BoundPort(fd));
      }
      error = errno;
      ::close(fd);
    }
  }
  return absl::UnavailableError(
      absl::StrCat("NBD address ", host, ":", port, ": ", ErrnoText(error)));
}

absl::StatusOr<Listener> Listener::Unix(const std::string& path, mode_t mode) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("NBD socket '", path, "': a path of 1 to ",
                                                   sizeof(address.sun_path) - 1,
                                                   " bytes is wanted"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (absl::Status status = RemoveDeadSocket(path, address); !status.ok()) return status;

  Listener listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), 0);
  const auto failed = [&path] {
    return absl::UnavailableError(absl::StrCat("NBD socket ", path, ": ", ErrnoText(errno)));
  };
  if (listener.descriptor_ < 0) return failed();
  // The mode is set on the socket before it is bound, so the path never has another one.
  if (::fchmod(listener.descriptor_, mode) != 0) return failed();
  if (::bind(listener.descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return failed();
  }
  struct stat made {};
  if (::lstat(path.c_str(), &made) != 0) return failed();
  listener.path_ = path;
  listener.path_device_ = made.st_dev;
  listener.path_inode_ = made.st_ino;
  // The process's umask may have taken bits away; nobody can connect before listen.
  if (::chmod(path.c_str(), mode) != 0) return failed();
  if (::listen(listener.descriptor_, kBacklog) != 0) return failed();
  return listener;
}

Listener::Listener(Listener&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      port_(other.port_),
      path_(std::exchange(other.path_, {})),
      path_device_(other.path_device_),
      path_inode_(other.path_inode_) {}

Listener::~Listener() {
  if (!path_.empty()) {
    struct stat found {};
    if (::lstat(path_.c_str(), &found) == 0 && found.st_dev == path_device_ &&
        found.st_ino == path_inode_) {
      ::unlink(path_.c_str());
    }
  }
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace tessera::sdc::nbd
