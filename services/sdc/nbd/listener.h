// Listening sockets of the NBD server: TCP and unix.
//
// Threads: one caller at a time.
#ifndef TESSERA_SERVICES_SDC_NBD_LISTENER_H_
#define TESSERA_SERVICES_SDC_NBD_LISTENER_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace tessera::sdc::nbd {

// A bound, listening, non-blocking socket. Closes itself, and removes its unix path if that is
// still the socket that it made.
class Listener {
 public:
  // Listens on a numeric or resolvable host ("" is every address) and port (0: any free one).
  // INVALID_ARGUMENT for a host that does not resolve, UNAVAILABLE when the address cannot be
  // bound.
  static absl::StatusOr<Listener> Tcp(const std::string& host, uint16_t port);

  // Listens on a unix path, made with exactly `mode`. A socket that nobody listens on any more is
  // replaced. ALREADY_EXISTS when somebody does, FAILED_PRECONDITION when the path is something
  // else than a socket, INVALID_ARGUMENT when it is too long.
  static absl::StatusOr<Listener> Unix(const std::string& path, mode_t mode);

  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  ~Listener();

  [[nodiscard]] int descriptor() const { return descriptor_; }
  [[nodiscard]] uint16_t port() const { return port_; }  // 0 for a unix socket

 private:
  Listener(int descriptor, uint16_t port) : descriptor_(descriptor), port_(port) {}

  int descriptor_;
  uint16_t port_;
  std::string path_;  // "" for TCP
  dev_t path_device_ = 0;
  ino_t path_inode_ = 0;
};

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_LISTENER_H_
